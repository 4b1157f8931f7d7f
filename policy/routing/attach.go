package routing

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Labels are the labels of a namespace, or known=false.
type Labels func(namespace string) (labels map[string]string, known bool)

// Attachment is whether and how a Gateway takes one parentRef of a route, by its specification.
type Attachment struct {
	Accepted policy.Answer
	// Reason is the one that the Gateway's controller would give for the condition Accepted: RouteReasonAccepted,
	// RouteReasonNoMatchingParent, RouteReasonNotAllowedByListeners, RouteReasonNoMatchingListenerHostname; empty where
	// Accepted is Unknown.
	Reason gwv1.RouteConditionReason
	// Listeners has every listener of the Gateway, in its order.
	Listeners []ListenerAttachment
}

// ListenerAttachment is whether and how one listener takes one parentRef of a route.
type ListenerAttachment struct {
	// Name, Port and Protocol are the listener's; Index is its place in spec.listeners.
	Name     gwv1.SectionName
	Port     gwv1.PortNumber
	Protocol gwv1.ProtocolType
	Index    int
	Accepted policy.Answer
	// Reason as in Attachment; RouteReasonNoMatchingParent: the parentRef selects another listener.
	Reason gwv1.RouteConditionReason
	// Field is the field that refuses, or whose consequence is not known: a path in the Gateway, or for sectionName and
	// port the field's name in the parentRef.
	Field string
	// Problem says in words why the listener does not accept the route, or what is not known; empty where it does.
	Problem string
	// Hostnames are those under which the listener serves the route; "" is every hostname. They are listed also where the
	// listener is not known to accept the route.
	Hostnames []string
}

// Refers reports whether a parentRef of a route refers to a Gateway. A parentRef without a namespace means the route's own.
func Refers(route policy.Route, ref *gwv1.ParentReference, gateway *gwv1.Gateway) bool {
	namespace := policy.ParentNamespace(ref)
	if namespace == "" {
		namespace = route.Namespace
	}
	return policy.IsGatewayParent(ref) && namespace == gateway.Namespace && string(ref.Name) == gateway.Name
}

// Attach says which listeners of a Gateway accept a route by one of its parentRefs. The parentRef's group, kind, name and
// namespace are not looked at (see Refers), so that it can also be asked of a Gateway that was meant.
func Attach(route policy.Route, ref *gwv1.ParentReference, gateway *gwv1.Gateway, of Labels) Attachment {
	a := Attachment{Accepted: policy.No, Reason: gwv1.RouteReasonNoMatchingParent}
	for i := range gateway.Spec.Listeners {
		l := attachListener(route, ref, gateway, i, of)
		a.Listeners = append(a.Listeners, l)
		if rank(l) > rank(ListenerAttachment{Accepted: a.Accepted, Reason: a.Reason}) {
			a.Accepted, a.Reason = l.Accepted, l.Reason
		}
	}
	return a
}

// rank orders how far a listener lets a route in: the farthest one counts for the Gateway.
func rank(l ListenerAttachment) int {
	switch {
	case l.Accepted == policy.Yes:
		return 4
	case l.Accepted == policy.Unknown:
		return 3
	case l.Reason == gwv1.RouteReasonNoMatchingListenerHostname:
		return 2
	case l.Reason == gwv1.RouteReasonNotAllowedByListeners:
		return 1
	}
	return 0
}

func attachListener(route policy.Route, ref *gwv1.ParentReference, gateway *gwv1.Gateway, index int, of Labels) ListenerAttachment {
	listener := &gateway.Spec.Listeners[index]
	a := ListenerAttachment{Name: listener.Name, Port: listener.Port, Protocol: listener.Protocol, Index: index, Accepted: policy.Yes, Reason: gwv1.RouteReasonAccepted}
	a.Hostnames = effectiveHostnames(listener.Hostname, route.Hostnames)
	path := fmt.Sprintf("spec.listeners[%d]", index)

	refuse := func(reason gwv1.RouteConditionReason, field, problem string) {
		a.Accepted, a.Reason, a.Field, a.Problem = policy.No, reason, field, problem
	}
	if ref.SectionName != nil && *ref.SectionName != listener.Name {
		refuse(gwv1.RouteReasonNoMatchingParent, "sectionName", fmt.Sprintf("the parentRef selects listener %q", *ref.SectionName))
		return a
	}
	if ref.Port != nil && *ref.Port != listener.Port {
		refuse(gwv1.RouteReasonNoMatchingParent, "port", fmt.Sprintf("the parentRef selects port %d, the listener has %d", *ref.Port, listener.Port))
		return a
	}
	kind, field, problem := allowsKind(listener, route.Kind)
	if kind == policy.No {
		refuse(gwv1.RouteReasonNotAllowedByListeners, path+field, problem)
		return a
	}
	namespace, namespaceField, namespaceProblem := allowsNamespace(listener, gateway.Namespace, route.Namespace, of)
	if namespace == policy.No {
		refuse(gwv1.RouteReasonNotAllowedByListeners, path+namespaceField, namespaceProblem)
		return a
	}
	if len(a.Hostnames) == 0 {
		refuse(gwv1.RouteReasonNoMatchingListenerHostname, path+".hostname",
			fmt.Sprintf("the listener serves %q, the route asks for %s", *listener.Hostname, quoted(route.Hostnames)))
		return a
	}
	for _, unknown := range []struct {
		answer         policy.Answer
		field, problem string
	}{{kind, field, problem}, {namespace, namespaceField, namespaceProblem}} {
		if unknown.answer == policy.Unknown {
			a.Accepted, a.Reason, a.Field, a.Problem = policy.Unknown, "", path+unknown.field, unknown.problem
			return a
		}
	}
	return a
}

