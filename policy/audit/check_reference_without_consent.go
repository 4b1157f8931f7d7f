package audit

import (
	"fmt"

	"github.com/routesteward/routesteward/policy"
)

// Fields: every field that names a backend.
var referenceWithoutConsent = Check{
	ID:       "reference-without-consent",
	Severity: SeverityWarning,
	Summary:  "A gateway lets a reference pass although nobody consented to the route's origin.",
	Rationale: "A ReferenceGrant for the system namespace permits every route there, relocated copies of other people's routes included. " +
		"routesteward counts such a grant only for routes that the system namespace's own people wrote.",
	Remediation: "The owner of the target namespace consents to the origin, or narrows the grant.",
	run: func(a *auditor) {
		for r, x := range a.eachCross() {
			if len(x.permits) == 0 || x.outcome != policy.Refused || x.Consent != "" || a.policy.Grants == policy.GrantsOff {
				continue
			}
			x.State, x.words = StateWarning, "permitted without consent to its origin"
			f := a.onReference(r, x)
			f.Problem = fmt.Sprintf("ReferenceGrant %s lets it pass, but namespace %q has not consented to routes of %q", grantNames(x.permits), x.Backend.Namespace, x.edge.Origin)
			f.Next = fmt.Sprintf("the owner of %q consents with a ReferenceGrant from %q, or narrows the grant", x.Backend.Namespace, x.edge.Origin)
			f.Command = fmt.Sprintf("kubectl get referencegrant %s -n %s -o yaml", x.permits[0].Name, x.Backend.Namespace)
			a.found(f)
		}
	},
	public: func(f *Finding) {
		f.Problem = "its namespace has not consented to routes of this one's origin"
		f.Next = "ask the owner of the namespace to consent"
	},
}
