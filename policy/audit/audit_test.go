package audit_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/policytest"
)

func TestChecksAreDescribed(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range audit.Checks() {
		require.Regexp(t, `^[a-z]+(-[a-z]+)*$`, c.ID)
		require.False(t, seen[c.ID], c.ID)
		seen[c.ID] = true
		for _, text := range []string{c.Summary, c.Rationale, c.Remediation} {
			require.Regexp(t, `^.+\.$`, text, c.ID)
		}
		require.Contains(t, []audit.Severity{audit.SeverityError, audit.SeverityWarning, audit.SeverityInfo}, c.Severity)
	}
}

// TestFindingsAreComplete is about every finding of every golden case: each says what to do, on one line.
func TestFindingsAreComplete(t *testing.T) {
	for _, file := range goldenFiles(t) {
		report := audit.Run(newPolicy(t), read(t, file))
		fingerprints := map[string]bool{}
		for _, f := range report.Findings {
			require.NotEmpty(t, f.Field, f.Check)
			require.NotEmpty(t, f.Problem, f.Check)
			require.NotEmpty(t, f.Next, f.Check)
			require.NotEmpty(t, f.Command, f.Check)
			require.NotContains(t, f.Message, "\n")
			require.False(t, fingerprints[f.Fingerprint], f.Message)
			fingerprints[f.Fingerprint] = true
			require.Equal(t, f.Severity == audit.SeverityError, f.Fails)
		}
		// What the map shows is in the report.
		known := map[audit.Ref]bool{}
		for _, g := range report.Gateways {
			known[g.Ref] = true
		}
		for _, r := range report.Routes {
			known[r.Ref] = true
		}
		for _, b := range report.Backends {
			known[b.Ref] = true
		}
		for _, g := range report.Grants {
			known[g.Ref] = true
		}
		for _, e := range report.Edges {
			require.True(t, known[e.From], "%s: edge from %s", file, e.From)
			require.True(t, known[e.To], "%s: edge to %s", file, e.To)
		}
		namespaces := map[string]bool{}
		for _, n := range report.Namespaces {
			namespaces[n.Name] = true
		}
		for ref := range known {
			require.True(t, namespaces[ref.Namespace], "%s: namespace of %s", file, ref)
		}
	}
}

func TestOutsideFollowsThePolicy(t *testing.T) {
	for mode, want := range map[policy.OutsideMode]audit.Severity{
		policy.OutsideReject: audit.SeverityError, policy.OutsideWarn: audit.SeverityWarning, policy.OutsideAllow: audit.SeverityInfo,
	} {
		report := audit.Run(newPolicy(t, func(c *policy.Config) { c.Outside = mode }), read(t, "testdata/route-outside-system-namespace/refused.yaml"))
		require.Equal(t, want, report.Findings[0].Severity, mode)
		require.Equal(t, mode == policy.OutsideReject, report.Failed(false), mode)
		require.Equal(t, mode != policy.OutsideAllow, report.Failed(true), mode)
	}
}

func TestGrantsModes(t *testing.T) {
	const path = "testdata/managed-grant-missing/no-routesteward.yaml"
	for mode, want := range map[policy.GrantsMode]string{
		policy.GrantsInject:  "managed-grant-missing: look whether routesteward runs and what it logs",
		policy.GrantsRequire: `reference-not-permitted: have a ReferenceGrant applied in "models" (routesteward makes none here: --grants=require)`,
		policy.GrantsOff:     `reference-not-permitted: have a ReferenceGrant applied in "models" (routesteward makes none here: --grants=off)`,
	} {
		report := audit.Run(newPolicy(t, func(c *policy.Config) { c.Grants = mode }), read(t, path))
		require.Len(t, report.Findings, 1)
		require.Equal(t, want, report.Findings[0].Check+": "+report.Findings[0].Next)
	}
}

func TestExemptRoutesAndOtherKindsAreNotAudited(t *testing.T) {
	cluster := read(t, "testdata/route-outside-system-namespace/refused.yaml")
	for name, change := range map[string]func(*policy.Config){
		"an exempt namespace": func(c *policy.Config) { c.ExemptNamespaces = []string{"team-a"} },
		"a kind":              func(c *policy.Config) { c.Kinds = []policy.Kind{policy.GRPCRoute} },
		"another system":      func(c *policy.Config) { c.SystemNamespace = "elsewhere" },
	} {
		report := audit.Run(newPolicy(t, change), cluster)
		require.Empty(t, report.Routes, name)
		require.Empty(t, report.Findings, name)
		require.Equal(t, 1, report.Summary.Seen)
	}
	all := audit.Run(newPolicy(t, func(c *policy.Config) { c.SystemNamespace, c.Scope = "elsewhere", policy.ScopeAll }), cluster)
	require.Len(t, all.Routes, 1)
	require.Equal(t, "metadata.namespace", all.Findings[0].Field)
}

