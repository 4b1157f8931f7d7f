package e2e

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// relocating returns the world in which routes are relocated.
func relocating(t *testing.T) *world {
	t.Helper()
	w := serving(t, "--outside=rewrite")
	w.parksBecome(t, true)
	return w
}

// parksBecome waits until routes are parked, or are not.
func (w *world) parksBecome(t *testing.T, parks bool) {
	t.Helper()
	text, _, _ := strings.Cut(route("default", "probe"), "  rules:") // nothing about backends is to be decided
	probes, err := objects(text)
	require.NoError(t, err)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		probe := probes[0].DeepCopy()
		err := w.probe.Create(t.Context(), probe, client.DryRunAll)
		if parks {
			assert.NoError(c, err)
		}
		assert.Equal(c, parks, probe.GetAnnotations()[policy.ParkedAnnotation] != "")
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

// object is nil when there is none.
func (w *world) object(t require.TestingT, ctx context.Context, kind policy.Kind, namespace, name string) *object {
	there := &unstructured.Unstructured{}
	there.SetGroupVersionKind(gwv1.SchemeGroupVersion.WithKind(string(kind)))
	err := w.api.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, there)
	if apierrors.IsNotFound(err) {
		return nil
	}
	require.NoError(t, err)
	text, err := there.MarshalJSON()
	require.NoError(t, err)
	o := &object{}
	require.NoError(t, json.Unmarshal(text, o))
	return o
}

// routeBecomes waits until the HTTPRoute is as the check wants it.
func (w *world) routeBecomes(t *testing.T, namespace, name string, check func(*assert.CollectT, *object)) *object {
	t.Helper()
	var o *object
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		o = w.object(c, t.Context(), policy.HTTPRoute, namespace, name)
		if assert.NotNil(c, o, "%s/%s", namespace, name) {
			check(c, o)
		}
	}, soon, tick)
	return o
}

