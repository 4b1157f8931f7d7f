package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRouteOutsideIsRefusedHoweverItIsWritten(t *testing.T) {
	w := serving(t)
	team := w.namespace(t, "team", "")
	jane := w.user(t).writesRoutes(team)
	outside := route(team, "llama-router", "llama")
	want := `HTTPRoute "llama-router" in namespace "` + team + `" has 1 problem:
- spec.parentRefs[0]: Gateway aibrix-system/aibrix-eg: takes routes from namespace "aibrix-system" only, and this route is in "` + team + `"; to fix: set metadata.namespace: aibrix-system and add namespace: ` + team + ` to each backendRef that names none [route-outside-system-namespace]`

	for name, args := range map[string][]string{
		"create":            {"create", "-f", "-"},
		"client-side apply": {"apply", "-f", "-"},
		"server-side apply": {"apply", "--server-side", "-f", "-"},
		"dry run":           {"create", "--dry-run=server", "-f", "-"},
		"dry run of apply":  {"apply", "--server-side", "--dry-run=server", "-f", "-"},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, want, jane.refused(outside, args...)) })
	}
	t.Run("generateName", func(t *testing.T) {
		generated := strings.Replace(outside, "  name: llama-router\n", "  generateName: llama-router-\n", 1)
		require.Equal(t, strings.Replace(want, `"llama-router"`, `"llama-router-*"`, 1), jane.refused(generated, "create", "-f", "-"))
	})
	t.Run("v1beta1", func(t *testing.T) {
		require.Equal(t, want, jane.refused(strings.Replace(outside, "networking.k8s.io/v1", "networking.k8s.io/v1beta1", 1), "create", "-f", "-"))
	})
	t.Run("misdirected", func(t *testing.T) {
		misdirected := strings.Replace(outside, "    namespace: aibrix-system\n", "", 1)
		require.Contains(t, jane.refused(misdirected, "create", "-f", "-"), "it names no namespace, and there is no such Gateway")
	})
	t.Run("edit and patch", func(t *testing.T) {
		elsewhere := strings.Replace(outside, "    namespace: aibrix-system\n", "    namespace: "+team+"\n", 1)
		jane.succeeds(elsewhere, "create", "-f", "-")
		require.Equal(t, want, jane.refused("", "patch", "httproute", "llama-router", "-n", team, "--type=json",
			`-p=[{"op": "replace", "path": "/spec/parentRefs/0/namespace", "value": "aibrix-system"}]`))
		require.Equal(t, want, jane.refused("", "patch", "httproute", "llama-router", "-n", team, "--type=merge",
			`-p={"spec": {"parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}]}}`))
		require.Equal(t, want, jane.refused(outside, "replace", "-f", "-"))
		jane.succeeds("", "delete", "httproute", "llama-router", "-n", team)
	})
	require.Empty(t, w.admin(t, "get", "httproutes", "-n", team, "-o", "name"))
}

func TestTheDenialLeadsToItsLogLineAndAuditEvent(t *testing.T) {
	w := serving(t)
	team := w.namespace(t, "team", "")
	jane := w.user(t).writesRoutes(team)
	r := jane.kubectl(route(team, "llama-router", "llama"), "create", "-f", "-")
	require.Equal(t, 1, r.exit)
	uid := strings.TrimSuffix(strings.TrimPrefix(requestLine.FindString(r.stderr), "\n(routesteward request "), ")")
	require.NotEmpty(t, uid, r.stderr)
	require.Contains(t, r.stderr, "(Forbidden)")

	var line string
	for l := range strings.Lines(w.server.Logs()) {
		if strings.Contains(l, uid) {
			line += l
		}
	}
	require.Equal(t, 1, strings.Count(line, "\n"), "one line a decision: %s", line)
	for _, part := range []string{`"verdict":"deny"`, `"user":"` + jane.name + `"`, `"rules":["route-outside-system-namespace"]`, `"namespace":"` + team + `"`, `"name":"llama-router"`} {
		require.Contains(t, line, part)
	}
	w.auditBecomes(t, jane.name, `"routes.routesteward.dev/verdict":"deny"`, `"routes.routesteward.dev/rules":"route-outside-system-namespace"`)
}

