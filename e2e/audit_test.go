package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
)

// auditRoles applies the roles that are shipped and gives the first one to the user.
func (w *world) auditRoles(t *testing.T, u *user) {
	t.Helper()
	root, err := localcluster.Root()
	require.NoError(t, err)
	w.admin(t, "apply", "-f", filepath.Join(root, "manifests", "audit"))
	w.admin(t, "create", "clusterrolebinding", named("audit"), "--clusterrole=routesteward-audit", "--user="+u.name)
}

// audits runs an audit and waits until its report is as the condition wants it: what was written or permitted a moment ago
// may not be in force yet.
func (u *user) audits(exit int, condition func(*assert.CollectT, audit.Report), args ...string) audit.Report {
	u.t.Helper()
	var report audit.Report
	require.EventuallyWithT(u.t, func(c *assert.CollectT) {
		r := u.routesteward("", append([]string{"audit", "-o", "json"}, args...)...)
		report = audit.Report{}
		if assert.Equal(c, exit, r.exit, r.stderr) && assert.NoError(c, json.Unmarshal([]byte(r.stdout), &report)) {
			condition(c, report)
		}
	}, soon, tick)
	return report
}

func checksOf(r audit.Report, name string) []string {
	var ids []string
	for _, f := range r.Findings {
		if f.Object.Name == name {
			ids = append(ids, f.Check)
		}
	}
	return ids
}

// TestAuditReadsTheCluster audits broken routes as somebody with the shipped roles, and expects the same of a snapshot.
func TestAuditReadsTheCluster(t *testing.T) {
	w := serving(t)
	silent, models := w.namespace(t, "silent", ""), w.namespace(t, "models", "allow")
	refused, outside, good := named("refused"), named("outside"), named("good")
	w.adminApplies(t, strings.Join([]string{
		pathRoute(system, refused, "/"+refused, silent+"/llama"), pathRoute(silent, outside, "/"+outside, "llama"),
		pathRoute(system, good, "/"+good, models+"/llama"), podYAML(models, "llama"),
		`apiVersion: apps/v1
kind: Deployment
metadata: {name: aibrix-gateway-plugins, namespace: aibrix-system}
spec:
  selector: {matchLabels: {app: gateway-plugins}}
  template:
    metadata: {labels: {app: gateway-plugins}}
    spec:
      containers:
      - name: gateway-plugin
        image: example.com/gateway-plugins
        env: [{name: ROUTING_ALGORITHM, valueFrom: {configMapKeyRef: {name: gateway, key: ROUTING_ALGORITHM}}}, {name: REDIS_PASSWORD, value: hunter2}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: gateway, namespace: aibrix-system}
data: {ROUTING_ALGORITHM: least-request, password: hunter2}
`}, "---\n"))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		_, err := w.adminTry(ctx, "delete", "deployment/aibrix-gateway-plugins", "configmap/gateway", "-n", system)
		assert.NoError(t, err)
	})
	w.hasStatus(t, system, refused, "Accepted", "RefNotPermitted")
	w.hasStatus(t, silent, outside, "NotAllowedByListeners", "ResolvedRefs")
	w.hasStatus(t, system, good, "Accepted", "ResolvedRefs")
	w.grantsBecome(t, models, 1)
	reader := w.user(t)
	routes := []string{system + "/" + refused, silent + "/" + outside, system + "/" + good}

	denied := reader.routesteward("", "audit")
	require.Equal(t, 2, denied.exit)
	require.Contains(t, denied.stderr, "routesteward audit: cannot list httproutes: ")
	require.Empty(t, denied.stdout)

	w.auditRoles(t, reader)
	r := reader.audits(1, func(c *assert.CollectT, r audit.Report) {
		assert.Equal(c, []string{"reference-not-permitted"}, checksOf(r, refused))
		assert.Equal(c, []string{"route-outside-system-namespace"}, checksOf(r, outside))
		assert.Empty(c, checksOf(r, good))
	}, routes...)
	require.Regexp(t, `services in .*"`+models+`".*: not known: you may not list services there`, strings.Join(r.NotKnown, "\n"))
	require.Contains(t, r.NotKnown, `deployments in namespace "aibrix-system": not known: you may not list deployments there`)
	require.Nil(t, r.Plugin)

	w.admin(t, "create", "rolebinding", named("backends"), "-n", models, "--clusterrole=routesteward-audit-backends", "--user="+reader.name)
	w.admin(t, "create", "rolebinding", named("backends"), "-n", silent, "--clusterrole=routesteward-audit-backends", "--user="+reader.name)
	w.admin(t, "create", "rolebinding", named("plugin"), "-n", system, "--clusterrole=routesteward-audit-plugin", "--user="+reader.name)
	r = reader.audits(1, func(c *assert.CollectT, r audit.Report) {
		assert.Equal(c, []string{"backend-missing", "route-outside-system-namespace"}, slices.Sorted(slices.Values(checksOf(r, outside))))
		assert.Empty(c, checksOf(r, good))
		if assert.NotNil(c, r.Plugin) {
			assert.Equal(c, "least-request", r.Plugin.Algorithm)
		}
	}, routes...)
	for _, b := range r.Backends {
		if b.Namespace == models {
			require.Equal(t, []any{policy.Yes, 1, 0}, []any{b.Exists, b.Ready, b.NotReady})
		}
	}
	require.Contains(t, r.Findings[0].Problem+r.Findings[1].Problem+r.Findings[2].Problem, "the gateway says so too")

	facts := reader.routesteward("", "facts")
	require.Equal(t, 0, facts.exit, facts.stderr)
	require.NotContains(t, facts.stdout, "hunter2")
	snapshot := filepath.Join(t.TempDir(), "facts.yaml")
	require.NoError(t, os.WriteFile(snapshot, []byte(facts.stdout), 0o600))
	stored := reader.audits(1, func(*assert.CollectT, audit.Report) {}, append(routes, "--facts="+snapshot)...)
	require.True(t, strings.HasPrefix(stored.Source, "snapshot of cluster https://"), stored.Source)
	r.Source, stored.Source, r.Time, stored.Time = "", "", nil, nil
	require.Equal(t, r, stored, "the same report of the cluster and of its snapshot")

	// A good route alone is no reason to fail.
	alone := reader.routesteward("", "audit", system+"/"+good)
	require.Equal(t, 0, alone.exit, alone.stdout+alone.stderr)
	require.Contains(t, alone.stdout, "permitted by ReferenceGrant "+models+"/")
}

