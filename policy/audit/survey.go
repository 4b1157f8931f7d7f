package audit

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/routing"
)

// survey looks at everything once and fills the report with the objects that it finds.
func (a *auditor) survey() {
	for _, o := range a.cluster.Gateways {
		if o.Namespace == a.system() {
			a.surveyGateway(refOf(policy.Gateway, o.Namespace, o.Name))
		}
	}
	for _, o := range a.cluster.Routes {
		r, _ := policy.RouteOf(o)
		a.surveyRoute(r)
	}
	slices.SortFunc(a.routes, func(x, y *route) int { return compareRefs(x.Ref, y.Ref) })
	for _, r := range a.routes {
		a.report.Routes = append(a.report.Routes, r.Route)
		a.surveyWithheld(r)
	}
}

func (a *auditor) surveyRoute(view policy.Route) {
	a.all = append(a.all, view)
	a.countUses(view)
	meta := view.Meta
	if !a.policy.Evaluates(view.Kind) || slices.Contains(a.policy.ExemptNamespaces, view.Namespace) || meta.DeletionTimestamp != nil {
		return
	}
	r := &route{view: view, status: policy.StatusOf(view.Object()).Parents, Route: &Route{
		Ref: refOfRoute(view), Role: RoleRoute, Origin: view.Namespace, Governed: "yes", State: StateOK,
	}}
	switch {
	case a.policy.IsCopy(view):
		r.Role, r.Origin = RoleCopy, cmp.Or(meta.Labels[policy.OriginLabel], view.Namespace)
	case a.policy.IsParked(view):
		r.Role = RoleSource
	}
	a.surveyParents(r)
	governed := slices.ContainsFunc(r.parents, func(p *parent) bool { return p.governed })
	if !governed && r.Role == RoleRoute && a.policy.Governs(view, a.facts) != policy.Yes {
		return
	}
	if governed && !slices.ContainsFunc(r.parents, func(p *parent) bool { return p.governed && !p.misdirected }) {
		r.Governed = "misdirected"
	}
	for _, h := range view.Hostnames {
		r.Hostnames = append(r.Hostnames, string(h))
	}
	r.Model = modelOf(view, matchedModel(view))
	a.surveyReferences(r)
	a.countAttached(r)
	a.routes = append(a.routes, r)
	a.byRef[r.Ref], a.states[r.Ref] = r, &r.State
}

// surveyParents adds the parentRefs to Gateways, the parked ones first.
func (a *auditor) surveyParents(r *route) {
	var parked []gwv1.ParentReference
	if r.Role == RoleSource {
		parked, r.parkedError = a.policy.Parked(r.view)
	}
	r.Parents = make([]Parent, 0, len(parked)+len(r.view.ParentRefs)) // pointers to its elements are kept
	for i, ref := range parked {
		p := a.newParent(r, fmt.Sprintf("metadata.annotations[%s][%d]", policy.ParkedAnnotation, i), ref, policy.ParentNamespace(&ref), true)
		p.governed = true
		// What is wrong is found in the copy. Whoever looks at the source wants to know that it does not work.
		r.State = worstOf(r.State, p.State)
	}
	for i, ref := range r.view.ParentRefs {
		if policy.IsGatewayParent(&ref) {
			a.surveyParent(r, fmt.Sprintf("spec.parentRefs[%d]", i), ref)
		}
	}
}

func (a *auditor) surveyParent(r *route, field string, ref gwv1.ParentReference) {
	alone := r.view
	alone.ParentRefs = []gwv1.ParentReference{ref}
	governed := a.governs.Governs(alone, a.facts) == policy.Yes
	namespace := cmp.Or(policy.ParentNamespace(&ref), r.Namespace)
	misdirected := governed && namespace != a.system()
	if misdirected {
		namespace = a.system()
	}
	p := a.newParent(r, field, ref, namespace, false)
	p.governed, p.misdirected = governed, misdirected
	if p.object != nil {
		p.attachment = routing.Attach(r.view, &ref, p.object, a.labels)
		p.Listeners = p.acceptances(r.Namespace)
	}
}

