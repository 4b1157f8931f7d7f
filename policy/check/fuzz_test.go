package check_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/policy/check"
)

// FuzzCheck gives anything to a check: it must not panic, every place must be one in the file, and a document that is
// passed over must really be none of ours.
func FuzzCheck(f *testing.F) {
	for _, seed := range []string{
		outside, crossing, misdirected, outsideJSON, outside + "---\n" + outsideJSON, "\ufeff" + outside, "%YAML 1.1\n---\n" + outside,
		"kind: List\napiVersion: v1\nitems:\n- " + outsideJSON, "kind: HTTPRoute\n\tx", "a: &a [*a]\nkind: HTTPRoute", "--- # HTTPRoute\n...\n",
		"kind: \"\nkind: HTTPRoute\"\napiVersion: gateway.networking.k8s.io/v1", "HTTPRoute: {{ .x }}", "? HTTPRoute\n: - x", "\r\n---\r\nHTTPRoute",
	} {
		f.Add([]byte(seed))
	}
	judge := defaultPolicy(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, "in.yaml")
		require.NoError(t, os.WriteFile(file, text, 0o600))
		report, err := check.Run(t.Context(), check.Options{Policy: judge, Files: []string{file}, Advice: true, Workers: 1})
		require.NoError(t, err)
		lines := 2 + bytes.Count(text, []byte("\n")) + bytes.Count(text, []byte("\r")) // errors may stand behind the end
		for _, p := range report.Problems {
			require.LessOrEqual(t, p.Line, lines, p)
		}
		for finding := range report.Findings() {
			require.Positive(t, finding.Line)
			require.Positive(t, finding.Column)
			require.LessOrEqual(t, finding.Line, lines)
		}
		for _, format := range check.Formats() {
			require.NoError(t, report.Write(&bytes.Buffer{}, format, check.WriteOptions{Color: true}))
		}

		in := check.OpenInput([]string{file}, false, nil)
		defer in.Close()
		for d, problem := range in.Files[0].Documents(0) {
			if problem != nil {
				continue
			}
			require.Equal(t, string(d.Raw), string(text[d.Offset:int(d.Offset)+len(d.Raw)]))
			kinds := []policy.Kind{policy.HTTPRoute}
			var meta struct{ Kind string }
			if !d.MayHold(kinds) && bytes.Contains(d.Raw, []byte("HTTPRoute")) && yaml.Unmarshal(d.Raw, &meta) == nil {
				require.NotEqual(t, "HTTPRoute", meta.Kind)
			}
		}
	})
}
