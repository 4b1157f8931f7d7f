package audit

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/routing"
)

// Fields: spec.hostnames, spec.rules[*].matches.
var routeShadowed = Check{
	ID:       "route-shadowed",
	Severity: SeverityError,
	Summary:  "Another route on the same Gateway takes requests of this one.",
	Rationale: "Of two routes that match the same requests the older one gets them all, then the one whose namespace/name comes first " +
		"(Gateway API, HTTPRouteRule.matches); the other looks healthy and never sees a request. Where the two have different owners, one " +
		"team serves the other's callers.",
	Remediation: "Give one of them another hostname, path or header, or delete the one that is not meant.",
	run: func(a *auditor) {
		for _, ref := range a.tables() {
			a.shadowed(ref)
		}
	},
	public: func(f *Finding) {
		if len(f.Related) > 0 && f.Related[0].Namespace != f.Object.Namespace {
			f.Problem = "an older route of another namespace takes these requests"
		}
	},
}

// tables are the Gateways that audited routes attach to.
func (a *auditor) tables() []Ref {
	seen := map[Ref]bool{}
	for _, p := range a.eachParent() {
		if p.object != nil && p.governed && !p.misdirected {
			seen[p.Gateway] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), compareRefs)
}

// shadow is a route that loses requests to another one.
type shadow struct {
	loser, winner Ref
	overlap       routing.Overlap
}

func (a *auditor) shadowed(gateway Ref) {
	object := a.gateways[gateway]
	// A route that is being deleted, or of an exempt namespace, is served all the same.
	table := routing.NewTable(object, routing.Parents(object, a.all...), a.labels)
	lost := map[shadow][]routing.Collision{}
	var order []shadow
	for _, c := range table.Collisions() {
		key := shadow{refOfRoute(c.Loser.Route), refOfRoute(c.Winner.Route), c.Overlap}
		if a.byRef[key.loser] == nil {
			continue
		}
		if lost[key] == nil {
			order = append(order, key)
		}
		lost[key] = append(lost[key], c)
	}
	for _, key := range order {
		a.reportShadow(gateway, key, lost[key])
	}
}

func (a *auditor) reportShadow(gateway Ref, key shadow, collisions []routing.Collision) {
	loser := a.byRef[key.loser]
	f := Finding{Object: key.loser, Field: collisions[0].Loser.Path(), Value: collisions[0].Loser.String(), Related: []Ref{key.winner, gateway}, Command: get(key.winner)}
	takes := "takes every such request"
	if key.overlap == routing.Partial {
		takes = "takes the requests that both match"
		f.Severity = SeverityInfo
	}
	f.Problem = fmt.Sprintf("%s %s on %s, as %s", key.winner, takes, gateway, precedenceWords(collisions[0]))
	if others := differentPaths(collisions); others > 1 {
		f.Problem += fmt.Sprintf("; the same for %d matches of this route", others)
	}
	winnerOrigin := key.winner.Namespace
	if w := a.byRef[key.winner]; w != nil {
		winnerOrigin = w.Origin
	}
	if loser.Origin != winnerOrigin {
		f.Problem += fmt.Sprintf("; this route comes from namespace %q, that one from %q", loser.Origin, winnerOrigin)
	} else if key.overlap == routing.Same {
		f.Severity = SeverityWarning
	}
	f.Next = "give one of them another hostname, path or header, or delete the one that is not meant"
	for _, p := range loser.parents {
		if p.Gateway == gateway && f.Severity != SeverityInfo {
			p.State = worstOf(p.State, StateWarning)
		}
	}
	a.found(f)
}

// differentPaths counts the matches that collide, each once whatever the number of listeners and hostnames.
func differentPaths(collisions []routing.Collision) int {
	paths := map[string]bool{}
	for _, c := range collisions {
		paths[c.Loser.Path()] = true
	}
	return len(paths)
}

// precedenceWords say why the winner has precedence.
func precedenceWords(c routing.Collision) string {
	winner, loser := c.Winner.Route, c.Loser.Route
	switch {
	case winner.Meta.CreationTimestamp.Time.Before(loser.Meta.CreationTimestamp.Time) && !winner.Meta.CreationTimestamp.IsZero():
		return "it is older"
	case sameName(winner, loser):
		return "its kind comes first"
	case strings.Compare(winner.Namespace+"/"+winner.Meta.Name, loser.Namespace+"/"+loser.Meta.Name) < 0:
		return "both are of the same age and its namespace/name comes first"
	}
	return "it has precedence"
}

func sameName(a, b policy.Route) bool {
	return a.Namespace == b.Namespace && a.Meta.Name == b.Meta.Name
}
