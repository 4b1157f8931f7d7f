package trace

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/routing"
)

// Facts are what is known of the cluster behind the gateway.
type Facts struct {
	Cluster *audit.Cluster
	Policy  *policy.Policy
	// Gateway is the "namespace/name" of the Gateway that the URL belongs to; empty: the one of the system namespace.
	Gateway string
}

// knowledge is Facts, made ready to be asked.
type knowledge struct {
	Facts
	report   audit.Report
	notKnown []string

	// gateway is the one that the request goes through, where that is known.
	gateway  audit.Ref
	expected *Expected
	// through is the route that hands the request to AIBrix's gateway plugin.
	through *Candidate
	refused []Candidate
	near    []Candidate
	// decided is true where the way of the request is known: expected then, or that no route serves it.
	decided bool
}

// know works out the way that a request should take. The plugin has seen it where any answer says so.
func know(facts *Facts, request Request, seen bool) *knowledge {
	if facts == nil {
		return &knowledge{notKnown: []string{"Nothing is known of the cluster: which route should serve the request cannot be determined."}}
	}
	k := &knowledge{Facts: *facts, report: audit.Run(facts.Policy, facts.Cluster)}
	gateways, problem := k.gateways(request.URL.Hostname())
	if problem != "" {
		k.notKnown = append(k.notKnown, problem)
		return k
	}
	type way struct {
		gateway *gwv1.Gateway
		expected,
		through *routing.Entry
		selection routing.Selection
		table     *routing.Table
		asked     routing.Request
	}
	var ways []way
	for _, gateway := range gateways {
		table := routing.NewTable(gateway, k.parents(gateway), k.labels)
		asked := request.routed(false)
		asked.Port, asked.Protocol = listenerOf(gateway, request)
		w := way{gateway: gateway, selection: table.Select(asked), table: table, asked: asked}
		w.expected = w.selection.Winner
		if request.Model != "" && request.Header.Get(headerModel) == "" && (seen || k.report.Plugin != nil || handsOver(w.expected)) {
			asked.Header = request.routed(true).Header
			w.asked = asked
			second := table.Select(asked)
			if second.Winner != nil && !sameRule(second.Winner, w.expected) {
				w.through, w.expected = w.expected, second.Winner
			}
			w.selection = second
			if handsOver(w.expected) && w.through == nil {
				// No route of its own: the model's requests end in the plugin's.
				w.through, w.expected = w.expected, nil
			}
		}
		ways = append(ways, w)
	}
	if len(ways) > 1 {
		ways = slices.DeleteFunc(ways, func(w way) bool { return w.selection.Winner == nil && len(w.selection.Refused) == 0 })
		if len(ways) > 1 {
			k.notKnown = append(k.notKnown, fmt.Sprintf("Namespace %q has several Gateways with a route for the request: say with --gateway which one the URL belongs to.", k.Policy.SystemNamespace))
			return k
		}
	}
	k.decided = true
	if len(ways) == 0 {
		// Several Gateways, and none with a route: which one the URL belongs to is not known.
		return k
	}
	w := ways[0]
	k.gateway = audit.Ref{Kind: string(policy.Gateway), Namespace: w.gateway.Namespace, Name: w.gateway.Name}
	for _, entry := range w.selection.Refused {
		k.refused = append(k.refused, candidate(entry))
	}
	if w.through != nil {
		k.through = new(candidate(*w.through))
	}
	if w.expected == nil {
		if w.through == nil && len(k.refused) == 0 {
			k.near = near(w.table, w.asked)
		}
		return k
	}
	k.expected = k.describe(*w.expected)
	for _, entry := range w.selection.Unsure {
		c := candidate(entry)
		if c.Why == "" {
			c.Why = "whether it matches depends on the gateway's dialect of regular expressions"
		}
		k.expected.Unsure = append(k.expected.Unsure, c)
	}
	for _, entry := range w.selection.RunnersUp {
		if w.through == nil || !sameRule(&entry, w.through) {
			k.expected.RunnersUp = append(k.expected.RunnersUp, candidate(entry))
		}
	}
	return k
}

