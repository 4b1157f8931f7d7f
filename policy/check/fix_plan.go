package check

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"iter"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"

	"github.com/routesteward/routesteward/policy"
)

// planner says how objects are fixed, one after the other: what it added for one is there for the next.
type planner struct {
	policy *policy.Policy
	user   policy.User
	facts  policy.Facts
	// added are the ReferenceGrants that were given away, by namespace and name.
	added map[string]bool
	// places says where the routes of the system namespace are written, or will be once they are moved there.
	places map[objectKey]place
	// attached says which object is attached to a route by name (GEP-713), and so could not follow it.
	attached map[objectKey]string
	// stay are routes that do not move, as a manifest of theirs cannot: that one.
	stay map[objectKey]Result
}

// place is where a route is written, and its name there.
type place struct {
	key   objectKey
	where string
	// source is the "namespace/name" of which the route is the relocated copy, or empty.
	source string
}

func newPlanner(p *policy.Policy, user policy.User, facts *facts, stay map[objectKey]Result) *planner {
	planner := &planner{
		policy: p, user: user, facts: facts, added: map[string]bool{},
		places: map[objectKey]place{}, attached: map[objectKey]string{}, stay: stay,
	}
	for key, object := range facts.stored {
		if key.namespace == p.SystemNamespace {
			there := place{key: key, where: "in the cluster"}
			if route, ok := policy.RouteOf(object); ok && p.IsCopy(route) {
				there.source = object.GetAnnotations()[policy.SourceAnnotation]
			}
			planner.places[key] = there
		}
	}
	return planner
}

// grantedFacts are facts with ReferenceGrants that are about to be added: of all those in a namespace the few that one
// route is about, as each permits one edge only.
type grantedFacts struct {
	policy.Facts
	added map[string][]*gwv1.ReferenceGrant
}

// ForeignGrants implements policy.Facts.
func (f grantedFacts) ForeignGrants(namespace, target string) ([]*gwv1.ReferenceGrant, bool) {
	grants, known := f.Facts.ForeignGrants(namespace, target)
	if added := f.added[namespace]; len(added) > 0 {
		grants = append(slices.Clip(grants), added...)
	}
	return grants, known
}

// plan is what fixes one route. The zero value changes nothing.
type plan struct {
	// fields to write, by their paths: texts, lists, or nil for what is taken out.
	fields map[string]any
	// grants to add.
	grants []*gwv1.ReferenceGrant
	// missing are the facts without which the result cannot be decided here.
	missing []policy.MissingFact
	// moved is the route's new place in the cluster, where it is moved, and where its manifest is.
	moved objectKey
	where string
	// object is the route with these fields; nil where there is nothing to fix.
	object client.Object
}

var parkedField = fmt.Sprintf("metadata.annotations[%s]", policy.ParkedAnnotation)

// draft says how to fix an object, or why it cannot be fixed, as far as that does not depend on what others become: it
// may be asked about many at once.
func (p *planner) draft(r Result) (plan, string) {
	if r.evaluated == nil {
		return plan{}, ""
	}
	outside := map[string]bool{}
	for _, f := range r.evaluated.decision.Findings {
		repair := policy.RuleOf(f.Rule).Repair
		switch {
		case f.Severity == policy.SeverityAudit:
		case repair.Move:
			outside[f.Field] = true
		case repair.Never != nil && f.Severity == policy.SeverityDeny:
			reason := repair.Never(r.Kind)
			if reason == policy.SeeFinding {
				reason = f.Problem + "; " + f.Fix
			}
			return plan{}, reason
		}
	}
	route, ok := policy.RouteOf(r.evaluated.object)
	if !ok || r.evaluated.decision.Exempt != "" {
		return plan{}, ""
	}
	route.Namespace = r.Namespace
	for _, i := range r.evaluated.mutation.Out {
		outside[fmt.Sprintf("spec.parentRefs[%d]", i)] = true
	}
	if relocated, _ := policy.RouteOf(r.evaluated.mutation.Request.Object); p.policy.Outside == policy.OutsideRewrite && p.policy.IsParked(relocated) {
		outside[parkedField] = true
	}
	if len(outside) > 0 {
		return p.move(r, route, outside)
	}
	if p.policy.Grants == policy.GrantsOff || p.policy.Governs(route, p.facts) != policy.Yes {
		return plan{missing: r.evaluated.decision.Missing}, ""
	}
	return plan{object: r.evaluated.object}, ""
}

