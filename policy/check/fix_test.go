package check

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
)

// optionsFor are those of a check of files under the default policy, changed by some.
func optionsFor(t testing.TB, files []string, change ...func(*policy.Config)) Options {
	t.Helper()
	config := policy.DefaultConfig()
	for _, c := range change {
		c(&config)
	}
	p, err := policy.New(config)
	require.NoError(t, err)
	return Options{Files: files, Policy: p}
}

func writeFile(t testing.TB, path, text string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

const outside = `# Ours.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
    name:   "llama-router"   # as AIBrix looks it up
    namespace: 'team-a'

    labels: {app:   llama}
spec:
    parentRefs: [{name: aibrix-eg, namespace: aibrix-system}]
    rules:
    - matches:
        - path: {type: PathPrefix, value: /v1}
      backendRefs:
        - name: llama # the model
          port: 8000
        - {name: qwen, port: 8000, weight: 0}
      filters:
        - type: RequestMirror
          requestMirror:
            backendRef:
                port: 8000
                name: shadow
        - type: ExternalAuth
          externalAuth:
            protocol: HTTP
            backendRef: {name: auth, namespace: security, port: 80}
`

const inside = `# Ours.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
    name:   "llama-router"   # as AIBrix looks it up
    namespace: 'aibrix-system'

    labels: {app:   llama}
spec:
    parentRefs: [{name: aibrix-eg, namespace: aibrix-system}]
    rules:
    - matches:
        - path: {type: PathPrefix, value: /v1}
      backendRefs:
        - name: llama # the model
          namespace: team-a
          port: 8000
        - {name: qwen, namespace: team-a, port: 8000, weight: 0}
      filters:
        - type: RequestMirror
          requestMirror:
            backendRef:
                port: 8000
                name: shadow
                namespace: team-a
        - type: ExternalAuth
          externalAuth:
            protocol: HTTP
            backendRef: {name: auth, namespace: security, port: 80}
`

func grantText(namespace, name, hash string) string {
	return `apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata:
  name: aibrix-system-to-` + name + `-` + hash + `
  namespace: ` + namespace + `
spec:
  from:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    namespace: aibrix-system
  to:
  - group: ""
    kind: Service
    name: ` + name + `
---
`
}

var (
	llamaGrant  = grantText("team-a", "llama", "LLAMA")
	othersGrant = grantText("team-a", "qwen", "QWEN") + grantText("team-a", "shadow", "SHADOW") + grantText("security", "auth", "AUTH")
)

// The smallest route that lives in the wrong place.
func small(namespace, name, backend string) string {
	return `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: ` + name + `
  namespace: ` + namespace + `
spec:
  parentRefs:
  - name: aibrix-eg
    namespace: aibrix-system
  rules:
  - backendRefs:
    - name: ` + backend + `
      port: 8000
`
}

func smallFixed(name, namespace, backend string) string {
	fixed := small("aibrix-system", name, backend)
	return strings.Replace(fixed, "    - name: "+backend+"\n", "    - name: "+backend+"\n      namespace: "+namespace+"\n", 1)
}

func jsonRoute(namespace, rest string) string {
	return `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"x","namespace":"` + namespace + `"},"spec":{"parentRefs":[{"name":"aibrix-eg","namespace":"aibrix-system"}],"rules":[{"backendRefs":[{"name":"llama"` + rest + `,"port":8000}]}]}}`
}

const attached = `{apiVersion: example.org/v1, kind: Timeouts, metadata: {name: slow, namespace: team-b}, spec: {targetRef: {kind: HTTPRoute, name: x}}}
`

const jsonGrant = `{
  "kind": "ReferenceGrant",
  "apiVersion": "gateway.networking.k8s.io/v1beta1",
  "metadata": {
    "name": "aibrix-system-to-llama-LLAMA",
    "namespace": "team-a"
  },
  "spec": {
    "from": [
      {
        "group": "gateway.networking.k8s.io",
        "kind": "HTTPRoute",
        "namespace": "aibrix-system"
      }
    ],
    "to": [
      {
        "group": "",
        "kind": "Service",
        "name": "llama"
      }
    ]
  }
}`

const labelled = `apiVersion: v1
kind: Namespace
metadata:
  name: team-a
  labels:
    routesteward.dev/grants: `

func TestFix(t *testing.T) {
	hash := func(text string) string {
		for name, edge := range map[string]policy.Edge{
			"LLAMA":  {Namespace: "team-a", Name: "llama"},
			"QWEN":   {Namespace: "team-a", Name: "qwen"},
			"SHADOW": {Namespace: "team-a", Name: "shadow"},
			"AUTH":   {Namespace: "security", Name: "auth"},
		} {
			edge.Origin, edge.FromKind, edge.FromNamespace, edge.Kind = "aibrix-system", policy.HTTPRoute, "aibrix-system", "Service"
			full := personalGrant(edge).Name
			text = strings.ReplaceAll(text, "-"+name, full[strings.LastIndex(full, "-"):])
		}
		return text
	}
	for name, test := range map[string]struct {
		file   string // route.yaml
		text   string
		change func(*policy.Config)
		with   func(*Options)
		want   string // empty: unchanged
		reason string
	}{
		"everything at once, and nothing else": {
			text: outside, want: llamaGrant + othersGrant + inside,
		},
		"carriage returns and a byte order mark": {
			text: "\uFEFF" + strings.ReplaceAll(outside, "\n", "\r\n"),
			want: "\uFEFF" + strings.ReplaceAll(llamaGrant+othersGrant+inside, "\n", "\r\n"),
		},
		"no line break at the end": {
			text: strings.TrimSuffix(small("team-a", "x", "llama"), "\n"),
			want: llamaGrant + strings.TrimSuffix(smallFixed("x", "team-a", "llama"), "\n"),
		},
		"between other documents": {
			text: "---\n# first\na: 1\n---\n" + small("team-a", "x", "llama") + "# end\n\n---\nb:   [2]\n...\n",
			want: "---\n# first\na: 1\n---\n" + llamaGrant + smallFixed("x", "team-a", "llama") + "# end\n\n---\nb:   [2]\n...\n",
		},
		"two routes share a grant": {
			text: small("team-a", "x", "llama") + "---\n" + small("team-a", "z", "llama"),
			want: llamaGrant + smallFixed("x", "team-a", "llama") + "---\n" + smallFixed("z", "team-a", "llama"),
		},
		"a grant that is there already": {
			text: llamaGrant + small("team-a", "x", "llama"),
			want: llamaGrant + smallFixed("x", "team-a", "llama"),
		},
		"a route that lacks only the grant": {
			text: smallFixed("x", "team-a", "llama"),
			want: llamaGrant + smallFixed("x", "team-a", "llama"),
		},
		"standing consent needs no grant": {
			text: small("team-a", "x", "llama") + "---\n" + labelled + "allow\n",
			want: smallFixed("x", "team-a", "llama") + "---\n" + labelled + "allow\n",
		},
		"stated consent needs no grant": {
			text: small("team-a", "x", "llama"),
			with: func(o *Options) { o.AsConsented = []string{"team-a"} },
			want: smallFixed("x", "team-a", "llama"),
		},
		"where grants are not made": {
			text:   small("team-a", "x", "llama") + "---\n" + labelled + "allow\n",
			change: func(c *policy.Config) { c.Grants = policy.GrantsRequire },
			want:   llamaGrant + smallFixed("x", "team-a", "llama") + "---\n" + labelled + "allow\n",
		},
		"where references are not evaluated, a moved route needs its grant all the same": {
			text:   small("team-a", "x", "llama"),
			change: func(c *policy.Config) { c.Grants = policy.GrantsOff },
			want:   llamaGrant + smallFixed("x", "team-a", "llama"),
		},
		"where references are not evaluated, others are left alone": {
			text:   smallFixed("x", "team-a", "llama"),
			change: func(c *policy.Config) { c.Grants = policy.GrantsOff },
		},
		"a list": {
			text: "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSuffix(small("team-a", "x", "llama"), "\n"), "\n", "\n  ") + "\n- {apiVersion: v1,   kind: ConfigMap, metadata: {name: y}}\n",
			want: llamaGrant + "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSuffix(smallFixed("x", "team-a", "llama"), "\n"), "\n", "\n  ") + "\n- {apiVersion: v1,   kind: ConfigMap, metadata: {name: y}}\n",
		},
		"one namespace for two uses of an anchor": {
			text: strings.Replace(small("team-a", "x", "llama"), "  - backendRefs:\n", "  - backendRefs: &all\n", 1) + "  - backendRefs: *all\n",
			want: llamaGrant + strings.Replace(smallFixed("x", "team-a", "llama"), "  - backendRefs:\n", "  - backendRefs: &all\n", 1) + "  - backendRefs: *all\n",
		},
		"an anchor that something else uses": {
			text:   strings.Replace(small("team-a", "x", "llama"), "namespace: team-a", "namespace: &ns team-a\n  labels: {team: *ns}", 1),
			reason: "cannot be changed in place without changing other fields too",
		},
		"a veto": {
			text:   small("team-a", "x", "llama") + "---\n" + labelled + "deny\n",
			reason: `namespace "team-a" refuses references from other namespaces`,
		},
		"a second Gateway": {
			text:   strings.Replace(small("team-a", "x", "llama"), "  rules:", "  - name: mine\n  rules:", 1),
			reason: `spec.parentRefs[1]: Gateway mine may not take routes from "aibrix-system"`,
		},
		"an extension": {
			text:   small("team-a", "x", "llama") + "    filters:\n    - type: ExtensionRef\n      extensionRef: {group: example.org, kind: Filter, name: f}\n",
			reason: `spec.rules[0].filters[0].extensionRef names an object of namespace "team-a", which a copy in "aibrix-system" cannot name`,
		},
		"a name that is taken": {
			text:   small("team-a", "x", "llama") + "---\n" + small("aibrix-system", "x", "qwen"),
			reason: "the name aibrix-system/x is taken by the HTTPRoute at ",
		},
		"a name that two want": {
			text:   small("team-a", "x", "llama") + "---\n" + small("team-b", "x", "qwen"),
			want:   llamaGrant + smallFixed("x", "team-a", "llama") + "---\n" + small("team-b", "x", "qwen"),
			reason: "the name aibrix-system/x is taken by the HTTPRoute at ",
		},
		"a policy that is attached": {
			text:   small("team-a", "x", "llama") + "---\napiVersion: example.org/v1\nkind: Timeouts\nmetadata: {name: slow, namespace: team-a}\nspec:\n  targetRefs:\n  - {group: gateway.networking.k8s.io, kind: HTTPRoute, name: x}\n",
			reason: "Timeouts slow at ",
		},
		"a policy that is attached to something else": {
			text: small("team-a", "x", "llama") + "---\n" + attached, with: func(o *Options) { o.AsConsented = []string{"team-a"} },
			want: smallFixed("x", "team-a", "llama") + "---\n" + attached,
		},
		"no namespace": {
			text:   strings.Replace(small("team-a", "x", "llama"), "  namespace: team-a\n", "", 1),
			reason: "give --default-namespace",
		},
		"no namespace but a stated one": {
			text: strings.Replace(small("team-a", "x", "llama"), "  namespace: team-a\n", "", 1),
			with: func(o *Options) { o.DefaultNamespace = "team-a" },
			want: llamaGrant + smallFixed("x", "team-a", "llama"),
		},
		"a Gateway": {
			text:   "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: team-a}\nspec:\n  gatewayClassName: aibrix-eg\n  listeners: [{name: http, port: 80, protocol: HTTP}]\n",
			change: func(c *policy.Config) { c.GatewayClasses = []string{"aibrix-eg"} },
			reason: "only its owner can decide",
		},
		"a forged grant": {
			text:   strings.Replace(llamaGrant, "metadata:\n", "metadata:\n  labels: {app.kubernetes.io/managed-by: routesteward}\n", 1),
			reason: "only its owner can decide",
		},
		"JSON": {
			file: "route.json",
			text: `{
  "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
  "metadata": {"name": "x", "namespace": "team-a"},
  "spec": {
    "parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}],
    "rules": [{"backendRefs": [{
      "name": "llama",
      "port": 8000
    }]}]
  }
}
`,
			want: `{"apiVersion": "v1", "kind": "List", "items": [
{
  "kind": "ReferenceGrant",
  "apiVersion": "gateway.networking.k8s.io/v1beta1",
  "metadata": {
    "name": "aibrix-system-to-llama-LLAMA",
    "namespace": "team-a"
  },
  "spec": {
    "from": [
      {
        "group": "gateway.networking.k8s.io",
        "kind": "HTTPRoute",
        "namespace": "aibrix-system"
      }
    ],
    "to": [
      {
        "group": "",
        "kind": "Service",
        "name": "llama"
      }
    ]
  }
},
{
  "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
  "metadata": {"name": "x", "namespace": "aibrix-system"},
  "spec": {
    "parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}],
    "rules": [{"backendRefs": [{
      "name": "llama",
      "namespace": "team-a",
      "port": 8000
    }]}]
  }
}
]}
`,
		},
		"a compact JSON list": {
			file: "route.json",
			text: `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"x","namespace":"team-a"},"spec":{"parentRefs":[{"name":"aibrix-eg","namespace":"aibrix-system"}],"rules":[{"backendRefs":[{"name":"llama","port":8000}]}]}}]}`,
			want: `{"apiVersion":"v1","kind":"List","items":[{"kind":"ReferenceGrant","apiVersion":"gateway.networking.k8s.io/v1beta1","metadata":{"name":"aibrix-system-to-llama-LLAMA","namespace":"team-a"},"spec":{"from":[{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","namespace":"aibrix-system"}],"to":[{"group":"","kind":"Service","name":"llama"}]}}, {"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"x","namespace":"aibrix-system"},"spec":{"parentRefs":[{"name":"aibrix-eg","namespace":"aibrix-system"}],"rules":[{"backendRefs":[{"name":"llama","namespace":"team-a","port":8000}]}]}}]}`,
		},
		"several JSON values": {
			file: "route.json",
			text: `{"a": 1}` + "\n" + jsonRoute("team-a", ""),
			want: `{"a": 1}` + "\n" + jsonGrant + "\n" + jsonRoute("aibrix-system", `,"namespace":"team-a"`),
		},
		"JSON in YAML": {
			text: "---\n" + jsonRoute("team-a", "") + "\n",
			want: "---\n" + jsonGrant + "\n---\n" + jsonRoute("aibrix-system", `,"namespace":"team-a"`) + "\n",
		},
		"something stands on the separator's line": {
			text: "--- # ours\n" + small("team-a", "x", "llama"),
			want: "---\n" + strings.TrimSuffix(llamaGrant, "---\n") + "--- # ours\n" + smallFixed("x", "team-a", "llama"),
		},
		"a directive": {
			text:   "# ours\n%YAML 1.1\n---\n" + small("team-a", "x", "llama"),
			reason: "a document with a YAML directive",
		},
		"a list of one kind in JSON": {
			file:   "route.json",
			text:   `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRouteList","items":[{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"x","namespace":"team-a"},"spec":{"parentRefs":[{"name":"aibrix-eg","namespace":"aibrix-system"}],"rules":[{"backendRefs":[{"name":"llama","port":8000}]}]}}]}`,
			reason: "its ReferenceGrant cannot be put into a HTTPRouteList",
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := test.file
			if file == "" {
				file = "route.yaml"
			}
			text, want := hash(test.text), hash(test.want)
			if test.change == nil {
				test.change = func(*policy.Config) {}
			}
			if want == "" {
				want = text
			}
			path := writeFile(t, filepath.Join(t.TempDir(), file), text)
			o := optionsFor(t, []string{path}, test.change)
			if test.with != nil {
				test.with(&o)
			}
			fixes, err := Fix(context.Background(), o)
			require.NoError(t, err)
			require.Empty(t, fixes.Report.Problems)
			if test.reason == "" {
				require.Empty(t, fixes.Unfixed)
			} else {
				require.Len(t, fixes.Unfixed, 1)
				require.Contains(t, fixes.Unfixed[0].String(), test.reason)
				require.Contains(t, fixes.Unfixed[0].String(), path+":")
			}
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, text, string(got), "Fix alone writes nothing")
			require.NoError(t, fixes.Write(nil))
			got, err = os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, want, string(got))

			report, err := Run(context.Background(), o)
			require.NoError(t, err)
			require.Empty(t, report.Problems)
			require.Equal(t, test.reason != "", report.Summary.Failed, "the result passes the check unless a reason is given")

			again, err := Fix(context.Background(), o)
			require.NoError(t, err)
			require.Empty(t, again.Files, "the second time")
			require.Equal(t, len(fixes.Unfixed), len(again.Unfixed))
		})
	}
}