func (w *world) routeGoes(t *testing.T, namespace, name string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.Nil(c, w.object(c, t.Context(), policy.HTTPRoute, namespace, name))
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
	require.Nil(t, w.object(t, t.Context(), policy.HTTPRoute, team, name))

	made := jane.kubectl(manifest, "apply", "-f", "-")
	require.Equal(t, 0, made.exit, made.stderr)
	require.Contains(t, made.stderr, "Warning: relocated: HTTPRoute aibrix-system/"+name)
	require.Contains(t, made.stderr, "Warning: created ReferenceGrant "+team+"/routesteward-llama-")
	require.Len(t, w.grants(t, team), 1, "the grant is there when the create returns")

	source := w.object(t, t.Context(), policy.HTTPRoute, team, name)
	require.Equal(t, parkedByDefault, source.Metadata.Annotations["routesteward.dev/parked-parent-refs"])
	require.Empty(t, source.Spec.ParentRefs)
	var dried object
	require.NoError(t, json.Unmarshal([]byte(dry.stdout), &dried))
	require.Equal(t, dried.Spec, source.Spec, "the dry run's result is the real one's")
	require.Equal(t, dried.Metadata.Annotations, source.Metadata.Annotations)

	copied := w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
		assert.Equal(c, []string{"Service " + team + "/llama"}, o.backends())
	})
	require.Equal(t, map[string]string{"model.aibrix.ai/name": "llama", "app.kubernetes.io/managed-by": "routesteward", "routesteward.dev/origin": team}, copied.Metadata.Labels)
	require.Equal(t, map[string]string{"routesteward.dev/source": team + "/" + name, "routesteward.dev/source-uid": source.Metadata.UID}, copied.Metadata.Annotations)
	require.Equal(t, []map[string]any{{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "aibrix-eg", "namespace": "aibrix-system"}}, copied.Spec.ParentRefs)
	require.Contains(t, w.eventBecomes(t, team, name, "Relocated"), "HTTPRoute aibrix-system/"+name+" serves this route")
	require.Contains(t, w.eventBecomes(t, system, name, "Relocated"), "created from HTTPRoute "+team+"/"+name)

	t.Run("applying again changes nothing", func(t *testing.T) {
		for _, args := range [][]string{{"apply", "-f", "-"}, {"apply", "-f", "-"}} {
			again := jane.succeeds(manifest, args...)
			require.NotContains(t, again.stderr, "Warning")
			now := w.object(t, t.Context(), policy.HTTPRoute, team, name)
			require.Equal(t, source.Metadata.ResourceVersion, now.Metadata.ResourceVersion, again.stdout)
		}
		require.Empty(t, jane.kubectl(manifest, "diff", "-f", "-").stdout)
	})
	t.Run("the source gets the copy's status", func(t *testing.T) {
		w.admin(t, "patch", "httproute", name, "-n", system, "--subresource=status", "--type=merge", `-p={"status":{"parents":[
			{"parentRef":{"name":"aibrix-eg","namespace":"aibrix-system"},"controllerName":"example.org/gateway","conditions":[
				{"type":"Accepted","status":"True","reason":"Accepted","message":"ok","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z"}]}]}}`)
		reported := w.routeBecomes(t, team, name, func(c *assert.CollectT, o *object) { assert.Len(c, o.Status.Parents, 1) })
		require.Equal(t, "routesteward.dev/example.org/gateway", reported.Status.Parents[0].ControllerName)
		require.Equal(t, "aibrix-system", reported.Status.Parents[0].ParentRef["namespace"])
		require.Equal(t, "ok", reported.Status.Parents[0].Conditions[0].Message)
		require.Equal(t, reported.Metadata.Generation, reported.Status.Parents[0].Conditions[0].ObservedGeneration)
	})
	t.Run("an edit is copied", func(t *testing.T) {
		jane.succeeds("", "patch", "httproute", name, "-n", team, "--type=json", `-p=[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": "mistral"}]`)
		w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
			assert.Equal(c, []string{"Service " + team + "/mistral"}, o.backends())
		})
		require.Contains(t, strings.Join(w.grantsBecome(t, team, 1), " "), "routesteward-mistral-")
		jane.succeeds("", "label", "httproute", name, "-n", team, "model.aibrix.ai/name-", "added=yes")
		w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
			assert.Equal(c, map[string]string{"added": "yes", "app.kubernetes.io/managed-by": "routesteward", "routesteward.dev/origin": team}, o.Metadata.Labels)
		})
	})
	t.Run("the copy is not changed by hand", func(t *testing.T) {
		platform := w.user(t).writesRoutes(system)
		for _, args := range [][]string{
			{"patch", "httproute", name, "-n", system, "--type=json", `-p=[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": "evil"}]`},
			{"label", "httproute", name, "-n", system, "app.kubernetes.io/managed-by-"},
			{"annotate", "httproute", name, "-n", system, "--overwrite", "routesteward.dev/source=" + team + "/other"},
		} {
			require.Contains(t, platform.refused("", args...), "this HTTPRoute is the relocated copy of "+team+"/"+name+" and is not changed by hand")
		}
		// Who is exempt may, and it is repaired.
		w.admin(t, "patch", "httproute", name, "-n", system, "--type=json", `-p=[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": "evil"}]`)
		w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
			assert.Equal(c, []string{"Service " + team + "/mistral"}, o.backends())
		})
		// Whoever may delete it, may; it comes back.
		uid := w.object(t, t.Context(), policy.HTTPRoute, system, name).Metadata.UID
		platform.succeeds("", "delete", "httproute", name, "-n", system)
		w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) { assert.NotEqual(c, uid, o.Metadata.UID) })
	})
	t.Run("recreated", func(t *testing.T) {
		jane.succeeds("", "delete", "httproute", name, "-n", team)
		jane.succeeds(manifest, "create", "-f", "-")
		fresh := w.object(t, t.Context(), policy.HTTPRoute, team, name)
		w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
			assert.Equal(c, fresh.Metadata.UID, o.Metadata.Annotations["routesteward.dev/source-uid"])
			assert.Equal(c, []string{"Service " + team + "/llama"}, o.backends())
		})
	})
	t.Run("deleted", func(t *testing.T) {
		jane.succeeds("", "delete", "httproute", name, "-n", team)
		w.routeGoes(t, system, name)
		w.grantsBecome(t, team, 0)
	})
}

