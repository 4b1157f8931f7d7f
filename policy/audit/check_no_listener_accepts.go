package audit

import (
	"fmt"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: spec.parentRefs[*].{sectionName,port}, spec.hostnames; of the Gateway spec.listeners[*].{hostname,protocol,
// allowedRoutes}.
var noListenerAccepts = Check{
	ID:       "no-listener-accepts",
	Severity: SeverityError,
	Summary:  "No listener of the Gateway accepts the route.",
	Rationale: "A listener takes a route when the parentRef selects it (sectionName, port), its allowedRoutes admits the route's kind and " +
		"namespace, and their hostnames have one in common. Otherwise the gateway answers 404 and writes Accepted=False with " +
		"NotAllowedByListeners, NoMatchingListenerHostname or NoMatchingParent.",
	Remediation: "Change what the finding names: the parentRef, the route's hostnames, or the listener.",
	run: func(a *auditor) {
		for r, p := range a.eachParent() {
			if p.object != nil && p.attachment.Accepted == policy.No && !p.explained[string(p.attachment.Reason)] {
				a.noListener(r, p)
			}
		}
	},
}

func (a *auditor) noListener(r *route, p *parent) {
	p.State = StateBroken
	p.explained[string(p.attachment.Reason)] = true
	f := Finding{Object: r.Ref, Field: p.Field, Value: p.Gateway.String(), Command: get(p.Gateway), Related: []Ref{p.Gateway}}
	var why []string
	for _, l := range p.attachment.Listeners {
		if !p.notSelected(l) {
			why = append(why, fmt.Sprintf("%s: %s", l.Name, l.Problem))
		}
	}
	const shown = 5
	if more := len(why) - shown; more > 0 {
		why = append(why[:shown], fmt.Sprintf("and %s more", plural(more, "listener", "listeners")))
	}
	switch p.attachment.Reason {
	case gwv1.RouteReasonNoMatchingParent:
		f.Problem = "selects no listener of the Gateway"
		f.Next = "correct sectionName and port in the parentRef, or leave them out to mean every listener"
		if p.ref.SectionName != nil {
			f.Field += ".sectionName"
		} else if p.ref.Port != nil {
			f.Field += ".port"
		}
		if len(p.object.Spec.Listeners) == 0 {
			f.Problem, f.Next = "the Gateway has no listener", "add a listener to the Gateway"
		}
	case gwv1.RouteReasonNoMatchingListenerHostname:
		f.Problem = "no listener serves a hostname of the route"
		f.Field = "spec.hostnames"
		f.Next = "use a hostname that a listener serves, or add a listener for it"
	default:
		f.Problem = "no listener takes the route"
		f.Next = "change allowedRoutes of a listener, or attach the route elsewhere"
	}
	if len(why) > 0 {
		f.Problem += " (" + strings.Join(why, "; ") + ")"
	}
	f.Problem += p.confirmed(p.attachment.Reason)
	a.found(f)
}
