package check_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/check"
)

// outside is a route that is refused without a fact.
const outside = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama-router
  namespace: team-a
spec:
  parentRefs:
  - name: aibrix-eg
    namespace: aibrix-system
  rules:
  - backendRefs:
    - name: llama
      port: 8000
`

const outsideJSON = `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "llama-router", "namespace": "team-a"},
 "spec": {"parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}], "rules": [{"backendRefs": [{"name": "llama", "port": 8000}]}]}}`

func defaultPolicy(t testing.TB) *policy.Policy {
	t.Helper()
	evaluator, err := policy.New(policy.DefaultConfig())
	require.NoError(t, err)
	return evaluator
}

// write puts files, by name, into a folder of their own and returns it.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return dir
}

func run(t testing.TB, o check.Options) check.Report {
	t.Helper()
	if o.Policy == nil {
		o.Policy = defaultPolicy(t)
	}
	report, err := check.Run(t.Context(), o)
	require.NoError(t, err)
	return report
}

// places are the findings as "file:line:column severity rule field", and the problems as "file:line:column: message",
// with names relative to dir.
func places(report check.Report, dir string) []string {
	var lines []string
	for _, p := range report.Problems {
		lines = append(lines, strings.ReplaceAll(p.String(), dir+string(filepath.Separator), ""))
	}
	for f := range report.Findings() {
		file := strings.TrimPrefix(f.File, dir+string(filepath.Separator))
		lines = append(lines, fmt.Sprintf("%s:%d:%d %s %s %s", file, f.Line, f.Column, f.Severity, f.Rule, f.Field))
	}
	return lines
}

const refused = "deny route-outside-system-namespace spec.parentRefs[0]"