// settle completes a draft with the grants that it needs, or says why the object cannot be fixed. It fixes all or nothing:
// a route that would be refused anyway is left as it is.
func (p *planner) settle(r Result, change plan) (plan, string) {
	if change.object == nil {
		return change, ""
	}
	if reason := p.taken(r, change.moved); reason != "" {
		return plan{}, reason
	}
	route, _ := policy.RouteOf(change.object)
	if change.moved == (objectKey{}) {
		route.Namespace = r.Namespace
	}
	facts := grantedFacts{Facts: p.facts, added: map[string][]*gwv1.ReferenceGrant{}}
	for _, edge := range p.policy.Edges(route) {
		wanted := personalGrant(edge)
		if !p.added[grantKey(wanted)] {
			lacking, reason := p.lacks(edge, wanted)
			if reason != "" {
				return plan{}, reason
			}
			if !lacking {
				continue
			}
			change.grants = append(change.grants, wanted)
		}
		facts.added[wanted.Namespace] = append(facts.added[wanted.Namespace], wanted)
	}
	if len(change.fields) == 0 && len(change.grants) == 0 {
		return plan{missing: r.evaluated.decision.Missing}, ""
	}
	decision := p.policy.Evaluate(policy.Request{
		Operation: policy.Create, Kind: r.Kind, Namespace: route.Namespace, User: p.user, Object: change.object,
	}, facts)
	if denied := decision.Denied(); len(denied) > 0 {
		return plan{}, denied[0].Problem
	}
	change.missing = decision.Missing
	if left, ok := p.stay[r.key()]; ok && change.moved != (objectKey{}) && !left.same(r) {
		return plan{}, fmt.Sprintf("its other manifest at %s:%d cannot be moved, and they move together; fix that one or remove it", left.File, left.Line)
	}
	p.keep(r, change)
	return change, ""
}

// keep remembers what a plan gives away; undo forgets it.
func (p *planner) keep(r Result, change plan) {
	for _, grant := range change.grants {
		p.added[grantKey(grant)] = true
	}
	if _, taken := p.places[change.moved]; !taken && change.moved != (objectKey{}) {
		p.places[change.moved] = place{key: r.key(), where: change.where}
	}
}

// movedFrom yields the routes that move, as they are called before. One whose name the API server makes is never the same
// as another.
func (p *planner) movedFrom() iter.Seq[objectKey] {
	return func(yield func(objectKey) bool) {
		for to, from := range p.places {
			if from.key != to && !strings.HasSuffix(to.name, "*") && !yield(from.key) {
				return
			}
		}
	}
}

func (p *planner) undo(change plan) {
	for _, grant := range change.grants {
		delete(p.added, grantKey(grant))
	}
	// Another manifest of the same route may have moved it before.
	if p.places[change.moved].where == change.where {
		delete(p.places, change.moved)
	}
}

func grantKey(grant *gwv1.ReferenceGrant) string { return grant.Namespace + "/" + grant.Name }

// move says what to write so that the route means the same in the system namespace, and what it is then.
func (p *planner) move(r Result, route policy.Route, outside map[string]bool) (plan, string) {
	if reason := p.immovable(r, route, outside); reason != "" {
		return plan{}, reason
	}
	change := plan{
		fields: map[string]any{"metadata.namespace": p.policy.SystemNamespace},
		moved:  objectKey{r.Kind, p.policy.SystemNamespace, r.Name}, where: fmt.Sprintf("at %s:%d", r.File, r.Line),
		object: r.evaluated.object.DeepCopyObject().(client.Object),
	}
	change.object.SetNamespace(p.policy.SystemNamespace)
	for ref := range route.References() {
		if ref.Implicit {
			change.fields[ref.Path()+".namespace"] = r.Namespace
		}
	}
	policy.Qualify(change.object, r.Namespace)
	if p.policy.Outside == policy.OutsideRewrite && (len(route.ParentRefs) > 0 || outside[parkedField]) {
		p.moveAsCopy(r, route, &change)
	}
	if parked, ok := route.Meta.Annotations[policy.ParkedAnnotation]; ok {
		change.fields[parkedField] = nil
		delete(change.object.GetAnnotations(), policy.ParkedAnnotation)
		if len(route.ParentRefs) == 0 {
			var refs []any
			if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(parked), &refs); err != nil {
				return plan{}, err.Error()
			}
			change.fields["spec.parentRefs"] = refs
			if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(parked), &policy.CommonSpec(change.object).ParentRefs); err != nil {
				return plan{}, err.Error()
			}
		}
	}
	return change, ""
}

// immovable says why a route would not mean the same in the system namespace, or is "".
func (p *planner) immovable(r Result, route policy.Route, outside map[string]bool) string {
	system := p.policy.SystemNamespace
	for i := range route.ParentRefs {
		ref := &route.ParentRefs[i]
		if path := fmt.Sprintf("spec.parentRefs[%d]", i); !outside[path] {
			return fmt.Sprintf("%s: %s may not take routes from %q, or mean something else there; put this parentRef into a route of its own, or name its namespace if that is %s",
				path, parentName(ref), system, system)
		}
	}
	relocated, _ := policy.RouteOf(r.evaluated.mutation.Request.Object)
	if reason := p.policy.CannotRelocate(relocated); reason != "" {
		return reason
	}
	if attached := p.attached[r.key()]; attached != "" {
		return fmt.Sprintf("%s is attached to it and would be no longer; move both", attached)
	}
	if policy.CommonSpec(r.evaluated.object).UseDefaultGateways != "" {
		return "spec.useDefaultGateways: means other Gateways in another namespace; put it into a route of its own"
	}
	if parked, _ := p.policy.Parked(relocated); len(r.evaluated.mutation.Out) > len(parked) {
		return "spec.parentRefs: two of them are the same; remove one"
	}
	if len(route.ParentRefs) > 0 && p.policy.IsParked(route) && p.policy.Outside != policy.OutsideRewrite {
		return parkedField + ": which parentRefs are meant, these or those of spec, is not certain; keep one of them"
	}
	return ""
}

