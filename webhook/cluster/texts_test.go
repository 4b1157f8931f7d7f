package cluster_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/webhook/cluster"
)

func TestTexts(t *testing.T) {
	for raw, want := range map[string]cluster.Texts{
		`{"app": "llama", "app.kubernetes.io/managed-by": "Helm"}`:             nil,
		`{"app": "llama", "app.kubernetes.io/managed-by": "routesteward"}`:     {"app": "llama", "app.kubernetes.io/managed-by": "routesteward"},
		`{"app.kubernetes.io/managed-by": "\u0072outesteward"}`:                 {"app.kubernetes.io/managed-by": "routesteward"},
		`{"routesteward.dev/parked-parent-refs": "[]"}`:                        {"routesteward.dev/parked-parent-refs": "[]"},
		`{"k8s.io/initial-events-end": "true"}`:                                {"k8s.io/initial-events-end": "true"},
		`{"kubectl.kubernetes.io/last-applied-configuration": "{\"a\":\"\"}"}`: nil,
		`null`: nil,
	} {
		var got cluster.Texts
		require.NoError(t, json.Unmarshal([]byte(raw), &got))
		require.Equal(t, want, got, raw)
	}
	require.Error(t, json.Unmarshal([]byte(`{"routesteward": 1}`), &cluster.Texts{}))
}