func TestFixStandardInput(t *testing.T) {
	for text, want := range map[string]string{
		small("team-a", "x", "llama"): smallFixed("x", "team-a", "llama"),
		"a: 1\n":                      "a: 1\n",
	} {
		o := optionsFor(t, []string{"-"})
		o.Stdin, o.AsConsented = strings.NewReader(text), []string{"team-a"}
		fixes, err := Fix(context.Background(), o)
		require.NoError(t, err)
		var stdout bytes.Buffer
		require.NoError(t, fixes.Write(&stdout))
		require.Equal(t, want, stdout.String())
	}
}

func TestFixWritesSafely(t *testing.T) {
	dir := t.TempDir()
	text := small("team-a", "x", "llama")
	real := writeFile(t, filepath.Join(dir, "real", "route.yaml"), text)
	require.NoError(t, os.Chmod(real, 0o640))
	link := filepath.Join(dir, "link.yaml")
	require.NoError(t, os.Symlink(filepath.Join("real", "route.yaml"), link))

	fixes, err := Fix(context.Background(), optionsFor(t, []string{link}))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(real, []byte("theirs"), 0o640))
	require.ErrorContains(t, fixes.Write(nil), "link.yaml: cannot be written: somebody changed it meanwhile")
	got, err := os.ReadFile(real)
	require.NoError(t, err)
	require.Equal(t, "theirs", string(got))

	require.NoError(t, os.WriteFile(real, []byte(text), 0o640))
	require.NoError(t, fixes.Write(nil))
	info, err := os.Lstat(link)
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSymlink, "the link stays a link")
	info, err = os.Stat(real)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
	got, err = os.ReadFile(link)
	require.NoError(t, err)
	require.Equal(t, string(fixes.Files[0].After), string(got))
	entries, err := os.ReadDir(filepath.Dir(real))
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file stays behind")
}

