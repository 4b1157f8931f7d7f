package check

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	yamlv4 "go.yaml.in/yaml/v4"
	"sigs.k8s.io/yaml"
)

// requirePlain proves that plainJSON means the same as kubectl's conversion, where it converts at all, and that the nodes of
// a plain tree are where YAML's are.
func requirePlain(t *testing.T, raw []byte) (plain bool) {
	t.Helper()
	got, plain := plainJSON(raw, nil)
	if !plain {
		return false
	}
	want, err := yaml.YAMLToJSONStrict(raw)
	require.NoError(t, err, "%q", raw)
	var left, right any
	require.NoError(t, json.Unmarshal(want, &left))
	require.NoError(t, json.Unmarshal(got, &right), "%s", got)
	require.Equal(t, left, right, "%q", raw)
	if tree := newPlainTree(raw); tree != nil {
		defer tree.free()
		require.Equal(t, string(got), string(tree.json), "%q", raw)
		var document yamlv4.Node
		require.NoError(t, yamlv4.Unmarshal(raw, &document), "%q", raw)
		require.Equal(t, places(document.Content[0]), tree.root, "%q", raw)
	} else {
		require.Contains(t, string(got), "null", "%q", raw)
	}
	return true
}

// places is the tree without tags and comments.
func places(node *yamlv4.Node) *yamlv4.Node {
	copied := &yamlv4.Node{Kind: node.Kind, Style: node.Style, Value: node.Value, Line: node.Line, Column: node.Column}
	for _, child := range node.Content {
		copied.Content = append(copied.Content, places(child))
	}
	return copied
}

func TestPlainJSON(t *testing.T) {
	for text, plain := range map[string]bool{
		"a: b":                           true,
		"a:":                             true,
		"a: # nothing":                   true,
		"- a\n- b":                       true,
		"- a: b\n  c: d\n-   e: f\n":     true,
		"a:\n- b\n- c\nd: e":             true,
		"a:\n  - b\n  - c\nd: e":         true,
		"a:\n  b:\n    c:\n  d: e\nf: g": true,
		"a: 8000\nb: 0\nc: 120s\nd: 5m":  true,
		"a: \"x\"\nb: 'y'\nc: 'a\\b\"'":  false,
		"a: \"x\"\nb: 'y'\nc: 'a\"b'":    true,
		"a: \"\"\nb: {}\nc: []":          true,
		"a: true\nb: false\nc: null":     true,
		"a: x # y\nb: 'x' # y\n# z\n\n   # w\nc: \"#\"":              true,
		"a: /v1/x:y\nb: http://c\nc: a#b\nd: it's, [so] {it} \"is\"": true,
		"a.b/c-d_e: x":                         true,
		"a: b\n...\n":                          false,
		"a: - b":                               false,
		"a: b: c":                              false,
		"a: b\n  c":                            false,
		"a: b\n  c: d":                         false,
		"a: b\na: c":                           false,
		"a:\n  b: c\n d: e":                    false,
		"a:\n b\n":                             false,
		"- a\n  - b":                           false,
		"-\n  a: b":                            false,
		"- - a":                                false,
		"- a\nb: c":                            false,
		"a: b\n- c":                            false,
		"a: yes":                               false,
		"yes: a":                               false,
		"Null: a":                              false,
		"a: ~":                                 false,
		"a: -1":                                false,
		"a: 1.5":                               false,
		"a: 0777":                              false,
		"a: 0x1":                               false,
		"a: 1e3":                               false,
		"a: 1_000":                             false,
		"a: 2026-01-02":                        false,
		"a: 12345678901234567890":              false,
		"a: \"\\n\"":                           false,
		"a: 'it''s'":                           false,
		"a: 'b' c":                             false,
		"a: 'b'#c":                             false,
		"a: \"b\nc\"":                          false,
		"a: |\n  b":                            false,
		"a: >-\n  b":                           false,
		"a: &x b":                              false,
		"a: *x":                                false,
		"a: !!str b":                           false,
		"a: {b: c}":                            false,
		"a: [b]":                               false,
		"<<: a":                                false,
		"? a\n: b":                             false,
		"\"a\": b":                             false,
		"1: a":                                 false,
		"a:b":                                  false,
		"a":                                    false,
		"a: b\n---\nc: d":                      false,
		"--- a":                                false,
		"...":                                  false,
		"%YAML 1.1":                            false,
		"a: \tb":                               false,
		"a: b\r\n":                             false,
		"a: é":                                 false,
		"":                                     false,
		"# a":                                  false,
		"{}":                                   false,
		"k" + strings.Repeat("x", 200) + ": a": false,
		strings.Repeat("- a: b\n", 3):          true,
	} {
		require.Equal(t, plain, requirePlain(t, []byte(text)), "%q", text)
	}
}

// FuzzPlainJSON proves the same of anything.
func FuzzPlainJSON(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.yaml")
	require.NoError(f, err)
	cases, err := filepath.Glob("../testdata/cases/*/*/*.yaml")
	require.NoError(f, err)
	require.NotEmpty(f, cases)
	for _, file := range append(files, cases...) {
		text, err := os.ReadFile(file)
		require.NoError(f, err)
		for document := range strings.SplitSeq(string(text), "---\n") {
			f.Add([]byte(document))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) { requirePlain(t, raw) })
}
