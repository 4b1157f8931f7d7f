// Package clustertest has a cluster in memory for tests: an API server, and the caches of one replica in front of it, which
// can be made to fall behind.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster"
)

// Server is an API server in memory. Unlike the fake client alone it gives out UIDs and creation timestamps, and keeps the
// preconditions of deletions.
type Server struct {
	client.WithWatch
	raw    client.WithWatch
	scheme *runtime.Scheme
	served cluster.Served

	// OnCreate, OnDelete and OnGet are called before a write or a read past the caches; their error is its outcome.
	OnCreate, OnDelete func(obj client.Object) error
	OnGet              func(key client.ObjectKey, obj client.Object) error

	mu sync.Mutex
}

// NewServer holds the objects, and serves ReferenceGrants in one version.
func NewServer(t testing.TB, version string, objects ...client.Object) *Server {
	t.Helper()
	s := &Server{scheme: runtime.NewScheme(), served: cluster.Served{ReferenceGrants: version}}
	require.NoError(t, corev1.AddToScheme(s.scheme))
	require.NoError(t, cluster.AddToScheme(s.scheme))
	s.raw = fake.NewClientBuilder().WithScheme(s.scheme).WithGlobalResourceVersionCounter().
		WithStatusSubresource(&gwv1.HTTPRoute{}, &gwv1.GRPCRoute{}).
		WithIndex(&gwv1.HTTPRoute{}, "metadata.name", names).WithIndex(&gwv1.GRPCRoute{}, "metadata.name", names).Build()
	s.WithWatch = interceptor.NewClient(s.raw, interceptor.Funcs{Get: s.get, Create: s.create, Delete: s.delete})
	for _, obj := range objects {
		require.NoError(t, s.Create(t.Context(), obj.DeepCopyObject().(client.Object)))
	}
	return s
}

// names is an index that an API server has by itself.
func names(obj client.Object) []string { return []string{obj.GetName()} }

func (s *Server) get(ctx context.Context, next client.WithWatch, key client.ObjectKey, obj client.Object, options ...client.GetOption) error {
	if s.OnGet != nil {
		if err := s.OnGet(key, obj); err != nil {
			return err
		}
	}
	return next.Get(ctx, key, obj, options...)
}

