package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/webhooktest"
)

// storedRoute is one as an API server sends it: applied with kubectl, and served by a gateway.
const storedRoute = `{"type":"ADDED","object":{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"annotations":{"meta.helm.sh/release-name":"model-%[1]d"},` +
	`"creationTimestamp":"2026-01-01T00:00:00Z","generation":1,"labels":{"app.kubernetes.io/managed-by":"Helm","model.aibrix.ai/name":"model-%[1]d"},"managedFields":[` +
	`{"apiVersion":"gateway.networking.k8s.io/v1","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:annotations":{".":{},"f:meta.helm.sh/release-name":{}},"f:labels":{".":{},"f:app.kubernetes.io/managed-by":{},"f:model.aibrix.ai/name":{}}},"f:spec":{".":{},"f:parentRefs":{},"f:rules":{}}},"manager":"helm","operation":"Update","time":"2026-01-01T00:00:00Z"},` +
	`{"apiVersion":"gateway.networking.k8s.io/v1","fieldsType":"FieldsV1","fieldsV1":{"f:status":{".":{},"f:parents":{}}},"manager":"envoy-gateway","operation":"Update","subresource":"status","time":"2026-01-01T00:00:00Z"}],` +
	`"name":"model-%[1]d-router","namespace":"aibrix-system","resourceVersion":"%[2]d","uid":"0e6f5d2a-6a0e-4d5a-9d4b-%012[1]d"},"spec":{"parentRefs":[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"aibrix-eg"}],"rules":[{` +
	`"backendRefs":[{"group":"","kind":"Service","name":%[4]q,%[3]s"port":8000,"weight":1}],"matches":[{"headers":[{"name":"model","type":"Exact","value":"model-%[1]d"}],"path":{"type":"PathPrefix","value":"/v1/chat/completions"}},` +
	`{"headers":[{"name":"model","type":"Exact","value":"model-%[1]d"}],"path":{"type":"PathPrefix","value":"/v1/completions"}}],"timeouts":{"request":"120s"}}]},"status":{"parents":[{"conditions":[` +
	`{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"Route is accepted","observedGeneration":1,"reason":"Accepted","status":"True","type":"Accepted"},` +
	`{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"Resolved all the Object references for the Route","observedGeneration":1,"reason":"ResolvedRefs","status":"True","type":"ResolvedRefs"}],` +
	`"controllerName":"gateway.envoyproxy.io/gatewayclass-controller","parentRef":{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"aibrix-eg"}}]}}}` + "\n"