func TestFixTakesNoNameInTheCluster(t *testing.T) {
	dir := t.TempDir()
	o := optionsFor(t, []string{writeFile(t, filepath.Join(dir, "route.yaml"), small("team-a", "x", "llama"))})
	o.Facts = []string{writeFile(t, filepath.Join(dir, "facts.yaml"), small("aibrix-system", "x", "llama"))}
	fixes, err := Fix(context.Background(), o)
	require.NoError(t, err)
	require.Empty(t, fixes.Files)
	require.Len(t, fixes.Unfixed, 1)
	require.Contains(t, fixes.Unfixed[0].Reason, "the name aibrix-system/x is taken by the HTTPRoute in the cluster")
}

func TestDiffIsAPatch(t *testing.T) {
	dir := t.TempDir()
	path := writeFile(t, filepath.Join(dir, "apps", "route.yaml"), strings.TrimSuffix(small("team-a", "x", "llama"), "\n"))
	t.Chdir(dir)
	fixes, err := Fix(context.Background(), optionsFor(t, []string{"./apps"}))
	require.NoError(t, err)
	diff := fixes.Diff()
	require.Contains(t, diff, "--- a/apps/route.yaml\n+++ b/apps/route.yaml\n")
	require.Contains(t, diff, "-  namespace: team-a\n+  namespace: aibrix-system\n")
	apply := exec.Command("git", "apply", "-")
	apply.Stdin = strings.NewReader(diff)
	out, err := apply.CombinedOutput()
	require.NoError(t, err, "%s", out)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(fixes.Files[0].After), string(got))
}

