// Package grants gives managed ReferenceGrants their life: an admission makes them before the route is stored, and a
// reconciler keeps those that are needed and consented, and deletes the others.
//
// # What the reconciler remembers
//
// The caches hold what is, the reconciler remembers of each grant one state:
//
//   - Settled: nothing. The grant exists and is needed, or does not exist and is not needed, or was never looked at.
//   - Unneeded since a time: the grant exists and no route needs it. It is deleted after the grace, which leads to Settled.
//   - Deleted: its deletion was seen, and not evaluated yet. Where a route needs it and its namespace does not consent
//     without it, that is a revocation.
//   - Withheld: a route needs it, it does not exist and may not be made. The routes got an Event.
//   - WithheldDeleted: Withheld, but it existed again and its deletion was seen.
//
// The transitions: a deletion leads to Deleted or, from Withheld, to WithheldDeleted. A route that is seen to need the grant
// leads from Unneeded to Settled. A look at the grant (Reconcile) leads to Settled where all is well, to Unneeded where a
// grant exists and no route needs it, and to Withheld where a needed one may not be made, with an Event unless there was one.
package grants

import (
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/metrics"
)

// attempts bounds the races with other replicas that one Ensure goes through; pause is between its looks at what they do.
const (
	attempts = 5
	pause    = 50 * time.Millisecond
	// announceTimeout is much longer than the watches of an API server that works ever lag behind.
	announceTimeout = 250 * time.Millisecond
)

// Maker makes the grants that an admitted route needs. It is safe for concurrent use, in several replicas.
type Maker struct {
	// Writer creates and deletes; Live reads past the caches; Caches are read first.
	Writer client.Writer
	Live   client.Reader
	Caches *cluster.Reader
	// Grace is how long the reconciler keeps a grant that nothing needs.
	Grace time.Duration
	// Fresh reports whether what the caches hold is still there.
	Fresh   *cluster.Freshness
	Metrics *metrics.Metrics
}

// Exists reports whether the grant is there already and needs no Ensure, as the caches show. It only looks.
func (m *Maker) Exists(ctx context.Context, use policy.GrantUse) bool {
	grant, err := m.Caches.Grant(ctx, keyOf(use))
	if err != nil || grant == nil || !m.fresh() {
		return false
	}
	stays, err := m.stays(ctx, grant, use)
	return stays && err == nil
}

func keyOf(use policy.GrantUse) types.NamespacedName {
	return types.NamespacedName{Namespace: use.Edge.Namespace, Name: use.Name}
}

// Ensure returns when the grant is there, and will be there until the route that is being admitted can be seen by the
// reconciler. Calling it again changes nothing. The consent is written into the grant, in words.
func (m *Maker) Ensure(ctx context.Context, use policy.GrantUse, consent string) error {
	key := keyOf(use)
	var current *gwv1.ReferenceGrant
	var err error
	if m.fresh() {
		current, err = m.Caches.Grant(ctx, key)
	} else {
		current, err = m.Caches.Served().Grant(ctx, m.Live, key)
	}
	// Where the grant is itself the consent, only one that was seen and replaced here may be made: that somebody deletes it
	// revokes the consent.
	mayMake := use.Consent != policy.ConsentRecorded
	for attempt := 0; attempt < attempts && err == nil; attempt++ {
		if current != nil {
			if stays, err := m.stays(ctx, current, use); err != nil || stays {
				return err
			}
			replaced, err := m.replace(ctx, current)
			if err != nil {
				return err
			}
			mayMake = mayMake || replaced
		}
		switch {
		case mayMake:
			made := use.Edge.Grant(consent)
			err := m.Writer.Create(ctx, m.Caches.Served().GrantObject(made))
			if err == nil {
				m.Metrics.Grant(metrics.GrantMade)
				m.announced(ctx, made)
				return nil
			}
			if !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("creating ReferenceGrant %s: %w", key, err)
			}
		case attempt > 0:
			// Another replica may be between deleting and recreating it.
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause):
			}
		}
		// The cache is behind.
		current, err = m.Caches.Served().Grant(ctx, m.Live, key)
	}
	switch {
	case err != nil:
		return fmt.Errorf("reading ReferenceGrant %s: %w", key, err)
	case !mayMake && current == nil:
		return fmt.Errorf("ReferenceGrant %s, which recorded the consent, was deleted just now, try again", key)
	}
	return fmt.Errorf("creating ReferenceGrant %s: other writers interfered %d times, try again", key, attempts)
}