// newParent adds a parentRef to a Gateway of a namespace.
func (a *auditor) newParent(r *route, field string, ref gwv1.ParentReference, namespace string, parked bool) *parent {
	r.Parents = append(r.Parents, Parent{
		Field: field, Gateway: refOf(policy.Gateway, namespace, string(ref.Name)), SectionName: string(valueOf(ref.SectionName)), Port: int32(valueOf(ref.Port)),
		Listeners: []Acceptance{}, State: StateOK,
	})
	p := &parent{Parent: &r.Parents[len(r.Parents)-1], ref: ref, parked: parked, explained: map[string]bool{}}
	p.object = a.gateways[p.Gateway]
	for _, s := range r.status {
		if sameParent(&s.ParentRef, &ref, r.Namespace) {
			p.status = append(p.status, s)
		}
	}
	p.Status = p.shownStatus(r)
	if p.refused() {
		p.State = StateBroken
	}
	r.parents = append(r.parents, p)
	return p
}

// refused reports whether a controller has not accepted the parentRef or could not resolve a backend.
func (p *parent) refused() bool {
	for _, s := range p.status {
		for _, c := range s.Conditions {
			if c.Status != metav1.ConditionTrue && (c.Type == string(gwv1.RouteConditionAccepted) || c.Type == string(gwv1.RouteConditionResolvedRefs)) {
				return true
			}
		}
	}
	return false
}

// acceptances are those of the listeners that the parentRef selects.
func (p *parent) acceptances(namespace string) []Acceptance {
	all := []Acceptance{}
	for _, l := range p.attachment.Listeners {
		if p.notSelected(l) {
			continue
		}
		shown := Acceptance{Listener: string(l.Name), Accepted: l.Accepted, Words: l.Problem}
		if p.misdirected {
			shown.Accepted, shown.Reason, shown.Words = policy.No, string(gwv1.RouteReasonNoMatchingParent), fmt.Sprintf("the parentRef means a Gateway in %q", namespace)
		} else if l.Accepted != policy.Yes {
			shown.Reason = string(l.Reason)
		}
		all = append(all, shown)
	}
	return all
}

// notSelected reports whether a parentRef means another listener of the Gateway; where it means none, all are listed.
func (p *parent) notSelected(l routing.ListenerAttachment) bool {
	return l.Reason == gwv1.RouteReasonNoMatchingParent && p.attachment.Reason != gwv1.RouteReasonNoMatchingParent
}

// shownStatus is the status as the report shows it.
func (p *parent) shownStatus(r *route) []ParentStatus {
	all := make([]ParentStatus, 0, len(p.status))
	for _, s := range p.status {
		shown := ParentStatus{Controller: string(s.ControllerName), Conditions: make([]Condition, 0, len(s.Conditions))}
		for _, c := range s.Conditions {
			words := conditionWords(c)
			if p.parked {
				words = mirroredWords(s.ControllerName, c)
			}
			shown.Conditions = append(shown.Conditions, Condition{
				Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: policy.Printable(c.Message), Words: words, Stale: r.isStale(c),
			})
		}
		// Envoy Gateway repeats its entry where another controller writes one about the same parentRef.
		if !slices.ContainsFunc(all, func(o ParentStatus) bool {
			return o.Controller == shown.Controller && slices.Equal(o.Conditions, shown.Conditions)
		}) {
			all = append(all, shown)
		}
	}
	return all
}

func (r *route) isStale(c metav1.Condition) bool {
	return c.ObservedGeneration != 0 && c.ObservedGeneration < r.view.Meta.Generation
}

func sameParent(x, y *gwv1.ParentReference, namespace string) bool {
	return policy.IsGatewayParent(x) == policy.IsGatewayParent(y) && x.Name == y.Name &&
		cmp.Or(policy.ParentNamespace(x), namespace) == cmp.Or(policy.ParentNamespace(y), namespace) &&
		valueOf(x.SectionName) == valueOf(y.SectionName) && valueOf(x.Port) == valueOf(y.Port)
}

