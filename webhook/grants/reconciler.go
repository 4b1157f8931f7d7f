package grants

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/metrics"
)

// Reasons of the Events on routes.
const (
	// ReasonRevoked: a managed grant that the route needs was deleted, or the target namespace vetoed it.
	ReasonRevoked = "ReferenceGrantRevoked"
	// ReasonWithheld: the route needs a grant that is not there, and the target namespace has not consented.
	ReasonWithheld = "ReferenceGrantWithheld"
	// ReasonRestored: a lost grant was made again, as the target namespace consents.
	ReasonRestored = "ReferenceGrantRestored"
)

// maxEvents bounds the routes that get an Event about one grant.
const maxEvents = 10

// Reconciler keeps managed grants: what a live governed route needs and its target consents to exists, every other
// managed grant goes after a grace. It is keyed by the grant, and one change leads to the few keys that it is about.
type Reconciler struct {
	Policy *policy.Policy
	Writer client.Writer
	// Live is read past the caches before a deletion is called a revocation.
	Live    client.Reader
	Caches  *cluster.Reader
	Events  events.EventRecorder
	Metrics *metrics.Metrics
	// Grace is how long a grant is kept after it was last needed, and at least after it was made.
	Grace time.Duration
	// Fresh reports whether what the caches do not hold is not there.
	Fresh *cluster.Freshness

	memory memory
}

// SetupWithManager adds the reconciler to the manager; it runs in the elected replica.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	b := ctrl.NewControllerManagedBy(mgr).Named("grants").
		WithOptions(controller.Options{MaxConcurrentReconciles: 4})
	for _, watch := range r.Watches() {
		b = b.Watches(watch.Object, watch.Handler, builder.WithPredicates(watch.Predicate))
	}
	return b.Complete(r)
}

// Watches are the changes that matter, each with the keys that it leads to.
func (r *Reconciler) Watches() []cluster.Watch {
	watches := []cluster.Watch{
		{Object: r.Caches.Served().NewGrant(), Predicate: cluster.EveryEvent, Handler: handler.Funcs{
			CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { r.grantChanged(ctx, q, false, e.Object) },
			UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
				r.grantChanged(ctx, q, false, e.ObjectOld, e.ObjectNew)
			},
			DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { r.grantChanged(ctx, q, true, e.Object) },
		}},
		{Object: cluster.NewNamespace(), Predicate: cluster.NamespaceChanged, Handler: handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, obj client.Object) []ctrl.Request {
			return r.keysInto(ctx, obj.GetName(), func(policy.Edge) bool { return true })
		})},
		{Object: cluster.NewGateway(), Handler: handler.EnqueueRequestsFromMapFunc(r.keysByGateway),
			Predicate: predicate.Funcs{UpdateFunc: func(event.UpdateEvent) bool { return false }}},
	}
	for _, kind := range r.Policy.Kinds {
		watches = append(watches, cluster.Watch{Object: cluster.NewRoute(kind), Handler: handler.EnqueueRequestsFromMapFunc(r.keysByRoute),
			Predicate: predicate.Or(predicate.GenerationChangedPredicate{}, parkingChanged)})
	}
	return watches
}

// parkingChanged passes updates that park a route or take that back, which may be written without a new generation.
var parkingChanged = predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false },
	DeleteFunc: func(event.DeleteEvent) bool { return false },
	UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetAnnotations()[policy.ParkedAnnotation] != e.ObjectNew.GetAnnotations()[policy.ParkedAnnotation]
	},
	GenericFunc: func(event.GenericEvent) bool { return false },
}

type queue = workqueue.TypedRateLimitingInterface[ctrl.Request]

func requests(keys ...types.NamespacedName) []ctrl.Request {
	out := make([]ctrl.Request, len(keys))
	for i, key := range keys {
		out[i] = ctrl.Request{NamespacedName: key}
	}
	return out
}

