package audit

import (
	"fmt"
	"slices"
)

// Fields: status.parents[*].conditions[*].observedGeneration, metadata.generation.
var statusStale = Check{
	ID:       "status-stale",
	Severity: SeverityWarning,
	Summary:  "A gateway controller's status is about an older version of the route.",
	Rationale: "observedGeneration is behind metadata.generation: the gateway still serves the route as it was before the last change, and the " +
		"status says nothing about the change. A controller that has stopped looks like this, and so does one that was removed.",
	Remediation: "Look whether the controller that wrote the status still runs. A status that a removed controller left goes with the route.",
	run: func(a *auditor) {
		for r, p := range a.eachParent() {
			for _, s := range p.status {
				i := slices.IndexFunc(s.Conditions, r.isStale) // one for each controller
				if i < 0 {
					continue
				}
				p.State = worstOf(p.State, StateWarning)
				c := condition{s.Conditions[i], r, p, s}
				a.found(Finding{
					Object: r.Ref, Field: c.field(), Value: fmt.Sprintf("observedGeneration %d", c.ObservedGeneration),
					Problem: fmt.Sprintf("the controller %s has not looked at the route since its last change (generation %d)", s.ControllerName, r.view.Meta.Generation),
					Next:    "look whether that controller runs, and what it logs about this route", Command: describe(r.Ref), Related: []Ref{p.Gateway},
				})
			}
		}
	},
}
