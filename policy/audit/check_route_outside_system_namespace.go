package audit

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: metadata.namespace, spec.parentRefs[*].
var routeOutsideSystemNamespace = Check{
	ID:       "route-outside-system-namespace",
	Severity: SeverityError,
	Summary:  "A route on a Gateway of the system namespace lives elsewhere.",
	Rationale: "The listeners of the shared Gateway take routes from their own namespace unless allowedRoutes says otherwise, and AIBrix's " +
		"plugin looks for <model>-router in the system namespace only. The route is stored and never served: people see a 404, or with " +
		"AIBrix a 503. A parentRef without a namespace that was meant for the shared Gateway is the most common form.",
	Remediation: "Move the route into the system namespace and write the namespace of each backend into its backendRef; `routesteward " +
		"check --fix` does that to a manifest. Admission refuses, warns or relocates, as --outside says.",
	run: func(a *auditor) {
		for _, r := range a.routes {
			if r.Role != RoleRoute || r.Namespace == a.system() {
				continue
			}
			reported := false
			for _, p := range r.parents {
				if p.governed && !p.parked {
					a.outside(r, p)
					reported = true
				}
			}
			if !reported && a.policy.Scope == policy.ScopeAll {
				a.found(Finding{
					Object: r.Ref, Field: "metadata.namespace", Value: r.Namespace, Severity: a.outsideSeverity(),
					Problem: fmt.Sprintf("every route must live in namespace %q (--scope=all)", a.system()), Next: a.moveWords(r), Command: a.moveCommand(r),
				})
			}
		}
	},
}

func (a *auditor) outside(r *route, p *parent) {
	f := Finding{Object: r.Ref, Field: p.Field, Value: p.Gateway.String(), Severity: a.outsideSeverity(), Next: a.moveWords(r), Command: a.moveCommand(r), Related: []Ref{p.Gateway}}
	switch {
	case p.misdirected:
		f.Value = "Gateway " + p.Gateway.Name
		f.Problem = fmt.Sprintf("means %s/%s, as it names no namespace, and there is no such Gateway; the one in %q was meant, and knows nothing of this route", r.Namespace, p.Gateway.Name, a.system())
	case p.attachment.Accepted == policy.Yes:
		f.Problem = fmt.Sprintf("the Gateway's listener takes this route of namespace %q, but AIBrix's plugin looks for routes in %q only, and whoever owns a namespace here can take over paths", r.Namespace, a.system())
		if f.Severity == SeverityError {
			f.Severity = SeverityWarning
		}
	case p.object == nil:
		f.Problem = fmt.Sprintf("routes on Gateways of %q live in that namespace, and this route is in %q", a.system(), r.Namespace)
	default:
		f.Problem = fmt.Sprintf("takes routes from namespace %q only, and this route is in %q%s", a.system(), r.Namespace, p.confirmed(gwv1.RouteReasonNotAllowedByListeners))
	}
	p.State = worstOf(p.State, stateFor(f.Severity))
	for _, reason := range []gwv1.RouteConditionReason{gwv1.RouteReasonNotAllowedByListeners, gwv1.RouteReasonNoMatchingParent} {
		p.explained[string(reason)] = true
	}
	a.found(f)
}

// outsideSeverity follows what admission does with such a route.
func (a *auditor) outsideSeverity() Severity {
	switch a.policy.Outside {
	case policy.OutsideWarn:
		return SeverityWarning
	case policy.OutsideAllow:
		return SeverityInfo
	}
	return SeverityError
}

func (a *auditor) moveWords(r *route) string {
	if a.policy.Outside == policy.OutsideRewrite {
		return "write the route once more: admission then relocates it"
	}
	words := fmt.Sprintf("move it: apply it with metadata.namespace: %s, then delete it here", a.system())
	for ref := range r.view.References() {
		if ref.Implicit {
			return words + fmt.Sprintf("; write namespace: %s into each backendRef that names none", r.Namespace)
		}
	}
	return words
}

// moveCommand relocates a route, or shows what must change in it.
func (a *auditor) moveCommand(r *route) string {
	if a.policy.Outside == policy.OutsideRewrite {
		return get(r.Ref) + " | kubectl replace -f -"
	}
	return get(r.Ref) + " | routesteward check -f - --fix --dry-run --cluster"
}

// confirmed are the words that the gateway says so too, where it does.
func (p *parent) confirmed(reasons ...gwv1.RouteConditionReason) string {
	for _, s := range p.status {
		for _, c := range s.Conditions {
			for _, reason := range reasons {
				if c.Reason == string(reason) {
					return fmt.Sprintf("; the gateway says so too (%s=%s, %s)", c.Type, c.Status, c.Reason)
				}
			}
		}
	}
	return ""
}