// grantChanged enqueues a managed grant itself, and for a foreign one the grants of the edges that it permits, and the one
// whose name it holds.
func (r *Reconciler) grantChanged(ctx context.Context, q queue, deleted bool, versions ...client.Object) {
	for _, obj := range versions {
		grant := cluster.GrantOf(obj)
		key := client.ObjectKeyFromObject(grant)
		if policy.IsManaged(grant) {
			if deleted {
				r.change(key, deletionSeen)
			}
			q.Add(ctrl.Request{NamespacedName: key})
			continue
		}
		if strings.HasPrefix(key.Name, policy.GrantNamePrefix) {
			q.Add(ctrl.Request{NamespacedName: key})
		}
		permitting := *grant
		permitting.DeletionTimestamp = nil
		for _, request := range r.keysInto(ctx, grant.Namespace, func(e policy.Edge) bool {
			return policy.Permits(&permitting, e, e.FromNamespace) || policy.Permits(&permitting, e, e.Origin)
		}) {
			q.Add(request)
		}
	}
}

// keysInto are the grants of the edges into a namespace.
func (r *Reconciler) keysInto(ctx context.Context, namespace string, which func(policy.Edge) bool) []ctrl.Request {
	routes, err := r.Caches.Routes(ctx, cluster.ByTarget, namespace)
	if err != nil {
		log.FromContext(ctx).Error(err, "routes that refer to a namespace could not be listed", "namespace", namespace)
		return nil
	}
	seen := map[types.NamespacedName]bool{}
	for _, obj := range routes {
		route, _ := policy.RouteOf(obj)
		for _, edge := range r.Policy.Edges(route) {
			if edge.Namespace == namespace && which(edge) {
				seen[grantKey(r.Policy.Granted(edge))] = true
			}
		}
	}
	keys := make([]types.NamespacedName, 0, len(seen))
	for key := range seen {
		keys = append(keys, key)
	}
	return requests(keys...)
}

// keysByRoute are the grants that a version of a route needs. They are needed up to now, so that their grace begins again
// even where the route came and went faster than it was reconciled: an admission may rely on having seen it.
func (r *Reconciler) keysByRoute(_ context.Context, obj client.Object) []ctrl.Request {
	route, ok := policy.RouteOf(obj)
	if !ok {
		return nil
	}
	keys := r.Caches.GrantKeys(route)
	for _, key := range keys {
		r.change(key, routeSeen)
	}
	return requests(keys...)
}

// keysByGateway are the grants of routes that become governed, or cease to be, as a Gateway comes or goes.
func (r *Reconciler) keysByGateway(ctx context.Context, gateway client.Object) []ctrl.Request {
	key := client.ObjectKeyFromObject(gateway)
	routes, err := r.Caches.Routes(ctx, cluster.ByGateway, key.String())
	if err != nil {
		log.FromContext(ctx).Error(err, "routes that name a Gateway could not be listed", "gateway", key)
		return nil
	}
	var keys []types.NamespacedName
	for _, obj := range routes {
		route, _ := policy.RouteOf(obj)
		keys = append(keys, r.Caches.GrantKeys(route)...)
	}
	return requests(keys...)
}

// Reconcile brings one managed grant in line with the routes that need it and with its namespace's consent.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	key := req.NamespacedName
	grant, err := r.Caches.Grant(ctx, key)
	if err != nil {
		return ctrl.Result{}, err
	}
	// A grant that is not managed may hold the name; it is never touched.
	taken := grant != nil && !policy.IsManaged(grant)
	if taken {
		grant = nil
	}
	needed, err := r.Caches.Needed(ctx, key)
	if err != nil {
		return ctrl.Result{}, err
	}
	if !needed {
		return r.collect(ctx, key, grant)
	}
	return ctrl.Result{}, r.keep(ctx, key, grant, taken)
}

