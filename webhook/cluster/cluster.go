// Package cluster is what routesteward reads of the cluster: which versions are served, caches that hold no more than
// is needed, their indexes, and the policy's facts answered from them.
//
// # Freshness
//
// Caches follow by watches, which can fall behind. Freshness knows one of three states:
//
//   - current: the caches have kept up since the time that Since returns.
//   - broken: a read of what is stored failed, or a watch did, or there was no watch for longer than the patience.
//   - catching up: a read that began after the last break went well. The caches have to reach what it found.
//
// Any break leads to broken. A read that goes well leads from there to catching up, and what the caches reach to current.
// In every state nothing is known while no read was answered, or there is no watch, for longer than the patience, also
// because this process did not run. Once an answer comes Since begins again, without a need to catch up: no watch was lost.
package cluster

import (
	"context"
	"fmt"
	"hash/maphash"
	"iter"
	"math/bits"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"

	"github.com/routesteward/routesteward/policy"
)

// AddToScheme adds the kinds that routesteward reads and writes as typed objects, besides client-go's own.
func AddToScheme(scheme *runtime.Scheme) error {
	if err := gwv1.Install(scheme); err != nil {
		return err
	}
	return gwv1beta1.Install(scheme)
}

// Served are the versions of Gateway API's kinds the API server serves.
type Served struct {
	// ReferenceGrants is v1 (Gateway API 1.5 and later) or v1beta1.
	ReferenceGrants string
}

// Discover asks the API server which versions it serves. A kind of the policy that is not served is an error.
func Discover(config *rest.Config, pol *policy.Policy) (Served, error) {
	http, err := rest.HTTPClientFor(config)
	if err != nil {
		return Served{}, err
	}
	mapper, err := apiutil.NewDynamicRESTMapper(config, http)
	if err != nil {
		return Served{}, err
	}
	for _, kind := range append([]policy.Kind{policy.Gateway}, pol.Kinds...) {
		if _, err := mapper.RESTMapping(schema.GroupKind{Group: gwv1.GroupName, Kind: string(kind)}, "v1"); err != nil {
			hint := "install the CRDs of Gateway API 1.1 or later"
			if kind != policy.Gateway && len(pol.Kinds) > 1 {
				hint += fmt.Sprintf(", or leave %s out of --kinds", kind)
			}
			return Served{}, fmt.Errorf("%s of %s is not served here: %s: %w", kind, gwv1.GroupVersion, hint, err)
		}
	}
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: gwv1.GroupName, Kind: string(policy.ReferenceGrant)}, "v1", "v1beta1")
	if err != nil {
		return Served{}, fmt.Errorf("ReferenceGrant of %s is served neither as v1 nor as v1beta1: install the CRDs of Gateway API: %w", gwv1.GroupName, err)
	}
	return Served{ReferenceGrants: mapping.GroupVersionKind.Version}, nil
}

// NewGrant is an empty ReferenceGrant of the version that is served.
func (s Served) NewGrant() client.Object {
	if s.ReferenceGrants == gwv1beta1.GroupVersion.Version {
		return &gwv1beta1.ReferenceGrant{}
	}
	return &gwv1.ReferenceGrant{}
}

// GrantObject is the grant as an object of the version that is served; they share memory.
func (s Served) GrantObject(grant *gwv1.ReferenceGrant) client.Object {
	if s.ReferenceGrants == gwv1beta1.GroupVersion.Version {
		old := (*gwv1beta1.ReferenceGrant)(grant)
		old.APIVersion = gwv1beta1.GroupVersion.String()
		return old
	}
	return grant
}

// GrantOf is an object of either version as v1, whose fields are the same; they share memory. Nil for other objects.
func GrantOf(obj client.Object) *gwv1.ReferenceGrant {
	switch g := obj.(type) {
	case *gwv1.ReferenceGrant:
		return g
	case *gwv1beta1.ReferenceGrant:
		return (*gwv1.ReferenceGrant)(g)
	}
	return nil
}

// NewRoute is an empty route of the kind.
func NewRoute(kind policy.Kind) client.Object {
	row, _ := policy.RouteKindOf(kind)
	return row.New()
}

// newRoutes is an empty list of routes of the kind.
func newRoutes(kind policy.Kind) client.ObjectList {
	row, _ := policy.RouteKindOf(kind)
	return row.NewList()
}

const namespaceKind policy.Kind = "Namespace"

