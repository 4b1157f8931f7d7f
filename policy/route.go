package policy

import (
	"fmt"
	"iter"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Route is what the engine reads of a route object. It shares memory with the object and is never written to.
type Route struct {
	Kind Kind
	// Namespace may be set from the admission request, which is authoritative over the object's metadata.
	Namespace  string
	Meta       *metav1.ObjectMeta
	ParentRefs []gwv1.ParentReference
	Hostnames  []gwv1.Hostname

	// relocatedTo is the namespace that gateways see the references come from, where it is not Namespace.
	relocatedTo string

	object runtime.Object
	row    *RouteKind
}

// RouteOf views an object of a route kind (gateway.networking.k8s.io/v1); false for any other object.
func RouteOf(obj runtime.Object) (Route, bool) {
	row, f, ok := rowOf(obj)
	if !ok {
		return Route{}, false
	}
	return Route{
		Kind: row.Kind, Namespace: f.meta.Namespace, Meta: f.meta, ParentRefs: f.common.ParentRefs, Hostnames: f.hostnames,
		object: obj, row: row,
	}, true
}

// Object is the object that the route was made from.
func (r Route) Object() runtime.Object { return r.object }

// Place is one field of a route's rules that refers to something. It shares memory with the route.
type Place struct {
	// Backend is the reference to a backend, nil at an extensionRef.
	Backend *gwv1.BackendObjectReference
	// Weight is that of a backendRef; nil where it has none, and in filters.
	Weight *int32
	// Extension is the reference of an extensionRef filter, nil elsewhere.
	Extension *gwv1.LocalObjectReference
	// Filter is true for a filter's reference.
	Filter bool

	at position
}

// Path is the field path, such as spec.rules[2].backendRefs[0].filters[1].requestMirror.backendRef.
func (p Place) Path() string { return p.at.path() }

// Places yields every place of the rules that refers to something, in the order of the fields: each backendRef with its
// filters, then the filters of the rule.
func (r Route) Places() iter.Seq[Place] {
	return func(yield func(Place) bool) {
		if r.row != nil {
			r.row.walk(r.object, yield)
		}
	}
}

// Reference is one place in a route that names a backend, with the API's defaults filled in.
type Reference struct {
	// Group and Kind of the backend; a core Service is "" and "Service".
	Group, Kind string
	// Namespace of the backend; the route's own where the reference names none.
	Namespace, Name string
	// Implicit is true where the reference names no namespace.
	Implicit bool
	// Port of the backend, 0 where the reference names none; Weight of a backendRef, 1 where it names none and in filters.
	Port, Weight int32
	// Mirror is true for a filter RequestMirror, which nobody waits for.
	Mirror bool

	at position
}

// position locates a reference without building its path, which only findings need. An index of -1 is absent.
type position struct {
	rule, backend, filter int
	field                 string
}

// Path is the field path of the reference, such as spec.rules[2].backendRefs[0].filters[1].requestMirror.backendRef.
func (r Reference) Path() string { return r.at.path() }

func (at position) path() string {
	path := "spec.rules[" + strconv.Itoa(at.rule) + "]"
	if at.backend >= 0 {
		path += ".backendRefs[" + strconv.Itoa(at.backend) + "]"
	}
	if at.filter >= 0 {
		path += ".filters[" + strconv.Itoa(at.filter) + "]." + at.field
		if at.field != extensionRef {
			path += ".backendRef"
		}
	}
	return path
}

// The fields of filters that refer to something; extensionRef alone refers to no backend.
const (
	requestMirror = "requestMirror"
	externalAuth  = "externalAuth"
	extensionRef  = "extensionRef"
)

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
	return nil, fmt.Errorf("%s: no such object", at.path())
}

// References yields every place that refers to a backend, in the order of the fields.
func (r Route) References() iter.Seq[Reference] {
	return func(yield func(Reference) bool) {
		if r.row == nil {
			return
		}
		r.row.walk(r.object, func(p Place) bool {
			// The API accepts no empty name; to the engine it would mean every name.
			return p.Backend == nil || p.Backend.Name == "" || yield(r.resolve(p))
		})
	}
}

// Qualify writes a namespace into every reference of a route that has none.
func Qualify(route runtime.Object, namespace string) {
	r, _ := RouteOf(route)
	for place := range r.Places() {
		if ref := place.Backend; ref != nil && ref.Name != "" && (ref.Namespace == nil || *ref.Namespace == "") {
			ref.Namespace = new(gwv1.Namespace(namespace))
		}
	}
}

func (r Route) resolve(p Place) Reference {
	ref := p.Backend
	resolved := Reference{
		Kind: "Service", Namespace: r.Namespace, Name: string(ref.Name), Implicit: true, Weight: 1, Mirror: p.at.field == requestMirror, at: p.at,
	}
	if ref.Port != nil {
		resolved.Port = int32(*ref.Port)
	}
	if p.Weight != nil {
		resolved.Weight = *p.Weight
	}
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
