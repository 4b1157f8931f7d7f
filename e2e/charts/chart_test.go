// Package charts tests the chart with the real Helm 4 and Helm 3, and what it installs on a real API server.
package charts

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/manifests"
	"github.com/routesteward/routesteward/manifests/manifeststest"
	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/settings"
)

const (
	namespace = "routesteward-system"
	chart     = "../../manifests/chart"
)

// helmCommand runs one of the programs that hack/helm/build made. It reads and writes nothing in the user's home.
func helmCommand(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	root, err := localcluster.Root()
	require.NoError(t, err)
	path := filepath.Join(root, "bin", "helm", program)
	require.FileExists(t, path, "run: make helm")
	cmd := exec.CommandContext(t.Context(), path, args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "HELM_NAMESPACE="+namespace)
	return cmd
}

// render is the chart with these values, without a cluster; an error is what helm says.
func render(t *testing.T, program string, values map[string]any, args ...string) ([]*unstructured.Unstructured, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.json")
	content, err := json.Marshal(values)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, content, 0o600))
	cmd := helmCommand(t, program, append([]string{"template", "routesteward", chart, "--values=" + file}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, stderr.String()
	}
	return manifeststest.Objects(t, string(out)), ""
}

func deployment(t *testing.T, values map[string]any, args ...string) appsv1.Deployment {
	t.Helper()
	rendered, failure := render(t, "helm", values, args...)
	require.Empty(t, failure)
	return manifeststest.Pick[appsv1.Deployment](t, rendered, "Deployment", "routesteward")
}

func TestEveryFlagArrives(t *testing.T) {
	odd := map[string]any{
		"namespace": namespace, // fixed
		// Files in the container, which are not there in a test.
		"config": "", "webhook-url": "https://127.0.0.1:9443",
		"metrics-bind-address": ":18080", "webhook-bind-address": "127.0.0.1:19443", "health-probe-bind-address": "[::1]:18081",
		"kinds": []string{"GRPCRoute"}, "kube-api-burst": 20000000, "kube-api-qps": 0.5, "ca-duration": "24h", "leaf-duration": "30m",
		"leader-elect": true,
	}
	fs, _, _ := manifeststest.Parse(t, nil)
	given := map[string]any{}
	fs.VisitAll(func(flag *pflag.Flag) {
		values := settings.Values(flag)
		switch value, ok := odd[flag.Name]; {
		case ok:
			given[flag.Name] = value
		case values != nil:
			given[flag.Name] = values[len(values)-1]
		case flag.Value.Type() == "list":
			given[flag.Name] = []string{"plain", "CN=a,O=b", `says "hi"`, "*"}
		case flag.Value.Type() == "duration":
			given[flag.Name] = "90s"
		case flag.Value.Type() == "string":
			given[flag.Name] = flag.Name + "-x"
		default:
			t.Fatalf("give a value to --%s", flag.Name)
		}
	})
	rendered := deployment(t, map[string]any{"flags": given, "certs": map[string]any{"secretName": "mine"}, "replicas": 1})
	args := rendered.Spec.Template.Spec.Containers[0].Args
	require.Equal(t, "serve", args[0])

	// Not validated: not every one of these values suits the others.
	parsed, _, _ := manifeststest.Parse(t, args[1:])
	resolved, err := settings.Resolve(parsed, nil, nil)
	require.NoError(t, err)
	values := map[string]any{}
	for _, setting := range resolved {
		values[setting.Flag] = setting.Value
	}
	want, err := json.Marshal(given)
	require.NoError(t, err)
	got, err := json.Marshal(values)
	require.NoError(t, err)
	require.JSONEq(t, strings.ReplaceAll(string(want), `"90s"`, `"1m30s"`), string(got))
}

// The program says no to what it cannot use; here it is shown that what the chart adds by itself is not such a thing.
func TestArgumentsAreValid(t *testing.T) {
	for name, values := range map[string]map[string]any{
		"defaults":     {},
		"cert-manager": {"flags": map[string]any{"certs": "cert-manager"}},
		"files":        {"flags": map[string]any{"certs": "files"}, "certs": map[string]any{"secretName": "mine"}},
		"client CA":    {"clientCA": map[string]any{"configMap": "ca"}, "flags": map[string]any{"client-names": []string{"kube-apiserver"}}},
		"no metrics":   {"flags": map[string]any{"metrics-bind-address": "0"}},
		"unquoted off": {"flags": map[string]any{"grants": false}},
		"empty lists":  {"flags": map[string]any{"reserved-names": []string{}}},
		"zero":         {"flags": map[string]any{"scan-interval": 0}},
	} {
		t.Run(name, func(t *testing.T) {
			fs, cfg, opts := manifeststest.Parse(t, deployment(t, values).Spec.Template.Spec.Containers[0].Args[1:])
			_, err := settings.Resolve(fs, nil, nil, cfg, opts)
			require.NoError(t, err)
			switch name {
			case "unquoted off":
				require.Equal(t, policy.GrantsOff, cfg.Grants)
			case "empty lists":
				require.Empty(t, cfg.ReservedNames)
			}
		})
	}
}

