package check

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/policy"
)

// planner says how objects are mended, one after the other: what it added for one is there for the next.
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
}

// place is where a route is written, and its name there.
type place struct {
	key   objectKey
	where string
}

func newPlanner(p *policy.Policy, user policy.User, facts policy.Facts) *planner {
	return &planner{
		policy: p, user: user, facts: facts, added: map[string]bool{},
		places: map[objectKey]place{}, attached: map[objectKey]string{},
	}
}

// grantedFacts are facts with ReferenceGrants that are about to be added: of all those in a namespace the few that one
// route is about, as each permits one edge only.
type grantedFacts struct {
	policy.Facts
	added map[string][]*gwv1.ReferenceGrant
}

// ForeignGrants implements policy.Facts.
func (f grantedFacts) ForeignGrants(namespace string) ([]*gwv1.ReferenceGrant, bool) {
	grants, known := f.Facts.ForeignGrants(namespace)
	if added := f.added[namespace]; len(added) > 0 {
		grants = append(slices.Clip(grants), added...)
	}
	return grants, known
}

// plan is what mends one route. The zero value changes nothing.
type plan struct {
	// namespaces to write, by the path of the object that shall name one.
	namespaces map[string]string
	// grants to add.
	grants []*gwv1.ReferenceGrant
	// missing are the facts without which the result cannot be decided here.
	missing []policy.MissingFact
	// moved is the route's new name in the cluster, where it is moved, and where its manifest.
	moved objectKey
	where string
}

// routeOutside is the id of the one rule whose findings moving a route mends.
const routeOutside = "route-outside-system-namespace"

