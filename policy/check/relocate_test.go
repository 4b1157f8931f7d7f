package check_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/manifest"
	"github.com/routesteward/routesteward/policy/policytest"
)

// movable is a route that --outside=rewrite relocates.
func movable(namespace string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama-router
  namespace: %s
spec:
  parentRefs:
  - {name: aibrix-eg, namespace: aibrix-system}
  rules:
  - backendRefs: [{name: llama, port: 8000}]
`, namespace)
}

// stays is a route of the same name in the system namespace.
const stays = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: llama-router, namespace: aibrix-system}
spec:
  parentRefs: [{name: aibrix-eg}]
`

// parked is such a route as routesteward stores it.
func parked(t *testing.T, namespace string) string {
	t.Helper()
	return string(relocated(t, namespace, func(r policy.Relocation) any { return r.Source.Object }))
}

// copied is its copy.
func copied(t *testing.T, namespace string) string {
	t.Helper()
	return string(relocated(t, namespace, func(r policy.Relocation) any { return r.Copy.Object }))
}

func relocated(t *testing.T, namespace string, part func(policy.Relocation) any) []byte {
	t.Helper()
	p := rewriting(t, nil)
	source := unstructuredOf(t, movable(namespace))
	relocation, err := p.Relocate(source, policy.Snapshot{})
	require.NoError(t, err)
	text, err := yaml.Marshal(part(relocation))
	require.NoError(t, err)
	return text
}

func unstructuredOf(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &object.Object))
	return object
}

func rewriting(t testing.TB, change func(*policy.Config)) *policy.Policy {
	t.Helper()
	config := policy.DefaultConfig()
	config.Outside = policy.OutsideRewrite
	if change != nil {
		change(&config)
	}
	p, err := policy.New(config)
	require.NoError(t, err)
	return p
}

const (
	isRelocated   = "relocation: admission relocates the route: HTTPRoute aibrix-system/llama-router serves it"
	ownGrant      = "grant: admission makes ReferenceGrant team-a/routesteward-llama-zwinh4l5b4mnm44x (consent: the route comes from this namespace)"
	isItFree      = "unknown: decided at admission: whether the name llama-router is free in namespace aibrix-system"
	takenByTeamA  = "deny: the route's copy would be HTTPRoute aibrix-system/llama-router, which is the copy of team-a/llama-router"
	takenByAnyone = "deny: the route's copy would be HTTPRoute aibrix-system/llama-router, which exists and is not this route's copy"
	isACopy       = "deny: this HTTPRoute is the relocated copy of team-a/llama-router and is not changed by hand"
)

