package audit

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

func reduceGateway(o *gwv1.Gateway) {
	o.ObjectMeta = reducedMeta(o.ObjectMeta, nil, nil)
	status := gwv1.GatewayStatus{Addresses: o.Status.Addresses, Conditions: o.Status.Conditions}
	for _, l := range o.Status.Listeners {
		status.Listeners = append(status.Listeners, gwv1.ListenerStatus{Name: l.Name, Conditions: l.Conditions})
	}
	o.Status = status
	o.Spec = gwv1.GatewaySpec{GatewayClassName: o.Spec.GatewayClassName, Listeners: o.Spec.Listeners}
	for i, l := range o.Spec.Listeners {
		o.Spec.Listeners[i] = gwv1.Listener{Name: l.Name, Hostname: l.Hostname, Port: l.Port, Protocol: l.Protocol, AllowedRoutes: l.AllowedRoutes}
	}
}

func reduceEndpointSlice(o *discoveryv1.EndpointSlice) {
	o.ObjectMeta = reducedMeta(o.ObjectMeta, []string{discoveryv1.LabelServiceName}, nil)
	for i, e := range o.Endpoints {
		o.Endpoints[i] = discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions}
		if e.TargetRef != nil {
			o.Endpoints[i].TargetRef = &corev1.ObjectReference{Kind: e.TargetRef.Kind, Namespace: e.TargetRef.Namespace, Name: e.TargetRef.Name}
		}
	}
}

// What is kept of labels and annotations; for namespaces see Complete.
var (
	routeLabels      = []string{modelLabel, policy.ManagedByLabel, policy.OriginLabel}
	routeAnnotations = []string{modelLabel, policy.ParkedAnnotation, policy.SourceAnnotation, policy.SourceUIDAnnotation}
	grantLabels      = []string{policy.ManagedByLabel, policy.OriginLabel}
	grantAnnotations = []string{policy.EdgeAnnotation, policy.ConsentAnnotation}
)

func reducedMeta(meta metav1.ObjectMeta, labels, annotations []string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: meta.Name, Namespace: meta.Namespace, UID: meta.UID, Generation: meta.Generation,
		CreationTimestamp: meta.CreationTimestamp, DeletionTimestamp: meta.DeletionTimestamp,
		Labels: only(meta.Labels, labels), Annotations: only(meta.Annotations, annotations),
	}
}

// only are those entries of a map that have one of the keys; nil where there are none.
func only(all map[string]string, keys []string) map[string]string {
	var some map[string]string
	for _, key := range keys {
		if value, ok := all[key]; ok {
			if some == nil {
				some = map[string]string{}
			}
			some[key] = value
		}
	}
	return some
}

// reducePlugin keeps the variables that change routing and where they come from: others hold credentials.
func reducePlugin(deployment *appsv1.Deployment) {
	deployment.ObjectMeta = reducedMeta(deployment.ObjectMeta, []string{componentLabel}, nil)
	deployment.Status = appsv1.DeploymentStatus{}
	container := containerOf(deployment)
	deployment.Spec = appsv1.DeploymentSpec{}
	if container == nil {
		return
	}
	reduced := corev1.Container{Name: container.Name, EnvFrom: container.EnvFrom}
	for _, env := range container.Env {
		if changesRouting(env.Name) {
			reduced.Env = append(reduced.Env, env)
		}
	}
	deployment.Spec.Template.Spec.Containers = []corev1.Container{reduced}
}
