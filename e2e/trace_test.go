package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy/trace"
)

// podYAML is a Service of a model with one Pod, as the control plane would have them.
func podYAML(namespace, name string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[2]s, namespace: %[1]s}
spec: {ports: [{port: 8000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[2]s-x, namespace: %[1]s, labels: {kubernetes.io/service-name: %[2]s}}
addressType: IPv4
ports: [{port: 8000}]
endpoints:
- addresses: [10.244.0.7]
  conditions: {ready: true}
  targetRef: {kind: Pod, namespace: %[1]s, name: %[2]s-0}
`, namespace, name)
}

// pathRoute is a route of one path, so that routes of other tests do not get its requests.
func pathRoute(namespace, name, path, backend string) string {
	return strings.Replace(route(namespace, name, backend), "  - backendRefs:", "  - matches: [{path: {type: PathPrefix, value: "+path+"}}]\n    backendRefs:", 1)
}

// hasStatus writes the status that a gateway's controller would write: there is none here.
func (w *world) hasStatus(t *testing.T, namespace, name, accepted, resolved string) {
	t.Helper()
	condition := func(kind, reason string) string {
		status := "False"
		if reason == kind {
			status = "True"
		}
		return fmt.Sprintf(`{"type":%q,"status":%q,"reason":%q,"message":"","observedGeneration":1,"lastTransitionTime":"2026-11-23T08:00:00Z"}`, kind, status, reason)
	}
	patch := fmt.Sprintf(`{"status":{"parents":[{"parentRef":{"name":"aibrix-eg","namespace":"aibrix-system"},"controllerName":"gateway.envoyproxy.io/gatewayclass-controller","conditions":[%s,%s]}]}}`,
		condition("Accepted", accepted), condition("ResolvedRefs", resolved))
	require.NoError(t, w.api.Status().Patch(t.Context(), &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}},
		client.RawPatch(types.MergePatchType, []byte(patch))))
}

// TestTraceReadsTheCluster sends requests to a server that stands in for the gateway, and reads the way that they should take
// from the real API server: live, and by a snapshot.
func TestTraceReadsTheCluster(t *testing.T) {
	w := serving(t)
	models := w.namespace(t, "models", "allow")
	w.adminApplies(t, podYAML(models, "llama"))
	name := named("llama") + "-router"
	path := "/" + name
	w.user(t).writesRoutes(system).succeeds(pathRoute(system, name, path, models+"/llama"), "apply", "-f", "-")
	w.hasStatus(t, system, name, "Accepted", "ResolvedRefs")

	var status atomic.Int32
	status.Store(200)
	gateway := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if status.Load() == 200 {
			rw.Header().Set("Target-Pod", "llama-0")
		}
		rw.WriteHeader(int(status.Load()))
	}))
	t.Cleanup(gateway.Close)
	reader := w.user(t)
	follow := func(url string, how ...string) (trace.Report, result) {
		t.Helper()
		r := reader.routesteward("", append([]string{"trace", "--url", url, "-o", "json"}, how...)...)
		var report trace.Report
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &report), r.stderr)
		return report, r
	}

	denied := reader.routesteward("", "trace", "--url", gateway.URL+path)
	require.Equal(t, 2, denied.exit, denied.stdout)
	require.Contains(t, denied.stderr, "routesteward trace: cannot list httproutes: ")

	w.adminApplies(t, strings.ReplaceAll(strings.ReplaceAll(readerYAML, "USER", reader.name), "routesteward-facts", named("routesteward-facts")))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		r := reader.routesteward("", "facts")
		assert.Equal(c, 0, r.exit, r.stderr)
	}, soon, tick)
	report, r := follow(gateway.URL + path)
	require.Equal(t, 0, r.exit, r.stdout)
	require.Equal(t, trace.Routed, report.Verdict.Outcome)
	require.Contains(t, report.Verdict.Words, "as far as can be seen: no EndpointSlice that could be read has Pod llama-0")
	require.Equal(t, "Service "+models+"/llama", report.Expected.References[0].Backend.String())
	require.Len(t, report.Expected.References[0].Grants, 1, "the managed grant")

	reader.mayIn(models, rbacv1.PolicyRule{Verbs: []string{"list"}, APIGroups: []string{"", "discovery.k8s.io"}, Resources: []string{"services", "endpointslices"}})
	report, r = follow(gateway.URL + path)
	require.Equal(t, 0, r.exit, r.stdout)
	require.Equal(t, fmt.Sprintf("answered through HTTPRoute %s/%s by Pod %s/llama-0", system, name, models), report.Verdict.Words)

	// The veto takes the grant away; a gateway answers 500 then.
	w.label(t, models, "deny")
	w.grantsBecome(t, models, 0)
	w.hasStatus(t, system, name, "Accepted", "RefNotPermitted")
	status.Store(500)
	report, r = follow(gateway.URL + path)
	require.Equal(t, 1, r.exit, r.stdout)
	require.Equal(t, trace.Stopped, report.Verdict.Outcome)
	require.Equal(t, "gateway", report.Verdict.Where)
	require.NotEmpty(t, report.Verdict.Because)
	require.NotEmpty(t, report.Verdict.Command)

	snapshot := filepath.Join(t.TempDir(), "facts.yaml")
	require.NoError(t, os.WriteFile(snapshot, []byte(reader.routesteward("", "facts").stdout), 0o600))
	stored, r := follow(gateway.URL+path, "--facts="+snapshot)
	require.Equal(t, 1, r.exit, r.stderr)
	require.Equal(t, report.Verdict, stored.Verdict, "the same from a snapshot")

	status.Store(404)
	report, r = follow(gateway.URL + "/nothing-of-that-name")
	require.Equal(t, 1, r.exit, r.stdout)
	require.Contains(t, report.Verdict.Words, "404 Not Found")
}