func TestWhereFindingsAre(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"one document":            {outside, []string{"in.yaml:8:5 " + refused}},
		"separator first":         {"---\n" + outside, []string{"in.yaml:9:5 " + refused}},
		"comments before":         {"# one\n\n# two\n" + outside, []string{"in.yaml:11:5 " + refused}},
		"comment on separator":    {"--- # llama\n" + outside, []string{"in.yaml:9:5 " + refused}},
		"separator with spaces":   {"a: b\n--- \t\n" + outside, []string{"in.yaml:10:5 " + refused}},
		"two documents":           {outside + "---\n" + outside, []string{"in.yaml:8:5 " + refused, "in.yaml:22:5 " + refused}},
		"end marker":              {outside + "...\n---\n" + outside, []string{"in.yaml:8:5 " + refused, "in.yaml:23:5 " + refused}},
		"YAML directive":          {"%YAML 1.1\n---\n" + outside, []string{"in.yaml:10:5 " + refused}},
		"empty documents":         {"---\n---\n# nothing\n---\n" + outside + "---\n", []string{"in.yaml:12:5 " + refused}},
		"not ours between":        {"kind: Deployment\n---\n" + outside, []string{"in.yaml:10:5 " + refused}},
		"no line break at end":    {strings.TrimSuffix(outside, "\n"), []string{"in.yaml:8:5 " + refused}},
		"CRLF":                    {strings.ReplaceAll(outside+"---\n"+outside, "\n", "\r\n"), []string{"in.yaml:8:5 " + refused, "in.yaml:22:5 " + refused}},
		"byte order mark":         {"\ufeff" + outside, []string{"in.yaml:8:5 " + refused}},
		"JSON":                    {outsideJSON, []string{"in.yaml:2:26 " + refused}},
		"JSON values in one file": {outsideJSON + outsideJSON + "\n" + outsideJSON, []string{"in.yaml:2:26 " + refused, "in.yaml:3:26 " + refused, "in.yaml:5:26 " + refused}},
		"JSON List":               {`{"apiVersion": "v1", "kind": "List", "items": [` + "\n" + outsideJSON + "]}", []string{"in.yaml:3:26 " + refused}},
		"flow style":              {strings.ReplaceAll(outsideJSON, `"`, ""), []string{"in.yaml:2:22 " + refused}},
		"List": {"apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n- " +
			strings.ReplaceAll(strings.TrimSpace(outside), "\n", "\n  "), []string{"in.yaml:13:7 " + refused}},
		"HTTPRouteList": {"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRouteList\nitems:\n- " +
			strings.ReplaceAll(strings.TrimSpace(outside), "\n", "\n  "), []string{"in.yaml:11:7 " + refused}},
		"v1beta1":       {strings.Replace(outside, "/v1", "/v1beta1", 1), []string{"in.yaml:8:5 " + refused}},
		"quoted kind":   {strings.Replace(outside, "kind: HTTPRoute", `"kind": "HTTPRoute"`, 1), []string{"in.yaml:8:5 " + refused}},
		"spaced kind":   {strings.Replace(outside, "kind: HTTPRoute", `kind : HTTPRoute`, 1), []string{"in.yaml:8:5 " + refused}},
		"indented root": {"  " + strings.ReplaceAll(strings.TrimSpace(outside), "\n", "\n  "), []string{"in.yaml:8:7 " + refused}},
		"a kind in a text that is none": {strings.Replace(outside, "metadata:", "metadata:\n  annotations:\n    note: \"\nkind: Deployment\"", 1),
			[]string{"in.yaml:11:5 " + refused}},
		"alias": {"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: &team team-a}\nspec:\n  parentRefs:\n  - &parent\n    name: aibrix-eg\n    namespace: aibrix-system\n  - *parent\n",
			[]string{"in.yaml:6:5 " + refused, "in.yaml:9:5 deny route-outside-system-namespace spec.parentRefs[1]"}},
		"wide characters": {"# " + strings.Repeat("模", 30) + "\n" + strings.Replace(outsideJSON, `"llama-router"`, `"llama-router", "annotations": {"note": "モデル"}`, 1), []string{"in.yaml:3:26 " + refused}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{"in.yaml": test.text})
			require.Equal(t, test.want, places(run(t, check.Options{Files: []string{dir}}), dir))

			stdin := run(t, check.Options{Files: []string{"-"}, Stdin: strings.NewReader(test.text)})
			for i, line := range places(stdin, dir) {
				require.Equal(t, strings.Replace(test.want[i], "in.yaml", "<stdin>", 1), line)
			}
		})
	}
}

func TestNotOurs(t *testing.T) {
	for name, text := range map[string]string{
		"empty":                       "",
		"comments":                    "# nothing\n",
		"a Deployment":                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: HTTPRoute}\n",
		"another group's Gateway":     "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {servers: []}\n",
		"another kind of the group":   "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: HTTPRoute}\n",
		"values of a chart":           "route:\n  kind: HTTPRoute\n",
		"a kustomization":             "kind: Kustomization\npatches:\n- target: {kind: HTTPRoute}\n",
		"a text":                      "HTTPRoute\n",
		"a list":                      "- kind: HTTPRoute\n",
		"a JSON list":                 `[{"kind": "HTTPRoute"}]`,
		"a null":                      "--- # HTTPRoute\n",
		"a List of other things":      "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: HTTPRoute}}\n",
		"somebody else's List":        "apiVersion: example.org/v1\nkind: AllowList\nitems: HTTPRoute\n",
		"a kind that is none":         "apiVersion: gateway.networking.k8s.io/v1\nkind: [HTTPRoute]\n",
		"an apiVersion that is none":  "apiVersion: a/b/c\nkind: HTTPRoute\n",
		"a map with numbers for keys": "1: HTTPRoute\n",
	} {
		t.Run(name, func(t *testing.T) {
			report := run(t, check.Options{Files: []string{write(t, map[string]string{"in.yaml": text})}})
			require.Empty(t, report.Problems)
			require.Empty(t, report.Results)
			require.Zero(t, report.Summary.Objects)
		})
	}
}