// collect deletes a grant that no route needs, after the grace.
func (r *Reconciler) collect(ctx context.Context, key types.NamespacedName, grant *gwv1.ReferenceGrant) (ctrl.Result, error) {
	if grant == nil || grant.DeletionTimestamp != nil {
		r.become(key, Settled)
		return ctrl.Result{}, nil
	}
	since := r.change(key, noRouteSeen).Since
	if made := grant.CreationTimestamp.Time; made.After(since) {
		since = made
	}
	// After an outage a route may be stored that its admission's grant has waited for all the while.
	whole, ok := r.Fresh.Since()
	if !ok {
		return ctrl.Result{RequeueAfter: max(time.Second, r.Grace/4)}, nil
	}
	if whole.After(since) {
		since = whole
	}
	if wait := time.Until(since.Add(r.Grace)); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	err := deleteExactly(ctx, r.Writer, r.Caches.Served(), grant)
	if apierrors.IsConflict(err) {
		// An admission recreated it. Not only its event leads back here: a busy API server may answer so for reasons of its own.
		r.become(key, Settled)
		return ctrl.Result{RequeueAfter: r.Grace}, nil
	}
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	r.become(key, Settled)
	if err == nil {
		r.Metrics.Grant(metrics.GrantDeleted)
		log.FromContext(ctx).Info("ReferenceGrant deleted: no route needs it", "grant", key)
	}
	return ctrl.Result{}, nil
}

// keep evaluates the edges of a needed grant without a requester, and makes, repairs or withdraws the grant.
func (r *Reconciler) keep(ctx context.Context, key types.NamespacedName, grant *gwv1.ReferenceGrant, taken bool) error {
	facts := r.Caches.Facts(ctx)
	n, err := r.evaluate(ctx, key, facts)
	if err := cmp.Or(err, facts.Err()); err != nil {
		return err
	}
	if n.edge == (policy.Edge{}) {
		// The last route that needs it went between one look into the caches and the next; an event follows.
		return nil
	}
	if n.Outcome == policy.Undecided {
		return fmt.Errorf("evaluating ReferenceGrant %s: not known whether %s", key, n.Missing)
	}
	ctx = log.IntoContext(ctx, log.FromContext(ctx).WithValues("grant", key, "edge", n.granted.String()))
	if grant != nil && grant.DeletionTimestamp == nil {
		switch {
		case n.Outcome == policy.Vetoed:
			return r.revoke(ctx, grant, n, facts)
		case !policy.Records(grant, n.granted) && !n.Gone:
			// The name of a managed grant is a digest of its edge, so a changed one still shows whose consent it records.
			return r.replace(ctx, grant, n)
		case n.Outcome == policy.Refused:
			// It went, or its namespace is about to, between one look into the caches and the next; an event follows.
			return nil
		}
	}
	if n.Outcome == policy.Recorded || n.Outcome == policy.Permitted || !n.governed || r.Policy.Grants != policy.GrantsInject {
		r.become(key, Settled)
		return nil
	}
	return r.missing(ctx, key, n, facts, taken)
}

// refuses is said of a namespace with a veto.
var refuses = fmt.Sprintf("refuses references from other namespaces (label %s=%s)", policy.GrantsLabel, policy.GrantsDeny)

// missing restores a needed grant that is missing, or withholds it and reports that once.
func (r *Reconciler) missing(ctx context.Context, key types.NamespacedName, n need, facts policy.Facts, taken bool) error {
	remembered := r.remembered(key)
	revoked := remembered.deleted() && n.Outcome == policy.Refused && !n.Gone
	switch {
	case n.Outcome == policy.Grantable && !taken:
		return r.restore(ctx, key, n, facts)
	case remembered.reported() && !revoked:
		r.become(key, Withheld)
		return nil
	case n.Outcome == policy.Grantable:
		r.withhold(ctx, key, facts, ReasonWithheld, fmt.Sprintf("ReferenceGrant %s exists and is not managed by routesteward: delete or rename it", key))
		return nil
	case n.Outcome == policy.Vetoed:
		r.withhold(ctx, key, facts, ReasonWithheld, fmt.Sprintf("namespace %q %s", key.Namespace, refuses))
		return nil
	}
	if sure, err := r.confirm(ctx, key, n.Gone); err != nil || !sure {
		return err
	}
	switch {
	case n.Gone:
		r.withhold(ctx, key, facts, ReasonWithheld, fmt.Sprintf("namespace %q is missing or being deleted, so nothing permits: %s", key.Namespace, n.granted))
	case revoked:
		r.Metrics.Grant(metrics.GrantRevoked)
		log.FromContext(ctx).Info("ReferenceGrant revoked: somebody deleted it and its namespace does not consent")
		r.withhold(ctx, key, facts, ReasonRevoked, fmt.Sprintf("ReferenceGrant %s was deleted, which revokes: %s. Ask the owner of %q", key, n.granted, key.Namespace))
	default:
		r.withhold(ctx, key, facts, ReasonWithheld, fmt.Sprintf("namespace %q has not consented, so nothing permits: %s", key.Namespace, n.granted))
	}
	return nil
}

