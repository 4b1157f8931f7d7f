package check_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/manifest"
)

// crossing is a route in the system namespace that refers to team-a.
const crossing = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: llama-router, namespace: aibrix-system}
spec:
  parentRefs: [{name: aibrix-eg}]
  rules:
  - backendRefs: [{name: llama, namespace: team-a, port: 8000}]
`

// misdirected is a route on a Gateway whose namespace it does not name.
const misdirected = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: llama-router, namespace: team-a}
spec:
  parentRefs: [{name: aibrix-eg}]
`

func namespaceYAML(name, grants string) string {
	if grants == "" {
		return fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", name)
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {routesteward.dev/grants: %s}}\n", name, grants)
}

func gatewayYAML(namespace, name string) string {
	return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: %s, namespace: %s}\nspec: {gatewayClassName: aibrix-eg, listeners: []}\n", name, namespace)
}

// grantYAML lets HTTPRoutes of a namespace refer to Services in team-a; to is "{name: llama}" or "{}".
func grantYAML(from, to string) string {
	return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: team-a}\nspec:\n"+
		"  from:\n  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: %s}\n  to:\n  - {group: \"\", kind: Service%s}\n", from, to)
}

func documents(texts ...string) string { return strings.Join(texts, "---\n") }

// said is what a check says about the input, as "severity: problem".
func said(t *testing.T, o check.Options, input ...string) []string {
	t.Helper()
	o.Files, o.Stdin = []string{"-"}, strings.NewReader(documents(input...))
	report := run(t, o)
	require.Empty(t, report.Problems)
	var lines []string
	for f := range report.Findings() {
		lines = append(lines, string(f.Severity)+": "+f.Problem)
	}
	return lines
}

const (
	willBeMade  = `grant: admission makes ReferenceGrant team-a/routesteward-llama-d3wdjexmwkd5ln7w (consent: this namespace has the label routesteward.dev/grants=allow)`
	vetoed      = `deny: namespace "team-a" refuses references from other namespaces (label routesteward.dev/grants=deny)`
	notAsked    = `unknown: decided at admission: whether namespace team-a consents (its label routesteward.dev/grants is not known here)`
	noGrant     = `unknown: decided at admission: whether a ReferenceGrant in namespace team-a permits it`
	maybeWriter = `unknown: decided at admission: whether the requester may create ReferenceGrants in namespace team-a`
)

// TestFactsOfTheInput is about what is known without a cluster.
func TestFactsOfTheInput(t *testing.T) {
	config := func(change func(*policy.Config)) check.Options {
		c := policy.DefaultConfig()
		change(&c)
		evaluator, err := policy.New(c)
		require.NoError(t, err)
		return check.Options{Policy: evaluator}
	}
	onlyNamespace := config(func(c *policy.Config) { c.GrantConsent = policy.ConsentNamespace })
	require_ := config(func(c *policy.Config) { c.Grants = policy.GrantsRequire })
	consented := check.Options{AsConsented: []string{"team-a"}}
	grant := grantYAML("aibrix-system", ", name: llama")
	for name, test := range map[string]struct {
		options check.Options
		input   []string
		want    []string
	}{
		"nothing is known":                             {check.Options{}, []string{crossing}, []string{notAsked}},
		"the namespace says nothing":                   {check.Options{}, []string{crossing, namespaceYAML("team-a", "")}, []string{maybeWriter}},
		"the namespace consents":                       {check.Options{}, []string{crossing, namespaceYAML("team-a", "allow")}, []string{willBeMade}},
		"the namespace refuses":                        {check.Options{}, []string{crossing, namespaceYAML("team-a", "deny")}, []string{vetoed}},
		"stated consent":                               {consented, []string{crossing}, []string{willBeMade}},
		"a veto beats stated consent":                  {consented, []string{crossing, namespaceYAML("team-a", "deny")}, []string{vetoed}},
		"a grant, and the namespace is unknown":        {check.Options{}, []string{crossing, grant}, []string{notAsked}},
		"a grant permits":                              {check.Options{}, []string{crossing, grant, namespaceYAML("team-a", "")}, nil},
		"a grant permits before it":                    {check.Options{}, []string{grant, namespaceYAML("team-a", ""), crossing}, nil},
		"another grant does not":                       {check.Options{}, []string{crossing, grantYAML("team-b", ""), namespaceYAML("team-a", "")}, []string{maybeWriter}},
		"a grant may exist":                            {onlyNamespace, []string{crossing, namespaceYAML("team-a", "")}, []string{noGrant}},
		"a grant is there":                             {onlyNamespace, []string{crossing, namespaceYAML("team-a", ""), grant}, nil},
		"a grant may exist that is required":           {require_, []string{crossing, namespaceYAML("team-a", "allow")}, []string{noGrant}},
		"a grant is there that is required":            {require_, []string{crossing, namespaceYAML("team-a", ""), grant}, nil},
		"a grant that is required and stated consent":  {func() check.Options { o := require_; o.AsConsented = []string{"team-a"}; return o }(), []string{crossing}, []string{noGrant}},
		"a managed grant of the input records nothing": {onlyNamespace, []string{crossing, namespaceYAML("team-a", ""), managedGrant(t)}, []string{noGrant, "deny: only routesteward creates ReferenceGrants with this label"}},
		"a Gateway may exist":                          {check.Options{}, []string{misdirected}, []string{"unknown: decided at admission: whether Gateway team-a/aibrix-eg exists"}},
		"the Gateway of the namespace":                 {check.Options{}, []string{misdirected, gatewayYAML("team-a", "aibrix-eg")}, nil},
		"the Gateway of the system namespace is not all": {check.Options{}, []string{misdirected, gatewayYAML("aibrix-system", "aibrix-eg")},
			[]string{"unknown: decided at admission: whether Gateway team-a/aibrix-eg exists"}},
		"no namespace means default": {check.Options{DefaultNamespace: "aibrix-system"}, []string{strings.Replace(crossing, ", namespace: aibrix-system", "", 1), namespaceYAML("team-a", "allow")}, []string{willBeMade}},
		"two manifests of a namespace": {check.Options{}, []string{namespaceYAML("team-a", "deny"), crossing, namespaceYAML("team-a", "allow")},
			[]string{willBeMade}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.want, said(t, test.options, test.input...)) })
	}
}

