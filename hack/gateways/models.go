package gateways

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const (
	// ModelLabel is AIBrix's label for the model that an object serves.
	ModelLabel = "model.aibrix.ai/name"
	// TargetPod and TargetPodIP are the response headers that say who has answered: a Pod's name, and its
	// IP:PORT. Routed by AIBrix's plugin they are the plugin's; here each Pod sets them itself.
	TargetPod   = "target-pod"
	TargetPodIP = "target-pod-ip"

	modelPortLabel = "model.aibrix.ai/port"

	podPort  = 8000
	nodeName = "node1"
)

// Pod is an HTTP server at a Pod's address.
type Pod struct {
	Name string
	// Address is IP:PORT.
	Address string
}

// Answer is the body that every Pod answers every request with.
type Answer struct {
	Namespace, Service, Pod string
	// Path and Header are the request's as it arrived.
	Path   string
	Header http.Header
}

type server struct {
	http   *http.Server
	served chan error
}

func (s *server) stop() error {
	err := s.http.Close()
	<-s.served
	return err
}

// Namespace makes a namespace.
func (w *World) Namespace(ctx context.Context, name string, labels map[string]string) error {
	return w.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
}

// Model makes a Service of that name, labeled as AIBrix labels a model's, with one Pod for each of the
// names, and returns when all are ready endpoints. The Pods answer until the World stops.
func (w *World) Model(ctx context.Context, namespace, name string, pods ...string) ([]Pod, error) {
	labels := map[string]string{ModelLabel: name, modelPortLabel: strconv.Itoa(podPort)}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: corev1.ServiceSpec{
			Selector: labels,
			Ports:    []corev1.ServicePort{{Name: "serve", Port: podPort, TargetPort: intstr.FromInt(podPort)}},
		},
	}
	if err := w.Client.Create(ctx, service); err != nil {
		return nil, err
	}
	var out []Pod
	for _, pod := range pods {
		ip := w.nextAddress()
		if err := w.listen(namespace, name, pod, ip); err != nil {
			return nil, err
		}
		if err := w.createPod(ctx, namespace, pod, ip, labels); err != nil {
			return nil, err
		}
		out = append(out, Pod{Name: pod, Address: fmt.Sprintf("%s:%d", ip, podPort)})
	}
	return out, eventually(ctx, func() error {
		var slices discoveryv1.EndpointSliceList
		if err := w.Client.List(ctx, &slices, client.InNamespace(namespace), client.MatchingLabels{discoveryv1.LabelServiceName: name}); err != nil {
			return err
		}
		ready := 0
		for _, slice := range slices.Items {
			for _, endpoint := range slice.Endpoints {
				if endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
					ready++
				}
			}
		}
		if ready != len(pods) {
			return fmt.Errorf("Service %s/%s has %d ready endpoints of %d", namespace, name, ready, len(pods))
		}
		return nil
	})
}

func (w *World) nextAddress() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addresses++
	n := w.addresses + 9 // the first ones are for gateways
	return fmt.Sprintf("10.244.%d.%d", n>>8, n&0xff)
}

// listen starts the Pod's server.
func (w *World) listen(namespace, service, pod, ip string) error {
	address := fmt.Sprintf("%s:%d", ip, podPort)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	handler := http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		response.Header().Set(TargetPod, pod)
		response.Header().Set(TargetPodIP, address)
		response.Header().Set("Content-Type", "application/json")
		// A client that has gone does not need the answer.
		_ = json.NewEncoder(response).Encode(Answer{namespace, service, pod, request.URL.Path, request.Header})
	})
	s := &server{&http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}, make(chan error, 1)}
	go func() { s.served <- s.http.Serve(listener) }()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods = append(w.pods, s)
	return nil
}

// createPod makes the Pod's object, with the status that a kubelet would report.
func (w *World) createPod(ctx context.Context, namespace, name, ip string, labels map[string]string) error {
	none := int64(0)
	automount := false
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName:                     nodeName,
			AutomountServiceAccountToken: &automount,
			// No kubelet would confirm its end.
			TerminationGracePeriodSeconds: &none,
			Containers:                    []corev1.Container{{Name: "model", Image: "none", Ports: []corev1.ContainerPort{{ContainerPort: podPort}}}},
		},
	}
	// The namespace's service account is made in the background.
	if err := eventually(ctx, func() error { return w.Client.Create(ctx, pod.DeepCopy()) }); err != nil {
		return err
	}
	if err := w.Client.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
		return err
	}
	pod.Status = corev1.PodStatus{
		Phase:      corev1.PodRunning,
		PodIP:      ip,
		PodIPs:     []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	return w.Client.Status().Update(ctx, pod)
}

// Route is an HTTPRoute as AIBrix writes it, for the requests of one model by the header "model", on
// both Gateways. A backend without namespace is in the route's own.
func Route(namespace, name, model string, backends ...client.ObjectKey) *gwv1.HTTPRoute {
	route := &gwv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{ModelLabel: model}},
	}
	system := gwv1.Namespace(System)
	for _, gateway := range []gwv1.ObjectName{EnvoyGateway, Traefik} {
		route.Spec.ParentRefs = append(route.Spec.ParentRefs, gwv1.ParentReference{Namespace: &system, Name: gateway})
	}
	var rule gwv1.HTTPRouteRule
	for _, path := range []string{"/v1/completions", "/v1/chat/completions"} {
		prefix, exact := gwv1.PathMatchPathPrefix, gwv1.HeaderMatchExact
		rule.Matches = append(rule.Matches, gwv1.HTTPRouteMatch{
			Path:    &gwv1.HTTPPathMatch{Type: &prefix, Value: &path},
			Headers: []gwv1.HTTPHeaderMatch{{Type: &exact, Name: "model", Value: model}},
		})
	}
	for _, backend := range backends {
		ref := gwv1.BackendObjectReference{Name: gwv1.ObjectName(backend.Name)}
		if backend.Namespace != "" {
			ref.Namespace = (*gwv1.Namespace)(&backend.Namespace)
		}
		port := gwv1.PortNumber(podPort)
		ref.Port = &port
		rule.BackendRefs = append(rule.BackendRefs, gwv1.HTTPBackendRef{BackendRef: gwv1.BackendRef{BackendObjectReference: ref}})
	}
	route.Spec.Rules = []gwv1.HTTPRouteRule{rule}
	return route
}

// Grant is a ReferenceGrant that people write: HTTPRoutes of the system namespace may refer to the Service.
func Grant(namespace, name, service string) *gwv1.ReferenceGrant {
	return &gwv1.ReferenceGrant{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: gwv1.ReferenceGrantSpec{
			From: []gwv1.ReferenceGrantFrom{{Group: gwv1.GroupName, Kind: "HTTPRoute", Namespace: System}},
			To:   []gwv1.ReferenceGrantTo{{Kind: "Service", Name: (*gwv1.ObjectName)(&service)}},
		},
	}
}
