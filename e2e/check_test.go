package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy/check"
)

// readerYAML is what `routesteward facts` and `check --cluster` need: to list five kinds.
const readerYAML = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: routesteward-facts
rules:
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways, referencegrants, httproutes, grpcroutes]
  verbs: [list]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: routesteward-facts
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: routesteward-facts}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: USER}
`

// routesteward runs the program as the user.
func (u *user) routesteward(stdin string, args ...string) result {
	u.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(u.t.Context(), binary, append(args, "--kubeconfig="+u.kubeconfig)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	require.NotNil(u.t, cmd.ProcessState, err)
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// TestCheckReadsTheCluster checks against the live cluster and against a snapshot of it, and expects the same.
func TestCheckReadsTheCluster(t *testing.T) {
	w := serving(t)
	allowing, silent, refusing := w.namespace(t, "models", "allow"), w.namespace(t, "silent", ""), w.namespace(t, "refusing", "deny")
	granting := w.namespace(t, "granting", "")
	w.adminApplies(t, foreignGrant(granting, "theirs", system, "llama"))
	reader := w.user(t)

	denied := reader.routesteward("", "facts")
	require.Equal(t, 2, denied.exit)
	require.Contains(t, denied.stderr, "routesteward facts: cannot list httproutes: ")
	require.Contains(t, denied.stderr, `cannot list resource "httproutes"`)
	require.Empty(t, denied.stdout)

	w.adminApplies(t, strings.ReplaceAll(readerYAML, "USER", reader.name))
	snapshot := filepath.Join(t.TempDir(), "facts.yaml")
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		r := reader.routesteward("", "facts")
		assert.Equal(c, 0, r.exit, r.stderr)
		assert.NoError(c, os.WriteFile(snapshot, []byte(r.stdout), 0o600))
	}, soon, tick)

	existing := named("existing")
	w.user(t).writesRoutes(system).succeeds(route(system, existing, allowing+"/qwen"), "apply", "-f", "-")
	manifests := strings.Join([]string{
		route(system, named("route"), allowing+"/llama"), route(system, named("route"), silent+"/llama"),
		route(system, named("route"), refusing+"/llama"), route(system, named("route"), granting+"/llama"),
		strings.Replace(route(silent, named("route"), "llama"), "    namespace: "+system+"\n", "", 1),
		route(system, existing, allowing+"/qwen"),
	}, "---\n")
	verdicts := func(how ...string) (operations, verdicts []string) {
		r := reader.routesteward(manifests, append([]string{"check", "-o", "json"}, how...)...)
		require.Equal(t, 1, r.exit, r.stderr)
		var report check.Report
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &report))
		for _, result := range report.Results {
			operations, verdicts = append(operations, string(result.Operation)), append(verdicts, result.Verdict)
		}
		return operations, verdicts
	}
	// A grant that will be made, a right that is not known, a veto, and a Gateway that is elsewhere; the grants of the two
	// others exist.
	want := []string{"allow", "undecided", "deny", "deny"}
	operations, live := verdicts("--cluster")
	require.Equal(t, want, live)
	require.Equal(t, []string{"CREATE", "CREATE", "CREATE", "CREATE"}, operations)
	_, stored := verdicts("--facts=" + snapshot)
	require.Equal(t, append(want, "allow"), stored, "the snapshot is older than the last route and its grant")
}
