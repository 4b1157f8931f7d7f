package audit

import (
	"fmt"

	"github.com/routesteward/routesteward/policy"
)

// Fields: of ReferenceGrants labelled app.kubernetes.io/managed-by=routesteward metadata.name, labels and spec.
var managedGrantDrift = Check{
	ID:       "managed-grant-drift",
	Severity: SeverityWarning,
	Summary:  "A managed ReferenceGrant is not as routesteward made it, or no route needs it.",
	Rationale: "Managed grants are made for exactly one edge, repaired when somebody changes them, and deleted a moment after the last route that " +
		"needs them. One that differs or is left over means that routesteward does not run; to a gateway it counts all the same.",
	Remediation: "Look whether routesteward runs. Deleting a managed grant is always allowed to whoever may delete it, and revokes it.",
	run: func(a *auditor) {
		needed := a.neededGrants()
		for _, g := range a.grants {
			if g.Owner != OwnerSelf || g.object.DeletionTimestamp != nil {
				continue
			}
			f := Finding{
				Object: g.Ref, Field: "spec", Value: g.object.Annotations[policy.EdgeAnnotation], Next: "look whether routesteward runs, and what it logs; deleting the grant revokes it",
				Command: "kubectl get pods,leases -n routesteward-system",
			}
			switch {
			case !isRecord(g):
				f.Problem = "is labelled as routesteward's and does not say what routesteward writes under this name"
				f.Command = fmt.Sprintf("kubectl get referencegrant %s -n %s -o yaml", g.Name, g.Namespace)
			case !needed[g.Namespace+"/"+g.Name]:
				f.Problem = "no route needs it any more"
			default:
				continue
			}
			a.found(f)
		}
	},
}

// neededGrants are the managed grants that routes need, by namespace/name.
func (a *auditor) neededGrants() map[string]bool {
	needed := map[string]bool{}
	for _, view := range a.all {
		if !a.policy.MayGovern(view) {
			continue
		}
		for _, edge := range a.policy.Edges(view) {
			needed[edge.Namespace+"/"+a.policy.Granted(edge).GrantName()] = true
		}
	}
	return needed
}

// isRecord reports whether a grant is the untouched grant of the edge that it itself describes.
func isRecord(g *grant) bool {
	if len(g.object.Spec.From) != 1 || len(g.object.Spec.To) != 1 {
		return false
	}
	from, to := g.object.Spec.From[0], g.object.Spec.To[0]
	return policy.Records(g.object, policy.Edge{
		Origin: g.object.Labels[policy.OriginLabel], FromKind: policy.Kind(from.Kind), FromNamespace: string(from.Namespace),
		Namespace: g.Namespace, Group: string(to.Group), Kind: string(to.Kind), Name: string(valueOf(to.Name)),
	})
}
