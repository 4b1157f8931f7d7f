package unpark

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/policy"
)

// TestControlPlane is about a real API server that routesteward has left: nobody parks again, and nobody removes copies.
func TestControlPlane(t *testing.T) {
	cluster, err := localcluster.Start(t.Context(), localcluster.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Stop()) })
	ctx := t.Context()
	var warnings strings.Builder
	admin, namespace, err := Connect(cluster.Kubeconfig, "", &warnings)
	require.NoError(t, err)
	require.Equal(t, "default", namespace)
	for _, name := range []string{team, "team-b", system} {
		require.NoError(t, admin.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	create := func(kind policy.Kind, namespace, name string) (source, copied *unstructured.Unstructured) {
		t.Helper()
		source, copied = relocated(t, kind, namespace, name)
		require.NoError(t, admin.Create(ctx, source))
		require.NoError(t, admin.Create(ctx, copied))
		return source, copied
	}
	get := func(object *unstructured.Unstructured) error {
		return admin.Get(ctx, client.ObjectKeyFromObject(object), object)
	}
	llama, llamaCopy := create(policy.HTTPRoute, team, "llama")
	qwen, qwenCopy := create(policy.GRPCRoute, team, "qwen")
	phi, phiCopy := create(policy.HTTPRoute, "team-b", "phi")
	o := Options{Policy: newPolicy(t), Names: []Name{{policy.HTTPRoute, "llama"}}, Namespace: team}

	// Who may change a route, and see no copies.
	require.NoError(t, cluster.MustKubectl(ctx, "create", "role", "routes", "-n", team, "--verb=get,update", "--resource=httproutes.gateway.networking.k8s.io"))
	require.NoError(t, cluster.MustKubectl(ctx, "create", "rolebinding", "routes", "-n", team, "--role=routes", "--user=alice"))
	kubeconfig, err := cluster.KubeconfigFor("alice")
	require.NoError(t, err)
	alice, _, err := Connect(kubeconfig, "", &warnings)
	require.NoError(t, err)

	// A dry run changes nothing.
	o.DryRun = true
	before := llama.GetResourceVersion()
	report, err := Run(ctx, admin, o)
	require.NoError(t, err)
	require.True(t, report.Complete())
	require.Equal(t, "HTTPRoute team-a/llama: would be unparked: on Gateway aibrix-system/aibrix-eg again\nHTTPRoute aibrix-system/llama: would be removed, as the copy of team-a/llama\n", text(t, report))
	require.NoError(t, get(llama))
	require.Equal(t, before, llama.GetResourceVersion())
	o.DryRun = false

	require.EventuallyWithT(t, func(c *assert.CollectT) {
		report, err = Run(ctx, alice, o)
		require.ErrorContains(c, err, "what became of the relocated copies is not known: cannot list HTTPRoutes: ")
		require.Contains(c, text(t, report), "HTTPRoute team-a/llama: unparked")
	}, time.Minute, 100*time.Millisecond, "RBAC takes a moment")
	require.NoError(t, get(llama))
	require.Equal(t, outside(policy.HTTPRoute, team, "llama").Object["spec"], withoutDefaults(llama))
	require.NotContains(t, llama.GetAnnotations(), policy.ParkedAnnotation)

	// The copies stay, are told of, and go when that is asked for; what was asked before is not asked again.
	report, err = Run(ctx, admin, o)
	require.NoError(t, err)
	require.False(t, report.Complete())
	require.Equal(t, "HTTPRoute team-a/llama: is not parked\nHTTPRoute aibrix-system/llama: the copy of team-a/llama is still there and serves requests\n"+
		"  to fix: kubectl delete httproute -n aibrix-system llama (or --delete-copies), unless routesteward runs and is about to\n", text(t, report))
	require.NoError(t, get(llamaCopy))

	o.Names, o.DeleteCopies, o.Timeout = nil, true, time.Minute
	report, err = Run(ctx, admin, o)
	require.NoError(t, err)
	require.True(t, report.Complete())
	require.Equal(t, "GRPCRoute team-a/qwen: unparked: on Gateway aibrix-system/aibrix-eg again\nHTTPRoute aibrix-system/llama: removed, as the copy of team-a/llama\nGRPCRoute aibrix-system/qwen: removed, as the copy of team-a/qwen\n", text(t, report))
	require.True(t, apierrors.IsNotFound(get(llamaCopy)))
	require.True(t, apierrors.IsNotFound(get(qwenCopy)))
	require.NoError(t, get(qwen))
	require.NotContains(t, qwen.GetAnnotations(), policy.ParkedAnnotation)

	// Of the other namespace nothing was touched, until all namespaces are meant.
	require.NoError(t, get(phi))
	require.Contains(t, phi.GetAnnotations(), policy.ParkedAnnotation)
	require.NoError(t, get(phiCopy))
	o.Namespace = ""
	report, err = Run(ctx, admin, o)
	require.NoError(t, err)
	require.True(t, report.Complete())
	require.True(t, apierrors.IsNotFound(get(phiCopy)))
	require.Empty(t, warnings.String())

	// Where routes are still parked on their way in, nothing changes and nothing is deleted.
	again, againCopy := create(policy.HTTPRoute, team, "again")
	require.NoError(t, admin.Create(ctx, parksRoutes(t)))
	require.NoError(t, admin.Create(ctx, binding(t)))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		probe := outside(policy.HTTPRoute, team, "probe")
		require.NoError(c, admin.Create(ctx, probe, client.DryRunAll))
		require.Contains(c, probe.GetAnnotations(), policy.ParkedAnnotation)
	}, time.Minute, 100*time.Millisecond)
	o.Names, o.Namespace = []Name{{policy.HTTPRoute, "again"}}, team
	for _, o.DryRun = range []bool{true, false} {
		report, err = Run(ctx, admin, o)
		require.NoError(t, err)
		require.False(t, report.Complete())
		require.Contains(t, text(t, report), "HTTPRoute team-a/again: refused: it was parked again at once, as routes are relocated here (--outside=rewrite)\n  to fix: set --outside=reject")
	}
	require.NoError(t, get(again))
	require.Contains(t, again.GetAnnotations(), policy.ParkedAnnotation)
	require.NoError(t, get(againCopy))
}

