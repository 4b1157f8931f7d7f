package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

// teamNames are the namespaces of golden cases of which each case gets its own; the others are shared.
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
// of its own, and through what `routesteward check` runs, and expects of both what the engine decides on the very same input,
// word for word.
func TestGoldenCasesOnTheAPIServer(t *testing.T) {
	cases, err := policytest.Load("../policy/testdata/cases")
	require.NoError(t, err)
	byPolicy := map[string][]policytest.Case{}
	var order []string
	for i, c := range cases {
		c = renamed(t, c, fmt.Sprintf("g%d", i))
		key := fmt.Sprint(c.Config)
		if byPolicy[key] == nil {
			order = append(order, key)
		}
		byPolicy[key] = append(byPolicy[key], c)
	}
	var jane *requester
	withRandom := map[string]policy.Config{}
	for _, outside := range []policy.OutsideMode{policy.OutsideReject, policy.OutsideRewrite} {
		config := policy.DefaultConfig()
		config.Outside = outside
		withRandom[fmt.Sprint(config)] = config
	}
	for _, key := range order {
		group := byPolicy[key]
		w := serving(t, append([]string{"--grant-grace=1h"}, policyFlags(group[0])...)...)
		if jane == nil {
			w.adminApplies(t, goldenRBAC)
			jane = newRequester(t, w)
		}
		w.parksBecome(t, group[0].Config.Outside == policy.OutsideRewrite)
		for _, c := range group {
			t.Run(c.Name, func(t *testing.T) { runGolden(t, w, jane, c) })
		}
		if config, found := withRandom[key]; found {
			delete(withRandom, key)
			t.Run("random routes, --outside="+string(config.Outside), func(t *testing.T) { testRandomRoutes(t, w, jane, config) })
		}
	}
	require.Empty(t, withRandom, "these policies have no golden case")
}

// requester is who writes the object of every golden case: by kubectl, and in dry runs by a client.
type requester struct {
	client.Client
	warned     *warnings
	kubeconfig string
}

func newRequester(t *testing.T, w *world) *requester {
	t.Helper()
	r := &requester{warned: &warnings{}}
	config, err := w.ConfigFor(policytest.User, policytest.Group)
	require.NoError(t, err)
	config.QPS, config.WarningHandlerWithContext = -1, r.warned
	r.Client, err = w.client(config)
	require.NoError(t, err)
	r.kubeconfig, err = w.KubeconfigFor(policytest.User, policytest.Group)
	require.NoError(t, err)
	return r
}

// answers writes the object in a dry run and returns what the requester learns.
func (r *requester) answers(ctx context.Context, object client.Object, operation policy.Operation) (answer, error) {
	r.warned.take()
	var err error
	if operation == policy.Update {
		stored := object.DeepCopyObject().(client.Object)
		if err := r.Get(ctx, client.ObjectKeyFromObject(object), stored); err != nil {
			return answer{}, err
		}
		object.SetResourceVersion(stored.GetResourceVersion())
		err = r.Update(ctx, object, client.DryRunAll)
	} else {
		err = r.Create(ctx, object, client.DryRunAll)
	}
	if err == nil {
		return answer{Warnings: r.warned.take()}, nil
	}
	_, words, denied := strings.Cut(err.Error(), "denied the request: ")
	if !denied {
		return answer{}, err
	}
	return answer{Denial: strings.TrimSpace(requestLine.ReplaceAllString(words, ""))}, nil
}

