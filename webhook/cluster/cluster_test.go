package cluster_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/policy/random"
	"github.com/routewarden/routewarden/webhook/cluster"
	"github.com/routewarden/routewarden/webhook/cluster/clustertest"
)

// versions in which ReferenceGrants may be served.
var versions = []string{"v1", "v1beta1"}

func newPolicy(t *testing.T, change func(*policy.Config)) *policy.Policy {
	t.Helper()
	config := policy.DefaultConfig()
	if change != nil {
		change(&config)
	}
	pol, err := policy.New(config)
	require.NoError(t, err)
	return pol
}

// transformOf is what the caches do to an object before they keep it.
func transformOf(t *testing.T, version string, obj client.Object) func(any) (any, error) {
	t.Helper()
	for key, by := range cluster.CacheOptions(cluster.Served{ReferenceGrants: version}) {
		if fmt.Sprintf("%T", key) == fmt.Sprintf("%T", obj) && key.GetObjectKind().GroupVersionKind().Kind == kindOfMetadata(obj) {
			require.True(t, *by.UnsafeDisableDeepCopy)
			return by.Transform
		}
	}
	require.Fail(t, "not cached", "%T", obj)
	return nil
}

func kindOfMetadata(obj client.Object) string {
	if metadata, ok := obj.(*metav1.PartialObjectMetadata); ok {
		return metadata.Kind
	}
	return ""
}

type reference struct {
	policy.Reference
	path string
}

func referencesOf(t *testing.T, obj client.Object) (references []reference, edges []policy.Edge, parents []gwv1.ParentReference) {
	t.Helper()
	route, ok := policy.RouteOf(obj)
	require.True(t, ok)
	for ref := range route.References() {
		references = append(references, reference{ref, ref.Path()})
	}
	pol, err := policy.New(policy.DefaultConfig())
	require.NoError(t, err)
	return references, pol.Edges(route), route.ParentRefs
}

func TestTrimmedRoutesKeepWhatIsJudged(t *testing.T) {
	source := random.New(1)
	crossing := 0
	for range 2000 {
		route := source.Route()
		trimmed, err := transformOf(t, "v1", route)(route.DeepCopyObject())
		require.NoError(t, err)
		references, edges, parents := referencesOf(t, route)
		trimmedReferences, trimmedEdges, trimmedParents := referencesOf(t, trimmed.(client.Object))
		require.Equal(t, references, trimmedReferences)
		require.Equal(t, edges, trimmedEdges)
		require.Equal(t, parents, trimmedParents)
		crossing += len(edges)
	}
	require.Greater(t, crossing, 1000)
}

