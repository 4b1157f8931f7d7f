package routing

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

func gatewayWith(listeners ...gwv1.Listener) *gwv1.Gateway {
	return &gwv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "aibrix-eg"},
		Spec:       gwv1.GatewaySpec{Listeners: listeners},
	}
}

func httpListener(change ...func(*gwv1.Listener)) gwv1.Listener {
	l := gwv1.Listener{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}
	for _, c := range change {
		c(&l)
	}
	return l
}

func named(name string) func(*gwv1.Listener) {
	return func(l *gwv1.Listener) { l.Name = gwv1.SectionName(name) }
}

func serving(hostname string) func(*gwv1.Listener) {
	return func(l *gwv1.Listener) { l.Hostname = new(gwv1.Hostname(hostname)) }
}

func from(mode gwv1.FromNamespaces, selector ...metav1.LabelSelector) func(*gwv1.Listener) {
	return func(l *gwv1.Listener) {
		l.AllowedRoutes = &gwv1.AllowedRoutes{Namespaces: &gwv1.RouteNamespaces{From: &mode}}
		for i := range selector {
			l.AllowedRoutes.Namespaces.Selector = &selector[i]
		}
	}
}

func allowing(kinds ...gwv1.RouteGroupKind) func(*gwv1.Listener) {
	return func(l *gwv1.Listener) { l.AllowedRoutes = &gwv1.AllowedRoutes{Kinds: kinds} }
}

func speaking(protocol gwv1.ProtocolType) func(*gwv1.Listener) {
	return func(l *gwv1.Listener) { l.Protocol = protocol }
}

func httpRoute(namespace, name string, change ...func(*gwv1.HTTPRoute)) *gwv1.HTTPRoute {
	r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	r.Spec.ParentRefs = []gwv1.ParentReference{{Name: "aibrix-eg", Namespace: new(gwv1.Namespace("aibrix-system"))}}
	for _, c := range change {
		c(r)
	}
	return r
}

func hosts(hostnames ...gwv1.Hostname) func(*gwv1.HTTPRoute) {
	return func(r *gwv1.HTTPRoute) { r.Spec.Hostnames = hostnames }
}

func section(name string) func(*gwv1.HTTPRoute) {
	return func(r *gwv1.HTTPRoute) { r.Spec.ParentRefs[0].SectionName = new(gwv1.SectionName(name)) }
}

func port(number gwv1.PortNumber) func(*gwv1.HTTPRoute) {
	return func(r *gwv1.HTTPRoute) { r.Spec.ParentRefs[0].Port = &number }
}

func view(t *testing.T, obj *gwv1.HTTPRoute) policy.Route {
	t.Helper()
	route, ok := policy.RouteOf(obj)
	require.True(t, ok)
	return route
}

func labelsOf(known map[string]map[string]string) Labels {
	return func(namespace string) (map[string]string, bool) {
		found, ok := known[namespace]
		return found, ok
	}
}

