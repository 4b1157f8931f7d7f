// Package relocate keeps the relocated copies of parked routes in the system namespace, and reports
// the result in the status of their sources.
package relocate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/metrics"
)

// Reasons of the Events on sources and copies, and of the condition Accepted of a source that has no copy.
const (
	// ReasonRelocated: the copy was made.
	ReasonRelocated = "Relocated"
	// ReasonNameTaken: something else has the name of the copy.
	ReasonNameTaken = "RelocatedNameTaken"
	// ReasonCannotRelocate: no copy would mean the same.
	ReasonCannotRelocate = "CannotRelocate"
	// ReasonWithheld: a backend's namespace does not consent any more, so the copy does not refer to it.
	ReasonWithheld = "BackendWithheld"
)

// Reconciler keeps the copies of one kind of routes. It is keyed by the copy's name, and one change leads to the few names
// that it is about. The caches say which routes are concerned; what is copied and written is read live, as the caches hold
// no more than decisions need, and typed objects drop fields of newer versions of Gateway API.
type Reconciler struct {
	Policy *policy.Policy
	Kind   policy.Kind
	Writer client.Client
	Live   client.Reader
	Caches *cluster.Reader
	Events events.EventRecorder
	// Metrics counts what is done to copies.
	Metrics *metrics.Metrics
}

// SetupWithManager adds the reconciler to the manager; it runs in the elected replica. It runs whatever --outside says: a
// source that is parked stays relocated.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	b := ctrl.NewControllerManagedBy(mgr).Named("relocate-" + strings.ToLower(string(r.Kind))).
		WithOptions(controller.Options{MaxConcurrentReconciles: 8})
	for _, watch := range r.Watches() {
		b = b.Watches(watch.Object, watch.Handler, builder.WithPredicates(watch.Predicate))
	}
	return b.Complete(r)
}

// Watches says which changes lead to which keys.
func (r *Reconciler) Watches() []cluster.Watch {
	return []cluster.Watch{
		// A status is written without a new generation, and both sides' matter here.
		{Object: cluster.NewRoute(r.Kind), Predicate: cluster.EveryEvent, Handler: handler.EnqueueRequestsFromMapFunc(r.keysByRoute)},
		{Object: r.Caches.Served().NewGrant(), Predicate: cluster.EveryEvent, Handler: handler.EnqueueRequestsFromMapFunc(r.keysByGrant)},
		{Object: cluster.NewNamespace(), Predicate: cluster.NamespaceChanged, Handler: handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, obj client.Object) []ctrl.Request {
			return r.keys(ctx, cluster.ByTarget, obj.GetName(), func(policy.Edge) bool { return true })
		})},
	}
}

func (r *Reconciler) request(copyName string) ctrl.Request {
	return ctrl.Request{NamespacedName: types.NamespacedName{Namespace: r.Policy.SystemNamespace, Name: copyName}}
}

// keysByRoute is the copy's name of a source or a copy; a route of the system namespace that is none matters where it has,
// or had, the name of a copy that is waited for.
func (r *Reconciler) keysByRoute(ctx context.Context, obj client.Object) []ctrl.Request {
	route, ok := policy.RouteOf(obj)
	if !ok {
		return nil
	}
	if route.Namespace != r.Policy.SystemNamespace {
		if name, ok := r.Caches.CopyName(obj); ok {
			return []ctrl.Request{r.request(name)}
		}
		return nil
	}
	if !r.Policy.IsCopy(route) {
		sources, err := r.Caches.Sources(ctx, r.Kind, obj.GetName())
		if err == nil && len(sources) == 0 {
			return nil
		}
	}
	return []ctrl.Request{r.request(obj.GetName())}
}

