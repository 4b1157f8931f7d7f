package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routewarden/routewarden/policy/check"
)

const outsideYAML = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama-router
  namespace: team-a
spec:
  parentRefs:
  - name: aibrix-eg
    namespace: aibrix-system
`

const crossingYAML = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: llama-router, namespace: aibrix-system}
spec:
  parentRefs: [{name: aibrix-eg}]
  rules:
  - backendRefs: [{name: llama, namespace: team-a, port: 8000}]
`

func checkWith(t *testing.T, environ []string, stdin string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), append([]string{"check"}, args...), environ, strings.NewReader(stdin), &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

func TestCheckExitCodes(t *testing.T) {
	inside := strings.NewReplacer("team-a", "aibrix-system").Replace(outsideYAML)
	for name, test := range map[string]struct {
		stdin  string
		args   []string
		code   int
		stderr string
	}{
		"clean":              {stdin: inside},
		"not ours":           {stdin: "kind: Deployment\n"},
		"refused":            {stdin: outsideYAML, code: 1},
		"warned":             {stdin: outsideYAML, args: []string{"--outside=warn"}},
		"unknown":            {stdin: crossingYAML},
		"unknown and strict": {stdin: crossingYAML, args: []string{"--strict"}, code: 1},
		"stated":             {stdin: crossingYAML, args: []string{"--strict", "--as-consented=team-a,team-b"}},
		"exempt user":        {stdin: outsideYAML, args: []string{"--as=root", "--exempt-users=root"}},
		"exempt group":       {stdin: outsideYAML, args: []string{"--as-group=ops", "--exempt-groups=ops"}},
		"no YAML": {stdin: "HTTPRoute: {", code: 2,
			stderr: "routewarden check: not everything could be checked: <stdin>:2:1: not YAML: did not find expected node content\n"},
		"refused and no YAML": {stdin: outsideYAML + "---\nHTTPRoute: {\n---\nHTTPRoute: }\n", code: 2,
			stderr: "routewarden check: not everything could be checked: 2 problems, the first is <stdin>:12:1: not YAML: did not find expected node content\n"},
		"no input": {code: 2, stderr: "routewarden check: not everything could be checked: <stdin>: is empty, nothing was checked\n"},
		"no file":  {args: []string{"-f", "none.yaml"}, code: 2, stderr: "routewarden check: not everything could be checked: none.yaml: cannot be read: no such file or directory\n"},
		"unknown flag": {args: []string{"--strickt"}, code: 2,
			stderr: "routewarden check: unknown flag: --strickt; did you mean --strict?\nRun 'routewarden check --help' for usage.\n"},
		"unknown output": {args: []string{"-o", "yaml"}, code: 2,
			stderr: "routewarden check: invalid argument \"yaml\" for \"-o, --output\" flag: want one of text, json, sarif, junit, github\nRun 'routewarden check --help' for usage.\n"},
		"faulty settings": {args: []string{"--as-consented=A", "--outside=deny", "--strict=perhaps"}, code: 2,
			stderr: "routewarden check: the configuration is not valid:\n" +
				"  --strict: Invalid value: \"perhaps\": want true or false (from the command line)\n" +
				"  --as-consented: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?') (from the command line)\n" +
				"  --outside: Unsupported value: \"deny\": supported values: \"reject\", \"warn\", \"allow\" (from the command line)\n"},
		"dry run of nothing": {args: []string{"--dry-run"}, code: 2, stderr: "routewarden check: --dry-run is a part of --fix\nRun 'routewarden check --help' for usage.\n"},
		"fix with an output": {args: []string{"--fix", "-o", "json"}, code: 2,
			stderr: "routewarden check: --fix writes manifests, or a patch with --dry-run: it takes neither --output nor --baseline\nRun 'routewarden check --help' for usage.\n"},
		"no baseline":   {stdin: inside, args: []string{"--baseline=none.json"}, code: 2, stderr: "routewarden check: baseline none.json: cannot be read: no such file or directory\n"},
		"no kubeconfig": {stdin: inside, args: []string{"--cluster", "--kubeconfig=none"}, code: 2, stderr: "routewarden check: stat none: no such file or directory\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			got := checkWith(t, nil, test.stdin, test.args...)
			require.Equal(t, test.code, got.code, got.stdout)
			require.Equal(t, test.stderr, got.stderr)
		})
	}
}

