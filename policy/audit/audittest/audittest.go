// Package audittest makes audits for tests.
package audittest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
)

const controller = "gateway.envoyproxy.io/gatewayclass-controller"

// Report is an audit of a cluster with that many models, of which a few have each of the usual faults: no grant, a route
// outside, a Service that is gone, no ready endpoint, no status. One route in ten is of a team's own namespace.
func Report(t testing.TB, models int) audit.Report {
	c := &audit.Cluster{Source: "cluster of context example", Time: time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)}
	add := func(namespace string) { c.Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}) }
	add("aibrix-system")
	c.Add(&gwv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "aibrix-eg"},
		Spec: gwv1.GatewaySpec{GatewayClassName: "aibrix-eg", Listeners: []gwv1.Listener{
			{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType},
			{Name: "https", Port: 443, Protocol: gwv1.HTTPSProtocolType, Hostname: new(gwv1.Hostname("*.models.example.com"))},
		}},
	})
	teams := max(3, models/50)
	for team := range teams {
		namespace := fmt.Sprintf("team-%02d", team)
		add(namespace)
		if team%3 != 2 {
			c.Add(&gwv1.ReferenceGrant{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "aibrix-system-reserved-referencegrant-in-" + namespace},
				Spec: gwv1.ReferenceGrantSpec{
					From: []gwv1.ReferenceGrantFrom{{Group: gwv1.GroupName, Kind: "HTTPRoute", Namespace: "aibrix-system"}},
					To:   []gwv1.ReferenceGrantTo{{Kind: "Service"}},
				},
			})
		}
	}
	for i := range models {
		addModel(c, i, teams)
	}
	c.NotRead = append(c.NotRead, audit.NotRead{Resource: "deployments", Namespace: "aibrix-system", Reason: "you may not list them there"})
	engine, err := policy.New(policy.DefaultConfig())
	require.NoError(t, err)
	return audit.Run(engine, c)
}

// addModel adds the route of the i-th model, and its Service.
func addModel(c *audit.Cluster, i, teams int) {
	namespace := fmt.Sprintf("team-%02d", i%teams)
	model := fmt.Sprintf("%s-%d", []string{"llama", "qwen", "deepseek", "mistral"}[i%4], i)
	route := &gwv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: model + "-router", Generation: 1, CreationTimestamp: metav1.NewTime(c.Time)},
		Spec: gwv1.HTTPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: "aibrix-eg", Namespace: new(gwv1.Namespace("aibrix-system"))}}},
			Rules: []gwv1.HTTPRouteRule{{
				Matches: []gwv1.HTTPRouteMatch{{
					Path:    &gwv1.HTTPPathMatch{Type: new(gwv1.PathMatchPathPrefix), Value: new("/v1/chat/completions")},
					Headers: []gwv1.HTTPHeaderMatch{{Name: "model", Value: model}},
				}},
				BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{
					Name: gwv1.ObjectName(model), Namespace: new(gwv1.Namespace(namespace)), Port: new(gwv1.PortNumber(8000)),
				}}}},
			}},
		},
	}
	accepted := metav1.Condition{Type: "Accepted", Status: "True", Reason: "Accepted", ObservedGeneration: 1}
	resolved := metav1.Condition{Type: "ResolvedRefs", Status: "True", Reason: "ResolvedRefs", ObservedGeneration: 1}
	switch outside, granted := i%10 == 7, i%teams%3 != 2; {
	case outside:
		route.Namespace = namespace
		accepted.Status, accepted.Reason = "False", "NotAllowedByListeners"
	case !granted:
		resolved.Status, resolved.Reason = "False", "RefNotPermitted"
		resolved.Message = "Backend ref to Service " + namespace + "/" + model + " not permitted by any ReferenceGrant."
	}
	if i%13 != 5 {
		route.Status.Parents = []gwv1.RouteParentStatus{{ParentRef: route.Spec.ParentRefs[0], ControllerName: controller, Conditions: []metav1.Condition{accepted, resolved}}}
	}
	c.Add(route)
	if i%17 == 3 {
		return
	}
	c.Add(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: model}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8000}}}})
	c.Add(&discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: model + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: model}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.9"}, Conditions: discoveryv1.EndpointConditions{Ready: new(i%19 != 4)}}},
	})
}

// Markup is a text that breaks a page which takes it for markup.
const Markup = `</script><script>document.title="broken"</script><img src=x onerror='document.title="broken"'>{{.}}`

// Attack is an audit with Markup in every place that whoever may create a route can write to.
func Attack(t testing.TB) audit.Report {
	report := Report(t, 3)
	report.Source = Markup
	report.Routes[0].Name = Markup
	report.Routes[0].Hostnames = []string{Markup}
	report.Findings[0].Object = report.Routes[0].Ref
	report.Findings[0].Problem, report.Findings[0].Command, report.Findings[0].Check = Markup, Markup, Markup
	return report
}