// keysByGrant are the copies that refer to what a grant permits.
func (r *Reconciler) keysByGrant(ctx context.Context, obj client.Object) []ctrl.Request {
	grant := cluster.GrantOf(obj)
	if policy.IsManaged(grant) {
		var requests []ctrl.Request
		for route, err := range r.Caches.Needing(ctx, client.ObjectKeyFromObject(grant)) {
			if err != nil {
				log.FromContext(ctx).Error(err, "routes that need a grant could not be listed", "grant", client.ObjectKeyFromObject(grant))
				return nil
			}
			requests = r.append(requests, route, func(policy.Edge) bool { return true })
		}
		return requests
	}
	permitting := *grant
	permitting.DeletionTimestamp = nil
	return r.keys(ctx, cluster.ByTarget, grant.Namespace, func(e policy.Edge) bool {
		return policy.Permits(&permitting, e, e.FromNamespace) || policy.Permits(&permitting, e, e.Origin)
	})
}

// keys are the copies of the parked sources that an index finds and that have such an edge.
func (r *Reconciler) keys(ctx context.Context, index, value string, which func(policy.Edge) bool) []ctrl.Request {
	routes, err := r.Caches.Routes(ctx, index, value)
	if err != nil {
		log.FromContext(ctx).Error(err, "routes could not be listed", "index", index, "value", value)
		return nil
	}
	var requests []ctrl.Request
	for _, obj := range routes {
		requests = r.append(requests, obj, which)
	}
	return requests
}

// append adds the copy of a parked source of the kind that has such an edge.
func (r *Reconciler) append(requests []ctrl.Request, obj client.Object, which func(policy.Edge) bool) []ctrl.Request {
	route, ok := policy.RouteOf(obj)
	if ok && route.Kind == r.Kind && r.Policy.IsParked(route) && slices.ContainsFunc(r.Policy.Edges(route), which) {
		requests = append(requests, r.request(r.Policy.CopyName(route.Namespace, route.Meta.Name)))
	}
	return requests
}

// Reconcile brings the copy of one name in line with the source that has the name, and reports the result to every source.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	cached, err := r.Caches.Sources(ctx, r.Kind, req.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	stored, err := r.read(ctx, req.NamespacedName)
	if err != nil {
		return ctrl.Result{}, err
	}
	owner, managed := r.owner(stored)
	parked, former := r.sort(cached, owner)
	if stored != nil && !managed { // somebody else's route is out of scope
		for _, source := range parked {
			if err := r.refuse(ctx, source, ReasonNameTaken, fmt.Sprintf("%s %s exists and is not this route's copy; give this route another name", r.Kind, req.NamespacedName)); err != nil {
				return afterConflict(err)
			}
		}
	} else if err := r.serve(ctx, req.NamespacedName, stored, owner, parked); err != nil {
		return afterConflict(err)
	}
	for _, source := range former {
		if err := r.clear(ctx, source); err != nil {
			return afterConflict(err)
		}
	}
	return ctrl.Result{}, nil
}

// conflictPause is longer than the event of somebody else's write takes.
const conflictPause = time.Second

// afterConflict is what to return with an error: a conflict is no error. The event of the other write triggers
// the next reconcile, and so does a pause, as a busy API server may answer with a conflict for reasons of its own.
func afterConflict(err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: conflictPause}, nil
	}
	return ctrl.Result{}, err
}

// owner is the "namespace/name" of a stored copy's source; managed is false for a route that is no copy.
func (r *Reconciler) owner(stored *unstructured.Unstructured) (source string, managed bool) {
	if stored == nil || stored.GetLabels()[policy.ManagedByLabel] != policy.ManagedBy {
		return "", false
	}
	return stored.GetAnnotations()[policy.SourceAnnotation], true
}

// sort parts the sources of a name into those that are parked, the one that has the name first, and those that were. The
// name goes to the source of the copy that is there, else to the oldest source.
func (r *Reconciler) sort(sources []client.Object, owner string) (parked, former []types.NamespacedName) {
	live := slices.DeleteFunc(slices.Clone(sources), func(obj client.Object) bool {
		route, _ := policy.RouteOf(obj)
		return !r.Policy.Relocates(route)
	})
	slices.SortFunc(live, func(a, b client.Object) int {
		keyA, keyB := client.ObjectKeyFromObject(a).String(), client.ObjectKeyFromObject(b).String()
		switch owner {
		case keyA:
			return -1
		case keyB:
			return 1
		}
		if older := a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time); older != 0 {
			return older
		}
		return strings.Compare(keyA, keyB)
	})
	for _, obj := range live {
		parked = append(parked, client.ObjectKeyFromObject(obj))
	}
	for _, obj := range sources {
		if key := client.ObjectKeyFromObject(obj); !slices.Contains(parked, key) {
			former = append(former, key)
		}
	}
	return parked, former
}

