package audit

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: every field that names a backend, and the target namespace's label routesteward.dev/grants.
var referenceVetoed = Check{
	ID:       "reference-vetoed",
	Severity: SeverityError,
	Summary:  "A route refers to a namespace that refuses references (routesteward.dev/grants=deny).",
	Rationale: "The label is its owner's veto: routesteward makes no grant there. A ReferenceGrant that somebody else wrote still counts for " +
		"the gateway, which ignores the label; then the route works against the owner's will.",
	Remediation: "Use a backend in another namespace, or ask the owner to remove the label. The owner deletes the grants that should not be.",
	run: func(a *auditor) {
		for r, x := range a.eachCross() {
			if x.outcome != policy.Vetoed {
				continue
			}
			f := a.onReference(r, x)
			f.Problem = fmt.Sprintf("namespace %q refuses references from other namespaces (label %s=%s)", x.Backend.Namespace, policy.GrantsLabel, policy.GrantsDeny)
			f.Next = fmt.Sprintf("use a backend elsewhere, or ask the owner of %q to remove the label", x.Backend.Namespace)
			f.Command = fmt.Sprintf("kubectl get namespace %s --show-labels", x.Backend.Namespace)
			if len(x.permits) > 0 {
				f.Severity, x.State, x.words = SeverityWarning, StateWarning, "permitted against the namespace's veto"
				f.Problem += fmt.Sprintf(", yet the gateway lets it pass by ReferenceGrant %s", grantNames(x.permits))
				f.Next = fmt.Sprintf("the owner of %q deletes the grant, or removes the label", x.Backend.Namespace)
			} else {
				x.broken(r, "the namespace refuses it", gwv1.RouteReasonRefNotPermitted)
				f.Problem += r.confirmed(gwv1.RouteReasonRefNotPermitted)
			}
			a.found(f)
		}
	},
	public: func(f *Finding) {
		f.Problem = fmt.Sprintf("its namespace refuses references from other namespaces (label %s=%s)", policy.GrantsLabel, policy.GrantsDeny)
	},
}

func grantNames(grants []*grant) string {
	const shown = 3
	var words string
	for i, g := range grants {
		if i == shown {
			return words + fmt.Sprintf(" and %d more", len(grants)-i)
		}
		if i > 0 {
			words += ", "
		}
		words += g.Namespace + "/" + g.Name
	}
	return words
}
