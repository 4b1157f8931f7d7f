package manifests_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/manifests"
	"github.com/routesteward/routesteward/manifests/manifeststest"
	"github.com/routesteward/routesteward/policy/settings"
	"github.com/routesteward/routesteward/webhook"
)

func TestSchemaKnowsEveryValue(t *testing.T) {
	content, err := os.ReadFile("chart/values.yaml")
	require.NoError(t, err)
	var values map[string]any
	require.NoError(t, yaml.UnmarshalStrict(content, &values))
	content, err = os.ReadFile("chart/values.schema.json")
	require.NoError(t, err)
	var schema map[string]any
	require.NoError(t, json.Unmarshal(content, &schema))

	var compare func(path string, values, schema map[string]any)
	compare = func(path string, values, schema map[string]any) {
		properties, ok := schema["properties"].(map[string]any)
		if !ok {
			return // anything, as a map of labels
		}
		require.Equal(t, false, schema["additionalProperties"], path)
		keys := slices.Sorted(maps.Keys(properties))
		if path == "." {
			keys = slices.DeleteFunc(keys, func(key string) bool { return key == "global" })
		}
		require.Equal(t, keys, slices.Sorted(maps.Keys(values)), path)
		for key, value := range values {
			if nested, ok := value.(map[string]any); ok && path+key != ".flags" {
				compare(path+key+".", nested, properties[key].(map[string]any))
			}
		}
	}
	compare(".", values, schema)

	fs, _, _ := manifeststest.Parse(t, nil)
	properties := schema["properties"].(map[string]any)["flags"].(map[string]any)["properties"].(map[string]any)
	require.ElementsMatch(t, settings.Names(fs), slices.Collect(maps.Keys(properties)))
}

// What the chart says twice, once for the Pods and once for what selects them or reaches them.
func TestPartsFitTogether(t *testing.T) {
	for _, file := range []string{manifests.Install, manifests.InstallCertManager} {
		rendered := manifeststest.Objects(t, file)
		deployment := manifeststest.Pick[appsv1.Deployment](t, rendered, "Deployment", "routesteward")
		budget := manifeststest.Pick[policyv1.PodDisruptionBudget](t, rendered, "PodDisruptionBudget", "routesteward")
		network := manifeststest.Pick[networkingv1.NetworkPolicy](t, rendered, "NetworkPolicy", "routesteward")
		labels := deployment.Spec.Template.Labels
		contained := func(selector map[string]string) {
			require.NotEmpty(t, selector)
			for key, value := range selector {
				require.Equal(t, value, labels[key])
			}
		}
		contained(deployment.Spec.Selector.MatchLabels)
		contained(budget.Spec.Selector.MatchLabels)
		contained(network.Spec.PodSelector.MatchLabels)
		for _, constraint := range deployment.Spec.Template.Spec.TopologySpreadConstraints {
			contained(constraint.LabelSelector.MatchLabels)
		}
		var ports []string
		for _, port := range deployment.Spec.Template.Spec.Containers[0].Ports {
			ports = append(ports, port.Name)
		}
		for _, rule := range network.Spec.Ingress {
			require.Contains(t, ports, rule.Ports[0].Port.StrVal)
		}
		options := webhook.DefaultOptions()
		require.Greater(t, float64(*deployment.Spec.Template.Spec.TerminationGracePeriodSeconds), options.ShutdownDelay.Seconds()+30,
			"a replica that stops needs --shutdown-delay, and calls up to 30 s")
		require.Empty(t, network.Spec.Ingress[0].From, "the API server is no Pod")
		require.NotEmpty(t, network.Spec.Ingress[1].From)
	}
}

func TestPick(t *testing.T) {
	require.Equal(t, "---\n# why\nkind: B\n---\nkind: C\n", manifests.Pick("# head\n---\nkind: A\n---\n# why\nkind: B\n---\nkind: C\n", "C", "B", "D"))
	require.Empty(t, manifests.Pick(manifests.Install, "Nothing"))
	webhooks := manifests.Pick(manifests.Install, "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
	require.Len(t, manifeststest.Objects(t, webhooks), 2)
	require.Contains(t, webhooks, "# What cannot be evaluated is refused.")
}
