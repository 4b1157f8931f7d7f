package policy

import (
	"cmp"
	"fmt"
	"maps"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fields: metadata.labels, metadata.annotations and spec of ReferenceGrants, and of routes in the system namespace, that are
// labeled app.kubernetes.io/managed-by=routesteward.
// Allowed: only routesteward creates or changes them. Deleting a grant is allowed to whoever may delete it: that revokes.
var managedObjectChanged = Rule{
	ID:      "managed-object-changed",
	Summary: "ReferenceGrants and relocated routes managed by routesteward are created and changed by routesteward only.",
	Rationale: "A managed grant records a consent. A grant that was edited or forged would record a consent that " +
		"nobody gave. A relocated copy serves its source; what is changed in it would be lost, and could reach what its source may not.",
	Remediation: "To revoke a managed grant, delete it. To permit something else, write a ReferenceGrant of your own, under another " +
		"name and without the label app.kubernetes.io/managed-by=routesteward. To change a relocated copy, change its source, which its " +
		"annotation routesteward.dev/source names.",
	Good: `apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata:
  name: mine
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
kind: ReferenceGrant
metadata:
  name: forged
  namespace: team-a
  labels:
    app.kubernetes.io/managed-by: routesteward
spec:
  from:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    namespace: aibrix-system
  to:
  - group: ""
    kind: Service
`,
	check: checkManagedObjectChanged,
	when: func(_ *Policy, kind Kind) When {
		when := When{Inside: []string{labeledManaged("object"), labeledManaged("oldObject")}}
		switch {
		case kind == ReferenceGrant:
			when.Outside = when.Inside
		case !isRoute(kind): // relocated copies are routes of the system namespace
			return When{}
		}
		return when
	},
	Repair: Repair{Never: func(kind Kind) string {
		if kind == ReferenceGrant {
			return "whether this ReferenceGrant should be there without the label, or not at all, only its owner can decide"
		}
		return SeeFinding
	}},
}

func checkManagedObjectChanged(e *evaluation) {
	f := Finding{Field: fmt.Sprintf("metadata.labels[%s]", ManagedByLabel), Value: ManagedBy}
	if e.route != nil {
		e.checkCopyChanged(f)
		return
	}
	grant, ok := e.req.Object.(*gwv1.ReferenceGrant)
	if !ok || grant == nil {
		return
	}
	old, _ := e.req.OldObject.(*gwv1.ReferenceGrant)
	wasManaged := e.req.Operation == Update && old != nil && IsManaged(old)
	switch {
	case wasManaged:
		f.Problem = "this ReferenceGrant is managed by routesteward and is not changed by hand"
		f.Fix = "delete it to revoke it, or write a ReferenceGrant of your own under another name"
		e.report(SeverityDeny, protectedEqual(old, grant), f)
	case IsManaged(grant):
		f.Problem = "only routesteward creates ReferenceGrants with this label"
		f.Fix = "remove the label"
		e.report(SeverityDeny, false, f)
	}
}

func (e *evaluation) checkCopyChanged(f Finding) {
	switch {
	case e.old != nil && e.policy.IsCopy(*e.old):
		source := e.old.Meta.Annotations[SourceAnnotation]
		f.Problem = fmt.Sprintf("this %s is the relocated copy of %s and is not changed by hand", e.route.Kind, cmp.Or(source, "another route"))
		f.Fix = "change its source; what is changed there is copied here"
		namespace, name, _ := strings.Cut(source, "/")
		if len(validation.IsDNS1123Label(namespace)) == 0 && len(validation.IsDNS1123Subdomain(name)) == 0 {
			f.Fix += fmt.Sprintf(": kubectl edit %s -n %s %s", strings.ToLower(string(e.route.Kind)), namespace, name)
		}
		e.report(SeverityDeny, sameCopy(e.req.OldObject, e.req.Object), f)
	case e.policy.IsCopy(*e.route):
		f.Problem = fmt.Sprintf("only routesteward creates routes with this label in namespace %q", e.policy.SystemNamespace)
		f.Fix = "remove the label"
		e.report(SeverityDeny, false, f)
	}
}

// sameCopy compares what routesteward writes into a copy.
func sameCopy(a, b runtime.Object) bool {
	before, now := objectMeta(a), objectMeta(b)
	if !maps.Equal(before.Labels, now.Labels) || !maps.Equal(before.Annotations, now.Annotations) {
		return false
	}
	_, left, okLeft := rowOf(a)
	_, right, okRight := rowOf(b)
	return okLeft && okRight && equality.Semantic.DeepEqual(left.spec, right.spec)
}

// protectedEqual compares what routesteward writes; other people's annotations, finalizers and the like are theirs.
func protectedEqual(a, b *gwv1.ReferenceGrant) bool {
	return a.Labels[ManagedByLabel] == b.Labels[ManagedByLabel] && a.Labels[OriginLabel] == b.Labels[OriginLabel] &&
		a.Annotations[EdgeAnnotation] == b.Annotations[EdgeAnnotation] &&
		a.Annotations[ConsentAnnotation] == b.Annotations[ConsentAnnotation] &&
		equality.Semantic.DeepEqual(a.Spec, b.Spec)
}
