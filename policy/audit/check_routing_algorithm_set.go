package audit

import (
	"fmt"
	"strings"
)

// Fields: of AIBrix's gateway plugin spec.template.spec.containers[*].env.
var routingAlgorithmSet = Check{
	ID:       "routing-algorithm-set",
	Severity: SeverityInfo,
	Summary:  "AIBrix's gateway plugin has a default routing algorithm, so that no request looks at its HTTPRoute.",
	Rationale: "ROUTING_ALGORITHM counts for every request without the header routing-strategy: the plugin then picks a Pod itself, past the " +
		"HTTPRoute, its status and its ReferenceGrants. A broken route works for everybody until the variable is taken away.",
	Remediation: "Nothing, if it is meant. Do not conclude from a request that is answered that its HTTPRoute is in order.",
	run: func(a *auditor) {
		plugin := a.report.Plugin
		if plugin == nil || plugin.AlgorithmKnown && plugin.Algorithm == "" {
			return
		}
		hidden := map[Ref]bool{}
		for _, f := range a.report.Findings {
			if r := a.byRef[f.Object]; r != nil && r.Model != "" && f.Severity == SeverityError {
				hidden[r.Ref] = true
			}
		}
		broken := len(hidden)
		f := Finding{Object: plugin.Ref, Field: fmt.Sprintf("spec.template.spec.containers[%s].env[%s]", plugin.Container, algorithmVariable)}
		for _, v := range plugin.Variables {
			if v.Name == algorithmVariable {
				f.Value, f.Problem = v.Value, fmt.Sprintf("%s (%s)", v.Meaning, v.Source)
			}
		}
		f.Next = "nothing, if that is meant"
		f.Command = fmt.Sprintf("kubectl set env deployment/%s -n %s --list", plugin.Name, plugin.Namespace)
		if broken > 0 && plugin.AlgorithmKnown {
			f.Severity = SeverityWarning
			f.Problem += fmt.Sprintf("; that hides %s that %s broken", plural(broken, "route of a model", "routes of models"), strings.Fields(plural(broken, "is", "are"))[1])
		}
		a.found(f)
	},
}
