package policy

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// WithheldGroup and WithheldKind replace group and kind of a reference of a copy that lost its consent. No gateway knows
// such a kind, so that it answers 500 for this reference's share of the requests, as for every reference that does not
// resolve (HTTPBackendRef of Gateway API).
const (
	WithheldGroup = "routesteward.dev"
	WithheldKind  = "WithheldBackend"
)

// maxName is the length in bytes of the longest name of an object.
const maxName = validation.DNS1123SubdomainMaxLength

// CopyName is the name in the system namespace of the relocated copy of a route.
func (p *Policy) CopyName(namespace, name string) string {
	if p.RelocatedName != RelocatedNameQualified {
		return name
	}
	// A namespace has no dot, so the first one ends it.
	qualified := namespace + "." + name
	if len(qualified) <= maxName {
		return qualified
	}
	sum := sha256.Sum256([]byte(qualified))
	hash := grantNameHash.EncodeToString(sum[:10])
	return strings.TrimRight(qualified[:maxName-len(hash)-1], "-.") + "-" + hash
}

// IsCopy reports whether a route is a relocated copy: only routesteward may write its label in the system namespace.
func (p *Policy) IsCopy(route Route) bool {
	return route.Namespace == p.SystemNamespace && route.Meta.Labels[ManagedByLabel] == ManagedBy
}

// Served is a stored route as gateways see its references: from the system namespace where it is parked.
func (p *Policy) Served(route Route) Route {
	if parked, _ := p.Parked(route); parked != nil {
		route.relocatedTo = p.SystemNamespace
	}
	return route
}

// Copy is the relocated copy of a parked source: the same content, with the parked parentRefs, every backend's namespace
// written out, and its origin. References whose edges are withheld (nil: none) are made unresolvable. The source is not
// changed.
func (p *Policy) Copy(source *unstructured.Unstructured, withheld func(Edge) bool) (*unstructured.Unstructured, error) {
	typed, route, err := typedRoute(source)
	if err != nil {
		return nil, err
	}
	parked, err := p.Parked(route)
	if err != nil {
		return nil, fmt.Errorf("annotation %s %w", ParkedAnnotation, err)
	}
	if parked == nil {
		return nil, errors.New("the route is not parked")
	}
	spec, _ := source.DeepCopy().Object["spec"].(map[string]any)
	if spec == nil { // Gateway API 1.2 lets a GRPCRoute have none
		spec = map[string]any{}
	}
	relocated := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	relocated.SetGroupVersionKind(source.GroupVersionKind())
	relocated.SetNamespace(p.SystemNamespace)
	relocated.SetName(p.CopyName(source.GetNamespace(), source.GetName()))

	parentRefs, err := parkedContent(source)
	if err != nil {
		return nil, err
	}
	for _, ref := range parentRefs {
		if ref, ok := ref.(map[string]any); ok {
			ref["group"], ref["kind"] = gwv1.GroupName, string(Gateway)
		}
	}
	spec["parentRefs"] = parentRefs
	// The source itself has it still.
	delete(spec, "useDefaultGateways")

	served := p.Served(route)
	for ref := range served.References() {
		backend, err := ref.at.in(relocated.Object)
		if err != nil {
			return nil, err
		}
		if edge, _ := EdgeOf(served, ref); withheld != nil && withheld(edge) {
			backend["group"], backend["kind"] = WithheldGroup, WithheldKind
			delete(backend, "namespace")
			continue
		}
		backend["namespace"] = ref.Namespace
	}

	meta := routeMeta(typed)
	labels, annotations := carried(meta.Labels), carried(meta.Annotations)
	labels[ManagedByLabel], labels[OriginLabel] = ManagedBy, route.Namespace
	annotations[SourceAnnotation] = route.Namespace + "/" + meta.Name
	annotations[SourceUIDAnnotation] = string(meta.UID)
	relocated.SetLabels(labels)
	relocated.SetAnnotations(annotations)
	return relocated, nil
}

