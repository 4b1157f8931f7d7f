package policy

import (
	"fmt"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fields: metadata.namespace, spec.parentRefs[*].{group,kind,namespace,name}, metadata.annotations[routesteward.dev/parked-parent-refs].
// Allowed: a governed route lives in the system namespace (--outside says what happens otherwise), or it is parked under
// --outside=rewrite.
var routeOutsideSystemNamespace = Rule{
	ID:      "route-outside-system-namespace",
	Summary: "A route on a Gateway of the system namespace must live in the system namespace.",
	Rationale: "The shared Gateway accepts routes from its own namespace only (allowedRoutes defaults to from: Same), and AIBrix's " +
		"gateway plugin looks for <model>-router there. A route anywhere else is stored, never accepted " +
		"(NotAllowedByListeners), and nobody notices.",
	Remediation: "Set metadata.namespace to the system namespace and write the namespace of each backend into its backendRef. " +
		"If the route was meant for a Gateway of its own namespace, create that Gateway first or name its namespace in the parentRef.",
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
`,
	Bad: `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama-router
  namespace: team-a
spec:
  parentRefs:
  - name: aibrix-eg
    namespace: aibrix-system
  rules:
  - backendRefs:
    - name: llama
      port: 8000
`,
	check: checkRouteOutsideSystemNamespace,
	when: func(p *Policy, kind Kind) When {
		if !isRoute(kind) {
			return When{}
		}
		return When{Outside: p.governed()}
	},
	Repair: Repair{Move: true},
}

// The words, of which Fallback makes CEL.
const (
	parkedField         = "metadata.annotations[" + ParkedAnnotation + "]"
	problemNotRelocated = ", and it was not relocated"
	fixNotRelocated     = "apply it again under another name, where --dry-run=server shows what is wrong with it; if it is just not relocated, ask the platform team to look at the MutatingWebhookConfiguration of routesteward"
	fixParked           = "remove the annotation, "
)

func problemDirect(system, own string) string {
	return fmt.Sprintf("takes routes from namespace %q only, and this route is in %q", system, own)
}

func problemAnywhere(system string) string {
	return fmt.Sprintf("every route must live in namespace %q (--scope=all)", system)
}

func problemParked(outside OutsideMode) string {
	return fmt.Sprintf("asks for a relocation, and no routes are relocated here (--outside=%s)", outside)
}

// fixOutside is what to do; implicit says that a backendRef names no namespace.
func fixOutside(system, own string, implicit bool) string {
	fix := fmt.Sprintf("set metadata.namespace: %s", system)
	if implicit {
		fix += fmt.Sprintf(" and add namespace: %s to each backendRef that names none", own)
	}
	return fix
}

func checkRouteOutsideSystemNamespace(e *evaluation) {
	if e.route == nil || e.route.Namespace == e.policy.SystemNamespace || e.governed == No && e.unparkable == nil {
		return
	}
	severity := map[OutsideMode]Severity{OutsideWarn: SeverityWarn, OutsideAllow: SeverityAudit}[e.policy.Outside]
	if severity == "" {
		severity = SeverityDeny
	}
	own, system := e.route.Namespace, e.policy.SystemNamespace
	implicit := false
	for ref := range e.route.References() {
		if implicit = ref.Implicit; implicit {
			break
		}
	}
	fix := fixOutside(system, own, implicit)
	reported := e.checkParked(fix)
	for i, parent := range e.parents {
		ref := &e.route.ParentRefs[i]
		f := Finding{
			Field: fmt.Sprintf("spec.parentRefs[%d]", i),
			Value: fmt.Sprintf("Gateway %s/%s", system, ref.Name),
			Fix:   fix,
		}
		switch parent.attachment {
		case direct:
			f.Problem = problemDirect(system, own)
		case misdirected:
			f.Value = fmt.Sprintf("Gateway %s", ref.Name)
			f.Problem = fmt.Sprintf("means %s/%s, as it names no namespace, and there is no such Gateway; the one in %q takes routes from there only", own, ref.Name, system)
		case undecided:
			e.miss(f.Field, fmt.Sprintf("Gateway %s", ref.Name), parent.missing)
			continue
		default:
			continue
		}
		unchanged := e.old != nil && hasParent(e.old.ParentRefs, ref)
		if e.policy.Outside == OutsideRewrite {
			f.Problem += problemNotRelocated
			f.Fix = fixNotRelocated
		} else {
			// Who gets parked parentRefs back where nothing is relocated any more changes nothing for the worse.
			unchanged = unchanged || e.old != nil && hasParent(e.wasParked, resolved(ref, system))
		}
		e.report(severity, unchanged, f)
		reported = true
	}
	// Under --scope=all a route is governed without any of these parentRefs; what is wrong is where it lives.
	if !reported && e.policy.Scope == ScopeAll && (len(e.parked) == 0 || len(e.route.ParentRefs) > 0) {
		e.report(severity, e.old != nil, Finding{
			Field:   "metadata.namespace",
			Value:   own,
			Problem: problemAnywhere(system),
			Fix:     fix,
		})
	}
}

// checkParked evaluates the annotation that keeps parentRefs. What it held before may stay.
func (e *evaluation) checkParked(fix string) (reported bool) {
	if !e.policy.IsParked(*e.route) {
		return false
	}
	f := Finding{Field: parkedField}
	if e.unparkable != nil {
		same := e.old != nil && e.old.Meta.Annotations[ParkedAnnotation] == e.route.Meta.Annotations[ParkedAnnotation]
		f.Value, f.Problem = "parked parentRefs", e.unparkable.Error()
		f.Fix = "remove the annotation and write the parentRefs into spec.parentRefs; routesteward writes it itself"
		e.report(SeverityDeny, same, f)
		return true
	}
	if e.policy.Outside == OutsideRewrite {
		return false
	}
	for i := range e.parked {
		if hasParent(e.wasParked, &e.parked[i]) {
			continue
		}
		f.Value = fmt.Sprintf("Gateway %s/%s", e.policy.SystemNamespace, e.parked[i].Name)
		f.Problem = problemParked(e.policy.Outside)
		f.Fix = fixParked + fix
		// Even where routes outside are admitted: this one would get a copy in the system namespace.
		e.report(SeverityDeny, false, f)
		reported = true
	}
	return reported
}

// hasParent reports whether there is a parentRef to the same Gateway, whatever its section or port.
func hasParent(refs []gwv1.ParentReference, ref *gwv1.ParentReference) bool {
	return slices.ContainsFunc(refs, func(other gwv1.ParentReference) bool {
		return IsGatewayParent(&other) && other.Name == ref.Name && ParentNamespace(&other) == ParentNamespace(ref)
	})
}

// resolved is a parentRef to a Gateway with its namespace written out.
func resolved(ref *gwv1.ParentReference, namespace string) *gwv1.ParentReference {
	out := *ref
	out.Namespace = new(gwv1.Namespace(namespace))
	return &out
}

// Rule is the id of the rule for which the route is relocated.
func (Relocated) Rule() string { return routeOutsideSystemNamespace.ID }
