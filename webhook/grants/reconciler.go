package grants

import (
	"context"
	"fmt"
	"slices"
	"sync"
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

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/webhook/cluster"
	"github.com/routewarden/routewarden/webhook/metrics"
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

// maxEvents bounds the routes that are told about one grant.
const maxEvents = 10

// Reconciler keeps managed grants: what a live governed route needs and its target consents to exists, everything else
// of ours goes after a grace. It is keyed by the grant, and one change leads to the few keys that it is about.
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

	mu sync.Mutex
	// unneeded says since when this process has seen a grant needed by no route. Lost at a restart, which only
	// begins the grace anew.
	unneeded map[types.NamespacedName]time.Time
	// gone holds needed grants whose deletion was seen and not yet judged: a revocation unless consent stands.
	gone map[types.NamespacedName]bool
	// withheld holds needed grants that are missing for want of consent, so that each is told once.
	withheld map[types.NamespacedName]string
}

// SetupWithManager adds the reconciler to the manager; it runs in the elected replica.
func (r *Reconciler) SetupWithManager(mgr manager.Manager) error {
	r.unneeded = map[types.NamespacedName]time.Time{}
	r.gone = map[types.NamespacedName]bool{}
	r.withheld = map[types.NamespacedName]string{}
	routeChanged := builder.WithPredicates(predicate.GenerationChangedPredicate{})
	b := ctrl.NewControllerManagedBy(mgr).Named("grants").
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Watches(r.Caches.Served().NewGrant(), handler.Funcs{
			CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { r.grantChanged(ctx, q, false, e.Object) },
			UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
				r.grantChanged(ctx, q, false, e.ObjectOld, e.ObjectNew)
			},
			DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { r.grantChanged(ctx, q, true, e.Object) },
		}).
		Watches(cluster.NewNamespace(), handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, obj client.Object) []ctrl.Request {
			return r.keysInto(ctx, obj.GetName(), func(policy.Edge) bool { return true })
		}), builder.WithPredicates(namespaceChanged)).
		Watches(cluster.NewGateway(), handler.EnqueueRequestsFromMapFunc(r.keysByGateway),
			builder.WithPredicates(predicate.Funcs{UpdateFunc: func(event.UpdateEvent) bool { return false }}))
	for _, kind := range r.Policy.Kinds {
		b = b.Watches(cluster.NewRoute(kind), handler.EnqueueRequestsFromMapFunc(func(_ context.Context, obj client.Object) []ctrl.Request {
			route, ok := policy.RouteOf(obj)
			if !ok {
				return nil
			}
			return requests(r.Caches.GrantKeys(route)...)
		}), routeChanged)
	}
	return b.Complete(r)
}

type queue = workqueue.TypedRateLimitingInterface[ctrl.Request]

// namespaceChanged passes what consent and creation depend on.
var namespaceChanged = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetLabels()[policy.GrantsLabel] != e.ObjectNew.GetLabels()[policy.GrantsLabel] ||
			(e.ObjectOld.GetDeletionTimestamp() == nil) != (e.ObjectNew.GetDeletionTimestamp() == nil)
	},
}

func requests(keys ...types.NamespacedName) []ctrl.Request {
	out := make([]ctrl.Request, len(keys))
	for i, key := range keys {
		out[i] = ctrl.Request{NamespacedName: key}
	}
	return out
}

