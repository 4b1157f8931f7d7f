package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serverDryRun runs the script that people copy into their pipelines.
func (u *user) serverDryRun(stdin string, args ...string) result {
	u.t.Helper()
	kubectl := u.w.KubectlCommand(u.t.Context(), u.kubeconfig)
	cmd := exec.CommandContext(u.t.Context(), "../manifests/ci/server-dry-run", args...)
	cmd.Env = append(kubectl.Env, "PATH="+filepath.Dir(kubectl.Path)+":"+os.Getenv("PATH"))
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	require.NotNil(u.t, cmd.ProcessState, err)
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func TestServerDryRunInAPipeline(t *testing.T) {
	w := serving(t)
	target := w.namespace(t, "models", "")
	jane := w.user(t).writesRoutes(system, target)
	outside := strings.Replace(route(system, named("route"), target+"/llama"), "namespace: "+system, "namespace: "+target, 1)

	become := func(want int, words string, stdin string, args ...string) {
		t.Helper()
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			r := jane.serverDryRun(stdin, args...)
			assert.Equal(c, want, r.exit, r.stdout+r.stderr)
			assert.Contains(c, r.stdout+r.stderr, words)
		}, soon, tick)
	}
	become(1, "has not consented", route(system, named("route"), target+"/llama"), "-")
	w.label(t, target, "allow")
	become(0, "created (server dry run)", route(system, named("route"), target+"/llama"), "-")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "route.yaml"), []byte(outside), 0o600))
	become(1, "takes routes from namespace", "", dir)
	become(2, "forbidden", namespaceYAML(named("elsewhere")), "-")
	become(2, "does not exist", "", filepath.Join(dir, "missing.yaml"))
	require.Empty(t, w.grants(t, target), "a dry run makes no grant")
}

// What --fix has repaired is admitted as it is applied, by somebody who may write what is in it.
func TestFixedManifestsAreAdmitted(t *testing.T) {
	w := serving(t)
	team, name := w.namespace(t, "team", ""), named("route")
	jane := w.user(t).writesRoutes(system, team).may(team, "get,create,patch", "referencegrants")
	text := `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: ` + name + `
  namespace: ` + team + `
spec:
  parentRefs:
  - name: aibrix-eg
    namespace: ` + system + `
  rules:
  - backendRefs:
    - name: llama # here
      port: 8000
    filters:
    - type: RequestMirror
      requestMirror:
        backendRef: {name: shadow, port: 8000}
`
	require.Contains(t, jane.refused(text, "apply", "-f", "-"), "1 problem")

	fix := exec.CommandContext(t.Context(), binary, "check", "--fix")
	fix.Stdin = strings.NewReader(text)
	fixed, err := fix.Output()
	require.NoError(t, err)
	require.Contains(t, string(fixed), "- name: llama # here\n")
	dry := jane.succeeds(string(fixed), "apply", "--dry-run=server", "-f", "-")
	require.Equal(t, 3, strings.Count(dry.stdout, "created (server dry run)"), "the route and two grants")
	real := jane.succeeds(string(fixed), "apply", "-f", "-")
	require.Equal(t, 3, strings.Count(real.stdout, " created"))
	names := strings.Join(w.grants(t, team), " ")
	require.Contains(t, names, "aibrix-system-to-llama-")
	require.Contains(t, names, "aibrix-system-to-shadow-")
}
