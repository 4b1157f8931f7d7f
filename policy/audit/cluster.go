package audit

import (
	"cmp"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Cluster is what is known of a cluster: all objects of the kinds below, save for what NotRead names. Of Services,
// EndpointSlices, Deployments and ConfigMaps it holds those that routes and Gateways have to do with. The zero value is
// an empty cluster.
type Cluster struct {
	// Source says in words where it comes from, Time when it was read; zero: not known.
	Source string
	Time   time.Time

	Namespaces []*corev1.Namespace
	Gateways   []*gwv1.Gateway
	Grants     []*gwv1.ReferenceGrant
	HTTPRoutes []*gwv1.HTTPRoute
	GRPCRoutes []*gwv1.GRPCRoute
	// Services and EndpointSlices are those of the namespaces that routes refer to.
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	// Deployments are AIBrix's gateway plugins, ConfigMaps those from which they take their environment.
	Deployments []*appsv1.Deployment
	ConfigMaps  []*corev1.ConfigMap

	NotRead []NotRead
}

// NotRead is something that should be in a Cluster and could not be read.
type NotRead struct {
	// Resource is the plural, such as services.
	Resource string `json:"resource"`
	// Namespace is empty where it is about all namespaces, Name where it is about all objects.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// Reason is the end of a sentence that begins with what is not known.
	Reason string `json:"reason"`
}

// Add adds an object of one of the kinds, reduced to what an audit reads of it; it reports whether the kind is one of
// them. The object belongs to the Cluster afterwards.
func (c *Cluster) Add(obj runtime.Object) bool {
	switch o := obj.(type) {
	case *corev1.Namespace:
		c.Namespaces = append(c.Namespaces, o)
		o.ObjectMeta = metav1.ObjectMeta{Name: o.Name, Labels: o.Labels, DeletionTimestamp: o.DeletionTimestamp}
		o.Spec, o.Status = corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
	case *gwv1.Gateway:
		c.Gateways = append(c.Gateways, o)
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
	case *gwv1.ReferenceGrant:
		c.Grants = append(c.Grants, o)
		o.ObjectMeta = reducedMeta(o.ObjectMeta, grantLabels, grantAnnotations)
	case *gwv1.HTTPRoute:
		c.HTTPRoutes = append(c.HTTPRoutes, o)
		o.ObjectMeta = reducedMeta(o.ObjectMeta, routeLabels, routeAnnotations)
		for i := range o.Spec.Rules {
			rule := &o.Spec.Rules[i]
			reduced := gwv1.HTTPRouteRule{Name: rule.Name, Matches: rule.Matches, Filters: reducedFilters(rule.Filters), BackendRefs: rule.BackendRefs}
			for j := range reduced.BackendRefs {
				reduced.BackendRefs[j].Filters = reducedFilters(reduced.BackendRefs[j].Filters)
			}
			*rule = reduced
		}
	case *gwv1.GRPCRoute:
		c.GRPCRoutes = append(c.GRPCRoutes, o)
		o.ObjectMeta = reducedMeta(o.ObjectMeta, routeLabels, routeAnnotations)
		for i := range o.Spec.Rules {
			rule := &o.Spec.Rules[i]
			reduced := gwv1.GRPCRouteRule{Name: rule.Name, Matches: rule.Matches, Filters: reducedGRPCFilters(rule.Filters), BackendRefs: rule.BackendRefs}
			for j := range reduced.BackendRefs {
				reduced.BackendRefs[j].Filters = reducedGRPCFilters(reduced.BackendRefs[j].Filters)
			}
			*rule = reduced
		}
	case *corev1.Service:
		c.Services = append(c.Services, o)
		o.ObjectMeta = reducedMeta(o.ObjectMeta, nil, nil)
		o.Status = corev1.ServiceStatus{}
		o.Spec = corev1.ServiceSpec{Type: o.Spec.Type, Ports: o.Spec.Ports, ClusterIP: o.Spec.ClusterIP, ExternalName: o.Spec.ExternalName}
	case *discoveryv1.EndpointSlice:
		c.EndpointSlices = append(c.EndpointSlices, o)
		o.ObjectMeta = reducedMeta(o.ObjectMeta, []string{discoveryv1.LabelServiceName}, nil)
		for i, e := range o.Endpoints {
			o.Endpoints[i] = discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions}
			if e.TargetRef != nil {
				o.Endpoints[i].TargetRef = &corev1.ObjectReference{Kind: e.TargetRef.Kind, Namespace: e.TargetRef.Namespace, Name: e.TargetRef.Name}
			}
		}
	case *appsv1.Deployment:
		if !IsPlugin(o) {
			return true
		}
		c.Deployments = append(c.Deployments, o)
		reducePlugin(o)
	case *corev1.ConfigMap:
		c.ConfigMaps = append(c.ConfigMaps, o)
		o.ObjectMeta = reducedMeta(o.ObjectMeta, nil, nil)
		o.BinaryData = nil
		for key := range o.Data {
			if !changesRouting(key) {
				delete(o.Data, key)
			}
		}
	default:
		return false
	}
	return true
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

// reducedFilters keeps the filters' places and what names a backend: others may hold credentials.
func reducedFilters(filters []gwv1.HTTPRouteFilter) []gwv1.HTTPRouteFilter {
	for i, f := range filters {
		filters[i] = gwv1.HTTPRouteFilter{Type: f.Type, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef}
		if f.ExternalAuth != nil {
			filters[i].ExternalAuth = &gwv1.HTTPExternalAuthFilter{ExternalAuthProtocol: f.ExternalAuth.ExternalAuthProtocol, BackendRef: f.ExternalAuth.BackendRef}
		}
	}
	return filters
}

func reducedGRPCFilters(filters []gwv1.GRPCRouteFilter) []gwv1.GRPCRouteFilter {
	for i, f := range filters {
		filters[i] = gwv1.GRPCRouteFilter{Type: f.Type, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef}
	}
	return filters
}

// Objects are all objects, in the order of the fields and as they were added.
func (c *Cluster) Objects() []runtime.Object {
	var all []runtime.Object
	for _, o := range c.Namespaces {
		all = append(all, o)
	}
	for _, o := range c.Gateways {
		all = append(all, o)
	}
	for _, o := range c.Grants {
		all = append(all, o)
	}
	for _, o := range c.HTTPRoutes {
		all = append(all, o)
	}
	for _, o := range c.GRPCRoutes {
		all = append(all, o)
	}
	for _, o := range c.Services {
		all = append(all, o)
	}
	for _, o := range c.EndpointSlices {
		all = append(all, o)
	}
	for _, o := range c.Deployments {
		all = append(all, o)
	}
	for _, o := range c.ConfigMaps {
		all = append(all, o)
	}
	return all
}

// Routes are all routes as the policy sees them, in the order of kind, namespace and name.
func (c *Cluster) Routes() []policy.Route {
	routes := make([]policy.Route, 0, len(c.HTTPRoutes)+len(c.GRPCRoutes))
	for _, o := range c.HTTPRoutes {
		route, _ := policy.RouteOf(o)
		routes = append(routes, route)
	}
	for _, o := range c.GRPCRoutes {
		route, _ := policy.RouteOf(o)
		routes = append(routes, route)
	}
	slices.SortFunc(routes, func(a, b policy.Route) int {
		return cmp.Or(-strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Meta.Name, b.Meta.Name))
	})
	return routes
}

