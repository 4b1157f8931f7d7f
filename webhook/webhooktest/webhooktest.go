// Package webhooktest has the admission webhooks over caches that are fed without an API server, and what to ask them. It is
// for benchmarks.
package webhooktest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	cachetesting "k8s.io/client-go/tools/cache/testing"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
	"github.com/routesteward/routesteward/webhook"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/grants"
	"github.com/routesteward/routesteward/webhook/metrics"
)

// Noop is a webhook that allows everything, as controller-runtime makes it.
func Noop() http.Handler {
	return &admission.Webhook{Handler: admission.HandlerFunc(
		func(context.Context, admission.Request) admission.Response { return admission.Allowed("") })}
}

// New are the webhooks in a cluster of so many namespaces with 20 routes into each, whose caches end with ctx. The requester may create ReferenceGrants
// nowhere, and whatever reads or writes past the caches panics.
func New(ctx context.Context, config policy.Config, log *slog.Logger, namespaces int) (webhook.Webhooks, error) {
	pol, err := policy.New(config)
	if err != nil {
		return webhook.Webhooks{}, err
	}
	m, err := metrics.New(prometheus.NewRegistry())
	if err != nil {
		return webhook.Webhooks{}, err
	}
	caches, err := Caches(ctx, pol, objects(pol, namespaces)...)
	if err != nil {
		return webhook.Webhooks{}, err
	}
	return webhook.Webhooks{
		Policy: pol,
		Caches: caches,
		MayCreateGrants: func(context.Context, authenticationv1.UserInfo, string) (bool, error) {
			return false, nil
		},
		Grants:  &grants.Maker{Caches: caches, Grace: time.Minute, Metrics: m},
		Metrics: m,
		Log:     log,
	}, nil
}

// Caches are informer caches that hold the objects. They end with ctx.
func Caches(ctx context.Context, pol *policy.Policy, objects ...client.Object) (*cluster.Reader, error) {
	scheme := runtime.NewScheme()
	if err := cluster.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		return nil, err
	}
	mapper := meta.NewDefaultRESTMapper(nil)
	for gvk := range scheme.AllKnownTypes() {
		mapper.Add(gvk, meta.RESTScopeNamespace)
	}
	mapper.Add(cluster.NewNamespace().GroupVersionKind(), meta.RESTScopeRoot)
	served := cluster.Served{ReferenceGrants: "v1"}

	sources := map[string]fakeSource{}
	for _, obj := range objects {
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
	if err != nil {
		return nil, err
	}
	reader, err := cluster.NewReader(ctx, caches, served, pol)
	if err != nil {
		return nil, err
	}
	go func() { _ = caches.Start(ctx) }()
	if !caches.WaitForCacheSync(ctx) {
		return nil, fmt.Errorf("the caches do not sync: %w", ctx.Err())
	}
	return reader, nil
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

// objects are namespaces with 20 routes into each, a foreign grant that does not permit them, and the managed grants
// that do.
func objects(pol *policy.Policy, namespaces int) []client.Object {
	namespace := func(name string) client.Object {
		obj := cluster.NewNamespace()
		obj.SetName(name)
		return obj
	}
	gateway := cluster.NewGateway()
	gateway.SetNamespace(pol.SystemNamespace)
	gateway.SetName("aibrix-eg")
	all := []client.Object{gateway, namespace(pol.SystemNamespace), namespace("team-a")}
	for i := range namespaces {
		name := fmt.Sprintf("models-%d", i)
		foreign := policy.Edge{Origin: "team-a", FromKind: policy.GRPCRoute, FromNamespace: "team-a", Namespace: name, Kind: "Service"}.Grant("")
		foreign.Labels = nil
		all = append(all, namespace(name), foreign)
		for j := range 20 {
			route := policytest.Wide(1, 1, 0, name)
			route.Name = fmt.Sprintf("%s-%d", name, j)
			route.Spec.Rules[0].BackendRefs[0].Name = gwv1.ObjectName(fmt.Sprintf("model-%d", j))
			all = append(all, route)
			typed, _ := policy.RouteOf(route)
			for _, edge := range pol.Edges(typed) {
				grant := edge.Grant(string(policy.ConsentByRequester))
				// Past the grace, so that it counts only as long as a route needs it.
				grant.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
				all = append(all, grant)
			}
		}
	}
	return all
}

// Question is a request and what becomes of it.
type Question struct {
	Name string
	// Review is an AdmissionReview.
	Review  []byte
	Allowed bool
}

// Questions are requests about routes as AIBrix's controller writes them, with what the API server adds.
func Questions() []Question {
	own, granted, refused, outside := Route(), Route(), Route(), Route()
	backend := func(route *gwv1.HTTPRoute) *gwv1.BackendObjectReference {
		return &route.Spec.Rules[0].BackendRefs[0].BackendObjectReference
	}
	backend(granted).Name, backend(granted).Namespace = "model-1", new(gwv1.Namespace("models-1"))
	backend(refused).Name, backend(refused).Namespace = "secret", new(gwv1.Namespace("models-1"))
	outside.Namespace = "team-a"
	renamed := granted.DeepCopy()
	renamed.Spec.Rules[0].Matches = renamed.Spec.Rules[0].Matches[:1]
	wide := policytest.Wide(8, 2, 0, "models-1")
	wide.ManagedFields = own.ManagedFields
	for i := range wide.Spec.Rules {
		for j := range wide.Spec.Rules[i].BackendRefs {
			wide.Spec.Rules[i].BackendRefs[j].Name = gwv1.ObjectName(fmt.Sprintf("model-%d", 2*i+j))
		}
	}
	return []Question{
		{"create, own namespace", Review(own, nil), true},
		{"create, granted before", Review(granted, nil), true},
		{"update, granted before", Review(renamed, granted), true},
		{"create, 16 backends granted before", Review(wide, nil), true},
		{"create, no consent: refused", Review(refused, nil), false},
		{"create, outside: refused", Review(outside, nil), false},
	}
}

// Route is a route as AIBrix's controller writes it, in the system namespace, as the API server sends it.
func Route() *gwv1.HTTPRoute {
	match := func(path string) gwv1.HTTPRouteMatch {
		return gwv1.HTTPRouteMatch{
			Path:    &gwv1.HTTPPathMatch{Type: new(gwv1.PathMatchPathPrefix), Value: new(path)},
			Headers: []gwv1.HTTPHeaderMatch{{Type: new(gwv1.HeaderMatchExact), Name: "model", Value: "model-1"}},
		}
	}
	created := metav1.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &gwv1.HTTPRoute{
		TypeMeta: metav1.TypeMeta{APIVersion: gwv1.GroupVersion.String(), Kind: string(policy.HTTPRoute)},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "aibrix-system", Name: "model-1-router", UID: "3f0c9a52-6a0e-4d5a-9d4b-7a3b8d1c2e4f", Generation: 1,
			CreationTimestamp: created, Labels: map[string]string{"model.aibrix.ai/name": "model-1"},
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: "aibrix-controller-manager", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: gwv1.GroupVersion.String(),
				Time: &created, FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(
					`{"f:metadata":{"f:labels":{".":{},"f:model.aibrix.ai/name":{}}},"f:spec":{".":{},"f:parentRefs":{},"f:rules":{}}}`)},
			}},
		},
		Spec: gwv1.HTTPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{
				Group: new(gwv1.Group(gwv1.GroupName)), Kind: new(gwv1.Kind(policy.Gateway)), Name: "aibrix-eg", Namespace: new(gwv1.Namespace("aibrix-system")),
			}}},
			Rules: []gwv1.HTTPRouteRule{{
				Matches: []gwv1.HTTPRouteMatch{match("/v1/completions"), match("/v1/chat/completions")},
				BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{
					BackendObjectReference: gwv1.BackendObjectReference{
						Group: new(gwv1.Group("")), Kind: new(gwv1.Kind("Service")), Name: "model-1", Port: new(gwv1.PortNumber(8000)),
					},
					Weight: new(int32(1)),
				}}},
				Timeouts: &gwv1.HTTPRouteTimeouts{Request: new(gwv1.Duration("120s"))},
			}},
		},
	}
}

