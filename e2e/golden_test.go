package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/policy/golden"
)

// teamNames are the namespaces of golden cases that each case gets anew; the others are shared.
var teamNames = regexp.MustCompile(`\bteam-[ab]\b`)

// goldenRBAC is what the requester of every golden case may do.
const goldenRBAC = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: golden-requester
rules:
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes, grpcroutes, gateways]
  verbs: ["*"]
# Not create: whether the requester may create ReferenceGrants is what some cases are about.
- apiGroups: [gateway.networking.k8s.io]
  resources: [referencegrants]
  verbs: [get, list, update, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: golden-requester
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: golden-requester
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: User
  name: jane
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: referencegrant-writer
rules:
- apiGroups: [gateway.networking.k8s.io]
  resources: [referencegrants]
  verbs: [create]
---
apiVersion: v1
kind: Namespace
metadata:
  name: infra
`

// TestGoldenCasesOnTheAPIServer sends every golden case through the real API server, under its own policy, in namespaces
// of its own, and through `routewarden check`, and expects of both what the engine decides on the very same input, word for
// word.
func TestGoldenCasesOnTheAPIServer(t *testing.T) {
	cases, err := golden.Load("../policy/testdata/cases")
	require.NoError(t, err)
	w := ownWorld(t, worldOptions{channel: "experimental", flags: []string{"--grant-grace=1h"}, before: func(w *world) error {
		return w.adminApply(t.Context(), goldenRBAC)
	}})
	kubeconfig, err := w.KubeconfigFor(golden.User, golden.Group)
	require.NoError(t, err)
	jane := &user{w: w, t: t, name: golden.User, kubeconfig: kubeconfig}

	byPolicy := map[string][]golden.Case{}
	var order []string
	for i, c := range cases {
		c = renamed(t, c, fmt.Sprintf("g%d", i))
		key := fmt.Sprint(c.Config)
		if byPolicy[key] == nil {
			order = append(order, key)
		}
		byPolicy[key] = append(byPolicy[key], c)
	}
	for _, key := range order {
		group := byPolicy[key]
		require.NoError(t, w.server.Stop())
		require.NoError(t, w.serve(t.Context(), policyFlags(group[0])...))
		w.parksBecome(t, group[0].Config.Outside == policy.OutsideRewrite)
		for _, c := range group {
			t.Run(c.Name, func(t *testing.T) { runGolden(t, w, jane, c) })
		}
	}
	for _, outside := range []policy.OutsideMode{policy.OutsideReject, policy.OutsideRewrite} {
		require.NoError(t, w.server.Stop())
		require.NoError(t, w.serve(t.Context(), "--outside="+string(outside)))
		w.parksBecome(t, outside == policy.OutsideRewrite)
		t.Run("random routes, --outside="+string(outside), func(t *testing.T) { testRandomRoutes(t, w, outside) })
	}
}

func runGolden(t *testing.T, w *world, jane *user, c golden.Case) {
	if strings.HasSuffix(c.Name, "/copy-as-it-was") {
		t.Skip("a copy tells the UID of its source, which no file can know; the reconciler would change this one")
	}
	jane = &user{w: w, t: t, name: jane.name, kubeconfig: jane.kubeconfig}
	pol, err := policy.New(c.Config)
	require.NoError(t, err)
	_, want, err := pol.Admit(c.Request, c.Facts())
	require.NoError(t, err)
	routeYAML, err := os.ReadFile(filepath.Join(c.Dir, "route.yaml"))
	require.NoError(t, err)
	clusterYAML, err := os.ReadFile(filepath.Join(c.Dir, "cluster.yaml"))
	require.NoError(t, err)

	// What earlier cases left in the shared namespaces would be facts of this one.
	admin, err := client.New(w.Config, client.Options{Scheme: golden.Scheme()})
	require.NoError(t, err)
	removeParked(t, admin)
	for _, obj := range []client.Object{&gwv1.HTTPRoute{}, &gwv1.GRPCRoute{}, &gwv1.Gateway{}, &gwv1.ReferenceGrant{}} {
		require.NoError(t, admin.DeleteAllOf(t.Context(), obj, client.InNamespace(system)))
	}
	copiesGo(t, admin)
	require.NoError(t, admin.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}},
		client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"labels": {"routewarden.dev/grants": null}}}`))))
	setUp := string(clusterYAML)
	if r := c.Request; !strings.Contains(setUp, "name: "+r.Namespace+"\n") {
		setUp += "---\n" + namespaceYAML(r.Namespace)
	}
	if c.Request.Kind == policy.ReferenceGrant && c.Request.Operation == policy.Create {
		// Writing a grant at all takes the right to; that is no part of these cases.
		setUp += "---\n" + strings.ReplaceAll(grantWriterYAML, "NAMESPACE", c.Request.Namespace)
	}
	// Where it holds a source and its copy, the reconciler may make the copy first.
	require.EventuallyWithT(t, func(c *assert.CollectT) { assert.NoError(c, w.adminApply(t.Context(), setUp)) }, soon, tick)
	verb := "create"
	if c.Request.Operation == policy.Update {
		verb = "replace"
	}
	denial := want.Denial(c.Request)
	cluster := filepath.Join(t.TempDir(), "cluster.yaml")
	require.NoError(t, os.WriteFile(cluster, clusterYAML, 0o644))
	require.Equal(t, answer{denial, want.Warnings(true)},
		offline(t, pol, c.Request.User, c.Facts().MayCreateGrants, filepath.Join(c.Dir, "route.yaml"), cluster))
	own := grantKeys(pol, c.Object).Difference(grantKeys(pol, c.Cluster...))
	managed := func() map[types.UID]bool {
		var list gwv1.ReferenceGrantList
		require.NoError(t, admin.List(t.Context(), &list, client.MatchingLabels{policy.ManagedByLabel: policy.ManagedBy}))
		uids := map[types.UID]bool{}
		for i := range list.Items {
			if own.Has(client.ObjectKeyFromObject(&list.Items[i])) {
				uids[list.Items[i].UID] = true
			}
		}
		return uids
	}
	// What a reconciler may do on its own to the stored old route is no part of the decision about the update.
	heals := verb == "replace" && len(want.Grants) > 0

	// The server alone knows the rest of a generated name.
	generated := regexp.MustCompile(`\b` + regexp.QuoteMeta(c.Object.GetGenerateName()) + `[a-z0-9]{5}\b`)
	if c.Object.GetGenerateName() == "" {
		generated = regexp.MustCompile(`^$`)
	}

	for _, dryRun := range []bool{true, false} {
		args := []string{verb, "-f", "-"}
		if dryRun {
			args = append(args, "--dry-run=server")
		}
		before := managed()
		require.EventuallyWithT(t, func(collect *assert.CollectT) {
			r := jane.kubectl(string(routeYAML), args...)
			if !want.Allowed {
				assert.Equal(collect, 1, r.exit, r.stdout)
				_, words, _ := strings.Cut(r.stderr, "denied the request: ")
				assert.Equal(collect, denial, strings.TrimSpace(requestLine.ReplaceAllString(words, "")), r.stderr)
				return
			}
			assert.Equal(collect, 0, r.exit, r.stderr)
			if r.exit != 0 && !dryRun {
				return
			}
			if heals {
				return
			}
			var warnings []string
			for line := range strings.Lines(r.stderr) {
				if warning, found := strings.CutPrefix(strings.TrimSpace(line), "Warning: "); found {
					warnings = append(warnings, generated.ReplaceAllString(warning, c.Object.GetGenerateName()+"*"))
				}
			}
			assert.Equal(collect, want.Warnings(dryRun), warnings, r.stderr)
		}, soon, tick)
		if dryRun || !want.Allowed {
			require.Equal(t, before, managed(), "nothing may change")
		}
	}
	if want.Allowed {
		for _, use := range want.Grants {
			require.NoError(t, admin.Get(t.Context(), types.NamespacedName{Namespace: use.Edge.Namespace, Name: use.Edge.GrantName()}, &gwv1.ReferenceGrant{}))
		}
	}
}

