package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/policy/golden"
	"github.com/routewarden/routewarden/policy/random"
)

func BenchmarkEvaluate(b *testing.B) {
	consenting := policy.NamespaceFacts{Exists: policy.Yes, Grants: policy.GrantsAllow}
	facts := policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{"aibrix-system": {Exists: policy.Yes}, "team-a": {Exists: policy.Yes}, "models": consenting},
		Gateways:   map[string]bool{"aibrix-system/aibrix-eg": true},
		Grants:     map[string][]*gwv1.ReferenceGrant{},
		Writers:    map[string]bool{},
	}
	granted := random.Wide(1, 1, 0, "models")
	route, _ := policy.RouteOf(granted)
	for _, edge := range plain.Edges(route) {
		facts.Grants["models"] = append(facts.Grants["models"], edge.Grant(string(policy.ConsentByRequester)))
	}
	outside := random.Wide(1, 1, 0, "")
	outside.Namespace = "team-a"
	outside.Spec.ParentRefs[0].Namespace = new(gwv1.Namespace("aibrix-system"))

	for _, bm := range []struct {
		name    string
		object  *gwv1.HTTPRoute
		update  bool
		allowed bool
	}{
		{name: "local", object: random.Wide(1, 1, 0, ""), allowed: true},
		{name: "outside", object: outside},
		{name: "granted", object: granted, allowed: true},
		{name: "to-grant", object: random.Wide(1, 2, 0, "models"), allowed: true},
		{name: "denied", object: random.Wide(1, 1, 0, "team-a")},
		{name: "16x16-local", object: random.Wide(16, 16, 0, ""), allowed: true},
		{name: "16x16-to-grant", object: random.Wide(16, 16, 0, "models"), allowed: true},
		{name: "16x16-denied", object: random.Wide(16, 16, 0, "team-a")},
		{name: "16x16x16-to-grant-update", object: random.Wide(16, 16, 16, "models"), update: true, allowed: true},
	} {
		b.Run(bm.name, func(b *testing.B) {
			p := newPolicy(b, policy.DefaultConfig())
			req := policy.Request{
				Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: bm.object.Namespace,
				User: policy.User{Name: golden.User}, Object: bm.object,
			}
			if bm.update {
				req.Operation, req.OldObject = policy.Update, bm.object.DeepCopy()
			}
			require.Equal(b, bm.allowed, p.Evaluate(req, facts).Allowed)
			b.ReportAllocs()
			for b.Loop() {
				p.Evaluate(req, facts)
			}
		})
	}
}
