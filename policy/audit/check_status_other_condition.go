package audit

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fields: status.parents[*].conditions, every type but Accepted and ResolvedRefs.
var statusOtherCondition = Check{
	ID:          "status-other-condition",
	Severity:    SeverityWarning,
	Summary:     "A gateway controller leaves out a part of the route, or has a condition of its own that is not good.",
	Rationale:   "PartiallyInvalid=True: the gateway serves the route without the rules or filters that it cannot use, or as it was before.",
	Remediation: "Read the controller's message; its documentation explains conditions of its own.",
	run: func(a *auditor) {
		for c := range a.eachCondition() {
			partial := c.Type == string(gwv1.RouteConditionPartiallyInvalid)
			bad := partial && c.Status == metav1.ConditionTrue || !partial && c.Status == metav1.ConditionFalse
			if !bad || c.Type == string(gwv1.RouteConditionAccepted) || c.Type == string(gwv1.RouteConditionResolvedRefs) {
				continue
			}
			c.parent.State = worstOf(c.parent.State, StateWarning)
			a.found(c.finding(fmt.Sprintf("a condition of the controller %s is not as it should be", c.status.ControllerName)))
		}
	},
}
