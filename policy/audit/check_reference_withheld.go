package audit

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: every field of a relocated copy that names a backend of kind WithheldBackend, group routesteward.dev.
var referenceWithheld = Check{
	ID:       "reference-withheld",
	Severity: SeverityError,
	Summary:  "A relocated copy does not refer to a backend, as the backend's namespace does not consent to the route's origin.",
	Rationale: "The copy refers from the system namespace, where a ReferenceGrant for others may let it through. So where consent is revoked, routesteward " +
		"puts kind WithheldBackend of group routesteward.dev in the backend's place. No gateway knows it: ResolvedRefs=False with InvalidKind, and " +
		"500 for the share of requests that would go there.",
	Remediation: "Ask the owner of the backend's namespace to consent, or to take back the veto. With the consent routesteward puts the backend back.",
	run: func(a *auditor) {
		for r, x := range a.eachReference() {
			if !x.Withheld {
				continue
			}
			x.broken(r, "withheld: its namespace does not consent", gwv1.RouteReasonInvalidKind)
			f := a.onReference(r, x)
			f.Problem = fmt.Sprintf("withheld from the copy, as namespace %q has not consented to routes of %q", x.Backend.Namespace, r.Origin)
			f.Next = fmt.Sprintf("ask the owner of %q for a ReferenceGrant from %q or for: kubectl label namespace %s %s=%s", x.Backend.Namespace, r.Origin, x.Backend.Namespace, policy.GrantsLabel, policy.GrantsAllow)
			f.Command = fmt.Sprintf("kubectl get namespace %s --show-labels", x.Backend.Namespace)
			switch {
			case x.Backend.Kind == policy.WithheldKind:
				f.Problem = "withheld from the copy, as its namespace has not consented; which one the parked source says, and there is none"
				f.Next, f.Command = "look whether routesteward runs", "kubectl get pods,leases -n routesteward-system"
			case x.outcome == policy.Vetoed:
				f.Problem = fmt.Sprintf("withheld from the copy, as namespace %q refuses references from other namespaces, and the copy's is one (label %s=%s)", x.Backend.Namespace, policy.GrantsLabel, policy.GrantsDeny)
				f.Next = fmt.Sprintf("use a backend elsewhere, or ask the owner of %q to remove the label", x.Backend.Namespace)
			case x.Consent != "":
				f.Problem = fmt.Sprintf("withheld from the copy, although namespace %q consents (%s)", x.Backend.Namespace, x.Consent)
				f.Next, f.Command = "look whether routesteward runs and what it logs about this route", "kubectl get pods,leases -n routesteward-system"
			}
			f.Problem += r.confirmed(gwv1.RouteReasonInvalidKind)
			a.found(f)
		}
	},
}
