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
		for _, r := range a.routes {
			for _, x := range r.references {
				if !x.withheld {
					continue
				}
				x.state, x.words = StateBroken, "withheld: its namespace does not consent"
				for _, p := range r.parents {
					p.explained[string(gwv1.RouteReasonInvalidKind)] = true
				}
				f := a.onReference(r, x)
				f.Problem = fmt.Sprintf("withheld from the copy, as namespace %q has not consented to routes of %q", x.Namespace, r.origin)
				f.Next = fmt.Sprintf("ask the owner of %q for a ReferenceGrant from %q or for: kubectl label namespace %s %s=%s", x.Namespace, r.origin, x.Namespace, policy.GrantsLabel, policy.GrantsAllow)
				f.Command = fmt.Sprintf("kubectl get namespace %s --show-labels", x.Namespace)
				switch {
				case x.Kind == policy.WithheldKind:
					f.Problem = "withheld from the copy, as its namespace has not consented; which one the parked source says, and there is none"
					f.Next, f.Command = "look whether routesteward runs", "kubectl get pods,leases -n routesteward-system"
				case x.judgement.Outcome == policy.Vetoed:
					f.Problem = fmt.Sprintf("withheld from the copy, as namespace %q refuses references from other namespaces, and the copy's is one (label %s=%s)", x.Namespace, policy.GrantsLabel, policy.GrantsDeny)
					f.Next = fmt.Sprintf("use a backend elsewhere, or ask the owner of %q to remove the label", x.Namespace)
				case x.judgement.Consent != "":
					f.Problem = fmt.Sprintf("withheld from the copy, although namespace %q consents (%s)", x.Namespace, x.judgement.Consent)
					f.Next, f.Command = "look whether routesteward runs and what it logs about this route", "kubectl get pods,leases -n routesteward-system"
				}
				f.Problem += r.confirmed(gwv1.RouteReasonInvalidKind)
				a.found(f)
			}
		}
	},
}
