package check_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jstemmer/go-junit-report/v2/junit"
	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
	"github.com/stretchr/testify/require"
	"github.com/xeipuuv/gojsonschema"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/check"
)

// everything is a report with every severity that these manifests can have, and with problems.
func everything(t *testing.T) check.Report {
	t.Helper()
	t.Chdir(write(t, map[string]string{
		"a/routes.yaml": documents(
			"# team-a's own\n"+outside,
			crossing,
			strings.ReplaceAll(strings.ReplaceAll(crossing, "team-a", "models"), "llama-router", "qwen-router"),
			namespaceYAML("models", "allow"),
			grantYAML("nobody", ""),
		),
		"b 100%,c.yaml": "kind: HTTPRoute\n\tx\n",
		"binary.yaml":   "\x00",
		"clean.yaml":    strings.ReplaceAll(crossing, ", namespace: team-a", ""),
	}))
	return run(t, check.Options{Files: []string{"."}, Recursive: true, Advice: true})
}

func written(t *testing.T, r check.Report, format check.Format, colour bool) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, r.Write(&out, format, check.WriteOptions{Color: colour, Version: "v1.2.3"}))
	return out.String()
}

func TestText(t *testing.T) {
	report := everything(t)
	require.Equal(t, `b 100%,c.yaml
  2:1  error  not YAML: found a tab character that violates indentation (the line is indented with a tab; YAML wants spaces)

binary.yaml
  error  is binary, not YAML or JSON

a/routes.yaml

  HTTPRoute team-a/llama-router
  9:5  refused  spec.parentRefs[0]: Gateway aibrix-system/aibrix-eg: takes routes from namespace "aibrix-system" only, and this route is in "team-a"  [route-outside-system-namespace]
    9 |   - name: aibrix-eg
      |     ^^^^^^^^^^^^^^^
    fix: set metadata.namespace: aibrix-system and add namespace: team-a to each backendRef that names none

  HTTPRoute aibrix-system/llama-router
  22:19  unknown  spec.rules[0].backendRefs[0]: Service team-a/llama: decided at admission: whether namespace team-a consents (its label routesteward.dev/grants is not known here)  [cross-namespace-reference]
    22 |   - backendRefs: [{name: llama, namespace: team-a, port: 8000}]
       |                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    fix: give --facts or --cluster, or state it with --as-consented=team-a

  HTTPRoute aibrix-system/qwen-router
  30:19  grant  spec.rules[0].backendRefs[0]: Service models/llama: admission makes ReferenceGrant models/routesteward-llama-3vcuhaomrgplg6x3 (consent: this namespace has the label routesteward.dev/grants=allow)  [cross-namespace-reference]
    30 |   - backendRefs: [{name: llama, namespace: models, port: 8000}]
       |                   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

  ReferenceGrant team-a/g
  39:1  advice  spec: ReferenceGrant team-a/g: permits nothing that a route here refers to  [grant-permits-nothing]
    39 | spec:
       | ^^^^^
    fix: correct the names in it, or remove it if the routes that need it are not kept elsewhere

5 objects in 4 files checked: 1 refusal, 1 decided at admission, 1 piece of advice, 1 grant to be made, 2 errors
`, written(t, report, check.FormatText, false))
	require.NotContains(t, written(t, report, check.FormatText, false), "\x1b")
	require.Contains(t, written(t, report, check.FormatText, true), "\x1b[1;31mrefused\x1b[0m")
}

func TestTextOfACleanInput(t *testing.T) {
	report := run(t, check.Options{Files: []string{"-"}, Stdin: strings.NewReader("a: b\n")})
	require.Equal(t, "0 objects in 1 file checked: nothing found\n", written(t, report, check.FormatText, false))
}

// TestTextShowsNothingThatControlsATerminal writes what files hold, which anybody may have written.
func TestTextShowsNothingThatControlsATerminal(t *testing.T) {
	evil := strings.Replace(outside, "name: aibrix-eg", `name: "aib\u001b[2Jrix\neg"`, 1)
	report := run(t, check.Options{Files: []string{"-"}, Stdin: strings.NewReader(evil)})
	require.Len(t, report.Results, 1)
	for _, format := range check.Formats() {
		require.NotContains(t, written(t, report, format, false), "\x1b")
	}
}

func TestLongLinesAreCut(t *testing.T) {
	report := run(t, check.Options{Files: []string{"-"}, Stdin: strings.NewReader(strings.ReplaceAll(outsideJSON, "\n", strings.Repeat(" ", 500)))})
	for line := range strings.Lines(written(t, report, check.FormatText, false)) {
		if strings.Contains(line, " | ") {
			require.Less(t, len([]rune(line)), 140)
		}
	}
}

func TestJSONFollowsItsSchema(t *testing.T) {
	schemaText, err := os.ReadFile("report.schema.json")
	require.NoError(t, err)
	schema, err := gojsonschema.NewSchema(gojsonschema.NewBytesLoader(schemaText))
	require.NoError(t, err)
	baseline := everything(t)
	compared := baseline
	compared.Compare(check.Report{SchemaVersion: check.SchemaVersion})
	for name, report := range map[string]check.Report{
		"everything": everything(t), "against a baseline": compared,
		"nothing": run(t, check.Options{Files: []string{"-"}, Stdin: strings.NewReader("a: b\n")}),
	} {
		t.Run(name, func(t *testing.T) {
			result, err := schema.Validate(gojsonschema.NewStringLoader(written(t, report, check.FormatJSON, false)))
			require.NoError(t, err)
			require.Empty(t, result.Errors())
		})
	}
	// The schema has no way out: what it does not describe is an error.
	result, err := schema.Validate(gojsonschema.NewStringLoader(strings.Replace(written(t, everything(t), check.FormatJSON, false), `"rule"`, `"ruler"`, 1)))
	require.NoError(t, err)
	require.NotEmpty(t, result.Errors())
}

