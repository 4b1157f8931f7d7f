package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What happened while routesteward was away, and what another policy does with what was relocated under the one before.
func TestRelocationSurvivesRestartsAndOtherPolicies(t *testing.T) {
	w := relocating(t)
	team := w.namespace(t, "team", "")
	jane := w.user(t).writesRoutes(team)
	w.adminApplies(t, strings.ReplaceAll(readerYAML, "USER", jane.name)) // unpark looks for copies
	for _, name := range []string{"kept", "deleted", "drifted", "withdrawn"} {
		jane.succeeds(route(team, name, "llama"), "apply", "-f", "-")
		w.routeBecomes(t, system, name, func(*assert.CollectT, *object) {})
	}
	t.Run("away", func(t *testing.T) {
		w.quits(t)
		require.Contains(t, jane.kubectl(route(team, "new", "llama"), "apply", "-f", "-").stderr, "failed calling webhook")
		jane.succeeds("", "delete", "httproute", "deleted", "-n", team) // a route may always go
		// The administrator is exempt, so that nobody needs to be asked.
		w.admin(t, "patch", "httproute", "drifted", "-n", system, "--type=json", `-p=[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": "evil"}]`)
		w.admin(t, "annotate", "httproute", "withdrawn", "-n", team, "routesteward.dev/parked-parent-refs-")
		w.admin(t, "delete", "httproute", "kept", "-n", system)
		w.restart(t, "--outside=rewrite")

		w.routeGoes(t, system, "deleted")
		w.routeGoes(t, system, "withdrawn")
		w.routeBecomes(t, system, "drifted", func(c *assert.CollectT, o *object) {
			assert.Equal(c, []string{"Service " + team + "/llama"}, o.backends())
		})
		w.routeBecomes(t, system, "kept", func(*assert.CollectT, *object) {})
		w.grantsBecome(t, team, 1)
	})
	t.Run("killed in the middle", func(t *testing.T) {
		w.crashes(t)
		w.restart(t, "--outside=rewrite")
		jane.succeeds(route(team, "after", "llama"), "apply", "-f", "-")
		w.routeBecomes(t, system, "after", func(*assert.CollectT, *object) {})
		jane.succeeds("", "delete", "httproute", "after", "-n", team)
		w.routeGoes(t, system, "after")
	})
	t.Run("qualified names", func(t *testing.T) {
		w.restart(t, "--outside=rewrite", "--relocated-name=qualified")
		w.routeBecomes(t, system, team+".kept", func(c *assert.CollectT, o *object) {
			assert.Equal(c, team+"/kept", o.Metadata.Annotations["routesteward.dev/source"])
		})
		w.routeGoes(t, system, "kept")
		w.restart(t, "--outside=rewrite")
		w.routeBecomes(t, system, "kept", func(*assert.CollectT, *object) {})
		w.routeGoes(t, system, team+".kept")
	})
	t.Run("unpark under rewrite", func(t *testing.T) {
		unparked := jane.routesteward("", "unpark", "kept", "-n", team)
		require.Equal(t, 1, unparked.exit, unparked)
		require.Contains(t, unparked.stdout, "parked again")
		w.routeBecomes(t, system, "kept", func(*assert.CollectT, *object) {})
	})
	t.Run("leaving rewrite", func(t *testing.T) {
		w.restart(t, "--outside=reject")
		require.Contains(t, jane.refused(route(team, "new", "llama"), "create", "-f", "-"), "takes routes from namespace")
		w.parksBecome(t, false)
		require.Empty(t, w.admin(t, "get", "mutatingwebhookconfiguration", "routesteward", "-o", "jsonpath={.webhooks[*].name}"))

		// What was relocated stays so, and may be operated.
		jane.succeeds("", "patch", "httproute", "kept", "-n", team, "--type=json", `-p=[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": "mistral"}]`)
		w.routeBecomes(t, system, "kept", func(c *assert.CollectT, o *object) {
			assert.Equal(c, []string{"Service " + team + "/mistral"}, o.backends())
		})
		w.admin(t, "delete", "httproute", "drifted", "-n", system)
		w.routeBecomes(t, system, "drifted", func(*assert.CollectT, *object) {})

		// Whoever applies the original manifest gets the parentRefs back, with a warning that they do not work here.
		back := jane.succeeds(route(team, "drifted", "llama"), "replace", "-f", "-")
		require.Contains(t, back.stderr, "admitted as unchanged")
		w.routeGoes(t, system, "drifted")
		// The command does it for many; routesteward, which still runs, removes the copies.
		unparked := jane.routesteward("", "unpark", "--all", "-n", team)
		require.Zero(t, unparked.exit, unparked)
		require.Contains(t, unparked.stdout, "HTTPRoute "+team+"/kept: unparked: on Gateway aibrix-system/aibrix-eg again\n")
		w.routeGoes(t, system, "kept")
		w.grantsBecome(t, team, 0)
	})
}
