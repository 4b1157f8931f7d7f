package manifest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEditorKeepsEverythingElse(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		// set has the path of each object, in the order in which they are changed.
		set  []string
		want string
	}{
		"a value is replaced where it stands": {
			text: "metadata:\n  name: x   # mine\n  namespace:   team-a   # ours\n\n  labels: {a:   b}\n",
			set:  []string{"metadata"},
			want: "metadata:\n  name: x   # mine\n  namespace:   NEW   # ours\n\n  labels: {a:   b}\n",
		},
		"quotes stay": {
			text: "a: {namespace: \"team-a\"}\nb: {namespace: 'team-a'}\nc: {\"namespace\":\"\"}\n",
			set:  []string{"a", "b", "c"},
			want: "a: {namespace: \"NEW\"}\nb: {namespace: 'NEW'}\nc: {\"namespace\":\"NEW\"}\n",
		},
		"nothing and null are replaced": {
			text: "a:\n  namespace:\n  name: x\nb:\n  namespace: ~ # none\nc: {namespace: , name: x}\n",
			set:  []string{"a", "b", "c"},
			want: "a:\n  namespace: NEW\n  name: x\nb:\n  namespace: NEW # none\nc: {namespace: NEW , name: x}\n",
		},
		"an entry is added behind the name": {
			text: "rules:\n- backendRefs:\n  - name: llama # the model\n    port: 8000\n  -   weight: 1\n      name: 'it''s'\n",
			set:  []string{"rules[0].backendRefs[1]", "rules[0].backendRefs[0]"},
			want: "rules:\n- backendRefs:\n  - name: llama # the model\n    namespace: NEW\n    port: 8000\n  -   weight: 1\n      name: 'it''s'\n      namespace: NEW\n",
		},
		"a generated name": {
			text: "metadata:\n  generateName: x-\n",
			set:  []string{"metadata"},
			want: "metadata:\n  generateName: x-\n  namespace: NEW\n",
		},
		"the last line has no line break": {
			text: "a:\n- name: x",
			set:  []string{"a[0]"},
			want: "a:\n- name: x\n  namespace: NEW",
		},
		"flow style": {
			text: "a: [{name: x, port: 1}, { \"name\": \"y\" }, {\"name\":\"z\",\"port\":1}]\n",
			set:  []string{"a[0]", "a[1]", "a[2]"},
			want: "a: [{name: x, namespace: NEW, port: 1}, { \"name\": \"y\", \"namespace\": \"NEW\" }, {\"name\":\"z\",\"namespace\":\"NEW\",\"port\":1}]\n",
		},
		"JSON with tabs": {
			text: "{\n\t\"a\": {\n\t\t\"name\": \"x \\\" \\u00e9\",\n\t\t\"port\": 1\n\t}\n}\n",
			set:  []string{"a"},
			want: "{\n\t\"a\": {\n\t\t\"name\": \"x \\\" \\u00e9\",\n\t\t\"namespace\": \"NEW\",\n\t\t\"port\": 1\n\t}\n}\n",
		},
		"byte order mark, carriage returns and wide characters": {
			text: "\uFEFFモデル: [{名: é, name: x}]\r\nb:\r\n  name: ü # ä\r\n",
			set:  []string{"b", "モデル[0]"},
			want: "\uFEFFモデル: [{名: é, name: x, namespace: NEW}]\r\nb:\r\n  name: ü # ä\r\n  namespace: NEW\r\n",
		},
		"separators of lines and paragraphs inside a text": {
			text: "note: \"a\u2028b\u2029c\u0085d\"\na:\n  name: x\n",
			set:  []string{"a"},
			want: "note: \"a\u2028b\u2029c\u0085d\"\na:\n  name: x\n  namespace: NEW\n",
		},
		"an anchor and its alias are one object": {
			text: "a: &b\n  - name: x\nc: *b\n",
			set:  []string{"a[0]", "c[0]"},
			want: "a: &b\n  - name: x\n    namespace: NEW\nc: *b\n",
		},
		"anchored and aliased names": {
			text: "a: {name: &n x}\nb:\n  name: *n\n  namespace: *n\n",
			set:  []string{"a", "b"},
			want: "a: {name: &n x, namespace: NEW}\nb:\n  name: *n\n  namespace: NEW\n",
		},
		"an anchored value that nobody else uses": {
			text: "a:\n  namespace: &ns team-a\n",
			set:  []string{"a"},
			want: "a:\n  namespace: &ns NEW\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := NewEditor([]byte(test.text))
			require.NoError(t, err)
			for _, path := range test.set {
				require.NoError(t, e.set(parsePath(path+".namespace"), "NEW"))
			}
			got, err := e.result()
			require.NoError(t, err)
			require.Equal(t, test.want, string(got))

			again, err := NewEditor(got)
			require.NoError(t, err)
			for _, path := range test.set {
				require.NoError(t, again.set(parsePath(path+".namespace"), "NEW"))
			}
			got, err = again.result()
			require.NoError(t, err)
			require.Equal(t, test.want, string(got), "the second time")
		})
	}
}