// grantKeys are the managed grants that the routes among the objects may stand on. Those of stored routes the reconcilers
// make when they get to it, whatever is decided about a write meanwhile.
func grantKeys(pol *policy.Policy, objects ...client.Object) sets.Set[types.NamespacedName] {
	keys := sets.Set[types.NamespacedName]{}
	for _, obj := range objects {
		if route, ok := policy.RouteOf(obj); ok {
			for _, edge := range pol.Edges(route) {
				edge = pol.Granted(edge)
				keys.Insert(types.NamespacedName{Namespace: edge.Namespace, Name: edge.GrantName()})
			}
		}
	}
	return keys
}

// removeParked deletes the sources that earlier cases left, which would hold the names of their copies.
func removeParked(t *testing.T, admin client.Client) {
	t.Helper()
	var https gwv1.HTTPRouteList
	var grpcs gwv1.GRPCRouteList
	require.NoError(t, admin.List(t.Context(), &https))
	require.NoError(t, admin.List(t.Context(), &grpcs))
	var routes []client.Object
	for i := range https.Items {
		routes = append(routes, &https.Items[i])
	}
	for i := range grpcs.Items {
		routes = append(routes, &grpcs.Items[i])
	}
	for _, route := range routes {
		if _, parked := route.GetAnnotations()[policy.ParkedAnnotation]; parked {
			require.NoError(t, client.IgnoreNotFound(admin.Delete(t.Context(), route)))
		}
	}
}

