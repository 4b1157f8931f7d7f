package audit

import "fmt"

// Fields: of other people's ReferenceGrants, AIBrix's included, spec.to[*].name.
var grantOverWide = Check{
	ID:       "grant-over-wide",
	Severity: SeverityInfo,
	Summary:  "A ReferenceGrant permits every object of a kind, and routes refer to a few.",
	Rationale: "Without to.name a grant permits every Service in the namespace, those included that are added later and were never meant for " +
		"others. AIBrix's own grants are like this by design.",
	Remediation: "Name what is meant in to.name. Instead of AIBrix's grant: label the namespace routesteward.dev/grants=allow, and routesteward keeps one grant for each Service that a route needs.",
	run: func(a *auditor) {
		for _, g := range a.grants {
			if g.Owner == OwnerSelf || g.Uses == 0 || g.object.DeletionTimestamp != nil || !forRoutes(g) {
				continue
			}
			for i, to := range g.object.Spec.To {
				if to.Name != nil || len(g.names[i]) == 0 {
					continue
				}
				names := sortedKeys(g.names[i])
				const shown = 3
				words := quotedList(names)
				if len(names) > shown {
					words = fmt.Sprintf("%d of them", len(names))
				}
				f := Finding{
					Object: g.Ref, Field: fmt.Sprintf("spec.to[%d]", i), Value: "every " + string(to.Kind),
					Problem: fmt.Sprintf("permits every %s in namespace %q, and routes refer to %s", to.Kind, g.Namespace, words),
					Next:    "add to.name for what is meant", Command: fmt.Sprintf("kubectl get referencegrant %s -n %s -o yaml", g.Name, g.Namespace),
				}
				if g.Owner == OwnerAIBrix {
					f.Next = "nothing, if that is meant: AIBrix makes its grants so"
				}
				a.found(f)
			}
		}
	},
}