// TestCheckTakesThePolicyOfServe uses one file and one environment for both.
func TestCheckTakesThePolicyOfServe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	require.NoError(t, os.WriteFile(file, []byte("outside: warn\ncerts: files\nnamespace: own\nas-consented: [team-a]\nstrict: true\n"), 0o600))
	require.Zero(t, checkWith(t, nil, outsideYAML, "--config="+file).code)
	require.Zero(t, checkWith(t, nil, crossingYAML, "--config="+file).code)
	require.Equal(t, 1, checkWith(t, []string{"ROUTEWARDEN_OUTSIDE=reject", "ROUTEWARDEN_LOG_LEVEL=debug"}, outsideYAML, "--config="+file).code)
	require.Equal(t, 1, checkWith(t, []string{"ROUTEWARDEN_STRICT=true"}, crossingYAML).code)
	require.Equal(t, 2, checkWith(t, []string{"ROUTEWARDEN_STRICKT=true"}, crossingYAML).code)
	// And serve is not confused by what is check's.
	require.Zero(t, runWith([]string{"ROUTEWARDEN_STRICT=true", "ROUTEWARDEN_FACTS=a"}, "config").code)
}

// TestCheckWritesOnlyTheReport sees that what machines read is on stdout alone.
func TestCheckWritesOnlyTheReport(t *testing.T) {
	got := checkWith(t, nil, outsideYAML+"---\nHTTPRoute: {\n", "-o", "json")
	var report check.Report
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &report))
	require.Len(t, report.Results, 1)
	require.Len(t, report.Problems, 1)
	require.NotContains(t, checkWith(t, nil, outsideYAML).stdout, "\x1b", "no terminal, no colours")
	require.Contains(t, checkWith(t, nil, outsideYAML, "--color=always").stdout, "\x1b[")
}

func TestCheckFilesAsArguments(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	require.NoError(t, os.WriteFile("a.yaml", []byte(outsideYAML), 0o600))
	require.NoError(t, os.Mkdir("sub", 0o700))
	require.NoError(t, os.WriteFile("sub/b.yaml", []byte(outsideYAML), 0o600))
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"a.yaml"}, "1 object in 1 file checked: 1 refusal\n"},
		{[]string{"-f", "."}, "1 object in 1 file checked: 1 refusal\n"},
		{[]string{"-R", "-f", "."}, "2 objects in 2 files checked: 2 refusals\n"},
		{[]string{"-f", "a.yaml", "sub/b.yaml"}, "2 objects in 2 files checked: 2 refusals\n"},
	} {
		require.True(t, strings.HasSuffix(checkWith(t, nil, "", test.args...).stdout, test.want), test.args)
	}
}

func TestCheckBaseline(t *testing.T) {
	t.Chdir(t.TempDir())
	before := checkWith(t, nil, outsideYAML, "-o", "json")
	require.Equal(t, 1, before.code)
	require.NoError(t, os.WriteFile("before.json", []byte(before.stdout), 0o600))
	require.Zero(t, checkWith(t, nil, "# moved\n"+outsideYAML, "--baseline=before.json").code)
	got := checkWith(t, nil, strings.ReplaceAll(outsideYAML, "llama", "qwen"), "--baseline=before.json")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stdout, "against the baseline 1 introduced, 0 unchanged, 1 fixed\n")
}

func TestCheckFix(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("a.yaml", []byte(outsideYAML), 0o600))
	dry := checkWith(t, nil, "", "-f", "a.yaml", "--fix", "--dry-run")
	require.Equal(t, 1, dry.code)
	require.Contains(t, dry.stdout, "--- a/a.yaml\n+++ b/a.yaml\n")
	require.Equal(t, outcome{stderr: "a.yaml: fixed\n"}, checkWith(t, nil, "", "-f", "a.yaml", "--fix"))
	require.Zero(t, checkWith(t, nil, "", "-f", "a.yaml").code)
	require.Equal(t, outcome{}, checkWith(t, nil, "", "-f", "a.yaml", "--fix", "--dry-run"))

	piped := checkWith(t, nil, outsideYAML, "--fix")
	require.Equal(t, outcome{stdout: strings.Replace(outsideYAML, "namespace: team-a", "namespace: aibrix-system", 1)}, piped)
}

func TestCheckHelp(t *testing.T) {
	got := runWith(nil, "check", "--help")
	require.Zero(t, got.code)
	require.Contains(t, got.stdout, "\nExamples:\n  helm template . | routewarden check\n")
	for _, flag := range []string{"filename", "recursive", "output", "facts", "cluster", "as-consented", "strict", "advice", "baseline", "fix", "dry-run", "outside"} {
		require.Contains(t, got.stdout, " --"+flag, flag)
	}
}

func TestFactsNeedsACluster(t *testing.T) {
	require.Equal(t, outcome{2, "", "routewarden facts: stat none: no such file or directory\n"}, runWith(nil, "facts", "--kubeconfig=none"))
	require.Equal(t, 2, runWith(nil, "facts", "-o", "text").code)
}