// serve brings the copy in line with the first source, or removes it where there is none.
func (r *Reconciler) serve(ctx context.Context, key types.NamespacedName, stored *unstructured.Unstructured, owner string, parked []types.NamespacedName) error {
	if len(parked) == 0 {
		return r.orphan(ctx, stored, owner)
	}
	source, route, err := r.source(ctx, parked[0])
	if err != nil || source == nil {
		return err // an event follows
	}
	if problem := r.Policy.CannotRelocate(route); problem != "" {
		if err := r.remove(ctx, stored); err != nil {
			return err
		}
		return r.refuse(ctx, parked[0], ReasonCannotRelocate, "This route has no relocated copy: "+problem)
	}
	withheld, err := r.withheld(ctx, route)
	if err != nil {
		return err
	}
	desired, err := r.Policy.Copy(source, func(e policy.Edge) bool { return withheld[e] })
	if err != nil {
		return err
	}
	switch {
	case stored == nil:
		stored, err = r.create(ctx, desired, source)
	case !policy.InSync(stored, desired):
		err = r.update(ctx, stored, desired, source)
	}
	if err != nil {
		return err
	}
	if stored != nil {
		if err := r.mirror(ctx, source, route, stored, withheld); err != nil {
			return err
		}
	}
	for _, other := range parked[1:] {
		if err := r.refuse(ctx, other, ReasonNameTaken, fmt.Sprintf("%s %s is the copy of %s; give this route another name", r.Kind, key, parked[0])); err != nil {
			return err
		}
	}
	return nil
}

// source reads a parked source, nil where it is not parked any more.
func (r *Reconciler) source(ctx context.Context, key types.NamespacedName) (*unstructured.Unstructured, policy.Route, error) {
	obj, err := r.read(ctx, key)
	if err != nil || obj == nil {
		return nil, policy.Route{}, err
	}
	typed := cluster.NewRoute(r.Kind)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, typed); err != nil {
		return nil, policy.Route{}, fmt.Errorf("reading %s %s: %w", r.Kind, key, err)
	}
	route, _ := policy.RouteOf(typed)
	if !r.Policy.Relocates(route) {
		return nil, route, nil
	}
	return obj, route, nil
}

func (r *Reconciler) read(ctx context.Context, key types.NamespacedName) (*unstructured.Unstructured, error) {
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(gwv1.SchemeGroupVersion.WithKind(string(r.Kind)))
	if err := r.Live.Get(ctx, key, obj); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return obj, nil
}

// withheld are the edges that the copy may not use, as their target namespaces do not consent. That a grant exists, or the
// gateway would be permitted by somebody else's, is not enough: the copy refers from the system namespace, whose grants are
// for others too.
func (r *Reconciler) withheld(ctx context.Context, route policy.Route) (map[policy.Edge]bool, error) {
	if r.Policy.Grants == policy.GrantsOff {
		return nil, nil
	}
	facts := r.Caches.Facts(ctx)
	withheld := map[policy.Edge]bool{}
	for _, edge := range r.Policy.Edges(route) {
		decision := r.Policy.EvaluateEdge(edge, facts, false)
		if err := facts.Err(); err != nil {
			return nil, err
		}
		switch decision.Outcome {
		case policy.Undecided:
			return nil, fmt.Errorf("evaluating %s: not known whether %s", edge, decision.Missing)
		case policy.Vetoed:
			withheld[edge] = true
		case policy.Refused:
			// The grant that the source's admission made a moment ago may not be in the caches yet.
			granted := r.Policy.Granted(edge)
			grant, err := r.Caches.Served().Grant(ctx, r.Live, types.NamespacedName{Namespace: granted.Namespace, Name: granted.GrantName()})
			if err != nil {
				return nil, err
			}
			if !policy.Records(grant, granted) {
				withheld[edge] = true
			}
		}
	}
	return withheld, nil
}

