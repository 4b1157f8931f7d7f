package e2e

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/webhook/relocate/unpark"
)

// leftBehindYAML is what an uninstalled routesteward leaves: a parked route and its copy.
const leftBehindYAML = `apiVersion: v1
kind: Namespace
metadata: {name: team-a}
---
apiVersion: v1
kind: Namespace
metadata: {name: aibrix-system}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama-router
  namespace: team-a
  annotations:
    routesteward.dev/parked-parent-refs: '[{"name":"aibrix-eg","namespace":"aibrix-system"}]'
spec:
  rules:
  - backendRefs: [{name: llama, port: 8000}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama-router
  namespace: aibrix-system
  labels: {app.kubernetes.io/managed-by: routesteward, routesteward.dev/origin: team-a}
  annotations: {routesteward.dev/source: team-a/llama-router}
spec:
  parentRefs: [{name: aibrix-eg, namespace: aibrix-system}]
  rules:
  - backendRefs: [{name: llama, namespace: team-a, port: 8000}]
`

// TestUnparkAfterRoutesteward is about a cluster that routesteward was uninstalled from too early.
func TestUnparkAfterRoutesteward(t *testing.T) {
	t.Parallel()
	cluster, err := localcluster.Start(t.Context(), localcluster.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Stop()) })
	_, stderr, exit := cluster.Kubectl(t.Context(), cluster.Kubeconfig, leftBehindYAML, "apply", "-f", "-")
	require.Zero(t, exit, stderr)
	routesteward := func(args ...string) result {
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), binary, append(args, "--kubeconfig="+cluster.Kubeconfig)...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		require.NotNil(t, cmd.ProcessState, err)
		return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	}
	require.Equal(t, result{"no route is parked\n", "", 0}, routesteward("unpark", "--all"), "in the namespace default")
	require.Equal(t, result{
		"HTTPRoute team-a/llama-router: unparked: on Gateway aibrix-system/aibrix-eg again\n" +
			"HTTPRoute aibrix-system/llama-router: the copy of team-a/llama-router is still there and serves requests\n" +
			"  to fix: kubectl delete httproute -n aibrix-system llama-router (or --delete-copies), unless routesteward runs and is about to\n", "", 1,
	}, routesteward("unpark", "--all", "-A", "--timeout=0s"))

	last := routesteward("unpark", "llama-router", "-n", "team-a", "--delete-copies", "-o", "json")
	require.Zero(t, last.exit, last.stderr)
	var report unpark.Report
	require.NoError(t, json.Unmarshal([]byte(last.stdout), &report))
	require.Equal(t, []unpark.Copy{{Kind: "HTTPRoute", Namespace: system, Name: "llama-router", Source: "team-a/llama-router", State: unpark.Removed}}, report.Copies)
	require.Equal(t, unpark.NotParked, report.Routes[0].State)
	stdout, stderr, exit := cluster.Kubectl(t.Context(), cluster.Kubeconfig, "", "get", "httproutes", "-A", "-o", "jsonpath={.items[*].metadata.namespace} {.items[*].spec.parentRefs[*].name}")
	require.Zero(t, exit, stderr)
	require.Equal(t, "team-a aibrix-eg", stdout)

	absent := routesteward("unpark", "absent", "-n", "team-a")
	require.Equal(t, 2, absent.exit)
	require.Equal(t, "routesteward unpark: not every route could be unparked\n", absent.stderr)
	require.Contains(t, absent.stdout, "HTTPRoute team-a/absent: failed: httproutes.gateway.networking.k8s.io \"absent\" not found\n")
}