func TestGrantIsThereWhenTheCreateReturns(t *testing.T) {
	w := serving(t)
	models := w.namespace(t, "models", "allow")
	jane := w.user(t).writesRoutes(system)
	name := named("llama-router")

	t.Run("a dry run shows the plan and changes nothing", func(t *testing.T) {
		for _, args := range [][]string{{"create"}, {"apply"}, {"apply", "--server-side"}} {
			r := jane.succeeds(route(system, name, models+"/llama"), append(args, "--dry-run=server", "-f", "-")...)
			require.Contains(t, r.stderr, "Warning: would create ReferenceGrant "+models+"/routesteward-llama-")
			require.Contains(t, r.stderr, `: HTTPRoutes in "aibrix-system" may refer to Service "llama" in "`+models+`"`)
		}
		require.Empty(t, w.grants(t, models))
		require.NotContains(t, w.admin(t, "get", "httproutes", "-n", system, "-o", "name"), name)
	})

	r := jane.kubectl(route(system, name, models+"/llama"), "apply", "-f", "-")
	require.Equal(t, 0, r.exit, r.stderr)
	grants := w.grants(t, models)
	require.Len(t, grants, 1)
	require.Contains(t, r.stderr, "Warning: created ReferenceGrant "+models+"/"+grants[0])
	spec := w.admin(t, "get", "referencegrant", grants[0], "-n", models, "-o", "jsonpath={.spec}")
	require.JSONEq(t, `{"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "aibrix-system"}],
		"to": [{"group": "", "kind": "Service", "name": "llama"}]}`, spec)
	meta := w.admin(t, "get", "referencegrant", grants[0], "-n", models, "-o", "jsonpath={.metadata.labels} {.metadata.annotations}")
	require.Contains(t, meta, `"app.kubernetes.io/managed-by":"routesteward"`)
	require.Contains(t, meta, `"routesteward.dev/origin":"aibrix-system"`)
	require.Contains(t, meta, `HTTPRoutes in \"aibrix-system\" may refer to Service \"llama\" in \"`+models+`\"`)
	require.Contains(t, meta, `this namespace has the label routesteward.dev/grants=allow`)
	w.auditBecomes(t, jane.name, `"routes.routesteward.dev/grants":"`+models+`/`+grants[0]+`"`)

	t.Run("applying again changes nothing", func(t *testing.T) {
		uid := w.admin(t, "get", "referencegrant", grants[0], "-n", models, "-o", "jsonpath={.metadata.uid}")
		again := jane.succeeds(route(system, name, models+"/llama"), "apply", "-f", "-")
		require.NotContains(t, again.stderr, "created")
		labeled := jane.succeeds("", "label", "httproute", name, "-n", system, "touched=yes")
		require.NotContains(t, labeled.stderr, "created")
		require.Equal(t, uid, w.admin(t, "get", "referencegrant", grants[0], "-n", models, "-o", "jsonpath={.metadata.uid}"))
	})
	t.Run("re-pointing moves the grant", func(t *testing.T) {
		r := jane.succeeds("", "patch", "httproute", name, "-n", system, "--type=json",
			`-p=[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": "mistral"}]`)
		require.Contains(t, r.stderr, "created ReferenceGrant "+models+"/routesteward-mistral-")
		remaining := w.grantsBecome(t, models, 1)
		require.Contains(t, remaining[0], "routesteward-mistral-")
	})
	t.Run("removing the backend removes the grant", func(t *testing.T) {
		jane.succeeds("", "patch", "httproute", name, "-n", system, "--type=json", `-p=[{"op": "remove", "path": "/spec/rules"}]`)
		w.grantsBecome(t, models, 0)
	})
	t.Run("deleting the route removes the grant", func(t *testing.T) {
		jane.succeeds(route(system, name, models+"/llama"), "apply", "--server-side", "--force-conflicts", "-f", "-")
		require.Len(t, w.grants(t, models), 1)
		jane.succeeds("", "delete", "httproute", name, "-n", system)
		w.grantsBecome(t, models, 0)
	})
}

func TestGeneratedNamesGetTheirGrants(t *testing.T) {
	w := serving(t)
	models := w.namespace(t, "models", "allow")
	jane := w.user(t).writesRoutes(system)
	generated := strings.Replace(route(system, "llama", models+"/llama"), "  name: llama\n", "  generateName: llama-\n", 1)
	first := jane.succeeds(generated, "create", "-f", "-", "-o", "name").stdout
	second := jane.succeeds(generated, "create", "-f", "-", "-o", "name").stdout
	require.Len(t, w.grants(t, models), 1, "two routes share the grant of one edge")
	jane.succeeds("", "delete", "-n", system, strings.TrimSpace(first))
	// When a grant that went unneeded later has been collected, the first would have been too.
	other := named("other")
	jane.succeeds(route(system, other, models+"/other"), "create", "-f", "-")
	jane.succeeds("", "delete", "httproute", other, "-n", system)
	w.grantsBecome(t, models, 1)
	require.Contains(t, w.grants(t, models)[0], "routesteward-llama-", "the second route still needs it")
	jane.succeeds("", "delete", "-n", system, strings.TrimSpace(second))
	w.grantsBecome(t, models, 0)
}

