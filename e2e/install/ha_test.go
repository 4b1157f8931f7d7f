package install

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routewarden/routewarden/hack/node/ha"
)

// TestHighAvailability asserts what hack/BENCHMARKS-HA.md shows.
func TestHighAvailability(t *testing.T) {
	c := start(t, crds)
	c.install(t)
	require.NoError(t, ha.Run(t.Context(), c.Cluster, ha.Options{Rate: 50, Events: ha.Events(), Tell: func(r *ha.Result) { told(t, r) }}))
}

// TestUpgrade has an old replica and a new one answer side by side, with other settings each.
func TestUpgrade(t *testing.T) {
	c := start(t, crds)
	c.install(t)
	require.NoError(t, c.MustKubectl(t.Context(), "-n", own, "set", "image", "deployment/routewarden", "routewarden=ghcr.io/routewarden/routewarden:old"))
	image := []string{"-n", own, "set", "image", "deployment/routewarden", "routewarden=ghcr.io/routewarden/routewarden:next"}
	settings := func(settings ...string) []string {
		return append([]string{"-n", own, "set", "env", "deployment/routewarden"}, settings...)
	}
	on := ha.Kubectl("a new version", image, settings("ROUTEWARDEN_OUTSIDE=rewrite"))
	off := ha.Kubectl("and back", []string{"-n", own, "rollout", "undo", "deployment/routewarden"}, settings("ROUTEWARDEN_OUTSIDE=reject"))
	on.Change, off.Change = true, true
	require.NoError(t, ha.Run(t.Context(), c.Cluster, ha.Options{
		Rate: 50, Events: []ha.Event{on, off}, Settings: []string{"ROUTEWARDEN_OUTSIDE=reject", "ROUTEWARDEN_GRANT_GRACE=15s"},
		Tell: func(r *ha.Result) { told(t, r) },
	}))
}

// TestGatewayAPIUpgrade installs Gateway API's new CRDs, which serve ReferenceGrant v1 besides v1beta1, while routewarden runs.
func TestGatewayAPIUpgrade(t *testing.T) {
	c := start(t, crds12)
	c.install(t)
	require.NoError(t, ha.Run(t.Context(), c.Cluster, ha.Options{
		Rate: 50, Tell: func(r *ha.Result) { told(t, r) },
		Events: []ha.Event{
			ha.Kubectl("new CRDs", []string{"apply", "--server-side", "-f", crds, "--prune=false"}),
			ha.Kubectl("a rolling restart with them", []string{"-n", own, "rollout", "restart", "deployment/routewarden"}),
		},
	}))
}

// told fails the test where routewarden is to blame.
func told(t *testing.T, r *ha.Result) {
	t.Log(r.Words())
	require.Positive(t, r.Admitted)
	require.Positive(t, r.Denied)
	require.Empty(t, r.Late(), r.Event.Name)
}
