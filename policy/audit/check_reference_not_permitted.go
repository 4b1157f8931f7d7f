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
		for _, r := range a.routes {
			for _, x := range r.references {
				if !x.crosses() || len(x.permits) > 0 || x.judgement.Outcome == policy.Grantable || x.judgement.Outcome == policy.Vetoed {
					continue
				}
				x.broken(r, "no ReferenceGrant permits it")
				f := a.onReference(r, x)
				from := fmt.Sprintf("%ss in %q", x.edge.FromKind, x.edge.FromNamespace)
				f.Problem = fmt.Sprintf("no ReferenceGrant in namespace %q permits it to %s", x.Namespace, from)
				switch {
				case x.judgement.Consent != "":
					f.Next = fmt.Sprintf("have a ReferenceGrant applied in %q (routesteward makes none here: --grants=%s)", x.Namespace, a.policy.Grants)
				case a.policy.Grants == policy.GrantsOff:
					f.Next = fmt.Sprintf("have a ReferenceGrant applied in %q", x.Namespace)
				default:
					f.Problem += fmt.Sprintf(", and the namespace has not consented to routes of %q", x.edge.Origin)
					f.Next = fmt.Sprintf("ask the owner of %q for a ReferenceGrant or for: kubectl label namespace %s %s=%s", x.Namespace, x.Namespace, policy.GrantsLabel, policy.GrantsAllow)
				}
				if a.facts.Namespace(x.Namespace).Exists != policy.Yes {
					f.Problem = fmt.Sprintf("there is no namespace %q", x.Namespace)
					f.Next = "correct the namespace in the backendRef, or create it"
				}
				f.Problem += r.confirmed(gwv1.RouteReasonRefNotPermitted) + r.unnoticed()
				f.Command = fmt.Sprintf("kubectl get referencegrants -n %s", x.Namespace)
				a.found(f)
			}
		}
	},
}

// onReference begins a finding about a reference.
func (a *auditor) onReference(r *route, x *reference) Finding {
	f := Finding{Object: r.ref, Field: x.Path(), Value: x.backend.String(), Related: []Ref{x.backend}}
	if r.role == roleCopy {
		if source := a.sourceOf(r); source != nil {
			f.Related = append(f.Related, source.ref)
		}
	}
	return f
}

// broken notes that requests to the reference fail, which a gateway tells as RefNotPermitted.
func (x *reference) broken(r *route, words string) {
	x.state, x.words = StateBroken, words
	for _, p := range r.parents {
		p.explained[string(gwv1.RouteReasonRefNotPermitted)] = true
	}
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
