package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rewriting is the world of the tests of --outside=rewrite.
var rewriting = sync.OnceValues(func() (*world, error) {
	rewritingStarted.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return newWorld(ctx, worldOptions{channel: "experimental", flags: []string{"--outside=rewrite"}})
})

var rewritingStarted atomic.Bool

// relocating returns the world in which routes are relocated, and waits until the API server has them parked.
func relocating(t *testing.T) *world {
	t.Helper()
	w, err := rewriting()
	require.NoError(t, err)
	w.parksBecome(t, true)
	return w
}

// parksBecome waits until routes are parked, or are not.
func (w *world) parksBecome(t *testing.T, parks bool) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		out, stderr, _ := w.Kubectl(t.Context(), w.Kubeconfig, route("default", "probe", "x"), "create", "--as=probe", "--as-group=probes", "--dry-run=server", "-o", "json", "-f", "-")
		assert.Equal(c, parks, strings.Contains(out, "parked-parent-refs") || strings.Contains(stderr, "would be relocated"), stderr)
	}, soon, tick)
}

// object is a route as the API server has it.
type object struct {
	Metadata struct {
		UID, ResourceVersion string
		Generation           int64
		Labels, Annotations  map[string]string
	}
	Spec struct {
		ParentRefs []map[string]any
		Rules      []map[string]any
	}
	Status struct {
		Parents []struct {
			ControllerName string
			ParentRef      map[string]any
			Conditions     []struct {
				Type, Status, Reason, Message string
				ObservedGeneration            int64
			}
		}
	}
}

func (w *world) object(t require.TestingT, ctx context.Context, kind, namespace, name string) *object {
	out, err := w.adminTry(ctx, "get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
	require.NoError(t, err)
	if strings.TrimSpace(out) == "" {
		return nil
	}
	o := &object{}
	require.NoError(t, json.Unmarshal([]byte(out), o))
	return o
}

// copyBecomes waits until the route of the system namespace is as the check wants it.
func (w *world) routeBecomes(t *testing.T, namespace, name string, check func(*assert.CollectT, *object)) *object {
	t.Helper()
	var o *object
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		o = w.object(c, t.Context(), "httproute", namespace, name)
		if assert.NotNil(c, o, "%s/%s", namespace, name) {
			check(c, o)
		}
	}, soon, tick)
	return o
}

func (w *world) routeGoes(t *testing.T, namespace, name string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.Nil(c, w.object(c, t.Context(), "httproute", namespace, name))
	}, soon, tick)
}

const parkedByDefault = `[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"aibrix-eg","namespace":"aibrix-system"}]`

func (o *object) backends() []string {
	var names []string
	for _, rule := range o.Spec.Rules {
		refs, _ := rule["backendRefs"].([]any)
		for _, ref := range refs {
			r := ref.(map[string]any)
			namespace, _ := r["namespace"].(string)
			names = append(names, r["kind"].(string)+" "+namespace+"/"+r["name"].(string))
		}
	}
	return names
}

