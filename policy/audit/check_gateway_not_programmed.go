package audit

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: of Gateways status.conditions and status.listeners[*].conditions, types Accepted, Programmed and ResolvedRefs.
var gatewayNotProgrammed = Check{
	ID:       "gateway-not-programmed",
	Severity: SeverityError,
	Summary:  "A gateway controller does not serve a Gateway, or one of its listeners.",
	Rationale: "Accepted=False or Programmed=False: the data plane does not have the configuration, and no route on the Gateway works, whatever " +
		"its own status says. ResolvedRefs=False on a listener is most often a certificate that is missing or not permitted.",
	Remediation: "Do what the controller's message asks for. A Gateway that waits for a controller has a class that no controller serves.",
	run: func(a *auditor) {
		used := map[Ref]bool{}
		for _, r := range a.routes {
			for _, p := range r.parents {
				used[p.Gateway] = p.governed || used[p.Gateway]
			}
		}
		for _, o := range a.cluster.Gateways {
			ref := refOf(policy.Gateway, o.Namespace, o.Name)
			if o.Namespace != a.system() && !used[ref] {
				continue
			}
			a.gatewayConditions(ref, "status", o.Spec.GatewayClassName, o.Status.Conditions)
			for i, l := range o.Status.Listeners {
				a.gatewayConditions(ref, fmt.Sprintf("status.listeners[%d]", i), o.Spec.GatewayClassName, l.Conditions)
			}
		}
	},
}

func (a *auditor) gatewayConditions(ref Ref, path string, class gwv1.ObjectName, conditions []metav1.Condition) {
	pending := false
	for _, c := range conditions {
		if !slices.Contains([]string{string(gwv1.GatewayConditionAccepted), string(gwv1.GatewayConditionProgrammed), string(gwv1.ListenerConditionResolvedRefs)}, c.Type) ||
			c.Status == metav1.ConditionTrue {
			continue
		}
		f := Finding{
			Object: ref, Field: fmt.Sprintf("%s.conditions[%s]", path, c.Type), Value: fmt.Sprintf("%s=%s, %s", c.Type, c.Status, c.Reason),
			Problem: "the gateway does not serve it, so no route on it works", Next: "do what the controller's message asks for",
			Command: fmt.Sprintf("kubectl describe gateway %s -n %s", ref.Name, ref.Namespace),
		}
		switch {
		case c.Reason == string(gwv1.GatewayReasonPending) && pending:
			continue
		case c.Reason == string(gwv1.GatewayReasonPending):
			pending = true
			// The API server writes this when a Gateway is made; a controller takes it away.
			f.Severity = SeverityWarning
			f.Problem = fmt.Sprintf("no controller has taken it yet (GatewayClass %q)", class)
			f.Next = "look whether the controller of this GatewayClass runs"
			f.Command = fmt.Sprintf("kubectl get gatewayclass %s -o wide", class)
		case c.Reason == string(gwv1.GatewayReasonAddressNotAssigned):
			// Gateways without a load balancer stay so, and are reached by other ways.
			f.Severity = SeverityWarning
			f.Problem = "the gateway has no address, so nobody reaches it from outside by one"
			f.Next = "look whether the cluster can give its Service a load balancer, or reach it by the Service"
			f.Command = "kubectl get services -A -l gateway.envoyproxy.io/owning-gateway-name=" + ref.Name
		case strings.HasPrefix(path, "status.listeners"):
			f.Problem = "the gateway does not serve this listener, so no route works on it"
		}
		if c.Message != "" && c.Reason != string(gwv1.GatewayReasonPending) {
			f.Problem += fmt.Sprintf(" (the controller says: %s)", c.Message)
		}
		a.found(f)
	}
}