// TestBackgroundScan expects an Event and metrics when a status goes bad, with the shipped RBAC alone.
func TestBackgroundScan(t *testing.T) {
	w := serving(t, "--scan-interval=1s")
	models := w.namespace(t, "models", "allow")
	w.adminApplies(t, pathRoute(system, "llama-router", "/llama", models+"/llama"))
	w.hasStatus(t, system, "llama-router", "Accepted", "ResolvedRefs")
	metric := func(series, value string) {
		t.Helper()
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			response, err := http.Get(w.server.MetricsURL)
			if !assert.NoError(c, err) {
				return
			}
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			assert.NoError(c, err)
			assert.Contains(c, string(text), series+" "+value+"\n")
		}, soon, tick)
	}
	const resolved, broken = `routesteward_routes{condition="ResolvedRefs",reason="ResolvedRefs"}`, `routesteward_routes{condition="ResolvedRefs",reason="InvalidKind"}`
	metric(resolved, "1")
	metric(broken, "0")

	w.hasStatus(t, system, "llama-router", "Accepted", "InvalidKind")
	note := w.eventBecomes(t, system, "llama-router", "StatusUnresolvedReferences")
	require.Contains(t, note, "ResolvedRefs=False, InvalidKind")
	metric(resolved, "0")
	metric(broken, "1")
	metric(`routesteward_audit_findings{check="status-unresolved-references",severity="error"}`, "1")
	metric("routesteward_scan_errors_total", "0")
}
