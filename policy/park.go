package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Relocation (--outside=rewrite): admission cannot change a route's namespace, so the route is parked where it is, that is
// its governed parentRefs are kept in ParkedAnnotation instead of spec.parentRefs, and a copy in the system namespace has
// them. A parked source stays relocated under every policy; --outside only says what may be parked.

// maxParents is how many parentRefs a route may have (CommonRouteSpec of Gateway API).
const maxParents = 32

// IsParked reports whether a route has ParkedAnnotation where it has a meaning, whatever its value.
func (p *Policy) IsParked(route Route) bool {
	_, parked := route.Meta.Annotations[ParkedAnnotation]
	return parked && route.Namespace != p.SystemNamespace
}

// Relocates reports whether a stored route is a parked source that a copy should serve.
func (p *Policy) Relocates(route Route) bool {
	return p.IsParked(route) && p.kinds.Has(route.Kind) && !p.exemptNamespaces.Has(route.Namespace) && route.Meta.DeletionTimestamp == nil
}

// Parked returns the parentRefs in ParkedAnnotation, nil where the route is not parked. An error says what is wrong with
// the annotation, which anybody may write who may write the route.
func (p *Policy) Parked(route Route) ([]gwv1.ParentReference, error) {
	if !p.IsParked(route) {
		return nil, nil
	}
	var refs []gwv1.ParentReference
	// Case matters as it does where the copy is made: "Namespace" would be evaluated here and not be copied.
	if err := utiljson.Unmarshal([]byte(route.Meta.Annotations[ParkedAnnotation]), &refs); err != nil {
		return nil, errors.New("is not a JSON list of parentRefs")
	}
	if len(refs) == 0 || len(refs) > maxParents {
		return nil, fmt.Errorf("holds %d parentRefs, which must be 1 to %d", len(refs), maxParents)
	}
	for i := range refs {
		ref := &refs[i]
		if problem := p.parkable(ref); problem != "" {
			return nil, fmt.Errorf("holds a parentRef that %s (at [%d])", problem, i)
		}
		for j := range refs[:i] {
			// The API's own rule for parentRefs; the copy would be refused.
			if other := &refs[j]; other.Name == ref.Name && (!narrowed(ref) || !narrowed(other) || sameListener(ref, other)) {
				return nil, fmt.Errorf("names Gateway %s more than once without distinguishing its listeners (at [%d])", ref.Name, i)
			}
		}
	}
	return refs, nil
}

func (p *Policy) parkable(ref *gwv1.ParentReference) string {
	switch {
	case !IsGatewayParent(ref):
		return "is not a Gateway"
	case ParentNamespace(ref) != p.SystemNamespace:
		return fmt.Sprintf("is not in namespace %q", p.SystemNamespace)
	case len(ref.Name) == 0 || len(ref.Name) > maxName:
		return "has no valid name"
	case ref.SectionName != nil && len(validation.IsDNS1123Subdomain(string(*ref.SectionName))) > 0:
		return "has no valid sectionName"
	case ref.Port != nil && (*ref.Port < 1 || *ref.Port > 65535):
		return "has no valid port"
	}
	return ""
}

func narrowed(ref *gwv1.ParentReference) bool { return ref.SectionName != nil || ref.Port != nil }

func sameListener(a, b *gwv1.ParentReference) bool {
	return value(a.SectionName) == value(b.SectionName) && value(a.Port) == value(b.Port)
}