// announced returns when the API server has the new grant ready for those who watch, or after a moment. A gateway watches
// grants and routes apart, and an API server feeds the watches of each kind and version from etcd by itself: on a busy one
// the route that is about to be stored could overtake its grant. A read of at least the grant's resourceVersion is answered
// from what the watches are fed from, of v1beta1 because that is the version which gateways of every release watch. It makes
// the right order likely, no more, so its outcome does not matter.
func (m *Maker) announced(ctx context.Context, made *gwv1.ReferenceGrant) {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	_ = m.Live.Get(ctx, client.ObjectKeyFromObject(made), &gwv1beta1.ReferenceGrant{},
		&client.GetOptions{Raw: &metav1.GetOptions{ResourceVersion: made.ResourceVersion}})
}

// stays reports whether an existing grant serves the edge and will not be collected before the new route is seen.
//
// The reconciler deletes a grant that has gone unneeded for the grace. One that a live route needs is safe, as its grace
// would only begin when that route goes; so is a young one, as no grace has run out before the grant is that old (the
// clocks of the replicas and the API server agree to much less than a grace). Any other may be deleted any moment; a new
// one has a new UID, which the reconciler's precondition does not match. Caches that may be behind do not show which routes
// are live.
func (m *Maker) stays(ctx context.Context, grant *gwv1.ReferenceGrant, use policy.GrantUse) (bool, error) {
	if !use.RecordedBy(grant) {
		return false, nil
	}
	if time.Since(grant.CreationTimestamp.Time) < m.Grace/2 {
		return true, nil
	}
	key := client.ObjectKeyFromObject(grant)
	if m.fresh() {
		return m.Caches.Needed(ctx, key)
	}
	return m.neededLive(ctx, key)
}

func (m *Maker) fresh() bool {
	_, ok := m.Fresh.Since()
	return ok
}

// maxLive bounds the routes that are read past the caches for one grant.
const maxLive = 3

// neededLive asks the API server whether one of the routes that need a grant, as the caches show, still does. It knows no other
// routes, and does not ask for all, as a grant can be recreated.
func (m *Maker) neededLive(ctx context.Context, key types.NamespacedName) (bool, error) {
	asked := 0
	for cached, err := range m.Caches.Needing(ctx, key) {
		if err != nil || asked == maxLive {
			return false, err
		}
		asked++
		route, _ := policy.RouteOf(cached)
		now := cluster.NewRoute(route.Kind)
		err = m.Live.Get(ctx, client.ObjectKeyFromObject(cached), now)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("reading a route that needs ReferenceGrant %s: %w", key, err)
		}
		if route, _ = policy.RouteOf(now); now.GetDeletionTimestamp() == nil && slices.Contains(m.Caches.GrantKeys(route), key) {
			return true, nil
		}
	}
	return false, nil
}

// replace deletes a grant that does not stay so that it can be recreated, as a managed grant is never updated; false where
// somebody else was faster.
func (m *Maker) replace(ctx context.Context, grant *gwv1.ReferenceGrant) (bool, error) {
	key := client.ObjectKeyFromObject(grant)
	switch {
	case !policy.IsManaged(grant):
		return false, fmt.Errorf("ReferenceGrant %s exists and is not managed by routesteward: delete or rename it", key)
	case grant.DeletionTimestamp != nil:
		return false, fmt.Errorf("ReferenceGrant %s is being deleted, try again when it is gone", key)
	}
	err := deleteExactly(ctx, m.Writer, m.Caches.Served(), grant)
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
		return false, nil
	}
	return false, fmt.Errorf("replacing ReferenceGrant %s: %w", key, err)
}

// deleteExactly deletes the object that was read: not a newer one of the same name, and not one that changed since.
func deleteExactly(ctx context.Context, writer client.Writer, served cluster.Served, grant *gwv1.ReferenceGrant) error {
	uid, version := grant.UID, grant.ResourceVersion
	obj := served.NewGrant()
	obj.SetNamespace(grant.Namespace)
	obj.SetName(grant.Name)
	return writer.Delete(ctx, obj, client.Preconditions{UID: &uid, ResourceVersion: &version})
}

func grantKey(edge policy.Edge) types.NamespacedName {
	return types.NamespacedName{Namespace: edge.Namespace, Name: edge.GrantName()}
}
