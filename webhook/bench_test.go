package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	cachetesting "k8s.io/client-go/tools/cache/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/policy/random"
	"github.com/routewarden/routewarden/webhook/cluster"
	"github.com/routewarden/routewarden/webhook/grants"
	"github.com/routewarden/routewarden/webhook/metrics"
)

// BenchmarkAdmission is a whole admission over HTTPS as the API server asks for it (HTTP/1.1, kept alive), with a cluster
// of 2,000 routes in the caches, beside a webhook that allows everything.
func BenchmarkAdmission(b *testing.B) {
	const noopPath = "/noop"
	inside := random.Wide(1, 1, 0, "")
	outside := inside.DeepCopy()
	outside.Namespace = "team-a"
	outside.Spec.ParentRefs[0].Namespace = new(gwv1.Namespace("aibrix-system"))
	granted := random.Wide(1, 1, 0, "models")

	url, client := serveBenchmark(b, noopPath, granted)
	for _, bm := range []struct {
		name, path string
		route      *gwv1.HTTPRoute
		allowed    bool
	}{
		{name: "noop", path: noopPath, route: inside, allowed: true},
		{name: "routewarden-no-finding", path: validatePath, route: inside, allowed: true},
		{name: "routewarden-denied", path: validatePath, route: outside},
		{name: "routewarden-granted-existing", path: validatePath, route: granted, allowed: true},
	} {
		review := reviewOf(b, bm.route)
		post := func(answer io.Writer) error {
			response, err := client.Post(url+bm.path, "application/json", bytes.NewReader(review))
			if err != nil {
				return err
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusOK {
				return fmt.Errorf("%s", response.Status)
			}
			_, err = io.Copy(answer, response.Body)
			return err
		}
		var first bytes.Buffer
		require.NoError(b, post(&first))
		var answer admissionv1.AdmissionReview
		require.NoError(b, json.Unmarshal(first.Bytes(), &answer))
		require.Equal(b, bm.allowed, answer.Response.Allowed, "%v", answer.Response.Result)
		if !bm.allowed {
			require.EqualValues(b, http.StatusForbidden, answer.Response.Result.Code, "%v", answer.Response.Result)
		}

		b.Run(bm.name+"/serial", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := post(io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(bm.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := post(io.Discard); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// serveBenchmark serves both webhooks, with the grants that a route needs in the caches.
func serveBenchmark(b *testing.B, noopPath string, granted *gwv1.HTTPRoute) (string, *http.Client) {
	log := Options{LogFormat: LogJSON, LogLevel: LogInfo}.Logger(io.Discard)
	ctrl.SetLogger(log)
	pol, err := policy.New(policy.DefaultConfig())
	require.NoError(b, err)
	m, err := metrics.New(prometheus.NewRegistry())
	require.NoError(b, err)
	reader := benchmarkReader(b, pol, granted)

	server := ctrlwebhook.NewServer(ctrlwebhook.Options{})
	server.Register(noopPath, &admission.Webhook{Handler: admission.HandlerFunc(
		func(context.Context, admission.Request) admission.Response { return admission.Allowed("") })})
	server.Register(validatePath, &admission.Webhook{Handler: &validator{
		policy: pol, facts: reader, access: nobody{}, metrics: m, log: log,
		// Without clients: writing or reading past the caches would panic.
		grants: &grants.Maker{Caches: reader, Grace: time.Minute, Metrics: m},
	}})
	served := httptest.NewUnstartedServer(server.WebhookMux())
	served.StartTLS()
	b.Cleanup(served.Close)
	client := served.Client()
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = 1000
	return served.URL, client
}

// nobody may create ReferenceGrants.
type nobody struct{}

func (nobody) mayCreateGrants(context.Context, authenticationv1.UserInfo, string) (bool, error) {
	return false, nil
}

// benchmarkReader reads informer caches that are fed without an API server.
func benchmarkReader(b *testing.B, pol *policy.Policy, granted *gwv1.HTTPRoute) *cluster.Reader {
	scheme := runtime.NewScheme()
	require.NoError(b, cluster.AddToScheme(scheme))
	require.NoError(b, metav1.AddMetaToScheme(scheme))
	mapper := meta.NewDefaultRESTMapper(nil)
	for gvk := range scheme.AllKnownTypes() {
		mapper.Add(gvk, meta.RESTScopeNamespace)
	}
	mapper.Add(cluster.NewNamespace().GroupVersionKind(), meta.RESTScopeRoot)
	served := cluster.Served{ReferenceGrants: "v1"}

	sources := map[string]fakeSource{}
	for _, obj := range benchmarkObjects(pol, granted) {
		key := sourceKey(obj)
		if _, ok := sources[key]; !ok {
			sources[key] = fakeSource{cachetesting.NewFakeControllerSource()}
		}
		sources[key].Add(obj)
	}
	caches, err := cache.New(&rest.Config{}, cache.Options{
		Scheme:     scheme,
		Mapper:     mapper,
		HTTPClient: http.DefaultClient,
		ByObject:   cluster.CacheOptions(served),
		NewInformer: func(_ toolscache.ListerWatcher, obj runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
			source, ok := sources[sourceKey(obj)]
			if !ok {
				source = fakeSource{cachetesting.NewFakeControllerSource()}
			}
			return toolscache.NewSharedIndexInformer(source, obj, resync, indexers)
		},
	})
	require.NoError(b, err)
	reader, err := cluster.NewReader(b.Context(), caches, served, pol)
	require.NoError(b, err)
	go func() { _ = caches.Start(b.Context()) }()
	require.True(b, caches.WaitForCacheSync(b.Context()))
	return reader
}

// benchmarkObjects are 100 namespaces with 20 routes into each, a foreign grant that does not permit them, and the managed
// grants that do.
func benchmarkObjects(pol *policy.Policy, granted *gwv1.HTTPRoute) []client.Object {
	namespace := func(name string) client.Object {
		obj := cluster.NewNamespace()
		obj.SetName(name)
		return obj
	}
	gateway := cluster.NewGateway()
	gateway.SetNamespace(pol.SystemNamespace)
	gateway.SetName(string(granted.Spec.ParentRefs[0].Name))
	objects := []client.Object{gateway, namespace(pol.SystemNamespace), namespace("team-a")}

	add := func(route *gwv1.HTTPRoute) {
		objects = append(objects, route)
		typed, _ := policy.RouteOf(route)
		for _, edge := range pol.Edges(typed) {
			grant := edge.Grant(string(policy.ConsentByRequester))
			// Past the grace, so that it counts only as long as a route needs it.
			grant.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
			objects = append(objects, grant)
		}
	}
	existing := granted.DeepCopy()
	existing.Name = "existing"
	add(existing)
	for i := range 100 {
		name := "models"
		if i > 0 {
			name = fmt.Sprintf("models-%d", i)
		}
		foreign := policy.Edge{Origin: "team-a", FromKind: policy.GRPCRoute, FromNamespace: "team-a", Namespace: name, Kind: "Service"}.Grant("")
		foreign.Labels = nil
		objects = append(objects, namespace(name), foreign)
		for j := range 20 {
			route := random.Wide(1, 1, 0, name)
			route.Name = fmt.Sprintf("%s-%d", name, j)
			route.Spec.Rules[0].BackendRefs[0].Name = gwv1.ObjectName(fmt.Sprintf("model-%d", j))
			add(route)
		}
	}
	return objects
}

// sourceKey is the type, and for what is cached as metadata alone also the kind.
func sourceKey(obj runtime.Object) string {
	if metadata, ok := obj.(*metav1.PartialObjectMetadata); ok {
		return metadata.Kind
	}
	return fmt.Sprintf("%T", obj)
}

// fakeSource lists and watches what it was given, without the streaming lists of newer API servers.
type fakeSource struct {
	*cachetesting.FakeControllerSource
}

func (fakeSource) IsWatchListSemanticsUnSupported() bool { return true }

// reviewOf asks about the creation of a route.
func reviewOf(b *testing.B, route *gwv1.HTTPRoute) []byte {
	raw, err := json.Marshal(route)
	require.NoError(b, err)
	kind := metav1.GroupVersionKind{Group: gwv1.GroupName, Version: "v1", Kind: "HTTPRoute"}
	resource := metav1.GroupVersionResource{Group: gwv1.GroupName, Version: "v1", Resource: "httproutes"}
	review, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID:  "0e6f5d2a-6a0e-4d5a-9d4b-7a3b8d1c2e4f",
			Kind: kind, RequestKind: &kind, Resource: resource, RequestResource: &resource,
			Name: route.Name, Namespace: route.Namespace, Operation: admissionv1.Create,
			UserInfo: authenticationv1.UserInfo{Username: "alice", Groups: []string{"system:authenticated"}},
			Object:   runtime.RawExtension{Raw: raw},
			DryRun:   new(false),
			Options:  runtime.RawExtension{Raw: []byte(`{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}`)},
		},
	})
	require.NoError(b, err)
	return review
}
