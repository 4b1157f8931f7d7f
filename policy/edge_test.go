package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
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
	require.Nil(t, plain.Edges(routeOf(t, route)), "a relocated copy has the edges of its source")
}

func TestGrantNamesShowShortNames(t *testing.T) {
	name := func(target string) string {
		hashed := policy.Edge{Namespace: "team-a", Kind: "Service", Name: target}.GrantName()
		return hashed[:len(hashed)-16]
	}
	require.Equal(t, "routesteward-llama-", name("llama"))
	longest := strings.Repeat("x", 32)
	require.Equal(t, "routesteward-"+longest+"-", name(longest))
	require.Equal(t, "routesteward-", name(longest+"x"))
	require.Equal(t, "routesteward-", name("a.b"))
	require.Equal(t, "routesteward-", name(""))
}

func TestEdgeInWords(t *testing.T) {
	e := policy.Edge{Origin: "team-a", FromKind: policy.GRPCRoute, FromNamespace: "aibrix-system", Namespace: "models", Group: "example.org", Kind: "Pool", Name: "x"}
	require.Equal(t, `GRPCRoutes in "aibrix-system" that come from "team-a" may refer to Pool.example.org "x" in "models"`, e.String())
	e.Origin, e.Group, e.Name = e.FromNamespace, "", ""
	require.Equal(t, `GRPCRoutes in "aibrix-system" may refer to every Pool in "models"`, e.String())
}

// A grant that is not exactly what routesteward made for an edge records nothing.
func TestRecords(t *testing.T) {
	e := policy.Edge{Origin: "team-a", FromKind: policy.HTTPRoute, FromNamespace: "aibrix-system", Namespace: "models", Kind: "Service", Name: "llama"}
	require.True(t, policy.Records(e.Grant("x"), e))
	require.False(t, policy.Records(nil, e))
	for name, change := range map[string]func(*gwv1.ReferenceGrant){
		"being deleted":     func(g *gwv1.ReferenceGrant) { g.DeletionTimestamp = new(metav1.Unix(1, 0)) },
		"another namespace": func(g *gwv1.ReferenceGrant) { g.Namespace = "other" },
		"not managed":       func(g *gwv1.ReferenceGrant) { delete(g.Labels, policy.ManagedByLabel) },
		"another origin":    func(g *gwv1.ReferenceGrant) { g.Labels[policy.OriginLabel] = "team-b" },
		"another target":    func(g *gwv1.ReferenceGrant) { g.Spec.To[0].Name = new(gwv1.ObjectName("qwen")) },
		"any target":        func(g *gwv1.ReferenceGrant) { g.Spec.To[0].Name = nil },
		"another group":     func(g *gwv1.ReferenceGrant) { g.Spec.To[0].Group = "example.org" },
		"another kind":      func(g *gwv1.ReferenceGrant) { g.Spec.To[0].Kind = "Pool" },
		"one target more":   func(g *gwv1.ReferenceGrant) { g.Spec.To = slices.Repeat(g.Spec.To, 2) },
		"no target":         func(g *gwv1.ReferenceGrant) { g.Spec.To = nil },
		"from two":          func(g *gwv1.ReferenceGrant) { g.Spec.From = slices.Repeat(g.Spec.From, 2) },
		"from nobody":       func(g *gwv1.ReferenceGrant) { g.Spec.From = nil },
		"from others":       func(g *gwv1.ReferenceGrant) { g.Spec.From[0].Namespace = "team-b" },
		"from another kind": func(g *gwv1.ReferenceGrant) { g.Spec.From[0].Kind = "GRPCRoute" },
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
		want  policy.EdgeDecision
	}{
		"there":               {policy.NamespaceFacts{Exists: policy.Yes}, policy.EdgeDecision{Outcome: policy.Refused}},
		"missing":             {policy.NamespaceFacts{Exists: policy.No}, policy.EdgeDecision{Outcome: policy.Refused, Gone: true}},
		"terminating":         {policy.NamespaceFacts{Exists: policy.Yes, Terminating: true}, policy.EdgeDecision{Outcome: policy.Refused, Gone: true}},
		"terminating, allows": {policy.NamespaceFacts{Exists: policy.Yes, Terminating: true, Grants: policy.GrantsAllow}, policy.EdgeDecision{Outcome: policy.Refused, Consent: policy.ConsentLabel, Gone: true}},
		"allows":              {policy.NamespaceFacts{Exists: policy.Yes, Grants: policy.GrantsAllow}, policy.EdgeDecision{Outcome: policy.Grantable, Consent: policy.ConsentLabel, Grant: e.GrantName()}},
		"vetoes":              {policy.NamespaceFacts{Exists: policy.Yes, Grants: policy.GrantsDeny}, policy.EdgeDecision{Outcome: policy.Vetoed}},
		"unknown":             {policy.NamespaceFacts{}, policy.EdgeDecision{Outcome: policy.Undecided, Missing: policy.Fact{Kind: policy.FactNamespace, Namespace: "models"}}},
	} {
		require.Equal(t, tc.want, plain.EvaluateEdge(e, facts(tc.facts), false), name)
	}
	// Who might write the grant is asked only where one would be made.
	requiring := policy.DefaultConfig()
	requiring.Grants = policy.GrantsRequire
	require.Equal(t, policy.EdgeDecision{Outcome: policy.Refused}, newPolicy(t, requiring).EvaluateEdge(e, facts(policy.NamespaceFacts{Exists: policy.Yes}), true))
	require.Equal(t, policy.EdgeDecision{Outcome: policy.Undecided, Missing: policy.Fact{Kind: policy.FactAccess, Namespace: "models"}},
		plain.EvaluateEdge(e, facts(policy.NamespaceFacts{Exists: policy.Yes}), true))
	require.Equal(t, policy.EdgeDecision{Outcome: policy.Undecided, Missing: policy.Fact{Kind: policy.FactGrants, Namespace: "models"}},
		plain.EvaluateEdge(e, policy.Snapshot{Namespaces: map[string]policy.NamespaceFacts{"models": {Exists: policy.Yes}}}, false))
}