func TestNotKnownIsReported(t *testing.T) {
	for name, test := range map[string]struct {
		namespaces []string
		want       string
	}{
		"one":  {[]string{"a"}, `services in namespace "a": not known: you may not`},
		"two":  {[]string{"b", "a"}, `services in namespaces "a", "b": not known: you may not`},
		"four": {[]string{"d", "c", "b", "a"}, `services in 4 namespaces ("a", "b", "c" and more): not known: you may not`},
	} {
		cluster := read(t, "testdata/fine/in-the-system-namespace.yaml")
		cluster.NotRead = nil
		for _, namespace := range test.namespaces {
			cluster.NotRead = append(cluster.NotRead, audit.NotRead{Resource: "services", Namespace: namespace, Reason: "you may not"})
		}
		require.Equal(t, []string{test.want}, audit.Run(newPolicy(t), cluster).NotKnown, name)
	}
	cluster := &audit.Cluster{NotRead: []audit.NotRead{{Resource: "configmaps", Namespace: "n", Name: "m", Reason: "you may not read it"}}}
	require.Equal(t, []string{
		"configmaps n/m: not known: you may not read it",
		`routes of the shared Gateway: not known: there is no Gateway in namespace "aibrix-system"; is it the right --system-namespace?`,
	}, audit.Run(newPolicy(t), cluster).NotKnown)
}

func TestOnly(t *testing.T) {
	report := audit.Run(newPolicy(t), read(t, "testdata/route-shadowed/same-owner.yaml"))
	require.Len(t, report.Routes, 3)
	one, err := report.Only([]string{"aibrix-system/third"})
	require.NoError(t, err)
	require.Len(t, one.Routes, 1)
	require.Empty(t, one.Findings)
	require.Equal(t, audit.Summary{Routes: 1, Seen: 3, Healthy: 1, Findings: map[audit.Severity]int{}}, one.Summary)
	both, err := report.Only([]string{"aibrix-system/first"})
	require.NoError(t, err)
	require.Len(t, both.Findings, 1, "the finding about the route that it takes requests of")
	whole, err := report.Only([]string{"aibrix-system"})
	require.NoError(t, err)
	require.Len(t, whole.Routes, 3)
	_, err = report.Only([]string{"aibrix-system", "aibrix-system/nobody"})
	require.ErrorContains(t, err, `no audited route is "aibrix-system/nobody"`)
}

// TestRandomClusters holds audits of random clusters against what is true of every one.
func TestRandomClusters(t *testing.T) {
	reports, findings := 0, map[string]int{}
	for seed := range uint64(200) {
		source := policytest.NewSource(seed)
		config := source.Config()
		p, err := policy.New(config)
		require.NoError(t, err)
		cluster := randomCluster(source)
		before := fmt.Sprint(len(cluster.Objects()))
		report := audit.Run(p, cluster)
		require.Equal(t, before, fmt.Sprint(len(cluster.Objects())))
		require.Equal(t, report, audit.Run(p, cluster), "seed %d: deterministic", seed)
		reports++
		counted := map[audit.Severity]int{}
		for _, f := range report.Findings {
			findings[f.Check]++
			counted[f.Severity]++
			require.NotContains(t, f.Message, "\n", "seed %d", seed)
		}
		require.Equal(t, counted, report.Summary.Findings)
		for _, route := range report.Routes {
			for _, ref := range route.References {
				if !ref.Cross || route.Role != "route" {
					continue
				}
				// What no grant permits does not work, whatever the policy says.
				require.Equal(t, len(ref.Grants) == 0, ref.State == audit.StateBroken, "seed %d: %s %s", seed, route.Ref, ref.Field)
			}
		}
	}
	require.Positive(t, findings["reference-not-permitted"])
	require.Positive(t, findings["route-outside-system-namespace"])
	require.Positive(t, findings["route-shadowed"])
	require.Positive(t, findings["managed-grant-missing"])
}