func valueOf[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func (a *auditor) labels(namespace string) (map[string]string, bool) {
	labels, found := a.facts.labels[namespace]
	return labels, found
}

// surveyGateway adds a Gateway, once.
func (a *auditor) surveyGateway(ref Ref) *Gateway {
	if g := a.shown[ref]; g != nil {
		return g
	}
	g := &Gateway{Ref: ref, Listeners: []Listener{}, State: StateBroken}
	if o := a.gateways[ref]; o != nil {
		g.Exists, g.Class, g.State = true, string(o.Spec.GatewayClassName), StateOK
		for _, l := range o.Spec.Listeners {
			g.Listeners = append(g.Listeners, Listener{
				Name: string(l.Name), Port: int32(l.Port), Protocol: string(l.Protocol), Hostname: string(valueOf(l.Hostname)), AllowedNamespaces: allowedWords(l),
			})
		}
	}
	a.report.Gateways = append(a.report.Gateways, g)
	a.shown[ref], a.states[ref] = g, &g.State
	return g
}

// countAttached counts a route once on each listener that accepts it.
func (a *auditor) countAttached(r *route) {
	counted := map[*Listener]bool{}
	for _, p := range r.parents {
		g := a.surveyGateway(p.Gateway)
		for i := range g.Listeners {
			l := &g.Listeners[i]
			if !counted[l] && slices.ContainsFunc(p.Listeners, func(x Acceptance) bool { return x.Listener == l.Name && x.Accepted == policy.Yes }) {
				counted[l] = true
				l.Routes++
			}
		}
	}
}

func (a *auditor) surveyReferences(r *route) {
	refs := slices.Collect(r.view.References())
	r.References = make([]Reference, 0, len(refs)) // pointers to its elements are kept
	for _, ref := range refs {
		r.References = append(r.References, Reference{Field: ref.Path(), Backend: backendOf(ref), Port: ref.Port, State: StateOK})
		x := &reference{
			Reference: &r.References[len(r.References)-1], implicit: ref.Implicit, weight: ref.Weight, mirror: ref.Mirror,
		}
		r.references = append(r.references, x)
		if r.Role == RoleCopy && ref.Group == policy.WithheldGroup && ref.Kind == policy.WithheldKind {
			x.Withheld = true
			continue
		}
		if edge, cross := policy.EdgeOf(r.view, ref); cross && r.Role != RoleSource {
			edge.Origin = r.Origin
			a.surveyCross(x, edge)
			x.permits = a.permits(edge)
			for _, g := range x.permits {
				x.Grants = append(x.Grants, g.Namespace+"/"+g.Name)
			}
		}
		a.surveyBackend(x.Backend)
	}
}

// surveyCross notes how the policy decides about a reference to another namespace.
func (a *auditor) surveyCross(x *reference, edge policy.Edge) {
	decision := a.policy.EvaluateEdge(edge, a.facts, false)
	x.edge, x.outcome = edge, decision.Outcome
	x.Cross, x.Outcome, x.Consent = true, outcomes[decision.Outcome], string(decision.Consent)
}

var outcomes = map[policy.Outcome]string{
	policy.Refused: "refused", policy.Vetoed: "vetoed", policy.Undecided: "undecided",
	policy.Permitted: "permitted", policy.Recorded: "recorded", policy.Grantable: "grantable",
}

func backendOf(ref policy.Reference) Ref {
	return Ref{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
}

// surveyWithheld finds out what the withheld references of a copy would refer to, which its source knows.
func (a *auditor) surveyWithheld(r *route) {
	for _, x := range r.references {
		if !x.Withheld {
			continue
		}
		if source := a.sourceOf(r); source != nil && source.Role == RoleSource {
			served := a.policy.Served(source.view)
			for ref := range served.References() {
				if edge, cross := policy.EdgeOf(served, ref); cross && ref.Path() == x.Field {
					x.Backend = backendOf(ref)
					a.surveyCross(x, edge)
				}
			}
		}
		a.surveyBackend(x.Backend)
	}
}

// surveyBackend adds a backend, with its endpoints where they are known.
func (a *auditor) surveyBackend(ref Ref) {
	if a.backends[ref] != nil {
		return
	}
	b := &Backend{Ref: ref, State: StateUnknown}
	a.report.Backends = append(a.report.Backends, b)
	a.backends[ref], a.states[ref] = b, &b.State
	if ref.Group != "" || ref.Kind != "Service" {
		b.Note = "only Services are looked at"
		return
	}
	if reason := a.cluster.notRead("services", ref.Namespace, ref.Name); reason != "" {
		b.Note = "not known: " + reason
		return
	}
	service := a.services[ref.Namespace+"/"+ref.Name]
	if service == nil {
		b.Exists, b.State = policy.No, StateBroken
		return
	}
	b.Exists, b.State = policy.Yes, StateOK
	switch reason := a.cluster.notRead("endpointslices", ref.Namespace, ""); {
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		b.State, b.Note = StateUnknown, "is an ExternalName: it has no endpoints of its own, and many gateways refuse it"
	case reason != "":
		b.State, b.Note = StateUnknown, "endpoints not known: "+reason
	default:
		if r := a.endpoints[ref.Namespace+"/"+ref.Name]; r != nil {
			b.Ready, b.NotReady = r.ready, r.notReady
		}
	}
}