func TestWithoutConsentTheRouteIsRefused(t *testing.T) {
	w := serving(t)
	models := w.namespace(t, "models", "")
	jane := w.user(t).writesRoutes(system)
	message := func(namespace string) string {
		return `HTTPRoute "llama-router" in namespace "aibrix-system" has 1 problem:
- spec.rules[0].backendRefs[0]: Service ` + namespace + `/llama: namespace "` + namespace + `" has not consented to references from HTTPRoutes in "aibrix-system"; to fix: ask its owner to consent, with a ReferenceGrant or with: kubectl label namespace ` + namespace + ` routesteward.dev/grants=allow [cross-namespace-reference]`
	}
	require.Equal(t, message(models), jane.refused(route(system, "llama-router", models+"/llama"), "apply", "-f", "-"))
	require.Equal(t, message("no-such-namespace"), jane.refused(route(system, "llama-router", "no-such-namespace/llama"), "apply", "-f", "-"),
		"the message must not reveal whether a namespace exists")
	require.Empty(t, w.grants(t, models))
}

func TestRequesterWhoMayWriteGrantsConsents(t *testing.T) {
	w := serving(t)
	models := w.namespace(t, "models", "")
	jane := w.user(t).writesRoutes(system).may(models, "create", "referencegrants")
	name := named("llama-router")
	jane.succeeds(route(system, name, models+"/llama"), "apply", "-f", "-")
	grants := w.grants(t, models)
	require.Len(t, grants, 1)
	require.Contains(t, w.admin(t, "get", "referencegrant", grants[0], "-n", models, "-o", "jsonpath={.metadata.annotations}"),
		`given at admission by \"`+jane.name+`\"`)

	// The consent is recorded: somebody without the right may refer to the same Service as long as the grant exists.
	john := w.user(t).writesRoutes(system)
	second := named("llama-router")
	john.succeeds(route(system, second, models+"/llama"), "apply", "-f", "-")
	require.Contains(t, john.refused(route(system, named("llama-router"), models+"/other"), "apply", "-f", "-"), "has not consented")
	john.succeeds("", "delete", "httproute", second, name, "-n", system)
	w.grantsBecome(t, models, 0)
}

func TestVetoBeatsEverything(t *testing.T) {
	w := serving(t)
	models := w.namespace(t, "models", "deny")
	jane := w.user(t).writesRoutes(system).may(models, "create", "referencegrants")
	w.adminApplies(t, foreignGrant(models, "theirs", system, "llama"))
	require.Contains(t, jane.refused(route(system, "llama-router", models+"/llama"), "apply", "-f", "-"),
		`namespace "`+models+`" refuses references from other namespaces (label routesteward.dev/grants=deny)`)

	t.Run("a later veto revokes", func(t *testing.T) {
		models := w.namespace(t, "models", "allow")
		name := named("llama-router")
		jane.succeeds(route(system, name, models+"/llama"), "apply", "-f", "-")
		require.Len(t, w.grants(t, models), 1)
		w.label(t, models, "deny")
		w.grantsBecome(t, models, 0)
		require.Contains(t, w.eventBecomes(t, system, name, "ReferenceGrantRevoked"), "now refuses references")

		// What an update leaves as it is does not stop it.
		r := jane.succeeds("", "label", "httproute", name, "-n", system, "touched=yes")
		require.Contains(t, r.stderr, "admitted as unchanged")
		w.label(t, models, "allow")
		w.grantsBecome(t, models, 1)
		jane.succeeds("", "delete", "httproute", name, "-n", system)
	})
}

func TestForeignGrantIsEnoughAndNeverTouched(t *testing.T) {
	w := serving(t)
	models := w.namespace(t, "models", "")
	jane := w.user(t).writesRoutes(system)
	w.adminApplies(t, foreignGrant(models, "theirs", system, "llama"))
	// AIBrix's own grant has a broad scope and is of the same kind as ours.
	w.adminApplies(t, foreignGrant(models, "aibrix-system-reserved-referencegrant-in-"+models, system, "other"))
	before := w.admin(t, "get", "referencegrants", "-n", models, "-o", "yaml")
	name := named("llama-router")
	r := jane.succeeds(route(system, name, models+"/llama"), "apply", "-f", "-")
	require.NotContains(t, r.stderr, "ReferenceGrant")
	require.Equal(t, before, w.admin(t, "get", "referencegrants", "-n", models, "-o", "yaml"))

	w.admin(t, "delete", "referencegrant", "theirs", "-n", models)
	require.Contains(t, w.eventBecomes(t, system, name, "ReferenceGrantWithheld"), "has not consented")
	require.Len(t, w.grants(t, models), 1)
	t.Run("standing consent repairs it", func(t *testing.T) {
		w.label(t, models, "allow")
		w.grantsBecome(t, models, 2)
		w.eventBecomes(t, system, name, "ReferenceGrantRestored")
	})
	jane.succeeds("", "delete", "httproute", name, "-n", system)
	require.Equal(t, []string{"aibrix-system-reserved-referencegrant-in-" + models}, w.grantsBecome(t, models, 1))
}

