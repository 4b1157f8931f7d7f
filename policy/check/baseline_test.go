package check

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// states lists the findings of a report as "state object field".
func states(r Report) []string {
	var out []string
	for _, result := range r.Results {
		for _, finding := range result.Findings {
			state := finding.State + " " + result.Namespace + "/" + result.Name + " " + finding.Field
			if finding.Fails {
				state += " fails"
			}
			out = append(out, state)
		}
	}
	return out
}

func TestCompare(t *testing.T) {
	dir := t.TempDir()
	check := func(text string) Report {
		path := writeFile(t, filepath.Join(dir, "routes.yaml"), text)
		report, err := Run(context.Background(), optionsFor(t, []string{path}))
		require.NoError(t, err)
		require.Empty(t, report.Problems)
		return report
	}
	x, y := small("team-a", "x", "llama"), small("team-a", "other", "llama")
	twice := strings.Replace(x, "  rules:", "  - name: second\n    namespace: aibrix-system\n  rules:", 1)
	for name, test := range map[string]struct {
		before, after string
		want          []string
		failed        bool
	}{
		"the same":               {x, x, []string{"unchanged team-a/x spec.parentRefs[0]"}, false},
		"on other lines":         {x, "# a comment\n---\n" + small("aibrix-system", "z", "q") + "---\n\n\n" + x, []string{"unchanged team-a/x spec.parentRefs[0]"}, false},
		"one more":               {x, y + "---\n" + x, []string{"introduced team-a/other spec.parentRefs[0] fails", "unchanged team-a/x spec.parentRefs[0]"}, true},
		"one less":               {y + "---\n" + x, x, []string{"unchanged team-a/x spec.parentRefs[0]", "fixed team-a/other spec.parentRefs[0]"}, false},
		"all fixed":              {x, smallFixed("x", "aibrix-system", "llama"), []string{"fixed team-a/x spec.parentRefs[0]"}, false},
		"one more in one object": {x, twice, []string{"unchanged team-a/x spec.parentRefs[0]", "introduced team-a/x spec.parentRefs[1] fails"}, true},
		"at another index": {x, strings.Replace(x, "  parentRefs:\n", "  parentRefs:\n  - name: second\n    namespace: elsewhere\n", 1),
			[]string{"unchanged team-a/x spec.parentRefs[1]"}, false},
		"another name": {x, y, []string{"introduced team-a/other spec.parentRefs[0] fails", "fixed team-a/x spec.parentRefs[0]"}, true},
		"a copy":       {x, x + "---\n" + x, []string{"unchanged team-a/x spec.parentRefs[0]", "introduced team-a/x spec.parentRefs[0] fails"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var written bytes.Buffer
			require.NoError(t, check(test.before).Write(&written, FormatJSON, WriteOptions{}))
			baseline, err := ReadBaseline(writeFile(t, filepath.Join(dir, "baseline.json"), written.String()))
			require.NoError(t, err)
			report := check(test.after)
			report.Compare(baseline)
			got := states(report)
			for i := range got {
				got[i] = strings.TrimSpace(got[i])
			}
			require.Equal(t, test.want, ofRule(report, got))
			require.Equal(t, test.failed, report.Summary.Failed)

			// What was compared is a baseline as well: what is fixed stays so.
			written.Reset()
			require.NoError(t, report.Write(&written, FormatJSON, WriteOptions{}))
			next, err := ReadBaseline(writeFile(t, filepath.Join(dir, "baseline.json"), written.String()))
			require.NoError(t, err)
			report = check(test.after)
			report.Compare(next)
			require.False(t, report.Summary.Failed)
			for _, state := range states(report) {
				require.True(t, strings.HasPrefix(state, StateUnchanged), state)
			}
		})
	}
}

// ofRule leaves out what is decided at admission.
func ofRule(r Report, states []string) []string {
	var out []string
	i := 0
	for finding := range r.Findings() {
		if finding.Rule == "route-outside-system-namespace" {
			out = append(out, states[i])
		}
		i++
	}
	return out
}

func TestBaselineFaults(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"not json":                   "is no output of `routesteward check -o json`",
		`{"schemaVersion":"v0"}`:     `has schemaVersion "v0", want "routesteward.dev/check/v1"`,
		`{"version":"2.1.0"}`:        `has schemaVersion "", want`,
		`{"results":{"a":"strange"}`: "is no output of",
	} {
		_, err := ReadBaseline(writeFile(t, filepath.Join(dir, "baseline.json"), text))
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "baseline.json: ")
	}
	_, err := ReadBaseline(filepath.Join(dir, "missing.json"))
	require.ErrorContains(t, err, "missing.json: cannot be read: no such file or directory")
}