func TestRelocated(t *testing.T) {
	namespaces := documents(namespaceYAML("aibrix-system", ""), namespaceYAML("team-a", ""), namespaceYAML("team-b", "deny"))
	extended := strings.Replace(movable("team-a"), "  - backendRefs", "  - filters: [{type: ExtensionRef, extensionRef: {group: x.io, kind: Filter, name: f}}]\n    backendRefs", 1)
	const vetoed = `deny: namespace "team-b" refuses references from other namespaces (label routesteward.dev/grants=deny)`
	const unasked = "unknown: decided at admission: whether namespace team-b consents (its label routesteward.dev/grants is not known here)"
	const extension = `deny: names an object of namespace "team-a", which the route's copy in "aibrix-system" cannot name`
	for name, test := range map[string]struct {
		facts  []string // nil: partial
		input  []string
		change func(*policy.Config)
		want   []string
	}{
		"relocated":                      {[]string{namespaces}, []string{movable("team-a")}, nil, []string{isRelocated, ownGrant}},
		"nothing is known":               {nil, []string{namespaces, movable("team-a")}, nil, []string{isItFree}},
		"a name is generated":            {nil, []string{namespaces, strings.Replace(movable("team-a"), "name: llama-router", "generateName: llama-", 1)}, nil, []string{"relocation: admission relocates the route: HTTPRoute aibrix-system/llama-* serves it", ownGrant}},
		"by its annotation":              {[]string{namespaces}, []string{parked(t, "team-a")}, nil, []string{isRelocated, ownGrant}},
		"applied again":                  {[]string{namespaces, parked(t, "team-a"), copied(t, "team-a")}, []string{movable("team-a")}, nil, []string{ownGrant}},
		"the first takes the name":       {[]string{namespaces}, []string{movable("team-a"), movable("team-b")}, nil, []string{isRelocated, ownGrant, takenByTeamA, vetoed}},
		"the first, nothing known":       {nil, []string{movable("team-a"), movable("team-b")}, nil, []string{isItFree, strings.Replace(unasked, "team-b", "team-a", 1), takenByTeamA, unasked}},
		"the first twice":                {[]string{namespaces}, []string{movable("team-a"), movable("team-a")}, nil, []string{isRelocated, ownGrant, isRelocated, ownGrant}},
		"the second twice":               {[]string{namespaces}, []string{movable("team-a"), movable("team-b"), movable("team-b")}, nil, []string{isRelocated, ownGrant, takenByTeamA, vetoed, takenByTeamA, vetoed}},
		"who is stored has it":           {[]string{namespaces, parked(t, "team-a")}, []string{movable("team-b"), movable("team-a")}, nil, []string{takenByTeamA, vetoed, ownGrant}},
		"a copy has it":                  {[]string{namespaces, copied(t, "team-a")}, []string{movable("team-b")}, nil, []string{takenByTeamA, vetoed}},
		"a route of the system has it":   {[]string{namespaces, stays}, []string{movable("team-a")}, nil, []string{takenByAnyone}},
		"a route of the input before it": {[]string{namespaces}, []string{stays, movable("team-a")}, nil, []string{takenByAnyone}},
		"a route of the input after it":  {[]string{namespaces}, []string{movable("team-a"), stays}, nil, []string{isRelocated, ownGrant, isACopy}},
		"a forged copy takes no name":    {[]string{namespaces}, []string{copied(t, "team-b"), movable("team-a")}, nil, []string{"deny: only routesteward creates routes with this label in namespace \"aibrix-system\"", isRelocated, ownGrant}},
		"a nonsense annotation neither":  {[]string{namespaces}, []string{strings.Replace(parked(t, "team-b"), "'[{", "'[{[", 1), movable("team-a")}, nil, []string{"deny: is not a JSON list of parentRefs", isRelocated, ownGrant}},
		"qualified names": {[]string{namespaces}, []string{movable("team-a"), stays, strings.ReplaceAll(movable("team-b"), "name: llama,", "name: llama, namespace: team-a,")}, func(c *policy.Config) {
			c.RelocatedName, c.GrantConsent = policy.RelocatedNameQualified, policy.ConsentAny
		}, []string{strings.Replace(isRelocated, "llama-router", "team-a.llama-router", 1), ownGrant, strings.Replace(isRelocated, "llama-router", "team-b.llama-router", 1), "grant: admission makes ReferenceGrant team-a/routesteward-llama-bym7idqjd5ajh3ym (consent: none was asked for (--grant-consent=any))"}},
		"an extension": {[]string{namespaces}, []string{extended}, nil, []string{extension}},
		"another mode": {nil, []string{namespaces, movable("team-a")}, func(c *policy.Config) { c.Outside = policy.OutsideWarn }, []string{"warn: takes routes from namespace \"aibrix-system\" only, and this route is in \"team-a\""}},
	} {
		t.Run(name, func(t *testing.T) {
			o := check.Options{Policy: rewriting(t, test.change)}
			if test.facts != nil {
				o.Facts = []string{write(t, map[string]string{"facts.yaml": documents(test.facts...)})}
			}
			require.Equal(t, test.want, said(t, o, test.input...))
		})
	}
}

func TestStrictLeavesRelocationsToAdmission(t *testing.T) {
	o := check.Options{Policy: rewriting(t, nil), Strict: true, Files: []string{"-"}}
	input := documents(namespaceYAML("team-a", ""), movable("team-a"))
	o.Stdin = strings.NewReader(input)
	require.True(t, run(t, o).Summary.Failed, "whether the name is free is not known")
	o.Facts, o.Stdin = []string{write(t, map[string]string{"facts.yaml": namespaceYAML("team-a", "")})}, strings.NewReader(input)
	report := run(t, o)
	require.False(t, report.Summary.Failed)
	require.Equal(t, map[check.Severity]int{check.SeverityRelocation: 1, check.SeverityGrant: 1}, report.Summary.Findings)
}

