package policy_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/policy/golden"
	"github.com/routewarden/routewarden/policy/random"
)

var fuzzKinds = []policy.Kind{policy.HTTPRoute, policy.GRPCRoute, policy.Gateway, policy.ReferenceGrant}

// decodeAs reads JSON as an object of a kind. What does not fit leaves the rest as it is, as a lenient client might.
func decodeAs(kind policy.Kind, data []byte) runtime.Object {
	var object runtime.Object
	switch kind {
	case policy.HTTPRoute:
		object = &gwv1.HTTPRoute{}
	case policy.GRPCRoute:
		object = &gwv1.GRPCRoute{}
	case policy.Gateway:
		object = &gwv1.Gateway{}
	case policy.ReferenceGrant:
		object = &gwv1.ReferenceGrant{}
	}
	_ = json.Unmarshal(data, object)
	return object
}

// FuzzEvaluate evaluates objects that no API server has validated. The lowest two bits of the selector choose the kind,
// the next one an update, the others the policy and the facts.
func FuzzEvaluate(f *testing.F) {
	cases, err := golden.Load("testdata/cases")
	require.NoError(f, err)
	for _, c := range cases {
		object, err := json.Marshal(c.Object)
		require.NoError(f, err)
		old := []byte("{}")
		var selector byte
		for i, kind := range fuzzKinds {
			if kind == c.Request.Kind {
				selector = byte(i)
			}
		}
		if c.Request.OldObject != nil {
			selector |= 4
			old, err = json.Marshal(c.Request.OldObject)
			require.NoError(f, err)
		}
		f.Add(selector, object, old)
		f.Add(selector|0xa0, object, old)
	}
	f.Fuzz(func(t *testing.T, selector byte, object, old []byte) {
		kind := fuzzKinds[selector&3]
		s := random.New(uint64(selector >> 3))
		req := policy.Request{
			Operation: policy.Create, Kind: kind, Namespace: random.OneOf(s, random.Namespaces...),
			User: policy.User{Name: golden.User}, Object: decodeAs(kind, object),
		}
		if selector&4 != 0 {
			req.Operation, req.OldObject = policy.Update, decodeAs(kind, old)
		}
		p := newPolicy(t, s.Config())
		facts := s.Facts()
		requireSound(t, p, req, p.Evaluate(req, facts))
		requireSound(t, p, req, p.Evaluate(req, policy.Snapshot{}))
		requireSound(t, p, req, p.Evaluate(req, mask(s, facts)))
		if route, ok := policy.RouteOf(req.Object); ok {
			p.MayGovern(route)
			p.Governs(route, facts)
		}
	})
}
