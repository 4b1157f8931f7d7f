package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/routesteward/routesteward/hack/localcluster"
)

func TestWhileRoutestewardIsDown(t *testing.T) {
	w := serving(t)
	team, models := w.namespace(t, "team", ""), w.namespace(t, "models", "allow")
	jane := w.user(t).writesRoutes(team, system)
	name, orphaning := named("llama-router"), named("llama-router")
	jane.succeeds(route(system, name, models+"/llama"), "apply", "-f", "-")
	jane.succeeds(route(system, orphaning, models+"/orphan"), "apply", "-f", "-")
	require.Len(t, w.grants(t, models), 2)

	w.quits(t)

	t.Run("what it would have to decide is refused", func(t *testing.T) {
		for _, manifest := range []string{route(team, "outside", "llama"), route(system, named("cross"), models+"/llama")} {
			r := jane.kubectl(manifest, "create", "-f", "-")
			require.Equal(t, 1, r.exit)
			require.Contains(t, r.stderr, `failed calling webhook "routes.routesteward.dev"`)
		}
		r := jane.kubectl("", "label", "httproute", name, "-n", system, "touched=yes")
		require.Equal(t, 1, r.exit)
		require.Contains(t, r.stderr, `failed calling webhook`)
	})
	t.Run("what needs no decision passes without a call", func(t *testing.T) {
		local, own := named("local"), named("own")
		r := jane.kubectl(route(system, local, "llama"), "create", "-f", "-")
		require.Equal(t, 0, r.exit, r.stderr)
		elsewhere := strings.Replace(route(team, own, models+"/llama"), "    namespace: aibrix-system\n", "    namespace: "+team+"\n", 1)
		r = jane.kubectl(elsewhere, "create", "-f", "-")
		require.Equal(t, 0, r.exit, r.stderr)
		jane.succeeds("", "delete", "httproute", local, "-n", system)
		jane.succeeds("", "delete", "httproute", own, "-n", team)
	})
	t.Run("other objects, status and deletion are not touched", func(t *testing.T) {
		w.admin(t, "create", "configmap", "anything", "-n", team)
		w.adminApplies(t, foreignGrant(models, "theirs", system, "elsewhere"))
		w.admin(t, "delete", "referencegrant", "theirs", "-n", models)
		status := w.user(t).may(system, "get,patch", "httproutes", "httproutes/status")
		r := status.kubectl("", "patch", "httproute", name, "-n", system, "--subresource=status", "--type=merge",
			`-p={"status": {"parents": [{"parentRef": {"name": "aibrix-eg"}, "controllerName": "example.com/gateway", "conditions": [
				{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}]}}`)
		require.Equal(t, 0, r.exit, r.stderr)
		jane.succeeds("", "delete", "httproute", orphaning, "-n", system)
	})

	w.restart(t)
	t.Run("afterwards orphans are collected and the rest stays", func(t *testing.T) {
		remaining := w.grantsBecome(t, models, 1)
		require.Contains(t, remaining[0], "routesteward-llama-")
	})
	t.Run("a grant lost meanwhile comes back", func(t *testing.T) {
		w.quits(t)
		w.admin(t, "delete", "referencegrant", "--all", "-n", models)
		w.restart(t)
		w.grantsBecome(t, models, 1)
	})
	t.Run("a grant widened meanwhile is repaired", func(t *testing.T) {
		grant := w.grants(t, models)[0]
		w.quits(t)
		// Only break-glass changes a grant in an outage: the webhook fails closed, and the administrator deletes it.
		restore := w.breaksGlass(t, &admissionv1.ValidatingWebhookConfiguration{})
		w.admin(t, "patch", "referencegrant", grant, "-n", models, "--type=json", `-p=[{"op": "remove", "path": "/spec/to/0/name"}]`)
		restore()
		w.restart(t)
		require.Eventually(t, func() bool {
			out, err := w.adminTry(t.Context(), "get", "referencegrant", grant, "-n", models, "-o", "jsonpath={.spec.to[0].name}")
			return err == nil && out == "llama"
		}, soon, tick)
	})
	jane.succeeds("", "delete", "httproute", name, "-n", system)
	w.grantsBecome(t, models, 0)
}

// breaksGlass deletes a webhook configuration of routesteward and returns what brings it back.
func (w *world) breaksGlass(t *testing.T, configuration client.Object) (restore func()) {
	t.Helper()
	require.NoError(t, w.api.Get(t.Context(), types.NamespacedName{Name: "routesteward"}, configuration))
	require.NoError(t, w.api.Delete(t.Context(), configuration))
	return func() {
		configuration.SetResourceVersion("")
		configuration.SetUID("")
		require.NoError(t, w.api.Create(t.Context(), configuration))
	}
}