func TestRelocationInEveryFormat(t *testing.T) {
	file := write(t, map[string]string{"llama.yaml": movable("team-a")})
	o := check.Options{Policy: rewriting(t, nil), Files: []string{file}, Facts: []string{write(t, map[string]string{"facts.yaml": namespaceYAML("team-a", "")})}}
	report := run(t, o)
	const message = "would be relocated: HTTPRoute aibrix-system/llama-router serves this route on Gateway aibrix-eg; its parentRefs are kept in the annotation routesteward.dev/parked-parent-refs"
	for format, want := range map[check.Format]string{
		check.FormatText:   "8:5  relocated  spec.parentRefs[0]: Gateway aibrix-system/aibrix-eg: admission relocates the route: HTTPRoute aibrix-system/llama-router serves it  [route-outside-system-namespace]",
		check.FormatJSON:   `"message": "` + message + `"`,
		check.FormatSARIF:  `"text": "` + message + `"`,
		check.FormatJUnit:  message,
		check.FormatGitHub: "line=8,col=5,title=route-outside-system-namespace::" + message,
	} {
		text := written(t, report, format, false)
		require.Contains(t, text, want)
	}
	require.Contains(t, written(t, report, check.FormatText, false), "1 object in 1 file checked: 1 route to be relocated, 1 grant to be made")
}

// TestAdviceKnowsRelocatedRoutes: a grant to the origin, or one to the system namespace, is used by a relocated route.
func TestAdviceKnowsRelocatedRoutes(t *testing.T) {
	crossing := strings.ReplaceAll(movable("team-b"), "name: llama,", "name: llama, namespace: team-a,")
	facts := write(t, map[string]string{"facts.yaml": documents(namespaceYAML("team-a", ""), namespaceYAML("team-b", ""))})
	for from, useless := range map[string]bool{"team-b": false, "aibrix-system": false, "team-c": true} {
		o := check.Options{Policy: rewriting(t, nil), Facts: []string{facts}, Advice: true}
		report := strings.Join(said(t, o, crossing, grantYAML(from, ", name: llama")), "\n")
		require.Equal(t, useless, strings.Contains(report, "permits nothing"), "%s: %s", from, report)
	}
}

// TestSnapshotIsTheCluster: a check by a snapshot of a cluster says the same as one by the cluster itself.
func TestSnapshotIsTheCluster(t *testing.T) {
	first := policytest.FirstSeed()
	for i := range uint64(300) {
		t.Run(fmt.Sprintf("SEED=%d", first+i), func(t *testing.T) {
			s := policytest.NewSource(first + i)
			config := s.Config()
			config.Outside = policytest.OneOf(s, policy.OutsideRewrite, config.Outside)
			p, err := policy.New(config)
			require.NoError(t, err)
			objects := policytest.Objects(s.Facts(), "jane")
			for range s.IntN(6) {
				// Of a copy, which nobody applies, a snapshot has no headers of filters, which may be secret.
				if object := s.Route(); object.GetLabels()[policy.ManagedByLabel] != policy.ManagedBy {
					objects = append(objects, object)
				}
			}
			var cluster fakeCluster
			for _, object := range objects {
				if kind := kindOf(object); kind != "" {
					cluster = append(cluster, manifest.Object{Kind: kind, Item: -1, Object: object})
				}
			}
			snapshot := cluster.snapshot(t, s.Chance(2))
			var input []string
			for range 3 {
				object := s.Route()
				if routes := routesOf(objects); len(routes) > 0 && s.Chance(2) {
					object = s.Changed(routes[s.IntN(len(routes))])
				}
				text, err := yaml.Marshal(object)
				require.NoError(t, err)
				input = append(input, string(text))
			}
			file := filepath.Join(t.TempDir(), "input.yaml")
			require.NoError(t, os.WriteFile(file, []byte(documents(input...)), 0o600))
			o := check.Options{Policy: p, User: s.User(), Files: []string{file}, Cluster: cluster}
			live := written(t, run(t, o), check.FormatJSON, false)
			o.Cluster, o.Facts = nil, []string{write(t, map[string]string{"facts.yaml": snapshot})}
			require.Equal(t, live, written(t, run(t, o), check.FormatJSON, false), "%s", documents(input...))
		})
	}
}

func kindOf(object client.Object) policy.Kind {
	switch object.(type) {
	case *corev1.Namespace:
		return manifest.Namespace
	case *rbacv1.RoleBinding:
		return ""
	}
	return policy.Kind(object.GetObjectKind().GroupVersionKind().Kind)
}

func routesOf(objects []client.Object) []client.Object {
	var routes []client.Object
	for _, object := range objects {
		if _, ok := policy.RouteOf(object); ok {
			routes = append(routes, object)
		}
	}
	return routes
}
