package audit_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/policytest"
)

func TestRelocatedRoutesAreInOrder(t *testing.T) {
	relocated := 0
	for seed := range uint64(600) {
		source := policytest.NewSource(seed)
		config := policy.DefaultConfig()
		config.Outside = policy.OutsideRewrite
		p, err := policy.New(config)
		require.NoError(t, err)
		obj := source.Route()
		obj.SetUID("u")
		if obj.GetNamespace() == p.SystemNamespace {
			continue
		}
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
		require.NoError(t, err)
		u := &unstructured.Unstructured{Object: content}
		kind := policy.HTTPRoute
		if _, ok := obj.(*gwv1.GRPCRoute); ok {
			kind = policy.GRPCRoute
		}
		u.SetAPIVersion("gateway.networking.k8s.io/v1")
		u.SetKind(string(kind))
		facts := policy.Snapshot{Gateways: map[string]bool{"aibrix-system/aibrix-eg": true, "aibrix-system/mine": true}}
		r, err := p.Relocate(u, facts)
		if err != nil || r.Copy == nil {
			continue
		}
		c := &audit.Cluster{NotRead: []audit.NotRead{{Resource: "services", Reason: "x"}}}
		for _, ns := range policytest.Namespaces {
			c.Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{policy.GrantsLabel: "allow"}}})
		}
		for _, g := range []string{"aibrix-eg", "mine"} {
			c.Add(&gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: g}, Spec: gwv1.GatewaySpec{Listeners: []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}}}})
		}
		for _, x := range []*unstructured.Unstructured{r.Source, r.Copy} {
			var o runtime.Object = &gwv1.HTTPRoute{}
			if kind == policy.GRPCRoute {
				o = &gwv1.GRPCRoute{}
			}
			require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(x.Object, o))
			c.Add(o)
		}
		for _, edge := range r.Edges {
			c.Add(edge.Grant("x"))
		}
		c.Complete()
		relocated++
		for _, f := range audit.Run(p, c).Findings {
			require.NotContains(t, []string{"parked-source-without-copy", "copy-without-source", "copy-differs-from-source", "reference-not-permitted", "managed-grant-missing", "managed-grant-drift", "reference-without-consent", "route-outside-system-namespace"}, f.Check, "seed %d: %s", seed, f.Message)
		}
	}
	require.Greater(t, relocated, 50)
}
