package audit

import (
	"fmt"
	"slices"
	"strings"
)

// Only is the report about some routes: those of a NAMESPACE, or the one that is NAMESPACE/NAME, with everything that they
// have to do with: a parked source is not told without its copy, nor a copy without its source. A selector that no audited route fits is an error.
func (r Report) Only(selectors []string) (Report, error) {
	fits := func(ref Ref, selector string) bool {
		return ref.Namespace == selector || ref.Namespace+"/"+ref.Name == selector
	}
	with := r.relocated(func(ref Ref) bool { return slices.ContainsFunc(selectors, func(s string) bool { return fits(ref, s) }) })
	for _, selector := range selectors {
		if !slices.ContainsFunc(r.Routes, func(route *Route) bool { return fits(route.Ref, selector) }) {
			return Report{}, fmt.Errorf("no audited route is %q; want NAMESPACE or NAMESPACE/NAME of a route on a Gateway of %q", selector, r.SystemNamespace)
		}
	}
	routes := []*Route{}
	kept, namespaces := map[Ref]bool{}, map[string]bool{}
	keep := func(ref Ref) { kept[ref], namespaces[ref.Namespace] = true, true }
	for _, route := range r.Routes {
		if !with[route.Ref] && !slices.ContainsFunc(selectors, func(s string) bool { return fits(route.Ref, s) }) {
			continue
		}
		routes = append(routes, route)
		keep(route.Ref)
		namespaces[route.Origin] = true
		for _, p := range route.Parents {
			keep(p.Gateway)
		}
		for _, ref := range route.References {
			keep(ref.Backend)
			for _, name := range ref.Grants {
				namespace, name, _ := strings.Cut(name, "/")
				keep(Ref{Kind: "ReferenceGrant", Namespace: namespace, Name: name})
			}
		}
	}
	shown := map[Ref]bool{}
	for _, route := range routes {
		shown[route.Ref] = true
	}
	isRoute := func(ref Ref) bool { return shown[ref] }
	r.Routes = routes
	r.Gateways = filter(r.Gateways, func(g *Gateway) bool { return kept[g.Ref] })
	r.Backends = filter(r.Backends, func(b *Backend) bool { return kept[b.Ref] })
	r.Grants = filter(r.Grants, func(g *Grant) bool { return kept[g.Ref] })
	r.Namespaces = filter(r.Namespaces, func(n Namespace) bool { return namespaces[n.Name] })
	r.Edges = filter(r.Edges, func(e Edge) bool { return (kept[e.From] || e.Kind == EdgeCopies) && kept[e.To] })
	r.Models = filter(r.Models, func(m Model) bool { return kept[m.Route] })
	r.Findings = filter(r.Findings, func(f Finding) bool {
		return isRoute(f.Object) || f.Object.Kind != "HTTPRoute" && f.Object.Kind != "GRPCRoute" && kept[f.Object] || slices.ContainsFunc(f.Related, isRoute)
	})
	r.Summary = Summary{Routes: len(routes), Seen: r.Summary.Seen, Findings: map[Severity]int{}}
	for _, route := range routes {
		if route.State.healthy() {
			r.Summary.Healthy++
		}
	}
	for _, f := range r.Findings {
		r.Summary.Findings[f.Severity]++
	}
	return r, nil
}

// relocated are the copies of the selected sources and the sources of the selected copies.
func (r Report) relocated(selected func(Ref) bool) map[Ref]bool {
	refs := map[Ref]bool{}
	for _, e := range r.Edges {
		if e.Kind == EdgeCopies && (selected(e.From) || selected(e.To)) {
			refs[e.From], refs[e.To] = true, true
		}
	}
	return refs
}

// filter leaves its argument as it is.
func filter[T any](all []T, keep func(T) bool) []T {
	some := []T{}
	for _, x := range all {
		if keep(x) {
			some = append(some, x)
		}
	}
	return some
}

// Failed reports whether the audit fails: by an error, or with strict also by a warning.
func (r Report) Failed(strict bool) bool {
	return r.Summary.Findings[SeverityError] > 0 || strict && r.Summary.Findings[SeverityWarning] > 0
}
