package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestGuardHoldsACompromisedReplica acts as somebody who has the token of routesteward's own service account. What the program
// itself does under the guard every other test here shows.
func TestGuardHoldsACompromisedReplica(t *testing.T) {
	w := serving(t)
	kubeconfig, err := w.ServiceAccountKubeconfig(t.Context(), "routesteward-system", "routesteward")
	require.NoError(t, err)
	thief := &user{t: t, w: w, name: "routesteward", kubeconfig: kubeconfig}
	quiet, refusing := w.namespace(t, "quiet", ""), w.namespace(t, "refusing", "deny")
	managed := func(manifest string) string {
		return strings.Replace(manifest, "metadata:\n", "metadata:\n  labels: {app.kubernetes.io/managed-by: routesteward, routesteward.dev/origin: "+system+"}\n", 1)
	}
	denied := func(stdin string, args ...string) string {
		t.Helper()
		r := thief.kubectl(stdin, args...)
		require.Contains(t, r.stderr, "ValidatingAdmissionPolicy 'routesteward-guard' with binding 'routesteward-guard' denied request: ", args)
		return r.stderr
	}
	const ours = "may touch only what has its label"
	// The policy is used a moment after it is stored.
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.Contains(c, thief.kubectl(foreignGrant(quiet, "probe", system, "llama"), "create", "--dry-run=server", "-f", "-").stderr, ours)
	}, soon, tick)

	w.adminApplies(t, foreignGrant(quiet, "theirs", "friends", "llama")+"---\n"+foreignGrant(quiet, "disguised", "friends", "llama"))
	w.adminApplies(t, route(system, "of-the-platform", "llama"))
	t.Run("other people's grants", func(t *testing.T) {
		require.Contains(t, denied("", "delete", "referencegrant", "theirs", "-n", quiet), ours)
		require.Contains(t, denied(foreignGrant(quiet, "mine", system, "llama"), "create", "-f", "-"), ours)
	})
	t.Run("a veto", func(t *testing.T) {
		require.Contains(t, denied(managed(foreignGrant(refusing, "mine", system, "llama")), "create", "-f", "-"), "has the label routesteward.dev/grants=deny")
	})
	t.Run("a wide grant", func(t *testing.T) {
		wide := strings.Replace(foreignGrant(quiet, "mine", system, "llama"), "  to:\n", "  to:\n  - {group: \"\", kind: Secret}\n", 1)
		require.Contains(t, wide, "Secret")
		require.Contains(t, denied(managed(wide), "create", "-f", "-"), "to one target")
		others := strings.Replace(foreignGrant(quiet, "mine", system, "llama"), "kind: HTTPRoute", "kind: Gateway", 1)
		require.Contains(t, others, "kind: Gateway")
		require.Contains(t, denied(managed(others), "create", "-f", "-"), "from one kind of routes")
	})
	t.Run("other people's routes", func(t *testing.T) {
		require.Contains(t, denied("", "delete", "httproute", "of-the-platform", "-n", system), ours)
		content := thief.succeeds("", "get", "httproute", "of-the-platform", "-n", system, "-o", "yaml").stdout
		require.Contains(t, denied(strings.Replace(content, "name: llama", "name: evil", 1), "replace", "-f", "-"), ours)
		require.Contains(t, denied(strings.Replace(content, "metadata:\n", "metadata:\n  labels: {app.kubernetes.io/managed-by: routesteward}\n", 1), "replace", "-f", "-"), ours)
		require.Contains(t, denied(route(system, "new", "llama"), "create", "-f", "-"), ours)
	})
	t.Run("Secrets through its own webhook", func(t *testing.T) {
		for _, kind := range []string{"validatingwebhookconfiguration", "mutatingwebhookconfiguration"} {
			var configuration map[string]any
			require.NoError(t, json.Unmarshal([]byte(w.admin(t, "get", kind, "routesteward", "-o", "json")), &configuration))
			configuration["webhooks"] = []any{map[string]any{
				"name": "all.example.org", "admissionReviewVersions": []any{"v1"}, "sideEffects": "None", "clientConfig": map[string]any{"url": "https://192.0.2.1/"},
				"rules": []any{map[string]any{"apiGroups": []any{""}, "apiVersions": []any{"v1"}, "resources": []any{"secrets"}, "operations": []any{"CREATE", "UPDATE"}}},
			}}
			text, err := json.Marshal(configuration)
			require.NoError(t, err)
			require.Contains(t, denied(string(text), "replace", "-f", "-"), "may have itself asked about routes, ReferenceGrants and Gateways only")
		}
	})
	t.Run("another account's token", func(t *testing.T) {
		require.Contains(t, denied(`apiVersion: v1
kind: Secret
metadata:
  name: token
  namespace: routesteward-system
  annotations: {kubernetes.io/service-account.name: default}
type: kubernetes.io/service-account-token
`, "create", "-f", "-"), "may make only the Secret routesteward-ca")
	})
	t.Run("what RBAC refuses", func(t *testing.T) {
		for _, args := range [][]string{
			{"get", "secrets", "-A"}, {"label", "namespace", quiet, "routesteward.dev/grants=allow"}, {"delete", "httproute", "x", "-n", quiet},
			{"delete", "gateway", "aibrix-eg", "-n", system}, {"delete", "validatingwebhookconfiguration", "routesteward"},
			{"delete", "validatingadmissionpolicybinding", "routesteward-guard"},
		} {
			require.Regexp(t, `is forbidden: User "system:serviceaccount:routesteward-system:routesteward" cannot (list|patch|delete) resource`, thief.kubectl("", args...).stderr, args)
		}
	})
	// Others are not concerned.
	w.admin(t, "delete", "referencegrant", "theirs", "disguised", "-n", quiet)
	w.admin(t, "delete", "httproute", "of-the-platform", "-n", system)
}