func TestAttach(t *testing.T) {
	models := metav1.LabelSelector{MatchLabels: map[string]string{"serves": "models"}}
	known := labelsOf(map[string]map[string]string{"team-a": {"serves": "models"}, "team-b": {}})
	for name, test := range map[string]struct {
		listeners []gwv1.Listener
		route     *gwv1.HTTPRoute
		accepted  policy.Answer
		reason    gwv1.RouteConditionReason
		// of the first listener
		field, problem string
		hostnames      []string
	}{
		"the default is Same, and the route is there": {
			listeners: []gwv1.Listener{httpListener()}, route: httpRoute("aibrix-system", "r"),
			accepted: policy.Yes, reason: gwv1.RouteReasonAccepted, hostnames: []string{""},
		},
		"the default is Same, and the route is elsewhere": {
			listeners: []gwv1.Listener{httpListener()}, route: httpRoute("team-a", "r"),
			accepted: policy.No, reason: gwv1.RouteReasonNotAllowedByListeners, field: "spec.listeners[0].allowedRoutes.namespaces.from",
			problem:   `the listener allows only routes of its own namespace "aibrix-system": from is Same (the default)`,
			hostnames: []string{""},
		},
		"Same, said": {
			listeners: []gwv1.Listener{httpListener(from(gwv1.NamespacesFromSame))}, route: httpRoute("team-a", "r"),
			accepted: policy.No, reason: gwv1.RouteReasonNotAllowedByListeners, field: "spec.listeners[0].allowedRoutes.namespaces.from",
			problem:   `the listener allows only routes of its own namespace "aibrix-system": from is Same`,
			hostnames: []string{""},
		},
		"None": {
			listeners: []gwv1.Listener{httpListener(from(gwv1.NamespacesFromNone))}, route: httpRoute("aibrix-system", "r"),
			accepted: policy.No, reason: gwv1.RouteReasonNotAllowedByListeners, field: "spec.listeners[0].allowedRoutes.namespaces.from",
			problem: `from "None" allows no namespace`, hostnames: []string{""},
		},
		"All": {
			listeners: []gwv1.Listener{httpListener(from(gwv1.NamespacesFromAll))}, route: httpRoute("team-a", "r"),
			accepted: policy.Yes, reason: gwv1.RouteReasonAccepted, hostnames: []string{""},
		},
		"a selector that matches": {
			listeners: []gwv1.Listener{httpListener(from(gwv1.NamespacesFromSelector, models))}, route: httpRoute("team-a", "r"),
			accepted: policy.Yes, reason: gwv1.RouteReasonAccepted, hostnames: []string{""},
		},
		"a selector that does not match": {
			listeners: []gwv1.Listener{httpListener(from(gwv1.NamespacesFromSelector, models))}, route: httpRoute("team-b", "r"),
			accepted: policy.No, reason: gwv1.RouteReasonNotAllowedByListeners, field: "spec.listeners[0].allowedRoutes.namespaces.selector",
			problem: `the labels of namespace "team-b" do not match the selector serves=models`, hostnames: []string{""},
		},
		"a selector, and labels that are not known": {
			listeners: []gwv1.Listener{httpListener(from(gwv1.NamespacesFromSelector, models))}, route: httpRoute("team-c", "r"),
			accepted: policy.Unknown, field: "spec.listeners[0].allowedRoutes.namespaces.selector",
			problem: `whether the labels of namespace "team-c" match the selector serves=models is not known`, hostnames: []string{""},
		},
		"a selector that selects everything needs no labels": {
			listeners: []gwv1.Listener{httpListener(from(gwv1.NamespacesFromSelector, metav1.LabelSelector{}))}, route: httpRoute("team-c", "r"),
			accepted: policy.Yes, reason: gwv1.RouteReasonAccepted, hostnames: []string{""},
		},
		"Selector without a selector": {
			listeners: []gwv1.Listener{httpListener(from(gwv1.NamespacesFromSelector))}, route: httpRoute("team-a", "r"),
			accepted: policy.No, reason: gwv1.RouteReasonNotAllowedByListeners, field: "spec.listeners[0].allowedRoutes.namespaces.selector",
			problem: "from is Selector, and there is no selector: it selects no namespace", hostnames: []string{""},
		},
		"an unknown hostname match beats unknown labels: it is No either way": {
			listeners: []gwv1.Listener{httpListener(from(gwv1.NamespacesFromSelector, models), serving("a.example"))}, route: httpRoute("team-c", "r", hosts("b.example")),
			accepted: policy.No, reason: gwv1.RouteReasonNoMatchingListenerHostname, field: "spec.listeners[0].hostname",
			problem: `the listener serves "a.example", the route asks for "b.example"`,
		},
		"a kind that is not allowed": {
			listeners: []gwv1.Listener{httpListener(allowing(gwv1.RouteGroupKind{Kind: "GRPCRoute"}, gwv1.RouteGroupKind{Kind: "TLSRoute"}))}, route: httpRoute("aibrix-system", "r"),
			accepted: policy.No, reason: gwv1.RouteReasonNotAllowedByListeners, field: "spec.listeners[0].allowedRoutes.kinds",
			problem: "the listener allows only GRPCRoute, TLSRoute", hostnames: []string{""},
		},
		"a kind of another group": {
			listeners: []gwv1.Listener{httpListener(allowing(gwv1.RouteGroupKind{Group: new(gwv1.Group("example.com")), Kind: "HTTPRoute"}))}, route: httpRoute("aibrix-system", "r"),
			accepted: policy.No, reason: gwv1.RouteReasonNotAllowedByListeners, field: "spec.listeners[0].allowedRoutes.kinds",
			problem: "the listener allows only HTTPRoute", hostnames: []string{""},
		},
		"a kind that is allowed": {
			listeners: []gwv1.Listener{httpListener(allowing(gwv1.RouteGroupKind{Group: new(gwv1.Group(gwv1.GroupName)), Kind: "HTTPRoute"}))}, route: httpRoute("aibrix-system", "r"),
			accepted: policy.Yes, reason: gwv1.RouteReasonAccepted, hostnames: []string{""},
		},
		"a protocol that carries no HTTP": {
			listeners: []gwv1.Listener{httpListener(speaking(gwv1.TCPProtocolType))}, route: httpRoute("aibrix-system", "r"),
			accepted: policy.No, reason: gwv1.RouteReasonNotAllowedByListeners, field: "spec.listeners[0].protocol",
			problem: "a listener of protocol TCP carries no HTTPRoute", hostnames: []string{""},
		},
		"a protocol that only the gateway knows": {
			listeners: []gwv1.Listener{httpListener(speaking("example.com/http"))}, route: httpRoute("aibrix-system", "r"),
			accepted: policy.Unknown, field: "spec.listeners[0].protocol",
			problem: `whether protocol "example.com/http" carries HTTPRoutes is up to the gateway`, hostnames: []string{""},
		},
		"sectionName selects another listener": {
			listeners: []gwv1.Listener{httpListener()}, route: httpRoute("aibrix-system", "r", section("https")),
			accepted: policy.No, reason: gwv1.RouteReasonNoMatchingParent, field: "sectionName", problem: `the parentRef selects listener "https"`, hostnames: []string{""},
		},
		"port selects another listener": {
			listeners: []gwv1.Listener{httpListener()}, route: httpRoute("aibrix-system", "r", port(8080)),
			accepted: policy.No, reason: gwv1.RouteReasonNoMatchingParent, field: "port", problem: `the parentRef selects port 8080, the listener has 80`, hostnames: []string{""},
		},
		"sectionName and port must both match": {
			listeners: []gwv1.Listener{httpListener()}, route: httpRoute("aibrix-system", "r", section("http"), port(8080)),
			accepted: policy.No, reason: gwv1.RouteReasonNoMatchingParent, field: "port", problem: `the parentRef selects port 8080, the listener has 80`, hostnames: []string{""},
		},
		"one listener of two accepts": {
			listeners: []gwv1.Listener{httpListener(), httpListener(named("all"), from(gwv1.NamespacesFromAll))}, route: httpRoute("team-a", "r"),
			accepted: policy.Yes, reason: gwv1.RouteReasonAccepted, field: "spec.listeners[0].allowedRoutes.namespaces.from",
			problem:   `the listener allows only routes of its own namespace "aibrix-system": from is Same (the default)`,
			hostnames: []string{""},
		},
		"the farthest refusal is reported": {
			listeners: []gwv1.Listener{httpListener(), httpListener(named("all"), from(gwv1.NamespacesFromAll), serving("a.example"))}, route: httpRoute("team-a", "r", hosts("b.example")),
			accepted: policy.No, reason: gwv1.RouteReasonNoMatchingListenerHostname, field: "spec.listeners[0].allowedRoutes.namespaces.from",
			problem:   `the listener allows only routes of its own namespace "aibrix-system": from is Same (the default)`,
			hostnames: []string{"b.example"},
		},
		"a Gateway without listeners": {
			route: httpRoute("aibrix-system", "r"), accepted: policy.No, reason: gwv1.RouteReasonNoMatchingParent,
		},
		"hostnames that do not intersect are left out": {
			listeners: []gwv1.Listener{httpListener(serving("*.example.com"))}, route: httpRoute("aibrix-system", "r", hosts("test.example.com", "test.example.net")),
			accepted: policy.Yes, reason: gwv1.RouteReasonAccepted, hostnames: []string{"test.example.com"},
		},
		"the listener's is the more specific": {
			listeners: []gwv1.Listener{httpListener(serving("test.example.com"))}, route: httpRoute("aibrix-system", "r", hosts("*.example.com", "test.example.com")),
			accepted: policy.Yes, reason: gwv1.RouteReasonAccepted, hostnames: []string{"test.example.com"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			route := view(t, test.route)
			a := Attach(route, &route.ParentRefs[0], gatewayWith(test.listeners...), known)
			require.Equal(t, test.accepted, a.Accepted)
			require.Equal(t, test.reason, a.Reason)
			require.Len(t, a.Listeners, len(test.listeners))
			if len(test.listeners) > 0 {
				require.Equal(t, test.field, a.Listeners[0].Field)
				require.Equal(t, test.problem, a.Listeners[0].Problem)
				require.Equal(t, test.hostnames, a.Listeners[0].Hostnames)
			}
		})
	}
}

