package audit

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// reasonWords say what the reasons of Gateway API's route conditions mean, where the condition is not as it should be.
var reasonWords = map[string]string{
	string(gwv1.RouteReasonNotAllowedByListeners):      "no listener takes routes of this kind from this namespace: the gateway does not know the route, and answers 404",
	string(gwv1.RouteReasonNoMatchingListenerHostname): "no listener serves any of its hostnames: the gateway answers 404",
	string(gwv1.RouteReasonNoMatchingParent):           "the Gateway has no listener with that sectionName and port: the gateway answers 404",
	string(gwv1.RouteReasonUnsupportedValue):           "it has a value that this gateway does not support",
	string(gwv1.RouteReasonIncompatibleFilters):        "two of its filters do not go together",
	string(gwv1.RouteReasonPending):                    "the gateway's controller has not got to it yet",
	string(gwv1.RouteReasonRefNotPermitted):            "a backend is in another namespace and no ReferenceGrant there permits it: the gateway answers 500",
	string(gwv1.RouteReasonInvalidKind):                "a backend is of a kind that this gateway does not know: the gateway answers 500",
	string(gwv1.RouteReasonBackendNotFound):            "a backend does not exist: the gateway answers 500",
	string(gwv1.RouteReasonUnsupportedProtocol):        "a backend speaks a protocol (appProtocol) that this gateway does not support",
}

// trueWords say what a condition of a route means that is True.
var trueWords = map[string]string{
	string(gwv1.RouteConditionAccepted):         "the gateway has taken the route",
	string(gwv1.RouteConditionResolvedRefs):     "the gateway has found every backend, and may use it",
	string(gwv1.RouteConditionPartiallyInvalid): "the gateway leaves out a part of the route that it cannot use",
}

// conditionWords say what a condition of a route means.
func conditionWords(c metav1.Condition) string {
	switch {
	case c.Status == metav1.ConditionTrue:
		return trueWords[c.Type]
	case c.Type == string(gwv1.RouteConditionPartiallyInvalid):
		return ""
	}
	return reasonWords[c.Reason]
}

// mirroredWords are conditionWords for the status of a parked source.
func mirroredWords(controller gwv1.GatewayController, c metav1.Condition) string {
	own, mirrored := controller == policy.RelocationController, strings.HasPrefix(string(controller), policy.MirrorPrefix)
	switch words := conditionWords(c); {
	case c.Status != metav1.ConditionTrue && c.Message != "" && (own || mirrored && c.Reason == string(gwv1.RouteReasonRefNotPermitted)):
		return policy.Printable("routesteward says: " + c.Message)
	case mirrored && words != "":
		return "of its copy: " + words
	default:
		return words
	}
}

// targetWords state what an entry of spec.to of a ReferenceGrant permits.
func targetWords(to gwv1.ReferenceGrantTo) string {
	kind := string(to.Kind)
	if to.Group != "" {
		kind += "." + string(to.Group)
	}
	if to.Name == nil {
		return "every " + kind
	}
	return kind + " " + string(*to.Name)
}

// allowedWords state which routes a listener accepts.
func allowedWords(l gwv1.Listener) string {
	from := gwv1.NamespacesFromSame
	var selector *metav1.LabelSelector
	if l.AllowedRoutes != nil && l.AllowedRoutes.Namespaces != nil {
		if l.AllowedRoutes.Namespaces.From != nil {
			from = *l.AllowedRoutes.Namespaces.From
		}
		selector = l.AllowedRoutes.Namespaces.Selector
	}
	words := map[gwv1.FromNamespaces]string{
		gwv1.NamespacesFromSame: "its own namespace only", gwv1.NamespacesFromAll: "every namespace", gwv1.NamespacesFromNone: "no namespace",
		gwv1.NamespacesFromSelector: "namespaces with " + metav1.FormatLabelSelector(selector),
	}[from]
	if l.AllowedRoutes != nil && len(l.AllowedRoutes.Kinds) > 0 {
		var kinds []string
		for _, k := range l.AllowedRoutes.Kinds {
			kinds = append(kinds, string(k.Kind))
		}
		words += ", only " + strings.Join(kinds, " and ")
	}
	return words
}

// resource is the name of a route's kind to kubectl.
func resource(ref Ref) string { return strings.ToLower(ref.Kind) }

// get is the command that shows an object.
func get(ref Ref) string {
	return fmt.Sprintf("kubectl get %s %s -n %s -o yaml", resource(ref), ref.Name, ref.Namespace)
}

func describe(ref Ref) string {
	return fmt.Sprintf("kubectl describe %s %s -n %s", resource(ref), ref.Name, ref.Namespace)
}

func quotedList(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(quoted, ", ")
}

func plural(count int, one, many string) string {
	if count == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", count, many)
}
