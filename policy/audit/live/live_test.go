package live_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"

	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/audit/live"
)

// listFunc takes the place of a list.
type listFunc func(ctx context.Context, list client.ObjectList, o client.ListOptions, next func() error) error

// kindOf is the kind of a list.
func kindOf(list client.ObjectList) string {
	if other, ok := list.(*unstructured.UnstructuredList); ok {
		return other.GetKind()
	}
	return reflect.TypeOf(list).Elem().Name()
}

// newCluster is a cluster in memory that serves some kinds of Gateway API, whose lists go through a function.
func newCluster(t *testing.T, through listFunc, objects ...client.Object) *live.Cluster {
	t.Helper()
	scheme := runtime.NewScheme()
	require.NoError(t, clientgoscheme.AddToScheme(scheme))
	require.NoError(t, gwv1.Install(scheme))
	require.NoError(t, gwv1beta1.Install(scheme))
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, appsv1.SchemeGroupVersion, {Group: gwv1.GroupName, Version: "v1"}, {Group: gwv1.GroupName, Version: "v1beta1"}})
	for _, kind := range []schema.GroupVersionKind{
		corev1.SchemeGroupVersion.WithKind("Namespace"), corev1.SchemeGroupVersion.WithKind("Service"), corev1.SchemeGroupVersion.WithKind("ConfigMap"),
		discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), appsv1.SchemeGroupVersion.WithKind("Deployment"),
		schema.GroupVersionKind{Group: gwv1.GroupName, Version: "v1", Kind: "Gateway"}, schema.GroupVersionKind{Group: gwv1.GroupName, Version: "v1", Kind: "HTTPRoute"}, schema.GroupVersionKind{Group: gwv1.GroupName, Version: "v1beta1", Kind: "ReferenceGrant"},
	} {
		mapper.Add(kind, meta.RESTScopeNamespace)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithRESTMapper(mapper).WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			var o client.ListOptions
			o.ApplyOptions(options)
			next := func() error { return c.List(ctx, list, client.InNamespace(o.Namespace)) }
			if through == nil {
				return next()
			}
			return through(ctx, list, o, next)
		},
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			if key.Name == "hidden" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, key.Name, nil)
			}
			return c.Get(ctx, key, object, options...)
		},
	}).Build()
	return &live.Cluster{Client: c, Source: "memory"}
}

func objects() []client.Object {
	parent := gwv1.ParentReference{Name: "aibrix-eg"}
	route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "r"}}
	route.Spec.ParentRefs = []gwv1.ParentReference{parent}
	for _, namespace := range []string{"b", "a"} {
		route.Spec.Rules = append(route.Spec.Rules, gwv1.HTTPRouteRule{BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{
			BackendObjectReference: gwv1.BackendObjectReference{Name: "s", Namespace: new(gwv1.Namespace(namespace))},
		}}}})
	}
	service := func(namespace string) client.Object {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "s"}}
	}
	env := func(name, configMap string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: configMap}, Key: name}}}
	}
	return []client.Object{
		route, service("a"), service("b"), service("of-nobody"),
		&gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "aibrix-eg"}},
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "another"}},
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "aibrix-gateway-plugins"}, Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "gateway-plugin", Env: []corev1.EnvVar{env("ROUTING_ALGORITHM", "seen"), env("AIBRIX_HTTPROUTE_CACHE_TTL", "hidden"), env("AIBRIX_ROUTER_X", "gone"), env("PASSWORD", "not-asked")}}},
		}}}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "seen"}, Data: map[string]string{"ROUTING_ALGORITHM": "random"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "not-asked"}},
	}
}