func TestBadInput(t *testing.T) {
	const head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n"
	laughs := head + "metadata:\n  name: r\n  annotations:\n    a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 'b'; i < 'k'; i++ {
		laughs += fmt.Sprintf("    %c: &%c [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", i-1), 10), ","))
	}
	for name, test := range map[string]struct{ text, want string }{
		"mapping where none can be":    {head + "metadata:\n  name: a: b\n", "in.yaml:4:10: not YAML: mapping values are not allowed in this context"},
		"unclosed list":                {head + "metadata: {name: r}\nspec: {parentRefs: [\n", "in.yaml:5:1: not YAML: did not find expected node content"},
		"unclosed quote":               {head + "metadata:\n  name: \"r\n", "in.yaml:4:9: not YAML: the quote that begins here is not closed"},
		"tab":                          {head + "metadata:\n\tname: r\n", "in.yaml:4:1: not YAML: found character that cannot start any token (the line is indented with a tab; YAML wants spaces)"},
		"unknown alias":                {head + "metadata: *m\n", "in.yaml:3:11: not YAML: unknown anchor 'm' referenced"},
		"a template":                   {head + "metadata:\n  name: {{ .Values.name }}\n", "in.yaml:4:10: a map or list cannot be a key; where {{ }} is a template, render it first and check what comes out"},
		"duplicate key":                {head + "metadata:\n  name: r\n  name: s\n", `in.yaml:5:3: key "name" is here twice, first on line 4`},
		"duplicate key in JSON":        {`{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"},` + "\n" + ` "metadata": {"name": "r"}}`, "in.yaml:2:2: metadata: duplicate field"},
		"billion laughs":               {laughs, "in.yaml:1:1: not YAML: document contains excessive aliasing"},
		"unknown field":                {head + "metadata: {name: r}\nspec:\n  parentRef: []\n", "in.yaml:5:3: spec.parentRef: unknown field"},
		"unknown field in a list":      {head + "metadata: {name: r}\nspec:\n  parentRefs:\n  - name: g\n  - nam: g\n", "in.yaml:7:5: spec.parentRefs[1].nam: unknown field"},
		"wrong type":                   {head + "metadata: {name: r}\nspec:\n  parentRefs: aibrix-eg\n", "in.yaml:5:15: spec.parentRefs: cannot be a string"},
		"number for a name":            {head + "metadata: {name: 1}\n", "in.yaml:3:18: metadata.name: cannot be a number"},
		"a YAML 1.1 truth":             {head + "metadata: {name: on}\n", "in.yaml:3:18: metadata.name: cannot be a bool"},
		"no name":                      {head + "metadata: {namespace: a}\n", "in.yaml:3:1: metadata.name: missing: every object needs a name"},
		"no metadata":                  {head, "in.yaml:1:1: metadata.name: missing: every object needs a name"},
		"unknown version":              {strings.Replace(head, "/v1", "/v7", 1) + "metadata: {name: r}\n", "in.yaml:1:13: apiVersion: gateway.networking.k8s.io/v7: this version of HTTPRoute is not known here; use gateway.networking.k8s.io/v1"},
		"List without a list":          {"apiVersion: v1\nkind: List\nitems: HTTPRoute\n", "in.yaml:3:8: items: must be a list"},
		"invalid UTF-8":                {head + "metadata: {name: \xff}\n", "in.yaml:3:18: not YAML: this byte is no character that a text can hold (UTF-8 is wanted)"},
		"control character":            {head + "metadata: {name: \x01}\n", "in.yaml:3:18: not YAML: this byte is no character that a text can hold (UTF-8 is wanted)"},
		"binary":                       {"\x7fELF\x00\x00HTTPRoute", "in.yaml: is binary, not YAML or JSON"},
		"UTF-16":                       {"\xff\xfeH\x00T\x00", "in.yaml: is UTF-16, which kubectl does not read either; save it as UTF-8"},
		"problem in an item of a List": {"apiVersion: v1\nkind: List\nitems:\n- apiVersion: gateway.networking.k8s.io/v1\n  kind: HTTPRoute\n  metadata: {name: r}\n  spec: {x: 1}\n", "in.yaml:7:10: spec.x: unknown field"},
		"broken JSON":                  {"{\"kind\": \"HTTPRoute\",\n \"metadata\": {]}\n", "in.yaml:2:15: not YAML: did not find expected node content"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{"in.yaml": test.text, "other.yaml": outside})
			// The rest of the files is checked all the same.
			require.Equal(t, []string{test.want, "other.yaml:8:5 " + refused}, places(run(t, check.Options{Files: []string{dir}}), dir))
		})
	}
}

