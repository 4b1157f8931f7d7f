package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/policy"
)

func TestGoverns(t *testing.T) {
	config := policy.DefaultConfig()
	config.Kinds, config.ExemptNamespaces = []policy.Kind{policy.HTTPRoute}, []string{"kube-system"}
	p := newPolicy(t, config)
	parent := func(name, namespace string) gwv1.ParentReference {
		ref := gwv1.ParentReference{Name: gwv1.ObjectName(name)}
		if namespace != "" {
			ref.Namespace = new(gwv1.Namespace(namespace))
		}
		return ref
	}
	direct, elsewhere, implicit := parent("aibrix-eg", "aibrix-system"), parent("x", "infra"), parent("mine", "")
	known := policy.Snapshot{Gateways: map[string]bool{"aibrix-system/mine": true}}
	for name, tc := range map[string]struct {
		namespace   string
		annotations map[string]string
		parents     []gwv1.ParentReference
		facts       policy.Facts
		want        policy.Answer
	}{
		"direct":                      {"team-a", nil, []gwv1.ParentReference{elsewhere, direct}, known, policy.Yes},
		"elsewhere":                   {"team-a", nil, []gwv1.ParentReference{elsewhere}, known, policy.No},
		"no parents":                  {"team-a", nil, nil, known, policy.No},
		"misdirected":                 {"team-a", nil, []gwv1.ParentReference{implicit}, known, policy.Yes},
		"unknown":                     {"team-a", nil, []gwv1.ParentReference{implicit, elsewhere}, policy.Snapshot{}, policy.Unknown},
		"unknown, and direct":         {"team-a", nil, []gwv1.ParentReference{implicit, direct}, policy.Snapshot{}, policy.Yes},
		"direct, and unknown":         {"team-a", nil, []gwv1.ParentReference{direct, implicit}, policy.Snapshot{}, policy.Yes},
		"parked":                      {"team-a", map[string]string{policy.ParkedAnnotation: parkedOnce}, nil, known, policy.Yes},
		"parked, exempt":              {"kube-system", map[string]string{policy.ParkedAnnotation: parkedOnce}, nil, known, policy.No},
		"annotated, and not readable": {"team-a", map[string]string{policy.ParkedAnnotation: "x"}, []gwv1.ParentReference{elsewhere}, known, policy.No},
		"exempt":                      {"kube-system", nil, []gwv1.ParentReference{direct}, known, policy.No},
		"in the system namespace":     {"aibrix-system", nil, []gwv1.ParentReference{implicit}, policy.Snapshot{}, policy.Yes},
	} {
		meta := metav1.ObjectMeta{Namespace: tc.namespace, Name: "r", Annotations: tc.annotations}
		route := &gwv1.HTTPRoute{ObjectMeta: meta, Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: tc.parents}}}
		require.Equal(t, tc.want, p.Governs(routeOf(t, route), tc.facts), name)
		require.Equal(t, p.Governs(routeOf(t, route), policy.Snapshot{}) != policy.No, p.MayGovern(routeOf(t, route)), name)
		grpc := &gwv1.GRPCRoute{ObjectMeta: meta, Spec: gwv1.GRPCRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: tc.parents}}}
		require.Equal(t, policy.No, p.Governs(routeOf(t, grpc), tc.facts), "%s: a kind that is not judged", name)
		require.False(t, p.MayGovern(routeOf(t, grpc)))
	}
	all := config
	all.Scope = policy.ScopeAll
	route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a"}, Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{implicit}}}}
	require.Equal(t, policy.Yes, newPolicy(t, all).Governs(routeOf(t, route), policy.Snapshot{}))
}

// The API server tells the names of conditions in errors and metrics.
func TestNamesOfConditions(t *testing.T) {
	config := policy.DefaultConfig()
	config.Kinds, config.Self, config.ExemptGroups, config.ExemptNamespaces = []policy.Kind{policy.HTTPRoute}, "self", []string{"g"}, []string{"kube-system"}
	p := newPolicy(t, config)
	exempt := []string{"not-being-deleted", "not-an-exempt-user", "not-in-an-exempt-group"}
	names := func(kind policy.Kind) (names []string) {
		for _, condition := range p.MatchConditions(kind) {
			names = append(names, condition.Name)
		}
		return names
	}
	route := append(append([]string{}, exempt...), "not-in-an-exempt-namespace", "judged-kind", "needs-a-decision")
	require.Equal(t, route, names(policy.HTTPRoute))
	require.Equal(t, route, names(policy.GRPCRoute))
	require.Equal(t, append(append([]string{}, exempt...), "not-in-an-exempt-namespace", "governed-class-outside"), names(policy.Gateway))
	require.Equal(t, append(append([]string{}, exempt...), "managed-by-routewarden"), names(policy.ReferenceGrant))
	last := p.MutatingConditions()[5]
	require.Equal(t, "may-be-relocated", last.Name)
}
