package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Relocation (--outside=rewrite): admission cannot change a route's namespace, so the route is parked where it is, that is
// its governed parentRefs are kept in ParkedAnnotation instead of spec.parentRefs, and a copy in the system namespace has
// them. A parked source stays relocated under every policy; --outside only says what may be parked anew.

// WithheldGroup and WithheldKind replace group and kind of a reference of a copy that lost its consent. No gateway knows
// such a kind, so that it answers 500 for this reference's share of the requests, as for every reference that does not
// resolve (HTTPBackendRef of Gateway API).
const (
	WithheldGroup = "routesteward.dev"
	WithheldKind  = "WithheldBackend"
)

// maxName is the length in bytes of the longest name of an object.
const maxName = validation.DNS1123SubdomainMaxLength

// maxParents is how many parentRefs a route may have (CommonRouteSpec of Gateway API).
const maxParents = 32

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
	// Case matters as it does where the copy is made: "Namespace" would be judged here and not be copied.
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
				return nil, fmt.Errorf("names Gateway %s more than once without telling its listeners apart (at [%d])", ref.Name, i)
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

// Served is a stored route as gateways see its references: from the system namespace where it is parked.
func (p *Policy) Served(route Route) Route {
	if parked, _ := p.Parked(route); parked != nil {
		route.relocatedTo = p.SystemNamespace
	}
	return route
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

func equalJSON(a, b any) bool {
	left, errLeft := json.Marshal(a)
	right, errRight := json.Marshal(b)
	return errLeft == nil && errRight == nil && string(left) == string(right)
}

// Mutation is what the mutating webhook makes of a request.
type Mutation struct {
	Parking
	// Request is the request as the validating webhook sees it afterwards.
	Request Request
	// Missing are the facts without which it cannot be told; nothing may be changed then.
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
	for i, parent := range p.standings(route, facts) {
		switch parent.standing {
		case direct, misdirected:
			indexes = append(indexes, i)
		case undecided:
			missing = true
		}
	}
	return indexes, missing
}

// Admit decides about a request as the API server does, which has it changed first and judged then.
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
	return slices.ContainsFunc(p.standings(&stated, facts), func(s parentStanding) bool { return s.standing != elsewhere })
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

// parkedContent are the parked parentRefs with fields that this version does not know.
func parkedContent(source *unstructured.Unstructured) ([]any, error) {
	var refs []any
	err := utiljson.Unmarshal([]byte(source.GetAnnotations()[ParkedAnnotation]), &refs)
	return refs, err
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

// HeldName is the name of a relocated copy.
type HeldName struct {
	Kind Kind
	Name string
}

// Holder says which relocated copy's name a stored route holds: its own where it is in the system namespace, its copy's
// where it is parked. The source is the "namespace/name" of the source, or empty for a route of the system namespace that
// is no copy.
func (p *Policy) Holder(route Route) (held HeldName, source string, holds bool) {
	switch {
	case p.IsCopy(route):
		return HeldName{route.Kind, route.Meta.Name}, cmp.Or(route.Meta.Annotations[SourceAnnotation], "?"), true
	case route.Namespace == p.SystemNamespace:
		return HeldName{route.Kind, route.Meta.Name}, "", true
	case p.Relocates(route) && route.Meta.Name != "":
		return HeldName{route.Kind, p.CopyName(route.Namespace, route.Meta.Name)}, route.Namespace + "/" + route.Meta.Name, true
	}
	return HeldName{}, "", false
}

// Holders sorts stored routes by the names of relocated copies that they hold, as Facts.Holders answers: a route in the
// system namespace stands before the sources that are parked for its name.
func (p *Policy) Holders(routes []Route) map[HeldName][]string {
	holders := map[HeldName][]string{}
	there := map[HeldName]bool{}
	for _, route := range routes {
		held, source, holds := p.Holder(route)
		switch inside := route.Namespace == p.SystemNamespace; {
		case !holds || !inside && there[held]:
		case inside:
			there[held], holders[held] = true, []string{source}
		default:
			holders[held] = append(holders[held], source)
		}
	}
	return holders
}

// reserved reports whether no copy may have the name.
func (p *Policy) reserved(name string) (pattern string, reserved bool) {
	for _, pattern := range p.ReservedNames {
		if matches, err := path.Match(pattern, name); err == nil && matches {
			return pattern, true
		}
	}
	return "", false
}