func TestBadDocumentAmongGoodOnes(t *testing.T) {
	dir := write(t, map[string]string{"in.yaml": outside + "---\nkind: HTTPRoute\n\tx\n---\n" + outside + "---\nkind: Namespace\napiVersion: v1\nmetadata: {name: a, nam: b}\n"})
	require.Equal(t, []string{
		"in.yaml:16:1: not YAML: found a tab character that violates indentation (the line is indented with a tab; YAML wants spaces)",
		"in.yaml:34:21: metadata.nam: unknown field",
		"in.yaml:8:5 " + refused,
		"in.yaml:25:5 " + refused,
	}, places(run(t, check.Options{Files: []string{dir}}), dir))
}

// TestBrokenYAMLOfAnotherKind puts what is not YAML between two routes: no kind keeps it from being reported, at its place in the file.
func TestBrokenYAMLOfAnotherKind(t *testing.T) {
	const head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n" // on lines 15 to 17
	for name, test := range map[string]struct{ text, want string }{
		"tab":                    {head + "data:\n\ta: b\n", "19:1: not YAML: found character that cannot start any token (the line is indented with a tab; YAML wants spaces)"},
		"tab behind spaces":      {head + "data:\n  a: b\n \tc: d\n", "20:2: not YAML: found a tab character that violates indentation (the line is indented with a tab; YAML wants spaces)"},
		"unclosed quote":         {head + "data:\n  a: \"b\n  c: d\n", "19:6: not YAML: the quote that begins here is not closed"},
		"unclosed single quote":  {head + "data: {a: 'b}\n", "18:11: not YAML: the quote that begins here is not closed"},
		"unclosed list":          {head + "data:\n  a: [b\n  c: d\n", "20:4: not YAML: did not find expected ',' or ']'"},
		"bad indentation":        {head + "data:\n  a: b\n c: d\n", "20:2: not YAML: did not find expected key"},
		"less than the first":    {"  kind: ConfigMap\n  data: {}\nmetadata: {}\n", "17:1: not YAML: did not find expected <document start>"},
		"an item too deep":       {head + "data:\n- a\n - b\n  - c: d\n   e: f\n", "21:6: not YAML: mapping values are not allowed in this context"},
		"two maps on one line":   {head + "data:\n  a: b: c\n", "19:7: not YAML: mapping values are not allowed in this context"},
		"unknown alias":          {head + "data: *d\n", "18:7: not YAML: unknown anchor 'd' referenced"},
		"invalid UTF-8":          {head + "data:\n  a: \xff\n", "19:6: not YAML: this byte is no character that a text can hold (UTF-8 is wanted)"},
		"invalid UTF-8 in JSON":  {"{\"kind\": \"ConfigMap\", \"data\": {\"a\": \"\xff\"}}\n", "15:38: not YAML: this byte is no character that a text can hold (UTF-8 is wanted)"},
		"a template":             {"{{- if .Values.route }}\nkind: Deployment\n\t{{ end }}\n", "15:3: not YAML: did not find expected node content"},
		"more than one value":    {"{kind: ConfigMap}\n{kind: Secret}\n", "16:1: not YAML: did not find expected <document start>"},
		"a route behind a value": {"{kind: ConfigMap}\n{kind: HTTPRoute}\n", "16:1: not YAML: did not find expected <document start>"},
		"a name of our kinds":    {head + "data:\n  HTTPRoute: \"b\n", "19:14: not YAML: the quote that begins here is not closed"},
		"broken JSON":            {"{\"kind\": \"ConfigMap\",\n \"data\": {]}\n", "16:11: not YAML: did not find expected node content"},
	} {
		t.Run(name, func(t *testing.T) {
			text := outside + "---\n" + test.text + "---\n" + outside
			after := 8 + strings.Count(outside+"---\n"+test.text+"---\n", "\n")
			dir := write(t, map[string]string{"in.yaml": text})
			for _, problem := range []string{
				run(t, check.Options{Files: []string{dir}}).Problems[0].String(), run(t, check.Options{Files: []string{dir}, Workers: 1}).Problems[0].String(),
			} {
				require.Equal(t, dir+"/in.yaml:"+test.want, problem)
			}
			require.Equal(t, []string{"in.yaml:" + test.want, "in.yaml:8:5 " + refused, fmt.Sprintf("in.yaml:%d:5 %s", after, refused)},
				places(run(t, check.Options{Files: []string{dir}}), dir))

			// Where the facts are incomplete, they are no facts.
			good := write(t, map[string]string{"in.yaml": outside})
			require.Equal(t, dir+"/in.yaml:"+test.want, run(t, check.Options{Files: []string{good}, Facts: []string{dir}}).Problems[0].String())
		})
	}
}

