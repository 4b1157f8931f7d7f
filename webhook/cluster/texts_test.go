package cluster_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routewarden/routewarden/webhook/cluster"
)

func TestTexts(t *testing.T) {
	for raw, want := range map[string]cluster.Texts{
		`{"app": "llama", "app.kubernetes.io/managed-by": "Helm"}`:             nil,
		`{"app": "llama", "app.kubernetes.io/managed-by": "routewarden"}`:      {"app": "llama", "app.kubernetes.io/managed-by": "routewarden"},
		`{"app.kubernetes.io/managed-by": "\u0072outewarden"}`:                 {"app.kubernetes.io/managed-by": "routewarden"},
		`{"routewarden.dev/parked-parent-refs": "[]"}`:                         {"routewarden.dev/parked-parent-refs": "[]"},
		`{"k8s.io/initial-events-end": "true"}`:                                {"k8s.io/initial-events-end": "true"},
		`{"kubectl.kubernetes.io/last-applied-configuration": "{\"a\":\"\"}"}`: nil,
		`null`: nil,
	} {
		var got cluster.Texts
		require.NoError(t, json.Unmarshal([]byte(raw), &got))
		require.Equal(t, want, got, raw)
	}
	require.Error(t, json.Unmarshal([]byte(`{"routewarden": 1}`), &cluster.Texts{}))
}
