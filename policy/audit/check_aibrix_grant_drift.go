package audit

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: of ReferenceGrants named <system namespace>-reserved-referencegrant-in-<namespace> spec.
var aibrixGrantDrift = Check{
	ID:       "aibrix-grant-drift",
	Severity: SeverityWarning,
	Summary:  "AIBrix's own ReferenceGrant for a namespace is not as AIBrix makes it, is left over, or is missing.",
	Rationale: "AIBrix's controller makes one grant for a namespace with models, for every Service in it, and only asks whether one of that name " +
		"exists: it repairs nothing. It deletes the grant when it finds no Deployment with a model any more, also where a model is served by " +
		"something else and routes still need it.",
	Remediation: "Delete a grant that differs or is left over: AIBrix creates it again with the next model. Label namespaces that serve models " +
		"routesteward.dev/grants=allow: then routesteward keeps the grants that routes need, whatever AIBrix deletes.",
	run: func(a *auditor) {
		there := map[string]bool{}
		for _, g := range a.grants {
			if g.Owner != OwnerAIBrix {
				continue
			}
			there[g.Namespace] = true
			f := Finding{Object: g.Ref, Field: "spec", Command: fmt.Sprintf("kubectl get referencegrant %s -n %s -o yaml", g.Name, g.Namespace)}
			switch {
			case g.object.DeletionTimestamp != nil:
				f.Severity = SeverityInfo
				f.Field, f.Problem, f.Next = "metadata.deletionTimestamp", "is being deleted, and permits nothing any more", "see whether the models of this namespace still need it"
			case !a.asAIBrixMakes(g):
				f.Problem = fmt.Sprintf("differs from what AIBrix makes (HTTPRoutes in %q may refer to every Service), and AIBrix never repairs it", a.system())
				f.Next = "delete it and let AIBrix create it again with the next model, or rename it if the difference is meant"
			case g.Uses == 0:
				f.Severity = SeverityInfo
				f.Problem = fmt.Sprintf("no route needs it, and it opens every Service of %q to every HTTPRoute in %q", g.Namespace, a.system())
				f.Next = "delete it if no model is served from this namespace any more"
				f.Command = fmt.Sprintf("kubectl get deployments -A -l %s", modelLabel)
			default:
				continue
			}
			a.found(f)
		}
		a.missingAIBrixGrants(there)
	},
}

// missingAIBrixGrants reports namespaces whose models are served by routes of AIBrix's form and that lack its grant. Other
// checks report whether that breaks a route.
func (a *auditor) missingAIBrixGrants(there map[string]bool) {
	for r, x := range a.eachCross() {
		namespace := x.Backend.Namespace
		if r.Role != RoleRoute || r.Namespace != a.system() || r.Model == "" || r.Name != r.Model+routerSuffix ||
			x.outcome == policy.Vetoed || x.State != StateBroken || len(x.permits) > 0 || there[namespace] {
			continue
		}
		there[namespace] = true // one finding is enough
		a.found(Finding{
			Object: refOf(policy.ReferenceGrant, namespace, aibrixGrantName(a.system(), namespace)), Field: "metadata.name", Severity: SeverityInfo,
			Problem: fmt.Sprintf("%s serves model %q from this namespace and AIBrix's grant is not there: AIBrix deletes it as soon as no Deployment carries a model", r.Ref, r.Model),
			Next:    fmt.Sprintf("have routesteward keep it: kubectl label namespace %s %s=%s", namespace, policy.GrantsLabel, policy.GrantsAllow),
			Command: fmt.Sprintf("kubectl get deployments -n %s -l %s", namespace, modelLabel), Related: []Ref{r.Ref},
		})
	}
}

func aibrixGrantName(system, namespace string) string {
	return system + "-reserved-referencegrant-in-" + namespace
}

func (a *auditor) asAIBrixMakes(g *grant) bool {
	if len(g.object.Spec.From) != 1 || len(g.object.Spec.To) != 1 {
		return false
	}
	from, to := g.object.Spec.From[0], g.object.Spec.To[0]
	return from.Group == gwv1.GroupName && policy.Kind(from.Kind) == policy.HTTPRoute && string(from.Namespace) == a.system() &&
		to.Group == "" && to.Kind == "Service" && to.Name == nil
}