func runGolden(t *testing.T, w *world, requester *requester, c policytest.Case) {
	if strings.HasSuffix(c.Name, "/copy-as-it-was") {
		t.Skip("a copy names the UID of its source, which no file can know; the reconciler would change this one")
	}
	jane := &user{w: w, t: t, name: policytest.User, kubeconfig: requester.kubeconfig}
	pol, err := policy.New(c.Config)
	require.NoError(t, err)
	_, want, err := pol.Admit(c.Request, c.Facts())
	require.NoError(t, err)
	denial := want.Denial(c.Request)
	routeYAML, err := os.ReadFile(filepath.Join(c.Dir, "route.yaml"))
	require.NoError(t, err)
	written, err := objects(string(routeYAML))
	require.NoError(t, err)
	clusterYAML, err := os.ReadFile(filepath.Join(c.Dir, "cluster.yaml"))
	require.NoError(t, err)
	require.Equal(t, answer{denial, want.Warnings(true)},
		offline(t, pol, c.Request.User, c.Facts().MayCreateGrants, filepath.Join(c.Dir, "route.yaml"), filepath.Join(c.Dir, "cluster.yaml")))

	// What earlier cases left would be facts of this one.
	w.empty(t)
	require.NoError(t, w.api.DeleteAllOf(t.Context(), &gwv1.Gateway{}, client.InNamespace(system)))
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
	own := grantKeys(pol, c.Object).Difference(grantKeys(pol, c.Cluster...))
	managed := func() map[types.UID]bool {
		var list gwv1.ReferenceGrantList
		require.NoError(t, w.api.List(t.Context(), &list, client.MatchingLabels{policy.ManagedByLabel: policy.ManagedBy}))
		uids := map[types.UID]bool{}
		for i := range list.Items {
			if own.Has(client.ObjectKeyFromObject(&list.Items[i])) {
				uids[list.Items[i].UID] = true
			}
		}
		return uids
	}
	verb := "create"
	if c.Request.Operation == policy.Update {
		verb = "replace"
	}
	// What a reconciler may do on its own to the stored old route is no part of the decision about the update.
	heals := verb == "replace" && len(want.Grants) > 0
	// The server alone knows the rest of a generated name.
	generated := regexp.MustCompile(`^$`)
	if prefix := c.Object.GetGenerateName(); prefix != "" {
		generated = regexp.MustCompile(`\b` + regexp.QuoteMeta(prefix) + `[a-z0-9]{5}\b`)
	}
	check := func(collect *assert.CollectT, have answer, dryRun bool) {
		assert.Equal(collect, denial, have.Denial)
		if !want.Allowed || heals {
			return
		}
		var words []string
		for _, warning := range have.Warnings {
			words = append(words, generated.ReplaceAllString(warning, c.Object.GetGenerateName()+"*"))
		}
		assert.Equal(collect, want.Warnings(dryRun), words)
	}

	before := managed()
	require.EventuallyWithT(t, func(collect *assert.CollectT) {
		have, err := requester.answers(t.Context(), written[0].DeepCopy(), c.Request.Operation)
		assert.NoError(collect, err)
		check(collect, have, true)
	}, soon, tick)
	require.Equal(t, before, managed(), "nothing may change")
	require.EventuallyWithT(t, func(collect *assert.CollectT) {
		r := jane.kubectl(string(routeYAML), verb, "-f", "-")
		var have answer
		if want.Allowed {
			assert.Equal(collect, 0, r.exit, r.stderr)
			if r.exit != 0 {
				return
			}
			for line := range strings.Lines(r.stderr) {
				if warning, found := strings.CutPrefix(strings.TrimSpace(line), "Warning: "); found {
					have.Warnings = append(have.Warnings, warning)
				}
			}
		} else {
			assert.Equal(collect, 1, r.exit, r.stdout)
			_, words, _ := strings.Cut(r.stderr, "denied the request: ")
			have.Denial = strings.TrimSpace(requestLine.ReplaceAllString(words, ""))
		}
		check(collect, have, false)
	}, soon, tick)
	if !want.Allowed {
		require.Equal(t, before, managed(), "nothing may change")
		return
	}
	for _, use := range want.Grants {
		require.NoError(t, w.api.Get(t.Context(), types.NamespacedName{Namespace: use.Edge.Namespace, Name: use.Edge.GrantName()}, &gwv1.ReferenceGrant{}))
	}
}

// grantKeys are the managed grants that the routes among the objects may need. The reconcilers make those of stored routes in
// their own time, whatever is decided about a write meanwhile.
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
func renamed(t *testing.T, c policytest.Case, suffix string) policytest.Case {
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
	cases, err := policytest.Load(filepath.Dir(filepath.Dir(dir)))
	require.NoError(t, err)
	require.Len(t, cases, 1)
	return cases[0]
}

// policyFlags gives routesteward the case's policy as its file.
func policyFlags(c policytest.Case) []string {
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