func TestPermits(t *testing.T) {
	e := policy.Edge{Origin: "team-a", FromKind: policy.HTTPRoute, FromNamespace: "aibrix-system", Namespace: "models", Group: "example.org", Kind: "Pool", Name: "llama"}
	name := func(name string) *gwv1.ObjectName { return new(gwv1.ObjectName(name)) }
	for _, tc := range []struct {
		to   gwv1.ReferenceGrantTo
		want bool
	}{
		{gwv1.ReferenceGrantTo{Group: "example.org", Kind: "Pool"}, true},
		{gwv1.ReferenceGrantTo{Group: "example.org", Kind: "Pool", Name: name("llama")}, true},
		{gwv1.ReferenceGrantTo{Group: "example.org", Kind: "Pool", Name: name("qwen")}, false},
		{gwv1.ReferenceGrantTo{Group: "example.org", Kind: "Pool", Name: name("")}, false},
		{gwv1.ReferenceGrantTo{Group: "", Kind: "Pool"}, false},
		{gwv1.ReferenceGrantTo{Group: "example.org", Kind: "Service"}, false},
	} {
		grant := e.Grant("x")
		grant.Spec.To = []gwv1.ReferenceGrantTo{{Group: "other", Kind: "Other"}, tc.to}
		require.Equal(t, tc.want, policy.Permits(grant, e, "aibrix-system"), tc.to)
	}
	// An edge without a name needs a grant for every name.
	every := e
	every.Name = ""
	grant := e.Grant("x")
	grant.Spec.To[0].Name = name("")
	require.False(t, policy.Permits(grant, every, "aibrix-system"))
	grant.Spec.To[0].Name = nil
	require.True(t, policy.Permits(grant, every, "aibrix-system"))
	require.False(t, policy.Permits(grant, every, "team-a"))
}

// Whether a reference was there before depends on whether the route was governed before.
func TestUnknownGatewayOfTheOldRouteIsWhatIsMissing(t *testing.T) {
	config := policy.DefaultConfig()
	config.Outside = policy.OutsideWarn
	route := func(refs ...gwv1.ParentReference) *gwv1.HTTPRoute {
		r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "r"}}
		r.Spec.ParentRefs = refs
		backend := gwv1.HTTPBackendRef{}
		backend.Name, backend.Namespace = "llama", new(gwv1.Namespace("models"))
		r.Spec.Rules = []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{backend}}}
		return r
	}
	withNew := route(gwv1.ParentReference{Name: "aibrix-eg", Namespace: new(gwv1.Namespace("aibrix-system"))})
	added := withNew.Spec.Rules[0].BackendRefs[0]
	added.Name = "qwen"
	withNew.Spec.Rules[0].BackendRefs = append(withNew.Spec.Rules[0].BackendRefs, added)
	elsewhere := gwv1.ParentReference{Name: "x", Namespace: new(gwv1.Namespace("infra"))}
	d := newPolicy(t, config).Evaluate(policy.Request{
		Operation: policy.Update, Kind: policy.HTTPRoute, Namespace: "team-a",
		Object: withNew, OldObject: route(elsewhere, gwv1.ParentReference{Name: "mine"}),
	}, policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{"models": {Exists: policy.Yes}}, Grants: map[string][]*gwv1.ReferenceGrant{}, Writers: map[string]bool{},
	})
	require.False(t, d.Allowed)
	require.Len(t, d.Denied(), 1)
	require.Equal(t, "spec.rules[0].backendRefs[1]", d.Denied()[0].Field, "what is new is evaluated whatever was before")
	require.Equal(t, []policy.MissingFact{{
		Rule: "cross-namespace-reference", Field: "spec.rules[0].backendRefs[0]", Value: "Service models/llama",
		Fact: policy.Fact{Kind: policy.FactGateway, Namespace: "team-a", Name: "mine"},
	}}, d.Missing)
}

func TestAnEmptyNamespaceIsTheRoutesOwn(t *testing.T) {
	ref := gwv1.HTTPBackendRef{}
	ref.Name, ref.Namespace = "llama", new(gwv1.Namespace(""))
	route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a"}}
	route.Spec.Rules = []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{ref}}}
	found := slices.Collect(routeOf(t, route).References())
	require.Len(t, found, 1)
	require.Equal(t, "team-a", found[0].Namespace)
	require.True(t, found[0].Implicit)
}
