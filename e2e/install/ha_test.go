package install

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/hack/node/ha"
)

// createRoutes has routes created during the events, at half of the rate that hack/BENCHMARKS.md is measured with: a busy
// machine shall not decide these tests. A failure by routesteward fails the test.
func (c *cluster) createRoutes(t *testing.T, o ha.Options) {
	t.Helper()
	o.Rate = 25
	also := o.Tell
	o.Tell = func(r *ha.Result) {
		t.Log(r.Words())
		require.Positive(t, r.Admitted)
		require.Positive(t, r.Denied)
		require.Empty(t, r.Late(), r.Event.Name)
		if also != nil {
			also(r)
		}
	}
	kubectl := func(ctx context.Context, args ...string) error {
		if stdout, stderr, exit := c.kubectl(ctx, "", args...); exit != 0 {
			return fmt.Errorf("kubectl %v: %s%s", args, stdout, stderr)
		}
		return nil
	}
	require.NoError(t, ha.RunIn(t.Context(), ha.Cluster{Config: c.config, Kubectl: kubectl, Node: c.node}, o))
}

// TestHighAvailability asserts what hack/BENCHMARKS.md shows.
func TestHighAvailability(t *testing.T) {
	c := startWithGatewayAPI(t)
	c.install(t)
	events := ha.Events()
	if c.node == nil {
		t.Log("without kill -9: only where the tests have started the node can replicas be killed without notice")
		events = slices.DeleteFunc(events, func(event ha.Event) bool { return event.Kill })
	}
	c.createRoutes(t, ha.Options{Events: events})
}

// TestUpgrade has an old replica and a new one answer side by side, with different settings.
func TestUpgrade(t *testing.T) {
	if missing == nil {
		shared.needsNode(t, "two tags of the image")
	}
	c := startWithGatewayAPI(t)
	c.install(t)
	c.admin(t, "-n", own, "set", "image", "deployment/routesteward", "routesteward=ghcr.io/routesteward/routesteward:old")
	change := func(name, image, outside string) ha.Event {
		// One change of the Deployment, so that exactly these two run side by side.
		event := ha.Kubectl(name, "-n", own, "patch", "deployment", "routesteward", "--patch", fmt.Sprintf(
			`{"spec": {"template": {"spec": {"containers": [{"name": "routesteward", "image": "ghcr.io/routesteward/routesteward:%s", "env": [{"name": "ROUTESTEWARD_OUTSIDE", "value": "%s"}]}]}}}}`, image, outside))
		event.Change = true
		return event
	}
	c.createRoutes(t, ha.Options{
		Events:   []ha.Event{change("to the new version", "next", "rewrite"), change("back to the old one", "old", "reject")},
		Settings: []string{"ROUTESTEWARD_OUTSIDE=reject", "ROUTESTEWARD_GRANT_GRACE=10s"},
	})
}

// TestGatewayAPIUpgrade installs Gateway API's new CRDs, which serve ReferenceGrant v1 besides v1beta1, while routesteward runs.
func TestGatewayAPIUpgrade(t *testing.T) {
	if missing == nil && shared.hasCRDs {
		t.Skip("the cluster had Gateway API's CRDs before")
	}
	c := start(t, crds12)
	t.Cleanup(func() { c.clear(context.Background(), t, []string{crds}) })
	c.install(t)
	var versions []string
	c.createRoutes(t, ha.Options{
		Events: []ha.Event{
			ha.Kubectl("new CRDs", append([]string{"apply", "--server-side"}, files(t, crds)...)...),
			ha.Kubectl("a rolling restart with them", "-n", own, "rollout", "restart", "deployment/routesteward"),
		},
		Tell: func(*ha.Result) {
			// The version with which each grant was created, in order of time.
			versions = strings.Fields(c.admin(t, "get", "referencegrants", "-A", "--sort-by=.metadata.creationTimestamp",
				"-o", `jsonpath={range .items[*]}{.metadata.managedFields[0].apiVersion}{"\n"}{end}`))
		},
	})
	require.NotEmpty(t, versions)
	// While the restart rolls, replicas of both kinds answer, so the versions may alternate in between.
	require.Subset(t, []string{"gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1"}, versions)
	require.Equal(t, "gateway.networking.k8s.io/v1beta1", versions[0], "what was served when the first replicas started")
	require.Equal(t, "gateway.networking.k8s.io/v1", versions[len(versions)-1], "what was served when the last replicas started")
}