func TestRoutesFromBeforeTheInstallation(t *testing.T) {
	t.Parallel()
	standard, err := localcluster.GatewayAPI(t.Context(), "standard")
	require.NoError(t, err)
	w := ownWorld(t, worldOptions{crds: standard, before: func(w *world) error {
		return w.adminApply(t.Context(), strings.Join([]string{
			namespaceYAML("team-a"), namespaceYAML("models"), namespaceYAML("consenting"),
			route("team-a", "outside", "llama"),
			route(system, "broken", "models/llama"),
			route(system, "repairable", "consenting/llama"),
		}, "---\n"))
	}})
	jane := w.user(t).writesRoutes("team-a", system)

	t.Run("they can be updated, with a warning", func(t *testing.T) {
		r := jane.succeeds("", "label", "httproute", "outside", "-n", "team-a", "touched=yes")
		require.Contains(t, r.stderr, "Warning: Set metadata.namespace: aibrix-system and add namespace: team-a to each backendRef that names none [route-outside-system-namespace, admitted as unchanged]")
		r = jane.succeeds(route("team-a", "outside", "llama-v2"), "apply", "--server-side", "--force-conflicts", "-f", "-")
		require.Contains(t, r.stderr, "admitted as unchanged")
		r = jane.succeeds("", "label", "httproute", "broken", "-n", system, "touched=yes")
		require.Contains(t, r.stderr, "[cross-namespace-reference, admitted as unchanged]")
	})
	t.Run("they cannot be made worse", func(t *testing.T) {
		require.Contains(t, jane.refused(route(system, "broken", "models/llama", "models/second"), "apply", "--server-side", "--force-conflicts", "-f", "-"),
			`spec.rules[0].backendRefs[1]: Service models/second`)
	})
	t.Run("one with a finalizer can go", func(t *testing.T) {
		w.admin(t, "patch", "httproute", "outside", "-n", "team-a", "--type=merge", `-p={"metadata": {"finalizers": ["example.com/wait"]}}`)
		jane.succeeds("", "delete", "httproute", "outside", "-n", "team-a", "--wait=false")
		r := jane.kubectl("", "patch", "httproute", "outside", "-n", "team-a", "--type=merge", `-p={"metadata": {"finalizers": null}}`)
		require.Equal(t, 0, r.exit, r.stderr)
		require.Empty(t, r.stderr)
	})
	t.Run("its owner gets an Event, and consent repairs it", func(t *testing.T) {
		w.eventBecomes(t, system, "repairable", "ReferenceGrantWithheld")
		w.label(t, "consenting", "allow")
		w.grantsBecome(t, "consenting", 1)
		w.eventBecomes(t, system, "repairable", "ReferenceGrantRestored")
	})
	jane.succeeds("", "delete", "httproute", "broken", "repairable", "-n", system)
	w.grantsBecome(t, "consenting", 0)
}

func TestGatewayAPI12(t *testing.T) {
	t.Parallel()
	dir, err := localcluster.GatewayAPI12(t.Context(), "standard")
	require.NoError(t, err)
	w := ownWorld(t, worldOptions{crds: dir})
	r, _, exit := w.Kubectl(t.Context(), w.Kubeconfig, "", "get", "--raw", "/apis/gateway.networking.k8s.io/v1/referencegrants")
	require.NotEqual(t, 0, exit, "ReferenceGrant v1 must not be served here: %s", r)

	models, team := w.namespace(t, "models", "allow"), w.namespace(t, "team", "")
	jane := w.user(t).writesRoutes(system, team)
	require.Contains(t, jane.refused(route(team, "outside", "llama"), "create", "-f", "-"), "[route-outside-system-namespace]")
	require.Contains(t, jane.refused(route(system, "refused", team+"/llama"), "create", "-f", "-"), "has not consented")
	jane.succeeds(route(system, "llama-router", models+"/llama"), "apply", "-f", "-")
	grants := w.grants(t, models)
	require.Len(t, grants, 1)
	w.admin(t, "delete", "referencegrant", grants[0], "-n", models)
	w.grantsBecome(t, models, 1)

	w.adminApplies(t, foreignGrant(team, "theirs", system, "llama"))
	jane.succeeds(route(system, "permitted", team+"/llama"), "apply", "-f", "-")
	require.Equal(t, []string{"theirs"}, w.grants(t, team))
	checked := (&user{w: w, t: t, kubeconfig: w.Kubeconfig}).routesteward(route(system, "checked", team+"/llama"), "check", "--cluster", "--strict")
	require.Equal(t, result{stdout: "1 object in 1 file checked: nothing found\n"}, checked)

	owner := w.user(t).may(models, "get,patch", "referencegrants")
	require.Contains(t, owner.refused("", "patch", "referencegrant", grants[0], "-n", models, "--type=json", `-p=[{"op": "remove", "path": "/spec/to/0/name"}]`), "managed by routesteward")
	jane.succeeds("", "delete", "httproute", "llama-router", "permitted", "-n", system)
	w.grantsBecome(t, models, 0)
}