// moveAsCopy gives a route that would be relocated the name of its copy, and the copy's parentRefs.
func (p *planner) moveAsCopy(r Result, route policy.Route, change *plan) {
	name := p.policy.CopyName(r.Namespace, r.Name)
	change.moved.name = name
	switch {
	case name == r.Name:
	case route.Meta.Name != "":
		change.fields["metadata.name"] = name
		change.object.SetName(name)
	default:
		prefix := strings.TrimSuffix(name, "*")
		change.fields["metadata.generateName"] = prefix
		change.object.SetGenerateName(prefix)
	}
	for i := range route.ParentRefs {
		if policy.ParentNamespace(&route.ParentRefs[i]) == "" {
			change.fields[fmt.Sprintf("spec.parentRefs[%d].namespace", i)] = p.policy.SystemNamespace
			policy.CommonSpec(change.object).ParentRefs[i].Namespace = new(gwv1.Namespace(p.policy.SystemNamespace))
		}
	}
}

// taken says who has the place to which a route would move.
func (p *planner) taken(r Result, to objectKey) string {
	other, taken := p.places[to]
	switch {
	case !taken || other.key == r.key() || strings.HasSuffix(r.Name, "*"):
		return ""
	case other.source == r.Namespace+"/"+r.Name:
		return fmt.Sprintf("its relocated copy %s/%s is in the cluster, and nobody else may write that; delete the route there before its manifest is moved", to.namespace, to.name)
	}
	return fmt.Sprintf("the name %s/%s is taken by the %s %s; give one of them another name", to.namespace, to.name, r.Kind, other.where)
}

func parentName(ref *gwv1.ParentReference) string {
	kind := "Gateway"
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	if namespace := policy.ParentNamespace(ref); namespace != "" {
		return fmt.Sprintf("%s %s/%s", kind, namespace, ref.Name)
	}
	return fmt.Sprintf("%s %s", kind, ref.Name)
}

// lacks says whether an edge needs a ReferenceGrant that is not there, or why it cannot have it.
func (p *planner) lacks(edge policy.Edge, grant *gwv1.ReferenceGrant) (bool, string) {
	consent := p.policy.EvaluateEdge(edge, p.facts, true)
	switch consent.Outcome {
	case policy.Vetoed:
		return false, fmt.Sprintf("namespace %q refuses references from other namespaces (label %s=%s); its owner has to remove the label",
			edge.Namespace, policy.GrantsLabel, policy.GrantsDeny)
	case policy.Permitted, policy.Recorded, policy.Grantable:
		return false, ""
	}
	grants, _ := p.facts.ForeignGrants(edge.Namespace, "")
	if slices.ContainsFunc(grants, func(other *gwv1.ReferenceGrant) bool { return policy.Permits(other, edge, edge.FromNamespace) }) {
		return false, "" // the rest is decided at admission
	}
	if consent.Gone {
		return false, fmt.Sprintf("namespace %q is missing or being deleted, so no ReferenceGrant can be put there", edge.Namespace)
	}
	if slices.ContainsFunc(grants, func(other *gwv1.ReferenceGrant) bool { return other.Name == grant.Name }) {
		return false, fmt.Sprintf("ReferenceGrant %s/%s is there already and permits something else", grant.Namespace, grant.Name)
	}
	return true, ""
}

var grantNameHash = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// personalGrant is a ReferenceGrant for exactly this edge, as people write them: routesteward never changes it.
func personalGrant(edge policy.Edge) *gwv1.ReferenceGrant {
	managed := edge.Grant("")
	// Not the managed grant's name: that one may be in the cluster already, and nobody may change it.
	sum := sha256.Sum256([]byte(managed.Name))
	name := edge.FromNamespace + "-to-"
	if len(validation.IsDNS1123Label(edge.Name)) == 0 {
		name += edge.Name + "-"
	}
	name += grantNameHash.EncodeToString(sum[:5])
	return &gwv1.ReferenceGrant{
		// v1 is served since Gateway API 1.5 only, v1beta1 by every release.
		TypeMeta:   metav1.TypeMeta{APIVersion: gwv1.GroupName + "/v1beta1", Kind: string(policy.ReferenceGrant)},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: edge.Namespace},
		Spec:       managed.Spec,
	}
}