// NewNamespace is an empty Namespace's metadata. Namespaces and Gateways are cached as metadata alone.
func NewNamespace() *metav1.PartialObjectMetadata {
	obj := &metav1.PartialObjectMetadata{}
	obj.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(string(namespaceKind)))
	return obj
}

// NewGateway is an empty Gateway's metadata.
func NewGateway() *metav1.PartialObjectMetadata {
	obj := &metav1.PartialObjectMetadata{}
	obj.SetGroupVersionKind(schema.GroupVersionKind{Group: gwv1.GroupName, Version: "v1", Kind: string(policy.Gateway)})
	return obj
}

// IsMirrored reports whether routesteward wrote a status.parents entry of that controllerName.
func IsMirrored(controller gwv1.GatewayController) bool {
	return strings.HasPrefix(string(controller), policy.MirrorPrefix)
}

// Watch is one kind of objects that a reconciler watches, and what their events lead to.
type Watch struct {
	Object  client.Object
	Handler handler.EventHandler
	// Predicate passes the events that the handler is given.
	Predicate predicate.Predicate
}

// EveryEvent is the predicate that passes all.
var EveryEvent = predicate.Funcs{}

// NamespaceChanged passes events of namespaces in which what consent and creation depend on.
var NamespaceChanged = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetLabels()[policy.GrantsLabel] != e.ObjectNew.GetLabels()[policy.GrantsLabel] ||
			(e.ObjectOld.GetDeletionTimestamp() == nil) != (e.ObjectNew.GetDeletionTimestamp() == nil)
	},
}

// The indexes of the caches.
const (
	// byForeign finds the ReferenceGrants that are not managed by their namespace.
	byForeign = "routesteward/foreign"
	// byGrant finds the routes of one level by the managed grants that their edges need; see atLevels.
	byGrant = "routesteward/grant"
	// ByTarget finds routes by the other namespaces that they refer to.
	ByTarget = "routesteward/target"
	// ByGateway finds routes outside the system namespace that name a Gateway without a namespace by the two Gateways
	// ("namespace/name") whose existence decides which one they mean.
	ByGateway = "routesteward/gateway"
	// byCopy finds routes outside the system namespace that are parked, or whose status shows that they were, by the name of
	// their relocated copy.
	byCopy = "routesteward/copy"
)

// Reader reads the caches.
type Reader struct {
	client.Reader
	served Served
	policy *policy.Policy
	// informers by the kind of what they hold. Their indexes are read without a list's selectors and copies, which cost more
	// than all the rest of a decision.
	informers map[policy.Kind]toolscache.SharedIndexInformer
}