func value[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

// Parking is what the mutating webhook changes in a route. The zero value is nothing.
type Parking struct {
	// Out are the ascending indexes of the parentRefs that leave spec.parentRefs for ParkedAnnotation, where they replace
	// what it holds.
	Out []int
	// Withdrawn is true where the annotation goes, as the route's author has withdrawn the parentRefs in it.
	Withdrawn bool

	system string
}

// Nothing reports whether nothing changes.
func (k Parking) Nothing() bool { return len(k.Out) == 0 && !k.Withdrawn }

// Apply changes a route's content. What it does not know it leaves as it is.
func (k Parking) Apply(content map[string]any) error {
	if k.Nothing() {
		return nil
	}
	object := unstructured.Unstructured{Object: content}
	annotations := object.GetAnnotations()
	if k.Withdrawn {
		delete(annotations, ParkedAnnotation)
		object.SetAnnotations(annotations)
		return nil
	}
	refs, _, err := unstructured.NestedSlice(content, "spec", "parentRefs")
	if err != nil {
		return err
	}
	var stay, parked []any
	for i, ref := range refs {
		object, ok := ref.(map[string]any)
		switch {
		case !slices.Contains(k.Out, i):
			stay = append(stay, ref)
			continue
		case !ok:
			return fmt.Errorf("spec.parentRefs[%d]: not an object", i)
		}
		object["namespace"] = k.system
		if !slices.ContainsFunc(parked, func(other any) bool { return equalJSON(other, object) }) {
			parked = append(parked, object)
		}
	}
	annotation, err := json.Marshal(parked)
	if err != nil {
		return err
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[ParkedAnnotation] = string(annotation)
	object.SetAnnotations(annotations)
	if len(stay) == 0 {
		unstructured.RemoveNestedField(content, "spec", "parentRefs")
		return nil
	}
	return unstructured.SetNestedSlice(content, stay, "spec", "parentRefs")
}

// Mutation is what the mutating webhook makes of a request.
type Mutation struct {
	Parking
	// Request is the request as the validating webhook sees it afterwards.
	Request Request
	// Missing are the facts without which it cannot be decided; nothing may be changed then.
	Missing []MissingFact
}

// Mutate parks a route that --outside=rewrite relocates, and does nothing else. Doing it again changes nothing.
//
// The parentRefs that a write puts into spec.parentRefs replace those that are parked; where it puts none there the parked
// ones stay, as every write of something else leaves them out. The author withdraws them by an apply: of a manifest that
// named some before, and names none now. A stored route from before relocation is left alone as long as its copy would be
// refused.
func (p *Policy) Mutate(req Request, facts Facts) (Mutation, error) {
	m := Mutation{Request: req, Parking: Parking{system: p.SystemNamespace}}
	route, ok := RouteOf(req.Object)
	route.Namespace = req.Namespace
	if !ok || p.Outside != OutsideRewrite || req.Namespace == p.SystemNamespace || p.exemption(req) != "" {
		return m, nil
	}
	var undecidedParent bool
	m.Out, undecidedParent = p.movable(&route, facts)
	old, isUpdate := RouteOf(req.OldObject)
	old.Namespace = req.Namespace
	if len(m.Out) == 0 {
		m.Withdrawn = !undecidedParent && isUpdate && p.IsParked(route) && p.withdrawn(&old, &route, facts)
	}
	if m.Nothing() {
		return m, nil
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(req.Object)
	if err != nil {
		return m, err
	}
	if err := m.Apply(content); err != nil {
		return m, err
	}
	parked := NewObject(route.Kind)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, parked); err != nil {
		return m, err
	}
	after := req
	after.Object = parked
	if isUpdate && len(m.Out) > 0 && !p.IsParked(old) && keepsParents(&old, &route, m.Out) {
		if preview := p.Evaluate(after, facts); !preview.Allowed {
			m.Missing = preview.Missing
			m.Out = nil
			return m, nil
		}
	}
	m.Request = after
	return m, nil
}

// movable are the indexes of the parentRefs that move with a relocation; missing is true where a fact about another one is.
func (p *Policy) movable(route *Route, facts Facts) (indexes []int, missing bool) {
	for i, parent := range p.attachments(route, facts) {
		switch parent.attachment {
		case direct, misdirected:
			indexes = append(indexes, i)
		case undecided:
			missing = true
		}
	}
	return indexes, missing
}

// Admit decides about a request as the API server does, which has it changed first and evaluated then.
func (p *Policy) Admit(req Request, facts Facts) (Mutation, Decision, error) {
	m, err := p.Mutate(req, facts)
	if err != nil || len(m.Missing) > 0 {
		return m, Decision{Missing: m.Missing}, err
	}
	return m, p.Evaluate(m.Request, facts), nil
}

// keepsParents reports whether the route had those parentRefs before.
func keepsParents(old, route *Route, indexes []int) bool {
	return !slices.ContainsFunc(indexes, func(i int) bool { return !hasParent(old.ParentRefs, &route.ParentRefs[i]) })
}

const lastAppliedAnnotation = "kubectl.kubernetes.io/last-applied-configuration"

// withdrawn reports whether an apply of the route withdraws the parentRefs that are parked. The parentRefs of an applied
// manifest can be seen in what the apply leaves behind: kubectl's annotation, or the managed fields of server-side apply.
func (p *Policy) withdrawn(old, route *Route, facts Facts) bool {
	before, now := old.Meta.Annotations[lastAppliedAnnotation], route.Meta.Annotations[lastAppliedAnnotation]
	if before != now && p.declaresGoverned(old, before, facts) && !p.declaresGoverned(route, now, facts) {
		return true
	}
	return appliesParents(old.Meta) && !appliesParents(route.Meta)
}

func (p *Policy) declaresGoverned(route *Route, manifest string, facts Facts) bool {
	var declared struct {
		Spec gwv1.CommonRouteSpec `json:"spec"`
	}
	if utiljson.Unmarshal([]byte(manifest), &declared) != nil {
		return false
	}
	stated := *route
	stated.ParentRefs = declared.Spec.ParentRefs
	return slices.ContainsFunc(p.attachments(&stated, facts), func(s parentAttachment) bool { return s.attachment != elsewhere })
}

// appliesParents reports whether somebody's server-side apply has stated spec.parentRefs.
func appliesParents(meta *metav1.ObjectMeta) bool {
	return slices.ContainsFunc(meta.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
		if entry.Operation != metav1.ManagedFieldsOperationApply || entry.FieldsV1 == nil {
			return false
		}
		var fields struct {
			Spec map[string]json.RawMessage `json:"f:spec"`
		}
		if json.Unmarshal(entry.FieldsV1.Raw, &fields) != nil {
			return false
		}
		_, states := fields.Spec["f:parentRefs"]
		return states
	})
}

// Unpark gives a parked source its parentRefs back. An error says why it cannot; nothing has changed then.
func (p *Policy) Unpark(source *unstructured.Unstructured) error {
	_, route, err := typedRoute(source)
	if err != nil {
		return err
	}
	if _, err := p.Parked(route); err != nil {
		return fmt.Errorf("annotation %s %w", ParkedAnnotation, err)
	}
	annotations := source.GetAnnotations()
	parked, err := parkedContent(source)
	if err != nil {
		return err
	}
	stayed, _, err := unstructured.NestedSlice(source.Object, "spec", "parentRefs")
	if err != nil {
		return err
	}
	if err := unstructured.SetNestedSlice(source.Object, append(parked, stayed...), "spec", "parentRefs"); err != nil {
		return err
	}
	delete(annotations, ParkedAnnotation)
	source.SetAnnotations(annotations)
	return nil
}

// parkedContent are the parked parentRefs with fields that this version does not know.
func parkedContent(source *unstructured.Unstructured) ([]any, error) {
	var refs []any
	err := utiljson.Unmarshal([]byte(source.GetAnnotations()[ParkedAnnotation]), &refs)
	return refs, err
}
