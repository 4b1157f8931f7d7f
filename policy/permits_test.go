package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

// permissions are what a ReferenceGrant permits, spelled out from the API's documentation: the pairs of every entry of
// from with every entry of to; entries are combined by OR; an empty group is the core group; without a name, "to" means
// all resources of its group and kind in the grant's own namespace.
func permissions(grant *gwv1.ReferenceGrant, names []string) map[permission]bool {
	all := map[permission]bool{}
	for _, from := range grant.Spec.From {
		for _, to := range grant.Spec.To {
			named := names
			if to.Name != nil {
				named = []string{string(*to.Name)}
			}
			for _, name := range named {
				all[permission{
					from: object{string(from.Group), string(from.Kind), string(from.Namespace), ""},
					to:   object{string(to.Group), string(to.Kind), grant.Namespace, name},
				}] = true
			}
		}
	}
	return all
}

type object struct{ group, kind, namespace, name string }

type permission struct{ from, to object }

func TestPermitsAgreesWithGatewayAPI(t *testing.T) {
	permitted := 0
	forEach(t, 20000, func(s *policytest.Source) {
		grant, edge := s.Grant(), s.Edge()
		from := policytest.OneOf(s, policytest.Namespaces...)
		want := permissions(grant, []string{edge.Name, "another"})[permission{
			from: object{"gateway.networking.k8s.io", string(edge.FromKind), from, ""},
			to:   object{edge.Group, edge.Kind, edge.Namespace, edge.Name},
		}]
		require.Equal(t, want, policy.Permits(grant, edge, from), "%s from %s by %+v in %s", edge, from, grant.Spec, grant.Namespace)
		if !want {
			return
		}
		permitted++
		deleted := grant.DeepCopy()
		deleted.DeletionTimestamp = new(metav1.Unix(1700000000, 0))
		require.False(t, policy.Permits(deleted, edge, from), "a grant that is being deleted")
	})
	require.Greater(t, permitted, 200)
}

// A managed grant permits its own edge, and no other edge of the same origin.
func TestManagedGrantPermitsItsEdgeAlone(t *testing.T) {
	forEach(t, 5000, func(s *policytest.Source) {
		edge, other := s.Edge(), s.Edge()
		grant := edge.Grant("")
		require.True(t, policy.Permits(grant, edge, edge.FromNamespace))
		require.True(t, policy.Records(grant, edge))
		for name, tamper := range map[string]func(*gwv1.ReferenceGrant){
			"name":      func(g *gwv1.ReferenceGrant) { g.Name += "x" },
			"namespace": func(g *gwv1.ReferenceGrant) { g.Namespace = "elsewhere" },
			"manager":   func(g *gwv1.ReferenceGrant) { g.Labels[policy.ManagedByLabel] = "helm" },
			"origin":    func(g *gwv1.ReferenceGrant) { g.Labels[policy.OriginLabel] = "elsewhere" },
			"from":      func(g *gwv1.ReferenceGrant) { g.Spec.From = append(g.Spec.From, g.Spec.From[0]) },
			"to":        func(g *gwv1.ReferenceGrant) { g.Spec.To[0].Name = nil },
			"deleted":   func(g *gwv1.ReferenceGrant) { g.DeletionTimestamp = new(metav1.Unix(1700000000, 0)) },
		} {
			tampered := grant.DeepCopy()
			tamper(tampered)
			require.False(t, policy.Records(tampered, edge), "changed: %s", name)
		}
		require.Equal(t, edge == other, policy.Records(grant, other))
		planned := policy.GrantUse{Edge: other, Name: other.GrantName()}
		require.Equal(t, edge == other, planned.RecordedBy(grant))
		if policy.Permits(grant, other, other.FromNamespace) {
			other.Origin = edge.Origin
			require.Equal(t, edge, other)
		}
	})
}

// The API accepts no empty name, and a grant for one would permit every name.
func TestReferenceWithoutNameIsNone(t *testing.T) {
	httpRoute := policytest.Wide(1, 1, 1, "team-a")
	route, ok := policy.RouteOf(httpRoute)
	require.True(t, ok)
	require.Len(t, plain.Edges(route), 2)
	httpRoute.Spec.Rules[0].BackendRefs[0].Name = ""
	httpRoute.Spec.Rules[0].BackendRefs[0].Filters[0].RequestMirror.BackendRef.Name = ""
	require.Empty(t, plain.Edges(route))
}
