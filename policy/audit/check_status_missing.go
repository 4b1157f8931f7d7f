package audit

import (
	"fmt"
	"time"

	"github.com/routesteward/routesteward/policy"
)

// Fields: status.parents.
var statusMissing = Check{
	ID:       "status-missing",
	Severity: SeverityError,
	Summary:  "No gateway controller has written a status for a parentRef.",
	Rationale: "A controller that serves the Gateway's class answers every route on it within moments, be it with a refusal. Silence means " +
		"that none runs for this class, or that it does not watch this namespace: nobody serves the route, and AIBrix's plugin takes the " +
		"missing status for a good one.",
	Remediation: "Look whether the gateway's controller runs and whether its GatewayClass is accepted.",
	run: func(a *auditor) {
		for r, p := range a.eachParent() {
			if len(p.status) > 0 || p.object == nil || p.misdirected || p.State == StateBroken || a.isNew(r) {
				continue
			}
			p.State = worstOf(p.State, StateBroken)
			class := string(p.object.Spec.GatewayClassName)
			f := Finding{
				Object: r.Ref, Field: "status.parents", Value: p.Gateway.String(),
				Problem: fmt.Sprintf("no gateway controller has written a status for %s (GatewayClass %q)", p.Field, class),
				Next:    "look whether the controller of this GatewayClass runs and accepts it",
				Command: fmt.Sprintf("kubectl get gatewayclass %s -o wide; kubectl get gateway %s -n %s", class, p.Gateway.Name, p.Gateway.Namespace),
				Related: []Ref{p.Gateway},
			}
			if p.attachment.Accepted != policy.Yes {
				f.Severity = SeverityWarning
			}
			a.found(f)
		}
	},
}

// settling is how long controllers may take before their silence means something.
const settling = time.Minute

// isNew reports whether a route was made too short a time before the cluster was read.
func (a *auditor) isNew(r *route) bool {
	created := r.view.Meta.CreationTimestamp.Time
	return !a.cluster.Time.IsZero() && !created.IsZero() && a.cluster.Time.Sub(created) < settling
}