func TestReadsWhatRoutesHaveToDoWith(t *testing.T) {
	read, err := newCluster(t, nil, objects()...).Read(t.Context(), live.Everything())
	require.NoError(t, err)
	require.Equal(t, "memory", read.Source)
	require.False(t, read.Time.IsZero())
	require.Len(t, read.Routes, 1)
	require.Len(t, read.Services, 2)
	require.Equal(t, []string{"a", "b"}, []string{read.Services[0].Namespace, read.Services[1].Namespace})
	require.Len(t, read.Deployments, 1)
	require.Len(t, read.ConfigMaps, 1)
	require.Equal(t, []audit.NotRead{{Resource: "configmaps", Namespace: "aibrix-system", Name: "hidden", Reason: "you may not read it"}}, read.NotRead)

	read, err = newCluster(t, nil, objects()...).Read(t.Context(), live.Options{})
	require.NoError(t, err)
	require.Empty(t, read.Services)
	require.Empty(t, read.Deployments)
	require.Len(t, read.NotRead, 3)
}

// TestGrantsOfOldReleases: the cluster serves ReferenceGrants of v1beta1 only, as Gateway API did before 1.5.
func TestGrantsOfOldReleases(t *testing.T) {
	grant := &gwv1beta1.ReferenceGrant{ObjectMeta: metav1.ObjectMeta{Namespace: "models", Name: "g"}}
	grant.Spec.To = []gwv1beta1.ReferenceGrantTo{{Kind: "Service", Name: new(gwv1.ObjectName("llama"))}}
	read, err := newCluster(t, nil, grant).Read(t.Context(), live.Everything())
	require.NoError(t, err)
	require.Len(t, read.Grants, 1)
	require.Equal(t, "g", read.Grants[0].Name)
	require.Equal(t, []gwv1.ReferenceGrantTo{{Kind: "Service", Name: new(gwv1.ObjectName("llama"))}}, read.Grants[0].Spec.To)

	garbled := func(_ context.Context, list client.ObjectList, _ client.ListOptions, next func() error) error {
		if other, ok := list.(*unstructured.UnstructuredList); ok {
			other.Items = []unstructured.Unstructured{{Object: map[string]any{"metadata": map[string]any{"namespace": "models", "name": "g"}, "spec": "none"}}}
			return nil
		}
		return next()
	}
	_, err = newCluster(t, garbled).Read(t.Context(), live.Everything())
	require.ErrorContains(t, err, "cannot read ReferenceGrant models/g: ")
}

func forbidden(resource string) error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no"))
}

func TestForbidden(t *testing.T) {
	deny := func(kind, namespace string) listFunc {
		return func(_ context.Context, list client.ObjectList, o client.ListOptions, next func() error) error {
			if kindOf(list) == kind+"List" && o.Namespace == namespace {
				return forbidden(kind)
			}
			return next()
		}
	}
	for _, kind := range []string{"HTTPRoute", "Gateway", "ReferenceGrant", "Namespace"} {
		_, err := newCluster(t, deny(kind, ""), objects()...).Read(t.Context(), live.Everything())
		require.ErrorContains(t, err, "cannot list ", kind)
		require.True(t, apierrors.IsForbidden(err), kind)
	}
	read, err := newCluster(t, deny("Service", "b"), objects()...).Read(t.Context(), live.Everything())
	require.NoError(t, err)
	require.Len(t, read.Services, 1)
	require.Contains(t, read.NotRead, audit.NotRead{Resource: "services", Namespace: "b", Reason: "you may not list services there"})
	read, err = newCluster(t, deny("Deployment", "aibrix-system"), objects()...).Read(t.Context(), live.Everything())
	require.NoError(t, err)
	require.Equal(t, []audit.NotRead{{Resource: "deployments", Namespace: "aibrix-system", Reason: "you may not list deployments there"}}, read.NotRead)
}

func TestOtherErrorsAreErrors(t *testing.T) {
	down := func(_ context.Context, list client.ObjectList, _ client.ListOptions, next func() error) error {
		if kindOf(list) == "EndpointSliceList" {
			return errors.New("down")
		}
		return next()
	}
	_, err := newCluster(t, down, objects()...).Read(t.Context(), live.Everything())
	require.EqualError(t, err, "cannot list endpointslices: down")
}

