package audit

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: every field that names a backend (see policy.Route.References).
var referenceNotPermitted = Check{
	ID:       "reference-not-permitted",
	Severity: SeverityError,
	Summary:  "No ReferenceGrant permits a reference to another namespace, and that namespace has not consented.",
	Rationale: "The gateway resolves the reference to RefNotPermitted and answers 500; AIBrix's plugin reads that status and answers 503. A " +
		"request that names a routing algorithm never looks at it and may still work.",
	Remediation: "Ask the owner of the target namespace for a ReferenceGrant of their own, or for the label routesteward.dev/grants=allow.",
	run: func(a *auditor) {
		for r, x := range a.eachCross() {
			if len(x.permits) > 0 || x.outcome == policy.Grantable || x.outcome == policy.Vetoed {
				continue
			}
			x.broken(r, "no ReferenceGrant permits it", gwv1.RouteReasonRefNotPermitted)
			f := a.onReference(r, x)
			from := fmt.Sprintf("%ss in %q", x.edge.FromKind, x.edge.FromNamespace)
			f.Problem = fmt.Sprintf("no ReferenceGrant in namespace %q permits it to %s", x.Backend.Namespace, from)
			switch {
			case x.Consent != "":
				f.Next = fmt.Sprintf("have a ReferenceGrant applied in %q (routesteward makes none here: --grants=%s)", x.Backend.Namespace, a.policy.Grants)
			case a.policy.Grants == policy.GrantsOff:
				f.Next = fmt.Sprintf("have a ReferenceGrant applied in %q", x.Backend.Namespace)
			default:
				f.Problem += fmt.Sprintf(", and the namespace has not consented to routes of %q", x.edge.Origin)
				f.Next = fmt.Sprintf("ask the owner of %q for a ReferenceGrant or for: kubectl label namespace %s %s=%s", x.Backend.Namespace, x.Backend.Namespace, policy.GrantsLabel, policy.GrantsAllow)
			}
			if a.facts.Namespace(x.Backend.Namespace).Exists != policy.Yes {
				f.Problem = fmt.Sprintf("there is no namespace %q", x.Backend.Namespace)
				f.Next = "correct the namespace in the backendRef, or create it"
			}
			f.Problem += r.confirmed(gwv1.RouteReasonRefNotPermitted) + r.unnoticed()
			f.Command = fmt.Sprintf("kubectl get referencegrants -n %s", x.Backend.Namespace)
			a.found(f)
		}
	},
	public: func(f *Finding) {
		f.Problem = "its namespace has not consented, so that no ReferenceGrant permits it"
		f.Next = "ask the owner of the namespace to consent"
	},
}

// onReference begins a finding about a reference.
func (a *auditor) onReference(r *route, x *reference) Finding {
	f := Finding{Object: r.Ref, Field: x.Field, Value: x.Backend.String(), Related: []Ref{x.Backend}}
	if r.Role == RoleCopy {
		if source := a.sourceOf(r); source != nil {
			f.Related = append(f.Related, source.Ref)
		}
	}
	return f
}

// unnoticed are the words that a gateway still says the opposite, where one does.
func (r *route) unnoticed() string {
	for _, p := range r.parents {
		for _, s := range p.status {
			for _, c := range s.Conditions {
				if c.Type == string(gwv1.RouteConditionResolvedRefs) && c.Status == metav1.ConditionTrue {
					return fmt.Sprintf("; the gateway has not noticed yet (%s=%s)", c.Type, c.Status)
				}
			}
		}
	}
	return ""
}

// confirmed are the words that the gateway says so too, where it does.
func (r *route) confirmed(reasons ...gwv1.RouteConditionReason) string {
	for _, p := range r.parents {
		if words := p.confirmed(reasons...); words != "" {
			return words
		}
	}
	return ""
}
