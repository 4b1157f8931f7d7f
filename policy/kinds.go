package policy

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Kind is a kind of the group gateway.networking.k8s.io.
type Kind string

// The kinds that routesteward evaluates.
const (
	HTTPRoute      Kind = "HTTPRoute"
	GRPCRoute      Kind = "GRPCRoute"
	Gateway        Kind = "Gateway"
	ReferenceGrant Kind = "ReferenceGrant"
)

// Object is an API object of any kind.
type Object interface {
	metav1.Object
	runtime.Object
}

// List is a list of API objects.
type List interface {
	metav1.ListInterface
	runtime.Object
}

// RouteKind is a row of the table of route kinds. Everything that depends on the kind of a route is in its row.
type RouteKind struct {
	Kind
	// Resource is the plural, as in URLs, RBAC and webhook registrations.
	Resource string
	// New and NewList return an empty object and list of gateway.networking.k8s.io/v1.
	New     func() Object
	NewList func() List

	// fields are false for objects of another kind.
	fields func(runtime.Object) (fields, bool)
	// walk calls visit for each place of the route's rules, in the order of the fields, until visit returns false.
	walk func(runtime.Object, visitor)
	// setBackends replaces the rules by one that has these backendRefs, and drops the hostnames; without backendRefs no rule
	// stays.
	setBackends func(runtime.Object, []gwv1.BackendObjectReference)
	// reduce drops from the rules what neither refers to something nor matches requests.
	reduce func(runtime.Object)
}

// fields share memory with a route object.
type fields struct {
	meta      *metav1.ObjectMeta
	spec      any // a pointer
	common    *gwv1.CommonRouteSpec
	hostnames []gwv1.Hostname
	status    *gwv1.RouteStatus
}

type visitor func(Place) bool

// routeKinds is the table of route kinds. Rules, registrations, grants, caches, check, audit and trace derive from it.
var routeKinds = []RouteKind{
	routeKind[gwv1.HTTPRoute, gwv1.HTTPRouteList](HTTPRoute, "httproutes", shape[gwv1.HTTPRoute, gwv1.HTTPRouteRule, gwv1.HTTPBackendRef, gwv1.HTTPRouteFilter]{
		fields: func(r *gwv1.HTTPRoute) fields {
			return fields{&r.ObjectMeta, &r.Spec, &r.Spec.CommonRouteSpec, r.Spec.Hostnames, &r.Status.RouteStatus}
		},
		rules: func(r *gwv1.HTTPRoute) []gwv1.HTTPRouteRule { return r.Spec.Rules },
		backendRefs: func(r *gwv1.HTTPRouteRule) ([]gwv1.HTTPBackendRef, []gwv1.HTTPRouteFilter) {
			return r.BackendRefs, r.Filters
		},
		backendRef: func(b *gwv1.HTTPBackendRef) (*gwv1.BackendRef, []gwv1.HTTPRouteFilter) {
			return &b.BackendRef, b.Filters
		},
		filter: func(f *gwv1.HTTPRouteFilter) (refs filterRefs) {
			refs.extension = f.ExtensionRef
			if f.RequestMirror != nil {
				refs.mirror = &f.RequestMirror.BackendRef
			}
			if f.ExternalAuth != nil {
				refs.auth = &f.ExternalAuth.BackendRef
			}
			return refs
		},
		setRules: func(r *gwv1.HTTPRoute, rules []gwv1.HTTPRouteRule) {
			r.Spec = gwv1.HTTPRouteSpec{CommonRouteSpec: r.Spec.CommonRouteSpec, Rules: rules}
		},
		newRule: func(backends []gwv1.HTTPBackendRef) gwv1.HTTPRouteRule {
			return gwv1.HTTPRouteRule{BackendRefs: backends}
		},
		reducedRule: func(r gwv1.HTTPRouteRule) gwv1.HTTPRouteRule {
			return gwv1.HTTPRouteRule{Name: r.Name, Matches: r.Matches, Filters: r.Filters, BackendRefs: r.BackendRefs}
		},
		reducedFilter: func(f gwv1.HTTPRouteFilter) gwv1.HTTPRouteFilter {
			reduced := gwv1.HTTPRouteFilter{Type: f.Type, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef}
			if f.ExternalAuth != nil {
				reduced.ExternalAuth = &gwv1.HTTPExternalAuthFilter{ExternalAuthProtocol: f.ExternalAuth.ExternalAuthProtocol, BackendRef: f.ExternalAuth.BackendRef}
			}
			return reduced
		},
	}),
	routeKind[gwv1.GRPCRoute, gwv1.GRPCRouteList](GRPCRoute, "grpcroutes", shape[gwv1.GRPCRoute, gwv1.GRPCRouteRule, gwv1.GRPCBackendRef, gwv1.GRPCRouteFilter]{
		fields: func(r *gwv1.GRPCRoute) fields {
			return fields{&r.ObjectMeta, &r.Spec, &r.Spec.CommonRouteSpec, r.Spec.Hostnames, &r.Status.RouteStatus}
		},
		rules: func(r *gwv1.GRPCRoute) []gwv1.GRPCRouteRule { return r.Spec.Rules },
		backendRefs: func(r *gwv1.GRPCRouteRule) ([]gwv1.GRPCBackendRef, []gwv1.GRPCRouteFilter) {
			return r.BackendRefs, r.Filters
		},
		backendRef: func(b *gwv1.GRPCBackendRef) (*gwv1.BackendRef, []gwv1.GRPCRouteFilter) {
			return &b.BackendRef, b.Filters
		},
		filter: func(f *gwv1.GRPCRouteFilter) (refs filterRefs) {
			refs.extension = f.ExtensionRef
			if f.RequestMirror != nil {
				refs.mirror = &f.RequestMirror.BackendRef
			}
			return refs
		},
		setRules: func(r *gwv1.GRPCRoute, rules []gwv1.GRPCRouteRule) {
			r.Spec = gwv1.GRPCRouteSpec{CommonRouteSpec: r.Spec.CommonRouteSpec, Rules: rules}
		},
		newRule: func(backends []gwv1.GRPCBackendRef) gwv1.GRPCRouteRule {
			return gwv1.GRPCRouteRule{BackendRefs: backends}
		},
		reducedRule: func(r gwv1.GRPCRouteRule) gwv1.GRPCRouteRule {
			return gwv1.GRPCRouteRule{Name: r.Name, Matches: r.Matches, Filters: r.Filters, BackendRefs: r.BackendRefs}
		},
		reducedFilter: func(f gwv1.GRPCRouteFilter) gwv1.GRPCRouteFilter {
			return gwv1.GRPCRouteFilter{Type: f.Type, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef}
		},
	}),
}

