package output_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/audit/output"
	"github.com/routesteward/routesteward/policy/check"
)

// FuzzAudit audits files that no API server has validated, as `routesteward audit --facts` may be given, and a snapshot
// that was made of them: it must not panic, and a snapshot holds all that an audit reads.
func FuzzAudit(f *testing.F) {
	var files []string
	for _, pattern := range []string{"../testdata/*/*.yaml", "../testdata/base.yaml", "testdata/everything.yaml"} {
		found, err := filepath.Glob(pattern)
		require.NoError(f, err)
		files = append(files, found...)
	}
	require.Greater(f, len(files), 20)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(text)
	}
	p, err := policy.New(policy.DefaultConfig())
	require.NoError(f, err)
	dir := f.TempDir()
	read := func(t *testing.T, text []byte) (*audit.Cluster, int) {
		file := filepath.Join(dir, "cluster.yaml")
		require.NoError(t, os.WriteFile(file, text, 0o600))
		cluster, problems, err := check.ReadSnapshot(t.Context(), []string{file})
		require.NoError(t, err)
		return cluster, len(problems)
	}
	textOf := func(t *testing.T, cluster *audit.Cluster) string {
		report := audit.Run(p, cluster)
		for _, format := range output.Formats() {
			require.NoError(t, output.Write(&bytes.Buffer{}, report, format, output.Options{Color: true, Details: true}))
		}
		text, err := json.Marshal(report)
		require.NoError(t, err)
		return string(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cluster, _ := read(t, text)
		first := textOf(t, cluster)
		again, _ := read(t, text)
		require.Equal(t, first, textOf(t, again), "the same input again")

		var snapshot bytes.Buffer
		require.NoError(t, check.WriteSnapshot(&snapshot, cluster, true))
		copied, problems := read(t, snapshot.Bytes())
		require.Zero(t, problems, "%s", snapshot.Bytes())
		textOf(t, copied)
	})
}