func TestTrimmedObjects(t *testing.T) {
	full := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: "uid", ResourceVersion: "7", Generation: 3,
			CreationTimestamp: metav1.Unix(1000, 0), DeletionTimestamp: new(metav1.Unix(2000, 0)), Finalizers: []string{"a/b"},
			Labels:        map[string]string{policy.GrantsLabel: "allow", policy.ManagedByLabel: policy.ManagedBy},
			Annotations:   map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		}
	}
	kept := func(namespace, name string, labels bool) metav1.ObjectMeta {
		m := full(namespace, name)
		m.Annotations, m.ManagedFields = nil, nil
		if !labels {
			m.Labels = nil
		}
		return m
	}
	// What says of a route that it is a relocated copy, or parked.
	routeMeta := kept("aibrix-system", "r", false)
	routeMeta.Labels = map[string]string{policy.ManagedByLabel: policy.ManagedBy}
	routeMeta.Annotations = map[string]string{policy.ParkedAnnotation: "[]", policy.SourceAnnotation: "team-a/r"}
	fullRoute := full("aibrix-system", "r")
	fullRoute.Annotations = map[string]string{
		"kubectl.kubernetes.io/last-applied-configuration": "{}",
		policy.ParkedAnnotation:                            "[]", policy.SourceAnnotation: "team-a/r",
	}
	parents := gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: "aibrix-eg", SectionName: new(gwv1.SectionName("http"))}}}
	status := gwv1.RouteStatus{Parents: []gwv1.RouteParentStatus{{ControllerName: "example.com/c"}, {ControllerName: "routewarden.dev/example.com/c", Conditions: []metav1.Condition{{Type: "Accepted"}}}}}
	statusKept := gwv1.RouteStatus{Parents: []gwv1.RouteParentStatus{{ControllerName: "routewarden.dev/example.com/c"}}}
	backend := gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{Name: "llama", Namespace: new(gwv1.Namespace("models")), Port: new(gwv1.PortNumber(8000))}, Weight: new(int32(3))}
	mirror := &gwv1.HTTPRequestMirrorFilter{BackendRef: backend.BackendObjectReference}
	auth := &gwv1.HTTPExternalAuthFilter{BackendRef: backend.BackendObjectReference}
	grant := policy.Edge{Origin: "a", FromKind: "HTTPRoute", FromNamespace: "a", Namespace: "b", Kind: "Service", Name: "c"}.Grant("")

	namespace, gateway := cluster.NewNamespace(), cluster.NewGateway()
	namespace.ObjectMeta, gateway.ObjectMeta = full("", "models"), full("aibrix-system", "aibrix-eg")
	wantNamespace, wantGateway := cluster.NewNamespace(), cluster.NewGateway()
	wantNamespace.ObjectMeta, wantGateway.ObjectMeta = kept("", "models", true), kept("aibrix-system", "aibrix-eg", false)

	for name, tt := range map[string]struct{ in, want client.Object }{
		"namespace": {namespace, wantNamespace},
		"gateway":   {gateway, wantGateway},
		"grant": {
			&gwv1.ReferenceGrant{ObjectMeta: full("models", "g"), Spec: grant.Spec},
			&gwv1.ReferenceGrant{ObjectMeta: kept("models", "g", true), Spec: grant.Spec},
		},
		"HTTPRoute": {
			&gwv1.HTTPRoute{ObjectMeta: fullRoute, Status: gwv1.HTTPRouteStatus{RouteStatus: status}, Spec: gwv1.HTTPRouteSpec{
				CommonRouteSpec: parents, Hostnames: []gwv1.Hostname{"example.com"},
				Rules: []gwv1.HTTPRouteRule{{
					Name:    new(gwv1.SectionName("chat")),
					Matches: []gwv1.HTTPRouteMatch{{Path: &gwv1.HTTPPathMatch{Value: new("/v1")}}},
					Filters: []gwv1.HTTPRouteFilter{
						{Type: "RequestHeaderModifier", RequestHeaderModifier: &gwv1.HTTPHeaderFilter{Remove: []string{"x"}}},
						{Type: "RequestMirror", RequestMirror: mirror}, {Type: "ExternalAuth", ExternalAuth: auth}},
					BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: backend, Filters: []gwv1.HTTPRouteFilter{
						{Type: "URLRewrite", URLRewrite: &gwv1.HTTPURLRewriteFilter{Hostname: new(gwv1.PreciseHostname("x"))}},
						{Type: "RequestMirror", RequestMirror: mirror}}}},
					Timeouts: &gwv1.HTTPRouteTimeouts{Request: new(gwv1.Duration("1s"))},
				}},
			}},
			&gwv1.HTTPRoute{ObjectMeta: routeMeta, Status: gwv1.HTTPRouteStatus{RouteStatus: statusKept}, Spec: gwv1.HTTPRouteSpec{
				CommonRouteSpec: parents,
				Rules: []gwv1.HTTPRouteRule{{
					Filters: []gwv1.HTTPRouteFilter{{Type: "RequestHeaderModifier"}, {Type: "RequestMirror", RequestMirror: mirror}, {Type: "ExternalAuth", ExternalAuth: auth}},
					BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: backend, Filters: []gwv1.HTTPRouteFilter{
						{Type: "URLRewrite"}, {Type: "RequestMirror", RequestMirror: mirror}}}},
				}},
			}},
		},
		"GRPCRoute": {
			&gwv1.GRPCRoute{ObjectMeta: fullRoute, Status: gwv1.GRPCRouteStatus{RouteStatus: status}, Spec: gwv1.GRPCRouteSpec{
				CommonRouteSpec: parents, Hostnames: []gwv1.Hostname{"example.com"},
				Rules: []gwv1.GRPCRouteRule{{
					Matches: []gwv1.GRPCRouteMatch{{Method: &gwv1.GRPCMethodMatch{Service: new("s")}}},
					Filters: []gwv1.GRPCRouteFilter{
						{Type: "ResponseHeaderModifier", ResponseHeaderModifier: &gwv1.HTTPHeaderFilter{Remove: []string{"x"}}},
						{Type: "RequestMirror", RequestMirror: mirror}},
					BackendRefs: []gwv1.GRPCBackendRef{{BackendRef: backend, Filters: []gwv1.GRPCRouteFilter{{Type: "RequestMirror", RequestMirror: mirror}}}},
				}},
			}},
			&gwv1.GRPCRoute{ObjectMeta: routeMeta, Status: gwv1.GRPCRouteStatus{RouteStatus: statusKept}, Spec: gwv1.GRPCRouteSpec{
				CommonRouteSpec: parents,
				Rules: []gwv1.GRPCRouteRule{{
					Filters:     []gwv1.GRPCRouteFilter{{Type: "ResponseHeaderModifier"}, {Type: "RequestMirror", RequestMirror: mirror}},
					BackendRefs: []gwv1.GRPCBackendRef{{BackendRef: backend, Filters: []gwv1.GRPCRouteFilter{{Type: "RequestMirror", RequestMirror: mirror}}}},
				}},
			}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			transform := transformOf(t, "v1", tt.in)
			got, err := transform(tt.in)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)

			// What a watch that was interrupted says of a deletion passes through.
			tombstone := toolscache.DeletedFinalStateUnknown{Key: "a/b", Obj: tt.in}
			passed, err := transform(tombstone)
			require.NoError(t, err)
			require.Equal(t, tombstone, passed)
		})
	}

	beta := &gwv1beta1.ReferenceGrant{ObjectMeta: full("models", "g"), Spec: grant.Spec}
	got, err := transformOf(t, "v1beta1", beta)(beta)
	require.NoError(t, err)
	require.Equal(t, &gwv1beta1.ReferenceGrant{ObjectMeta: kept("models", "g", true), Spec: grant.Spec}, got)
}

