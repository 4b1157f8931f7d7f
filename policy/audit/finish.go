package audit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/routing"
)

// finish brings everything that is known into the report.
func (a *auditor) finish() Report {
	out := &a.out
	a.complete()
	order := map[string]int{}
	for i, check := range checks {
		order[check.ID] = i
	}
	slices.SortStableFunc(out.Findings, func(x, y Finding) int {
		return cmp.Or(cmp.Compare(severityRank(x.Severity), severityRank(y.Severity)), cmp.Compare(order[x.Check], order[y.Check]), compareRefs(x.Object, y.Object))
	})
	var edges edges
	namespaces := map[string]bool{a.system(): true}
	accepted := map[string]map[*route]bool{} // by Gateway and listener
	out.Routes = make([]Route, 0, len(a.routes))
	out.Summary = Summary{Routes: len(a.routes), Seen: len(a.all), Findings: map[Severity]int{}}
	for _, r := range a.routes {
		namespaces[r.Namespace], namespaces[r.origin] = true, true
		shown := a.finishRoute(r, &edges, accepted)
		if shown.State == StateOK || shown.State == StateUnknown {
			out.Summary.Healthy++
		}
		out.Routes = append(out.Routes, shown)
	}
	for _, b := range a.backends {
		namespaces[b.Namespace] = true
		b.State = a.stateOf(b.Ref, b.State)
		out.Backends = append(out.Backends, *b)
	}
	slices.SortFunc(out.Backends, func(x, y Backend) int { return compareRefs(x.Ref, y.Ref) })
	a.finishGrants(namespaces)
	a.finishGateways(accepted, namespaces)
	for name := range namespaces {
		n := Namespace{Name: name, Exists: "no", State: StateBroken}
		if facts := a.facts.Namespace(name); facts.Exists == policy.Yes {
			n.Exists, n.Grants, n.State = "yes", facts.Grants, StateOK
		}
		out.Namespaces = append(out.Namespaces, n)
	}
	slices.SortFunc(out.Namespaces, func(x, y Namespace) int { return strings.Compare(x.Name, y.Name) })
	out.Edges = edges.once()
	out.Plugin = a.plugin()
	a.finishModels()
	for _, f := range out.Findings {
		out.Summary.Findings[f.Severity]++
	}
	a.finishNotKnown()
	out.notNil()
	return *out
}

// stateOf is a state made worse by the findings about the object.
func (a *auditor) stateOf(ref Ref, state State) State {
	switch a.worst[ref] {
	case SeverityError:
		return StateBroken
	case SeverityWarning:
		return worstOf(state, StateWarning)
	}
	return state
}

func worstOf(states ...State) State {
	order := []State{StateOK, StateUnknown, StateWarning, StateBroken}
	worst := 0
	for _, s := range states {
		worst = max(worst, slices.Index(order, s))
	}
	return order[worst]
}

func (a *auditor) finishRoute(r *route, edges *edges, accepted map[string]map[*route]bool) Route {
	shown := Route{Ref: r.ref, Origin: r.origin, Role: r.role, Governed: r.governed, Model: r.model, State: a.stateOf(r.ref, StateOK)}
	for _, h := range r.Hostnames {
		shown.Hostnames = append(shown.Hostnames, string(h))
	}
	for _, p := range r.parents {
		shown.Parents = append(shown.Parents, a.finishParent(r, p, edges, accepted))
		if p.parked {
			// What is wrong is found in the copy; whoever looks at the source wants to know that it does not work.
			shown.State = worstOf(shown.State, p.state)
		}
	}
	for _, x := range r.references {
		ref := Reference{Field: x.Path(), Backend: x.backend, Port: x.port, Cross: x.cross, Withheld: x.withheld, State: x.state}
		if x.cross {
			ref.Outcome, ref.Consent = outcomes[x.judgement.Outcome], string(x.judgement.Consent)
			for _, g := range x.permits {
				ref.Grants = append(ref.Grants, g.Namespace+"/"+g.Name)
			}
		}
		shown.References = append(shown.References, ref)
		edges.add(Edge{Kind: EdgeRefers, From: r.ref, To: x.backend, State: x.state, Words: x.words})
		for _, g := range x.permits {
			edges.add(Edge{Kind: EdgePermits, From: g.ref(), To: x.backend, State: StateOK})
		}
	}
	if r.role == roleCopy {
		if source := a.sourceOf(r); source != nil {
			edges.add(Edge{Kind: EdgeCopies, From: source.ref, To: r.ref, State: a.stateOf(r.ref, StateOK)})
		}
	}
	return shown
}

