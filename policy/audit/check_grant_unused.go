package audit

import (
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: of other people's ReferenceGrants spec.
var grantUnused = Check{
	ID:       "grant-unused",
	Severity: SeverityInfo,
	Summary:  "A ReferenceGrant that people wrote permits nothing that a route refers to.",
	Rationale: "A grant that nothing needs today lets somebody in tomorrow without asking anybody. Often its from.namespace, or a name in it, has " +
		"a spelling mistake, and the route that needs it does not work.",
	Remediation: "Correct the names in it, or delete it.",
	run: func(a *auditor) {
		for _, g := range a.grants {
			if g.Owner != OwnerOther || g.Uses > 0 || g.object.DeletionTimestamp != nil || !forRoutes(g) {
				continue
			}
			a.found(Finding{
				Object: g.Ref, Field: "spec", Problem: "permits nothing that a route refers to", Next: "correct the names in it, or delete it",
				Command: "kubectl get referencegrant " + g.Name + " -n " + g.Namespace + " -o yaml",
			})
		}
	},
}

// forRoutes reports whether a grant is for kinds of routes that are read here: what a Gateway needs of a Secret, or a
// TLSRoute of a Service, is not.
func forRoutes(g *grant) bool {
	return !slices.ContainsFunc(g.object.Spec.From, func(from gwv1.ReferenceGrantFrom) bool {
		return from.Group != gwv1.GroupName || !slices.Contains(policy.RouteKinds(), policy.Kind(from.Kind))
	})
}
