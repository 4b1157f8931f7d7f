package audit

import (
	"fmt"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fields: spec.parentRefs[*].{namespace,name}.
var parentGatewayMissing = Check{
	ID:          "parent-gateway-missing",
	Severity:    SeverityError,
	Summary:     "A route names a Gateway that does not exist.",
	Rationale:   "Nobody serves the route and no controller writes a status for it: people see a 404 and an empty status.",
	Remediation: "Correct the name or namespace in the parentRef, or create the Gateway.",
	run: func(a *auditor) {
		for r, p := range a.eachParent() {
			if p.object != nil {
				continue
			}
			p.State = StateBroken
			p.explained[string(gwv1.RouteReasonNoMatchingParent)] = true
			var names []string
			for _, o := range a.cluster.Gateways {
				if o.Namespace == p.Gateway.Namespace {
					names = append(names, o.Name)
				}
			}
			slices.Sort(names)
			next := fmt.Sprintf("correct the name; there is no Gateway in namespace %q", p.Gateway.Namespace)
			if len(names) > 0 {
				next = fmt.Sprintf("correct the name; in namespace %q there is %s", p.Gateway.Namespace, strings.Join(names, ", "))
			}
			a.found(Finding{
				Object: r.Ref, Field: p.Field, Value: p.Gateway.String(), Problem: "there is no such Gateway, so nobody serves the route by this parentRef",
				Next: next, Command: fmt.Sprintf("kubectl get gateways -n %s", p.Gateway.Namespace), Related: []Ref{p.Gateway},
			})
		}
	},
}