// need is what the edges of one grant come to, by the edge that decides; granted is that edge as the grant has it.
type need struct {
	policy.EdgeDecision
	edge, granted policy.Edge
	// governed is true where the edge is one of a governed route. Others only keep a grant that exists.
	governed bool
}

// evaluate finds the edge that decides about a grant: with to.name in the grant all its routes have the same one. Without, no
// other edge comes before one that may have the grant: whether that is there is the same for all of them.
func (r *Reconciler) evaluate(ctx context.Context, key types.NamespacedName, facts policy.Facts) (need, error) {
	var best need
	for obj, err := range r.Caches.Needing(ctx, key) {
		if err != nil {
			return need{}, err
		}
		if n := r.needOf(key, obj, facts); best.edge == (policy.Edge{}) || n.before(best) {
			best = n
		}
		if best.governed && (r.Policy.GrantScope == policy.GrantScopeService || best.Outcome > policy.Permitted) {
			break
		}
	}
	return best, nil
}

func (r *Reconciler) needOf(key types.NamespacedName, obj client.Object, facts policy.Facts) need {
	var best need
	route, _ := policy.RouteOf(obj)
	governed := r.Policy.Governs(route, facts) == policy.Yes
	for _, edge := range r.Policy.Edges(route) {
		granted := r.Policy.Granted(edge)
		if grantKey(granted) != key {
			continue
		}
		if n := (need{r.Policy.EvaluateEdge(edge, facts, false), edge, granted, governed}); best.edge == (policy.Edge{}) || n.before(best) {
			best = n
		}
	}
	return best
}

// before orders edges that share a grant: those of governed routes, of these one that may have the grant, then one that
// lacks it, and last one that somebody else's grant permits.
func (n need) before(other need) bool {
	if n.governed != other.governed {
		return n.governed
	}
	if (n.Outcome == policy.Permitted) != (other.Outcome == policy.Permitted) {
		return n.Outcome != policy.Permitted
	}
	return n.Outcome > other.Outcome
}

// restore makes a missing grant, for which there is consent.
func (r *Reconciler) restore(ctx context.Context, key types.NamespacedName, n need, facts policy.Facts) error {
	err := r.Writer.Create(ctx, r.Caches.Served().GrantObject(n.granted.Grant(string(n.Consent))))
	if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		// The cache is behind; an event follows.
		return nil
	}
	if err != nil {
		return fmt.Errorf("creating ReferenceGrant %s: %w", key, err)
	}
	r.become(key, Settled)
	r.Metrics.Grant(metrics.GrantRestored)
	log.FromContext(ctx).Info("ReferenceGrant created: a route needs it and its namespace consents", "consent", n.Consent)
	r.report(ctx, key, facts, corev1.EventTypeNormal, ReasonRestored, fmt.Sprintf("created ReferenceGrant %s: %s", key, n.granted))
	return nil
}