func routeMeta(obj runtime.Object) *metav1.ObjectMeta {
	route, _ := RouteOf(obj)
	return route.Meta
}

// typedRoute decodes a route's content.
func typedRoute(obj *unstructured.Unstructured) (runtime.Object, Route, error) {
	row, ok := RouteKindOf(Kind(obj.GetKind()))
	if !ok {
		return nil, Route{}, fmt.Errorf("%s is no kind of route", obj.GetKind())
	}
	typed := row.New()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, typed); err != nil {
		return nil, Route{}, err
	}
	route, _ := RouteOf(typed)
	return typed, route, nil
}

// carried are the labels or annotations that a copy has from its source: not those in which tools keep the books about
// objects that they applied themselves, by which a second object would be taken for theirs too.
func carried(from map[string]string) map[string]string {
	to := map[string]string{}
	for key, value := range from {
		if !bookkeeping(key) {
			to[key] = value
		}
	}
	return to
}

func bookkeeping(key string) bool {
	switch key {
	case lastAppliedAnnotation, ManagedByLabel, "app.kubernetes.io/instance":
		return true
	}
	domain, _, _ := strings.Cut(key, "/")
	return slices.ContainsFunc([]string{
		"routesteward.dev", "argocd.argoproj.io", "toolkit.fluxcd.io", "helm.sh",
		// kpt and others that follow cli-utils; applysets of kubectl.
		"config.k8s.io", "cli-utils.sigs.k8s.io", "applyset.kubernetes.io",
	}, func(tool string) bool { return domain == tool || strings.HasSuffix(domain, "."+tool) })
}

// Relocation is what becomes of a route that is relocated.
type Relocation struct {
	// Source is the route as it is stored, Copy what serves it.
	Source, Copy *unstructured.Unstructured
	// Edges that the copy needs, each once.
	Edges []Edge
}

// Relocate parks a route and copies it, whatever the policy says about it. Without facts about Gateways only parentRefs
// that name the system namespace are relocated.
func (p *Policy) Relocate(source *unstructured.Unstructured, facts Facts) (Relocation, error) {
	_, route, err := typedRoute(source)
	if err != nil {
		return Relocation{}, err
	}
	parking := Parking{system: p.SystemNamespace}
	parking.Out, _ = p.movable(&route, facts)
	r := Relocation{Source: source.DeepCopy()}
	if err := parking.Apply(r.Source.Object); err != nil {
		return Relocation{}, err
	}
	if r.Copy, err = p.Copy(r.Source, nil); err != nil {
		return Relocation{}, err
	}
	_, parked, err := typedRoute(r.Source)
	if err != nil {
		return Relocation{}, err
	}
	r.Edges = p.Edges(parked)
	return r, nil
}

// CannotRelocate says why a parked source can have no copy that means the same, or "".
func (p *Policy) CannotRelocate(route Route) string {
	if _, err := p.Parked(route); err != nil {
		return fmt.Sprintf("the annotation %s %s", ParkedAnnotation, err)
	}
	for place := range route.Places() {
		if place.Extension != nil {
			return fmt.Sprintf("%s names an object of namespace %q, which a copy in %q cannot name", place.Path(), route.Namespace, p.SystemNamespace)
		}
	}
	return ""
}

// InSync reports whether a stored copy is as desired: spec, labels and annotations are compared. What the API server
// fills in counts as filled in.
func InSync(stored, desired *unstructured.Unstructured) bool {
	return maps.Equal(stored.GetLabels(), desired.GetLabels()) && maps.Equal(stored.GetAnnotations(), desired.GetAnnotations()) &&
		equalJSON(stored.Object["spec"], desired.Object["spec"])
}

func equalJSON(a, b any) bool {
	left, errLeft := json.Marshal(a)
	right, errRight := json.Marshal(b)
	return errLeft == nil && errRight == nil && string(left) == string(right)
}
