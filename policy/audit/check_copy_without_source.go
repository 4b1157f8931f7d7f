package audit

import (
	"fmt"

	"github.com/routesteward/routesteward/policy"
)

// Fields: metadata.annotations[routesteward.dev/source], [routesteward.dev/source-uid].
var copyWithoutSource = Check{
	ID:          "copy-without-source",
	Severity:    SeverityWarning,
	Summary:     "A relocated copy has no parked source any more.",
	Rationale:   "The copy still serves requests that its owner has taken back. routesteward deletes such copies; that one is left means that it does not run.",
	Remediation: "Look whether routesteward runs; delete the copy by hand where it was uninstalled.",
	run: func(a *auditor) {
		for _, r := range a.routes {
			if r.Role != RoleCopy {
				continue
			}
			named := r.view.Meta.Annotations[policy.SourceAnnotation]
			source := a.sourceOf(r)
			f := Finding{
				Object: r.Ref, Field: fmt.Sprintf("metadata.annotations[%s]", policy.SourceAnnotation), Value: named,
				Next: "look whether routesteward runs; where it was uninstalled, delete the copy", Command: get(r.Ref),
			}
			switch {
			case named == "":
				f.Problem = "the copy does not say what it is a copy of"
			case source == nil:
				f.Problem = fmt.Sprintf("there is no parked %s %s", r.Kind, named)
			case source.Role != RoleSource:
				f.Problem = fmt.Sprintf("%s is not parked", source.Ref)
				f.Related = []Ref{source.Ref}
			case source.Namespace != r.Origin:
				f.Problem = fmt.Sprintf("the copy's label says that it comes from namespace %q", r.Origin)
				f.Related = []Ref{source.Ref}
			case string(source.view.Meta.UID) != r.view.Meta.Annotations[policy.SourceUIDAnnotation]:
				f.Problem = fmt.Sprintf("%s was deleted and recreated since", source.Ref)
				f.Related = []Ref{source.Ref}
			default:
				continue
			}
			a.found(f)
		}
	},
}
