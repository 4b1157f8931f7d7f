package audit

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fields: status.parents[*].conditions, type ResolvedRefs.
var statusUnresolvedReferences = Check{
	ID:       "status-unresolved-references",
	Severity: SeverityError,
	Summary:  "A gateway controller could not resolve a backend of the route, and nothing in the specification says why.",
	Rationale: "ResolvedRefs=False: the gateway answers 500 for the share of requests that would go there, AIBrix's plugin 503 for all that " +
		"name no routing algorithm.",
	Remediation: "Do what the reason asks for. Where a ReferenceGrant or Service was made a moment ago, the controller may not have seen it yet.",
	run: func(a *auditor) {
		for c, f := range a.badConditions(gwv1.RouteConditionResolvedRefs) {
			namespace := c.route.Namespace
			for _, x := range c.route.references {
				if x.Cross {
					namespace = x.Backend.Namespace
				}
			}
			switch c.Reason {
			case string(gwv1.RouteReasonRefNotPermitted):
				f.Problem += "; by the ReferenceGrants that are there every reference is permitted, so the gateway has not seen the latest change"
				f.Next = "look whether the status changes within a minute, then at the gateway controller's log"
				f.Command = fmt.Sprintf("kubectl get referencegrants -n %s", namespace)
			case string(gwv1.RouteReasonBackendNotFound):
				f.Next = "look whether each backend and its port exist"
				f.Command = fmt.Sprintf("kubectl get services -n %s", namespace)
			}
			a.found(f)
		}
	},
}