// randomCluster has objects of the pools, in which nothing is known of backends.
func randomCluster(s *policytest.Source) *audit.Cluster {
	c := &audit.Cluster{NotRead: []audit.NotRead{{Resource: "services", Reason: "not looked at"}}}
	for _, name := range policytest.Namespaces {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if grants := policytest.OneOf(s, "", policy.GrantsAllow, policy.GrantsDeny); grants != "" {
			namespace.Labels = map[string]string{policy.GrantsLabel: grants}
		}
		c.Add(namespace)
	}
	for range 30 {
		c.Add(s.Object())
	}
	c.Complete()
	return c
}

func TestPluginSources(t *testing.T) {
	env := func(env ...corev1.EnvVar) *appsv1.Deployment {
		return &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "release-gateway-plugins", Labels: map[string]string{"app.kubernetes.io/component": "aibrix-gateway-plugin"}},
			Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{
				{Name: "sidecar", Env: []corev1.EnvVar{{Name: "ROUTING_ALGORITHM", Value: "not-this"}}}, {Name: "gateway-plugin", Env: env},
			}}}},
		}
	}
	key := func(source corev1.EnvVarSource) corev1.EnvVar {
		return corev1.EnvVar{Name: "ROUTING_ALGORITHM", ValueFrom: &source}
	}
	configMap := corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "m"}, Key: "ROUTING_ALGORITHM"}}
	another := *configMap.ConfigMapKeyRef
	another.Key = "algorithm"
	secret := corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k"}}
	for name, test := range map[string]struct {
		deployment *appsv1.Deployment
		notRead    string
		want       string // value, known, set, source
		depends    string
	}{
		"not set":                         {env(), "", `"" true false default`, "all"},
		"literal":                         {env(corev1.EnvVar{Name: "ROUTING_ALGORITHM", Value: "random"}), "", `"random" true true env`, "named"},
		"of a ConfigMap":                  {env(key(configMap)), "", `"least-request" true true configMapKeyRef aibrix-system/m ROUTING_ALGORITHM`, "named"},
		"of a ConfigMap that is not read": {env(key(configMap)), "you may not read it", `"" false true configMapKeyRef aibrix-system/m ROUTING_ALGORITHM`, "unknown"},
		"under another key":               {env(key(corev1.EnvVarSource{ConfigMapKeyRef: &another})), "", `"" false true configMapKeyRef aibrix-system/m algorithm`, "unknown"},
		"of a Secret":                     {env(key(secret)), "", `"" false true secretKeyRef aibrix-system/s k, which is not read`, "unknown"},
		"of a field":                      {env(key(corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}})), "", `"" false true fieldRef metadata.name`, "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := read(t, "testdata/status-leftover/bad-for-aibrix.yaml")
			cluster.NotRead = nil
			require.True(t, cluster.Add(test.deployment))
			if test.notRead == "" {
				cluster.Add(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "m"}, Data: map[string]string{"ROUTING_ALGORITHM": "least-request", "password": "x"}})
			} else {
				cluster.NotRead = append(cluster.NotRead, audit.NotRead{Resource: "configmaps", Namespace: "aibrix-system", Name: "m", Reason: test.notRead})
			}
			report := audit.Run(newPolicy(t), cluster)
			require.Equal(t, "gateway-plugin", report.Plugin.Container)
			i := slices.IndexFunc(report.Plugin.Variables, func(v audit.Variable) bool { return v.Name == "ROUTING_ALGORITHM" })
			v := report.Plugin.Variables[i]
			require.Equal(t, test.want, fmt.Sprintf("%q %t %t %s", v.Value, v.Known, v.Set, v.Source))
			require.NotEmpty(t, v.Meaning)
			require.Len(t, report.Models, 1)
			require.Equal(t, test.depends, report.Models[0].Depends)
		})
	}
}

