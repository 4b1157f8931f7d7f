package audit

import (
	"cmp"
	"fmt"
	"maps"
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
	Routes     []policy.Object
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
	if route, ok := policy.RouteOf(obj); ok {
		*route.Meta = reducedMeta(*route.Meta, routeLabels, routeAnnotations)
		policy.Reduce(obj)
		c.Routes = append(c.Routes, obj.(policy.Object))
		return true
	}
	switch o := obj.(type) {
	case *corev1.Namespace:
		o.ObjectMeta = metav1.ObjectMeta{Name: o.Name, Labels: o.Labels, DeletionTimestamp: o.DeletionTimestamp}
		o.Spec, o.Status = corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
		c.Namespaces = append(c.Namespaces, o)
	case *gwv1.Gateway:
		reduceGateway(o)
		c.Gateways = append(c.Gateways, o)
	case *gwv1.ReferenceGrant:
		o.ObjectMeta = reducedMeta(o.ObjectMeta, grantLabels, grantAnnotations)
		c.Grants = append(c.Grants, o)
	case *corev1.Service:
		o.ObjectMeta = reducedMeta(o.ObjectMeta, nil, nil)
		o.Status = corev1.ServiceStatus{}
		o.Spec = corev1.ServiceSpec{Type: o.Spec.Type, Ports: o.Spec.Ports, ClusterIP: o.Spec.ClusterIP, ExternalName: o.Spec.ExternalName}
		c.Services = append(c.Services, o)
	case *discoveryv1.EndpointSlice:
		reduceEndpointSlice(o)
		c.EndpointSlices = append(c.EndpointSlices, o)
	case *appsv1.Deployment:
		if IsPlugin(o) {
			reducePlugin(o)
			c.Deployments = append(c.Deployments, o)
		}
	case *corev1.ConfigMap:
		o.ObjectMeta = reducedMeta(o.ObjectMeta, nil, nil)
		o.BinaryData = nil
		maps.DeleteFunc(o.Data, func(key, _ string) bool { return !changesRouting(key) })
		c.ConfigMaps = append(c.ConfigMaps, o)
	default:
		return false
	}
	return true
}

// Objects are all objects, in the order of the fields and as they were added.
func (c *Cluster) Objects() []runtime.Object {
	all := appended(nil, c.Namespaces)
	all = appended(all, c.Gateways)
	all = appended(all, c.Grants)
	all = appended(all, c.Routes)
	all = appended(all, c.Services)
	all = appended(all, c.EndpointSlices)
	all = appended(all, c.Deployments)
	return appended(all, c.ConfigMaps)
}

func appended[T runtime.Object](all []runtime.Object, objects []T) []runtime.Object {
	for _, o := range objects {
		all = append(all, o)
	}
	return all
}

// Complete is called when everything was added: it brings all objects into the order of namespace and name, so that two
// readings of one state are equal, and drops the labels of namespaces that nobody asks for.
func (c *Cluster) Complete() {
	c.Namespaces = ordered(c.Namespaces)
	c.Gateways = ordered(c.Gateways)
	c.Grants = ordered(c.Grants)
	c.Routes = ordered(c.Routes)
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

// ordered sorts objects, routes by kind first, and keeps of one object that was added twice the last.
func ordered[T policy.Object](objects []T) []T {
	kinds := policy.RouteKinds()
	kind := func(o T) int {
		route, _ := policy.RouteOf(o)
		return slices.Index(kinds, route.Kind)
	}
	byName := func(a, b T) int {
		return cmp.Or(kind(a)-kind(b), strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
	}
	slices.SortStableFunc(objects, byName)
	slices.Reverse(objects)
	objects = slices.CompactFunc(objects, func(a, b T) bool { return byName(a, b) == 0 })
	slices.Reverse(objects)
	return objects
}

// BackendNamespaces are the namespaces of everything that routes refer to, in alphabetical order: those whose Services and
// EndpointSlices an audit needs.
func (c *Cluster) BackendNamespaces() []string {
	seen := map[string]bool{}
	for _, o := range c.Routes {
		route, _ := policy.RouteOf(o)
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

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// notRead says why objects of a resource are not known, or returns "" where they are.
func (c *Cluster) notRead(resource, namespace, name string) string {
	for _, n := range c.NotRead {
		if n.Resource == resource && (n.Namespace == "" || n.Namespace == namespace) && (n.Name == "" || n.Name == name) {
			return n.Reason
		}
	}
	return ""
}

// notKnown are whole sentences about what could not be read, one for each resource and reason however many namespaces it is about.
func (c *Cluster) notKnown(system string) []string {
	sentences := []string{}
	add := func(what, reason string) {
		sentences = append(sentences, policy.Printable(what+": not known: "+reason))
	}
	type kind struct{ resource, reason string }
	namespaces := map[kind][]string{}
	for _, n := range c.NotRead {
		key := kind{n.Resource, n.Reason}
		switch {
		case n.Name != "":
			add(fmt.Sprintf("%s %s/%s", n.Resource, n.Namespace, n.Name), n.Reason)
		case n.Namespace != "":
			namespaces[key] = append(namespaces[key], n.Namespace)
		default:
			add(n.Resource, n.Reason)
		}
	}
	for key, names := range namespaces {
		const shown = 3
		slices.Sort(names)
		where := "in namespace " + quotedList(names)
		switch {
		case len(names) > shown:
			where = fmt.Sprintf("in %d namespaces (%s and more)", len(names), quotedList(names[:shown]))
		case len(names) > 1:
			where = "in namespaces " + quotedList(names)
		}
		add(key.resource+" "+where, key.reason)
	}
	if !slices.ContainsFunc(c.Gateways, func(g *gwv1.Gateway) bool { return g.Namespace == system }) {
		add("routes of the shared Gateway", fmt.Sprintf("there is no Gateway in namespace %q; is it the right --system-namespace?", system))
	}
	slices.Sort(sentences)
	return sentences
}
