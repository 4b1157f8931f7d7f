package grants_test

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/grants"
	"github.com/routesteward/routesteward/webhook/webhooktest"
)

// TestAllocations has the same bounds for a cluster 20 times as large.
func TestAllocations(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	for _, namespaces := range []int{5, 100} {
		t.Run(fmt.Sprintf("namespaces=%d", namespaces), func(t *testing.T) {
			w, err := webhooktest.New(t.Context(), policy.DefaultConfig(), slog.New(slog.DiscardHandler), namespaces)
			require.NoError(t, err)
			r := &grants.Reconciler{Policy: w.Policy, Caches: w.Caches, Events: &events.FakeRecorder{}, Metrics: w.Metrics, Grace: time.Minute}
			edge := policy.Edge{
				Origin: w.Policy.SystemNamespace, FromKind: policy.HTTPRoute, FromNamespace: w.Policy.SystemNamespace,
				Namespace: "models-1", Kind: "Service", Name: "model-1",
			}
			t.Run("a grant that is there, needed and consented to", func(t *testing.T) {
				request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: edge.Namespace, Name: edge.GrantName()}}
				policytest.AllocatesAtMost(t, 41, func() {
					if result, err := r.Reconcile(t.Context(), request); err != nil || result != (ctrl.Result{}) {
						t.Error(result, err)
					}
				})
			})
			t.Run("a namespace that withdraws its consent", func(t *testing.T) {
				watches := r.Watches()
				i := slices.IndexFunc(watches, func(w cluster.Watch) bool { return w.Object.GetObjectKind().GroupVersionKind().Kind == "Namespace" })
				require.GreaterOrEqual(t, i, 0)
				before, after := cluster.NewNamespace(), cluster.NewNamespace()
				before.SetName(edge.Namespace)
				after.SetName(edge.Namespace)
				before.SetLabels(map[string]string{policy.GrantsLabel: policy.GrantsAllow})
				update := event.UpdateEvent{ObjectOld: before, ObjectNew: after}
				require.True(t, watches[i].Predicate.Update(update))
				q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[ctrl.Request]())
				defer q.ShutDown()
				policytest.AllocatesAtMost(t, 360, func() {
					watches[i].Handler.Update(t.Context(), update, q)
					if q.Len() != 20 { // the routes into each namespace
						t.Error(q.Len())
					}
					for q.Len() > 0 {
						request, _ := q.Get()
						q.Done(request)
					}
				})
			})
		})
	}
}
