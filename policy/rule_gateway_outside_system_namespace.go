package policy

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fields: metadata.namespace, spec.gatewayClassName.
// Allowed: Gateways of a class in --gateway-classes live in the system namespace; other classes anywhere.
var gatewayOutsideSystemNamespace = Rule{
	ID:      "gateway-outside-system-namespace",
	Summary: "A Gateway of a listed class (--gateway-classes) must live in the system namespace.",
	Rationale: "AIBrix's plugin and its policies are attached to the Gateway in the system namespace. Another Gateway of the same class " +
		"gets a data plane of its own that bypasses them.",
	Remediation: "Attach routes to the shared Gateway, or ask the platform team to add a Gateway in the system namespace.",
	Good: `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: aibrix-eg
  namespace: aibrix-system
spec:
  gatewayClassName: aibrix-eg
  listeners:
  - name: http
    port: 80
    protocol: HTTP
`,
	Bad: `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: mine
  namespace: team-a
spec:
  gatewayClassName: aibrix-eg
  listeners:
  - name: http
    port: 80
    protocol: HTTP
`,
	check: checkGatewayOutsideSystemNamespace,
	when: func(p *Policy, kind Kind) When {
		if kind != Gateway {
			return When{}
		}
		return When{Outside: []string{"object.spec.gatewayClassName in " + quoteList(p.GatewayClasses)}}
	},
	Repair: Repair{Never: func(Kind) string {
		return "to move a Gateway moves its address and its listeners too, which only its owner can decide"
	}},
}

func checkGatewayOutsideSystemNamespace(e *evaluation) {
	gateway, ok := e.req.Object.(*gwv1.Gateway)
	if !ok || gateway == nil || e.req.Namespace == e.policy.SystemNamespace {
		return
	}
	class := gateway.Spec.GatewayClassName
	if !e.policy.gatewayClasses.Has(string(class)) {
		return
	}
	old, _ := e.req.OldObject.(*gwv1.Gateway)
	unchanged := e.req.Operation == Update && old != nil && old.Spec.GatewayClassName == class
	e.report(SeverityDeny, unchanged, Finding{
		Field:   "spec.gatewayClassName",
		Value:   string(class),
		Problem: fmt.Sprintf("Gateways of this class must live in namespace %q, and this one is in %q", e.policy.SystemNamespace, e.req.Namespace),
		Fix:     fmt.Sprintf("attach the routes to a Gateway in %q, or use another class", e.policy.SystemNamespace),
	})
}