var outcomes = map[policy.Outcome]string{
	policy.Refused: "refused", policy.Vetoed: "vetoed", policy.Undecided: "undecided",
	policy.Permitted: "permitted", policy.Recorded: "recorded", policy.Grantable: "grantable",
}

var answers = map[policy.Answer]string{policy.Yes: "yes", policy.No: "no", policy.Unknown: "unknown"}

func (a *auditor) finishParent(r *route, p *parent, edges *edges, accepted map[string]map[*route]bool) Parent {
	if p.refused() {
		p.state = StateBroken
	}
	shown := Parent{Field: p.field, Gateway: p.gateway, SectionName: string(valueOf(p.ref.SectionName)), Port: int32(valueOf(p.ref.Port)), State: p.state}
	for _, l := range p.attachment.Listeners {
		if notSelected(p, l) {
			continue
		}
		answer := l.Accepted
		if p.misdirected {
			answer = policy.No
		}
		acceptance := Acceptance{Listener: string(l.Name), Accepted: answers[answer], Words: l.Problem}
		if answer != policy.Yes {
			acceptance.Reason = string(l.Reason)
		}
		if p.misdirected {
			acceptance.Reason, acceptance.Words = string(gwv1.RouteReasonNoMatchingParent), fmt.Sprintf("the parentRef means a Gateway in %q", r.Namespace)
		}
		shown.Listeners = append(shown.Listeners, acceptance)
		switch answer {
		case policy.Yes:
			key := p.gateway.Namespace + "/" + p.gateway.Name + "/" + string(l.Name)
			if accepted[key] == nil {
				accepted[key] = map[*route]bool{}
			}
			accepted[key][r] = true
			edges.add(Edge{Kind: EdgeAttaches, From: r.ref, To: p.gateway, Listener: string(l.Name), State: p.state})
		case policy.Unknown:
			edges.add(Edge{Kind: EdgeAttaches, From: r.ref, To: p.gateway, Listener: string(l.Name), State: worstOf(p.state, StateUnknown), Words: l.Problem})
		}
	}
	if !p.parked && !slices.ContainsFunc(shown.Listeners, func(l Acceptance) bool { return l.Accepted != "no" }) {
		words := "no listener accepts it"
		if len(shown.Listeners) > 0 {
			words = shown.Listeners[0].Words
		} else if p.object == nil {
			words = "there is no such Gateway"
		}
		edges.add(Edge{Kind: EdgeAttaches, From: r.ref, To: p.gateway, State: worstOf(p.state, StateBroken), Words: words})
	}
	for _, s := range p.status {
		ps := ParentStatus{Controller: string(s.ControllerName)}
		for _, c := range s.Conditions {
			words := conditionWords(c)
			if p.parked {
				words = mirroredWords(s.ControllerName, c)
			}
			ps.Conditions = append(ps.Conditions, Condition{
				Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: policy.Printable(c.Message), Words: words, Stale: isStale(r, c),
			})
		}
		// Envoy Gateway repeats its entry where another controller writes one about the same parentRef.
		if !slices.ContainsFunc(shown.Status, func(told ParentStatus) bool {
			return told.Controller == ps.Controller && slices.Equal(told.Conditions, ps.Conditions)
		}) {
			shown.Status = append(shown.Status, ps)
		}
	}
	return shown
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

// notSelected reports whether a parentRef means another listener of the Gateway; where it means none, all are told.
func notSelected(p *parent, l routing.ListenerAttachment) bool {
	return l.Reason == gwv1.RouteReasonNoMatchingParent && p.attachment.Reason != gwv1.RouteReasonNoMatchingParent
}

func isStale(r *route, c metav1.Condition) bool {
	return c.ObservedGeneration != 0 && c.ObservedGeneration < r.generation
}

func (a *auditor) finishGrants(namespaces map[string]bool) {
	for _, g := range a.grants {
		shown := Grant{Ref: g.ref(), Owner: g.owner, Uses: g.uses, State: a.stateOf(g.ref(), StateOK)}
		for _, from := range g.Spec.From {
			for _, to := range g.Spec.To {
				shown.Permits = append(shown.Permits, fmt.Sprintf("%ss in %s may refer to %s", from.Kind, from.Namespace, targetWords(to)))
			}
		}
		_, wanted := namespaces[g.Namespace]
		if g.uses > 0 || a.worst[g.ref()] != "" || wanted {
			namespaces[g.Namespace] = true
			a.out.Grants = append(a.out.Grants, shown)
		}
	}
}

func targetWords(to gwv1.ReferenceGrantTo) string {
	kind := string(to.Kind)
	if to.Group != "" {
		kind += "." + string(to.Group)
	}
	if to.Name == nil {
		return "every " + kind
	}
	return kind + " " + string(*to.Name)
}

func (a *auditor) finishGateways(accepted map[string]map[*route]bool, namespaces map[string]bool) {
	shown := map[Ref]bool{}
	for _, o := range a.cluster.Gateways {
		if o.Namespace == a.system() {
			shown[refOf(policy.Gateway, o.Namespace, o.Name)] = true
		}
	}
	for _, r := range a.routes {
		for _, p := range r.parents {
			shown[p.gateway] = true
		}
	}
	for ref := range shown {
		namespaces[ref.Namespace] = true
		g := Gateway{Ref: ref, State: a.stateOf(ref, StateOK)}
		if o := a.gateways[ref.Namespace+"/"+ref.Name]; o != nil {
			g.Exists, g.Class = true, string(o.Spec.GatewayClassName)
			for _, l := range o.Spec.Listeners {
				g.Listeners = append(g.Listeners, Listener{
					Name: string(l.Name), Port: int32(l.Port), Protocol: string(l.Protocol), Hostname: string(valueOf(l.Hostname)),
					AllowedNamespaces: allowedWords(l), Routes: len(accepted[ref.Namespace+"/"+ref.Name+"/"+string(l.Name)]),
				})
			}
		} else {
			g.State = StateBroken
		}
		a.out.Gateways = append(a.out.Gateways, g)
	}
	slices.SortFunc(a.out.Gateways, func(x, y Gateway) int { return compareRefs(x.Ref, y.Ref) })
}

func allowedWords(l gwv1.Listener) string {
	from := gwv1.NamespacesFromSame
	var selector *metav1.LabelSelector
	if l.AllowedRoutes != nil && l.AllowedRoutes.Namespaces != nil {
		if l.AllowedRoutes.Namespaces.From != nil {
			from = *l.AllowedRoutes.Namespaces.From
		}
		selector = l.AllowedRoutes.Namespaces.Selector
	}
	words := map[gwv1.FromNamespaces]string{
		gwv1.NamespacesFromSame: "its own namespace only", gwv1.NamespacesFromAll: "every namespace", gwv1.NamespacesFromNone: "no namespace",
		gwv1.NamespacesFromSelector: "namespaces with " + metav1.FormatLabelSelector(selector),
	}[from]
	if l.AllowedRoutes != nil && len(l.AllowedRoutes.Kinds) > 0 {
		var kinds []string
		for _, k := range l.AllowedRoutes.Kinds {
			kinds = append(kinds, string(k.Kind))
		}
		words += ", only " + strings.Join(kinds, " and ")
	}
	return words
}

func (a *auditor) finishModels() {
	depends, affected := a.out.Plugin.dependence()
	for _, r := range a.routes {
		if r.model == "" || r.Kind != policy.HTTPRoute || r.role == roleSource {
			continue
		}
		a.out.Models = append(a.out.Models, Model{Name: r.model, Route: r.ref, Depends: depends, Affected: affected, State: a.stateOf(r.ref, StateOK)})
	}
	slices.SortStableFunc(a.out.Models, func(x, y Model) int { return cmp.Or(strings.Compare(x.Name, y.Name), compareRefs(x.Route, y.Route)) })
}

// finishNotKnown says what could not be read, once for each resource and reason however many namespaces it is about.
func (a *auditor) finishNotKnown() {
	type kind struct{ resource, reason string }
	namespaces := map[kind][]string{}
	for _, n := range a.cluster.NotRead {
		what := n.Resource
		switch {
		case n.Name != "":
			what += fmt.Sprintf(" %s/%s", n.Namespace, n.Name)
		case n.Namespace != "":
			key := kind{n.Resource, n.Reason}
			namespaces[key] = append(namespaces[key], n.Namespace)
			continue
		}
		a.notKnown(what, n.Reason)
	}
	for key, names := range namespaces {
		const shown = 3
		slices.Sort(names)
		what := key.resource + " in namespace"
		switch {
		case len(names) > shown:
			what = fmt.Sprintf("%s in %d namespaces (%s and more)", key.resource, len(names), quotedList(names[:shown]))
		case len(names) > 1:
			what += "s " + quotedList(names)
		default:
			what += " " + quotedList(names)
		}
		a.notKnown(what, key.reason)
	}
	if !slices.ContainsFunc(a.cluster.Gateways, func(g *gwv1.Gateway) bool { return g.Namespace == a.system() }) {
		a.notKnown("routes of the shared Gateway", fmt.Sprintf("there is no Gateway in namespace %q; is it the right --system-namespace?", a.system()))
	}
	slices.Sort(a.out.NotKnown)
}

func (a *auditor) notKnown(what, reason string) {
	a.out.NotKnown = append(a.out.NotKnown, policy.Printable(what+": not known: "+reason))
}

// notNil makes the lists of the report empty rather than null in JSON.
func (r *Report) notNil() {
	r.Namespaces, r.Gateways, r.Routes, r.Backends = orEmpty(r.Namespaces), orEmpty(r.Gateways), orEmpty(r.Routes), orEmpty(r.Backends)
	r.Grants, r.Edges, r.Models, r.Findings, r.NotKnown = orEmpty(r.Grants), orEmpty(r.Edges), orEmpty(r.Models), orEmpty(r.Findings), orEmpty(r.NotKnown)
	for i := range r.Gateways {
		r.Gateways[i].Listeners = orEmpty(r.Gateways[i].Listeners)
	}
	for i := range r.Grants {
		r.Grants[i].Permits = orEmpty(r.Grants[i].Permits)
	}
	for i := range r.Routes {
		route := &r.Routes[i]
		route.Parents, route.References = orEmpty(route.Parents), orEmpty(route.References)
		for j := range route.Parents {
			parent := &route.Parents[j]
			parent.Listeners, parent.Status = orEmpty(parent.Listeners), orEmpty(parent.Status)
			for k := range parent.Status {
				parent.Status[k].Conditions = orEmpty(parent.Status[k].Conditions)
			}
		}
	}
	if r.Plugin != nil {
		r.Plugin.Variables = orEmpty(r.Plugin.Variables)
	}
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// edges become the report's, each pair and kind once.
type edges []Edge

func (e *edges) add(edge Edge) { *e = append(*e, edge) }

var edgeKinds = []EdgeKind{EdgeAttaches, EdgeRefers, EdgePermits, EdgeCopies}

func compareEdges(x, y Edge) int {
	return cmp.Or(cmp.Compare(slices.Index(edgeKinds, x.Kind), slices.Index(edgeKinds, y.Kind)), compareRefs(x.From, y.From), compareRefs(x.To, y.To), strings.Compare(x.Listener, y.Listener))
}

// once sorts them; of those between the same two it keeps the first one of the worst state.
func (e edges) once() []Edge {
	slices.SortStableFunc(e, compareEdges)
	once := e[:0]
	for _, edge := range e {
		last := len(once) - 1
		if last < 0 || compareEdges(once[last], edge) != 0 {
			once = append(once, edge)
		} else if worstOf(once[last].State, edge.State) != once[last].State {
			once[last].State, once[last].Words = edge.State, edge.Words
		}
	}
	return slices.Clip(once)
}
