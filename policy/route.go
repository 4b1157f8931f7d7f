package policy

import (
	"fmt"
	"iter"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Route is what the engine reads of an HTTPRoute or a GRPCRoute. It shares memory with the
// object it was made from and is never written to.
type Route struct {
	Kind Kind
	// Namespace may be set from the admission request, which is authoritative over the object's metadata.
	Namespace  string
	Meta       *metav1.ObjectMeta
	ParentRefs []gwv1.ParentReference

	// relocatedTo is the namespace that gateways see the references come from, where it is not Namespace.
	relocatedTo string

	http []gwv1.HTTPRouteRule
	grpc []gwv1.GRPCRouteRule
}

// RouteOf views an *HTTPRoute or *GRPCRoute (gateway.networking.k8s.io/v1); false for any other object.
func RouteOf(obj runtime.Object) (Route, bool) {
	switch r := obj.(type) {
	case *gwv1.HTTPRoute:
		if r != nil {
			return Route{Kind: HTTPRoute, Namespace: r.Namespace, Meta: &r.ObjectMeta, ParentRefs: r.Spec.ParentRefs, http: r.Spec.Rules}, true
		}
	case *gwv1.GRPCRoute:
		if r != nil {
			return Route{Kind: GRPCRoute, Namespace: r.Namespace, Meta: &r.ObjectMeta, ParentRefs: r.Spec.ParentRefs, grpc: r.Spec.Rules}, true
		}
	}
	return Route{}, false
}

// Reference is one place in a route that names a backend, with the API's defaults filled in.
type Reference struct {
	// Group and Kind of the backend; a core Service is "" and "Service".
	Group, Kind string
	// Namespace of the backend; the route's own where the reference names none.
	Namespace, Name string
	// Implicit is true where the reference names no namespace.
	Implicit bool

	at position
}

// position locates a reference without building its path, which only findings need. An index of -1 is absent.
type position struct {
	rule, backend, filter int
	field                 string
}

// Path is the field path of the reference, such as spec.rules[2].backendRefs[0].filters[1].requestMirror.backendRef.
func (r Reference) Path() string { return r.at.holder() + r.at.backendRef() }

// backendRef is what follows the path of a filter that names a backend.
func (at position) backendRef() string {
	if at.filter < 0 {
		return ""
	}
	return "." + at.field + ".backendRef"
}

// holder is the path of a backendRef or a filter.
func (at position) holder() string {
	var backend, filter string
	if at.backend >= 0 {
		backend = ".backendRefs[" + strconv.Itoa(at.backend) + "]"
	}
	if at.filter >= 0 {
		filter = ".filters[" + strconv.Itoa(at.filter) + "]"
	}
	return "spec.rules[" + strconv.Itoa(at.rule) + "]" + backend + filter
}

// in finds the JSON object of the reference in an object's content.
func (at position) in(content map[string]any) (map[string]any, error) {
	current := any(content)
	field := func(name string) {
		object, _ := current.(map[string]any)
		current = object[name]
	}
	element := func(index int) {
		list, _ := current.([]any)
		if current = nil; index < len(list) {
			current = list[index]
		}
	}
	field("spec")
	field("rules")
	element(at.rule)
	if at.backend >= 0 {
		field("backendRefs")
		element(at.backend)
	}
	if at.filter >= 0 {
		field("filters")
		element(at.filter)
		field(at.field)
		field("backendRef")
	}
	if object, ok := current.(map[string]any); ok {
		return object, nil
	}
	return nil, fmt.Errorf("%s: no such object", at.holder()+at.backendRef())
}

// References yields every place that names a backend, in the order of the fields: backendRefs, RequestMirror and
// ExternalAuth filters at the rule and at the backendRef.
func (r Route) References() iter.Seq[Reference] {
	return func(yield func(Reference) bool) {
		r.backendRefs(func(ref *gwv1.BackendObjectReference, at position) bool { return yield(r.resolve(ref, at)) })
	}
}

// Qualify writes a namespace into every reference of a route that names none.
func Qualify(route runtime.Object, namespace string) {
	r, _ := RouteOf(route)
	r.backendRefs(func(ref *gwv1.BackendObjectReference, at position) bool {
		if r.resolve(ref, at).Implicit {
			ref.Namespace = new(gwv1.Namespace(namespace))
		}
		return true
	})
}

// backendRefs calls yield with every reference until it is false.
func (r Route) backendRefs(yield func(*gwv1.BackendObjectReference, position) bool) {
	emit := func(ref *gwv1.BackendObjectReference, at position) bool {
		// The API accepts no empty name; to the engine it would mean every name.
		return ref.Name == "" || yield(ref, at)
	}
	httpFilters := func(filters []gwv1.HTTPRouteFilter, rule, backend int) bool {
		for k := range filters {
			if mirror := filters[k].RequestMirror; mirror != nil &&
				!emit(&mirror.BackendRef, position{rule, backend, k, "requestMirror"}) {
				return false
			}
			if auth := filters[k].ExternalAuth; auth != nil &&
				!emit(&auth.BackendRef, position{rule, backend, k, "externalAuth"}) {
				return false
			}
		}
		return true
	}
	for i := range r.http {
		rule := &r.http[i]
		for j := range rule.BackendRefs {
			backend := &rule.BackendRefs[j]
			if !emit(&backend.BackendObjectReference, position{i, j, -1, ""}) || !httpFilters(backend.Filters, i, j) {
				return
			}
		}
		if !httpFilters(rule.Filters, i, -1) {
			return
		}
	}
	grpcFilters := func(filters []gwv1.GRPCRouteFilter, rule, backend int) bool {
		for k := range filters {
			if mirror := filters[k].RequestMirror; mirror != nil &&
				!emit(&mirror.BackendRef, position{rule, backend, k, "requestMirror"}) {
				return false
			}
		}
		return true
	}
	for i := range r.grpc {
		rule := &r.grpc[i]
		for j := range rule.BackendRefs {
			backend := &rule.BackendRefs[j]
			if !emit(&backend.BackendObjectReference, position{i, j, -1, ""}) || !grpcFilters(backend.Filters, i, j) {
				return
			}
		}
		if !grpcFilters(rule.Filters, i, -1) {
			return
		}
	}
}

// extension is a filter that refers to an object of the route's own namespace.
type extension struct {
	path string
	ref  gwv1.LocalObjectReference
}

// extensions are the route's extensionRef filters, in the order of the fields.
func (r Route) extensions() []extension {
	var found []extension
	add := func(ref *gwv1.LocalObjectReference, rule, backend, filter int) {
		if ref != nil {
			found = append(found, extension{position{rule, backend, filter, ""}.holder() + ".extensionRef", *ref})
		}
	}
	for i, rule := range r.http {
		for j, backend := range rule.BackendRefs {
			for k, filter := range backend.Filters {
				add(filter.ExtensionRef, i, j, k)
			}
		}
		for k, filter := range rule.Filters {
			add(filter.ExtensionRef, i, -1, k)
		}
	}
	for i, rule := range r.grpc {
		for j, backend := range rule.BackendRefs {
			for k, filter := range backend.Filters {
				add(filter.ExtensionRef, i, j, k)
			}
		}
		for k, filter := range rule.Filters {
			add(filter.ExtensionRef, i, -1, k)
		}
	}
	return found
}

func (r Route) resolve(ref *gwv1.BackendObjectReference, at position) Reference {
	resolved := Reference{Kind: "Service", Namespace: r.Namespace, Name: string(ref.Name), Implicit: true, at: at}
	if ref.Group != nil {
		resolved.Group = string(*ref.Group)
	}
	if ref.Kind != nil {
		resolved.Kind = string(*ref.Kind)
	}
	if ref.Namespace != nil && *ref.Namespace != "" {
		resolved.Namespace, resolved.Implicit = string(*ref.Namespace), false
	}
	return resolved
}

// ParentNamespace is the namespace a parentRef names explicitly, or "".
func ParentNamespace(ref *gwv1.ParentReference) string {
	if ref.Namespace == nil {
		return ""
	}
	return string(*ref.Namespace)
}

// IsGatewayParent reports whether a parentRef refers to a Gateway, as it does by default.
func IsGatewayParent(ref *gwv1.ParentReference) bool {
	return (ref.Group == nil || *ref.Group == gwv1.GroupName) && (ref.Kind == nil || *ref.Kind == gwv1.Kind(Gateway))
}