// NewReader adds the indexes to the caches and starts their informers. It must be called before the caches start.
func NewReader(ctx context.Context, caches cache.Cache, served Served, pol *policy.Policy) (*Reader, error) {
	r := &Reader{Reader: caches, served: served, policy: pol, informers: map[policy.Kind]toolscache.SharedIndexInformer{}}
	for kind, obj := range map[policy.Kind]client.Object{namespaceKind: NewNamespace(), policy.Gateway: NewGateway()} {
		informer, err := caches.GetInformer(ctx, obj, cache.BlockUntilSynced(false))
		if err != nil {
			return nil, err
		}
		if shared, ok := informer.(toolscache.SharedIndexInformer); ok {
			r.informers[kind] = shared
		}
	}
	if err := r.index(ctx, caches, policy.ReferenceGrant, served.NewGrant(), byForeign, func(obj client.Object) []string {
		if policy.IsManaged(GrantOf(obj)) {
			return nil
		}
		return []string{obj.GetNamespace()}
	}); err != nil {
		return nil, err
	}
	for _, kind := range pol.Kinds {
		for name, index := range map[string]func(policy.Route) []string{
			byGrant: r.grantKeys, ByTarget: r.targets, ByGateway: r.gateways,
		} {
			if err := r.index(ctx, caches, kind, NewRoute(kind), name, func(obj client.Object) []string {
				route, ok := policy.RouteOf(obj)
				if !ok || !pol.MayGovern(route) || route.Meta.DeletionTimestamp != nil {
					return nil
				}
				return index(route)
			}); err != nil {
				return nil, err
			}
		}
		if err := r.index(ctx, caches, kind, NewRoute(kind), byCopy, func(obj client.Object) []string {
			if name, ok := r.CopyName(obj); ok {
				return []string{name}
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// index adds an index.
func (r *Reader) index(ctx context.Context, caches cache.Cache, kind policy.Kind, obj client.Object, name string, values client.IndexerFunc) error {
	informer, err := caches.GetInformer(ctx, obj, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	shared, ok := informer.(toolscache.SharedIndexInformer)
	if !ok { // caches without informers
		return caches.IndexField(ctx, obj, name, values)
	}
	r.informers[kind] = shared
	return shared.AddIndexers(toolscache.Indexers{name: func(cached any) ([]string, error) {
		obj, ok := cached.(client.Object)
		if !ok {
			return nil, fmt.Errorf("%T is no object", cached)
		}
		return values(obj), nil
	}})
}

// indexed are the objects of a kind that an index finds; false where there is no informer, or it is not synced yet: then a
// list waits for it.
func (r *Reader) indexed(kind policy.Kind, index, value string) ([]any, bool, error) {
	informer := r.informers[kind]
	if informer == nil || !informer.HasSynced() {
		return nil, false, nil
	}
	found, err := informer.GetIndexer().ByIndex(index, value)
	return found, true, err
}

// cached is the object of a kind with a name, or nil where there is none; false as for indexed.
func (r *Reader) cached(kind policy.Kind, key types.NamespacedName) (any, bool) {
	informer := r.informers[kind]
	if informer == nil || !informer.HasSynced() {
		return nil, false
	}
	obj, _, err := informer.GetIndexer().GetByKey(toolscache.NewObjectName(key.Namespace, key.Name).String())
	return obj, err == nil
}

// CopyName is the name of the relocated copy of a route that is parked, or was parked as its status shows.
func (r *Reader) CopyName(obj client.Object) (string, bool) {
	route, ok := policy.RouteOf(obj)
	if !ok || route.Namespace == r.policy.SystemNamespace || !r.policy.IsParked(route) && !wasParked(obj) {
		return "", false
	}
	return r.policy.CopyName(route.Namespace, route.Meta.Name), true
}

func wasParked(obj client.Object) bool {
	var parents []gwv1.RouteParentStatus
	if status := policy.StatusOf(obj); status != nil {
		parents = status.Parents
	}
	return slices.ContainsFunc(parents, func(s gwv1.RouteParentStatus) bool { return IsMirrored(s.ControllerName) })
}

// Sources lists the routes of a kind whose relocated copy has the name, those that were parked as their status shows
// included; the objects are shared.
func (r *Reader) Sources(ctx context.Context, kind policy.Kind, copyName string) ([]client.Object, error) {
	return r.routes(ctx, kind, byCopy, copyName)
}

// GrantKeys are the managed grants that the route's edges need, if the policy governs it.
func (r *Reader) GrantKeys(route policy.Route) []types.NamespacedName {
	if !r.policy.MayGovern(route) {
		return nil
	}
	var keys []types.NamespacedName
	for _, edge := range r.policy.Edges(route) {
		keys = append(keys, types.NamespacedName{Namespace: edge.Namespace, Name: r.policy.Granted(edge).GrantName()})
	}
	return keys
}

func (r *Reader) grantKeys(route policy.Route) []string {
	var keys []string
	for _, key := range r.GrantKeys(route) {
		keys = append(keys, atLevels(key)[level(route)])
	}
	return keys
}

// Thousands of routes may need one grant, and an index has no cheaper answer than all that it finds. So a route is in one of
// three levels, by chance: one in 64 above the lowest, of these one in 64 at the top. The highest level that has any has few.
const (
	levels    = 3
	levelBits = 6
)

var levelSeed = maphash.MakeSeed()

func level(route policy.Route) int {
	var hash maphash.Hash
	hash.SetSeed(levelSeed)
	_, _ = hash.WriteString(route.Namespace)
	_ = hash.WriteByte('/')
	_, _ = hash.WriteString(route.Meta.Name)
	return min(bits.TrailingZeros64(hash.Sum64())/levelBits, levels-1)
}

// atLevels are a grant's values of byGrant, from the lowest level on; they share memory.
func atLevels(grant types.NamespacedName) [levels]string {
	top := "@@" + grant.Namespace + "/" + grant.Name
	return [levels]string{top[2:], top[1:], top}
}

// Needing yields the routes of every kind of the policy that need a managed grant, and the error that ends it, if any; the objects
// are shared. What the first one costs hardly depends on how many there are.
func (r *Reader) Needing(ctx context.Context, grant types.NamespacedName) iter.Seq2[client.Object, error] {
	return func(yield func(client.Object, error) bool) {
		values := atLevels(grant)
		for _, value := range slices.Backward(values[:]) {
			for _, kind := range r.policy.Kinds {
				routes, err := r.routes(ctx, kind, byGrant, value)
				if err != nil {
					yield(nil, err)
					return
				}
				for _, route := range routes {
					if !yield(route, nil) {
						return
					}
				}
			}
		}
	}
}

// Needed reports whether any route needs a managed grant.
func (r *Reader) Needed(ctx context.Context, grant types.NamespacedName) (bool, error) {
	for _, err := range r.Needing(ctx, grant) {
		return err == nil, err
	}
	return false, nil
}

func (r *Reader) targets(route policy.Route) []string {
	var namespaces []string
	for _, edge := range r.policy.Edges(route) {
		namespaces = append(namespaces, edge.Namespace)
	}
	return namespaces
}

func (r *Reader) gateways(route policy.Route) []string {
	if route.Namespace == r.policy.SystemNamespace {
		return nil
	}
	var names []string
	for i := range route.ParentRefs {
		if ref := &route.ParentRefs[i]; policy.IsGatewayParent(ref) && policy.ParentNamespace(ref) == "" {
			names = append(names, route.Namespace+"/"+string(ref.Name), r.policy.SystemNamespace+"/"+string(ref.Name))
		}
	}
	return names
}

// Routes lists the routes of every kind of the policy that an index finds; the objects are shared.
func (r *Reader) Routes(ctx context.Context, index, value string) ([]client.Object, error) {
	var found []client.Object
	for _, kind := range r.policy.Kinds {
		routes, err := r.routes(ctx, kind, index, value)
		if err != nil {
			return nil, err
		}
		found = append(found, routes...)
	}
	return found, nil
}

func (r *Reader) routes(ctx context.Context, kind policy.Kind, index, value string) ([]client.Object, error) {
	if all, ok, err := r.indexed(kind, index, value); ok || err != nil {
		found := make([]client.Object, len(all))
		for i, obj := range all {
			found[i] = obj.(client.Object) // the index holds nothing else
		}
		return found, err
	}
	var found []client.Object
	matching := client.MatchingFields{index: value}
	list := newRoutes(kind)
	if err := r.List(ctx, list, matching); err != nil {
		return nil, err
	}
	err := meta.EachListItem(list, func(obj runtime.Object) error {
		found = append(found, obj.(client.Object)) // as every item of such a list
		return nil
	})
	return found, err
}

// Grant reads a ReferenceGrant of the version that is served; nil where there is none.
func (s Served) Grant(ctx context.Context, reader client.Reader, key types.NamespacedName) (*gwv1.ReferenceGrant, error) {
	obj := s.NewGrant()
	if err := reader.Get(ctx, key, obj); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return GrantOf(obj), nil
}

// Grant is a ReferenceGrant of the caches, which is shared; nil where there is none.
func (r *Reader) Grant(ctx context.Context, key types.NamespacedName) (*gwv1.ReferenceGrant, error) {
	if obj, ok := r.cached(policy.ReferenceGrant, key); ok {
		object, _ := obj.(client.Object)
		return GrantOf(object), nil
	}
	return r.served.Grant(ctx, r, key)
}

// Served are the versions that the reader reads.
func (r *Reader) Served() Served { return r.served }

func (r *Reader) foreignGrants(ctx context.Context, namespace string) ([]*gwv1.ReferenceGrant, error) {
	if all, ok, err := r.indexed(policy.ReferenceGrant, byForeign, namespace); ok || err != nil {
		grants := make([]*gwv1.ReferenceGrant, len(all))
		for i, obj := range all {
			grants[i] = GrantOf(obj.(client.Object)) // the index holds nothing else
		}
		return grants, err
	}
	options := []client.ListOption{client.MatchingFields{byForeign: namespace}}
	if r.served.ReferenceGrants == gwv1beta1.GroupVersion.Version {
		var list gwv1beta1.ReferenceGrantList
		if err := r.List(ctx, &list, options...); err != nil {
			return nil, err
		}
		grants := make([]*gwv1.ReferenceGrant, len(list.Items))
		for i := range list.Items {
			grants[i] = (*gwv1.ReferenceGrant)(&list.Items[i])
		}
		return grants, nil
	}
	var list gwv1.ReferenceGrantList
	if err := r.List(ctx, &list, options...); err != nil {
		return nil, err
	}
	grants := make([]*gwv1.ReferenceGrant, len(list.Items))
	for i := range list.Items {
		grants[i] = &list.Items[i]
	}
	return grants, nil
}