// serveRoutes serves watches that begin with so many routes, whose backends are in other namespaces where one is given, and
// with nothing of other kinds.
func serveRoutes(b testing.TB, routes int, service func(i int) (name, namespace string)) *rest.Config {
	var all bytes.Buffer
	for i := range routes {
		name, namespace := service(i)
		if namespace != "" {
			namespace = fmt.Sprintf(`"namespace":%q,`, namespace)
		}
		fmt.Fprintf(&all, storedRoute, i, i+1, namespace, name)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		kind, version := "PartialObjectMetadata", "meta.k8s.io/v1"
		for resource, k := range map[string]string{"httproutes": "HTTPRoute", "grpcroutes": "GRPCRoute", "referencegrants": "ReferenceGrant"} {
			if strings.HasSuffix(r.URL.Path, resource) {
				kind, version = k, "gateway.networking.k8s.io/v1"
			}
		}
		if kind == "HTTPRoute" {
			_, _ = w.Write(all.Bytes())
		}
		fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"apiVersion":%q,"kind":%q,"metadata":{"resourceVersion":"%d","annotations":{%q:"true"}}}}`+"\n",
			version, kind, routes+1, metav1.InitialEventsAnnotationKey)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	b.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}
}

// fill returns when the caches hold what an API server has.
func fill(ctx context.Context, b testing.TB, config *rest.Config) *cluster.Reader {
	ctrl.SetLogger(logr.Discard())
	pol, err := policy.New(policy.DefaultConfig())
	require.NoError(b, err)
	served := cluster.Served{ReferenceGrants: "v1"}
	scheme := apiruntime.NewScheme()
	require.NoError(b, cluster.AddToScheme(scheme))
	require.NoError(b, metav1.AddMetaToScheme(scheme))
	mapper := meta.NewDefaultRESTMapper(nil)
	for gvk := range scheme.AllKnownTypes() {
		mapper.Add(gvk, meta.RESTScopeNamespace)
	}
	mapper.Add(cluster.NewNamespace().GroupVersionKind(), meta.RESTScopeRoot)
	newInformer, err := cluster.NewInformer(config, nil)
	require.NoError(b, err)
	caches, err := cache.New(config, cache.Options{Scheme: scheme, Mapper: mapper, ByObject: cluster.CacheOptions(served), NewInformer: newInformer})
	require.NoError(b, err)
	reader, err := cluster.NewReader(ctx, caches, served, pol)
	require.NoError(b, err)
	go func() { _ = caches.Start(ctx) }()
	require.True(b, caches.WaitForCacheSync(ctx))
	return reader
}

// BenchmarkFill fills the caches from the watches of an API server, as a start does, with 20,000 routes, of which every
// fifth has an edge, and reports how many bytes a route takes then.
func BenchmarkFill(b *testing.B) {
	const routes = 20_000
	config := serveRoutes(b, routes, func(i int) (name, namespace string) {
		if i%5 == 0 {
			return fmt.Sprintf("model-%d", i), fmt.Sprintf("team-%d", i/10)
		}
		return fmt.Sprintf("model-%d", i), ""
	})
	b.ReportAllocs()
	taken := 0.0
	for b.Loop() {
		before := inUse()
		ctx, stop := context.WithCancel(b.Context())
		reader := fill(ctx, b, config)
		if taken == 0 { // later ones begin with what is left of the one before
			taken = float64(inUse()) - float64(before)
		}
		runtime.KeepAlive(reader)
		stop()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/routes, "ns/route")
	b.ReportMetric(taken/routes, "B/route")
}

// TestAllocations bounds what a route's arrival in the caches allocates: read, decoded, trimmed and indexed, or changed.
func TestAllocations(t *testing.T) {
	t.Run("a start", func(t *testing.T) {
		const routes = 2000
		config := serveRoutes(t, routes, func(i int) (name, namespace string) { return fmt.Sprintf("model-%d", i), "models" })
		perRoute := policytest.AllocationsPerRun(t, 5, func() {
			ctx, stop := context.WithCancel(t.Context())
			fill(ctx, t, config)
			stop()
		}) / routes
		require.LessOrEqual(t, perRoute, 195.0)
	})
	t.Run("a change", func(t *testing.T) {
		transform := transformOf(t, "v1", &gwv1.HTTPRoute{})
		route := webhooktest.Route()
		policytest.AllocatesAtMost(t, 45, func() {
			if _, err := transform(route.DeepCopy()); err != nil {
				t.Error(err)
			}
		})
	})
}

// inUse is how many bytes of the heap are.
func inUse() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// BenchmarkNeeded asks whether any route needs a grant that so many routes need.
func BenchmarkNeeded(b *testing.B) {
	for _, routes := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("routes=%d", routes), func(b *testing.B) {
			reader := fill(b.Context(), b, serveRoutes(b, routes, func(int) (name, namespace string) { return "llama", "models" }))
			edge := policy.Edge{Origin: "aibrix-system", FromKind: policy.HTTPRoute, FromNamespace: "aibrix-system", Namespace: "models", Kind: "Service", Name: "llama"}
			grant := types.NamespacedName{Namespace: edge.Namespace, Name: edge.GrantName()}
			b.ReportAllocs()
			for b.Loop() {
				if needed, err := reader.Needed(b.Context(), grant); err != nil || !needed {
					b.Fatal(needed, err)
				}
			}
		})
	}
}