func TestParkingHoweverItIsWritten(t *testing.T) {
	w := relocating(t)
	team := w.namespace(t, "team", "")
	jane := w.user(t).writesRoutes(team)
	parked := func(t *testing.T, name string) *object {
		t.Helper()
		o := w.object(t, t.Context(), policy.HTTPRoute, team, name)
		require.NotNil(t, o)
		require.Empty(t, o.Spec.ParentRefs)
		require.JSONEq(t, parkedByDefault, o.Metadata.Annotations["routesteward.dev/parked-parent-refs"])
		return o
	}
	for name, args := range map[string][]string{
		"create":            {"create", "-f", "-"},
		"client-side-apply": {"apply", "-f", "-"},
		"server-side-apply": {"apply", "--server-side", "-f", "-"},
		"v1beta1":           {"apply", "-f", "-"},
		"misdirected":       {"apply", "-f", "-"},
	} {
		t.Run(name, func(t *testing.T) {
			name := named(name)
			manifest := route(team, name, "llama")
			switch {
			case strings.HasPrefix(name, "v1beta1"):
				manifest = strings.Replace(manifest, "networking.k8s.io/v1", "networking.k8s.io/v1beta1", 1)
			case strings.HasPrefix(name, "misdirected"):
				manifest = strings.Replace(manifest, "    namespace: aibrix-system\n", "", 1)
			}
			jane.succeeds(manifest, args...)
			parked(t, name)
			w.routeBecomes(t, system, name, func(*assert.CollectT, *object) {})
		})
	}
	t.Run("generateName", func(t *testing.T) {
		generated := jane.succeeds(strings.Replace(route(team, "x", "llama"), "  name: x\n", "  generateName: made-up-\n", 1), "create", "-f", "-", "-o", "name")
		name := strings.TrimPrefix(strings.TrimSpace(generated.stdout), "httproute.gateway.networking.k8s.io/")
		require.Contains(t, name, "made-up-")
		parked(t, name)
		w.routeBecomes(t, system, name, func(*assert.CollectT, *object) {})
	})
	t.Run("patches and replace", func(t *testing.T) {
		name := named("patched")
		jane.succeeds(strings.Replace(route(team, name, "llama"), "    namespace: aibrix-system\n", "    namespace: "+team+"\n", 1), "create", "-f", "-")
		require.Nil(t, w.object(t, t.Context(), policy.HTTPRoute, system, name))
		jane.succeeds("", "patch", "httproute", name, "-n", team, "--type=json", `-p=[{"op": "replace", "path": "/spec/parentRefs/0/namespace", "value": "aibrix-system"}]`)
		parked(t, name)
		jane.succeeds("", "patch", "httproute", name, "-n", team, "--type=merge", `-p={"spec": {"parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}]}}`)
		parked(t, name)
		// A replacement states everything: without parentRefs the route is on no Gateway.
		jane.succeeds(route(team, name, "llama"), "replace", "-f", "-")
		parked(t, name)
		w.routeBecomes(t, system, name, func(*assert.CollectT, *object) {})
		jane.succeeds(withoutParents(route(team, name, "llama")), "replace", "-f", "-")
		w.routeGoes(t, system, name)
	})
	t.Run("mixed parents", func(t *testing.T) {
		name := named("mixed")
		jane.succeeds(strings.Replace(route(team, name, "llama"), "  rules:\n", "  - name: mine\n    namespace: "+team+"\n  rules:\n", 1), "apply", "-f", "-")
		source := w.object(t, t.Context(), policy.HTTPRoute, team, name)
		require.Equal(t, []map[string]any{{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "mine", "namespace": team}}, source.Spec.ParentRefs)
		copied := w.routeBecomes(t, system, name, func(*assert.CollectT, *object) {})
		require.Len(t, copied.Spec.ParentRefs, 1)
		require.Equal(t, "aibrix-eg", copied.Spec.ParentRefs[0]["name"])
	})
	t.Run("GRPCRoute", func(t *testing.T) {
		name := named("grpc")
		jane.succeeds(strings.Replace(route(team, name, "llama"), "HTTPRoute", "GRPCRoute", 1), "apply", "-f", "-")
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			if o := w.object(c, t.Context(), policy.GRPCRoute, system, name); assert.NotNil(c, o) {
				assert.Equal(c, []string{"Service " + team + "/llama"}, o.backends())
			}
		}, soon, tick)
	})
}

