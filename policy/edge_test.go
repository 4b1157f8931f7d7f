package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/policy"
)

func TestEdgesAreDistinct(t *testing.T) {
	backend := func(name, namespace string) gwv1.HTTPBackendRef {
		ref := gwv1.BackendObjectReference{Name: gwv1.ObjectName(name)}
		if namespace != "" {
			ref.Namespace = new(gwv1.Namespace(namespace))
		}
		return gwv1.HTTPBackendRef{BackendRef: gwv1.BackendRef{BackendObjectReference: ref}}
	}
	route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "r"}}
	route.Spec.Rules = []gwv1.HTTPRouteRule{
		{BackendRefs: []gwv1.HTTPBackendRef{backend("b", "team-b"), backend("local", ""), backend("local", "aibrix-system"), backend("b", "team-b")}},
		{BackendRefs: []gwv1.HTTPBackendRef{backend("a", "team-a"), backend("b", "team-b")}},
	}
	edge := func(namespace, name string) policy.Edge {
		return policy.Edge{Origin: "aibrix-system", FromKind: policy.HTTPRoute, FromNamespace: "aibrix-system", Namespace: namespace, Kind: "Service", Name: name}
	}
	require.Equal(t, []policy.Edge{edge("team-b", "b"), edge("team-a", "a")}, plain.Edges(routeOf(t, route)))
	route.Labels = map[string]string{policy.ManagedByLabel: policy.ManagedBy}
	require.Nil(t, plain.Edges(routeOf(t, route)), "a relocated copy stands on the edges of its source")
}

func TestGrantNamesShowShortNames(t *testing.T) {
	name := func(target string) string {
		hashed := policy.Edge{Namespace: "team-a", Kind: "Service", Name: target}.GrantName()
		return hashed[:len(hashed)-16]
	}
	require.Equal(t, "routewarden-llama-", name("llama"))
	longest := strings.Repeat("x", 32)
	require.Equal(t, "routewarden-"+longest+"-", name(longest))
	require.Equal(t, "routewarden-", name(longest+"x"))
	require.Equal(t, "routewarden-", name("a.b"))
	require.Equal(t, "routewarden-", name(""))
}

func TestEdgeInWords(t *testing.T) {
	e := policy.Edge{Origin: "team-a", FromKind: policy.GRPCRoute, FromNamespace: "aibrix-system", Namespace: "models", Group: "example.org", Kind: "Pool", Name: "x"}
	require.Equal(t, `GRPCRoutes in "aibrix-system" that come from "team-a" may refer to Pool.example.org "x" in "models"`, e.String())
	e.Origin, e.Group, e.Name = e.FromNamespace, "", ""
	require.Equal(t, `GRPCRoutes in "aibrix-system" may refer to every Pool in "models"`, e.String())
}

// A grant that is not exactly what routewarden made for an edge records nothing.
func TestRecords(t *testing.T) {
	e := policy.Edge{Origin: "team-a", FromKind: policy.HTTPRoute, FromNamespace: "aibrix-system", Namespace: "models", Kind: "Service", Name: "llama"}
	require.True(t, policy.Records(e.Grant("x"), e))
	require.False(t, policy.Records(nil, e))
	for name, change := range map[string]func(*gwv1.ReferenceGrant){
		"being deleted":     func(g *gwv1.ReferenceGrant) { g.DeletionTimestamp = new(metav1.Unix(1, 0)) },
		"another namespace": func(g *gwv1.ReferenceGrant) { g.Namespace = "other" },
		"not managed":       func(g *gwv1.ReferenceGrant) { delete(g.Labels, policy.ManagedByLabel) },
		"another origin":    func(g *gwv1.ReferenceGrant) { g.Labels[policy.OriginLabel] = "team-b" },
		"another target":    func(g *gwv1.ReferenceGrant) { g.Spec.To[0].Name = nil },
		"one target more":   func(g *gwv1.ReferenceGrant) { g.Spec.To = slices.Repeat(g.Spec.To, 2) },
		"another name":      func(g *gwv1.ReferenceGrant) { g.Name += "x" },
	} {
		grant := e.Grant("x")
		change(grant)
		require.False(t, policy.Records(grant, e), name)
	}
	other := e.Grant("x")
	other.Annotations = nil
	require.True(t, policy.Records(other, e), "annotations are words")
}

// The reconcilers read from a refusal whether there is a namespace to make a grant in.
func TestRefusedEdgesOfNamespacesThatAreGone(t *testing.T) {
	e := policy.Edge{Origin: "team-a", FromKind: policy.HTTPRoute, FromNamespace: "aibrix-system", Namespace: "models", Kind: "Service", Name: "llama"}
	facts := func(namespace policy.NamespaceFacts) policy.Snapshot {
		return policy.Snapshot{Namespaces: map[string]policy.NamespaceFacts{"models": namespace}, Grants: map[string][]*gwv1.ReferenceGrant{}}
	}
	for name, tc := range map[string]struct {
		facts policy.NamespaceFacts
		want  policy.Judgement
	}{
		"there":               {policy.NamespaceFacts{Exists: policy.Yes}, policy.Judgement{Outcome: policy.Refused}},
		"missing":             {policy.NamespaceFacts{Exists: policy.No}, policy.Judgement{Outcome: policy.Refused, Gone: true}},
		"terminating":         {policy.NamespaceFacts{Exists: policy.Yes, Terminating: true}, policy.Judgement{Outcome: policy.Refused, Gone: true}},
		"terminating, allows": {policy.NamespaceFacts{Exists: policy.Yes, Terminating: true, Grants: policy.GrantsAllow}, policy.Judgement{Outcome: policy.Refused, Consent: policy.ConsentLabel, Gone: true}},
		"allows":              {policy.NamespaceFacts{Exists: policy.Yes, Grants: policy.GrantsAllow}, policy.Judgement{Outcome: policy.Grantable, Consent: policy.ConsentLabel}},
		"vetoes":              {policy.NamespaceFacts{Exists: policy.Yes, Grants: policy.GrantsDeny}, policy.Judgement{Outcome: policy.Vetoed}},
		"unknown":             {policy.NamespaceFacts{}, policy.Judgement{Outcome: policy.Undecided, Missing: policy.Fact{Kind: policy.FactNamespace, Namespace: "models"}}},
	} {
		require.Equal(t, tc.want, plain.Judge(e, facts(tc.facts), false), name)
	}
	require.Equal(t, policy.Judgement{Outcome: policy.Undecided, Missing: policy.Fact{Kind: policy.FactGrants, Namespace: "models"}},
		plain.Judge(e, policy.Snapshot{Namespaces: map[string]policy.NamespaceFacts{"models": {Exists: policy.Yes}}}, false))
}
