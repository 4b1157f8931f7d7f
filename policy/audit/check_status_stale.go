package audit

import "fmt"

// Fields: status.parents[*].conditions[*].observedGeneration, metadata.generation.
var statusStale = Check{
	ID:       "status-stale",
	Severity: SeverityWarning,
	Summary:  "A gateway controller's status is about an older version of the route.",
	Rationale: "observedGeneration is behind metadata.generation: the gateway still serves the route as it was before the last change, and the " +
		"status says nothing about the change. A controller that has stopped looks like this, and so does one that was removed.",
	Remediation: "Look whether the controller that wrote the status still runs. A status that a removed controller left goes with the route.",
	run: func(a *auditor) {
		for _, r := range a.routes {
			for _, p := range r.parents {
				if p.parked {
					continue
				}
				for _, s := range p.status {
					for _, c := range s.Conditions {
						if !isStale(r, c) {
							continue
						}
						p.state = worstOf(p.state, StateWarning)
						a.found(Finding{
							Object: r.ref, Field: statusField(r, s, c.Type), Value: fmt.Sprintf("observedGeneration %d", c.ObservedGeneration),
							Problem: fmt.Sprintf("the controller %s has not looked at the route since its last change (generation %d)", s.ControllerName, r.generation),
							Next:    "look whether that controller runs, and what it logs about this route", Command: describe(r.ref), Related: []Ref{p.gateway},
						})
						break // one for each controller
					}
				}
			}
		}
	},
}