func withoutParents(manifest string) string {
	return strings.Replace(manifest, "  parentRefs:\n  - name: aibrix-eg\n    namespace: aibrix-system\n", "", 1)
}

// Another mutation that comes after parking makes the API server ask again.
func TestParkingIsReinvoked(t *testing.T) {
	w := relocating(t)
	team := w.namespace(t, "team", "")
	jane := w.user(t).writesRoutes(team)
	w.adminApplies(t, `apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: labels-parked-routes}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [gateway.networking.k8s.io], apiVersions: [v1], operations: [CREATE], resources: [httproutes]}
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{metadata: Object.metadata{labels: {'seen':
      has(object.metadata.annotations) && 'routesteward.dev/parked-parent-refs' in object.metadata.annotations ? 'parked' : 'as-written'}}}"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: labels-parked-routes}
spec: {policyName: labels-parked-routes}
`)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		_, _ = w.adminTry(ctx, "delete", "mutatingadmissionpolicy,mutatingadmissionpolicybinding", "labels-parked-routes")
	})
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		name := named("reinvoked")
		jane.succeeds(route(team, name, "llama"), "create", "-f", "-")
		o := w.object(c, t.Context(), policy.HTTPRoute, team, name)
		assert.Equal(c, "parked", o.Metadata.Labels["seen"], "the policy came after parking")
		assert.Equal(c, parkedByDefault, o.Metadata.Annotations["routesteward.dev/parked-parent-refs"])
		assert.Empty(c, o.Spec.ParentRefs)
	}, soon, tick)
}

// What GitOps controllers do: apply again and again, and look for differences with dry runs.
func TestGitOpsSeesNoDrift(t *testing.T) {
	w := relocating(t)
	team := w.namespace(t, "team", "")
	jane := w.user(t).writesRoutes(team)
	for name, flags := range map[string][]string{
		"client-side": nil,
		"server-side": {"--server-side", "--field-manager=kustomize-controller"},
	} {
		t.Run(name, func(t *testing.T) {
			name := named("llama-router")
			manifest := route(team, name, "llama")
			apply := append(append([]string{"apply"}, flags...), "-f", "-")
			jane.succeeds(manifest, apply...)
			version := w.routeBecomes(t, team, name, func(*assert.CollectT, *object) {}).Metadata.ResourceVersion
			// A change right after the creation is allowed, and shown: the reconciler completes what it could not know at first.
			copied := ""
			w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
				before := copied
				if copied = o.Metadata.ResourceVersion; !assert.Equal(c, before, copied) {
					t.Logf("the copy at version %s:\n%s", copied, w.admin(t, "get", "httproute", name, "-n", system, "-o", "yaml", "--show-managed-fields"))
				}
			})

			dry := jane.succeeds(manifest, append(apply, "--dry-run=server", "-o", "json")...)
			require.NotContains(t, dry.stderr, "Warning")
			var dried object
			require.NoError(t, json.Unmarshal([]byte(dry.stdout), &dried))
			require.Equal(t, version, dried.Metadata.ResourceVersion, "a dry run sees no change")

			diff := jane.succeeds(manifest, append(append([]string{"diff"}, flags...), "-f", "-")...)
			require.Empty(t, diff.stdout)
			jane.succeeds(manifest, apply...)
			require.Equal(t, version, w.object(t, t.Context(), policy.HTTPRoute, team, name).Metadata.ResourceVersion, "a second apply writes nothing")
			require.Equal(t, copied, w.object(t, t.Context(), policy.HTTPRoute, system, name).Metadata.ResourceVersion)

			// Somebody else's edit does not take the route off its Gateway, and the next apply brings everything back.
			jane.succeeds("", "annotate", "httproute", name, "-n", team, "seen=yes")
			jane.succeeds(manifest, apply...)
			require.NotNil(t, w.object(t, t.Context(), policy.HTTPRoute, system, name))

			// A manifest without the parentRefs withdraws them.
			jane.succeeds(withoutParents(manifest), apply...)
			source := w.object(t, t.Context(), policy.HTTPRoute, team, name)
			require.NotContains(t, source.Metadata.Annotations, "routesteward.dev/parked-parent-refs")
			w.routeGoes(t, system, name)
			w.routeBecomes(t, team, name, func(c *assert.CollectT, o *object) { assert.Empty(c, o.Status.Parents) })
		})
	}
}