func TestServedVersions(t *testing.T) {
	grant := policy.Edge{Origin: "a", FromKind: "HTTPRoute", FromNamespace: "a", Namespace: "b", Kind: "Service", Name: "c"}.Grant("because")

	v1 := cluster.Served{ReferenceGrants: "v1"}
	require.IsType(t, &gwv1.ReferenceGrant{}, v1.NewGrant())
	require.Same(t, grant, v1.GrantObject(grant))
	require.Same(t, grant, cluster.GrantOf(grant))

	v1beta1 := cluster.Served{ReferenceGrants: "v1beta1"}
	require.IsType(t, &gwv1beta1.ReferenceGrant{}, v1beta1.NewGrant())
	object := v1beta1.GrantObject(grant.DeepCopy())
	require.Equal(t, &gwv1beta1.ReferenceGrant{
		TypeMeta:   metav1.TypeMeta{APIVersion: "gateway.networking.k8s.io/v1beta1", Kind: "ReferenceGrant"},
		ObjectMeta: grant.ObjectMeta, Spec: grant.Spec,
	}, object)
	require.Equal(t, grant.Spec, cluster.GrantOf(object).Spec)

	require.Nil(t, cluster.GrantOf(&gwv1.HTTPRoute{}))
}

func httpRoute(namespace, name string, parents []gwv1.ParentReference, backends ...gwv1.BackendObjectReference) *gwv1.HTTPRoute {
	route := &gwv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       gwv1.HTTPRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: parents}, Rules: []gwv1.HTTPRouteRule{{}}},
	}
	for _, backend := range backends {
		route.Spec.Rules[0].BackendRefs = append(route.Spec.Rules[0].BackendRefs, gwv1.HTTPBackendRef{BackendRef: gwv1.BackendRef{BackendObjectReference: backend}})
	}
	return route
}

func parent(namespace, name string) []gwv1.ParentReference {
	ref := gwv1.ParentReference{Name: gwv1.ObjectName(name)}
	if namespace != "" {
		ref.Namespace = new(gwv1.Namespace(namespace))
	}
	return []gwv1.ParentReference{ref}
}

func service(namespace, name string) gwv1.BackendObjectReference {
	return gwv1.BackendObjectReference{Name: gwv1.ObjectName(name), Namespace: new(gwv1.Namespace(namespace))}
}

