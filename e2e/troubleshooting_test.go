package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var shellBlock = regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```")

// TestTroubleshootingCommands runs every command of the troubleshooting page against a cluster that has the page's example, as
// it is written there.
func TestTroubleshootingCommands(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "policy", "trace", "TROUBLESHOOTING.md"))
	require.NoError(t, err)
	w := serving(t)
	team := w.namespace(t, "team", "allow")
	model := named("llama")
	w.adminApplies(t, podYAML(team, model))
	w.user(t).writesRoutes(system).succeeds(pathRoute(system, model+"-router", "/"+model, team+"/"+model), "apply", "-f", "-")
	// The page's example of a relocated route; its copy's name is taken here, which is as good to look into as any other cause.
	parked := strings.Replace(withoutParents(route(team, model+"-router", model)), "metadata:\n", "metadata:\n  annotations: {routesteward.dev/parked-parent-refs: '"+parkedByDefault+"'}\n", 1)
	w.adminApplies(t, parked)

	gateway := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(404) }))
	t.Cleanup(gateway.Close)
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "route.yaml"), []byte(route(team, model+"-router", model)), 0o600))
	kubectl := w.KubectlCommand(t.Context(), w.Kubeconfig)

	commands := 0
	for _, block := range shellBlock.FindAllStringSubmatch(string(page), -1) {
		for line := range strings.Lines(block[1]) {
			command := strings.TrimSpace(line)
			command = regexp.MustCompile(`\bteam-a\b`).ReplaceAllString(command, team)
			command = regexp.MustCompile(`\bllama\b`).ReplaceAllString(command, model)
			cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
			cmd.Dir = folder
			cmd.Env = append(kubectl.Env, "GATEWAY="+gateway.URL, "PATH="+filepath.Dir(binary)+":"+filepath.Dir(kubectl.Path)+":"+os.Getenv("PATH"))
			output, err := cmd.CombinedOutput()
			require.NotNil(t, cmd.ProcessState, err)
			// The program's 1 is what it found; everything else means that the command is wrong.
			if strings.HasPrefix(command, "routesteward ") {
				assert.Contains(t, []int{0, 1}, cmd.ProcessState.ExitCode(), "%s\n%s", command, output)
			} else {
				assert.Equal(t, 0, cmd.ProcessState.ExitCode(), "%s\n%s", command, output)
			}
			commands++
		}
	}
	require.Greater(t, commands, 15, "the page's commands were found")

	// Links within the page lead somewhere.
	headings := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(string(page), -1) {
		anchor := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		headings[strings.ReplaceAll(anchor, " ", "-")] = true
	}
	for _, link := range regexp.MustCompile(`\]\(#([^)]*)\)`).FindAllStringSubmatch(string(page), -1) {
		assert.True(t, headings[link[1]], "#%s", link[1])
	}
}
