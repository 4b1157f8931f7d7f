package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/routesteward/routesteward/e2e/build"
	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/manifests"
)

// programs builds what make builds before it calls this command.
func programs(t *testing.T) (local, routesteward string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("looks for processes in /proc")
	}
	local, err := build.Program("hack/local")
	require.NoError(t, err)
	routesteward, err = build.Program("")
	require.NoError(t, err)
	return local, routesteward
}

func TestUpDemoDown(t *testing.T) {
	binary, routesteward := programs(t)
	dir := t.TempDir()
	local := func(wantExit int, args ...string) string {
		t.Helper()
		cmd := exec.Command(binary, append([]string{"-dir", dir, "-routesteward", routesteward}, args...)...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			require.NoError(t, err)
		}
		require.Equal(t, wantExit, cmd.ProcessState.ExitCode(), "%s", out)
		return string(out)
	}
	t.Cleanup(func() { local(0, "down") })

	require.Equal(t, "Nothing runs.\n", local(0, "down"))

	out := local(0, "up", "--grant-grace=1s")
	require.Contains(t, out, "an HTTPRoute outside aibrix-system was refused just now")
	require.Contains(t, out, "flags: --grant-grace=1s")
	require.FileExists(t, filepath.Join(dir, "kubeconfig"))

	require.Contains(t, local(0, "up"), "It runs already.")
	require.Contains(t, local(0, "up", "--outside=warn"), "Its flags stay as they are")

	for range 2 { // the story leaves nothing that would spoil it
		out = local(0, "demo")
		require.Contains(t, out, "That was the story.")
		require.NotContains(t, out, "\x1b[", "color is for terminals")
	}

	t.Run("the shipped RBAC is enough", func(t *testing.T) {
		content, err := os.ReadFile(filepath.Join(dir, "logs", "audit.log"))
		require.NoError(t, err)
		requests := 0
		for line := range strings.Lines(string(content)) {
			var event struct {
				Verb, RequestURI string
				User             struct{ Username string }
				ResponseStatus   struct{ Code int }
			}
			require.NoError(t, json.Unmarshal([]byte(line), &event))
			if event.User.Username != "system:serviceaccount:routesteward-system:routesteward" {
				continue
			}
			requests++
			require.NotEqual(t, 403, event.ResponseStatus.Code, "%s %s", event.Verb, event.RequestURI)
		}
		require.NotZero(t, requests)
	})

	t.Run("the shipped registration is what routesteward wants", func(t *testing.T) {
		root, err := localcluster.Root()
		require.NoError(t, err)
		webhooks := func(args ...string) []admissionv1.ValidatingWebhook {
			kubectl := exec.Command(filepath.Join(root, "bin", "controlplane", "kubectl"), append(args, "-o", "json")...)
			kubectl.Stdin = strings.NewReader(manifests.Pick(manifests.Install, "ValidatingWebhookConfiguration"))
			kubectl.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(dir, "kubeconfig"), "KUBECACHEDIR="+filepath.Join(dir, "kubectl-cache"))
			out, err := kubectl.Output()
			require.NoError(t, err)
			var configuration admissionv1.ValidatingWebhookConfiguration
			require.NoError(t, json.Unmarshal(out, &configuration))
			for i := range configuration.Webhooks {
				webhook := &configuration.Webhooks[i]
				// What routesteward only knows when it runs: its URL and authority, its flags.
				require.NotEmpty(t, webhook.ClientConfig)
				webhook.ClientConfig = admissionv1.WebhookClientConfig{}
				webhook.MatchConditions = nil
			}
			return configuration.Webhooks
		}
		kept := webhooks("get", "validatingwebhookconfiguration", "routesteward")
		shipped := webhooks("replace", "--dry-run=server", "-f", "-")
		require.NotEmpty(t, kept)
		require.Equal(t, shipped, kept)
	})

	t.Run("a dead routesteward is reported", func(t *testing.T) {
		for pid, command := range processes(t, dir) {
			if strings.HasPrefix(command, routesteward+"\x00serve\x00") {
				require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			}
		}
		out := local(2, "up")
		require.Contains(t, out, "routesteward is not ready")
		require.Contains(t, out, "make down up")
	})

	out = local(0, "down")
	require.Contains(t, out, "Stopped; the logs are still in")
	require.Empty(t, processes(t, dir))
	require.Equal(t, "Nothing runs.\n", local(0, "down"))
	require.ElementsMatch(t, []string{"lock", "logs"}, names(t, dir))
}

func TestInterruptedUpLeavesNothing(t *testing.T) {
	binary, routesteward := programs(t)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			dir := t.TempDir()
			var out bytes.Buffer
			up := exec.Command(binary, "-dir", dir, "-routesteward", routesteward, "up")
			up.Stdout, up.Stderr = &out, &out
			require.NoError(t, up.Start())
			require.Eventually(t, func() bool {
				for _, command := range processes(t, dir) {
					if strings.Contains(command, "kube-apiserver") {
						return true
					}
				}
				return false
			}, time.Minute, 50*time.Millisecond)

			require.NoError(t, up.Process.Signal(signal))
			require.Error(t, up.Wait())
			if signal == syscall.SIGINT {
				require.Equal(t, 130, up.ProcessState.ExitCode())
				require.Contains(t, out.String(), "stopping again\ninterrupted\n")
				require.Empty(t, processes(t, dir), "it returns when all is gone")
			}
			require.Eventually(t, func() bool { return len(processes(t, dir)) == 0 }, time.Minute, 50*time.Millisecond)
			require.ElementsMatch(t, []string{"lock", "logs"}, names(t, dir))
		})
	}
}

func TestServeThatFailsIsExplained(t *testing.T) {
	binary, routesteward := programs(t)
	dir := t.TempDir()
	out, err := exec.Command(binary, "-dir", dir, "-routesteward", routesteward, "up", "--outside=nonsense").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "routesteward exited before it was ready (exit status 2)")
	require.Contains(t, string(out), "--outside")
	require.Empty(t, processes(t, dir))
}

// processes are the live ones whose command line holds text, with that command line.
func processes(t *testing.T, text string) map[int]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	found := map[int]string{}
	for _, file := range files {
		var pid int
		_, err := fmt.Sscanf(file, "/proc/%d/cmdline", &pid)
		require.NoError(t, err)
		// A zombie's command line is empty, that of a process that has ended cannot be read.
		if command, err := os.ReadFile(file); err == nil && pid != os.Getpid() && strings.Contains(string(command), text) {
			found[pid] = string(command)
		}
	}
	return found
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
