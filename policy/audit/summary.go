package audit

import (
	"cmp"
	"slices"
	"strings"

	"github.com/routesteward/routesteward/policy"
)

// summarize adds what follows from the objects in their final state: edges, namespaces, models and counts.
func (a *auditor) summarize() {
	out := &a.report
	slices.SortStableFunc(out.Findings, func(x, y Finding) int { return cmp.Compare(severityRank(x.Severity), severityRank(y.Severity)) })
	slices.SortFunc(out.Backends, func(x, y *Backend) int { return compareRefs(x.Ref, y.Ref) })
	slices.SortFunc(out.Gateways, func(x, y *Gateway) int { return compareRefs(x.Ref, y.Ref) })
	a.addNamespaces()
	a.addModels()
	out.Edges = a.edges()
	out.NotKnown = a.cluster.notKnown(a.system())
	out.Summary.Seen = len(a.all)
	out.count()
}

// addNamespaces adds the namespaces of everything on the map, and the grants that are in them, are used, or have a finding.
func (a *auditor) addNamespaces() {
	out := &a.report
	names := map[string]bool{a.system(): true}
	for _, r := range out.Routes {
		names[r.Namespace], names[r.Origin] = true, true
	}
	for _, b := range out.Backends {
		names[b.Namespace] = true
	}
	found := map[Ref]bool{}
	for _, f := range out.Findings {
		found[f.Object] = true
	}
	for _, g := range a.grants {
		if g.Uses > 0 || found[g.Ref] || names[g.Namespace] {
			names[g.Namespace] = true
			out.Grants = append(out.Grants, g.Grant)
		}
	}
	for _, g := range out.Gateways {
		names[g.Namespace] = true
	}
	for _, name := range sortedKeys(names) {
		n := Namespace{Name: name, Exists: policy.No, State: StateBroken}
		if facts := a.facts.Namespace(name); facts.Exists == policy.Yes {
			n.Exists, n.Grants, n.State = policy.Yes, facts.Grants, StateOK
		}
		out.Namespaces = append(out.Namespaces, n)
	}
}

func (a *auditor) addModels() {
	depends, affected := a.report.Plugin.dependence()
	for _, r := range a.routes {
		if r.Model != "" && r.view.Kind == policy.HTTPRoute && r.Role != RoleSource {
			a.report.Models = append(a.report.Models, Model{Name: r.Model, Route: r.Ref, Depends: depends, Affected: affected, State: r.State})
		}
	}
	slices.SortStableFunc(a.report.Models, func(x, y Model) int { return cmp.Or(strings.Compare(x.Name, y.Name), compareRefs(x.Route, y.Route)) })
}

// edges are sorted, each pair and kind once: the first one of the worst state.
func (a *auditor) edges() []Edge {
	all := []Edge{}
	for _, r := range a.routes {
		for _, p := range r.parents {
			all = append(all, p.edges(r)...)
		}
		for _, x := range r.references {
			all = append(all, Edge{Kind: EdgeRefers, From: r.Ref, To: x.Backend, State: x.State, Words: x.words})
			for _, g := range x.permits {
				all = append(all, Edge{Kind: EdgePermits, From: g.Ref, To: x.Backend, State: StateOK})
			}
		}
		if source := a.sourceOf(r); r.Role == RoleCopy && source != nil {
			all = append(all, Edge{Kind: EdgeCopies, From: source.Ref, To: r.Ref, State: r.State})
		}
	}
	slices.SortStableFunc(all, compareEdges)
	once := all[:0]
	for _, edge := range all {
		last := len(once) - 1
		if last < 0 || compareEdges(once[last], edge) != 0 {
			once = append(once, edge)
		} else if worstOf(once[last].State, edge.State) != once[last].State {
			once[last].State, once[last].Words = edge.State, edge.Words
		}
	}
	return slices.Clip(once)
}

// edges lead to the listeners that accept the route or may do so, and to the Gateway where there is none.
func (p *parent) edges(r *route) []Edge {
	var all []Edge
	for _, l := range p.Listeners {
		edge := Edge{Kind: EdgeAttaches, From: r.Ref, To: p.Gateway, Listener: l.Listener, State: p.State}
		switch l.Accepted {
		case policy.No:
			continue
		case policy.Unknown:
			edge.State, edge.Words = worstOf(p.State, StateUnknown), l.Words
		}
		all = append(all, edge)
	}
	if len(all) > 0 || p.parked {
		return all
	}
	words := "no listener accepts it"
	if len(p.Listeners) > 0 {
		words = p.Listeners[0].Words
	} else if p.object == nil {
		words = "there is no such Gateway"
	}
	return []Edge{{Kind: EdgeAttaches, From: r.Ref, To: p.Gateway, State: StateBroken, Words: words}}
}

var edgeKinds = []EdgeKind{EdgeAttaches, EdgeRefers, EdgePermits, EdgeCopies}

func compareEdges(x, y Edge) int {
	return cmp.Or(cmp.Compare(slices.Index(edgeKinds, x.Kind), slices.Index(edgeKinds, y.Kind)), compareRefs(x.From, y.From), compareRefs(x.To, y.To), strings.Compare(x.Listener, y.Listener))
}
