package e2e

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

const (
	// randomClusters are as many under each policy.
	randomClusters = 3
	randomRoutes   = 150
)

// warnings collects what the API server warns of.
type warnings struct {
	mu   sync.Mutex
	text []string
}

func (w *warnings) HandleWarningHeaderWithContext(_ context.Context, _ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := w.text
	w.text = nil
	return text
}

// testRandomRoutes dry-runs random routes against random clusters: the API server, which calls routesteward only where its
// matchConditions say so, and `routesteward check` must both answer what the engine decides, in the same words.
func testRandomRoutes(t *testing.T, w *world, requester *requester, config policy.Config) {
	t.Logf("repeat with: SEED=%d go test ./e2e -run TestGoldenCasesOnTheAPIServer", policytest.FirstSeed())
	source := policytest.NewSource(policytest.FirstSeed())
	pol, err := policy.New(config)
	require.NoError(t, err)
	w.empty(t)
	defer func() { // golden cases use the same namespaces
		nothing := policy.Snapshot{Namespaces: map[string]policy.NamespaceFacts{}}
		for _, namespace := range policytest.Namespaces {
			nothing.Namespaces[namespace] = policy.NamespaceFacts{Exists: policy.Yes}
		}
		become(t, w.api, nothing)
	}()
	verdicts := map[string]int{}
	for range randomClusters {
		facts := source.Facts()
		facts.Holder = map[policy.HeldName][]string{} // no routes are stored
		for _, namespace := range policytest.Namespaces {
			state := facts.Namespaces[namespace]
			state.Exists, state.Terminating = policy.Yes, false
			facts.Namespaces[namespace] = state
			// A grant that claims to be managed is one that a reconciler would repair.
			for _, grant := range facts.Grants[namespace] {
				delete(grant.Labels, policy.ManagedByLabel)
			}
		}
		become(t, w.api, facts)
		cluster := writeObjects(t, "cluster.yaml", policytest.Objects(facts, policytest.User)...)
		for range randomRoutes {
			obj := source.Route()
			request := policy.Request{
				Operation: policy.Create, Kind: policy.Kind(obj.GetObjectKind().GroupVersionKind().Kind), Namespace: obj.GetNamespace(),
				User: policy.User{Name: policytest.User, Groups: []string{policytest.Group}}, Object: obj.DeepCopyObject(),
			}
			_, want, err := pol.Admit(request, facts)
			require.NoError(t, err)
			verdicts[want.Verdict()]++
			require.Equal(t, answer{want.Denial(request), want.Warnings(true)},
				offline(t, pol, request.User, facts.MayCreateGrants, writeObjects(t, "route.yaml", obj), cluster))
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				have, err := requester.answers(t.Context(), obj.DeepCopyObject().(client.Object), policy.Create)
				assert.NoError(c, err)
				assert.Equal(c, want.Denial(request), have.Denial)
				if want.Allowed {
					assert.Equal(c, want.Warnings(true), have.Warnings)
				}
			}, soon, tick)
		}
	}
	t.Logf("verdicts: %v", verdicts)
	require.Greater(t, verdicts["allow"], 10)
	require.Greater(t, verdicts["deny"], 10)
}

// become makes the cluster agree with the facts.
func become(t *testing.T, admin client.Client, facts policy.Snapshot) {
	t.Helper()
	for _, namespace := range policytest.Namespaces {
		for _, obj := range []client.Object{&gwv1.HTTPRoute{}, &gwv1.GRPCRoute{}, &gwv1.Gateway{}, &gwv1.ReferenceGrant{}} {
			require.NoError(t, admin.DeleteAllOf(t.Context(), obj, client.InNamespace(namespace)))
		}
		// Others are routesteward's own.
		require.NoError(t, admin.DeleteAllOf(t.Context(), &rbacv1.RoleBinding{}, client.InNamespace(namespace), client.MatchingFields{"metadata.name": "writes-grants"}))
	}
	for _, obj := range policytest.Objects(facts, policytest.User) {
		namespace, ok := obj.(*corev1.Namespace)
		if !ok {
			require.NoError(t, admin.Create(t.Context(), obj))
			continue
		}
		labels := namespace.Labels
		err := admin.Create(t.Context(), namespace)
		require.NoError(t, client.IgnoreAlreadyExists(err))
		if err != nil {
			require.NoError(t, admin.Get(t.Context(), client.ObjectKeyFromObject(namespace), namespace))
			delete(namespace.Labels, policy.GrantsLabel)
			for key, value := range labels {
				namespace.Labels[key] = value
			}
			require.NoError(t, admin.Update(t.Context(), namespace))
		}
	}
}