func TestTwoTenantsAndOneName(t *testing.T) {
	w := relocating(t)
	one, two := w.namespace(t, "one", ""), w.namespace(t, "two", "")
	jane, joe := w.user(t).writesRoutes(one), w.user(t).writesRoutes(two)
	name := named("llama-router")
	jane.succeeds(route(one, name, "llama"), "apply", "-f", "-")
	w.routeBecomes(t, system, name, func(*assert.CollectT, *object) {})
	require.Equal(t, `HTTPRoute "`+name+`" in namespace "`+two+`" has 1 problem:
- metadata.name: `+name+`: the route's copy would be HTTPRoute aibrix-system/`+name+`, which is the copy of `+one+"/"+name+`; to fix: use another name [route-cannot-be-relocated]`,
		joe.refused(route(two, name, "llama"), "apply", "-f", "-"))

	// A route that the platform team wrote is nobody's copy.
	platform := w.user(t).writesRoutes(system)
	taken := named("taken")
	platform.succeeds(route(system, taken, "llama"), "apply", "-f", "-")
	uid := w.object(t, t.Context(), policy.HTTPRoute, system, taken).Metadata.UID
	require.Contains(t, joe.refused(route(two, taken, "llama"), "apply", "-f", "-"), "HTTPRoute aibrix-system/"+taken+", which exists and is not this route's copy")
	require.Contains(t, joe.refused(route(two, "aibrix-reserved-router-models-endpoint", "llama"), "apply", "-f", "-"), "names like aibrix-reserved-* are reserved")

	// When the name is free again it can be had.
	jane.succeeds("", "delete", "httproute", name, "-n", one)
	joe.succeeds(route(two, name, "llama"), "apply", "-f", "-")
	w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
		assert.Equal(c, two+"/"+name, o.Metadata.Annotations["routesteward.dev/source"])
	})
	require.Equal(t, uid, w.object(t, t.Context(), policy.HTTPRoute, system, taken).Metadata.UID)
}

