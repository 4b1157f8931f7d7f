package audit

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: status.parents[*].conditions, type Accepted.
var statusNotAccepted = Check{
	ID:          "status-not-accepted",
	Severity:    SeverityError,
	Summary:     "A gateway controller has not accepted the route.",
	Rationale:   "Accepted=False: the gateway serves nothing of the route by this parentRef and answers 404; AIBrix's plugin answers 503.",
	Remediation: "Do what the reason asks for; where the specification looks right, the controller may not have seen the latest change.",
	run: func(a *auditor) {
		a.badConditions(string(gwv1.RouteConditionAccepted), func(r *route, p *parent, c metav1.Condition, f *Finding) {
			f.Command = get(p.gateway)
			if p.attachment.Accepted == policy.Yes && (c.Reason == string(gwv1.RouteReasonNotAllowedByListeners) ||
				c.Reason == string(gwv1.RouteReasonNoMatchingListenerHostname) || c.Reason == string(gwv1.RouteReasonNoMatchingParent)) {
				f.Problem += "; by its specification a listener accepts the route, so the gateway has not seen the latest change, or reads more than the specification"
				f.Next = "look at what the gateway's controller logs about this route"
				f.Command = describe(r.ref)
			}
		})
	},
}

// badConditions reports the conditions of a type that are not True and that no earlier check explains.
func (a *auditor) badConditions(conditionType string, complete func(*route, *parent, metav1.Condition, *Finding)) {
	for _, r := range a.routes {
		for _, p := range r.parents {
			if p.parked {
				continue // its copy is audited
			}
			for _, s := range p.status {
				for _, c := range s.Conditions {
					if c.Type != conditionType || c.Status == metav1.ConditionTrue || p.explained[c.Reason] {
						continue
					}
					p.state = worstOf(p.state, StateBroken)
					f := Finding{
						Object: r.ref, Field: statusField(r, s, c.Type), Value: fmt.Sprintf("%s=%s, %s", c.Type, c.Status, c.Reason),
						Problem: conditionWords(c), Next: "read the gateway's message and correct the route", Command: describe(r.ref), Related: []Ref{p.gateway},
					}
					if f.Problem == "" {
						f.Problem = fmt.Sprintf("the controller %s says %s", s.ControllerName, c.Type+"="+string(c.Status))
					}
					if c.Message != "" {
						f.Problem += fmt.Sprintf(" (%s says: %s)", s.ControllerName, policy.Printable(c.Message))
					}
					complete(r, p, c, &f)
					a.found(f)
				}
			}
		}
	}
}

// statusField is the path of a condition in a route.
func statusField(r *route, s gwv1.RouteParentStatus, conditionType string) string {
	for i := range r.status {
		if r.status[i].ControllerName == s.ControllerName && sameParent(&r.status[i].ParentRef, &s.ParentRef, r.Namespace) {
			return fmt.Sprintf("status.parents[%d].conditions[%s]", i, conditionType)
		}
	}
	return "status.parents"
}