// near are the rules that would serve a request but for one thing that they ask for, the path excepted.
func near(table *routing.Table, asked routing.Request) []Candidate {
	var found []Candidate
	seen := map[string]bool{}
	for _, entry := range table.Entries() {
		if entry.Accepted() == policy.No || asked.Port != 0 && asked.Port != entry.Listener.Port {
			continue
		}
		misses := entry.Misses(asked)
		c := candidate(entry)
		rule := fmt.Sprint(c.Route, entry.Rule)
		if len(misses) != 1 || seen[rule] || strings.HasPrefix(misses[0], "path ") {
			continue
		}
		seen[rule] = true
		c.Why = policy.Printable(misses[0])
		if found = append(found, c); len(found) == MaxNear {
			break
		}
	}
	return found
}

// gateways are those that the URL may belong to, or a sentence that says why there is none. Of several the host decides which,
// where it is the address of one.
func (k *knowledge) gateways(host string) ([]*gwv1.Gateway, string) {
	var found []*gwv1.Gateway
	for _, gateway := range k.Cluster.Gateways {
		if name := gateway.Namespace + "/" + gateway.Name; k.Gateway == name || k.Gateway == "" && gateway.Namespace == k.Policy.SystemNamespace {
			found = append(found, gateway)
		}
	}
	addressed := slices.DeleteFunc(slices.Clone(found), func(gateway *gwv1.Gateway) bool {
		return !slices.ContainsFunc(gateway.Status.Addresses, func(a gwv1.GatewayStatusAddress) bool { return strings.EqualFold(a.Value, host) })
	})
	switch {
	case len(addressed) > 0:
		return addressed, ""
	case len(found) > 0:
		return found, ""
	case k.Gateway != "":
		return nil, fmt.Sprintf("There is no Gateway %s in what is known of the cluster: which route should serve the request cannot be determined.", k.Gateway)
	}
	return nil, fmt.Sprintf("There is no Gateway in namespace %q: which route should serve the request cannot be determined; name another one with --gateway or --system-namespace.", k.Policy.SystemNamespace)
}

// parents are the parentRefs of all routes that refer to a Gateway, or meant it.
func (k *knowledge) parents(gateway *gwv1.Gateway) []routing.Parent {
	var parents []routing.Parent
	add := func(route policy.Route) {
		parents = append(parents, routing.Parents(gateway, route)...)
		if route.Namespace == gateway.Namespace {
			return
		}
		for i := range route.ParentRefs {
			ref := &route.ParentRefs[i]
			misdirected := policy.IsGatewayParent(ref) && policy.ParentNamespace(ref) == "" && string(ref.Name) == gateway.Name &&
				!slices.ContainsFunc(k.Cluster.Gateways, func(other *gwv1.Gateway) bool {
					return other.Namespace == route.Namespace && other.Name == gateway.Name
				})
			if misdirected {
				parents = append(parents, routing.Parent{Route: route, Index: i, Misdirected: true})
			}
		}
	}
	for _, object := range k.Cluster.Routes {
		route, _ := policy.RouteOf(object)
		add(route)
	}
	return parents
}

func (k *knowledge) labels(name string) (map[string]string, bool) {
	i := slices.IndexFunc(k.Cluster.Namespaces, func(n *corev1.Namespace) bool { return n.Name == name })
	if i < 0 {
		return nil, false
	}
	return k.Cluster.Namespaces[i].Labels, true
}

// listenerOf is the port and protocol of the listeners that the URL means, or zero values where none has them: a node port or a
// port-forward has ports of its own.
func listenerOf(gateway *gwv1.Gateway, request Request) (gwv1.PortNumber, gwv1.ProtocolType) {
	port := map[string]gwv1.PortNumber{"http": 80, "https": 443}[request.URL.Scheme]
	if number, err := strconv.ParseInt(request.URL.Port(), 10, 32); err == nil {
		port = gwv1.PortNumber(number)
	}
	for _, listener := range gateway.Spec.Listeners {
		if listener.Port == port && listener.Protocol == request.protocol() {
			return port, request.protocol()
		}
	}
	return 0, ""
}

// reservedPrefix begins the names of the routes by which AIBrix hands requests to its plugin.
const reservedPrefix = "aibrix-reserved-"

func handsOver(entry *routing.Entry) bool {
	return entry != nil && strings.HasPrefix(entry.Route.Meta.Name, reservedPrefix)
}

func sameRule(a, b *routing.Entry) bool {
	return a != nil && b != nil && refOf(*a) == refOf(*b) && a.Rule == b.Rule
}