// Of routes that race for a name one gets it; the others learn so at admission, or from their status.
func TestRoutesThatRaceForOneName(t *testing.T) {
	w := relocating(t)
	const racers = 6
	name := named("race")
	var teams []string
	var users []*user
	for range racers {
		team := w.namespace(t, "racer", "")
		teams = append(teams, team)
		users = append(users, w.user(t).writesRoutes(team))
	}
	var wg sync.WaitGroup
	results := make([]result, racers)
	for i := range racers {
		wg.Go(func() { results[i] = users[i].kubectl(route(teams[i], name, "llama"), "create", "-f", "-") })
	}
	wg.Wait()
	copied := w.routeBecomes(t, system, name, func(*assert.CollectT, *object) {})
	winner := copied.Metadata.Annotations["routesteward.dev/source"]
	winners := 0
	for i, team := range teams {
		switch {
		case results[i].exit != 0:
			require.Contains(t, results[i].stderr, "which is the copy of")
		case winner == team+"/"+name:
			winners++
		default:
			reported := w.routeBecomes(t, team, name, func(c *assert.CollectT, o *object) { assert.Len(c, o.Status.Parents, 1) })
			require.Equal(t, "routesteward.dev/relocation", reported.Status.Parents[0].ControllerName)
			condition := reported.Status.Parents[0].Conditions[0]
			require.Equal(t, []string{"Accepted", "False", "RelocatedNameTaken"}, []string{condition.Type, condition.Status, condition.Reason})
			require.Contains(t, condition.Message, "is the copy of "+winner)
			require.Contains(t, w.eventBecomes(t, team, name, "RelocatedNameTaken"), "is the copy of "+winner)
			// A write that changes nothing about it is admitted all the same.
			users[i].succeeds("", "label", "httproute", name, "-n", team, "touched=yes")
		}
	}
	require.Equal(t, 1, winners)

	// The next one gets the name when the winner goes.
	for i, team := range teams {
		if results[i].exit == 0 && winner == team+"/"+name {
			users[i].succeeds("", "delete", "httproute", name, "-n", team)
		}
	}
	parkedLosers := 0
	for i := range teams {
		if results[i].exit == 0 {
			parkedLosers++
		}
	}
	if parkedLosers > 1 {
		w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
			assert.NotEqual(c, winner, o.Metadata.Annotations["routesteward.dev/source"])
		})
	} else {
		w.routeGoes(t, system, name)
	}
}

// Every copy refers from the system namespace, whose grants are for others too: consent is to the origin.
func TestRelocationLaundersNothing(t *testing.T) {
	w := relocating(t)
	mine, victim := w.namespace(t, "mine", ""), w.namespace(t, "victim", "")
	jane := w.user(t).writesRoutes(mine)
	// The victim consents to the platform's routes, and to another team's.
	w.adminApplies(t, foreignGrant(victim, "platform", system, "llama")+"---\n"+foreignGrant(victim, "friends", "friends", "llama"))
	platform := w.user(t).writesRoutes(system)
	platform.succeeds(route(system, named("of-the-platform"), victim+"/llama"), "apply", "-f", "-")

	t.Run("a backend that consents to others only", func(t *testing.T) {
		message := jane.refused(route(mine, named("stolen"), victim+"/llama"), "apply", "-f", "-")
		require.Contains(t, message, `Service `+victim+`/llama: namespace "`+victim+`" has not consented to references from HTTPRoutes in "`+mine+`"`)
	})
	t.Run("a Service of the system namespace", func(t *testing.T) {
		message := jane.refused(route(mine, named("inner"), system+"/aibrix-controller"), "apply", "-f", "-")
		require.Contains(t, message, `namespace "aibrix-system" has not consented to references from HTTPRoutes in "`+mine+`"`)
	})
	t.Run("a backend that is added later", func(t *testing.T) {
		name := named("later")
		jane.succeeds(route(mine, name, "llama"), "apply", "-f", "-")
		require.Contains(t, jane.refused("", "patch", "httproute", name, "-n", mine, "--type=json",
			`-p=[{"op": "add", "path": "/spec/rules/0/backendRefs/-", "value": {"name": "llama", "namespace": "`+victim+`", "port": 8000}}]`), "has not consented")
	})
	t.Run("forged annotations", func(t *testing.T) {
		for annotation, want := range map[string]string{
			`routesteward.dev/parked-parent-refs: '[{"name":"aibrix-eg","namespace":"aibrix-system"}]'`:                              "has not consented",
			`routesteward.dev/parked-parent-refs: '[{"name":"other","namespace":"` + victim + `"}]'`:                                 `is not in namespace "aibrix-system"`,
			`routesteward.dev/parked-parent-refs: '[{"name":"llama","namespace":"aibrix-system","kind":"Service","group":""}]'`:      "is not a Gateway",
			`routesteward.dev/parked-parent-refs: '[{"name":"aibrix-eg","namespace":"` + victim + `","Namespace":"aibrix-system"}]'`: `is not in namespace "aibrix-system"`,
			`routesteward.dev/parked-parent-refs: 'nonsense'`:                                                                        "is not a JSON list of parentRefs",
		} {
			forged := strings.Replace(withoutParents(route(mine, named("forged"), victim+"/llama")), "metadata:\n", "metadata:\n  annotations:\n    "+annotation+"\n", 1)
			require.Contains(t, jane.refused(forged, "apply", "-f", "-"), want)
		}
	})
	t.Run("a forged copy", func(t *testing.T) {
		forged := strings.Replace(route(system, named("forged"), victim+"/secret"), "metadata:\n",
			"metadata:\n  labels: {app.kubernetes.io/managed-by: routesteward, routesteward.dev/origin: "+victim+"}\n  annotations: {routesteward.dev/source: "+victim+"/x}\n", 1)
		require.Contains(t, platform.refused(forged, "apply", "-f", "-"), `only routesteward creates routes with this label in namespace "aibrix-system"`)
	})
	t.Run("the origin's own annotations name nobody else", func(t *testing.T) {
		name := named("honest")
		manifest := strings.Replace(route(mine, name, "llama"), "metadata:\n",
			"metadata:\n  labels: {routesteward.dev/origin: "+victim+"}\n  annotations: {routesteward.dev/source: "+victim+"/x, routesteward.dev/source-uid: x}\n", 1)
		jane.succeeds(manifest, "apply", "-f", "-")
		copied := w.routeBecomes(t, system, name, func(*assert.CollectT, *object) {})
		require.Equal(t, mine, copied.Metadata.Labels["routesteward.dev/origin"])
		require.Equal(t, mine+"/"+name, copied.Metadata.Annotations["routesteward.dev/source"])
	})
}

