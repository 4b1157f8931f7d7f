package audit

import (
	"fmt"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy/routing"
)

// Fields: spec of both.
var copyDiffersFromSource = Check{
	ID:          "copy-differs-from-source",
	Severity:    SeverityWarning,
	Summary:     "A relocated copy does not say what its source says.",
	Rationale:   "The gateway serves the copy. routesteward repairs drift within moments, so a lasting difference means that it does not run or cannot write.",
	Remediation: "Look whether routesteward runs and what it logs about this route.",
	run: func(a *auditor) {
		for _, r := range a.routes {
			source := a.sourceOf(r)
			if r.Role != RoleCopy || source == nil || source.Role != RoleSource {
				continue
			}
			field, problem := differs(source, r)
			if field == "" {
				continue
			}
			a.found(Finding{
				Object: r.Ref, Field: field, Value: "copy of " + source.Ref.String(), Problem: problem,
				Next:    "look whether routesteward runs, and what it logs about this route",
				Command: fmt.Sprintf("diff <(%s) <(%s)", get(source.Ref), get(r.Ref)), Related: []Ref{source.Ref},
			})
		}
	},
}

// differs names the first field in which a copy does not mean what its source means. A backend that the copy lacks is no
// difference: revoked consent withholds it.
func differs(source, copied *route) (field, problem string) {
	if !slices.Equal(source.Hostnames, copied.Hostnames) {
		return "spec.hostnames", "the hostnames are not those of the source"
	}
	var parked []gwv1.ParentReference
	for _, p := range source.parents {
		if p.parked {
			parked = append(parked, p.ref)
		}
	}
	if len(parked) != len(copied.view.ParentRefs) || !slices.EqualFunc(parked, copied.view.ParentRefs, func(x, y gwv1.ParentReference) bool { return sameParent(&x, &y, copied.Namespace) }) {
		return "spec.parentRefs", "the parentRefs are not those that were parked"
	}
	if !slices.Equal(matchesOf(source), matchesOf(copied)) {
		return "spec.rules", "the matches are not those of the source"
	}
	known := map[Ref]bool{}
	for _, x := range source.references {
		known[x.Backend] = true
	}
	for _, x := range copied.references {
		if !known[x.Backend] {
			return x.Field, fmt.Sprintf("refers to %s, which the source does not", x.Backend)
		}
	}
	return "", ""
}

// matchesOf says in words what a route matches, each rule in its place.
func matchesOf(r *route) []string {
	gateway := &gwv1.Gateway{Spec: gwv1.GatewaySpec{Listeners: []gwv1.Listener{{Name: "any", Port: 80, Protocol: gwv1.HTTPProtocolType}}}}
	gateway.Namespace = r.Namespace
	view := r.view
	view.ParentRefs = []gwv1.ParentReference{{}}
	table := routing.NewTable(gateway, []routing.Parent{{Route: view}}, func(string) (map[string]string, bool) { return nil, true })
	var words []string
	for _, e := range table.Entries() {
		words = append(words, strings.TrimSpace(e.Path()+" "+e.String()))
	}
	slices.Sort(words)
	return words
}
