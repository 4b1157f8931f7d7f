package audit

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: every field that names a backend.
var managedGrantMissing = Check{
	ID:       "managed-grant-missing",
	Severity: SeverityError,
	Summary:  "The target namespace consents to a reference, and the managed ReferenceGrant is not there.",
	Rationale: "routesteward makes this grant within moments. That it is missing means that it does not run, may not write, or is not the one " +
		"that watches this cluster: the gateway answers 500.",
	Remediation: "Look whether routesteward runs and what it logs; applying the route again makes the grant too.",
	run: func(a *auditor) {
		for r, x := range a.eachCross() {
			if x.outcome != policy.Grantable {
				continue
			}
			f := a.onReference(r, x)
			name := a.policy.Granted(x.edge).GrantName()
			f.Problem = fmt.Sprintf("the managed ReferenceGrant %s/%s is not there, although the namespace consents (%s)", x.Backend.Namespace, name, x.Consent)
			f.Next = "look whether routesteward runs and what it logs"
			f.Command = "kubectl get pods,leases -n routesteward-system"
			if len(x.permits) > 0 {
				f.Severity, x.State, x.words = SeverityWarning, StateWarning, "permitted by a grant that is not its own"
				f.Problem += fmt.Sprintf("; the gateway lets it pass by %s, which was made for others", grantNames(x.permits))
			} else {
				x.broken(r, "the managed grant is missing", gwv1.RouteReasonRefNotPermitted)
				f.Problem += r.confirmed(gwv1.RouteReasonRefNotPermitted)
			}
			a.found(f)
		}
	},
}
