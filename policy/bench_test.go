package policy_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

// evaluation is a request whose cost is watched.
type evaluation struct {
	name    string
	object  *gwv1.HTTPRoute
	update  bool
	allowed bool
	// allocations are the most that evaluating it may take.
	allocations float64
}

// evaluations returns them, and what evaluates each.
func evaluations(t testing.TB) ([]evaluation, func(evaluation) func() policy.Decision) {
	consenting := policy.NamespaceFacts{Exists: policy.Yes, Grants: policy.GrantsAllow}
	facts := policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{"aibrix-system": {Exists: policy.Yes}, "team-a": {Exists: policy.Yes}, "models": consenting},
		Gateways:   map[string]bool{"aibrix-system/aibrix-eg": true},
		Grants:     map[string][]*gwv1.ReferenceGrant{},
		Writers:    map[string]bool{},
	}
	granted := policytest.Wide(1, 1, 0, "models")
	route, _ := policy.RouteOf(granted)
	for _, edge := range plain.Edges(route) {
		facts.Grants["models"] = append(facts.Grants["models"], edge.Grant(string(policy.ConsentByRequester)))
	}
	outside := policytest.Wide(1, 1, 0, "")
	outside.Namespace = "team-a"
	outside.Spec.ParentRefs[0].Namespace = new(gwv1.Namespace("aibrix-system"))

	p := newPolicy(t, policy.DefaultConfig())
	return []evaluation{
			{name: "local", object: policytest.Wide(1, 1, 0, ""), allowed: true, allocations: 8},
			{name: "outside", object: outside, allocations: 24},
			{name: "granted", object: granted, allowed: true, allocations: 11},
			{name: "to-grant", object: policytest.Wide(1, 2, 0, "models"), allowed: true, allocations: 14},
			{name: "denied", object: policytest.Wide(1, 1, 0, "team-a"), allocations: 20},
			{name: "16x16-local", object: policytest.Wide(16, 16, 0, ""), allowed: true, allocations: 8},
			{name: "16x16-to-grant", object: policytest.Wide(16, 16, 0, "models"), allowed: true, allocations: 320},
			{name: "16x16-denied", object: policytest.Wide(16, 16, 0, "team-a"), allocations: 2600},
			{name: "16x16x16-to-grant-update", object: policytest.Wide(16, 16, 16, "models"), update: true, allowed: true, allocations: 4750},
		}, func(e evaluation) func() policy.Decision {
			req := policy.Request{
				Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: e.object.Namespace,
				User: policy.User{Name: policytest.User}, Object: e.object,
			}
			if e.update {
				req.Operation, req.OldObject = policy.Update, e.object.DeepCopy()
			}
			return func() policy.Decision { return p.Evaluate(req, facts) }
		}
}

func BenchmarkEvaluate(b *testing.B) {
	all, prepare := evaluations(b)
	for _, e := range all {
		b.Run(e.name, func(b *testing.B) {
			evaluate := prepare(e)
			require.Equal(b, e.allowed, evaluate().Allowed)
			b.ReportAllocs()
			for b.Loop() {
				evaluate()
			}
		})
	}
}

func TestAllocations(t *testing.T) {
	all, prepare := evaluations(t)
	for _, e := range all {
		t.Run(e.name, func(t *testing.T) {
			evaluate := prepare(e)
			require.Equal(t, e.allowed, evaluate().Allowed)
			policytest.AllocatesAtMost(t, e.allocations, func() { evaluate() })
		})
	}
	for name, most := range map[string]float64{
		"cross-namespace-reference/relocated-grants-required":  140,
		"managed-object-changed/copy-edited":                   35,
		"route-cannot-be-relocated/relocated":                  130,
		"route-cannot-be-relocated/extension-ref-parked-again": 211,
	} {
		t.Run(name, func(t *testing.T) {
			cases, err := policytest.Load("testdata/cases")
			require.NoError(t, err)
			i := slices.IndexFunc(cases, func(c policytest.Case) bool { return c.Name == name })
			require.GreaterOrEqual(t, i, 0)
			p, facts := newPolicy(t, cases[i].Config), cases[i].Facts()
			policytest.AllocatesAtMost(t, most, func() {
				if _, _, err := p.Admit(cases[i].Request, facts); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
