package check_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/manifest"
)

// FuzzCheck gives anything to a check: it must not panic, every place must be one in the file, and no document
// that is not YAML may be passed over.
func FuzzCheck(f *testing.F) {
	for _, seed := range []string{
		outside, crossing, misdirected, outsideJSON, outside + "---\n" + outsideJSON, "\ufeff" + outside, "%YAML 1.1\n---\n" + outside,
		"kind: List\napiVersion: v1\nitems:\n- " + outsideJSON, "kind: HTTPRoute\n\tx", "a: &a [*a]\nkind: HTTPRoute", "--- # HTTPRoute\n...\n",
		"kind: \"\nkind: HTTPRoute\"\napiVersion: gateway.networking.k8s.io/v1", "HTTPRoute: {{ .x }}", "? HTTPRoute\n: - x", "\r\n---\r\nHTTPRoute",
	} {
		f.Add([]byte(seed))
	}
	evaluator := defaultPolicy(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, "in.yaml")
		require.NoError(t, os.WriteFile(file, text, 0o600))
		report, err := check.Run(t.Context(), check.Options{Policy: evaluator, Files: []string{file}, Advice: true, Workers: 1})
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
		require.Equal(t, inJSON(t, report), inJSON(t, checked(t, evaluator, file, 2)), "in parallel")

		// What --fix changes is fixed, and stays.
		o := check.Options{Policy: evaluator, Files: []string{file}, Workers: 1}
		fixes, err := check.Fix(t.Context(), o)
		require.NoError(t, err)
		if len(fixes.Files) > 0 {
			require.Len(t, fixes.Files, 1)
			require.Equal(t, string(text), string(fixes.Files[0].Before))
			fixes.Diff()
			require.NoError(t, os.WriteFile(file, fixes.Files[0].After, 0o600))
			fixed := checked(t, evaluator, file, 1)
			require.LessOrEqual(t, len(fixed.Problems), len(report.Problems), "%s", fixes.Files[0].After)
			require.LessOrEqual(t, denials(fixed), denials(report), "%s", fixes.Files[0].After)
			again, err := check.Fix(t.Context(), o)
			require.NoError(t, err)
			require.Empty(t, again.Files, "the second time: %s", fixes.Files[0].After)
			require.NoError(t, os.WriteFile(file, text, 0o600))
		}

		in := manifest.Open([]string{file}, false, nil)
		defer in.Close()
		for d, problem := range in.Files[0].Documents(0) {
			if problem != nil {
				continue
			}
			require.Equal(t, string(d.Raw), string(text[d.Offset:int(d.Offset)+len(d.Raw)]))
			if !json.Valid(d.Raw) && yaml.Unmarshal(d.Raw, new(yaml.Node)) != nil {
				require.NotEmpty(t, report.Problems, "passed over: %q", d.Raw)
			}
		}
	})
}

func checked(t *testing.T, evaluator *policy.Policy, file string, workers int) check.Report {
	t.Helper()
	report, err := check.Run(t.Context(), check.Options{Policy: evaluator, Files: []string{file}, Advice: true, Workers: workers})
	require.NoError(t, err)
	return report
}

func inJSON(t *testing.T, report check.Report) string {
	t.Helper()
	var text bytes.Buffer
	require.NoError(t, report.Write(&text, check.FormatJSON, check.WriteOptions{}))
	return text.String()
}

func denials(report check.Report) (count int) {
	for finding := range report.Findings() {
		if finding.Severity == check.SeverityDeny {
			count++
		}
	}
	return count
}