func TestIndexes(t *testing.T) {
	deleting := httpRoute("aibrix-system", "deleting", parent("", "aibrix-eg"), service("models", "llama"))
	deleting.Finalizers = []string{"example.com/wait"}
	grpc := &gwv1.GRPCRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "grpc"},
		Spec: gwv1.GRPCRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: parent("", "aibrix-eg")},
			Rules:           []gwv1.GRPCRouteRule{{BackendRefs: []gwv1.GRPCBackendRef{{BackendRef: gwv1.BackendRef{BackendObjectReference: service("models", "llama")}}}}},
		},
	}
	objects := []client.Object{
		httpRoute("aibrix-system", "inside", parent("", "aibrix-eg"), service("models", "llama"), service("models", "qwen"), service("aibrix-system", "own")),
		httpRoute("team-a", "misdirected", parent("", "aibrix-eg"), service("models", "llama")),
		httpRoute("team-a", "outside", parent("aibrix-system", "aibrix-eg"), service("models", "llama")),
		httpRoute("team-a", "elsewhere", parent("team-b", "aibrix-eg"), service("models", "llama")),
		httpRoute("exempt", "exempt", parent("", "aibrix-eg"), service("models", "llama")),
		deleting, grpc,
	}
	edge := func(kind policy.Kind, from string, name string) policy.Edge {
		return policy.Edge{Origin: from, FromKind: kind, FromNamespace: from, Namespace: "models", Kind: "Service", Name: name}
	}
	grant := func(e policy.Edge) string { return "models/" + e.GrantName() }

	type query struct{ index, value string }
	for name, tt := range map[string]struct {
		change func(*policy.Config)
		want   map[query][]string
	}{
		"defaults": {
			change: func(*policy.Config) {},
			want: map[query][]string{
				{cluster.ByTarget, "models"}:                                          {"aibrix-system/grpc", "aibrix-system/inside", "team-a/misdirected", "team-a/outside"},
				{cluster.ByTarget, "aibrix-system"}:                                   nil,
				{cluster.ByGrant, grant(edge("HTTPRoute", "aibrix-system", "llama"))}: {"aibrix-system/inside"},
				{cluster.ByGrant, grant(edge("HTTPRoute", "aibrix-system", "qwen"))}:  {"aibrix-system/inside"},
				{cluster.ByGrant, grant(edge("GRPCRoute", "aibrix-system", "llama"))}: {"aibrix-system/grpc"},
				{cluster.ByGrant, grant(edge("HTTPRoute", "team-a", "llama"))}:        {"team-a/misdirected", "team-a/outside"},
				{cluster.ByGrant, grant(edge("HTTPRoute", "exempt", "llama"))}:        nil,
				{cluster.ByGateway, "team-a/aibrix-eg"}:                               {"team-a/misdirected"},
				{cluster.ByGateway, "aibrix-system/aibrix-eg"}:                        {"team-a/misdirected"},
				{cluster.ByGateway, "team-b/aibrix-eg"}:                               nil,
			},
		},
		"one kind, one grant for a namespace": {
			change: func(c *policy.Config) {
				c.Kinds, c.GrantScope = []policy.Kind{policy.HTTPRoute}, policy.GrantScopeNamespace
			},
			want: map[query][]string{
				{cluster.ByTarget, "models"}:                                          {"aibrix-system/inside", "team-a/misdirected", "team-a/outside"},
				{cluster.ByGrant, grant(edge("HTTPRoute", "aibrix-system", ""))}:      {"aibrix-system/inside"},
				{cluster.ByGrant, grant(edge("HTTPRoute", "aibrix-system", "llama"))}: nil,
			},
		},
		"every route": {
			change: func(c *policy.Config) { c.Scope = policy.ScopeAll },
			want: map[query][]string{
				{cluster.ByTarget, "models"}: {"aibrix-system/grpc", "aibrix-system/inside", "team-a/elsewhere", "team-a/misdirected", "team-a/outside"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := clustertest.NewServer(t, "v1", objects...)
			require.NoError(t, server.Delete(t.Context(), deleting.DeepCopy()))
			caches := clustertest.NewCaches(t, server, newPolicy(t, func(c *policy.Config) {
				c.ExemptNamespaces = []string{"exempt"}
				tt.change(c)
			}))
			for query, want := range tt.want {
				routes, err := caches.Routes(t.Context(), query.index, query.value)
				require.NoError(t, err)
				var got []string
				for _, route := range routes {
					got = append(got, client.ObjectKeyFromObject(route).String())
				}
				require.ElementsMatch(t, want, got, "%v", query)
			}
		})
	}

	t.Run("limit", func(t *testing.T) {
		caches := clustertest.NewCaches(t, clustertest.NewServer(t, "v1", objects...), newPolicy(t, nil))
		routes, err := caches.Routes(t.Context(), cluster.ByGrant, grant(edge("HTTPRoute", "team-a", "llama")), client.Limit(1))
		require.NoError(t, err)
		require.Len(t, routes, 1)
	})
}