// parksRoutes parks routes as routesteward's mutating webhook does.
func parksRoutes(t *testing.T) *unstructured.Unstructured {
	return decoded(t, `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingAdmissionPolicy, metadata: {name: parks}, spec: {
		matchConstraints: {resourceRules: [{apiGroups: [gateway.networking.k8s.io], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [httproutes]}]},
		matchConditions: [{name: on-a-gateway, expression: has(object.spec.parentRefs)}],
		failurePolicy: Fail, reinvocationPolicy: Never, mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[
			JSONPatch{op: "add", path: "/metadata/annotations", value: {"routesteward.dev/parked-parent-refs": "[{\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\"}]"}},
			JSONPatch{op: "remove", path: "/spec/parentRefs"}]'}}]}}`)
}

func binding(t *testing.T) *unstructured.Unstructured {
	return decoded(t, `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingAdmissionPolicyBinding, metadata: {name: parks}, spec: {policyName: parks}}`)
}

func decoded(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(strings.ReplaceAll(text, "\t", " ")), &object.Object))
	return object
}

// withoutDefaults is the spec without what the API server fills in.
func withoutDefaults(route *unstructured.Unstructured) map[string]any {
	spec := route.DeepCopy().Object["spec"].(map[string]any)
	for _, ref := range spec["parentRefs"].([]any) {
		delete(ref.(map[string]any), "group")
		delete(ref.(map[string]any), "kind")
	}
	for _, rule := range spec["rules"].([]any) {
		delete(rule.(map[string]any), "matches")
		for _, backend := range rule.(map[string]any)["backendRefs"].([]any) {
			for _, field := range []string{"group", "kind", "weight"} {
				delete(backend.(map[string]any), field)
			}
		}
	}
	return spec
}
