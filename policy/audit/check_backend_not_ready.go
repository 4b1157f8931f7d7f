package audit

import (
	"fmt"

	"github.com/routesteward/routesteward/policy"
)

// Fields: every field that names a Service.
var backendNotReady = Check{
	ID:          "backend-not-ready",
	Severity:    SeverityError,
	Summary:     "A Service that a route refers to has no ready endpoint.",
	Rationale:   "The route is in order, and there is nobody to answer: the gateway answers 503. A model that is still loading looks like this too.",
	Remediation: "Look at the Pods behind the Service: whether its selector finds any, and why they are not ready.",
	run: func(a *auditor) {
		for r, x := range a.eachReference() {
			b := a.backends[x.Backend]
			if b.Exists != policy.Yes || b.State == StateUnknown || b.Ready > 0 || x.State == StateBroken || x.weight == 0 {
				continue
			}
			f := a.onReference(r, x)
			f.Problem = "has no endpoint"
			if b.NotReady > 0 {
				f.Problem = fmt.Sprintf("has no ready endpoint (%d not ready)", b.NotReady)
			}
			f.Next = "look at the Pods behind the Service"
			f.Command = fmt.Sprintf("kubectl get endpointslices -n %s -l kubernetes.io/service-name=%s", x.Backend.Namespace, x.Backend.Name)
			f.Severity = SeverityError
			if x.mirror {
				f.Severity = SeverityWarning
			}
			x.State, x.words = worstOf(x.State, stateFor(f.Severity)), "no ready endpoint"
			b.State = worstOf(b.State, x.State)
			a.found(f)
		}
	},
}