func TestFacts(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			served := cluster.Served{ReferenceGrants: version}
			edge := policy.Edge{Origin: "aibrix-system", FromKind: "HTTPRoute", FromNamespace: "aibrix-system", Namespace: "models", Kind: "Service", Name: "llama"}
			foreign := edge.Grant("")
			foreign.Name, foreign.Labels = "mine", map[string]string{policy.ManagedByLabel: "Helm"}
			elsewhere := foreign.DeepCopy()
			elsewhere.Namespace = "other"
			terminating := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "terminating", Finalizers: []string{"example.com/wait"}}}
			server := clustertest.NewServer(t, version,
				&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "models", Labels: map[string]string{policy.GrantsLabel: "allow"}}},
				terminating,
				&gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "aibrix-eg"}},
				served.GrantObject(edge.Grant("because")), served.GrantObject(foreign), served.GrantObject(elsewhere),
			)
			require.NoError(t, server.Delete(t.Context(), terminating.DeepCopy()))
			facts := clustertest.NewCaches(t, server, newPolicy(t, nil)).Facts(t.Context())

			require.Equal(t, policy.NamespaceFacts{Exists: policy.Yes, Grants: "allow"}, facts.Namespace("models"))
			require.Equal(t, policy.NamespaceFacts{Exists: policy.Yes, Terminating: true}, facts.Namespace("terminating"))
			require.Equal(t, policy.NamespaceFacts{Exists: policy.No}, facts.Namespace("nowhere"))
			require.Equal(t, policy.Yes, facts.GatewayExists("aibrix-system", "aibrix-eg"))
			require.Equal(t, policy.No, facts.GatewayExists("team-a", "aibrix-eg"))

			grant, known := facts.ManagedGrant("models", edge.GrantName())
			require.True(t, known)
			require.True(t, policy.Records(grant, edge))
			// Somebody else's object with a name is no managed grant of that name.
			grant, known = facts.ManagedGrant("models", "mine")
			require.True(t, known)
			require.Nil(t, grant)
			grant, known = facts.ManagedGrant("models", "nothing")
			require.True(t, known)
			require.Nil(t, grant)

			grants, known := facts.ForeignGrants("models")
			require.True(t, known)
			require.Len(t, grants, 1)
			require.Equal(t, types.NamespacedName{Namespace: "models", Name: "mine"}, client.ObjectKeyFromObject(grants[0]))
			grants, known = facts.ForeignGrants("nowhere")
			require.True(t, known)
			require.Empty(t, grants)

			require.Equal(t, policy.Unknown, facts.MayCreateGrants("models"))
			facts.SetAccess("models", true)
			facts.SetAccess("other", false)
			require.Equal(t, policy.Yes, facts.MayCreateGrants("models"))
			require.Equal(t, policy.No, facts.MayCreateGrants("other"))
			require.Equal(t, policy.Unknown, facts.MayCreateGrants("third"))
			require.NoError(t, facts.Err())
		})
	}
}

func TestFactsThatCannotBeReadAreUnknown(t *testing.T) {
	first := errors.New("the caches are closed")
	server := clustertest.NewServer(t, "v1")
	caches := clustertest.NewCaches(t, server, newPolicy(t, nil))
	caches.Fail(first)
	for name, ask := range map[string]func(*cluster.Facts) bool{
		"namespace":      func(f *cluster.Facts) bool { return f.Namespace("models") == policy.NamespaceFacts{} },
		"gateway":        func(f *cluster.Facts) bool { return f.GatewayExists("a", "b") == policy.Unknown },
		"managed grant":  func(f *cluster.Facts) bool { grant, known := f.ManagedGrant("a", "b"); return grant == nil && !known },
		"foreign grants": func(f *cluster.Facts) bool { grants, known := f.ForeignGrants("a"); return grants == nil && !known },
	} {
		t.Run(name, func(t *testing.T) {
			facts := caches.Facts(t.Context())
			require.NoError(t, facts.Err())
			require.True(t, ask(facts))
			require.Equal(t, first, facts.Err())
			caches.Fail(errors.New("another"))
			require.True(t, ask(facts))
			require.Equal(t, first, facts.Err(), "the first error is kept")
			caches.Fail(first)
		})
	}
}