func TestFixSaysWhatStaysOpen(t *testing.T) {
	o := optionsFor(t, []string{writeFile(t, filepath.Join(t.TempDir(), "route.yaml"), small("team-a", "x", "llama"))})
	o.Strict = true
	fixes, err := Fix(context.Background(), o)
	require.NoError(t, err)
	require.Len(t, fixes.Files, 1)
	require.Len(t, fixes.Unfixed, 1)
	require.True(t, fixes.Unfixed[0].Fails)
	require.Contains(t, fixes.Unfixed[0].Reason, "it is decided at admission whether namespace team-a consents")
}

func TestWhatOnlyWarnsFailsNoFix(t *testing.T) {
	text := strings.Replace(small("team-a", "x", "llama"), "  rules:", "  - name: mine\n  rules:", 1)
	o := optionsFor(t, []string{writeFile(t, filepath.Join(t.TempDir(), "route.yaml"), text)},
		func(c *policy.Config) { c.Outside, c.Grants = policy.OutsideWarn, policy.GrantsOff })
	fixes, err := Fix(context.Background(), o)
	require.NoError(t, err)
	require.Empty(t, fixes.Files)
	require.Len(t, fixes.Unfixed, 1)
	require.False(t, fixes.Unfixed[0].Fails)
}

// TestFixMovesRelocatedRoutes is about --outside=rewrite, where a route is moved though nothing refuses it.
func TestFixMovesRelocatedRoutes(t *testing.T) {
	const annotation = `  annotations:
    routesteward.dev/parked-parent-refs: '[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"aibrix-eg","namespace":"aibrix-system","port":80}]' # do not touch
`
	const written = `  parentRefs:
  - group: gateway.networking.k8s.io
    kind: Gateway
    name: aibrix-eg
    namespace: aibrix-system
    port: 80
`
	wasParked := strings.Replace(small("team-a", "x", "llama"), "  namespace: team-a\n", annotation+"  namespace: team-a\n", 1)
	wasParked = strings.Replace(wasParked, "  parentRefs:\n  - name: aibrix-eg\n    namespace: aibrix-system\n", "", 1)
	unparked := strings.Replace(smallFixed("x", "team-a", "llama"), "  parentRefs:\n  - name: aibrix-eg\n    namespace: aibrix-system\n", written, 1)
	qualified := func(c *policy.Config) { c.RelocatedName = policy.RelocatedNameQualified }
	parkedJSON := func(annotations string) string {
		return `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"annotations":{` + annotations + `},"name":"x","namespace":"team-a"},"spec":{"rules":[{"backendRefs":[{"name":"llama","port":8000}]}]}}`
	}
	const jsonAnnotation = `"routesteward.dev/parked-parent-refs":"[{\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\"}]"`
	fixedJSON := func(annotations string) string {
		return `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"annotations":{` + annotations + `},"name":"x","namespace":"aibrix-system"},"spec":{"parentRefs": [{"name":"aibrix-eg","namespace":"aibrix-system"}], "rules":[{"backendRefs":[{"name":"llama","namespace":"team-a","port":8000}]}]}}`
	}
	for name, test := range map[string]struct {
		text, facts string
		change      func(*policy.Config)
		want        string // empty: unchanged
		reason      string
		fails       bool
	}{
		"moved":     {text: small("team-a", "x", "llama"), want: smallFixed("x", "team-a", "llama")},
		"qualified": {text: small("team-a", "x", "llama"), change: qualified, want: smallFixed("team-a.x", "team-a", "llama")},
		"a generated name": {
			text: strings.Replace(small("team-a", "x-", "llama"), "  name: x", "  generateName: x", 1), change: qualified,
			want: strings.Replace(smallFixed("team-a.x-", "team-a", "llama"), "  name: team-a.x", "  generateName: team-a.x", 1),
		},
		"the Gateway's namespace is written out": {
			text:  strings.Replace(small("team-a", "x", "llama"), "  - name: aibrix-eg\n    namespace: aibrix-system\n", "  - name: aibrix-eg\n", 1),
			facts: "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: aibrix-eg, namespace: aibrix-system}\nspec: {gatewayClassName: x}\n",
			want:  smallFixed("x", "team-a", "llama"),
		},
		"parked":                       {text: wasParked, want: unparked},
		"parked, another annotation":   {text: strings.Replace(wasParked, "  annotations:\n", "  annotations:\n    a: b\n", 1), want: strings.Replace(unparked, "metadata:\n  name: x\n", "metadata:\n  name: x\n  annotations:\n    a: b\n", 1)},
		"parked, a comment in between": {text: strings.Replace(wasParked, "  rules:", "  # one\n  rules:", 1), want: strings.Replace(unparked, "  rules:", "  # one\n  rules:", 1)},
		"parked, in a List": {
			text: "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSuffix(wasParked, "\n"), "\n", "\n  ") + "\n",
			want: "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSuffix(unparked, "\n"), "\n", "\n  ") + "\n",
		},
		"parked, JSON":                       {text: parkedJSON(jsonAnnotation), want: fixedJSON("")},
		"parked, JSON, first of two":         {text: parkedJSON(jsonAnnotation + `, "a":"b,c"`), want: fixedJSON(`"a":"b,c"`)},
		"parked, JSON, last of two":          {text: parkedJSON(`"a":"b,c", ` + jsonAnnotation), want: fixedJSON(`"a":"b,c"`)},
		"parked, and applied with others":    {text: strings.Replace(small("team-a", "x", "llama"), "  namespace: team-a\n", annotation+"  namespace: team-a\n", 1), want: smallFixed("x", "team-a", "llama")},
		"parked where nothing is relocated":  {text: wasParked, change: func(c *policy.Config) { c.Outside = policy.OutsideReject }, want: unparked},
		"parked twice, nothing is relocated": {text: strings.Replace(small("team-a", "x", "llama"), "  namespace: team-a\n", annotation+"  namespace: team-a\n", 1), change: func(c *policy.Config) { c.Outside = policy.OutsideReject }, reason: "which parentRefs are meant, these or those of spec, is not certain", fails: true},
		"parked, in a folded text":           {text: strings.Replace(strings.Replace(wasParked, ": '[", ": >-\n      [", 1), "]' # do not touch", "]", 1), reason: "metadata.annotations[routesteward.dev/parked-parent-refs]: cannot be changed as it is written"},
		"mixed":                              {text: strings.Replace(small("team-a", "x", "llama"), "  rules:", "  - {name: theirs, namespace: team-b}\n  rules:", 1), reason: "spec.parentRefs[1]: Gateway team-b/theirs may not take routes"},
		"parked and mixed":                   {text: strings.Replace(wasParked, "  rules:", "  parentRefs: [{name: theirs, namespace: team-b}]\n  rules:", 1), reason: "spec.parentRefs[0]: Gateway team-b/theirs may not take routes"},
		"an extension": {
			text:   small("team-a", "x", "llama") + "    filters:\n    - type: ExtensionRef\n      extensionRef: {group: example.org, kind: Filter, name: f}\n",
			reason: `names an object of namespace "team-a", which the route's copy in "aibrix-system" cannot name; use a standard filter`, fails: true,
		},
		"a reserved name": {text: small("team-a", "aibrix-reserved-x", "llama"), reason: "names like aibrix-reserved-* are reserved (--reserved-names); use another name", fails: true},
		"default Gateways too": {
			text:   strings.Replace(small("team-a", "x", "llama"), "  rules:", "  useDefaultGateways: All\n  rules:", 1),
			reason: "spec.useDefaultGateways: means other Gateways in another namespace",
		},
		"the same Gateway twice": {
			text:   strings.Replace(small("team-a", "x", "llama"), "  rules:", "  - name: aibrix-eg\n  rules:", 1),
			facts:  "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: aibrix-eg, namespace: aibrix-system}\nspec: {gatewayClassName: x}\n",
			reason: "spec.parentRefs: two of them are the same; remove one",
		},
		"the name of another": {
			text: small("team-a", "x", "llama") + "---\n" + small("team-b", "x", "llama"),
			want: smallFixed("x", "team-a", "llama") + "---\n" + small("team-b", "x", "llama"), reason: "which is the copy of team-a/x; use another name", fails: true,
		},
		"a copy is nobody else's": {
			text:   small("aibrix-system", "x", "llama"),
			facts:  "---\n" + strings.Replace(smallFixed("x", "team-a", "llama"), "  name: x\n", "  name: x\n  labels: {app.kubernetes.io/managed-by: routesteward}\n  annotations: {routesteward.dev/source: team-a/x}\n", 1),
			reason: "this HTTPRoute is the relocated copy of team-a/x and is not changed by hand; change its source", fails: true,
		},
		"relocated in the cluster": {
			text:   small("team-a", "x", "llama"),
			facts:  "---\n" + wasParked + "---\n" + strings.Replace(smallFixed("x", "team-a", "llama"), "  name: x\n", "  name: x\n  labels: {app.kubernetes.io/managed-by: routesteward}\n  annotations: {routesteward.dev/source: team-a/x}\n", 1),
			reason: "its relocated copy aibrix-system/x is in the cluster, and nobody else may write that; delete the route there before its manifest is moved",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			facts := writeFile(t, filepath.Join(dir, "facts.yaml"), labelled+"allow\n---\n"+strings.ReplaceAll(labelled, "team-a", "team-b")+"allow\n"+test.facts)
			file := writeFile(t, filepath.Join(dir, "route.yaml"), test.text)
			o := optionsFor(t, []string{file}, func(c *policy.Config) {
				c.Outside = policy.OutsideRewrite
				if test.change != nil {
					test.change(c)
				}
			})
			o.Facts = []string{facts}
			fixes, err := Fix(t.Context(), o)
			require.NoError(t, err)
			require.Empty(t, fixes.Report.Problems)
			require.NoError(t, fixes.Write(nil))
			got, err := os.ReadFile(file)
			require.NoError(t, err)
			want := test.want
			if want == "" {
				want = test.text
			}
			if test.reason == "" {
				require.Empty(t, fixes.Unfixed)
			} else {
				require.Len(t, fixes.Unfixed, 1)
				require.Contains(t, fixes.Unfixed[0].Reason, test.reason)
				require.Equal(t, test.fails, fixes.Unfixed[0].Fails)
			}
			require.Equal(t, want, string(got))
			again, err := Fix(t.Context(), o)
			require.NoError(t, err)
			require.Empty(t, again.Files, "the second time")
		})
	}
}

