// Package grants gives managed ReferenceGrants their life: an admission makes them before the route is stored, and a
// reconciler keeps those that are needed and consented, and deletes the others.
package grants

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/webhook/cluster"
	"github.com/routewarden/routewarden/webhook/metrics"
)

// attempts bounds the races with other replicas that one Ensure goes through.
const attempts = 5

// Maker makes the grants that an admitted route stands on. It is safe for concurrent use, in several replicas.
type Maker struct {
	// Writer creates and deletes; Live reads past the caches; Caches are read first.
	Writer client.Writer
	Live   client.Reader
	Caches *cluster.Reader
	// Grace is how long the reconciler keeps a grant that nothing needs.
	Grace   time.Duration
	Metrics *metrics.Metrics
}

// Ensure returns when the grant of the edge is there, and will be there until the route that is being admitted can be
// seen by the reconciler. Calling it again changes nothing.
func (m *Maker) Ensure(ctx context.Context, edge policy.Edge, consent string) error {
	want := edge.Grant(consent)
	key := client.ObjectKeyFromObject(want)
	current, err := m.Caches.Served().Grant(ctx, m.Caches, key)
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	if err != nil {
		current = nil
	}
	for range attempts {
		if current != nil {
			stays, err := m.stays(ctx, current, edge)
			if err != nil || stays {
				return err
			}
		}
		// Create writes into what it is given.
		err := m.Writer.Create(ctx, m.Caches.Served().GrantObject(want.DeepCopy()))
		if err == nil {
			m.Metrics.Grant(metrics.GrantMade)
			return nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("making ReferenceGrant %s: %w", key, err)
		}
		// Another replica, or the cache is behind.
		current, err = m.Caches.Served().Grant(ctx, m.Live, key)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("reading ReferenceGrant %s: %w", key, err)
		}
		if err != nil {
			current = nil
		}
	}
	return fmt.Errorf("making ReferenceGrant %s: other writers interfered %d times, try again", key, attempts)
}

// stays reports whether an existing grant serves the edge and will not be collected before the new route is seen. A
// grant that will not is deleted here, so that it can be made anew: a managed grant is never updated.
//
// The reconciler deletes a grant that has gone unneeded for the grace. One that a live route needs is safe, as its grace
// would only begin when that route goes; so is a young one, as no grace has run out before the grant is that old. Any
// other may be deleted any moment; a new one has a new UID, which the reconciler's precondition does not match.
func (m *Maker) stays(ctx context.Context, grant *gwv1.ReferenceGrant, edge policy.Edge) (bool, error) {
	key := client.ObjectKeyFromObject(grant)
	switch {
	case !policy.IsManaged(grant):
		return false, fmt.Errorf("ReferenceGrant %s exists and is not managed by routewarden: delete or rename it", key)
	case grant.DeletionTimestamp != nil:
		return false, fmt.Errorf("ReferenceGrant %s is being deleted, try again when it is gone", key)
	case policy.Records(grant, edge):
		if time.Since(grant.CreationTimestamp.Time) < m.Grace/2 {
			return true, nil
		}
		routes, err := m.Caches.Routes(ctx, cluster.ByGrant, key.String())
		if err != nil || len(routes) > 0 {
			return true, err
		}
	}
	err := deleteExactly(ctx, m.Writer, m.Caches.Served(), grant)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("replacing ReferenceGrant %s: %w", key, err)
	}
	return false, err
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