// anyRoute means all route kinds where they are treated alike.
const anyRoute = HTTPRoute

// RouteKinds are the names of all route kinds, as --kinds may have them.
func RouteKinds() []Kind {
	var kinds []Kind
	for i := range routeKinds {
		kinds = append(kinds, routeKinds[i].Kind)
	}
	return kinds
}

// KindNames lists the names of all route kinds, for messages.
func KindNames() string {
	var names []string
	for _, kind := range RouteKinds() {
		names = append(names, string(kind))
	}
	return strings.Join(names, ", ")
}

// Routes are the rows of the table of route kinds.
func Routes() []RouteKind { return slices.Clone(routeKinds) }

// RouteKindOf is the row of a kind, and false for a kind that is no route.
func RouteKindOf(kind Kind) (RouteKind, bool) {
	if i := slices.IndexFunc(routeKinds, func(row RouteKind) bool { return row.Kind == kind }); i >= 0 {
		return routeKinds[i], true
	}
	return RouteKind{}, false
}

// NewObject is an empty object of a kind that is evaluated (gateway.networking.k8s.io/v1), or nil for any other kind.
func NewObject(kind Kind) Object {
	switch kind {
	case Gateway:
		return &gwv1.Gateway{}
	case ReferenceGrant:
		return &gwv1.ReferenceGrant{}
	}
	if row, ok := RouteKindOf(kind); ok {
		return row.New()
	}
	return nil
}

// rowOf finds the row of an object, and its fields.
func rowOf(obj runtime.Object) (*RouteKind, fields, bool) {
	for i := range routeKinds {
		if f, ok := routeKinds[i].fields(obj); ok {
			return &routeKinds[i], f, true
		}
	}
	return nil, fields{}, false
}

// CommonSpec is what the specs of all route kinds have in common; nil for any other object. It shares memory with the object.
func CommonSpec(route runtime.Object) *gwv1.CommonRouteSpec {
	_, f, _ := rowOf(route)
	return f.common
}