func (r *Reconciler) create(ctx context.Context, desired, source *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	made := desired.DeepCopy()
	err := r.Writer.Create(ctx, made)
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil, nil // an event follows
	case err != nil:
		return nil, r.explain(ctx, source, "This route has no relocated copy: ", fmt.Errorf("creating the relocated copy %s: %w", client.ObjectKeyFromObject(desired), err))
	}
	r.Metrics.Copy(metrics.CopyMade)
	key := client.ObjectKeyFromObject(made)
	log.FromContext(ctx).Info("relocated copy created", "copy", key, "source", client.ObjectKeyFromObject(source))
	r.Events.Eventf(source, made, corev1.EventTypeNormal, ReasonRelocated, "Relocate", "%s %s serves this route", r.Kind, key)
	r.Events.Eventf(made, source, corev1.EventTypeNormal, ReasonRelocated, "Relocate", "created from %s %s", r.Kind, client.ObjectKeyFromObject(source))
	return made, nil
}

// update makes a stored copy as desired, whether its source has changed or somebody has changed the copy.
func (r *Reconciler) update(ctx context.Context, stored, desired, source *unstructured.Unstructured) error {
	stored.SetLabels(desired.GetLabels())
	stored.SetAnnotations(desired.GetAnnotations())
	stored.Object["spec"] = desired.Object["spec"]
	switch err := r.Writer.Update(ctx, stored); {
	case apierrors.IsNotFound(err):
		return nil // an event follows
	case err != nil:
		return r.explain(ctx, source, "The relocated copy cannot follow this route: ", err)
	}
	r.Metrics.Copy(metrics.CopyUpdated)
	log.FromContext(ctx).Info("relocated copy updated", "copy", client.ObjectKeyFromObject(stored), "source", client.ObjectKeyFromObject(source))
	return nil
}

// explain returns an error of writing a copy, which is tried again. Where the API server refuses the copy itself, the source's
// status gets the reason first: a quota, another webhook, a missing system namespace.
func (r *Reconciler) explain(ctx context.Context, source *unstructured.Unstructured, consequence string, err error) error {
	if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
		return err
	}
	return errors.Join(err, r.refuse(ctx, client.ObjectKeyFromObject(source), ReasonCannotRelocate, consequence+err.Error()))
}

// orphan removes a copy whose source is gone. The caches of a new leader may be behind the one before, so the source is
// looked for once more.
func (r *Reconciler) orphan(ctx context.Context, stored *unstructured.Unstructured, owner string) error {
	if stored == nil {
		return nil
	}
	namespace, name, _ := strings.Cut(owner, "/")
	if namespace != "" && name != "" && namespace != r.Policy.SystemNamespace && r.Policy.CopyName(namespace, name) == stored.GetName() {
		source, _, err := r.source(ctx, types.NamespacedName{Namespace: namespace, Name: name})
		if err != nil || source != nil {
			return err // an event of the source follows
		}
	}
	return r.remove(ctx, stored)
}

// remove deletes exactly the copy that was read.
func (r *Reconciler) remove(ctx context.Context, stored *unstructured.Unstructured) error {
	if stored == nil || stored.GetDeletionTimestamp() != nil {
		return nil
	}
	uid, version := stored.GetUID(), stored.GetResourceVersion()
	if err := r.Writer.Delete(ctx, stored, client.Preconditions{UID: &uid, ResourceVersion: &version}); err != nil {
		return client.IgnoreNotFound(err)
	}
	r.Metrics.Copy(metrics.CopyDeleted)
	log.FromContext(ctx).Info("relocated copy deleted: its source is gone", "copy", client.ObjectKeyFromObject(stored), "source", stored.GetAnnotations()[policy.SourceAnnotation])
	return nil
}
