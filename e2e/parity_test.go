package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/policytest"
)

// answer is what somebody learns of a write in a dry run, from the API server or from check.
type answer struct {
	Denial   string
	Warnings []string
}

// offline is what `routesteward check` says of the object in a file, given the cluster as files. Only the requester's rights
// cannot be in files.
func offline(t *testing.T, pol *policy.Policy, user policy.User, access func(string) policy.Answer, object, cluster string) answer {
	t.Helper()
	report, err := check.Run(t.Context(), check.Options{
		Files: []string{object}, Facts: []string{cluster}, Policy: pol, User: user, Access: access,
	})
	require.NoError(t, err)
	require.Empty(t, report.Problems)
	if len(report.Results) == 0 {
		return answer{}
	}
	require.Len(t, report.Results, 1)
	result := report.Results[0]
	require.Equal(t, result.Verdict == "deny", result.Denial != "")
	require.NotEqual(t, "undecided", result.Verdict)
	return answer{result.Denial, slices.Clip(result.Warnings)}
}

// writeObjects writes objects as one file of YAML documents.
func writeObjects(t *testing.T, name string, objects ...client.Object) string {
	t.Helper()
	var text []byte
	for _, obj := range objects {
		gvk, err := apiutil.GVKForObject(obj, policytest.Scheme())
		require.NoError(t, err)
		obj.GetObjectKind().SetGroupVersionKind(gvk)
		data, err := yaml.Marshal(obj)
		require.NoError(t, err)
		text = append(append(text, "---\n"...), data...)
	}
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, text, 0o644))
	return path
}