func managedGrant(t *testing.T) string {
	t.Helper()
	edge := policy.Edge{Origin: "aibrix-system", FromKind: policy.HTTPRoute, FromNamespace: "aibrix-system", Namespace: "team-a", Kind: "Service", Name: "llama"}
	return fakeCluster{{Kind: policy.ReferenceGrant, Item: -1, Object: edge.Grant("x")}}.snapshot(t, false)
}

// TestFactsOfTheCluster is about what is known of everything, because a snapshot or a cluster holds it.
func TestFactsOfTheCluster(t *testing.T) {
	grant := grantYAML("aibrix-system", ", name: llama")
	refusedHere := `deny: namespace "team-a" has not consented to references from HTTPRoutes in "aibrix-system"`
	no := func(string) policy.Answer { return policy.No }
	means := `deny: means team-a/aibrix-eg, as it names no namespace, and there is no such Gateway; the one in "aibrix-system" takes routes from there only`
	for name, test := range map[string]struct {
		options check.Options
		facts   string
		input   []string
		want    []string
	}{
		"what is not there does not exist":         {check.Options{Access: no}, namespaceYAML("team-a", ""), []string{crossing}, []string{refusedHere}},
		"the requester's rights stay unknown":      {check.Options{}, namespaceYAML("team-a", ""), []string{crossing}, []string{maybeWriter}},
		"a grant of the cluster":                   {check.Options{}, documents(namespaceYAML("team-a", ""), grant), []string{crossing}, nil},
		"a grant of the input":                     {check.Options{}, namespaceYAML("team-a", ""), []string{crossing, grant}, nil},
		"a grant of the input replaces one":        {check.Options{Access: no}, documents(namespaceYAML("team-a", ""), grant), []string{crossing, grantYAML("team-b", "")}, []string{refusedHere}},
		"a namespace of the input keeps its label": {check.Options{}, namespaceYAML("team-a", "allow"), []string{crossing, namespaceYAML("team-a", "")}, []string{willBeMade}},
		"a namespace of the input loses a veto":    {check.Options{}, namespaceYAML("team-a", "deny"), []string{crossing, namespaceYAML("team-a", "allow")}, []string{willBeMade}},
		"stated consent to a missing namespace":    {check.Options{AsConsented: []string{"team-a"}}, "", []string{crossing}, []string{`deny: namespace "team-a" is missing or being deleted, so no ReferenceGrant can be created there`}},
		"misdirected":                              {check.Options{}, gatewayYAML("aibrix-system", "aibrix-eg"), []string{misdirected}, []string{means}},
		"misdirected to a Gateway of the input":    {check.Options{}, "", []string{misdirected, gatewayYAML("aibrix-system", "aibrix-eg")}, []string{means}},
		"nothing of that name":                     {check.Options{}, "", []string{misdirected}, nil},
		"unchanged since it was stored":            {check.Options{Access: no}, documents(namespaceYAML("team-a", ""), crossing), []string{crossing}, []string{strings.Replace(refusedHere, "deny", "warn", 1)}},
		"unknown fields of a newer cluster":        {check.Options{}, documents(namespaceYAML("team-a", "allow")+"future: 1\n", "kind: HTTPRoute\napiVersion: gateway.networking.k8s.io/v1\nmetadata: {name: r}\nspec: {future: 1}\n"), []string{crossing}, []string{willBeMade}},
	} {
		t.Run(name, func(t *testing.T) {
			test.options.Facts = []string{write(t, map[string]string{"facts.yaml": test.facts})}
			test.options.Advice = false
			require.Equal(t, test.want, said(t, test.options, test.input...))
		})
	}
}

