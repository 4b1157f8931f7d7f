package gateways

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/hack/gateways"
)

// routewarden runs a command against the world, as the administrator, and returns its output and exit code.
func (w *world) routewarden(t *testing.T, args ...string) (stdout string, exit int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Getenv(binaryEnv), append(args, "--kubeconfig="+w.Kubeconfig)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exitError *exec.ExitError
	if err != nil && !errors.As(err, &exitError) {
		require.NoError(t, err)
	}
	require.NotEqual(t, 2, cmd.ProcessState.ExitCode(), errOut.String())
	return out.String(), cmd.ProcessState.ExitCode()
}

// trace sends a request and returns the verdict. Of the two Gateways the URLs belong to Traefik's.
func (w *world) trace(t *testing.T, args ...string) (outcome, where string, because []string, exit int) {
	t.Helper()
	out, exit := w.routewarden(t, append([]string{"trace", "-o", "json", "--gateway=" + system + "/" + gateways.Traefik}, args...)...)
	var report struct {
		Verdict struct {
			Outcome, Where string
			Because        []string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &report), out)
	return report.Verdict.Outcome, report.Verdict.Where, report.Verdict.Because, exit
}

// audit looks at one route and returns the checks that found errors.
func (w *world) audit(t *testing.T, route *gwv1.HTTPRoute) (errors []string, exit int) {
	t.Helper()
	out, exit := w.routewarden(t, "audit", "-o", "json", route.Namespace+"/"+route.Name)
	var report struct {
		Findings []struct {
			Check, Severity string
			Object          struct{ Namespace, Name string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &report), out)
	for _, finding := range report.Findings {
		if finding.Severity == "error" && finding.Object.Namespace == route.Namespace && finding.Object.Name == route.Name {
			errors = append(errors, finding.Check)
		}
	}
	return errors, exit
}

// One cause, three symptoms: 503 of the plugin, 500 of the gateway, and 200 for who names a strategy.
func TestAuditAndTraceNameTheMissingGrant(t *testing.T) {
	w := theWorld(t)
	w.startPlugin(t, "")
	models := w.namespace(t, "models", "")
	model, _ := w.model(t, models, "llama-0")
	broken := route(model, models)
	history := w.watches(t, broken)
	w.breaks(t, broken)
	for _, controller := range controllers {
		history.of(t, controller, notPermitted)
	}
	w.answers(t, model, http.StatusInternalServerError)

	errors, exit := w.audit(t, broken)
	require.Equal(t, []string{"reference-not-permitted"}, errors)
	require.Equal(t, 1, exit)

	for name, test := range map[string]struct {
		args           []string
		outcome, where string
	}{
		"through the plugin": {[]string{"--url", pluginURL, "--model", model}, "stopped", "gateway plugin"},
		"past the plugin":    {[]string{"--url", gateways.URL + "/v1/chat/completions", "-H", "model: " + model}, "stopped", "gateway"},
		"with a strategy":    {[]string{"--url", pluginURL, "--model", model, "--routing-strategy", "least-request"}, "bypassed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			outcome, where, because, exit := w.trace(t, test.args...)
			require.Equal(t, test.outcome, outcome)
			require.Equal(t, test.where, where)
			require.Len(t, because, 1)
			require.Contains(t, because[0], "Service "+models+"/"+model+`: no ReferenceGrant in namespace "`+models+`" permits it`)
			require.Contains(t, because[0], "RefNotPermitted")
			require.Equal(t, 1, exit)
		})
	}

	// What they say to do mends it.
	w.consents(t, models, "allow")
	w.answers(t, model, http.StatusOK)
	history.of(t, gateways.EnvoyGatewayController, works)
	history.of(t, gateways.TraefikController, works)
	outcome, _, because, exit := w.trace(t, "--url", pluginURL, "--model", model)
	require.Equal(t, "routed", outcome)
	require.Empty(t, because)
	require.Zero(t, exit)
	errors, exit = w.audit(t, broken)
	require.Empty(t, errors)
	require.Zero(t, exit)
}

func TestAuditAndTraceNameTheWrongNamespace(t *testing.T) {
	w := theWorld(t)
	w.startPlugin(t, "")
	team := w.namespace(t, "team", "")
	model, _ := w.model(t, team, "llama-0")
	outside := gateways.Route(team, model+"-router", model, client.ObjectKey{Name: model})
	history := w.watches(t, outside)
	w.breaks(t, outside)
	history.refused(t)

	errors, exit := w.audit(t, outside)
	require.NotEmpty(t, errors)
	for _, check := range errors {
		require.Equal(t, "route-outside-system-namespace", check)
	}
	require.Equal(t, 1, exit)

	for where, args := range map[string][]string{
		"gateway plugin": {"--url", pluginURL, "--model", model},
		"gateway":        {"--url", gateways.URL + "/v1/chat/completions", "-H", "model: " + model},
	} {
		outcome, stopped, because, exit := w.trace(t, args...)
		require.Equal(t, "stopped", outcome)
		require.Equal(t, where, stopped)
		require.NotEmpty(t, because)
		require.Contains(t, because[0], `takes routes from namespace "aibrix-system" only, and this route is in "`+team+`"`)
		require.Equal(t, 1, exit)
	}
}
