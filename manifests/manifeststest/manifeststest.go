// Package manifeststest reads manifests in tests.
package manifeststest

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/settings"
	"github.com/routesteward/routesteward/webhook"
)

// Objects are those of a file with several YAML documents.
func Objects(t testing.TB, text string) []*unstructured.Unstructured {
	t.Helper()
	var found []*unstructured.Unstructured
	for _, document := range strings.Split(text, "\n---\n") {
		object := &unstructured.Unstructured{}
		require.NoError(t, yaml.UnmarshalStrict([]byte(document), &object.Object), "%s", document)
		if len(object.Object) > 0 {
			found = append(found, object)
		}
	}
	return found
}

// Pick decodes the only object with this kind and name, with no field that the API does not have.
func Pick[T any](t testing.TB, objects []*unstructured.Unstructured, kind, name string) T {
	t.Helper()
	var picked []T
	for _, object := range objects {
		if object.GetKind() == kind && object.GetName() == name {
			var typed T
			require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, &typed, true))
			picked = append(picked, typed)
		}
	}
	require.Len(t, picked, 1, "%s %s", kind, name)
	return picked[0]
}

// Parse parses the arguments of serve.
func Parse(t testing.TB, args []string) (*pflag.FlagSet, *policy.Config, *webhook.Options) {
	t.Helper()
	cfg, opts := policy.DefaultConfig(), webhook.DefaultOptions()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	settings.AddFlags(fs, &cfg)
	opts.AddFlags(fs)
	require.NoError(t, fs.Parse(args))
	return fs, &cfg, &opts
}