func TestDeletedGrant(t *testing.T) {
	w := serving(t)
	models := w.namespace(t, "models", "")
	owner := w.user(t).may(models, "get,list,create,update,patch,delete", "referencegrants")
	jane := w.user(t).writesRoutes(system).may(models, "create", "referencegrants")
	name := named("llama-router")
	jane.succeeds(route(system, name, models+"/llama"), "apply", "-f", "-")
	grant := w.grants(t, models)[0]

	t.Run("it is not changed by hand", func(t *testing.T) {
		require.Contains(t, owner.refused("", "patch", "referencegrant", grant, "-n", models, "--type=json", `-p=[{"op": "remove", "path": "/spec/to/0/name"}]`),
			"this ReferenceGrant is managed by routesteward and is not changed by hand; to fix: delete it to revoke it")
		require.Contains(t, owner.refused("", "label", "referencegrant", grant, "-n", models, "app.kubernetes.io/managed-by-"), "managed by routesteward")
		forged := strings.Replace(foreignGrant(models, "forged", system, "x"), "metadata:\n", "metadata:\n  labels: {app.kubernetes.io/managed-by: routesteward}\n", 1)
		require.Contains(t, owner.refused(forged, "create", "-f", "-"), "only routesteward creates ReferenceGrants with this label; to fix: remove the label")
		noted := owner.succeeds("", "annotate", "referencegrant", grant, "-n", models, "example.com/note=seen")
		require.Contains(t, noted.stderr, "admitted as unchanged")
	})
	t.Run("deleting it revokes", func(t *testing.T) {
		revoked := w.metric(t, `routesteward_grants_total{action="revoked"}`)
		owner.succeeds("", "delete", "referencegrant", grant, "-n", models)
		require.Contains(t, w.eventBecomes(t, system, name, "ReferenceGrantRevoked"), "was deleted, which revokes: ")
		w.metricBecomes(t, `routesteward_grants_total{action="revoked"}`, func(v float64) bool { return v == revoked+1 })
		require.Empty(t, w.grants(t, models))

		// The update of somebody powerful that is about something else does not undo it.
		jane.succeeds("", "label", "httproute", name, "-n", system, "touched=yes")
		require.Empty(t, w.grants(t, models))
	})
	t.Run("under standing consent it comes back", func(t *testing.T) {
		w.label(t, models, "allow")
		uid := []string{"get", "referencegrants", "-n", models, "-o", "jsonpath={.items[*].metadata.uid}"}
		w.grantsBecome(t, models, 1)
		first := w.admin(t, uid...)
		owner.succeeds("", "delete", "referencegrant", grant, "-n", models)
		require.Eventually(t, func() bool {
			now, err := w.adminTry(t.Context(), uid...)
			return err == nil && now != "" && now != first
		}, soon, tick)
	})
	jane.succeeds("", "delete", "httproute", name, "-n", system)
	w.grantsBecome(t, models, 0)
}

func TestNamespaceWithManagedGrantsCanBeDeleted(t *testing.T) {
	t.Parallel()
	w := ownWorld(t, worldOptions{controllers: []string{"namespace-controller"}})
	models := w.namespace(t, "models", "allow")
	jane := w.user(t).writesRoutes(system)
	name := named("llama-router")
	jane.succeeds(route(system, name, models+"/llama"), "apply", "-f", "-")
	require.Len(t, w.grants(t, models), 1)
	w.admin(t, "delete", "namespace", models, "--timeout=60s")
	require.Contains(t, w.eventBecomes(t, system, name, "ReferenceGrantWithheld"), "is missing or being deleted")
	r := jane.succeeds("", "label", "httproute", name, "-n", system, "touched=yes")
	require.Contains(t, r.stderr, "admitted as unchanged")
	// The grant comes back with the namespace.
	w.admin(t, "create", "namespace", models)
	w.label(t, models, "allow")
	w.grantsBecome(t, models, 1)
	jane.succeeds("", "delete", "httproute", name, "-n", system)
}
