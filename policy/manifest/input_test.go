package manifest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy/manifest"
)

const (
	outside     = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: llama-router\n"
	outsideJSON = `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",` + "\n" + ` "metadata": {"name": "llama-router"}}`
)

func TestDocumentsAreTheFilesBytes(t *testing.T) {
	text := "\ufeff# head\n" + outside + "--- # two\na: b\r\n---\r\n" + outsideJSON + "\n" + outsideJSON + "\n...\n"
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "in.yaml"), []byte(text), 0o600))
	in := manifest.Open([]string{dir}, false, nil)
	defer in.Close()
	require.Empty(t, in.Problems)
	require.Len(t, in.Files, 1)
	count := 0
	for d, problem := range in.Files[0].Documents(0) {
		require.Nil(t, problem)
		require.Equal(t, count, d.Index)
		require.Equal(t, string(d.Raw), text[d.Offset:int(d.Offset)+len(d.Raw)])
		require.Equal(t, 1+bytes.Count([]byte(text[:d.Offset]), []byte("\n")), d.Line)
		count++
	}
	require.Equal(t, 4, count)
}
