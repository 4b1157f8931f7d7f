package audit

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/policy"
)

// Fields: of relocated copies every field that names a backend.
var referenceWithheld = Check{
	ID:       "reference-withheld",
	Severity: SeverityError,
	Summary:  "routewarden withholds a backend of a relocated copy, because its namespace does not consent.",
	Rationale: "A copy must not reach what its source's people were not let into, also where a grant for the whole system namespace exists. The " +
		"gateway answers 500 for this backend's share of the requests, and writes ResolvedRefs=False with InvalidKind.",
	Remediation: "Ask the owner of the backend's namespace to consent to the source's namespace; routewarden then puts the backend back by itself.",
	run: func(a *auditor) {
		for _, r := range a.routes {
			for _, x := range r.references {
				if r.role != roleCopy || !isWithheld(x) {
					continue
				}
				x.state, x.words = StateBroken, "withheld, as its namespace does not consent"
				for _, p := range r.parents {
					p.explained[string(gwv1.RouteReasonInvalidKind)] = true
				}
				f := a.onReference(r, x)
				f.Problem = "its namespace does not consent"
				f.Next = "ask the owner of its namespace to consent"
				f.Command = get(r.ref)
				if wanted := a.wanted(r, x); wanted != nil {
					f.Value = wanted.backend.String()
					f.Problem = fmt.Sprintf("namespace %q does not consent to routes of %q", wanted.Namespace, r.origin)
					f.Next = fmt.Sprintf("ask the owner of %q for a ReferenceGrant from %q or for: kubectl label namespace %s %s=%s",
						wanted.Namespace, r.origin, wanted.Namespace, policy.GrantsLabel, policy.GrantsAllow)
					f.Command = fmt.Sprintf("kubectl get referencegrants -n %s", wanted.Namespace)
				}
				f.Problem += ", so routewarden withholds the backend from the copy" + r.confirmed(gwv1.RouteReasonInvalidKind)
				a.found(f)
			}
		}
	},
}

func isWithheld(x *reference) bool {
	return x.Group == policy.WithheldGroup && x.Kind == policy.WithheldKind
}

// wanted is the reference of the source in whose place a withheld one stands, or nil.
func (a *auditor) wanted(r *route, withheld *reference) *reference {
	source := a.sourceOf(r)
	if source == nil {
		return nil
	}
	return first(source.references, func(x *reference) bool { return x.Path() == withheld.Path() })
}
