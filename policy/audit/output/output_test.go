package output_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
	"github.com/stretchr/testify/require"
	"github.com/xeipuuv/gojsonschema"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/audit/output"
	"github.com/routesteward/routesteward/policy/check"
)

var update = flag.Bool("update", false, "write what the outputs are as what is wanted")

// reportOf audits a cluster of the audit's golden cases.
func reportOf(t testing.TB, paths ...string) audit.Report {
	t.Helper()
	p, err := policy.New(policy.DefaultConfig())
	require.NoError(t, err)
	for i, path := range paths {
		paths[i] = filepath.Join("../testdata", path)
	}
	cluster, problems, err := check.ReadSnapshot(t.Context(), paths)
	require.NoError(t, err)
	require.Empty(t, problems)
	return audit.Run(p, cluster)
}

// everything is a report with findings of every severity about objects of several kinds.
func everything(t testing.TB) audit.Report {
	t.Helper()
	return reportOf(t, "base.yaml", "../output/testdata/everything.yaml")
}

func written(t testing.TB, r audit.Report, format output.Format, o output.Options) string {
	t.Helper()
	var text strings.Builder
	require.NoError(t, output.Write(&text, r, format, o))
	return text.String()
}

func TestText(t *testing.T) {
	for name, o := range map[string]output.Options{
		"everything.txt": {}, "details.txt": {Details: true}, "limited.txt": {Limit: 1}, "color.txt": {Color: true, Details: true, Limit: 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, path := written(t, everything(t), output.FormatText, o), filepath.Join("testdata", name)
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(want), got)
		})
	}
}

// TestManyNotes sees that notes do not bury what is wrong.
func TestManyNotes(t *testing.T) {
	r := everything(t)
	for i := range 20 {
		note := r.Findings[len(r.Findings)-1]
		require.Equal(t, audit.SeverityInfo, note.Severity)
		note.Object.Name = fmt.Sprintf("wide-%d", i)
		r.Findings = append(r.Findings, note)
	}
	text := written(t, r, output.FormatText, output.Options{Limit: 50})
	require.Contains(t, text, "\nNotes\n")
	require.Contains(t, text, "  info  ReferenceGrant team-b/all, ReferenceGrant team-b/wide-0, ReferenceGrant team-b/wide-1 and 18 more  [grant-over-wide]\n")
	require.Contains(t, text, "HTTPRoute aibrix-system/llama-router\n  error  ")
	require.NotContains(t, text, "wide-19")
	require.Contains(t, written(t, r, output.FormatText, output.Options{}), "ReferenceGrant team-b/wide-19\n  info  ")
}

func TestNothingFound(t *testing.T) {
	r := reportOf(t, "base.yaml", "fine/permitted-by-a-grant.yaml")
	text := written(t, r, output.FormatText, output.Options{})
	require.Contains(t, text, "1 route of 1 audited, 1 in order: nothing found\n")
	require.False(t, r.Failed(true))
}

// TestJSON holds every golden case against the schema, which has no way out: what it does not describe is an error.
func TestJSON(t *testing.T) {
	schemaText, err := os.ReadFile("../report.schema.json")
	require.NoError(t, err)
	schema, err := gojsonschema.NewSchema(gojsonschema.NewBytesLoader(schemaText))
	require.NoError(t, err)
	cases, err := filepath.Glob("../testdata/*/*.yaml")
	require.NoError(t, err)
	reports := map[string]audit.Report{"everything": everything(t), "nothing": reportOf(t)}
	for _, path := range cases {
		relative, err := filepath.Rel("../testdata", path)
		require.NoError(t, err)
		reports[relative] = reportOf(t, "base.yaml", relative)
	}
	for name, report := range reports {
		text := written(t, report, output.FormatJSON, output.Options{})
		var whole strings.Builder
		encoder := json.NewEncoder(&whole)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		require.NoError(t, encoder.Encode(report))
		require.Equal(t, whole.String(), text, "as if it were written at once")
		result, err := schema.Validate(gojsonschema.NewStringLoader(text))
		require.NoError(t, err)
		require.Empty(t, result.Errors(), name)
		var read audit.Report
		require.NoError(t, json.Unmarshal([]byte(text), &read))
		require.Equal(t, report, read, "%s: nothing is lost", name)
	}
	text := strings.Replace(written(t, everything(t), output.FormatJSON, output.Options{}), `"severity"`, `"severe"`, 1)
	result, err := schema.Validate(gojsonschema.NewStringLoader(text))
	require.NoError(t, err)
	require.NotEmpty(t, result.Errors())
}

func TestSARIF(t *testing.T) {
	report := everything(t)
	log, err := sarif.FromString(written(t, report, output.FormatSARIF, output.Options{Version: "v1.2.3"}))
	require.NoError(t, err)
	require.NoError(t, log.Validate(), "the schema of SARIF 2.1.0")
	run := log.Runs[0]
	require.Equal(t, "v1.2.3", *run.Tool.Driver.Version)
	require.Len(t, run.Tool.Driver.Rules, len(audit.Checks()))
	require.Len(t, run.Results, len(report.Findings))
	for i, result := range run.Results {
		f := report.Findings[i]
		require.Equal(t, f.Check, *run.Tool.Driver.Rules[result.RuleIndex].ID)
		require.Equal(t, f.Fingerprint, result.PartialFingerprints["routesteward/v1"])
		require.Equal(t, map[audit.Severity]string{"error": "error", "warning": "warning", "info": "note"}[f.Severity], result.Level)
		require.Equal(t, f.Object.Namespace+"/"+f.Object.Kind+"/"+f.Object.Name, *result.Locations[0].PhysicalLocation.ArtifactLocation.URI)
	}
	require.True(t, *run.Invocations[0].ExecutionSuccessful)
}

func TestHTML(t *testing.T) {
	text := written(t, everything(t), output.FormatHTML, output.Options{})
	require.True(t, strings.HasPrefix(strings.ToLower(text), "<!doctype html>"))
	require.True(t, strings.Contains(text, "reference-not-permitted"))
}

func TestUnknownFormat(t *testing.T) {
	require.EqualError(t, output.Write(&strings.Builder{}, audit.Report{}, "xml", output.Options{}), `no format "xml"`)
}