// A revoked consent is taken out of the copy too: another grant for the system namespace would let it through.
func TestRevokedConsentWithholdsTheBackend(t *testing.T) {
	w := relocating(t)
	mine, models := w.namespace(t, "mine", ""), w.namespace(t, "models", "allow")
	jane := w.user(t).writesRoutes(mine)
	name := named("llama-router")
	w.adminApplies(t, foreignGrant(models, "platform", system, "llama"))
	jane.succeeds(route(mine, name, "llama", models+"/llama"), "apply", "-f", "-")
	both := []string{"Service " + mine + "/llama", "Service " + models + "/llama"}
	w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) { assert.Equal(c, both, o.backends()) })

	w.label(t, models, "")
	w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
		assert.Equal(c, []string{"Service " + mine + "/llama", "WithheldBackend /llama"}, o.backends())
	})
	require.Contains(t, w.eventBecomes(t, mine, name, "BackendWithheld"), "Service "+models+"/llama")
	reported := w.routeBecomes(t, mine, name, func(c *assert.CollectT, o *object) { assert.NotEmpty(c, o.Status.Parents) })
	condition := reported.Status.Parents[0].Conditions[0]
	require.Equal(t, []string{"ResolvedRefs", "False", "RefNotPermitted"}, []string{condition.Type, condition.Status, condition.Reason})

	// It may be operated as it is, and comes back with the consent.
	jane.succeeds("", "label", "httproute", name, "-n", mine, "touched=yes")
	w.label(t, models, "allow")
	w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) { assert.Equal(c, both, o.backends()) })
	w.label(t, models, "deny")
	w.routeBecomes(t, system, name, func(c *assert.CollectT, o *object) {
		assert.Equal(c, []string{"Service " + mine + "/llama", "WithheldBackend /llama"}, o.backends())
	})
}

// The mutating webhook may be skipped; what it should have parked is refused then.
func TestSkippedMutationFailsClosed(t *testing.T) {
	w := relocating(t)
	team := w.namespace(t, "team", "")
	jane := w.user(t).writesRoutes(team)
	restore := w.breaksGlass(t, &admissionv1.MutatingWebhookConfiguration{})
	defer func() {
		restore()
		w.parksBecome(t, true)
	}()
	require.Contains(t, jane.refused(route(team, "llama-router", "llama"), "create", "-f", "-"), "and it was not relocated")
}