func TestEditorRefuses(t *testing.T) {
	for name, test := range map[string]struct{ text, path, want string }{
		"an alias that others read": {
			"a:\n  namespace: &ns team-a\nlabel: *ns\n", "a", "cannot be changed in place without changing other fields too",
		},
		"what a merge brought, which is a duplicate key to a check": {
			"base: &base {namespace: team-a}\na:\n  <<: *base\n  name: x\n", "a", "cannot be changed in place without changing other fields too",
		},
		"an anchored map that others read": {
			"a: &a {name: x}\nb: *a\n", "a", "cannot be changed in place without changing other fields too",
		},
		"a merged name": {
			"base: &base {name: x}\na:\n  <<: *base\n", "a", "merged in (<<)",
		},
		"a tagged value":      {"a: {namespace: !!str team-a}\n", "a", "cannot be changed as it is written"},
		"a name as a block":   {"a:\n  name: >-\n    x\n", "a", "cannot be changed as it is written"},
		"no such object":      {"a: [1]\n", "a[1]", "a[1]: is not written there"},
		"no object":           {"a: [1]\n", "a[0]", "a[0]: is no map"},
		"an explicit key":     {"a:\n  ? name\n  : x\n  port: 1\n", "a.port", "is no map"},
		"a name of its own":   {"a: {port: 1}\n", "a", "merged in (<<)"},
		"half of a surrogate": {"{\"a\": \"\\ud83d\\ude00\"}", "a", "Unicode"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := NewEditor([]byte(test.text))
			if err == nil {
				if err = e.set(parsePath(test.path+".namespace"), "NEW"); err == nil {
					_, err = e.result()
				}
			}
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestScalarIsAText(t *testing.T) {
	for _, namespace := range []string{"team-a", "123", "null", "true", "yes", "0x1f", "1e3", "-", "no", "y", "on", "12-34"} {
		e, err := NewEditor([]byte("a:\n  name: x\nb: {name: x}\n"))
		require.NoError(t, err)
		require.NoError(t, e.set([]string{"a", "namespace"}, namespace))
		require.NoError(t, e.set([]string{"b", "namespace"}, namespace))
		_, err = e.result() // compares
		require.NoError(t, err, namespace)
	}
}

func FuzzEditor(f *testing.F) {
	f.Add("a:\n  name: x # y\n")
	f.Add("a: {\"name\":\"x\"}")
	f.Add("\uFEFFa: &b\r\n  - name: 'x'\r\n")
	f.Add("b: &b {name: x}\na: *b\n")
	f.Fuzz(func(t *testing.T, text string) {
		e, err := NewEditor([]byte(text))
		if err != nil {
			return
		}
		if e.set([]string{"a", "namespace"}, "team-a") != nil {
			return
		}
		got, err := e.result()
		if err != nil {
			return
		}
		require.True(t, strings.Contains(string(got), "team-a"))
	})
}