func TestRelocatedRouteHasALife(t *testing.T) {
	w := relocating(t)
	team := w.namespace(t, "team", "")
	jane := w.user(t).writesRoutes(team)
	name := named("llama-router")
	manifest := strings.Replace(route(team, name, "llama"), "metadata:\n", "metadata:\n  labels: {model.aibrix.ai/name: llama}\n", 1)

	dry := jane.kubectl(manifest, "apply", "--dry-run=server", "-f", "-", "-o", "json")
	require.Equal(t, 0, dry.exit, dry.stderr)
	require.Contains(t, dry.stderr, "would be relocated: HTTPRoute aibrix-system/"+name+" serves this route on Gateway aibrix-eg")
	require.Nil(t, w.object(t, t.Context(), "httproute", team, name))

	made := jane.kubectl(manifest, "apply", "-f", "-")
	require.Equal(t, 0, made.exit, made.stderr)
	require.Contains(t, made.stderr, "Warning: relocated: HTTPRoute aibrix-system/"+name)
	require.Contains(t, made.stderr, "Warning: made ReferenceGrant "+team+"/routewarden-llama-")
	require.Len(t, w.grants(t, team), 1, "the grant is there when the create returns")

	source := w.object(t, t.Context(), "httproute", team, name)
	require.Equal(t, parkedByDefault, source.Metadata.Annotations["routewarden.dev/parked-parent-refs"])
	require.Empty(t, source.Spec.ParentRefs)
	var dried object
	require.NoError(t, json.Unmarshal([]byte(dry.stdout), &dried))
	require.Equal(t, dried.Spec, source.Spec, "the dry run's result is the real one's")
	require.Equal(t, dried.Metadata.Annotations, source.Metadata.Annotations)

	copied := w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
		assert.Equal(c, []string{"Service " + team + "/llama"}, o.backends())
	})
	require.Equal(t, map[string]string{"model.aibrix.ai/name": "llama", "app.kubernetes.io/managed-by": "routewarden", "routewarden.dev/origin": team}, copied.Metadata.Labels)
	require.Equal(t, map[string]string{"routewarden.dev/source": team + "/" + name, "routewarden.dev/source-uid": source.Metadata.UID}, copied.Metadata.Annotations)
	require.Equal(t, []map[string]any{{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "aibrix-eg", "namespace": "aibrix-system"}}, copied.Spec.ParentRefs)
	require.Contains(t, w.eventBecomes(t, team, name, "Relocated"), "HTTPRoute aibrix-system/"+name+" serves this route")
	require.Contains(t, w.eventBecomes(t, system, name, "Relocated"), "made from HTTPRoute "+team+"/"+name)

	t.Run("applying again changes nothing", func(t *testing.T) {
		for _, args := range [][]string{{"apply", "-f", "-"}, {"apply", "-f", "-"}} {
			again := jane.succeeds(manifest, args...)
			require.NotContains(t, again.stderr, "Warning")
			now := w.object(t, t.Context(), "httproute", team, name)
			require.Equal(t, source.Metadata.ResourceVersion, now.Metadata.ResourceVersion, again.stdout)
		}
		require.Empty(t, jane.kubectl(manifest, "diff", "-f", "-").stdout)
	})
	t.Run("the copy's status is told to the source", func(t *testing.T) {
		w.admin(t, "patch", "httproute", name, "-n", system, "--subresource=status", "--type=merge", `-p={"status":{"parents":[
			{"parentRef":{"name":"aibrix-eg","namespace":"aibrix-system"},"controllerName":"example.org/gateway","conditions":[
				{"type":"Accepted","status":"True","reason":"Accepted","message":"ok","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z"}]}]}}`)
		told := w.routeBecomes(t, team, name, func(c *assert.CollectT, o *object) { assert.Len(c, o.Status.Parents, 1) })
		require.Equal(t, "routewarden.dev/example.org/gateway", told.Status.Parents[0].ControllerName)
		require.Equal(t, "aibrix-system", told.Status.Parents[0].ParentRef["namespace"])
		require.Equal(t, "ok", told.Status.Parents[0].Conditions[0].Message)
		require.Equal(t, told.Metadata.Generation, told.Status.Parents[0].Conditions[0].ObservedGeneration)
	})
	t.Run("an edit is copied", func(t *testing.T) {
		jane.succeeds("", "patch", "httproute", name, "-n", team, "--type=json", `-p=[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": "mistral"}]`)
		w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
			assert.Equal(c, []string{"Service " + team + "/mistral"}, o.backends())
		})
		require.Contains(t, strings.Join(w.grantsBecome(t, team, 1), " "), "routewarden-mistral-")
		jane.succeeds("", "label", "httproute", name, "-n", team, "model.aibrix.ai/name-", "added=yes")
		w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
			assert.Equal(c, map[string]string{"added": "yes", "app.kubernetes.io/managed-by": "routewarden", "routewarden.dev/origin": team}, o.Metadata.Labels)
		})
	})
	t.Run("the copy is not changed by hand", func(t *testing.T) {
		platform := w.user(t).writesRoutes(system)
		for _, args := range [][]string{
			{"patch", "httproute", name, "-n", system, "--type=json", `-p=[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": "evil"}]`},
			{"label", "httproute", name, "-n", system, "app.kubernetes.io/managed-by-"},
			{"annotate", "httproute", name, "-n", system, "--overwrite", "routewarden.dev/source=" + team + "/other"},
		} {
			require.Contains(t, platform.refused("", args...), "this HTTPRoute is the relocated copy of "+team+"/"+name+" and is not changed by hand")
		}
		// Who is exempt may, and it is repaired.
		w.admin(t, "patch", "httproute", name, "-n", system, "--type=json", `-p=[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": "evil"}]`)
		w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
			assert.Equal(c, []string{"Service " + team + "/mistral"}, o.backends())
		})
		// Whoever may delete it, may; it comes back.
		uid := w.object(t, t.Context(), "httproute", system, name).Metadata.UID
		platform.succeeds("", "delete", "httproute", name, "-n", system)
		w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) { assert.NotEqual(c, uid, o.Metadata.UID) })
	})
	t.Run("recreated", func(t *testing.T) {
		jane.succeeds("", "delete", "httproute", name, "-n", team)
		jane.succeeds(manifest, "create", "-f", "-")
		fresh := w.object(t, t.Context(), "httproute", team, name)
		w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
			assert.Equal(c, fresh.Metadata.UID, o.Metadata.Annotations["routewarden.dev/source-uid"])
			assert.Equal(c, []string{"Service " + team + "/llama"}, o.backends())
		})
	})
	t.Run("deleted", func(t *testing.T) {
		jane.succeeds("", "delete", "httproute", name, "-n", team)
		w.routeGoes(t, system, name)
		w.grantsBecome(t, team, 0)
	})
}