// StatusOf is the status of a route, and nil for any other object. It shares memory with the object.
func StatusOf(route runtime.Object) *gwv1.RouteStatus {
	_, f, _ := rowOf(route)
	return f.status
}

// SetBackends leaves of a route's spec its parentRefs, and one rule with these backendRefs; none without backendRefs.
func SetBackends(route runtime.Object, refs []gwv1.BackendObjectReference) {
	if row, _, ok := rowOf(route); ok {
		row.setBackends(route, refs)
	}
}

// Reduce drops from a route's rules what neither refers to something nor matches requests: filters may hold credentials.
func Reduce(route runtime.Object) {
	if row, _, ok := rowOf(route); ok {
		row.reduce(route)
	}
}

// shape says how a kind of route is built: of rules R, which have backendRefs B; both have filters F.
type shape[T, R, B, F any] struct {
	fields      func(*T) fields
	rules       func(*T) []R
	backendRefs func(*R) ([]B, []F)
	backendRef  func(*B) (*gwv1.BackendRef, []F)
	filter      func(*F) filterRefs
	// setRules drops everything else but the parentRefs.
	setRules      func(*T, []R)
	newRule       func([]B) R
	reducedRule   func(R) R
	reducedFilter func(F) F
}

// filterRefs are what a filter refers to; nil where it does not.
type filterRefs struct {
	mirror, auth *gwv1.BackendObjectReference
	extension    *gwv1.LocalObjectReference
}

func routeKind[T, L, R, B, F any, PT interface {
	*T
	Object
}, PL interface {
	*L
	List
}](kind Kind, resource string, s shape[T, R, B, F]) RouteKind {
	return RouteKind{
		Kind: kind, Resource: resource,
		New:     func() Object { return PT(new(T)) },
		NewList: func() List { return PL(new(L)) },
		fields: func(obj runtime.Object) (fields, bool) {
			if r, ok := obj.(PT); ok && r != nil {
				return s.fields(r), true
			}
			return fields{}, false
		},
		walk: func(obj runtime.Object, visit visitor) { s.walk((*T)(obj.(PT)), visit) },
		setBackends: func(obj runtime.Object, refs []gwv1.BackendObjectReference) {
			s.setBackends((*T)(obj.(PT)), refs)
		},
		reduce: func(obj runtime.Object) { s.reduce((*T)(obj.(PT))) },
	}
}

func (s *shape[T, R, B, F]) walk(route *T, visit visitor) {
	rules := s.rules(route)
	for i := range rules {
		backends, filters := s.backendRefs(&rules[i])
		for j := range backends {
			ref, filters := s.backendRef(&backends[j])
			if !visit(Place{Backend: &ref.BackendObjectReference, Weight: ref.Weight, at: position{i, j, -1, ""}}) || !s.walkFilters(filters, i, j, visit) {
				return
			}
		}
		if !s.walkFilters(filters, i, -1, visit) {
			return
		}
	}
}

func (s *shape[T, R, B, F]) walkFilters(filters []F, rule, backend int, visit visitor) bool {
	for k := range filters {
		refs := s.filter(&filters[k])
		if refs.mirror != nil && !visit(Place{Backend: refs.mirror, Filter: true, at: position{rule, backend, k, requestMirror}}) ||
			refs.auth != nil && !visit(Place{Backend: refs.auth, Filter: true, at: position{rule, backend, k, externalAuth}}) ||
			refs.extension != nil && !visit(Place{Extension: refs.extension, Filter: true, at: position{rule, backend, k, extensionRef}}) {
			return false
		}
	}
	return true
}

func (s *shape[T, R, B, F]) setBackends(route *T, refs []gwv1.BackendObjectReference) {
	if len(refs) == 0 {
		s.setRules(route, nil)
		return
	}
	backends := make([]B, len(refs))
	for i := range refs {
		backend, _ := s.backendRef(&backends[i])
		backend.BackendObjectReference = refs[i]
	}
	s.setRules(route, []R{s.newRule(backends)})
}

func (s *shape[T, R, B, F]) reduce(route *T) {
	reduceFilters := func(filters []F) {
		for k := range filters {
			filters[k] = s.reducedFilter(filters[k])
		}
	}
	rules := s.rules(route)
	for i := range rules {
		rules[i] = s.reducedRule(rules[i])
		backends, filters := s.backendRefs(&rules[i])
		reduceFilters(filters)
		for j := range backends {
			_, filters := s.backendRef(&backends[j])
			reduceFilters(filters)
		}
	}
}