func TestFiles(t *testing.T) {
	dir := write(t, map[string]string{
		"a.yaml": outside, "b.yml": outside, "c.json": outsideJSON, "d.YAML": outside, "README.md": outside,
		"sub/e.yaml": outside, ".git/f.yaml": outside, "empty/README.md": "",
	})
	require.NoError(t, os.Symlink("a.yaml", filepath.Join(dir, "link.yaml")))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "broken.yaml")))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "broken.txt")))
	require.NoError(t, os.Symlink("round.yaml", filepath.Join(dir, "round.yaml")))
	require.NoError(t, os.Symlink("..", filepath.Join(dir, "sub", "up")))

	files := func(report check.Report) (names, problems []string) {
		for _, result := range report.Results {
			names = append(names, strings.TrimPrefix(result.File, dir+"/"))
		}
		for _, p := range report.Problems {
			problems = append(problems, strings.ReplaceAll(p.String(), dir, "DIR"))
		}
		return names, problems
	}
	broken := []string{
		"DIR/broken.yaml: cannot be read: no such file or directory",
		"DIR/round.yaml: cannot be read: symbolic links lead in a circle",
	}

	names, problems := files(run(t, check.Options{Files: []string{dir}}))
	require.Equal(t, []string{"a.yaml", "b.yml", "c.json", "d.YAML"}, names, "a file that a link names too is read once")
	require.Equal(t, broken, problems)

	names, problems = files(run(t, check.Options{Files: []string{dir}, Recursive: true}))
	require.Equal(t, []string{"a.yaml", "b.yml", "c.json", "d.YAML", "sub/e.yaml"}, names)
	require.Equal(t, append(broken, "DIR/sub/up: symbolic links lead in a circle, back to DIR"), problems)

	names, problems = files(run(t, check.Options{Files: []string{
		dir + "/README.md", dir + "/sub", dir + "/sub/e.yaml", dir + "/empty", dir + "/nothing.yaml", dir + "/round.yaml",
	}}))
	require.Equal(t, []string{"README.md", "sub/e.yaml"}, names, "a file that is named is read whatever its name is")
	require.Equal(t, []string{
		"DIR/empty: holds no .yaml, .yml or .json file",
		"DIR/nothing.yaml: cannot be read: no such file or directory",
		"DIR/round.yaml: cannot be read: symbolic links lead in a circle",
	}, problems)

	_, problems = files(run(t, check.Options{Files: []string{filepath.Dir(dir)}}))
	require.Equal(t, []string{filepath.Dir(dir) + ": holds no .yaml, .yml or .json file; its folders are read with --recursive"}, problems)
}

