package audit

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: metadata.annotations[routesteward.dev/parked-parent-refs].
var parkedSourceWithoutCopy = Check{
	ID:          "parked-source-without-copy",
	Severity:    SeverityError,
	Summary:     "A parked route has no copy in the system namespace.",
	Rationale:   "Its parentRefs were taken out at admission (--outside=rewrite), and the copy that should serve instead is not there: people see a 404.",
	Remediation: "Look whether routesteward runs with --outside=rewrite and what it logs; `routesteward unpark` gives people their parentRefs back.",
	run: func(a *auditor) {
		copied := map[*route]bool{}
		for _, r := range a.routes {
			if r.Role == RoleCopy {
				copied[a.sourceOf(r)] = true
			}
		}
		for _, r := range a.routes {
			if r.Role != RoleSource {
				continue
			}
			f := Finding{Object: r.Ref, Field: fmt.Sprintf("metadata.annotations[%s]", policy.ParkedAnnotation)}
			switch {
			case r.parkedError != nil:
				f.Problem = r.parkedError.Error()
				f.Next = "apply the route's manifest again"
				f.Command = get(r.Ref)
			case !copied[r]:
				f.Problem = fmt.Sprintf("the route is parked, and there is no copy of it in namespace %q", a.system())
				f.Next = "look whether routesteward runs with --outside=rewrite, and what it logs"
				f.Command = "kubectl get pods,leases -n routesteward-system"
				if holder := a.byRef[refOf(r.view.Kind, a.system(), a.policy.CopyName(r.Namespace, r.Name))]; holder != nil {
					f.Problem += fmt.Sprintf("; the name is taken by %s, which is %s", holder.Ref, holder.words())
					f.Related = []Ref{holder.Ref}
				}
				if said := r.refusal(); said != "" {
					f.Problem += fmt.Sprintf("; routesteward says: %s", policy.Printable(said))
					f.Next, f.Command = "change the route so that it can be relocated, or move it into the system namespace", describe(r.Ref)
				}
			default:
				continue
			}
			a.found(f)
		}
	},
}

// refusal is what routesteward has written into the status of a source that it could not copy.
func (r *route) refusal() string {
	for _, s := range r.status {
		for _, c := range s.Conditions {
			if s.ControllerName == policy.RelocationController && c.Type == string(gwv1.RouteConditionAccepted) && c.Status != metav1.ConditionTrue {
				return c.Message
			}
		}
	}
	return ""
}

// words say what a route is.
func (r *route) words() string {
	if r.Role == RoleCopy {
		return "a copy of " + r.view.Meta.Annotations[policy.SourceAnnotation]
	}
	return "somebody else's"
}

// sourceOf is the parked source of a copy, or nil.
func (a *auditor) sourceOf(r *route) *route {
	namespace, name, found := strings.Cut(r.view.Meta.Annotations[policy.SourceAnnotation], "/")
	if !found {
		return nil
	}
	return a.byRef[refOf(r.view.Kind, namespace, name)]
}
