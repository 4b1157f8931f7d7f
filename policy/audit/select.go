package audit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/routesteward/routesteward/policy"
)

// Only is the report about some routes: those of a NAMESPACE, or the one that is NAMESPACE/NAME, with everything that they
// have to do with: a parked source comes with its copy, and a copy with its source. A selector that selects no audited route is an error.
func (r Report) Only(selectors []string) (Report, error) {
	selects := func(selector string, ref Ref) bool {
		return selector == ref.Namespace || selector == ref.Namespace+"/"+ref.Name
	}
	for _, selector := range selectors {
		if !slices.ContainsFunc(r.Routes, func(route *Route) bool { return selects(selector, route.Ref) }) {
			return Report{}, fmt.Errorf("no audited route is %q; want NAMESPACE or NAMESPACE/NAME of a route on a Gateway of %q", selector, r.SystemNamespace)
		}
	}
	selected := func(ref Ref) bool {
		return slices.ContainsFunc(selectors, func(selector string) bool { return selects(selector, ref) })
	}
	shown := map[Ref]bool{}
	for _, e := range r.Edges {
		if e.Kind == EdgeCopies && (selected(e.From) || selected(e.To)) {
			shown[e.From], shown[e.To] = true, true
		}
	}
	r.Routes = filter(r.Routes, func(route *Route) bool { return shown[route.Ref] || selected(route.Ref) })
	kept, namespaces := map[Ref]bool{}, map[string]bool{}
	keep := func(ref Ref) { kept[ref], namespaces[ref.Namespace] = true, true }
	for _, route := range r.Routes {
		shown[route.Ref] = true
		keep(route.Ref)
		namespaces[route.Origin] = true
		for _, p := range route.Parents {
			keep(p.Gateway)
		}
		for _, ref := range route.References {
			keep(ref.Backend)
			for _, name := range ref.Grants {
				namespace, name, _ := strings.Cut(name, "/")
				keep(refOf(policy.ReferenceGrant, namespace, name))
			}
		}
	}
	isRoute := func(ref Ref) bool { return shown[ref] }
	r.Gateways = filter(r.Gateways, func(g *Gateway) bool { return kept[g.Ref] })
	r.Backends = filter(r.Backends, func(b *Backend) bool { return kept[b.Ref] })
	r.Grants = filter(r.Grants, func(g *Grant) bool { return kept[g.Ref] })
	r.Namespaces = filter(r.Namespaces, func(n Namespace) bool { return namespaces[n.Name] })
	r.Edges = filter(r.Edges, func(e Edge) bool { return (kept[e.From] || e.Kind == EdgeCopies) && kept[e.To] })
	r.Models = filter(r.Models, func(m Model) bool { return kept[m.Route] })
	r.Findings = filter(r.Findings, func(f Finding) bool {
		return isRoute(f.Object) || !slices.Contains(policy.RouteKinds(), policy.Kind(f.Object.Kind)) && kept[f.Object] || slices.ContainsFunc(f.Related, isRoute)
	})
	r.Summary = Summary{Seen: r.Summary.Seen}
	r.count()
	return r, nil
}

// count counts the routes and findings that are there.
func (r *Report) count() {
	r.Summary.Routes, r.Summary.Healthy, r.Summary.Findings = len(r.Routes), 0, map[Severity]int{}
	for _, route := range r.Routes {
		if route.State == StateOK || route.State == StateUnknown {
			r.Summary.Healthy++
		}
	}
	for _, f := range r.Findings {
		r.Summary.Findings[f.Severity]++
	}
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
