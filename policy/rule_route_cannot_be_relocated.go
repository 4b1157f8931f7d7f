package policy

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/sets"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fields: metadata.name, spec.rules[*].filters[*].extensionRef, spec.rules[*].backendRefs[*].filters[*].extensionRef.
// Allowed: a route that is relocated (--outside=rewrite) means the same in the system namespace, and its copy's name is
// neither reserved (--reserved-names) nor taken.
var routeCannotBeRelocated = Rule{
	ID:      "route-cannot-be-relocated",
	Summary: "A route is relocated only where its copy means the same and its copy's name is free.",
	Rationale: "The copy lives in the system namespace. An extensionRef names an object of the route's own namespace and would name " +
		"another one there. A copy never takes the place of a route that somebody else created.",
	Remediation: "Use another name, and standard filters in place of extensionRef, or write the route into the system namespace " +
		"yourself. With --relocated-name=qualified the copies of different namespaces have different names.",
	Good: `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama-router
  namespace: team-a
  annotations:
    routesteward.dev/parked-parent-refs: '[{"namespace":"aibrix-system","name":"aibrix-eg"}]'
spec:
  rules:
  - backendRefs:
    - name: llama
      port: 8000
`,
	Bad: `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama-router
  namespace: team-a
  annotations:
    routesteward.dev/parked-parent-refs: '[{"namespace":"aibrix-system","name":"aibrix-eg"}]'
spec:
  rules:
  - filters:
    - type: ExtensionRef
      extensionRef:
        group: gateway.envoyproxy.io
        kind: HTTPRouteFilter
        name: rewrite
    backendRefs:
    - name: llama
      port: 8000
`,
	check: checkRouteCannotBeRelocated,
	when: func(_ *Policy, kind Kind) When {
		if !isRoute(kind) {
			return When{}
		}
		return When{Outside: []string{annotated("object")}}
	},
	Repair: Repair{Never: func(Kind) string { return SeeFinding }},
}

func checkRouteCannotBeRelocated(e *evaluation) {
	if len(e.parked) == 0 {
		return
	}
	system := e.policy.SystemNamespace
	if e.route.Meta.Name != "" || e.route.Meta.GenerateName != "" {
		e.checkCopyName()
	}
	// Wherever it stood: a rule that is put before it changes nothing about it.
	before := sets.Set[gwv1.LocalObjectReference]{}
	if len(e.wasParked) > 0 {
		for place := range e.old.Places() {
			if place.Extension != nil {
				before.Insert(*place.Extension)
			}
		}
	}
	for place := range e.route.Places() {
		ref := place.Extension
		if ref == nil {
			continue
		}
		kind := kindWithGroup(string(ref.Group), string(ref.Kind))
		e.report(SeverityDeny, before.Has(*ref), Finding{
			Field:   place.Path(),
			Value:   fmt.Sprintf("%s %s/%s", kind, e.route.Namespace, ref.Name),
			Problem: fmt.Sprintf("names an object of namespace %q, which the route's copy in %q cannot name", e.route.Namespace, system),
			Fix:     fmt.Sprintf("use a standard filter, or write the route and its %s into %q yourself", ref.Kind, system),
		})
	}
}

func (e *evaluation) checkCopyName() {
	system, name := e.policy.SystemNamespace, e.copyName()
	unchanged := len(e.wasParked) > 0
	f := Finding{Field: "metadata.name", Value: e.route.Meta.Name, Fix: "use another name"}
	if e.route.Meta.Name == "" {
		f.Field, f.Value = "metadata.generateName", e.route.Meta.GenerateName
	}
	if pattern, reserved := e.policy.reserved(name); reserved {
		f.Problem = fmt.Sprintf("the route's copy would be %s %s/%s, and names like %s are reserved (--reserved-names)", e.route.Kind, system, name, pattern)
		e.report(SeverityDeny, unchanged, f)
	}
	// A generated name is not known here, and is nearly always free.
	if e.route.Meta.Name == "" {
		return
	}
	holders, known := e.facts.Holders(e.route.Kind, name)
	if !known {
		e.miss(f.Field, f.Value, Fact{Kind: FactName, Namespace: system, Name: name})
		return
	}
	own := e.route.Namespace + "/" + e.route.Meta.Name
	if len(holders) == 0 || slices.Contains(holders, own) {
		return
	}
	switch holder := holders[0]; holder {
	case "":
		f.Problem = fmt.Sprintf("the route's copy would be %s %s/%s, which exists and is not this route's copy", e.route.Kind, system, name)
	default:
		f.Problem = fmt.Sprintf("the route's copy would be %s %s/%s, which is the copy of %s", e.route.Kind, system, name, holder)
	}
	e.report(SeverityDeny, unchanged, f)
}
