package cluster

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// CacheOptions trim every cached object to what facts and edges need: a cluster with 100,000 routes takes less than a
// kilobyte for each then, where an applied route with its status and managed fields takes several. Cached objects share
// memory and are never written to.
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
	options := map[client.Object]cache.ByObject{
		NewNamespace(): trimmed(func(in any) {
			if obj, ok := in.(*metav1.PartialObjectMetadata); ok {
				trimMeta(&obj.ObjectMeta, policy.GrantsLabel)
			}
		}),
		NewGateway(): trimmed(func(in any) {
			if obj, ok := in.(*metav1.PartialObjectMetadata); ok {
				trimMeta(&obj.ObjectMeta)
			}
		}),
		served.NewGrant(): trimmed(func(in any) {
			if obj, ok := in.(client.Object); ok {
				if grant := GrantOf(obj); grant != nil {
					trimMeta(&grant.ObjectMeta, policy.ManagedByLabel, policy.OriginLabel)
				}
			}
		}),
	}
	for _, row := range policy.Routes() {
		options[row.New()] = trimmed(func(in any) {
			if obj, ok := in.(client.Object); ok {
				trimRoute(obj)
			}
		})
	}
	return options
}

// trimMeta keeps these labels and annotations, and what identifies an object.
func trimMeta(m *metav1.ObjectMeta, keys ...string) {
	*m = metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
		Labels: only(m.Labels, keys), Annotations: only(m.Annotations, keys),
	}
}

// trimRouteMeta keeps what shows that a route is parked or a relocated copy. Most routes are neither, and a map each for
// whatever else manages them would take a third of the memory of all.
func trimRouteMeta(m *metav1.ObjectMeta) {
	if m.Labels[policy.ManagedByLabel] != policy.ManagedBy {
		m.Labels = nil
	}
	trimMeta(m, policy.ManagedByLabel, policy.ParkedAnnotation, policy.SourceAnnotation)
}

// trimRoute keeps of a route its parentRefs, the backends that an edge may be needed for, and whether its status is mirrored.
func trimRoute(obj client.Object) {
	route, ok := policy.RouteOf(obj)
	if !ok {
		return
	}
	refs := references(route)
	trimRouteMeta(route.Meta)
	common, status := policy.CommonSpec(obj), policy.StatusOf(obj)
	*common = gwv1.CommonRouteSpec{ParentRefs: common.ParentRefs}
	policy.SetBackends(obj, refs)
	status.Parents = mirrored(status.Parents)
}

// only are the entries of a map with these keys; nil where there are none.
func only(all map[string]string, keys []string) map[string]string {
	var some map[string]string
	for _, key := range keys {
		if value, ok := all[key]; ok {
			if some == nil {
				some = map[string]string{}
			}
			some[key] = value
		}
	}
	return some
}

// references are the backends of a route that an edge may be needed for: those of other namespaces, and of a parked route,
// which refers from elsewhere, all. Each comes once, in the order of the fields.
func references(route policy.Route) []gwv1.BackendObjectReference {
	_, parked := route.Meta.Annotations[policy.ParkedAnnotation]
	var refs []gwv1.BackendObjectReference
	seen := sets.Set[policy.Edge]{}
	for ref := range route.References() {
		target := policy.Edge{Namespace: ref.Namespace, Group: ref.Group, Kind: ref.Kind, Name: ref.Name}
		if !parked && ref.Namespace == route.Namespace || seen.Has(target) {
			continue
		}
		seen.Insert(target)
		backend := gwv1.BackendObjectReference{Name: gwv1.ObjectName(ref.Name), Namespace: new(gwv1.Namespace(ref.Namespace))}
		if ref.Group != "" {
			backend.Group = new(gwv1.Group(ref.Group))
		}
		if ref.Kind != "Service" {
			backend.Kind = new(gwv1.Kind(ref.Kind))
		}
		refs = append(refs, backend)
	}
	return refs
}

// mirrored keeps of a status only that routesteward has written into it.
func mirrored(parents []gwv1.RouteParentStatus) []gwv1.RouteParentStatus {
	for i := range parents {
		if IsMirrored(parents[i].ControllerName) {
			return someMirrored
		}
	}
	return nil
}

var someMirrored = []gwv1.RouteParentStatus{{ControllerName: policy.RelocationController}}