func TestGRPCRoutesAttach(t *testing.T) {
	route, ok := policy.RouteOf(&gwv1.GRPCRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "r"}, Spec: gwv1.GRPCRouteSpec{Hostnames: []gwv1.Hostname{"a.example"}}})
	require.True(t, ok)
	a := Attach(route, &gwv1.ParentReference{}, gatewayWith(httpListener(allowing(gwv1.RouteGroupKind{Kind: "GRPCRoute"}), speaking(gwv1.HTTPSProtocolType))), labelsOf(nil))
	require.Equal(t, policy.Yes, a.Accepted)
	require.Equal(t, []string{"a.example"}, a.Listeners[0].Hostnames)

	_, ok = policy.RouteOf(&gwv1.Gateway{})
	require.False(t, ok)
	_, ok = policy.RouteOf((*gwv1.HTTPRoute)(nil))
	require.False(t, ok)
}

func TestRefers(t *testing.T) {
	gateway := gatewayWith()
	for name, test := range map[string]struct {
		namespace string
		ref       gwv1.ParentReference
		want      bool
	}{
		"by namespace":          {"team-a", gwv1.ParentReference{Name: "aibrix-eg", Namespace: new(gwv1.Namespace("aibrix-system"))}, true},
		"in its own namespace":  {"aibrix-system", gwv1.ParentReference{Name: "aibrix-eg"}, true},
		"misdirected":           {"team-a", gwv1.ParentReference{Name: "aibrix-eg"}, false},
		"another name":          {"aibrix-system", gwv1.ParentReference{Name: "other"}, false},
		"another kind":          {"aibrix-system", gwv1.ParentReference{Name: "aibrix-eg", Kind: new(gwv1.Kind("Service")), Group: new(gwv1.Group(""))}, false},
		"said as it is implied": {"aibrix-system", gwv1.ParentReference{Name: "aibrix-eg", Kind: new(gwv1.Kind("Gateway")), Group: new(gwv1.Group(gwv1.GroupName))}, true},
	} {
		t.Run(name, func(t *testing.T) {
			route := view(t, httpRoute(test.namespace, "r"))
			require.Equal(t, test.want, Refers(route, &test.ref, gateway))
		})
	}
}