// TestReduced sees that nothing that could be secret is kept.
func TestReduced(t *testing.T) {
	secret := map[string]string{"secret": "hunter2", "model.aibrix.ai/name": "llama"}
	meta := metav1.ObjectMeta{Namespace: "n", Name: "x", Labels: secret, Annotations: secret, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "hunter2"}}}
	hidden := gwv1.HTTPRouteFilter{Type: "RequestHeaderModifier", RequestHeaderModifier: &gwv1.HTTPHeaderFilter{Set: []gwv1.HTTPHeader{{Name: "authorization", Value: "hunter2"}}}}
	c := &audit.Cluster{}
	c.Add(&gwv1.HTTPRoute{ObjectMeta: meta, Spec: gwv1.HTTPRouteSpec{Rules: []gwv1.HTTPRouteRule{{Filters: []gwv1.HTTPRouteFilter{hidden}, BackendRefs: []gwv1.HTTPBackendRef{{Filters: []gwv1.HTTPRouteFilter{hidden}}}}}}})
	c.Add(&gwv1.Gateway{ObjectMeta: meta})
	c.Add(&gwv1.ReferenceGrant{ObjectMeta: meta})
	c.Add(&corev1.Namespace{ObjectMeta: meta})
	c.Add(&corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Selector: secret}})
	c.Add(&corev1.ConfigMap{ObjectMeta: meta, Data: secret, BinaryData: map[string][]byte{"b": []byte("hunter2")}})
	meta.Name = "aibrix-gateway-plugins"
	c.Add(&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{
		{Name: "gateway-plugin", Args: []string{"--password=hunter2"}, Env: []corev1.EnvVar{{Name: "REDIS_PASSWORD", Value: "hunter2"}}},
	}}}}})
	c.Complete()
	require.Len(t, c.Objects(), 7)
	for _, object := range c.Objects() {
		require.NotContains(t, fmt.Sprintf("%+v", object), "hunter2")
	}
	require.False(t, c.Add(&corev1.Secret{}))
	require.True(t, c.Add(&appsv1.Deployment{}), "a Deployment that is no plugin is one of the kinds")
	require.Empty(t, c.Deployments[1:])
}

func goldenFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

// large is a cluster of n models in namespaces of their own, with managed grants, of which one in ten is broken.
func large(t testing.TB, n int) *audit.Cluster {
	t.Helper()
	p, err := policy.New(policy.DefaultConfig())
	require.NoError(t, err)
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	c := &audit.Cluster{Time: now, NotRead: []audit.NotRead{{Resource: "services", Reason: "not looked at"}}}
	for _, name := range []string{"aibrix-system"} {
		c.Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	c.Add(&gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "aibrix-eg"}, Spec: gwv1.GatewaySpec{
		GatewayClassName: "aibrix-eg", Listeners: []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}, {Name: "https", Port: 443, Protocol: gwv1.HTTPSProtocolType}},
	}})
	paths := strings.Fields("/v1/completions /v1/chat/completions /v1/messages /v1/embeddings /v1/rerank /v1/classify /generate /generatevideo")
	parent := gwv1.ParentReference{Name: "aibrix-eg"}
	for i := range n {
		namespace, model := fmt.Sprintf("team-%03d", i/10), fmt.Sprintf("model-%d", i)
		if i%10 == 0 {
			c.Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
		}
		route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: model + "-router", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
		route.Spec.ParentRefs = []gwv1.ParentReference{parent}
		rule := gwv1.HTTPRouteRule{BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{
			Name: gwv1.ObjectName(model), Namespace: new(gwv1.Namespace(namespace)), Port: new(gwv1.PortNumber(8000)),
		}}}}}
		for _, path := range paths {
			rule.Matches = append(rule.Matches, gwv1.HTTPRouteMatch{
				Path: &gwv1.HTTPPathMatch{Value: new(path)}, Headers: []gwv1.HTTPHeaderMatch{{Name: "model", Value: model}},
			})
		}
		route.Spec.Rules = []gwv1.HTTPRouteRule{rule}
		route.Status.Parents = []gwv1.RouteParentStatus{{ParentRef: parent, ControllerName: "example.com/c", Conditions: []metav1.Condition{
			{Type: "Accepted", Status: "True", Reason: "Accepted"}, {Type: "ResolvedRefs", Status: "True", Reason: "ResolvedRefs"},
		}}}
		c.Add(route)
		if i%10 != 0 {
			view, _ := policy.RouteOf(route)
			c.Add(p.Edges(view)[0].Grant("for the test"))
		}
	}
	c.Complete()
	return c
}

func TestAllocations(t *testing.T) {
	for _, n := range []int{100, 1000} {
		t.Run(fmt.Sprintf("routes=%d", n), func(t *testing.T) {
			p, cluster := newPolicy(t), large(t, n)
			perRoute := policytest.AllocationsPerRun(t, 5, func() { audit.Run(p, cluster) }) / float64(n)
			require.LessOrEqual(t, perRoute, 176.0)
		})
	}
}

func BenchmarkAudit(b *testing.B) {
	for _, n := range []int{200, 2000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			p, cluster := newPolicy(b), large(b, n)
			b.ReportAllocs()
			for b.Loop() {
				if report := audit.Run(p, cluster); report.Summary.Routes != n || report.Summary.Findings[audit.SeverityError] != n/10 {
					b.Fatalf("%+v", report.Summary)
				}
			}
		})
	}
}