// plan says how to mend an object, or why it cannot be mended. It mends all or nothing: a route that would be refused
// anyway is left as it is.
func (p *planner) plan(r Result) (plan, string) {
	outside := map[string]bool{}
	for _, f := range r.Decision.Findings {
		switch {
		case f.Severity == policy.SeverityAudit:
		case f.Rule == routeOutside:
			outside[f.Field] = true
		case f.Rule == "gateway-outside-system-namespace":
			return plan{}, "to move a Gateway moves its address and its listeners too, which only its owner can decide"
		case f.Rule == "managed-object-changed":
			return plan{}, "whether this ReferenceGrant should be there without the label, or not at all, only its owner can decide"
		}
	}
	route, ok := policy.RouteOf(r.Object)
	if !ok || r.Decision.Exempt != "" {
		return plan{}, ""
	}
	route.Namespace = r.Namespace
	var change plan
	moved := r.Object
	if len(outside) > 0 {
		var reason string
		if change.namespaces, reason = p.move(r, route, outside); reason != "" {
			return plan{}, reason
		}
		moved = movedRoute(r.Object, p.policy.SystemNamespace, r.Namespace)
		route, _ = policy.RouteOf(moved)
	} else if p.policy.Grants == policy.GrantsOff || p.policy.Governs(route, p.facts) != policy.Yes {
		return plan{missing: r.Decision.Missing}, ""
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
	if len(change.namespaces) == 0 && len(change.grants) == 0 {
		return plan{missing: r.Decision.Missing}, ""
	}
	if len(outside) > 0 {
		change.moved, change.where = objectKey{r.Kind, p.policy.SystemNamespace, r.Name}, fmt.Sprintf("at %s:%d", r.File, r.Line)
	}
	decision := p.policy.Evaluate(policy.Request{
		Operation: policy.Create, Kind: r.Kind, Namespace: route.Namespace, User: p.user, Object: moved,
	}, facts)
	if denied := decision.Denied(); len(denied) > 0 {
		return plan{}, denied[0].Problem
	}
	change.missing = decision.Missing
	p.keep(r, change)
	return change, ""
}

// keep remembers what a plan gives away; undo forgets it.
func (p *planner) keep(r Result, change plan) {
	for _, grant := range change.grants {
		p.added[grantKey(grant)] = true
	}
	if _, taken := p.places[change.moved]; !taken && change.moved != (objectKey{}) {
		p.places[change.moved] = place{objectKey{r.Kind, r.Namespace, r.Name}, change.where}
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

// move says which namespaces to write so that the route means the same in the system namespace.
func (p *planner) move(r Result, route policy.Route, outside map[string]bool) (map[string]string, string) {
	system := p.policy.SystemNamespace
	for i := range route.ParentRefs {
		ref := &route.ParentRefs[i]
		if path := fmt.Sprintf("spec.parentRefs[%d]", i); !outside[path] {
			return nil, fmt.Sprintf("%s: %s may not take routes from %q, or mean something else there; put this parentRef into a route of its own, or name its namespace if that is %s",
				path, parentName(ref), system, system)
		}
	}
	if path := extensionRef(r.Object); path != "" {
		return nil, fmt.Sprintf("%s: means an object in %q and cannot name a namespace; move that object too, or do without", path, r.Namespace)
	}
	if attached := p.attached[objectKey{r.Kind, r.Namespace, r.Name}]; attached != "" {
		return nil, fmt.Sprintf("%s is attached to it and would be no longer; move both", attached)
	}
	other, taken := p.places[objectKey{r.Kind, system, r.Name}]
	if taken && other.key != (objectKey{r.Kind, r.Namespace, r.Name}) && !strings.HasSuffix(r.Name, "*") {
		return nil, fmt.Sprintf("the name %s/%s is taken by the %s %s; give one of them another name", system, r.Name, r.Kind, other.where)
	}
	namespaces := map[string]string{"metadata": system}
	for ref := range route.References() {
		if ref.Implicit {
			namespaces[ref.Path()] = r.Namespace
		}
	}
	return namespaces, ""
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

// extensionRef is the path of the first filter that refers to an object in the route's own namespace, or "".
func extensionRef(object client.Object) string {
	at := func(i, j, k int) string {
		if j < 0 {
			return fmt.Sprintf("spec.rules[%d].filters[%d].extensionRef", i, k)
		}
		return fmt.Sprintf("spec.rules[%d].backendRefs[%d].filters[%d].extensionRef", i, j, k)
	}
	http := func(filters []gwv1.HTTPRouteFilter) int {
		return slices.IndexFunc(filters, func(f gwv1.HTTPRouteFilter) bool { return f.ExtensionRef != nil })
	}
	grpc := func(filters []gwv1.GRPCRouteFilter) int {
		return slices.IndexFunc(filters, func(f gwv1.GRPCRouteFilter) bool { return f.ExtensionRef != nil })
	}
	switch route := object.(type) {
	case *gwv1.HTTPRoute:
		for i, rule := range route.Spec.Rules {
			if k := http(rule.Filters); k >= 0 {
				return at(i, -1, k)
			}
			for j, backend := range rule.BackendRefs {
				if k := http(backend.Filters); k >= 0 {
					return at(i, j, k)
				}
			}
		}
	case *gwv1.GRPCRoute:
		for i, rule := range route.Spec.Rules {
			if k := grpc(rule.Filters); k >= 0 {
				return at(i, -1, k)
			}
			for j, backend := range rule.BackendRefs {
				if k := grpc(backend.Filters); k >= 0 {
					return at(i, j, k)
				}
			}
		}
	}
	return ""
}

// movedRoute is a copy of a route in another namespace that refers to the same objects.
func movedRoute(object client.Object, to, from string) client.Object {
	moved := object.DeepCopyObject().(client.Object)
	moved.SetNamespace(to)
	explicit := func(ref *gwv1.BackendObjectReference) {
		if ref.Namespace == nil || *ref.Namespace == "" {
			ref.Namespace = new(gwv1.Namespace(from))
		}
	}
	httpFilters := func(filters []gwv1.HTTPRouteFilter) {
		for i := range filters {
			if mirror := filters[i].RequestMirror; mirror != nil {
				explicit(&mirror.BackendRef)
			}
			if auth := filters[i].ExternalAuth; auth != nil {
				explicit(&auth.BackendRef)
			}
		}
	}
	grpcFilters := func(filters []gwv1.GRPCRouteFilter) {
		for i := range filters {
			if mirror := filters[i].RequestMirror; mirror != nil {
				explicit(&mirror.BackendRef)
			}
		}
	}
	switch route := moved.(type) {
	case *gwv1.HTTPRoute:
		for i := range route.Spec.Rules {
			rule := &route.Spec.Rules[i]
			httpFilters(rule.Filters)
			for j := range rule.BackendRefs {
				explicit(&rule.BackendRefs[j].BackendObjectReference)
				httpFilters(rule.BackendRefs[j].Filters)
			}
		}
	case *gwv1.GRPCRoute:
		for i := range route.Spec.Rules {
			rule := &route.Spec.Rules[i]
			grpcFilters(rule.Filters)
			for j := range rule.BackendRefs {
				explicit(&rule.BackendRefs[j].BackendObjectReference)
				grpcFilters(rule.BackendRefs[j].Filters)
			}
		}
	}
	return moved
}

// lacks says whether an edge needs a ReferenceGrant that is not there, or why it cannot have it.
func (p *planner) lacks(edge policy.Edge, grant *gwv1.ReferenceGrant) (bool, string) {
	judgement := p.policy.Judge(edge, p.facts, true)
	switch judgement.Outcome {
	case policy.Vetoed:
		return false, fmt.Sprintf("namespace %q refuses references from other namespaces (label %s=%s); its owner has to remove the label",
			edge.Namespace, policy.GrantsLabel, policy.GrantsDeny)
	case policy.Permitted, policy.Recorded, policy.Grantable:
		return false, ""
	}
	grants, _ := p.facts.ForeignGrants(edge.Namespace)
	if slices.ContainsFunc(grants, func(other *gwv1.ReferenceGrant) bool { return policy.Permits(other, edge, edge.FromNamespace) }) {
		return false, "" // the rest is decided at admission
	}
	if judgement.Gone {
		return false, fmt.Sprintf("namespace %q is missing or being deleted, so no ReferenceGrant can be put there", edge.Namespace)
	}
	if slices.ContainsFunc(grants, func(other *gwv1.ReferenceGrant) bool { return other.Name == grant.Name }) {
		return false, fmt.Sprintf("ReferenceGrant %s/%s is there already and permits something else", grant.Namespace, grant.Name)
	}
	return true, ""
}

var grantNameHash = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// personalGrant is a ReferenceGrant for exactly this edge, as people write them: routewarden never changes it.
func personalGrant(edge policy.Edge) *gwv1.ReferenceGrant {
	managed := edge.Grant("")
	// Not the managed grant's name: that one may be in the cluster already, and is nobody's to change.
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