// TestPages sees that every page is read, also when the API server has forgotten the first ones in between.
func TestPages(t *testing.T) {
	const pages = 4
	expired := false
	var asked []string
	paged := func(_ context.Context, list client.ObjectList, o client.ListOptions, next func() error) error {
		if kindOf(list) != "NamespaceList" {
			return next()
		}
		require.Equal(t, int64(500), o.Limit)
		asked = append(asked, o.Continue)
		page := len(asked) - 1
		if page == 2 && !expired {
			expired = true
			asked = asked[:2]
			status := apierrors.NewResourceExpired("too old")
			status.ErrStatus.ListMeta.Continue = "inconsistent"
			return status
		}
		list.(*corev1.NamespaceList).Items = []corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n-%d", page)}}}
		if page < pages-1 {
			list.SetContinue(fmt.Sprint(page + 1))
		}
		return nil
	}
	read, err := newCluster(t, paged).Read(t.Context(), live.Options{})
	require.NoError(t, err)
	require.Len(t, read.Namespaces, pages)
	require.Equal(t, []string{"", "1", "inconsistent", "3"}, asked)

	alwaysExpired := func(_ context.Context, list client.ObjectList, _ client.ListOptions, next func() error) error {
		if kindOf(list) != "NamespaceList" {
			return next()
		}
		return apierrors.NewResourceExpired("too old")
	}
	_, err = newCluster(t, alwaysExpired).Read(t.Context(), live.Options{})
	require.ErrorContains(t, err, "cannot list namespaces: too old")
}

func TestReadsNoMoreRoutesThanItMay(t *testing.T) {
	route := func(name string) client.Object {
		return &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: name}}
	}
	cluster := newCluster(t, nil, route("a"), route("b"), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	read, err := cluster.Read(t.Context(), live.Options{MaxRoutes: 2})
	require.NoError(t, err)
	require.Len(t, read.Routes, 2)
	_, err = cluster.Read(t.Context(), live.Options{MaxRoutes: 1})
	require.EqualError(t, err, "the cluster has 2 httproutes, more than 1")

	// The first page shows how many follow.
	pages := 0
	many := newCluster(t, func(_ context.Context, list client.ObjectList, _ client.ListOptions, next func() error) error {
		if kindOf(list) != "HTTPRouteList" {
			return next()
		}
		pages++
		list.(*gwv1.HTTPRouteList).Items = make([]gwv1.HTTPRoute, 1)
		list.SetRemainingItemCount(new(int64(99_999)))
		list.SetContinue("more")
		return nil
	})
	_, err = many.Read(t.Context(), live.Options{MaxRoutes: 20_000})
	require.EqualError(t, err, "the cluster has 100000 httproutes, more than 20000")
	require.Equal(t, 1, pages)
}

func TestBackendsOfManyNamespacesAreListedAtOnce(t *testing.T) {
	const many = 60
	route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "r"}}
	objects := []client.Object{route, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "of-nobody", Name: "s"}}}
	for i := range many {
		namespace := fmt.Sprintf("n-%02d", i)
		route.Spec.Rules = append(route.Spec.Rules, gwv1.HTTPRouteRule{BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{
			BackendObjectReference: gwv1.BackendObjectReference{Name: "s", Namespace: new(gwv1.Namespace(namespace))},
		}}}})
		objects = append(objects, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "s"}})
	}
	for name, tt := range map[string]struct {
		forbidden bool
		lists     int32
	}{
		"by whoever may":                {lists: 1},
		"one by one by whoever may not": {forbidden: true, lists: 1 + many},
	} {
		t.Run(name, func(t *testing.T) {
			var lists atomic.Int32
			through := func(_ context.Context, list client.ObjectList, o client.ListOptions, next func() error) error {
				if kindOf(list) == "ServiceList" {
					lists.Add(1)
					if tt.forbidden && o.Namespace == "" {
						return forbidden("services")
					}
				}
				return next()
			}
			read, err := newCluster(t, through, objects...).Read(t.Context(), live.Options{Backends: true})
			require.NoError(t, err)
			require.Len(t, read.Services, many)
			require.Equal(t, tt.lists, lists.Load())
		})
	}
}
