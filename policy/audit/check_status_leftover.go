package audit

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fields: status.parents, spec.parentRefs.
var statusLeftover = Check{
	ID:       "status-leftover",
	Severity: SeverityInfo,
	Summary:  "A status is about a parentRef that the route no longer has.",
	Rationale: "Controllers take their entries back, unless they were removed first. AIBrix's plugin reads every entry of status.parents: a " +
		"leftover one that is not good makes it answer 503 although the route works.",
	Remediation: "Restart the controller that wrote it; where it is gone for good, delete the route and apply it again.",
	run: func(a *auditor) {
		for _, r := range a.routes {
			if r.Role == RoleSource {
				continue // its status is mirrored from the copy
			}
			for i, s := range r.status {
				if slices.ContainsFunc(r.view.ParentRefs, func(ref gwv1.ParentReference) bool { return sameParent(&ref, &s.ParentRef, r.Namespace) }) {
					continue
				}
				bad := slices.ContainsFunc(s.Conditions, func(c metav1.Condition) bool { return c.Status == metav1.ConditionFalse })
				f := Finding{
					Object: r.Ref, Field: fmt.Sprintf("status.parents[%d]", i), Value: "Gateway " + string(s.ParentRef.Name),
					Problem: fmt.Sprintf("the controller %s wrote it about a parentRef that the route does not have", s.ControllerName),
					Next:    "restart that controller; where it is gone for good, delete the route and apply it again", Command: describe(r.Ref),
				}
				if bad && r.Model != "" && r.Namespace == a.system() {
					f.Severity = SeverityError
					f.Problem += "; AIBrix's plugin reads it all the same and answers 503"
				}
				a.found(f)
			}
		}
	},
}
