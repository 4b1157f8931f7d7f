package audit

import (
	"cmp"
	"fmt"
	"iter"

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
		for c, f := range a.badConditions(gwv1.RouteConditionAccepted) {
			f.Command = get(c.parent.Gateway)
			if c.parent.attachment.Accepted == policy.Yes && (c.Reason == string(gwv1.RouteReasonNotAllowedByListeners) ||
				c.Reason == string(gwv1.RouteReasonNoMatchingListenerHostname) || c.Reason == string(gwv1.RouteReasonNoMatchingParent)) {
				f.Problem += "; by its specification a listener accepts the route, so the gateway has not seen the latest change, or reads more than the specification"
				f.Next = "look at what the gateway's controller logs about this route"
				f.Command = describe(c.route.Ref)
			}
			a.found(f)
		}
	},
}

// condition is one that a controller wrote about a parentRef of a route.
type condition struct {
	metav1.Condition
	route  *route
	parent *parent
	status gwv1.RouteParentStatus
}

// eachCondition has those of audited routes, without those of parked parentRefs: their copies are audited.
func (a *auditor) eachCondition() iter.Seq[condition] {
	return func(yield func(condition) bool) {
		for r, p := range a.eachParent() {
			for _, s := range p.status {
				for _, c := range s.Conditions {
					if !yield(condition{c, r, p, s}) {
						return
					}
				}
			}
		}
	}
}

// badConditions are those of a type that are not True and that no earlier check explains, each with the beginning of a finding.
func (a *auditor) badConditions(conditionType gwv1.RouteConditionType) iter.Seq2[condition, Finding] {
	return func(yield func(condition, Finding) bool) {
		for c := range a.eachCondition() {
			if c.Type != string(conditionType) || c.Status == metav1.ConditionTrue || c.parent.explained[c.Reason] {
				continue
			}
			c.parent.State = StateBroken
			if !yield(c, c.finding(fmt.Sprintf("the controller %s says %s=%s", c.status.ControllerName, c.Type, c.Status))) {
				return
			}
		}
	}
}

// finding begins a finding about a condition; the problem is for those that have no words.
func (c condition) finding(problem string) Finding {
	f := Finding{
		Object: c.route.Ref, Field: c.field(), Value: fmt.Sprintf("%s=%s, %s", c.Type, c.Status, c.Reason),
		Problem: cmp.Or(conditionWords(c.Condition), problem), Next: "read the gateway's message and correct the route", Command: describe(c.route.Ref), Related: []Ref{c.parent.Gateway},
	}
	if c.Message != "" {
		f.Problem += fmt.Sprintf(" (%s says: %s)", c.status.ControllerName, policy.Printable(c.Message))
	}
	return f
}

// field is the path of the condition in the route.
func (c condition) field() string {
	for i, s := range c.route.status {
		if s.ControllerName == c.status.ControllerName && sameParent(&s.ParentRef, &c.status.ParentRef, c.route.Namespace) {
			return fmt.Sprintf("status.parents[%d].conditions[%s]", i, c.Type)
		}
	}
	return "status.parents"
}
