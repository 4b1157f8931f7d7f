package audit

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fields: port of every field that names a Service.
var backendPortMissing = Check{
	ID:          "backend-port-missing",
	Severity:    SeverityError,
	Summary:     "A route refers to a port that its Service does not have.",
	Rationale:   "A backendRef names the Service's port, not the container's. Gateways answer 500 for it, most with BackendNotFound.",
	Remediation: "Use one of the Service's ports.",
	run: func(a *auditor) {
		for _, r := range a.routes {
			if r.role == roleSource {
				continue
			}
			for _, x := range r.references {
				service := a.services[x.Namespace+"/"+x.Name]
				if a.backends[x.backend].Exists != "yes" || x.state == StateBroken || service.Spec.Type == corev1.ServiceTypeExternalName ||
					x.port != 0 && slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == x.port }) {
					continue
				}
				x.state, x.words = StateBroken, "the Service has no such port"
				for _, p := range r.parents {
					p.explained[string(gwv1.RouteReasonBackendNotFound)] = true
				}
				f := a.onReference(r, x)
				f.Field += ".port"
				f.Problem = fmt.Sprintf("the Service has no port %d, it has %s", x.port, portWords(service.Spec.Ports))
				if x.port == 0 {
					f.Problem = fmt.Sprintf("names no port, which a Service needs; it has %s", portWords(service.Spec.Ports))
				}
				f.Problem += r.confirmed(gwv1.RouteReasonBackendNotFound)
				f.Next = "use a port of the Service"
				f.Command = fmt.Sprintf("kubectl get service %s -n %s", x.Name, x.Namespace)
				a.found(f)
			}
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