// Review asks about the creation of a route, or where there is an old one about its update.
func Review(route, old *gwv1.HTTPRoute) []byte {
	kind := metav1.GroupVersionKind{Group: gwv1.GroupName, Version: "v1", Kind: "HTTPRoute"}
	resource := metav1.GroupVersionResource{Group: gwv1.GroupName, Version: "v1", Resource: "httproutes"}
	request := &admissionv1.AdmissionRequest{
		UID:  "0e6f5d2a-6a0e-4d5a-9d4b-7a3b8d1c2e4f",
		Kind: kind, RequestKind: &kind, Resource: resource, RequestResource: &resource,
		Name: route.Name, Namespace: route.Namespace, Operation: admissionv1.Create,
		UserInfo: authenticationv1.UserInfo{
			Username: "system:serviceaccount:aibrix-system:aibrix-controller-manager", UID: "5b1e4c1e-8a51-4a05-9c5e-0a6d8b1f9c55",
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:aibrix-system", "system:authenticated"},
			Extra: map[string]authenticationv1.ExtraValue{
				"authentication.kubernetes.io/credential-id": {"JTI=7ee52be0-9045-4653-aa5e-0da57b8dccdc"},
				"authentication.kubernetes.io/pod-name":      {"aibrix-controller-manager-5d8f6c7b9-x2x7k"},
			},
		},
		Object:  runtime.RawExtension{Raw: marshal(route)},
		DryRun:  new(false),
		Options: runtime.RawExtension{Raw: []byte(`{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1","fieldManager":"aibrix-controller-manager","fieldValidation":"Ignore"}`)},
	}
	if old != nil {
		request.Operation, request.OldObject.Raw = admissionv1.Update, marshal(old)
	}
	return marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"},
		Request:  request,
	})
}

func marshal(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil { // what is marshalled here can be
		panic(err)
	}
	return raw
}