func refOf(entry routing.Entry) audit.Ref {
	return audit.Ref{Kind: string(entry.Route.Kind), Namespace: entry.Route.Namespace, Name: entry.Route.Meta.Name}
}

func candidate(entry routing.Entry) Candidate {
	c := Candidate{Route: refOf(entry), Field: entry.Path(), Match: policy.Printable(entry.String())}
	switch {
	case entry.Misdirected:
		c.Why = fmt.Sprintf("spec.parentRefs[%d] names no namespace, and so means a Gateway in %q", entry.Index, entry.Route.Namespace)
	case entry.Accepted() == policy.No:
		c.Why = fmt.Sprintf("listener %q: %s (%s)", entry.Listener.Name, entry.Listener.Problem, entry.Listener.Reason)
	case entry.Accepted() == policy.Unknown:
		c.Why = entry.Listener.Problem
	}
	c.Why = policy.Printable(c.Why)
	return c
}

// describe adds what the audit knows of the route.
func (k *knowledge) describe(entry routing.Entry) *Expected {
	e := &Expected{
		Gateway: k.gateway, Listener: string(entry.Listener.Name), Candidate: candidate(entry),
		Parents: []audit.Parent{}, References: []audit.Reference{}, Backends: []audit.Backend{},
	}
	rule := fmt.Sprintf("spec.rules[%d].", entry.Rule)
	if i := slices.IndexFunc(k.report.Routes, func(r *audit.Route) bool { return r.Ref == e.Route }); i >= 0 {
		route := k.report.Routes[i]
		if route.Origin != route.Namespace {
			e.Origin = route.Origin
		}
		for _, parent := range route.Parents {
			if parent.Gateway == e.Gateway {
				e.Parents = append(e.Parents, parent)
			}
		}
		for _, ref := range route.References {
			if strings.HasPrefix(ref.Field, rule+"backendRefs") && !strings.Contains(ref.Field, ".filters[") {
				e.References = append(e.References, ref)
			}
		}
	}
	for _, backend := range k.report.Backends {
		if slices.ContainsFunc(e.References, func(ref audit.Reference) bool { return ref.Backend == backend.Ref }) {
			e.Backends = append(e.Backends, *backend)
		}
	}
	for _, finding := range k.report.Findings {
		elsewhere := strings.HasPrefix(finding.Field, "spec.rules[") && !strings.HasPrefix(finding.Field, rule)
		if finding.Object == e.Route && !elsewhere && finding.Severity != audit.SeverityInfo {
			e.Findings = append(e.Findings, finding)
		}
	}
	return e
}

// pods are the pods that a header target-pod may mean: it is a pod's name, its address, or its address and port.
func (k *knowledge) pods(target string) []Pod {
	if target == "" || k.Cluster == nil {
		return nil
	}
	address := target
	if host, _, err := net.SplitHostPort(target); err == nil {
		address = host
	}
	var pods []Pod
	for _, slice := range k.Cluster.EndpointSlices {
		for _, endpoint := range slice.Endpoints {
			named := endpoint.TargetRef != nil && endpoint.TargetRef.Kind == "Pod" && endpoint.TargetRef.Name == target
			if !named && !slices.Contains(endpoint.Addresses, address) {
				continue
			}
			pod := Pod{Namespace: slice.Namespace, Name: target}
			if endpoint.TargetRef != nil {
				pod.Name = endpoint.TargetRef.Name
			}
			service := slice.Labels[discoveryv1.LabelServiceName]
			i := slices.IndexFunc(pods, func(known Pod) bool { return known.Namespace == pod.Namespace && known.Name == pod.Name })
			if i < 0 {
				pods = append(pods, pod)
				i = len(pods) - 1
			}
			if service != "" && !slices.Contains(pods[i].Services, service) {
				pods[i].Services = append(pods[i].Services, service)
			}
		}
	}
	return pods
}

// serves reports whether a pod is an endpoint of one of the expected rule's backends.
func (e *Expected) serves(pod Pod) bool {
	return slices.ContainsFunc(e.References, func(ref audit.Reference) bool {
		return ref.Backend.Kind == "Service" && ref.Backend.Namespace == pod.Namespace && slices.Contains(pod.Services, ref.Backend.Name)
	})
}