func TestIntersect(t *testing.T) {
	for _, test := range []struct {
		listener, route, want string
		ok                    bool
	}{
		// The examples of HTTPRouteSpec.Hostnames.
		{"test.example.com", "", "test.example.com", true},
		{"test.example.com", "test.example.com", "test.example.com", true},
		{"test.example.com", "*.example.com", "test.example.com", true},
		{"*.example.com", "", "*.example.com", true},
		{"*.example.com", "*.example.com", "*.example.com", true},
		{"*.example.com", "test.example.com", "test.example.com", true},
		{"*.example.com", "foo.test.example.com", "foo.test.example.com", true},
		{"*.example.com", "example.com", "", false},
		{"*.example.com", "test.example.net", "", false},
		// More.
		{"", "", "", true},
		{"", "a.example", "a.example", true},
		{"*", "a.example", "a.example", true},
		{"*.example.com", "*.test.example.com", "*.test.example.com", true},
		{"*.test.example.com", "*.example.com", "*.test.example.com", true},
		{"*.example.com", "*.example.net", "", false},
		{"*.example.com", "notexample.com", "", false},
		{"Test.Example.com", "test.example.COM", "test.example.com", true},
	} {
		got, ok := Intersect(test.listener, test.route)
		require.Equal(t, test.ok, ok, "%q and %q", test.listener, test.route)
		require.Equal(t, test.want, got, "%q and %q", test.listener, test.route)
	}
}

func TestMatchesHost(t *testing.T) {
	for _, test := range []struct {
		hostname, host string
		want           bool
	}{
		{"", "anything:80", true},
		{"", "", true},
		{"a.example", "a.example", true},
		{"a.example", "A.example:8080", true},
		{"a.example", "a.example.", true},
		{"a.example", "b.example", false},
		{"*.example", "a.example", true},
		{"*.example", "a.b.example:80", true},
		{"*.example", "example", false},
		{"*.example", ".example", false},
		{"a.example", "[::1]:80", false},
		{"", "[::1]", true},
	} {
		require.Equal(t, test.want, MatchesHost(test.hostname, test.host), "%q and %q", test.hostname, test.host)
	}
}

// Whatever both hostnames cover, the intersection covers, and nothing else.
func FuzzIntersect(f *testing.F) {
	f.Add("*.example.com", "test.example.com", "test.example.com")
	f.Add("", "*.b", "a.b")
	f.Add("*.a.b", "*.b", "x.a.b")
	f.Fuzz(func(t *testing.T, listener, route, host string) {
		if requestHost(host) == "" {
			t.Skip("no host")
		}
		common, ok := Intersect(listener, route)
		inBoth := MatchesHost(listener, host) && MatchesHost(route, host)
		require.Equal(t, inBoth, ok && MatchesHost(common, host))
	})
}
