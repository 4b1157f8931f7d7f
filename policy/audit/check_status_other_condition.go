package audit

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: status.parents[*].conditions, every type but Accepted and ResolvedRefs.
var statusOtherCondition = Check{
	ID:          "status-other-condition",
	Severity:    SeverityWarning,
	Summary:     "A gateway controller leaves out a part of the route, or has a condition of its own that is not good.",
	Rationale:   "PartiallyInvalid=True: the gateway serves the route without the rules or filters that it cannot use, or as it was before.",
	Remediation: "Read the controller's message; its documentation explains conditions of its own.",
	run: func(a *auditor) {
		for _, r := range a.routes {
			for _, p := range r.parents {
				if p.parked {
					continue
				}
				for _, s := range p.status {
					for _, c := range s.Conditions {
						partial := c.Type == string(gwv1.RouteConditionPartiallyInvalid)
						bad := partial && c.Status == metav1.ConditionTrue || !partial && c.Status == metav1.ConditionFalse
						if !bad || c.Type == string(gwv1.RouteConditionAccepted) || c.Type == string(gwv1.RouteConditionResolvedRefs) {
							continue
						}
						p.state = worstOf(p.state, StateWarning)
						problem := conditionWords(c)
						if problem == "" {
							problem = fmt.Sprintf("a condition of the controller %s is not as it should be", s.ControllerName)
						}
						if c.Message != "" {
							problem += fmt.Sprintf(" (%s says: %s)", s.ControllerName, policy.Printable(c.Message))
						}
						a.found(Finding{
							Object: r.ref, Field: statusField(r, s, c.Type), Value: fmt.Sprintf("%s=%s, %s", c.Type, c.Status, c.Reason),
							Problem: problem, Next: "read the gateway's message and correct the route", Command: describe(r.ref), Related: []Ref{p.gateway},
						})
					}
				}
			}
		}
	},
}
