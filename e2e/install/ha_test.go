package install

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routewarden/routewarden/hack/node/ha"
)

// rate is half of what hack/BENCHMARKS-HA.md is measured with: a busy machine shall not decide these tests.
const rate = 25

// TestHighAvailability asserts what hack/BENCHMARKS-HA.md shows.
func TestHighAvailability(t *testing.T) {
	c := start(t, crds)
	c.install(t)
	require.NoError(t, ha.Run(t.Context(), c.Cluster, ha.Options{Rate: rate, Events: ha.Events(), Tell: func(r *ha.Result) { told(t, r) }}))
}

// TestUpgrade has an old replica and a new one answer side by side, with other settings each.
func TestUpgrade(t *testing.T) {
	c := start(t, crds)
	c.install(t)
	c.admin(t, "-n", own, "set", "image", "deployment/routewarden", "routewarden=ghcr.io/routewarden/routewarden:old")
	change := func(name, image, outside string) ha.Event {
		// One change of the Deployment, so that exactly these two run side by side.
		event := ha.Kubectl(name, []string{"-n", own, "patch", "deployment", "routewarden", "--patch", fmt.Sprintf(
			`{"spec": {"template": {"spec": {"containers": [{"name": "routewarden", "image": "ghcr.io/routewarden/routewarden:%s", "env": [{"name": "ROUTEWARDEN_OUTSIDE", "value": "%s"}]}]}}}}`, image, outside)})
		event.Change = true
		return event
	}
	require.NoError(t, ha.Run(t.Context(), c.Cluster, ha.Options{
		Rate: rate, Events: []ha.Event{change("to the new version", "next", "rewrite"), change("back to the old one", "old", "reject")}, Settings: []string{"ROUTEWARDEN_OUTSIDE=reject", "ROUTEWARDEN_GRANT_GRACE=15s"},
		Tell: func(r *ha.Result) { told(t, r) },
	}))
}

// TestGatewayAPIUpgrade installs Gateway API's new CRDs, which serve ReferenceGrant v1 besides v1beta1, while routewarden runs.
func TestGatewayAPIUpgrade(t *testing.T) {
	c := start(t, crds12)
	c.install(t)
	require.NoError(t, ha.Run(t.Context(), c.Cluster, ha.Options{
		Rate: rate, Tell: func(r *ha.Result) { told(t, r) },
		Events: []ha.Event{
			ha.Kubectl("new CRDs", []string{"apply", "--server-side", "-f", crds}),
			ha.Kubectl("a rolling restart with them", []string{"-n", own, "rollout", "restart", "deployment/routewarden"}),
		},
	}))
	var versions []string
	for _, event := range c.writes(t) {
		if event.ObjectRef.Resource == "referencegrants" && event.Verb == "create" {
			versions = append(versions, event.ObjectRef.APIVersion)
		}
	}
	require.NotEmpty(t, versions)
	// While the restart rolls, replicas of both kinds answer, so the versions may alternate in between.
	require.Subset(t, []string{"v1beta1", "v1"}, versions)
	require.Equal(t, "v1beta1", versions[0], "what was served when the first replicas started")
	require.Equal(t, "v1", versions[len(versions)-1], "what was served when the last replicas started")
}

// told fails the test where routewarden is to blame.
func told(t *testing.T, r *ha.Result) {
	t.Log(r.Words())
	require.Positive(t, r.Admitted)
	require.Positive(t, r.Denied)
	require.Empty(t, r.Late(), r.Event.Name)
}
