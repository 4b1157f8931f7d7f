package policy

import (
	"fmt"
	"strconv"
)

// Fields: every field that names a backend (see Route.References).
// Allowed: a reference that stays in the route's namespace; one that a ReferenceGrant permits; with --grants=inject one
// whose target namespace consents, for which a managed grant is then made.
var crossNamespaceReference = Rule{
	ID:      "cross-namespace-reference",
	Summary: "A reference to another namespace needs that namespace's consent and a ReferenceGrant there.",
	Rationale: "Without a ReferenceGrant the Gateway resolves the reference to RefNotPermitted and answers 500. With a routing " +
		"algorithm such as least-request AIBrix never looks at that status, so the same route works for one caller and fails for the next.",
	Remediation: "Ask the owner of the target namespace to consent: with the label routesteward.dev/grants=allow on the namespace, or " +
		"with a ReferenceGrant of their own. Whoever may create ReferenceGrants there consents by applying the route.",
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
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata:
  name: llama
  namespace: team-a
spec:
  from:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    namespace: aibrix-system
  to:
  - group: ""
    kind: Service
    name: llama
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
      namespace: team-a
      port: 8000
`,
	check: checkCrossNamespaceReference,
	when:  (*Policy).referring,
}

func checkCrossNamespaceReference(e *evaluation) {
	for _, ref := range e.references {
		if ref.Outcome != Refused && ref.Outcome != Undecided {
			continue
		}
		f := Finding{Field: ref.Path(), Value: ref.target()}
		// A relocated route needs the consent to its origin, and a grant for where its copy is.
		routesIn := func(namespace string) string { return string(ref.edge.FromKind) + "s in " + strconv.Quote(namespace) }
		switch {
		case ref.Outcome == Undecided:
			e.miss(f.Field, f.Value, ref.Missing)
			continue
		case ref.Gone && ref.Consent != "":
			f.Problem = fmt.Sprintf("namespace %q is missing or being deleted, so no ReferenceGrant can be created there", ref.Namespace)
			f.Fix = fmt.Sprintf("create namespace %q first", ref.Namespace)
		case ref.Consent != "" || e.policy.Grants == GrantsRequire:
			from := routesIn(ref.edge.FromNamespace)
			if ref.Consent == "" && ref.edge.Origin != ref.edge.FromNamespace {
				from = routesIn(ref.edge.Origin) + " and another from " + from
			}
			f.Problem = fmt.Sprintf("no ReferenceGrant in namespace %q permits it, and none is created here (--grants=%s)", ref.Namespace, e.policy.Grants)
			f.Fix = fmt.Sprintf("have the owner of %q apply a ReferenceGrant from %s to %s %s", ref.Namespace, from, kindWithGroup(ref.Group, ref.Kind), ref.Name)
		// Nothing here may depend on what exists in a namespace that has not consented.
		default:
			f.Problem = fmt.Sprintf("namespace %q has not consented to references from %s", ref.Namespace, routesIn(ref.edge.Origin))
			f.Fix = fmt.Sprintf("ask its owner to consent, with a ReferenceGrant or with: kubectl label namespace %s %s=%s", ref.Namespace, GrantsLabel, GrantsAllow)
		}
		e.report(SeverityDeny, ref.unchanged, f)
	}
}

// Rule is the id of the rule for which the grant is made.
func (GrantUse) Rule() string { return crossNamespaceReference.ID }
