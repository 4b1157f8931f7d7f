package policy

import "fmt"

// Fields: every field that names a backend (see Route.References), and the target namespace's label
// routesteward.dev/grants.
// Allowed: the target namespace of a cross-namespace reference does not carry routesteward.dev/grants=deny.
var targetNamespaceRefusesGrants = Rule{
	ID:      "target-namespace-refuses-grants",
	Summary: "A namespace labeled routesteward.dev/grants=deny is not referred to from other namespaces.",
	Rationale: "The label is its owner's veto. It beats every consent: grants that exist, other people's standing consent, and the " +
		"rights of whoever applies the route.",
	Remediation: "Refer to a backend in another namespace, or ask the owner of the target namespace to remove the label.",
	Good: `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama-router
  namespace: aibrix-system
spec:
  parentRefs:
  - name: aibrix-eg
  rules:
  - backendRefs:
    - name: llama
      namespace: team-a
      port: 8000
---
apiVersion: v1
kind: Namespace
metadata:
  name: team-a
  labels:
    routesteward.dev/grants: allow
`,
	Bad: `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama-router
  namespace: aibrix-system
spec:
  parentRefs:
  - name: aibrix-eg
  rules:
  - backendRefs:
    - name: llama
      namespace: vault
      port: 8000
---
apiVersion: v1
kind: Namespace
metadata:
  name: vault
  labels:
    routesteward.dev/grants: deny
`,
	check: checkTargetNamespaceRefusesGrants,
	when:  (*Policy).referring,
}

func checkTargetNamespaceRefusesGrants(e *evaluation) {
	for _, ref := range e.references {
		if ref.Outcome != Vetoed {
			continue
		}
		e.report(SeverityDeny, ref.unchanged, Finding{
			Field:   ref.Path(),
			Value:   ref.target(),
			Problem: fmt.Sprintf("namespace %q refuses references from other namespaces (label %s=%s)", ref.Namespace, GrantsLabel, GrantsDeny),
			Fix:     fmt.Sprintf("use a backend in another namespace, or ask the owner of %q to remove the label", ref.Namespace),
		})
	}
}

// target names the backend as people do: kind, namespace and name.
func (r evaluatedReference) target() string {
	return kindWithGroup(r.Group, r.Kind) + " " + r.Namespace + "/" + r.Name
}