// allowsKind answers by allowedRoutes.kinds and by what the listener's protocol can carry.
func allowsKind(listener *gwv1.Listener, kind policy.Kind) (answer policy.Answer, field, problem string) {
	if listener.AllowedRoutes != nil && len(listener.AllowedRoutes.Kinds) > 0 {
		kinds := listener.AllowedRoutes.Kinds
		if !slices.ContainsFunc(kinds, func(allowed gwv1.RouteGroupKind) bool {
			return string(allowed.Kind) == string(kind) && (allowed.Group == nil || *allowed.Group == gwv1.GroupName)
		}) {
			names := make([]string, len(kinds))
			for i := range kinds {
				names[i] = string(kinds[i].Kind)
			}
			return policy.No, ".allowedRoutes.kinds", fmt.Sprintf("the listener allows only %s", strings.Join(names, ", "))
		}
	}
	switch listener.Protocol {
	case gwv1.HTTPProtocolType, gwv1.HTTPSProtocolType:
		return policy.Yes, "", ""
	case gwv1.TLSProtocolType, gwv1.TCPProtocolType, gwv1.UDPProtocolType:
		return policy.No, ".protocol", fmt.Sprintf("a listener of protocol %s carries no %s", listener.Protocol, kind)
	}
	return policy.Unknown, ".protocol", fmt.Sprintf("whether protocol %q carries %ss is up to the gateway", listener.Protocol, kind)
}

// allowsNamespace answers by allowedRoutes.namespaces, whose default is Same.
func allowsNamespace(listener *gwv1.Listener, gateway, route string, of Labels) (answer policy.Answer, field, problem string) {
	const from = ".allowedRoutes.namespaces.from"
	var allowed gwv1.RouteNamespaces
	if listener.AllowedRoutes != nil && listener.AllowedRoutes.Namespaces != nil {
		allowed = *listener.AllowedRoutes.Namespaces
	}
	mode, implied := gwv1.NamespacesFromSame, " (the default)"
	if allowed.From != nil {
		mode, implied = *allowed.From, ""
	}
	switch mode {
	case gwv1.NamespacesFromAll:
		return policy.Yes, "", ""
	case gwv1.NamespacesFromSame:
		if gateway == route {
			return policy.Yes, "", ""
		}
		return policy.No, from, fmt.Sprintf("the listener allows only routes of its own namespace %q: from is Same%s", gateway, implied)
	case gwv1.NamespacesFromSelector:
		const field = ".allowedRoutes.namespaces.selector"
		if allowed.Selector == nil {
			return policy.No, field, "from is Selector, and there is no selector: it selects no namespace"
		}
		selector, err := metav1.LabelSelectorAsSelector(allowed.Selector)
		if err != nil {
			return policy.No, field, fmt.Sprintf("the selector is invalid and selects no namespace: %v", err)
		}
		found, known := of(route)
		switch {
		case selector.Empty():
			return policy.Yes, "", ""
		case !known:
			return policy.Unknown, field, fmt.Sprintf("whether the labels of namespace %q match the selector %s is not known", route, selector)
		case !selector.Matches(labels.Set(found)):
			return policy.No, field, fmt.Sprintf("the labels of namespace %q do not match the selector %s", route, selector)
		}
		return policy.Yes, "", ""
	}
	return policy.No, from, fmt.Sprintf("from %q allows no namespace", mode)
}

func quoted(hostnames []gwv1.Hostname) string {
	texts := make([]string, len(hostnames))
	for i, hostname := range hostnames {
		texts[i] = fmt.Sprintf("%q", hostname)
	}
	return strings.Join(texts, ", ")
}
