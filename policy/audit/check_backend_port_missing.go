package audit

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Fields: port of every field that names a Service.
var backendPortMissing = Check{
	ID:          "backend-port-missing",
	Severity:    SeverityError,
	Summary:     "A route refers to a port that its Service does not have.",
	Rationale:   "A backendRef names the Service's port, not the container's. Gateways answer 500 for it, most with BackendNotFound.",
	Remediation: "Use one of the Service's ports.",
	run: func(a *auditor) {
		for r, x := range a.eachReference() {
			service := a.services[x.Backend.Namespace+"/"+x.Backend.Name]
			if a.backends[x.Backend].Exists != policy.Yes || x.State == StateBroken || service.Spec.Type == corev1.ServiceTypeExternalName ||
				x.Port != 0 && slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == x.Port }) {
				continue
			}
			x.broken(r, "the Service has no such port", gwv1.RouteReasonBackendNotFound)
			f := a.onReference(r, x)
			f.Field += ".port"
			f.Problem = fmt.Sprintf("the Service has no port %d, it has %s", x.Port, portWords(service.Spec.Ports))
			if x.Port == 0 {
				f.Problem = fmt.Sprintf("names no port, which a Service needs; it has %s", portWords(service.Spec.Ports))
			}
			f.Problem += r.confirmed(gwv1.RouteReasonBackendNotFound)
			f.Next = "use a port of the Service"
			f.Command = fmt.Sprintf("kubectl get service %s -n %s", x.Backend.Name, x.Backend.Namespace)
			a.found(f)
		}
	},
}

func portWords(ports []corev1.ServicePort) string {
	if len(ports) == 0 {
		return "none"
	}
	var words []string
	for _, p := range ports {
		words = append(words, fmt.Sprint(p.Port))
	}
	return strings.Join(words, ", ")
}