// Complete is called when everything was added: it brings all objects into the order of namespace and name, so that two
// readings of one state are equal, and drops the labels of namespaces that nobody asks for.
func (c *Cluster) Complete() {
	c.Namespaces = ordered(c.Namespaces)
	c.Gateways = ordered(c.Gateways)
	c.Grants = ordered(c.Grants)
	c.HTTPRoutes = ordered(c.HTTPRoutes)
	c.GRPCRoutes = ordered(c.GRPCRoutes)
	c.Services = ordered(c.Services)
	c.EndpointSlices = ordered(c.EndpointSlices)
	c.Deployments = ordered(c.Deployments)
	c.ConfigMaps = ordered(c.ConfigMaps)
	slices.SortFunc(c.NotRead, func(a, b NotRead) int {
		return cmp.Or(strings.Compare(a.Resource, b.Resource), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	asked := append(c.selectorLabels(), policy.GrantsLabel)
	for _, namespace := range c.Namespaces {
		namespace.Labels = only(namespace.Labels, asked)
	}
}

// selectorLabels are the labels of namespaces that listeners ask for.
func (c *Cluster) selectorLabels() []string {
	keys := map[string]bool{}
	for _, gateway := range c.Gateways {
		for _, l := range gateway.Spec.Listeners {
			if l.AllowedRoutes == nil || l.AllowedRoutes.Namespaces == nil || l.AllowedRoutes.Namespaces.Selector == nil {
				continue
			}
			for key := range l.AllowedRoutes.Namespaces.Selector.MatchLabels {
				keys[key] = true
			}
			for _, requirement := range l.AllowedRoutes.Namespaces.Selector.MatchExpressions {
				keys[requirement.Key] = true
			}
		}
	}
	return sortedKeys(keys)
}

// ordered sorts objects of one kind, and keeps of one object that was added twice the last.
func ordered[T metav1.Object](objects []T) []T {
	byName := func(a, b T) int {
		return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
	}
	slices.SortStableFunc(objects, byName)
	slices.Reverse(objects)
	objects = slices.CompactFunc(objects, func(a, b T) bool { return byName(a, b) == 0 })
	slices.Reverse(objects)
	return objects
}

// BackendNamespaces are the namespaces of everything that routes refer to, in alphabetical order: those whose Services and
// EndpointSlices an audit wants to know.
func (c *Cluster) BackendNamespaces() []string {
	seen := map[string]bool{}
	for _, route := range c.Routes() {
		for ref := range route.References() {
			seen[ref.Namespace] = true
		}
	}
	return sortedKeys(seen)
}

// GatewayNamespaces are the namespaces that have a Gateway, in alphabetical order: those in which an audit looks for
// AIBrix's gateway plugin.
func (c *Cluster) GatewayNamespaces() []string {
	seen := map[string]bool{}
	for _, gateway := range c.Gateways {
		seen[gateway.Namespace] = true
	}
	return sortedKeys(seen)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// notRead says why objects of a resource are not known, or returns "" where they are.
func (c *Cluster) notRead(resource, namespace, name string) string {
	for _, n := range c.NotRead {
		if n.Resource == resource && (n.Namespace == "" || n.Namespace == namespace) && (n.Name == "" || n.Name == name) {
			return n.Reason
		}
	}
	return ""
}

// facts are the same as the policy reads them.
func (c *Cluster) facts() policy.Snapshot {
	facts := policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{}, Gateways: map[string]bool{}, Grants: map[string][]*gwv1.ReferenceGrant{},
	}
	for _, o := range c.Namespaces {
		facts.Namespaces[o.Name] = policy.NamespaceFacts{Exists: policy.Yes, Terminating: o.DeletionTimestamp != nil, Grants: o.Labels[policy.GrantsLabel]}
	}
	for _, o := range c.Gateways {
		facts.Gateways[o.Namespace+"/"+o.Name] = true
	}
	for _, o := range c.Grants {
		facts.Grants[o.Namespace] = append(facts.Grants[o.Namespace], o)
	}
	return facts
}
