package cluster_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/cluster/clustertest"
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

func TestTrimmedRoutesKeepWhatIsEvaluated(t *testing.T) {
	source := policytest.NewSource(1)
	pol := newPolicy(t, nil)
	crossing := 0
	for range 2000 {
		obj := source.Route()
		trimmed, err := transformOf(t, "v1", obj)(obj.DeepCopyObject())
		require.NoError(t, err)
		whole, ok := policy.RouteOf(obj)
		require.True(t, ok)
		kept, ok := policy.RouteOf(trimmed.(client.Object))
		require.True(t, ok)
		require.Equal(t, pol.Edges(whole), pol.Edges(kept))
		require.Equal(t, whole.ParentRefs, kept.ParentRefs)
		require.Equal(t, pol.MayGovern(whole), pol.MayGovern(kept))
		require.Equal(t, pol.IsParked(whole), pol.IsParked(kept))
		crossing += len(pol.Edges(whole))
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
	kept := func(namespace, name string, labels map[string]string) metav1.ObjectMeta {
		m := full(namespace, name)
		m.Labels, m.Annotations, m.ManagedFields, m.Finalizers = labels, nil, nil, nil
		return m
	}
	managed := map[string]string{policy.ManagedByLabel: policy.ManagedBy}
	// What shows that a route is a relocated copy, or parked.
	routeMeta := kept("team-a", "r", managed)
	routeMeta.Annotations = map[string]string{policy.ParkedAnnotation: "[]", policy.SourceAnnotation: "team-a/r"}
	fullRoute := full("team-a", "r")
	fullRoute.Annotations = map[string]string{
		"kubectl.kubernetes.io/last-applied-configuration": "{}",
		policy.ParkedAnnotation:                            "[]", policy.SourceAnnotation: "team-a/r",
	}
	unparkedRoute, unparkedMeta := full("team-a", "r"), kept("team-a", "r", managed)
	parents := gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: "aibrix-eg", SectionName: new(gwv1.SectionName("http"))}}}
	status := gwv1.RouteStatus{Parents: []gwv1.RouteParentStatus{{ControllerName: "example.com/c"}, {ControllerName: "routesteward.dev/example.com/c", Conditions: []metav1.Condition{{Type: "Accepted"}}}}}
	statusKept := gwv1.RouteStatus{Parents: []gwv1.RouteParentStatus{{ControllerName: policy.RelocationController}}}
	reference := func(namespace gwv1.Namespace, name gwv1.ObjectName) gwv1.BackendObjectReference {
		return gwv1.BackendObjectReference{Name: name, Namespace: &namespace}
	}
	backend := gwv1.BackendRef{BackendObjectReference: reference("models", "llama"), Weight: new(int32(3))}
	backend.Group, backend.Kind, backend.Port = new(gwv1.Group("")), new(gwv1.Kind("Service")), new(gwv1.PortNumber(8000))
	beside := gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{Name: "beside"}}
	pool := reference("models", "pool")
	pool.Group, pool.Kind = new(gwv1.Group("inference.networking.k8s.io")), new(gwv1.Kind("InferencePool"))
	mirror := &gwv1.HTTPRequestMirrorFilter{BackendRef: pool}
	auth := &gwv1.HTTPExternalAuthFilter{BackendRef: reference("team-a", "auth")}
	httpRules := []gwv1.HTTPRouteRule{
		{BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: beside}}},
		{
			Name:    new(gwv1.SectionName("chat")),
			Matches: []gwv1.HTTPRouteMatch{{Path: &gwv1.HTTPPathMatch{Value: new("/v1")}}},
			Filters: []gwv1.HTTPRouteFilter{
				{Type: "RequestHeaderModifier", RequestHeaderModifier: &gwv1.HTTPHeaderFilter{Remove: []string{"x"}}},
				{Type: "RequestMirror", RequestMirror: mirror}, {Type: "ExternalAuth", ExternalAuth: auth}},
			BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: backend, Filters: []gwv1.HTTPRouteFilter{
				{Type: "URLRewrite", URLRewrite: &gwv1.HTTPURLRewriteFilter{Hostname: new(gwv1.PreciseHostname("x"))}},
				{Type: "RequestMirror", RequestMirror: mirror}}}},
			Timeouts: &gwv1.HTTPRouteTimeouts{Request: new(gwv1.Duration("1s"))},
		},
	}
	httpKept := func(refs ...gwv1.BackendObjectReference) []gwv1.HTTPRouteRule {
		var rule gwv1.HTTPRouteRule
		for _, ref := range refs {
			rule.BackendRefs = append(rule.BackendRefs, gwv1.HTTPBackendRef{BackendRef: gwv1.BackendRef{BackendObjectReference: ref}})
		}
		return []gwv1.HTTPRouteRule{rule}
	}
	grant := policy.Edge{Origin: "a", FromKind: "HTTPRoute", FromNamespace: "a", Namespace: "b", Kind: "Service", Name: "c"}.Grant("")

	namespace, gateway := cluster.NewNamespace(), cluster.NewGateway()
	namespace.ObjectMeta, gateway.ObjectMeta = full("", "models"), full("aibrix-system", "aibrix-eg")
	wantNamespace, wantGateway := cluster.NewNamespace(), cluster.NewGateway()
	wantNamespace.ObjectMeta = kept("", "models", map[string]string{policy.GrantsLabel: "allow"})
	wantGateway.ObjectMeta = kept("aibrix-system", "aibrix-eg", nil)

	for name, tt := range map[string]struct{ in, want client.Object }{
		"namespace": {namespace, wantNamespace},
		"gateway":   {gateway, wantGateway},
		"grant": {
			&gwv1.ReferenceGrant{ObjectMeta: full("models", "g"), Spec: grant.Spec},
			&gwv1.ReferenceGrant{ObjectMeta: kept("models", "g", managed), Spec: grant.Spec},
		},
		// One rule has what may need an edge, each once: of a parked route everything, as its copy refers from elsewhere.
		"parked HTTPRoute": {
			&gwv1.HTTPRoute{ObjectMeta: fullRoute, Status: gwv1.HTTPRouteStatus{RouteStatus: status}, Spec: gwv1.HTTPRouteSpec{
				CommonRouteSpec: parents, Hostnames: []gwv1.Hostname{"example.com"}, Rules: httpRules,
			}},
			&gwv1.HTTPRoute{ObjectMeta: routeMeta, Status: gwv1.HTTPRouteStatus{RouteStatus: statusKept}, Spec: gwv1.HTTPRouteSpec{
				CommonRouteSpec: parents,
				Rules:           httpKept(reference("team-a", "beside"), reference("models", "llama"), pool, reference("team-a", "auth")),
			}},
		},
		"HTTPRoute": {
			&gwv1.HTTPRoute{ObjectMeta: unparkedRoute, Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: parents, Rules: httpRules}},
			&gwv1.HTTPRoute{ObjectMeta: unparkedMeta, Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: parents, Rules: httpKept(reference("models", "llama"), pool)}},
		},
		"HTTPRoute that refers to what is beside it": {
			&gwv1.HTTPRoute{ObjectMeta: unparkedRoute, Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: parents, Rules: httpRules[:1]}},
			&gwv1.HTTPRoute{ObjectMeta: unparkedMeta, Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: parents}},
		},
		"GRPCRoute": {
			&gwv1.GRPCRoute{ObjectMeta: unparkedRoute, Status: gwv1.GRPCRouteStatus{RouteStatus: status}, Spec: gwv1.GRPCRouteSpec{
				CommonRouteSpec: parents, Hostnames: []gwv1.Hostname{"example.com"},
				Rules: []gwv1.GRPCRouteRule{{
					Matches: []gwv1.GRPCRouteMatch{{Method: &gwv1.GRPCMethodMatch{Service: new("s")}}},
					Filters: []gwv1.GRPCRouteFilter{
						{Type: "ResponseHeaderModifier", ResponseHeaderModifier: &gwv1.HTTPHeaderFilter{Remove: []string{"x"}}},
						{Type: "RequestMirror", RequestMirror: mirror}},
					BackendRefs: []gwv1.GRPCBackendRef{{BackendRef: beside}, {BackendRef: backend, Filters: []gwv1.GRPCRouteFilter{{Type: "RequestMirror", RequestMirror: mirror}}}},
				}},
			}},
			&gwv1.GRPCRoute{ObjectMeta: unparkedMeta, Status: gwv1.GRPCRouteStatus{RouteStatus: statusKept}, Spec: gwv1.GRPCRouteSpec{
				CommonRouteSpec: parents,
				Rules: []gwv1.GRPCRouteRule{{BackendRefs: []gwv1.GRPCBackendRef{
					{BackendRef: gwv1.BackendRef{BackendObjectReference: reference("models", "llama")}}, {BackendRef: gwv1.BackendRef{BackendObjectReference: pool}},
				}}},
			}},
		},
		"GRPCRoute that refers to what is beside it": {
			&gwv1.GRPCRoute{ObjectMeta: unparkedRoute, Spec: gwv1.GRPCRouteSpec{Rules: []gwv1.GRPCRouteRule{{BackendRefs: []gwv1.GRPCBackendRef{{BackendRef: beside}}}}}},
			&gwv1.GRPCRoute{ObjectMeta: unparkedMeta},
		},
	} {
		t.Run(name, func(t *testing.T) {
			transform := transformOf(t, "v1", tt.in)
			got, err := transform(tt.in.DeepCopyObject())
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
			// A list that was interrupted is trimmed again.
			got, err = transform(got)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)

			// What a watch that was interrupted reports of a deletion passes through.
			tombstone := toolscache.DeletedFinalStateUnknown{Key: "a/b", Obj: tt.in}
			passed, err := transform(tombstone)
			require.NoError(t, err)
			require.Equal(t, tombstone, passed)
		})
	}

	beta := &gwv1beta1.ReferenceGrant{ObjectMeta: full("models", "g"), Spec: grant.Spec}
	got, err := transformOf(t, "v1beta1", beta)(beta)
	require.NoError(t, err)
	require.Equal(t, &gwv1beta1.ReferenceGrant{ObjectMeta: kept("models", "g", managed), Spec: grant.Spec}, got)
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
				{cluster.ByTarget, "models"}:                                  {"aibrix-system/grpc", "aibrix-system/inside", "team-a/misdirected", "team-a/outside"},
				{cluster.ByTarget, "aibrix-system"}:                           nil,
				{needing, grant(edge("HTTPRoute", "aibrix-system", "llama"))}: {"aibrix-system/inside"},
				{needing, grant(edge("HTTPRoute", "aibrix-system", "qwen"))}:  {"aibrix-system/inside"},
				{needing, grant(edge("GRPCRoute", "aibrix-system", "llama"))}: {"aibrix-system/grpc"},
				{needing, grant(edge("HTTPRoute", "team-a", "llama"))}:        {"team-a/misdirected", "team-a/outside"},
				{needing, grant(edge("HTTPRoute", "exempt", "llama"))}:        nil,
				{cluster.ByGateway, "team-a/aibrix-eg"}:                       {"team-a/misdirected"},
				{cluster.ByGateway, "aibrix-system/aibrix-eg"}:                {"team-a/misdirected"},
				{cluster.ByGateway, "team-b/aibrix-eg"}:                       nil,
			},
		},
		"one kind, one grant for a namespace": {
			change: func(c *policy.Config) {
				c.Kinds, c.GrantScope = []policy.Kind{policy.HTTPRoute}, policy.GrantScopeNamespace
			},
			want: map[query][]string{
				{cluster.ByTarget, "models"}:                                  {"aibrix-system/inside", "team-a/misdirected", "team-a/outside"},
				{needing, grant(edge("HTTPRoute", "aibrix-system", ""))}:      {"aibrix-system/inside"},
				{needing, grant(edge("HTTPRoute", "aibrix-system", "llama"))}: nil,
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
				var got []string
				if query.index == needing {
					got = names(t, caches.Needing(t.Context(), keyOf(query.value)))
					needed, err := caches.Needed(t.Context(), keyOf(query.value))
					require.NoError(t, err)
					require.Equal(t, len(want) > 0, needed)
				} else {
					routes, err := caches.Routes(t.Context(), query.index, query.value)
					require.NoError(t, err)
					for _, route := range routes {
						got = append(got, client.ObjectKeyFromObject(route).String())
					}
				}
				require.ElementsMatch(t, want, got, "%v", query)
			}
		})
	}
}