func TestUnreadableFile(t *testing.T) {
	const unreadable = "/proc/self/mem" // opens, also for root, whom no permission stops, and has nothing at its begin
	if _, err := os.Stat(unreadable); err != nil {
		t.Skip("needs Linux's /proc")
	}
	dir := write(t, map[string]string{"b.yaml": outside})
	require.NoError(t, os.Symlink(unreadable, filepath.Join(dir, "a.yaml")))
	require.Equal(t, []string{"a.yaml: cannot be read: input/output error", "b.yaml:8:5 " + refused}, places(run(t, check.Options{Files: []string{dir}}), dir))
}

func TestStandardInput(t *testing.T) {
	report := run(t, check.Options{Files: []string{"-", "-"}, Stdin: strings.NewReader(outside)})
	require.Equal(t, []string{"<stdin>:8:5 " + refused}, places(report, ""))

	// A program before the pipe that failed must not pass for "all is well".
	report = run(t, check.Options{Files: []string{"-"}, Stdin: strings.NewReader("")})
	require.Equal(t, []string{"<stdin>: is empty, nothing was checked"}, places(report, ""))

	report = run(t, check.Options{Files: []string{"-"}, Stdin: failingReader{}})
	require.Equal(t, []string{"<stdin>: cannot be read: broken pipe"}, places(report, ""))
}

func TestStandardInputLeavesNothingBehind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	run(t, check.Options{Files: []string{"-"}, Stdin: strings.NewReader(outside)})
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, left)
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, syscall.EPIPE }

// TestLargeFiles reads what does not fit into the memory that a check may use for one document.
func TestLargeFiles(t *testing.T) {
	filler := strings.Repeat("  k: "+strings.Repeat("v", 95)+"\n", 10)
	large := func(kind string) string {
		return "apiVersion: v1\nkind: " + kind + "\ndata:\n" + strings.Repeat(filler, 36_000) // 36 MB
	}
	dir := write(t, map[string]string{"in.yaml": large("ConfigMap") + "---\n" + large("HTTPRoute") + "---\n" + outside})
	line := 3 + 360_000 + 1
	require.Equal(t, []string{
		"in.yaml:1:1: a document of more than 32 MiB is not read; split it",
		fmt.Sprintf("in.yaml:%d:1: a document of more than 32 MiB is not read; split it", line+1),
		fmt.Sprintf("in.yaml:%d:5 %s", 2*line+8, refused),
	}, places(run(t, check.Options{Files: []string{dir}}), dir))
}

// kubectl reads these as an HTTPRoute, so they are evaluated.
func TestKindsInOtherSpellings(t *testing.T) {
	for _, kind := range []string{`"HTTPRo\x75te"`, `"HTTPRo\u0075te"`, "\"HTTP\\\n  Route\"", "!!binary SFRUUFJvdXRl"} {
		file := filepath.Join(t.TempDir(), "route.yaml")
		require.NoError(t, os.WriteFile(file, []byte("apiVersion: gateway.networking.k8s.io/v1\nkind: "+kind+
			"\nmetadata: {name: r, namespace: team-a}\nspec: {parentRefs: [{name: aibrix-eg, namespace: aibrix-system}]}\n"), 0o600))
		engine, err := policy.New(policy.DefaultConfig())
		require.NoError(t, err)
		report, err := check.Run(t.Context(), check.Options{Files: []string{file}, Policy: engine})
		require.NoError(t, err)
		require.Empty(t, report.Problems, kind)
		require.Len(t, report.Results, 1, kind)
		require.True(t, report.Summary.Failed, kind)
	}
}