// replace deletes a changed grant and makes it as it was.
func (r *Reconciler) replace(ctx context.Context, grant *gwv1.ReferenceGrant, n need) error {
	if err := deleteExactly(ctx, r.Writer, r.Caches.Served(), grant); err != nil {
		// One that is gone was deleted by somebody, which revokes; an event follows.
		return client.IgnoreNotFound(err)
	}
	made := n.granted.Grant(string(cmp.Or(n.Consent, policy.ConsentRecorded)))
	if err := r.Writer.Create(ctx, r.Caches.Served().GrantObject(made)); err != nil {
		return fmt.Errorf("creating ReferenceGrant %s again: %w", client.ObjectKeyFromObject(grant), err)
	}
	r.Metrics.Grant(metrics.GrantRepaired)
	log.FromContext(ctx).Info("ReferenceGrant repaired: it had been changed")
	return nil
}

// revoke deletes a grant whose namespace refuses grants. It asks the API server whether it still does: the cache of
// namespaces may be behind that of grants, and the grant made since the veto was lifted. An event follows then.
func (r *Reconciler) revoke(ctx context.Context, grant *gwv1.ReferenceGrant, n need, facts policy.Facts) error {
	key, namespace := client.ObjectKeyFromObject(grant), cluster.NewNamespace()
	err := r.Live.Get(ctx, types.NamespacedName{Name: key.Namespace}, namespace)
	if err != nil || namespace.Labels[policy.GrantsLabel] != policy.GrantsDeny {
		return client.IgnoreNotFound(err)
	}
	if err := deleteExactly(ctx, r.Writer, r.Caches.Served(), grant); err != nil {
		return client.IgnoreNotFound(err)
	}
	r.Metrics.Grant(metrics.GrantRevoked)
	log.FromContext(ctx).Info("ReferenceGrant revoked: its namespace refuses grants")
	if n.governed {
		r.withhold(ctx, key, facts, ReasonRevoked, fmt.Sprintf("namespace %q now %s: ReferenceGrant %s was deleted", key.Namespace, refuses, key.Name))
	}
	return nil
}

// confirm asks the API server whether the managed grant is missing, and whether its namespace is missing or being deleted
// as the caches show. They may be behind, and each kind's by as much as it likes: a new route can be seen before the grant
// that its admission made, and the deletion of a namespace's content before that of the namespace. An event follows then.
func (r *Reconciler) confirm(ctx context.Context, key types.NamespacedName, namespaceGone bool) (bool, error) {
	grant, err := r.Caches.Served().Grant(ctx, r.Live, key)
	if err != nil || grant != nil && policy.IsManaged(grant) && grant.DeletionTimestamp == nil {
		return false, err
	}
	namespace := cluster.NewNamespace()
	err = r.Live.Get(ctx, types.NamespacedName{Name: key.Namespace}, namespace)
	if client.IgnoreNotFound(err) != nil {
		return false, err
	}
	return namespaceGone == (err != nil || namespace.DeletionTimestamp != nil), nil
}

// withhold notes that a needed grant is missing, and reports it.
func (r *Reconciler) withhold(ctx context.Context, key types.NamespacedName, facts policy.Facts, reason, note string) {
	r.become(key, Withheld)
	r.report(ctx, key, facts, corev1.EventTypeWarning, reason, note)
}

// report writes an Event on the oldest governed routes that need the grant.
func (r *Reconciler) report(ctx context.Context, key types.NamespacedName, facts policy.Facts, eventType, reason, note string) {
	var routes []client.Object
	for route, err := range r.Caches.Needing(ctx, key) {
		if err != nil {
			log.FromContext(ctx).Error(err, "no Events are written about a grant", "grant", key)
			return
		}
		routes = append(routes, route)
	}
	slices.SortFunc(routes, func(a, b client.Object) int { return a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time) })
	written := 0
	for _, route := range routes {
		if n := r.needOf(key, route, facts); !n.governed || n.Outcome == policy.Permitted {
			continue
		}
		r.Events.Eventf(route, nil, eventType, reason, "Reconcile", "%s", note)
		if written++; written == maxEvents {
			return
		}
	}
}