// needing replaces the index that Needing asks.
const needing = "needing"

func keyOf(key string) types.NamespacedName {
	namespace, name, _ := strings.Cut(key, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}
}

func names(t *testing.T, routes iter.Seq2[client.Object, error]) []string {
	t.Helper()
	var names []string
	for route, err := range routes {
		require.NoError(t, err)
		names = append(names, client.ObjectKeyFromObject(route).String())
	}
	return names
}

func TestManyRoutesThatNeedOneGrant(t *testing.T) {
	const many = 5000
	var objects []client.Object
	want := map[string]bool{}
	for i := range many {
		route := httpRoute("aibrix-system", fmt.Sprintf("r-%d", i), parent("", "aibrix-eg"), service("models", "llama"))
		objects = append(objects, route)
		want[client.ObjectKeyFromObject(route).String()] = true
	}
	server := clustertest.NewServer(t, "v1", objects...)
	caches := clustertest.NewCaches(t, server, newPolicy(t, nil))
	edge := policy.Edge{Origin: "aibrix-system", FromKind: "HTTPRoute", FromNamespace: "aibrix-system", Namespace: "models", Kind: "Service", Name: "llama"}
	grant := types.NamespacedName{Namespace: "models", Name: edge.GrantName()}

	got := names(t, caches.Needing(t.Context(), grant))
	require.Len(t, got, many, "each comes once")
	for _, name := range got {
		require.True(t, want[name], name)
	}
	needed, err := caches.Needed(t.Context(), grant)
	require.NoError(t, err)
	require.True(t, needed)

	caches.Fail(errors.New("the caches are closed"))
	_, err = caches.Needed(t.Context(), grant)
	require.EqualError(t, err, "the caches are closed")
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

			grants, known := facts.ForeignGrants("models", "")
			require.True(t, known)
			require.Len(t, grants, 1)
			require.Equal(t, types.NamespacedName{Namespace: "models", Name: "mine"}, client.ObjectKeyFromObject(grants[0]))
			grants, known = facts.ForeignGrants("nowhere", "")
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
		"foreign grants": func(f *cluster.Facts) bool { grants, known := f.ForeignGrants("a", ""); return grants == nil && !known },
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

// What a watch of routes decodes is, once it is trimmed, what client-go would have decoded.
func TestWatchedRoutes(t *testing.T) {
	for _, kind := range []policy.Kind{policy.HTTPRoute, policy.GRPCRoute} {
		t.Run(string(kind), func(t *testing.T) {
			source := policytest.NewSource(2)
			var want []client.Object
			var events strings.Builder
			for i := range 500 {
				parents := []gwv1.RouteParentStatus{{ControllerName: "example.com/c"}}
				if i%7 == 0 {
					parents = append(parents, gwv1.RouteParentStatus{ControllerName: policy.RelocationController})
				}
				var obj client.Object
				if kind == policy.HTTPRoute {
					route := source.HTTPRoute()
					route.Status.Parents, obj = parents, route
				} else {
					route := source.GRPCRoute()
					route.Status.Parents, obj = parents, route
				}
				obj.SetResourceVersion(fmt.Sprint(i + 1))
				obj.SetCreationTimestamp(metav1.Unix(int64(i), 0))
				raw, err := json.Marshal(obj)
				require.NoError(t, err)
				fmt.Fprintf(&events, `{"type":"MODIFIED","object":%s}`+"\n", raw)

				typed := cluster.NewRoute(kind)
				require.NoError(t, json.Unmarshal(raw, typed))
				typed.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
				trimmed, err := transformOf(t, "v1", typed)(typed)
				require.NoError(t, err)
				want = append(want, trimmed.(client.Object))
			}
			events.WriteString(`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"900","annotations":{"k8s.io/initial-events-end":"true"}}}}` + "\n")
			events.WriteString(`{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}}` + "\n")
			events.WriteString(`{"type":"ADDED","object":7}` + "\n" + `{"type":"NOVEL","object":{}}` + "\n")
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if r.URL.Query().Get("resourceVersion") == "1" {
					w.WriteHeader(http.StatusGone)
					_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}`)
					return
				}
				require.Equal(t, "/apis/gateway.networking.k8s.io/v1/"+strings.ToLower(string(kind))+"s", r.URL.Path)
				require.Equal(t, "true", r.URL.Query().Get("watch"))
				require.Equal(t, "true", r.URL.Query().Get("allowWatchBookmarks"))
				_, _ = io.WriteString(w, events.String())
			}))
			defer server.Close()

			newInformer, err := cluster.NewInformer(&rest.Config{Host: server.URL}, nil)
			require.NoError(t, err)
			lw := &toolscache.ListWatch{}
			newInformer(lw, cluster.NewRoute(kind), 0, nil)
			watched, err := lw.WatchFuncWithContext(t.Context(), metav1.ListOptions{AllowWatchBookmarks: true})
			require.NoError(t, err)
			defer watched.Stop()
			next := func(event watch.EventType) runtime.Object {
				got, open := <-watched.ResultChan()
				require.True(t, open)
				require.Equal(t, event, got.Type, "%v", got.Object)
				return got.Object
			}
			for _, want := range want {
				got := next(watch.Modified)
				trimmed, err := transformOf(t, "v1", want)(got)
				require.NoError(t, err)
				require.Equal(t, want, trimmed)
			}
			bookmark := next(watch.Bookmark).(client.Object)
			require.Equal(t, "900", bookmark.GetResourceVersion())
			require.Equal(t, "true", bookmark.GetAnnotations()[metav1.InitialEventsAnnotationKey])
			require.True(t, apierrors.IsResourceExpired(apierrors.FromObject(next(watch.Error))))
			require.ErrorContains(t, apierrors.FromObject(next(watch.Error)), "unable to decode an event from the watch stream: json: cannot unmarshal number")

			_, err = lw.WatchFuncWithContext(t.Context(), metav1.ListOptions{ResourceVersion: "1"})
			require.True(t, apierrors.IsResourceExpired(err), "%v", err)
		})
	}
}