// grantChanged enqueues a managed grant itself, and for a foreign one the grants of the edges that it permits.
func (r *Reconciler) grantChanged(ctx context.Context, q queue, deleted bool, versions ...client.Object) {
	for _, obj := range versions {
		grant := cluster.GrantOf(obj)
		if policy.IsManaged(grant) {
			key := client.ObjectKeyFromObject(grant)
			if deleted {
				r.mu.Lock()
				r.gone[key] = true
				r.mu.Unlock()
			}
			q.Add(ctrl.Request{NamespacedName: key})
			continue
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
		for _, edge := range policy.Edges(route) {
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

// keysByGateway are the grants of routes that become governed, or cease to be, as a Gateway comes or goes.
func (r *Reconciler) keysByGateway(ctx context.Context, gateway client.Object) []ctrl.Request {
	routes, err := r.Caches.Routes(ctx, cluster.ByGateway, gateway.GetName())
	if err != nil {
		log.FromContext(ctx).Error(err, "routes that name a Gateway could not be listed", "gateway", gateway.GetName())
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
	grant, err := r.Caches.Served().Grant(ctx, r.Caches, key)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	if err != nil {
		grant = nil
	}
	if grant != nil && !policy.IsManaged(grant) {
		r.forget(key)
		return ctrl.Result{}, nil
	}
	routes, err := r.Caches.Routes(ctx, cluster.ByGrant, key.String())
	if err != nil {
		return ctrl.Result{}, err
	}
	if len(routes) == 0 {
		return r.collect(ctx, key, grant)
	}
	r.mu.Lock()
	delete(r.unneeded, key)
	r.mu.Unlock()
	return ctrl.Result{}, r.keep(ctx, key, grant, routes)
}

// collect deletes a grant that no route needs, after the grace.
func (r *Reconciler) collect(ctx context.Context, key types.NamespacedName, grant *gwv1.ReferenceGrant) (ctrl.Result, error) {
	if grant == nil || grant.DeletionTimestamp != nil {
		r.forget(key)
		return ctrl.Result{}, nil
	}
	r.mu.Lock()
	since, seen := r.unneeded[key]
	if !seen {
		since = time.Now()
		r.unneeded[key] = since
	}
	r.mu.Unlock()
	if made := grant.CreationTimestamp.Time; made.After(since) {
		since = made
	}
	if wait := time.Until(since.Add(r.Grace)); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	err := deleteExactly(ctx, r.Writer, r.Caches.Served(), grant)
	if apierrors.IsConflict(err) {
		// An admission made it anew; its event brings us back with the new one.
		r.forget(key)
		return ctrl.Result{}, nil
	}
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, err
	}
	r.forget(key)
	if err == nil {
		r.Metrics.Grant(metrics.GrantDeleted)
		log.FromContext(ctx).Info("ReferenceGrant deleted: no route needs it", "grant", key)
	}
	return ctrl.Result{}, nil
}

// keep judges the edges of a needed grant without a requester, and makes, repairs or withdraws the grant.
func (r *Reconciler) keep(ctx context.Context, key types.NamespacedName, grant *gwv1.ReferenceGrant, routes []client.Object) error {
	facts := r.Caches.Facts(ctx)
	judgement, edge, governed := r.judge(key, routes, facts)
	if err := facts.Err(); err != nil {
		return err
	}
	granted := r.Policy.Granted(edge)
	logger := log.FromContext(ctx).WithValues("grant", key, "edge", granted.String())
	gone := r.takeGone(key) && grant == nil

	switch judgement.Outcome {
	case policy.Undecided:
		return fmt.Errorf("judging ReferenceGrant %s: not known whether %s", key, judgement.Missing)
	case policy.Recorded, policy.Permitted:
		r.settled(key)
		return nil
	case policy.Vetoed:
		if grant == nil {
			r.withhold(key, routes, ReasonWithheld, fmt.Sprintf("namespace %q refuses references from other namespaces (label %s=%s)", edge.Namespace, policy.GrantsLabel, policy.GrantsDeny))
			return nil
		}
		if err := deleteExactly(ctx, r.Writer, r.Caches.Served(), grant); client.IgnoreNotFound(err) != nil {
			return err
		}
		r.Metrics.Grant(metrics.GrantRevoked)
		logger.Info("ReferenceGrant revoked: its namespace refuses grants")
		r.withhold(key, routes, ReasonRevoked, fmt.Sprintf("namespace %q now refuses references from other namespaces (label %s=%s): ReferenceGrant %s was deleted", edge.Namespace, policy.GrantsLabel, policy.GrantsDeny, key.Name))
		return nil
	case policy.Grantable:
		if !governed {
			return nil
		}
		if grant != nil {
			// Ours by label and name, but somebody changed it while the webhook was away.
			return r.replace(ctx, grant, granted, judgement.Consent)
		}
		err := r.Writer.Create(ctx, r.Caches.Served().GrantObject(granted.Grant(string(judgement.Consent))))
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		if err != nil {
			return err
		}
		r.Metrics.Grant(metrics.GrantRestored)
		logger.Info("ReferenceGrant made: a route needs it and its namespace consents", "consent", judgement.Consent)
		r.settled(key)
		r.tell(routes, corev1.EventTypeNormal, ReasonRestored, fmt.Sprintf("made ReferenceGrant %s: %s", key, granted))
		return nil
	}

	// Refused. The name of a managed grant is a digest of its edge, so a changed one still tells whose consent it records.
	if grant != nil && grant.DeletionTimestamp == nil && !judgement.Gone {
		return r.replace(ctx, grant, granted, policy.ConsentRecorded)
	}
	if !governed || r.Policy.Grants != policy.GrantsInject {
		return nil
	}
	if judgement.Gone {
		r.withhold(key, routes, ReasonWithheld, fmt.Sprintf("namespace %q is missing or being deleted, so nothing permits: %s", edge.Namespace, granted))
		return nil
	}
	if gone {
		// An admission may have made it anew; then its event is on the way.
		if _, err := r.Caches.Served().Grant(ctx, r.Live, key); !apierrors.IsNotFound(err) {
			return err
		}
		r.Metrics.Grant(metrics.GrantRevoked)
		logger.Info("ReferenceGrant revoked: somebody deleted it and its namespace does not consent")
		r.withhold(key, routes, ReasonRevoked, fmt.Sprintf("ReferenceGrant %s was deleted, which revokes: %s. Ask the owner of %q", key, granted, edge.Namespace))
		return nil
	}
	r.withhold(key, routes, ReasonWithheld, fmt.Sprintf("namespace %q has not consented, so nothing permits: %s", edge.Namespace, granted))
	return nil
}

// judge finds the edge of the grant among the routes. Where several edges share the grant, one that may have it decides.
func (r *Reconciler) judge(key types.NamespacedName, routes []client.Object, facts policy.Facts) (policy.Judgement, policy.Edge, bool) {
	var (
		best     policy.Judgement
		bestEdge policy.Edge
		governed bool
	)
	for _, obj := range routes {
		route, _ := policy.RouteOf(obj)
		for _, edge := range policy.Edges(route) {
			if grantKey(r.Policy.Granted(edge)) != key {
				continue
			}
			if judgement := r.Policy.Judge(edge, facts, false); bestEdge == (policy.Edge{}) || judgement.Outcome > best.Outcome {
				best, bestEdge = judgement, edge
			}
		}
		governed = governed || r.Policy.Governs(route, facts) == policy.Yes
		// With to.name in the grant all routes of one key have the same edge.
		if governed && r.Policy.GrantScope == policy.GrantScopeService {
			break
		}
	}
	return best, bestEdge, governed
}

// replace deletes a changed grant and makes it as it was.
func (r *Reconciler) replace(ctx context.Context, grant *gwv1.ReferenceGrant, granted policy.Edge, consent policy.Consent) error {
	key := client.ObjectKeyFromObject(grant)
	if grant.DeletionTimestamp != nil {
		return nil
	}
	if err := deleteExactly(ctx, r.Writer, r.Caches.Served(), grant); client.IgnoreNotFound(err) != nil {
		return err
	}
	if err := r.Writer.Create(ctx, r.Caches.Served().GrantObject(granted.Grant(string(consent)))); err != nil {
		return fmt.Errorf("making ReferenceGrant %s again: %w", key, err)
	}
	r.takeGone(key)
	r.Metrics.Grant(metrics.GrantRepaired)
	log.FromContext(ctx).Info("ReferenceGrant repaired: it had been changed", "grant", key, "edge", granted.String())
	return nil
}

func (r *Reconciler) takeGone(key types.NamespacedName) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone := r.gone[key]
	delete(r.gone, key)
	return gone
}

// forget drops what is remembered about a grant that is of no more concern.
func (r *Reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.unneeded, key)
	delete(r.gone, key)
	delete(r.withheld, key)
	r.Metrics.Withheld(len(r.withheld))
}

func (r *Reconciler) settled(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.withheld, key)
	r.Metrics.Withheld(len(r.withheld))
}

// withhold notes that a needed grant is missing, and tells its routes when that is news.
func (r *Reconciler) withhold(key types.NamespacedName, routes []client.Object, reason, note string) {
	r.mu.Lock()
	told := r.withheld[key] == note
	// A revocation is told when it happens; that the grant is still missing later is no news.
	if !told && reason == ReasonWithheld && r.withheld[key] != "" {
		told = true
	}
	if !told {
		r.withheld[key] = note
	}
	r.Metrics.Withheld(len(r.withheld))
	r.mu.Unlock()
	if !told {
		r.tell(routes, corev1.EventTypeWarning, reason, note)
	}
}

func (r *Reconciler) tell(routes []client.Object, eventType, reason, note string) {
	slices.SortFunc(routes, func(a, b client.Object) int { return a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time) })
	for _, route := range routes[:min(len(routes), maxEvents)] {
		r.Events.Eventf(route, nil, eventType, reason, "Reconcile", "%s", note)
	}
}