func (s *Server) create(ctx context.Context, next client.WithWatch, obj client.Object, options ...client.CreateOption) error {
	if s.OnCreate != nil {
		if err := s.OnCreate(obj); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	obj.SetResourceVersion("")
	obj.SetUID(uuid.NewUUID())
	if created := obj.GetCreationTimestamp(); created.IsZero() {
		obj.SetCreationTimestamp(metav1.Now())
	}
	return next.Create(ctx, obj, options...)
}

func (s *Server) delete(ctx context.Context, next client.WithWatch, obj client.Object, options ...client.DeleteOption) error {
	if s.OnDelete != nil {
		if err := s.OnDelete(obj); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var o client.DeleteOptions
	o.ApplyOptions(options)
	if o.Preconditions != nil && o.Preconditions.UID != nil {
		stored := obj.DeepCopyObject().(client.Object)
		if err := next.Get(ctx, client.ObjectKeyFromObject(obj), stored); err != nil {
			return err
		}
		if stored.GetUID() != *o.Preconditions.UID {
			return apierrors.NewConflict(schema.GroupResource{}, obj.GetName(), errors.New("the UID in the precondition does not match"))
		}
	}
	return next.Delete(ctx, obj, options...)
}

// Caches are those of one replica. They follow the server at once, unless they are frozen.
type Caches struct {
	// Reader reads them.
	*cluster.Reader
	server *Server
	store  *store
}

// NewCaches are caches in front of the server. A list that no index answers is an error.
func NewCaches(t testing.TB, server *Server, pol *policy.Policy) *Caches {
	t.Helper()
	f := &store{scheme: server.scheme, transform: map[schema.GroupVersionKind]func(any) (any, error){}}
	for obj, by := range cluster.CacheOptions(server.served) {
		gvk, err := apiutil.GVKForObject(obj, server.scheme)
		require.NoError(t, err)
		f.transform[gvk] = by.Transform
	}
	reader, err := cluster.NewReader(t.Context(), f, server.served, pol)
	require.NoError(t, err)
	c := &Caches{reader, server, f}
	c.Thaw()
	return c
}

// Freeze makes the caches fall behind: what happens from now on is not seen.
func (c *Caches) Freeze(t testing.TB) {
	t.Helper()
	builder := fake.NewClientBuilder().WithScheme(c.server.scheme)
	lists := []client.ObjectList{&corev1.NamespaceList{}}
	for gvk := range c.store.transform {
		if gvk.Group != corev1.GroupName {
			list, err := c.server.scheme.New(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
			require.NoError(t, err)
			lists = append(lists, list.(client.ObjectList))
		}
	}
	for _, list := range lists {
		require.NoError(t, c.server.raw.List(t.Context(), list))
		builder.WithLists(list)
	}
	c.store.set(builder.Build())
}

// Thaw lets the caches catch up, and follow the server at once.
func (c *Caches) Thaw() { c.store.set(c.server.raw) }

// Fail makes every read from the caches fail; nil ends that.
func (c *Caches) Fail(err error) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.store.err = err
}

// store implements cache.Cache as far as a cluster.Reader needs it, with the transforms and indexes of the real caches.
type store struct {
	cache.Cache
	scheme    *runtime.Scheme
	indexes   []index
	transform map[schema.GroupVersionKind]func(any) (any, error)

	mu     sync.RWMutex
	source client.Reader
	err    error
}

type index struct {
	obj   client.Object
	field string
	fn    client.IndexerFunc
}

func (s *store) GetInformer(context.Context, client.Object, ...cache.InformerGetOption) (cache.Informer, error) {
	return nil, nil
}

func (s *store) IndexField(_ context.Context, obj client.Object, field string, fn client.IndexerFunc) error {
	s.indexes = append(s.indexes, index{obj, field, fn})
	return nil
}

func (s *store) set(source client.Reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.source = source
}

func (s *store) get() (client.Reader, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.source, s.err
}

func (s *store) Get(ctx context.Context, key client.ObjectKey, obj client.Object, options ...client.GetOption) error {
	source, err := s.get()
	if err != nil {
		return err
	}
	if err := source.Get(ctx, key, obj, options...); err != nil {
		return err
	}
	return s.trim(obj)
}

func (s *store) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(options)
	if o.FieldSelector == nil || o.LabelSelector != nil {
		return fmt.Errorf("%T is listed without an index", list)
	}
	source, err := s.get()
	if err != nil {
		return err
	}
	if err := source.List(ctx, list, client.InNamespace(o.Namespace)); err != nil {
		return err
	}
	items, err := meta.ExtractList(list)
	if err != nil {
		return err
	}
	var found []runtime.Object
	for _, item := range items {
		obj := item.(client.Object)
		if err := s.trim(obj); err != nil {
			return err
		}
		matches, err := s.matches(obj, o.FieldSelector)
		if err != nil {
			return err
		}
		if matches && (o.Limit == 0 || int64(len(found)) < o.Limit) {
			found = append(found, obj)
		}
	}
	return meta.SetList(list, found)
}

func (s *store) matches(obj client.Object, selector fields.Selector) (bool, error) {
	for _, requirement := range selector.Requirements() {
		at := slices.IndexFunc(s.indexes, func(i index) bool {
			return i.field == requirement.Field && reflect.TypeOf(i.obj) == reflect.TypeOf(obj)
		})
		if at < 0 {
			return false, fmt.Errorf("%T has no index %q", obj, requirement.Field)
		}
		if !slices.Contains(s.indexes[at].fn(obj), requirement.Value) {
			return false, nil
		}
	}
	return true, nil
}

func (s *store) trim(obj client.Object) error {
	gvk, err := apiutil.GVKForObject(obj, s.scheme)
	if err != nil {
		return err
	}
	transform, ok := s.transform[gvk]
	if !ok {
		return fmt.Errorf("%s is not cached", gvk)
	}
	_, err = transform(obj)
	return err
}
