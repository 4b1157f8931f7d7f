package audit

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: every field that names a Service.
var backendMissing = Check{
	ID:          "backend-missing",
	Severity:    SeverityError,
	Summary:     "A route refers to a Service that does not exist.",
	Rationale:   "The gateway writes ResolvedRefs=False with BackendNotFound and answers 500 for the share of requests that would go there.",
	Remediation: "Correct the name or namespace in the backendRef, or create the Service. A backendRef without a namespace means the route's own.",
	run: func(a *auditor) {
		for r, x := range a.eachReference() {
			if a.backends[x.Backend].Exists != policy.No || x.State == StateBroken {
				continue
			}
			x.broken(r, "there is no such Service", gwv1.RouteReasonBackendNotFound)
			f := a.onReference(r, x)
			f.Problem = "there is no such Service" + r.confirmed(gwv1.RouteReasonBackendNotFound)
			f.Next = "correct the name, or create the Service"
			if x.implicit {
				f.Problem = fmt.Sprintf("there is no such Service; the backendRef names no namespace and so means %q%s", r.Namespace, r.confirmed(gwv1.RouteReasonBackendNotFound))
				f.Next = "write the Service's namespace into the backendRef, correct the name, or create the Service"
			}
			if x.mirror || x.weight == 0 {
				f.Severity = SeverityWarning
			}
			f.Command = fmt.Sprintf("kubectl get services -n %s", x.Backend.Namespace)
			a.found(f)
		}
	},
}
