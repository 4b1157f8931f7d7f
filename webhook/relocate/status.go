package relocate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster"
)

// Lengths that Gateway API, metav1.Condition and the API server (events.k8s.io/v1 Event.note, in bytes) allow.
const (
	maxStatusParents = 32
	maxController    = 253
	maxMessage       = 32768
	maxNote          = 1024
)

// mirror writes the status of a copy into its source, so that it is seen where people look. The entries are
// under controllerNames of our own: GEP-1364 leaves the entries of a controllerName to that controller alone, and some
// remove theirs from routes that they do not serve.
func (r *Reconciler) mirror(ctx context.Context, source *unstructured.Unstructured, route policy.Route, stored *unstructured.Unstructured, withheld map[policy.Edge]bool) error {
	status, err := parents(stored)
	if err != nil {
		return err
	}
	var entries []gwv1.RouteParentStatus
	for _, entry := range status {
		controller := gwv1.GatewayController(policy.MirrorPrefix + string(entry.ControllerName))
		if len(controller) > maxController {
			controller = policy.RelocationController
		}
		entry.ControllerName = controller
		entry.Conditions = slices.Clone(entry.Conditions)
		for i := range entry.Conditions {
			condition := &entry.Conditions[i]
			condition.ObservedGeneration = observed(condition.ObservedGeneration, stored.GetGeneration(), source.GetGeneration())
			if condition.Type == string(gwv1.RouteConditionResolvedRefs) && len(withheld) > 0 {
				condition.Status, condition.Reason = metav1.ConditionFalse, string(gwv1.RouteReasonRefNotPermitted)
				condition.Message = withheldMessage(withheld)
			}
		}
		entries = append(entries, entry)
	}
	report := func(before []gwv1.RouteParentStatus) {
		message := withheldMessage(withheld)
		if len(withheld) > 0 && !has(before, message) {
			r.Events.Eventf(source, stored, corev1.EventTypeWarning, ReasonWithheld, "Relocate", "%s", policy.Cut(message, maxNote))
		}
	}
	if len(withheld) > 0 && len(entries) == 0 {
		// No controller has looked at the copy yet.
		entries = r.own(route, string(gwv1.RouteConditionResolvedRefs), string(gwv1.RouteReasonRefNotPermitted), withheldMessage(withheld))
	}
	return r.write(ctx, source, entries, report)
}

// observed translates a generation of the copy that a condition is about into one of the source: the source's own where it
// is the copy's newest, else an earlier one.
func observed(condition, stored, source int64) int64 {
	if condition >= stored {
		return source
	}
	return max(0, source-1)
}

func withheldMessage(withheld map[policy.Edge]bool) string {
	var edges []string
	for edge := range withheld {
		edges = append(edges, fmt.Sprintf("%s %s/%s", edge.Kind, edge.Namespace, edge.Name))
	}
	slices.Sort(edges)
	return policy.Cut("Withheld, as their namespaces do not consent to this route: "+strings.Join(edges, ", "), maxMessage)
}

func has(entries []gwv1.RouteParentStatus, message string) bool {
	return slices.ContainsFunc(entries, func(entry gwv1.RouteParentStatus) bool {
		return slices.ContainsFunc(entry.Conditions, func(c metav1.Condition) bool { return c.Message == message })
	})
}

// own are entries that are not mirrored: one condition, which is false, for each parked parentRef.
func (r *Reconciler) own(route policy.Route, condition, reason, message string) []gwv1.RouteParentStatus {
	parked, err := r.Policy.Parked(route)
	if err != nil {
		// The annotation names no parents; the entry still has to name one.
		parked = []gwv1.ParentReference{{Name: "unknown", Namespace: new(gwv1.Namespace(r.Policy.SystemNamespace))}}
	}
	var entries []gwv1.RouteParentStatus
	for _, ref := range parked {
		ref.Group, ref.Kind = new(gwv1.Group(gwv1.GroupName)), new(gwv1.Kind(policy.Gateway))
		entries = append(entries, gwv1.RouteParentStatus{
			ParentRef: ref, ControllerName: policy.RelocationController,
			Conditions: []metav1.Condition{{
				Type: condition, Status: metav1.ConditionFalse, ObservedGeneration: route.Meta.Generation,
				LastTransitionTime: metav1.Now(), Reason: reason, Message: policy.Cut(message, maxMessage),
			}},
		})
	}
	return entries
}

// refuse reports to a source why it has no copy, in its status and, once, by an Event.
func (r *Reconciler) refuse(ctx context.Context, key types.NamespacedName, reason, message string) error {
	source, route, err := r.source(ctx, key)
	if err != nil || source == nil {
		return err
	}
	return r.write(ctx, source, r.own(route, string(gwv1.RouteConditionAccepted), reason, message), func(before []gwv1.RouteParentStatus) {
		if !has(before, policy.Cut(message, maxMessage)) {
			r.Events.Eventf(source, nil, corev1.EventTypeWarning, reason, "Relocate", "%s", policy.Cut(message, maxNote))
		}
	})
}

// clear takes our entries out of the status of a route that is not parked any more.
func (r *Reconciler) clear(ctx context.Context, key types.NamespacedName) error {
	obj, err := r.read(ctx, key)
	if err != nil || obj == nil {
		return err
	}
	if source, _, err := r.source(ctx, key); err != nil || source != nil {
		return err // an event follows
	}
	return r.write(ctx, obj, nil, func([]gwv1.RouteParentStatus) {})
}

// write replaces our entries in a source's status.parents, and leaves everybody else's alone; changed is called with those
// before, where something changed.
func (r *Reconciler) write(ctx context.Context, source *unstructured.Unstructured, entries []gwv1.RouteParentStatus, changed func(before []gwv1.RouteParentStatus)) error {
	before, err := parents(source)
	if err != nil {
		return err
	}
	var mirrored, others []gwv1.RouteParentStatus
	for _, entry := range before {
		if cluster.IsMirrored(entry.ControllerName) {
			mirrored = append(mirrored, entry)
		} else {
			others = append(others, entry)
		}
	}
	if room := max(0, maxStatusParents-len(others)); len(entries) > room {
		entries = entries[:room]
	}
	if slices.EqualFunc(mirrored, entries, sameStatus) {
		return nil
	}
	all := append(others, entries...)
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&gwv1.RouteStatus{Parents: all})
	if err != nil {
		return err
	}
	if len(all) == 0 {
		status["parents"] = []any{} // required
	}
	source.Object["status"] = status
	if err := r.Writer.Status().Update(ctx, source); err != nil {
		return client.IgnoreNotFound(err)
	}
	changed(mirrored)
	return nil
}

// sameStatus compares two entries but for when a condition began, which entries of our own do not remember.
func sameStatus(a, b gwv1.RouteParentStatus) bool {
	if a.ControllerName != b.ControllerName || len(a.Conditions) != len(b.Conditions) || !equality.Semantic.DeepEqual(a.ParentRef, b.ParentRef) {
		return false
	}
	return slices.EqualFunc(a.Conditions, b.Conditions, func(x, y metav1.Condition) bool {
		y.LastTransitionTime = x.LastTransitionTime
		return x == y
	})
}

// parents is the status.parents of a route.
func parents(obj *unstructured.Unstructured) ([]gwv1.RouteParentStatus, error) {
	content, _ := obj.Object["status"].(map[string]any)
	var status gwv1.RouteStatus
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, &status); err != nil {
		return nil, fmt.Errorf("reading the status of %s %s: %w", obj.GetKind(), client.ObjectKeyFromObject(obj), err)
	}
	return status.Parents, nil
}