func TestJSONIsTheReport(t *testing.T) {
	report := everything(t)
	var read check.Report
	require.NoError(t, json.Unmarshal([]byte(written(t, report, check.FormatJSON, false)), &read))
	require.Equal(t, report.Summary, read.Summary)
	require.Equal(t, report.Problems, read.Problems)
	require.Equal(t, written(t, report, check.FormatJSON, false), written(t, read, check.FormatJSON, false))
}

func TestSARIF(t *testing.T) {
	text := written(t, everything(t), check.FormatSARIF, false)
	log, err := sarif.FromString(text)
	require.NoError(t, err)
	require.NoError(t, log.Validate(), "the schema of SARIF 2.1.0")
	require.Equal(t, "2.1.0", log.Version)
	run := log.Runs[0]
	require.Equal(t, "v1.2.3", *run.Tool.Driver.Version)
	require.Len(t, run.Tool.Driver.Rules, len(policy.Rules())+len(check.Advices()))
	require.Len(t, run.Results, 4)
	first := run.Results[0]
	require.Equal(t, "error", first.Level)
	require.Equal(t, "route-outside-system-namespace", *first.RuleID)
	require.Equal(t, "route-outside-system-namespace", *run.Tool.Driver.Rules[first.RuleIndex].ID)
	place := first.Locations[0].PhysicalLocation
	require.Equal(t, "a/routes.yaml", *place.ArtifactLocation.URI)
	require.Equal(t, []int{9, 5}, []int{*place.Region.StartLine, *place.Region.StartColumn})
	require.Len(t, first.PartialFingerprints["routesteward/v1"], 32)
	require.Equal(t, []string{"warning", "note", "note"}, []string{run.Results[1].Level, run.Results[2].Level, run.Results[3].Level})
	require.False(t, *run.Invocations[0].ExecutionSuccessful)
	notes := run.Invocations[0].ToolExecutionNotifications
	require.Len(t, notes, 2)
	require.Equal(t, "b%20100%25,c.yaml", *notes[0].Locations[0].PhysicalLocation.ArtifactLocation.URI)
	require.Nil(t, notes[1].Locations[0].PhysicalLocation.Region)
}

func TestJUnit(t *testing.T) {
	text := written(t, everything(t), check.FormatJUnit, false)
	var suites junit.Testsuites
	require.NoError(t, xml.Unmarshal([]byte(text), &suites))
	require.Equal(t, []int{7, 2, 1}, []int{suites.Tests, suites.Errors, suites.Failures})
	require.Len(t, suites.Suites, 4)
	failure := suites.Suites[2].Testcases[0]
	require.Equal(t, "HTTPRoute team-a/llama-router", failure.Name)
	require.Contains(t, failure.Failure.Data, "a/routes.yaml:9:5: deny: spec.parentRefs[0]: ")
	require.Equal(t, "1 object without a finding", suites.Suites[3].Testcases[0].Name)
}

func TestGitHub(t *testing.T) {
	require.Equal(t, `::error file=b 100%25%2Cc.yaml,line=2,col=1,title=not checked::not YAML: found a tab character that violates indentation (the line is indented with a tab; YAML wants spaces)
::error file=binary.yaml,title=not checked::is binary, not YAML or JSON
::error file=a/routes.yaml,line=9,col=5,title=route-outside-system-namespace::spec.parentRefs[0]: Gateway aibrix-system/aibrix-eg: takes routes from namespace "aibrix-system" only, and this route is in "team-a"; to fix: set metadata.namespace: aibrix-system and add namespace: team-a to each backendRef that names none [route-outside-system-namespace]
::warning file=a/routes.yaml,line=22,col=19,title=cross-namespace-reference::spec.rules[0].backendRefs[0]: Service team-a/llama: decided at admission: whether namespace team-a consents (its label routesteward.dev/grants is not known here) [cross-namespace-reference]; to fix: give --facts or --cluster, or state it with --as-consented=team-a
::notice file=a/routes.yaml,line=30,col=19,title=cross-namespace-reference::would create ReferenceGrant models/routesteward-llama-3vcuhaomrgplg6x3: HTTPRoutes in "aibrix-system" may refer to Service "llama" in "models"
::notice file=a/routes.yaml,line=39,col=1,title=grant-permits-nothing::spec: ReferenceGrant team-a/g: permits nothing that a route here refers to; to fix: correct the names in it, or remove it if the routes that need it are not kept elsewhere [grant-permits-nothing]
`, written(t, everything(t), check.FormatGitHub, false))
}

func TestOutputsOfAbsoluteNames(t *testing.T) {
	dir := write(t, map[string]string{"in.yaml": outside})
	log, err := sarif.FromString(written(t, run(t, check.Options{Files: []string{filepath.Join(dir, "in.yaml")}}), check.FormatSARIF, false))
	require.NoError(t, err)
	require.NoError(t, log.Validate())
	require.Equal(t, "file://"+dir+"/in.yaml", *log.Runs[0].Results[0].Locations[0].PhysicalLocation.ArtifactLocation.URI)
}