// TestFixMovesAllManifestsOfARoute: overlays have a manifest each of the same route, which move together or not at all.
func TestFixMovesAllManifestsOfARoute(t *testing.T) {
	mixed := strings.Replace(small("team-a", "x", "llama"), "  rules:", "  - {name: theirs, namespace: team-b}\n  rules:", 1)
	const ownReason = "spec.parentRefs[1]: Gateway team-b/theirs may not take routes"
	for name, test := range map[string]struct {
		manifests []string
		want      []string // empty: unchanged
		reasons   []string
		change    func(*policy.Config)
	}{
		"all move": {
			manifests: []string{small("team-a", "x", "llama"), small("team-a", "x", "qwen")},
			want:      []string{smallFixed("x", "team-a", "llama"), smallFixed("x", "team-a", "qwen")},
		},
		"the last one cannot": {
			manifests: []string{small("team-a", "x", "llama"), mixed},
			reasons:   []string{"its other manifest at 1.yaml:1 cannot be moved, and they move together; fix that one or remove it", ownReason},
		},
		"the first one cannot": {
			manifests: []string{mixed, small("team-a", "x", "llama")},
			reasons:   []string{ownReason, "its other manifest at 0.yaml:1 cannot be moved"},
		},
		"nor where routes are relocated, whose copy would have that name": {
			manifests: []string{small("team-a", "x", "llama"), mixed},
			reasons:   []string{"its other manifest at 1.yaml:1 cannot be moved", ownReason},
			change:    func(c *policy.Config) { c.Outside = policy.OutsideRewrite },
		},
		"a name that stays free is the next one's": {
			manifests: []string{small("team-a", "x", "llama"), small("team-b", "x", "llama"), mixed},
			want:      []string{small("team-a", "x", "llama"), smallFixed("x", "team-b", "llama"), mixed},
			reasons:   []string{"its other manifest at 2.yaml:1", ownReason},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			facts := writeFile(t, "facts.yaml", labelled+"allow\n---\n"+strings.ReplaceAll(labelled, "team-a", "team-b")+"allow\n")
			var files []string
			for i, manifest := range test.manifests {
				files = append(files, writeFile(t, fmt.Sprintf("%d.yaml", i), manifest))
			}
			o := optionsFor(t, files)
			if test.change != nil {
				o = optionsFor(t, files, test.change)
			}
			o.Facts = []string{facts}
			fixes, err := Fix(t.Context(), o)
			require.NoError(t, err)
			require.NoError(t, fixes.Write(nil))
			if test.want == nil {
				test.want = test.manifests
			}
			for i, file := range files {
				text, err := os.ReadFile(file)
				require.NoError(t, err)
				require.Equal(t, test.want[i], string(text))
			}
			require.Len(t, fixes.Unfixed, len(test.reasons))
			for i, reason := range test.reasons {
				require.Contains(t, fixes.Unfixed[i].Reason, reason)
			}
		})
	}
}
