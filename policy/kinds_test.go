package policy_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
)

// TestKindsCoverTheCRDs fills in every field of each route kind's CRD, and expects that the walk finds each that refers to something.
func TestKindsCoverTheCRDs(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	require.NoError(t, err)
	// Routes of connections have no row yet.
	connections := []string{"TCPRoute", "TLSRoute", "UDPRoute"}
	for _, channel := range []string{"standard", "experimental"} {
		files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "config/crd", channel, "gateway.networking.k8s.io_*.yaml"))
		require.NoError(t, err)
		var rows []policy.Kind
		for _, file := range files {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			var crd apiextensionsv1.CustomResourceDefinition
			require.NoError(t, yaml.Unmarshal(data, &crd))
			names := crd.Spec.Names
			if !strings.HasSuffix(names.Kind, "Route") || slices.Contains(connections, names.Kind) {
				continue
			}
			row, ok := policy.RouteKindOf(policy.Kind(names.Kind))
			require.True(t, ok, "%s has no row", names.Kind)
			require.Equal(t, names.Plural, row.Resource)
			rows = append(rows, row.Kind)
			t.Run(channel+"/"+names.Kind, func(t *testing.T) {
				at := slices.IndexFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Name == "v1" })
				require.GreaterOrEqual(t, at, 0)
				refs := map[string]bool{}
				spec := filled(crd.Spec.Versions[at].Schema.OpenAPIV3Schema.Properties["spec"], "spec", refs)
				data, err := json.Marshal(map[string]any{"metadata": map[string]any{"name": "r"}, "spec": spec})
				require.NoError(t, err)
				object := row.New()
				require.NoError(t, json.Unmarshal(data, object))
				route, ok := policy.RouteOf(object)
				require.True(t, ok)
				var found []string
				for place := range route.Places() {
					found = append(found, place.Path())
				}
				require.NotEmpty(t, refs)
				require.ElementsMatch(t, slices.Collect(maps.Keys(refs)), found)
			})
		}
		require.ElementsMatch(t, policy.RouteKinds(), rows)
	}
}

// filled is an instance of a schema with every field. refs get the paths of the rules' objects with kind and name.
func filled(schema apiextensionsv1.JSONSchemaProps, path string, refs map[string]bool) any {
	switch schema.Type {
	case "object":
		_, kind := schema.Properties["kind"]
		if _, name := schema.Properties["name"]; kind && name && strings.HasPrefix(path, "spec.rules") {
			refs[path] = true
		}
		object := map[string]any{}
		for name, property := range schema.Properties {
			object[name] = filled(property, path+"."+name, refs)
		}
		return object
	case "array":
		return []any{filled(*schema.Items.Schema, path+"[0]", refs)}
	case "integer":
		return 1
	case "boolean":
		return true
	}
	return "x"
}