func TestValuesThatAreRefused(t *testing.T) {
	flags := func(name string, value any) map[string]any {
		return map[string]any{"flags": map[string]any{name: value}}
	}
	for name, test := range map[string]struct {
		values map[string]any
		want   []string
	}{
		"misspelt flag":   {flags("outsid", "warn"), []string{"flags", "outsid"}},
		"misspelt value":  {map[string]any{"replica": 3}, []string{"replica"}},
		"not in the list": {flags("outside", "refuse"), []string{"/flags/outside", "reject", "rewrite", "warn", "allow"}},
		"not a list":      {flags("exempt-users", "admin"), []string{"/flags/exempt-users", "array"}},
		"not a duration":  {flags("grant-grace", "30"), []string{"/flags/grant-grace"}},
		"no replica":      {map[string]any{"replicas": 0}, []string{"/replicas"}},
		"other namespace": {flags("namespace", "elsewhere"), []string{
			`flags.namespace is "elsewhere", but routesteward runs in the release's namespace, "routesteward-system"`,
		}},
		"nobody leads":          {flags("leader-elect", false), []string{"set replicas: 1 too"}},
		"a port of chance":      {flags("health-probe-bind-address", ":0"), []string{`flags.health-probe-bind-address is ":0"`, "want :PORT"}},
		"anybody's certificate": {map[string]any{"clientCA": map[string]any{"secret": "ca"}}, []string{"name the API server's in flags.client-names"}},
		"files without Secret":  {flags("certs", "files"), []string{"set certs.secretName"}},
		"metrics for everybody": {map[string]any{"networkPolicy": map[string]any{"metricsFrom": []any{}}}, []string{
			"networkPolicy.metricsFrom is empty, which NetworkPolicies read as everybody",
		}},
		"alerts without metrics": {map[string]any{
			"flags":         map[string]any{"metrics-bind-address": "0"},
			"observability": map[string]any{"prometheusRule": map[string]any{"enabled": true}},
		}, []string{"observability needs metrics"}},
	} {
		for _, program := range []string{"helm", "helm3"} {
			t.Run(name+"/"+program, func(t *testing.T) {
				_, failure := render(t, program, test.values)
				require.NotEmpty(t, failure)
				for _, want := range test.want {
					// Helm 3 separates a path by dots.
					require.Contains(t, strings.ReplaceAll(failure, "flags.", "/flags/"), strings.ReplaceAll(want, "flags.", "/flags/"))
				}
			})
		}
	}
}

func TestBothHelmsRenderTheSame(t *testing.T) {
	for shipped, args := range map[string][]string{
		manifests.Install:            {"--set=namespace.create=true"},
		manifests.InstallCertManager: {"--set=namespace.create=true", "--set=flags.certs=cert-manager"},
	} {
		for _, program := range []string{"helm", "helm3"} {
			rendered, failure := render(t, program, nil, args...)
			require.Empty(t, failure)
			require.ElementsMatch(t, manifeststest.Objects(t, shipped), rendered, "%v by %s; run: make generate", args, program)
		}
	}
}

func TestLint(t *testing.T) {
	for _, program := range []string{"helm", "helm3"} {
		out, err := helmCommand(t, program, "lint", "--strict", chart).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

func TestChartFollowsItsFlags(t *testing.T) {
	rendered, failure := render(t, "helm", map[string]any{
		"replicas": 1,
		"flags": map[string]any{
			"system-namespace": "models", "ca-secret": "authority", "webhook-service": "evaluate", "webhook-configuration": "evaluates",
			"webhook-bind-address": ":10443", "metrics-bind-address": "0", "health-probe-bind-address": ":10081",
			"grant-consent": "namespace", "leader-elect": false,
		},
	}, "--namespace=elsewhere")
	require.Empty(t, failure)
	var all []string
	for _, object := range rendered {
		all = append(all, object.GetKind()+" "+object.GetNamespace()+"/"+object.GetName())
		if object.GetKind() == "ValidatingWebhookConfiguration" {
			webhooks, _, err := unstructured.NestedSlice(object.Object, "webhooks")
			require.NoError(t, err)
			for _, webhook := range webhooks {
				service, _, err := unstructured.NestedMap(webhook.(map[string]any), "clientConfig", "service")
				require.NoError(t, err)
				require.Equal(t, map[string]any{"namespace": "elsewhere", "name": "evaluate", "path": "/validate", "port": float64(443)}, service)
			}
		}
	}
	// One replica: no disruption budget. No metrics: no Service of theirs. No leader election: no Lease.
	require.ElementsMatch(t, []string{
		"NetworkPolicy elsewhere/routesteward", "ServiceAccount elsewhere/routesteward", "ClusterRole /routesteward", "ClusterRoleBinding /routesteward",
		"Role elsewhere/routesteward", "RoleBinding elsewhere/routesteward", "Role models/routesteward", "RoleBinding models/routesteward",
		"Service elsewhere/evaluate", "Deployment elsewhere/routesteward", "ValidatingWebhookConfiguration /evaluates", "MutatingWebhookConfiguration /evaluates",
		"ValidatingAdmissionPolicy /routesteward-guard", "ValidatingAdmissionPolicyBinding /routesteward-guard",
	}, all)
	clusterRole := manifeststest.Pick[rbacv1.ClusterRole](t, rendered, "ClusterRole", "routesteward")
	for _, rule := range clusterRole.Rules {
		require.NotContains(t, rule.Resources, "subjectaccessreviews", "the requester is not asked about")
	}
	require.Equal(t, []string{"evaluates"}, clusterRole.Rules[len(clusterRole.Rules)-1].ResourceNames)
	pod := manifeststest.Pick[appsv1.Deployment](t, rendered, "Deployment", "routesteward").Spec.Template.Spec
	ports := map[string]int32{}
	for _, port := range pod.Containers[0].Ports {
		ports[port.Name] = port.ContainerPort
	}
	require.Equal(t, map[string]int32{"webhook": 10443, "health": 10081}, ports)
}
