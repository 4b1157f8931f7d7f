package audit

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/routesteward/routesteward/policy"
)

// Fields: metadata.name, spec.rules[*].matches[*].headers (name: model).
var modelRouterName = Check{
	ID:       "model-router-name",
	Severity: SeverityWarning,
	Summary:  "A route serves a model, and AIBrix's plugin finds no route under the name that it looks for.",
	Rationale: "For a request that names no routing algorithm the plugin reads the status of <model>-router in the system namespace, and answers " +
		"503 when there is none, whatever other route would serve the model.",
	Remediation: "Name the route <model>-router.",
	run: func(a *auditor) {
		if a.cluster.Deployments == nil {
			return // nothing says that AIBrix is here
		}
		for _, r := range a.routes {
			if r.Model == "" || r.view.Kind != policy.HTTPRoute || r.Namespace != a.system() {
				continue
			}
			want := r.Model + routerSuffix
			// AIBrix changes names that are not valid in Kubernetes in its own way.
			if r.Name == want || len(validation.IsDNS1123Subdomain(want)) > 0 || a.byRef[refOf(policy.HTTPRoute, a.system(), want)] != nil {
				continue
			}
			a.found(Finding{
				Object: r.Ref, Field: "metadata.name", Value: r.Name,
				Problem: fmt.Sprintf("serves model %q, and AIBrix's plugin looks for HTTPRoute %s/%s, which is not there: requests that name no routing algorithm get a 503", r.Model, a.system(), want),
				Next:    fmt.Sprintf("name the route %s", want), Command: get(r.Ref),
			})
		}
	},
}