// copiesGo waits until no route is left in the system namespace: copies come back until their sources are seen to be gone.
func copiesGo(t *testing.T, admin client.Client) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		for _, list := range []client.ObjectList{&gwv1.HTTPRouteList{}, &gwv1.GRPCRouteList{}} {
			assert.NoError(c, admin.List(t.Context(), list, client.InNamespace(system)))
			assert.Zero(c, meta.LenList(list))
		}
	}, soon, tick)
}

const grantWriterYAML = `apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: golden-grant-writer
  namespace: NAMESPACE
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: referencegrant-writer
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: User
  name: jane
`

// renamed is the case in namespaces of its own, as files in a folder of its own. The names of managed grants follow.
func renamed(t *testing.T, c golden.Case, suffix string) golden.Case {
	t.Helper()
	dir := filepath.Join(t.TempDir(), c.Rule, filepath.Base(c.Dir))
	require.NoError(t, os.MkdirAll(dir, 0o755))
	oldName := policy.Edge{Origin: system, FromKind: policy.HTTPRoute, FromNamespace: system, Namespace: "team-a", Kind: "Service", Name: "llama"}
	newName := oldName
	newName.Namespace += suffix
	for _, file := range []string{"route.yaml", "cluster.yaml", "policy.yaml", "want.yaml"} {
		data, err := os.ReadFile(filepath.Join(c.Dir, file))
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		text := strings.ReplaceAll(string(data), oldName.GrantName(), newName.GrantName())
		text = teamNames.ReplaceAllString(text, "${0}"+suffix)
		if file != "policy.yaml" || text != "" {
			require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
		}
	}
	cases, err := golden.Load(filepath.Dir(filepath.Dir(dir)))
	require.NoError(t, err)
	require.Len(t, cases, 1)
	return cases[0]
}

// policyFlags gives routewarden the case's policy as its file.
func policyFlags(c golden.Case) []string {
	file := filepath.Join(c.Dir, "policy.yaml")
	if _, err := os.Stat(file); err != nil {
		return nil
	}
	flags := []string{"--config=" + file}
	// A flag would beat the file; the administrator must stay exempt in every case.
	if len(c.Config.ExemptGroups) > 0 {
		flags = append(flags, "--exempt-groups=system:masters,"+strings.Join(c.Config.ExemptGroups, ","))
	}
	return flags
}
