package policy

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fields: metadata.labels, metadata.annotations and spec of ReferenceGrants labelled
// app.kubernetes.io/managed-by=routewarden.
// Allowed: only routewarden creates or changes them. Deleting one is allowed to whoever may delete it: that revokes.
var managedObjectChanged = Rule{
	ID:      "managed-object-changed",
	Summary: "ReferenceGrants managed by routewarden are created and changed by routewarden only.",
	Rationale: "A managed grant records whose consent it stands on. A grant that was edited or forged would record a consent that " +
		"nobody gave.",
	Remediation: "To revoke a managed grant, delete it. To permit something else, write a ReferenceGrant of your own, under another " +
		"name and without the label app.kubernetes.io/managed-by=routewarden.",
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
    app.kubernetes.io/managed-by: routewarden
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
}

func checkManagedObjectChanged(e *evaluation) {
	grant, ok := e.req.Object.(*gwv1.ReferenceGrant)
	if !ok || grant == nil {
		return
	}
	old, _ := e.req.OldObject.(*gwv1.ReferenceGrant)
	wasManaged := e.req.Operation == Update && old != nil && IsManaged(old)
	f := Finding{
		Field:   fmt.Sprintf("metadata.labels[%s]", ManagedByLabel),
		Value:   ManagedBy,
		Problem: "only routewarden makes ReferenceGrants with this label",
		Fix:     "remove the label",
	}
	switch {
	case wasManaged:
		f.Problem = "this ReferenceGrant is managed by routewarden and is not changed by hand"
		f.Fix = "delete it to revoke it, or write a ReferenceGrant of your own under another name"
		e.report(SeverityDeny, protectedEqual(old, grant), f)
	case IsManaged(grant):
		e.report(SeverityDeny, false, f)
	}
}

// protectedEqual compares what routewarden writes; other people's annotations, finalizers and the like are theirs.
func protectedEqual(a, b *gwv1.ReferenceGrant) bool {
	return a.Labels[ManagedByLabel] == b.Labels[ManagedByLabel] && a.Labels[OriginLabel] == b.Labels[OriginLabel] &&
		a.Annotations[EdgeAnnotation] == b.Annotations[EdgeAnnotation] &&
		a.Annotations[ConsentAnnotation] == b.Annotations[ConsentAnnotation] &&
		equality.Semantic.DeepEqual(a.Spec, b.Spec)
}
