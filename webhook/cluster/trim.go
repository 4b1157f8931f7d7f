package cluster

import (
	"sync/atomic"
	"unique"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// CacheOptions trim every cached object to what facts and edges need, so that a cluster with 100,000 routes takes no more
// than a few hundred bytes for each. Cached objects share memory and are never written to.
func CacheOptions(served Served) map[client.Object]cache.ByObject {
	trimmed := func(trim func(any)) cache.ByObject {
		return cache.ByObject{
			UnsafeDisableDeepCopy: new(true),
			Transform: func(in any) (any, error) {
				trim(in)
				return in, nil
			},
		}
	}
	grants, namespaces := &metaTrimmer{labels: []string{policy.ManagedByLabel, policy.OriginLabel}}, &metaTrimmer{labels: []string{policy.GrantsLabel}}
	gateways := &metaTrimmer{}
	var lastFrom last[[]gwv1.ReferenceGrantFrom]
	http, grpc := newRouteTrimmer(), newRouteTrimmer()
	return map[client.Object]cache.ByObject{
		NewNamespace(): trimmed(func(in any) {
			if obj, ok := in.(*metav1.PartialObjectMetadata); ok {
				namespaces.trim(&obj.ObjectMeta)
			}
		}),
		NewGateway(): trimmed(func(in any) {
			if obj, ok := in.(*metav1.PartialObjectMetadata); ok {
				gateways.trim(&obj.ObjectMeta)
			}
		}),
		served.NewGrant(): trimmed(func(in any) {
			if obj, ok := in.(client.Object); ok {
				if grant := GrantOf(obj); grant != nil {
					grants.trim(&grant.ObjectMeta)
					grant.Spec.From = lastFrom.share(grant.Spec.From)
					for i := range grant.Spec.To {
						to := &grant.Spec.To[i]
						to.Group, to.Kind = gwv1.Group(shared(string(to.Group))), gwv1.Kind(shared(string(to.Kind)))
					}
				}
			}
		}),
		&gwv1.HTTPRoute{}: trimmed(func(in any) {
			if obj, ok := in.(*gwv1.HTTPRoute); ok {
				http.trim(&obj.ObjectMeta)
				obj.Spec = gwv1.HTTPRouteSpec{CommonRouteSpec: http.parents(obj.Spec.CommonRouteSpec), Rules: httpRules(obj)}
				obj.Status.Parents = mirrored(obj.Status.Parents)
			}
		}),
		&gwv1.GRPCRoute{}: trimmed(func(in any) {
			if obj, ok := in.(*gwv1.GRPCRoute); ok {
				grpc.trim(&obj.ObjectMeta)
				obj.Spec = gwv1.GRPCRouteSpec{CommonRouteSpec: grpc.parents(obj.Spec.CommonRouteSpec), Rules: grpcRules(obj)}
				obj.Status.Parents = mirrored(obj.Status.Parents)
			}
		}),
	}
}

// metaTrimmer trims metadata.
type metaTrimmer struct {
	labels, annotations []string
	// lastLabels are shared with the next object that has the same.
	lastLabels last[map[string]string]
}

func (t *metaTrimmer) trim(m *metav1.ObjectMeta) {
	*m = metav1.ObjectMeta{
		Namespace: shared(m.Namespace), Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
		Labels:      t.lastLabels.share(only(m.Labels, t.labels)),
		Annotations: only(m.Annotations, t.annotations),
	}
}

// routeTrimmer trims what the kinds of routes have in common.
type routeTrimmer struct {
	meta        metaTrimmer
	lastParents last[[]gwv1.ParentReference]
}

func newRouteTrimmer() *routeTrimmer {
	return &routeTrimmer{meta: metaTrimmer{
		labels:      []string{policy.ManagedByLabel},
		annotations: []string{policy.ParkedAnnotation, policy.SourceAnnotation},
	}}
}

func (t *routeTrimmer) trim(m *metav1.ObjectMeta) {
	if m.Labels[policy.ManagedByLabel] != policy.ManagedBy {
		m.Labels = nil // who else manages it is nothing to us, and is not even decoded (Texts)
	}
	t.meta.trim(m)
}

func (t *routeTrimmer) parents(spec gwv1.CommonRouteSpec) gwv1.CommonRouteSpec {
	return gwv1.CommonRouteSpec{ParentRefs: t.lastParents.share(spec.ParentRefs)}
}

// last lets an object share what it has with the one before, where it has the same: most routes of a cluster name the same
// Gateway.
type last[T any] struct{ value atomic.Pointer[T] }

func (l *last[T]) share(value T) T {
	if before := l.value.Load(); before != nil && equality.Semantic.DeepEqual(*before, value) {
		return *before
	}
	l.value.Store(&value)
	return value
}

// shared is a string that equal ones share their memory with.
func shared(s string) string { return unique.Make(s).Value() }

// only are the entries of a map with these keys; nil where there are none.
func only(all map[string]string, keys []string) map[string]string {
	var some map[string]string
	for _, key := range keys {
		if value, ok := all[key]; ok {
			if some == nil {
				some = make(map[string]string, len(keys))
			}
			some[key] = shared(value)
		}
	}
	return some
}

// references are the backends of a route that an edge may be needed for: those of other namespaces, and of a parked route,
// which refers from elsewhere, all. Each comes once, in the order of the fields.
func references(route policy.Route) []gwv1.BackendObjectReference {
	_, parked := route.Meta.Annotations[policy.ParkedAnnotation]
	var refs []gwv1.BackendObjectReference
	var seen sets.Set[policy.Edge]
	for ref := range route.References() {
		target := policy.Edge{Namespace: ref.Namespace, Group: ref.Group, Kind: ref.Kind, Name: ref.Name}
		if !parked && ref.Namespace == route.Namespace || seen.Has(target) {
			continue
		}
		if seen == nil {
			seen = sets.Set[policy.Edge]{}
		}
		seen.Insert(target)
		backend := gwv1.BackendObjectReference{Name: gwv1.ObjectName(ref.Name), Namespace: new(gwv1.Namespace(shared(ref.Namespace)))}
		if ref.Group != "" {
			backend.Group = new(gwv1.Group(shared(ref.Group)))
		}
		if ref.Kind != "Service" {
			backend.Kind = new(gwv1.Kind(shared(ref.Kind)))
		}
		refs = append(refs, backend)
	}
	return refs
}

// httpRules are one rule with all that a route refers to; none where that is nothing.
func httpRules(obj *gwv1.HTTPRoute) []gwv1.HTTPRouteRule {
	route, _ := policy.RouteOf(obj)
	refs := references(route)
	if len(refs) == 0 {
		return nil
	}
	rule := gwv1.HTTPRouteRule{BackendRefs: make([]gwv1.HTTPBackendRef, len(refs))}
	for i := range refs {
		rule.BackendRefs[i].BackendObjectReference = refs[i]
	}
	return []gwv1.HTTPRouteRule{rule}
}

// grpcRules are what httpRules are for an HTTPRoute.
func grpcRules(obj *gwv1.GRPCRoute) []gwv1.GRPCRouteRule {
	route, _ := policy.RouteOf(obj)
	refs := references(route)
	if len(refs) == 0 {
		return nil
	}
	rule := gwv1.GRPCRouteRule{BackendRefs: make([]gwv1.GRPCBackendRef, len(refs))}
	for i := range refs {
		rule.BackendRefs[i].BackendObjectReference = refs[i]
	}
	return []gwv1.GRPCRouteRule{rule}
}

// mirrored says of a status only that routesteward has written into it.
func mirrored(parents []gwv1.RouteParentStatus) []gwv1.RouteParentStatus {
	for i := range parents {
		if IsMirrored(parents[i].ControllerName) {
			return someMirrored
		}
	}
	return nil
}

var someMirrored = []gwv1.RouteParentStatus{{ControllerName: policy.RelocationController}}