func TestWhatIsBeingDeletedIsNotEvaluated(t *testing.T) {
	facts := write(t, map[string]string{"facts.yaml": strings.Replace(outside, "metadata:", "metadata:\n  deletionTimestamp: 2026-01-01T00:00:00Z", 1)})
	require.Empty(t, said(t, check.Options{Facts: []string{facts}}, outside))
	require.NotEmpty(t, said(t, check.Options{}, outside))
}

func TestBadFacts(t *testing.T) {
	dir := write(t, map[string]string{"facts.yaml": "kind: Namespace\n\tx\n", "in.yaml": outside})
	report := run(t, check.Options{Facts: []string{dir + "/facts.yaml", dir + "/none"}, Files: []string{dir + "/in.yaml"}})
	require.Equal(t, []string{
		"facts.yaml:2:1: not YAML: found a tab character that violates indentation (the line is indented with a tab; YAML wants spaces)",
		"none: cannot be read: no such file or directory",
		"in.yaml:8:5 " + refused,
	}, places(report, dir))
}

func TestSnapshot(t *testing.T) {
	route := &gwv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "a", Labels: map[string]string{"secret": "x"}, Annotations: map[string]string{"secret": "x"}},
		Spec: gwv1.HTTPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: "g"}}},
			Rules: []gwv1.HTTPRouteRule{{Filters: []gwv1.HTTPRouteFilter{
				{Type: gwv1.HTTPRouteFilterRequestHeaderModifier, RequestHeaderModifier: &gwv1.HTTPHeaderFilter{Set: []gwv1.HTTPHeader{{Name: "Authorization", Value: "secret"}}}},
				{Type: gwv1.HTTPRouteFilterRequestMirror, RequestMirror: &gwv1.HTTPRequestMirrorFilter{BackendRef: gwv1.BackendObjectReference{
					Name: "m", Namespace: new(gwv1.Namespace("b")), Group: new(gwv1.Group("x.io")), Kind: new(gwv1.Kind("Mirror")),
				}}},
			}, BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{Name: "s", Port: new(gwv1.PortNumber(80))}}}}}},
		},
	}
	cluster := fakeCluster{
		{Kind: manifest.Namespace, Item: -1, Object: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{policy.GrantsLabel: "allow", "secret": "x"}}}},
		{Kind: policy.HTTPRoute, Item: -1, Object: route},
	}
	require.Equal(t, `---
apiVersion: facts.routesteward.dev/v1
kind: Snapshot
metadata:
  name: snapshot
---
apiVersion: v1
kind: Namespace
metadata:
  labels:
    routesteward.dev/grants: allow
  name: a
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: r
  namespace: a
spec:
  parentRefs:
  - name: g
  rules:
  - backendRefs:
    - name: s
      port: 80
    filters:
    - type: RequestHeaderModifier
    - requestMirror:
        backendRef:
          group: x.io
          kind: Mirror
          name: m
          namespace: b
      type: RequestMirror
`, cluster.snapshot(t, false))
	require.Equal(t, `{"apiVersion":"facts.routesteward.dev/v1","kind":"Snapshot","metadata":{"name":"snapshot"}}
{"apiVersion":"v1","kind":"Namespace","metadata":{"labels":{"routesteward.dev/grants":"allow"},"name":"a"}}
{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"r","namespace":"a"},"spec":{"parentRefs":[{"name":"g"}],"rules":[{"backendRefs":[{"name":"s","port":80}],"filters":[{"type":"RequestHeaderModifier"},{"requestMirror":{"backendRef":{"group":"x.io","kind":"Mirror","name":"m","namespace":"b"}},"type":"RequestMirror"}]}]}}
`, cluster.snapshot(t, true))
}

func TestAdvice(t *testing.T) {
	const useless, wide = "advice: permits nothing that a route here refers to", `advice: permits every Service in namespace "team-a", and the routes here refer to "llama" alone`
	consent := namespaceYAML("team-a", "")
	other := strings.NewReplacer("llama", "qwen").Replace(crossing)
	for name, test := range map[string]struct {
		facts string
		input []string
		want  []string
	}{
		"exact":                            {"", []string{consent, crossing, grantYAML("aibrix-system", ", name: llama")}, nil},
		"wrong name":                       {"", []string{consent, crossing, grantYAML("aibrix-system", ", name: lama")}, []string{maybeWriter, useless}},
		"wrong namespace":                  {"", []string{consent, crossing, grantYAML("aibrix", "")}, []string{maybeWriter, useless}},
		"alone":                            {"", []string{grantYAML("aibrix-system", "")}, []string{useless}},
		"needed by a route of the facts":   {documents(consent, crossing), []string{grantYAML("aibrix-system", ", name: llama")}, nil},
		"whole namespace for one":          {"", []string{consent, crossing, grantYAML("aibrix-system", "")}, []string{wide}},
		"whole namespace for two":          {"", []string{consent, crossing, other, grantYAML("aibrix-system", "")}, nil},
		"for Gateways":                     {"", []string{strings.Replace(grantYAML("aibrix-system", ""), "HTTPRoute", "Gateway", 1)}, nil},
		"managed":                          {"", []string{managedGrant(t)}, []string{"deny: only routesteward creates ReferenceGrants with this label"}},
		"for a route that is not governed": {"", []string{consent, strings.ReplaceAll(crossing, "aibrix-system", "team-b"), gatewayYAML("team-b", "aibrix-eg"), grantYAML("team-b", ", name: llama")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := check.Options{Advice: true}
			if test.facts != "" {
				o.Facts = []string{write(t, map[string]string{"facts.yaml": test.facts})}
			}
			require.Equal(t, test.want, said(t, o, test.input...))
			o.Advice = false
			require.NotContains(t, strings.Join(said(t, o, test.input...), "\n"), "advice")
		})
	}
}

func TestStrict(t *testing.T) {
	for strict, fails := range map[bool]bool{false: false, true: true} {
		report := run(t, check.Options{Files: []string{"-"}, Stdin: strings.NewReader(crossing), Strict: strict})
		require.Equal(t, fails, report.Summary.Failed)
		require.Equal(t, fails, report.Results[0].Findings[0].Fails)
		require.Equal(t, map[check.Severity]int{check.SeverityUnknown: 1}, report.Summary.Findings)
	}
}

func TestFingerprints(t *testing.T) {
	of := func(text string) []string {
		var prints []string
		for f := range run(t, check.Options{Files: []string{"-"}, Stdin: strings.NewReader(text)}).Findings() {
			prints = append(prints, f.Fingerprint)
		}
		return prints
	}
	one := of(outside)
	require.Len(t, one, 1)
	require.Equal(t, one, of("# moved\n\n"+strings.Replace(outside, "parentRefs:\n", "parentRefs:\n  - name: other\n    namespace: team-a\n", 1)))
	require.NotEqual(t, one, of(strings.ReplaceAll(outside, "aibrix-eg", "other")))
	require.NotEqual(t, one, of(strings.ReplaceAll(outside, "team-a", "team-b")))
	two := of(strings.Replace(outside, "  rules:", "  - name: aibrix-eg\n    namespace: aibrix-system\n    sectionName: http\n  rules:", 1))
	require.Len(t, two, 2)
	require.NotEqual(t, two[0], two[1])
}

// TestOrder sees that the report does not depend on which worker was faster.
func TestOrder(t *testing.T) {
	files := map[string]string{}
	for i := range 40 {
		files[fmt.Sprintf("%02d.yaml", i)] = documents(outside, crossing, "kind: HTTPRoute\n\tx\n", grantYAML("nobody", ""), outside)
	}
	dir := write(t, files)
	want := run(t, check.Options{Files: []string{dir}, Workers: 1, Advice: true})
	require.Len(t, want.Results, 160)
	for range 3 {
		require.Equal(t, want, run(t, check.Options{Files: []string{dir}, Workers: 8, Advice: true}))
	}
}

func TestProgress(t *testing.T) {
	var read, evaluated int
	run(t, check.Options{
		Files: []string{"-"}, Stdin: strings.NewReader(documents("a: b\n", outside, crossing)),
		Progress: func(r, j int) { read, evaluated = r, j },
	})
	require.Equal(t, []int{3, 2}, []int{read, evaluated})
}

// TestInterrupted sees that a check which is interrupted reports nothing, rather than half.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := check.Run(ctx, check.Options{Policy: defaultPolicy(t), Files: []string{"-"}, Stdin: strings.NewReader(outside)})
	require.ErrorIs(t, err, context.Canceled)
}
