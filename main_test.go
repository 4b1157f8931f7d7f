package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/manifests"
	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/cli/command"
	"github.com/routesteward/routesteward/policy/reference"
	"github.com/routesteward/routesteward/policy/settings"
	"github.com/routesteward/routesteward/policy/trace"
	"github.com/routesteward/routesteward/webhook"
)

// outcome is what a command leaves behind.
type outcome struct {
	code           int
	stdout, stderr string
}

func runWith(environ []string, args ...string) outcome {
	var stdout, stderr bytes.Buffer
	code := run(context.Background(), args, environ, strings.NewReader(""), &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

func TestUsageErrors(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"unknown command": {
			args: []string{"srve"},
			want: "routesteward: unknown command \"srve\"; did you mean serve?\nRun 'routesteward --help' for usage.\n",
		},
		"unknown command like no other": {
			args: []string{"administrate"},
			want: "routesteward: unknown command \"administrate\"\nRun 'routesteward --help' for usage.\n",
		},
		"help on an unknown command": {
			args: []string{"help", "srve"},
			want: "routesteward: unknown command \"srve\"; did you mean serve?\nRun 'routesteward --help' for usage.\n",
		},
		"unknown flag": {
			args: []string{"serve", "--sytem-namespace=a"},
			want: "routesteward serve: unknown flag: --sytem-namespace; did you mean --system-namespace?\nRun 'routesteward serve --help' for usage.\n",
		},
		"unknown flag of the program": {
			args: []string{"--verbosity"},
			want: "routesteward: unknown flag: --verbosity\nRun 'routesteward --help' for usage.\n",
		},
		"unknown shorthand": {
			args: []string{"config", "-x"},
			want: "routesteward config: unknown shorthand flag: 'x' in -x\nRun 'routesteward config --help' for usage.\n",
		},
		"flag without its value": {
			args: []string{"serve", "--outside"},
			want: "routesteward serve: flag needs an argument: --outside\nRun 'routesteward serve --help' for usage.\n",
		},
		"argument that serve does not take": {
			args: []string{"serve", "now"},
			want: "routesteward serve: unexpected argument \"now\"\nRun 'routesteward serve --help' for usage.\n",
		},
		"argument that config does not take": {
			args: []string{"config", "view"},
			want: "routesteward config: unexpected argument \"view\"\nRun 'routesteward config --help' for usage.\n",
		},
		"one rule too many": {
			args: []string{"rules", "a", "b"},
			want: "routesteward rules: unexpected argument \"b\"\nRun 'routesteward rules --help' for usage.\n",
		},
		"unknown rule": {
			args: []string{"rules", "nope"},
			want: "routesteward rules: unknown rule \"nope\"; the rules are:\n  " + strings.Join(ruleIDs(), "\n  ") + "\nRun 'routesteward rules --help' for usage.\n",
		},
		"unknown output": {
			args: []string{"version", "-o", "yaml"},
			want: "routesteward version: invalid argument \"yaml\" for \"-o, --output\" flag: want one of text, json\nRun 'routesteward version --help' for usage.\n",
		},
		"unknown shell": {
			args: []string{"completion", "zhs"},
			want: "routesteward completion: unknown command \"zhs\"; did you mean zsh?\nRun 'routesteward completion --help' for usage.\n",
		},
		"argument after the shell": {
			args: []string{"completion", "bash", "now"},
			want: "routesteward completion bash: unexpected argument \"now\"\nRun 'routesteward completion bash --help' for usage.\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, outcome{code: 2, stderr: test.want}, runWith(nil, test.args...))
		})
	}
}

func TestHelp(t *testing.T) {
	want := outcome{stdout: `Routesteward decides at admission whether HTTPRoutes and GRPCRoutes on a shared
Gateway live in the right namespace and may reach their backends, says why not,
and keeps the ReferenceGrants that they need.

Usage:
  routesteward COMMAND [flags]

Commands:
  audit        Explain why the routes in a cluster do or do not work
  check        Show what admission would say about manifests, without a cluster
  completion   Generate the autocompletion script for the specified shell
  config       Show each setting's value, where it comes from and what it shadows
  facts        Write what check, audit and trace have to know of a cluster, for --facts
  help         Explain a command
  manifests    Print what to apply: the installation, or a policy for when it is down
  rules        List the rules, or explain one
  serve        Serve the admission webhook, keep ReferenceGrants and relocated routes
  trace        Send a request through the gateway and show which way it took
  unpark       Give parked routes their parentRefs back
  version      Show the version

Flags:
  -h, --help
        help for routesteward
`}
	require.Equal(t, want, runWith(nil))
	require.Equal(t, want, runWith(nil, "--help"))
	require.Equal(t, want, runWith(nil, "help"))
}

func TestHelpOnACommand(t *testing.T) {
	want := outcome{stdout: `Rules lists what routesteward looks at. With a rule's ID, as messages, logs and
metrics name it, it explains the rule: why it is there, what to do about a
finding, a good and a bad example.

Usage:
  routesteward rules [ID] [flags]

Flags:
  -h, --help
        help for rules
  -o, --output text|json|markdown
        format of the output (default text)
`}
	require.Equal(t, want, runWith(nil, "rules", "--help"))
	require.Equal(t, want, runWith(nil, "help", "rules"))
}

func TestHelpOnServeExplainsEverySetting(t *testing.T) {
	got := runWith(nil, "serve", "--help")
	require.Zero(t, got.code)
	for _, flag := range serveSettings() {
		require.Contains(t, got.stdout, "\n  --"+flag, flag)
	}
	for line := range strings.Lines(got.stdout) {
		require.LessOrEqual(t, len(strings.TrimRight(line, "\n")), reference.Width, line)
	}
	require.Contains(t, got.stdout, "\nPolicy:\n  --system-namespace NAMESPACE\n")
	require.Contains(t, got.stdout, "\nServer:\n  --kubeconfig FILE\n")
	require.Contains(t, got.stdout, "UNSAFE: with any,")
	require.Contains(t, got.stdout, "  --outside reject|rewrite|warn|allow\n")
}

func TestManifests(t *testing.T) {
	t.Chdir(t.TempDir())
	require.Equal(t, outcome{stdout: manifests.Install}, runWith(nil, "manifests"))
	require.Equal(t, outcome{stdout: manifests.InstallCertManager}, runWith(nil, "manifests", "--certs=cert-manager"))

	config := policy.DefaultConfig()
	config.ExemptGroups, config.Outside = []string{"platform"}, policy.OutsideRewrite
	config.Self = "system:serviceaccount:elsewhere:routesteward"
	pol, err := policy.New(config)
	require.NoError(t, err)
	wantPolicy, wantBinding, err := pol.Fallback()
	require.NoError(t, err)
	got := runWith([]string{"ROUTESTEWARD_OUTSIDE=rewrite"}, "manifests", "--policy=vap", "--exempt-groups=platform", "--namespace=elsewhere")
	require.Zero(t, got.code, got.stderr)
	documents := strings.Split(got.stdout, "\n---\n")
	require.Len(t, documents, 3)
	require.Contains(t, documents[0], "\n#   --outside=\"rewrite\"\n")
	for line := range strings.Lines(documents[0]) {
		require.True(t, strings.HasPrefix(line, "# "), line)
	}
	var vap admissionregistrationv1.ValidatingAdmissionPolicy
	var binding admissionregistrationv1.ValidatingAdmissionPolicyBinding
	require.NoError(t, yaml.UnmarshalStrict([]byte(documents[1]), &vap))
	require.NoError(t, yaml.UnmarshalStrict([]byte(documents[2]), &binding))
	require.Equal(t, *wantPolicy, vap)
	require.Equal(t, *wantBinding, binding)
	require.NotContains(t, got.stdout, "status")

	const help = "\nRun 'routesteward manifests --help' for usage.\n"
	for want, args := range map[string][]string{
		"--outside is for --policy=vap; the installation has the default settings, and the chart changes them" + help:                           {"--outside=warn"},
		"--certs is for the installation, not for --policy" + help:                                                                              {"--policy=vap", "--certs=embedded"},
		`invalid argument "all" for "--policy" flag: want one of vap` + help:                                                                    {"--policy=all"},
		"--outside=allow admits every route outside namespace \"aibrix-system\", so a ValidatingAdmissionPolicy would have nothing to refuse\n": {"--policy=vap", "--outside=allow"},
		`unexpected argument "vap"` + help: {"vap"},
	} {
		require.Equal(t, outcome{2, "", "routesteward manifests: " + want}, runWith(nil, append([]string{"manifests"}, args...)...))
	}
}

func TestConfig(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("policy.yaml", []byte("outside: warn\nkinds: [HTTPRoute]\nmetrics-bind-address: 0\n"), 0o600))
	environ := []string{"ROUTESTEWARD_CONFIG=policy.yaml", "ROUTESTEWARD_OUTSIDE=allow", "ROUTESTEWARD_GRANT_GRACE=2m"}
	require.Equal(t, outcome{stdout: `FLAG                          VALUE                 SOURCE
--config                      policy.yaml           environment variable ROUTESTEWARD_CONFIG
--system-namespace            aibrix-system         default
--scope                       governed              default
--kinds                       HTTPRoute             file policy.yaml:2
--outside                     reject                command line, shadows environment variable ROUTESTEWARD_OUTSIDE (allow), file policy.yaml:1 (warn)
--grants                      inject                default
--grant-consent               requester             default
--grant-scope                 service               default
--relocated-name              same                  default
--reserved-names              aibrix-reserved-*     default
--gateway-classes             ""                    default
--exempt-namespaces           ""                    default
--exempt-users                ""                    default
--exempt-groups               ""                    default
--kubeconfig                  ""                    default
--namespace                   routesteward-system   default
--webhook-bind-address        :9443                 default
--metrics-bind-address        0                     file policy.yaml:3
--health-probe-bind-address   :8081                 default
--leader-elect                true                  default
--webhook-configuration       routesteward          default
--webhook-service             routesteward          default
--webhook-url                 ""                    default
--certs                       embedded              default
--cert-dir                    ""                    default
--ca-secret                   routesteward-ca       default
--ca-duration                 8760h                 default
--leaf-duration               168h                  default
--client-ca-file              ""                    default
--client-names                ""                    default
--grant-grace                 2m                    environment variable ROUTESTEWARD_GRANT_GRACE
--scan-interval               5m                    default
--shutdown-delay              5s                    default
--kube-api-qps                1000                  default
--kube-api-burst              2000                  default
--log-format                  json                  default
--log-level                   info                  default
`}, runWith(environ, "config", "--outside=reject"))
}

func TestConfigAsYAMLIsAConfigFile(t *testing.T) {
	t.Chdir(t.TempDir())
	first := runWith(nil, "config", "-o", "yaml", "--outside=warn", "--exempt-users=a,b", "--leader-elect=false", "--metrics-bind-address=0")
	require.Zero(t, first.code)
	require.True(t, strings.HasPrefix(first.stdout, "system-namespace: aibrix-system # default\nscope: governed # default\n"), first.stdout)
	require.NoError(t, os.WriteFile("policy.yaml", []byte(first.stdout), 0o600))
	second := runWith(nil, "config", "-o", "yaml", "--config=policy.yaml")
	require.Zero(t, second.code, second.stderr)
	require.Equal(t, withoutComments(first.stdout), withoutComments(second.stdout))
}

func withoutComments(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		value, _, _ := strings.Cut(line, " # ")
		lines = append(lines, value)
	}
	return strings.Join(lines, "\n")
}

func TestInvalidConfigIsShownWithEveryFault(t *testing.T) {
	faults := []string{
		`ROUTESTEWARD_GRANT: unknown environment variable; did you mean ROUTESTEWARD_GRANTS?`,
		`--kube-api-burst: Invalid value: "many": want a whole number (from the command line)`,
		`--outside: Unsupported value: "rejct": supported values: "reject", "rewrite", "warn", "allow" (from environment variable ROUTESTEWARD_OUTSIDE)`,
		`--cert-dir: Required value: --certs=files needs the directory of tls.crt, tls.key and ca.crt`,
	}
	environ := []string{"ROUTESTEWARD_OUTSIDE=rejct", "ROUTESTEWARD_GRANT=off"}
	args := []string{"--certs=files", "--kube-api-burst=many"}
	stderr := "routesteward config: the configuration is not valid:\n  " + strings.Join(faults, "\n  ") + "\n"

	text := runWith(environ, append([]string{"config"}, args...)...)
	require.Equal(t, 2, text.code)
	require.Equal(t, stderr, text.stderr)
	require.Regexp(t, `(?m)^--outside +rejct +environment variable ROUTESTEWARD_OUTSIDE$`, text.stdout)
	require.Regexp(t, `(?m)^--kube-api-burst +many +command line$`, text.stdout)

	machine := runWith(environ, append([]string{"config", "-o", "json"}, args...)...)
	require.Equal(t, 2, machine.code)
	require.Equal(t, stderr, machine.stderr)
	var shown struct {
		Settings settings.Settings
		Errors   []string
	}
	require.NoError(t, json.Unmarshal([]byte(machine.stdout), &shown))
	require.Equal(t, faults, shown.Errors)
	require.Len(t, shown.Settings, len(serveSettings()))
}

func TestServe(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("policy.yaml", []byte("outside: warn\nnamespace: own\n"), 0o600))
	var pol policy.Config
	var opts webhook.Options
	p := newProgram([]string{"ROUTESTEWARD_CONFIG=policy.yaml", "ROUTESTEWARD_OUTSIDE=allow"})
	root := rootCommand(p, func(ctx context.Context, o webhook.Options, c policy.Config) error {
		opts, pol = o, c
		logr.FromContextOrDiscard(ctx).Info("served")
		return nil
	})
	var stdout, stderr bytes.Buffer
	code := p.Run(context.Background(), root, []string{"serve", "--webhook-url=https://127.0.0.1:9443"}, nil, &stdout, &stderr)
	require.Zero(t, code, stderr.String())
	require.Empty(t, stdout.String())

	wantPolicy, wantOptions := policy.DefaultConfig(), webhook.DefaultOptions()
	wantPolicy.Outside = policy.OutsideAllow
	wantOptions.Namespace, wantOptions.WebhookURL, wantOptions.Version = "own", "https://127.0.0.1:9443", newProgram(nil).Build().Version
	require.Equal(t, wantPolicy, pol)
	require.Equal(t, wantOptions, opts)

	var lines []map[string]any
	for line := range bytes.Lines(stderr.Bytes()) {
		var decoded map[string]any
		require.NoError(t, json.Unmarshal(line, &decoded), string(line))
		delete(decoded, "time")
		lines = append(lines, decoded)
	}
	require.Len(t, lines, 3)
	require.Equal(t, "starting", lines[0]["msg"])
	resolved := lines[0]["settings"].(map[string]any)
	require.Len(t, resolved, len(serveSettings()))
	require.Equal(t, map[string]any{"value": "own", "source": "file policy.yaml:2"}, resolved["namespace"])
	require.Equal(t, map[string]any{"value": "governed", "source": "default"}, resolved["scope"])
	require.Equal(t, map[string]any{
		"level": "INFO", "msg": "a setting shadows another", "flag": "--outside", "value": "allow",
		"source": "environment variable ROUTESTEWARD_OUTSIDE", "shadows": "file policy.yaml:1 (warn)",
	}, lines[1])
	require.Equal(t, map[string]any{"level": "INFO", "msg": "served"}, lines[2])
}

func TestServeFails(t *testing.T) {
	p := newProgram(nil)
	root := rootCommand(p, func(context.Context, webhook.Options, policy.Config) error { return errors.New("no API server") })
	var stdout, stderr bytes.Buffer
	require.Equal(t, 2, p.Run(context.Background(), root, []string{"serve", "--log-level=error"}, nil, &stdout, &stderr))
	require.Equal(t, "routesteward serve: no API server\n", stderr.String())
}

func TestRules(t *testing.T) {
	reading, err := os.ReadFile(filepath.Join("policy", "RULES.md"))
	require.NoError(t, err)
	require.Equal(t, outcome{stdout: string(reading)}, runWith(nil, "rules", "-o", "markdown"), "run: go generate .")
	require.Equal(t, outcome{stdout: reference.RulesText(reference.Rules())}, runWith(nil, "rules"))

	got := runWith(nil, "rules", "-o", "json")
	var rules []reference.Rule
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &rules))
	require.Equal(t, reference.Rules(), rules)
}

func TestOneRule(t *testing.T) {
	want := reference.Rules()[1]
	require.Equal(t, outcome{stdout: want.Text()}, runWith(nil, "rules", want.ID))
	require.Equal(t, outcome{stdout: want.Markdown()}, runWith(nil, "rules", want.ID, "-o", "markdown"))
	var rule reference.Rule
	require.NoError(t, json.Unmarshal([]byte(runWith(nil, "rules", want.ID, "--output=json").stdout), &rule))
	require.Equal(t, want, rule)
}

func TestVersion(t *testing.T) {
	version = "v1.2.3"
	t.Cleanup(func() { version = "" })
	got := runWith(nil, "version")
	require.Zero(t, got.code)
	require.True(t, strings.HasPrefix(got.stdout, "routesteward v1.2.3 "), got.stdout)

	var built command.Build
	require.NoError(t, json.Unmarshal([]byte(runWith(nil, "version", "-o", "json").stdout), &built))
	require.Equal(t, "v1.2.3", built.Version)
	require.Equal(t, runtime.Version(), built.GoVersion)
	require.Equal(t, runtime.GOOS+"/"+runtime.GOARCH, built.Platform)

	version = ""
	require.NotEmpty(t, newProgram(nil).Build().Version)
	require.Equal(t, "routesteward devel (abc) go1 linux/amd64", command.Build{Version: "devel", Commit: "abc", GoVersion: "go1", Platform: "linux/amd64"}.String())
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		got := runWith(nil, "completion", shell)
		require.Zero(t, got.code, shell)
		require.Contains(t, got.stdout, "routesteward", shell)
		require.Empty(t, got.stderr, shell)
	}
	require.Equal(t, "embedded\ncert-manager\nfiles\n:4\n", runWith(nil, "__complete", "serve", "--certs", "").stdout)
	require.Equal(t, strings.Join(ruleIDs(), "\n")+"\n:4\n", runWith(nil, "__complete", "rules", "").stdout)
}

func ruleIDs() (ids []string) {
	for _, rule := range reference.Rules() {
		ids = append(ids, rule.ID)
	}
	return ids
}

// serveSettings are the settings that serve and config take.
func serveSettings() []string {
	return command.Names(settingsGroups()[:2]...)
}

// A test of the wiring: a setting in two commands' flags has one meaning.
func TestSettingsHaveOneMeaningEach(t *testing.T) {
	meanings := map[string]string{}
	for _, group := range settingsGroups() {
		fs := command.NewFlagSet()
		group.Add(fs)
		fs.VisitAll(func(flag *pflag.Flag) {
			if meaning, ok := meanings[flag.Name]; ok {
				require.Equal(t, meaning, flag.Usage, flag.Name)
			}
			meanings[flag.Name] = flag.Usage
		})
	}
	require.Len(t, newProgram(nil).Settings, len(meanings))
	for _, flag := range []string{"output", "help", "filename", "recursive", "color", "baseline", "fix", "dry-run"} {
		require.NotContains(t, meanings, flag, "--%s is no setting: environment and file do not carry it", flag)
	}
}

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
			stderr: "routesteward check: not everything could be checked: <stdin>:2:1: not YAML: did not find expected node content\n"},
		"refused and no YAML": {stdin: outsideYAML + "---\nHTTPRoute: {\n---\nHTTPRoute: }\n", code: 2,
			stderr: "routesteward check: not everything could be checked: 2 problems, the first is <stdin>:12:1: not YAML: did not find expected node content\n"},
		"no YAML of another kind": {stdin: "kind: ConfigMap\ndata:\n\ta: b\n", code: 2,
			stderr: "routesteward check: not everything could be checked: <stdin>:3:1: not YAML: found character that cannot start any token (the line is indented with a tab; YAML wants spaces)\n"},
		"no input": {code: 2, stderr: "routesteward check: not everything could be checked: <stdin>: is empty, nothing was checked\n"},
		"no file":  {args: []string{"-f", "none.yaml"}, code: 2, stderr: "routesteward check: not everything could be checked: none.yaml: cannot be read: no such file or directory\n"},
		"unknown flag": {args: []string{"--strickt"}, code: 2,
			stderr: "routesteward check: unknown flag: --strickt; did you mean --strict?\nRun 'routesteward check --help' for usage.\n"},
		"unknown output": {args: []string{"-o", "yaml"}, code: 2,
			stderr: "routesteward check: invalid argument \"yaml\" for \"-o, --output\" flag: want one of text, json, sarif, junit, github\nRun 'routesteward check --help' for usage.\n"},
		"faulty settings": {args: []string{"--as-consented=A", "--outside=deny", "--strict=perhaps"}, code: 2,
			stderr: "routesteward check: the configuration is not valid:\n" +
				"  --strict: Invalid value: \"perhaps\": want true or false (from the command line)\n" +
				"  --as-consented: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?') (from the command line)\n" +
				"  --outside: Unsupported value: \"deny\": supported values: \"reject\", \"rewrite\", \"warn\", \"allow\" (from the command line)\n"},
		"dry run of nothing": {args: []string{"--dry-run"}, code: 2, stderr: "routesteward check: --dry-run is a part of --fix\nRun 'routesteward check --help' for usage.\n"},
		"fix with an output": {args: []string{"--fix", "-o", "json"}, code: 2,
			stderr: "routesteward check: --fix writes manifests, or a patch with --dry-run: it takes neither --output nor --baseline\nRun 'routesteward check --help' for usage.\n"},
		"no baseline":   {stdin: inside, args: []string{"--baseline=none.json"}, code: 2, stderr: "routesteward check: baseline none.json: cannot be read: no such file or directory\n"},
		"no kubeconfig": {stdin: inside, args: []string{"--cluster", "--kubeconfig=none"}, code: 2, stderr: "routesteward check: stat none: no such file or directory\n"},
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
	require.Equal(t, 1, checkWith(t, []string{"ROUTESTEWARD_OUTSIDE=reject", "ROUTESTEWARD_LOG_LEVEL=debug"}, outsideYAML, "--config="+file).code)
	require.Equal(t, 1, checkWith(t, []string{"ROUTESTEWARD_STRICT=true"}, crossingYAML).code)
	require.Equal(t, 2, checkWith(t, []string{"ROUTESTEWARD_STRICKT=true"}, crossingYAML).code)
	// And serve is not confused by what is check's.
	require.Zero(t, runWith([]string{"ROUTESTEWARD_STRICT=true", "ROUTESTEWARD_FACTS=a"}, "config").code)
}

// TestCheckWritesOnlyTheReport sees that what machines read is on stdout alone.
func TestCheckWritesOnlyTheReport(t *testing.T) {
	got := checkWith(t, nil, outsideYAML+"---\nHTTPRoute: {\n", "-o", "json")
	var report check.Report
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &report))
	require.Len(t, report.Results, 1)
	require.Len(t, report.Problems, 1)
	require.NotContains(t, checkWith(t, nil, outsideYAML).stdout, "\x1b", "no terminal, no colors")
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
	require.Contains(t, got.stdout, "\nExamples:\n  helm template . | routesteward check\n")
	for _, flag := range []string{"filename", "recursive", "output", "facts", "cluster", "as-consented", "strict", "advice", "baseline", "fix", "dry-run", "outside"} {
		require.Contains(t, got.stdout, " --"+flag, flag)
	}
}

func TestFactsNeedsACluster(t *testing.T) {
	require.Equal(t, outcome{2, "", "routesteward facts: stat none: no such file or directory\n"}, runWith(nil, "facts", "--kubeconfig=none"))
	require.Equal(t, 2, runWith(nil, "facts", "-o", "text").code)
}

func TestCheckUnderRewrite(t *testing.T) {
	facts := filepath.Join(t.TempDir(), "facts.yaml")
	require.NoError(t, os.WriteFile(facts, nil, 0o600))
	got := checkWith(t, []string{"ROUTESTEWARD_OUTSIDE=rewrite"}, outsideYAML, "--facts="+facts)
	require.Zero(t, got.code)
	require.Contains(t, got.stdout, "admission relocates the route: HTTPRoute aibrix-system/llama-router serves it")
	require.Zero(t, checkWith(t, nil, outsideYAML, "--outside=rewrite").code)
	require.Equal(t, 1, checkWith(t, nil, outsideYAML, "--outside=rewrite", "--strict").code)

	fixed := checkWith(t, nil, outsideYAML, "--outside=rewrite", "--relocated-name=qualified", "--fix")
	require.Equal(t, outcome{stdout: strings.NewReplacer("namespace: team-a", "namespace: aibrix-system", "name: llama-router", "name: team-a.llama-router").Replace(outsideYAML)}, fixed)
}

func TestUnparkUsage(t *testing.T) {
	const help = "Run 'routesteward unpark --help' for usage.\n"
	for want, args := range map[string][]string{
		"name routes, or give --all": {},
		"-f writes a manifest and asks no cluster: it takes neither routes nor what is about them": {"-f", "x.yaml", "--all"},
		"--all-namespaces is a part of --all, without --namespace":                                 {"-A", "llama"},
		`"tlsroute/x" names no route; want KIND/NAME, where KIND is one of HTTPRoute, GRPCRoute`:   {"tlsroute/x"},
	} {
		require.Equal(t, outcome{2, "", "routesteward unpark: " + want + "\n" + help}, runWith(nil, append([]string{"unpark"}, args...)...))
	}
	require.Contains(t, runWith(nil, "unpark", "llama", "--all").stderr, "name routes, or give --all")
	require.Contains(t, runWith(nil, "unpark", "-A", "--all", "-n", "x").stderr, "without --namespace")
	require.Equal(t, outcome{2, "", "routesteward unpark: stat none: no such file or directory\n"}, runWith(nil, "unpark", "llama", "--kubeconfig=none"))
	require.Contains(t, runWith([]string{"ROUTESTEWARD_SYSTEM_NAMESPACE=No"}, "unpark", "llama").stderr, "--system-namespace")
}

func TestUnparkFile(t *testing.T) {
	const parked = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama-router
  namespace: team-a
  annotations:
    routesteward.dev/parked-parent-refs: '[{"name":"aibrix-eg","namespace":"aibrix-system"}]'
`
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"unpark", "-f", "-"}, nil, strings.NewReader(parked), &stdout, &stderr)
	require.Equal(t, outcome{stdout: outsideYAML}, outcome{code, stdout.String(), stderr.String()})

	file := filepath.Join(t.TempDir(), "x.yaml")
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(parked, "[{", "[")), 0o600))
	require.Equal(t, outcome{2, "", "routesteward unpark: " + file + ": document 1: HTTPRoute team-a/llama-router: annotation routesteward.dev/parked-parent-refs is not a JSON list of parentRefs\n"}, runWith(nil, "unpark", "-f", file))
}

func TestTraceExitCodes(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	var status int
	var header http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); string(body) == "pod" {
			w.Header().Set("Target-Pod", "llama-0")
		}
		header = r.Header
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	facts := "--facts=" + filepath.Join("policy", "trace", "testdata", "cluster.yaml")
	body := filepath.Join(t.TempDir(), "body")
	require.NoError(t, os.WriteFile(body, []byte("pod"), 0o600))
	for name, test := range map[string]struct {
		status int
		args   []string
		code   int
		// stdout has these words, stderr is this.
		words, stderr string
	}{
		"routed":                      {200, []string{"--url", server.URL + "/docs", facts}, command.ExitClean, "ROUTED: answered, through HTTPRoute aibrix-system/docs", ""},
		"routed by a known pod":       {200, []string{"--url", server.URL + "/docs", facts, "-d", "@" + body, "-n3"}, command.ExitClean, "models/llama-0     3  100%", ""},
		"answered":                    {200, []string{"--url", server.URL + "/docs", "--cluster=false"}, command.ExitClean, "ANSWERED: ", ""},
		"without a cluster":           {200, []string{"--url", server.URL + "/docs"}, command.ExitClean, "not known The cluster could not be read: ", ""},
		"stopped":                     {404, []string{"--url", server.URL + "/nothing", facts}, command.ExitFindings, "STOPPED at the gateway: ", ""},
		"answered past the routes":    {200, []string{"--url", server.URL + "/nothing", facts}, command.ExitFindings, "UNEXPECTED: ", ""},
		"nobody there":                {0, []string{"--url", "http://127.0.0.1:1", facts}, command.ExitError, "UNREACHED: ", "routesteward trace: nobody took the request at 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused\n"},
		"no URL":                      {0, nil, command.ExitError, "", "routesteward trace: --url: name the gateway's address, such as http://10.0.0.1/v1/chat/completions\nRun 'routesteward trace --help' for usage.\n"},
		"no request":                  {0, []string{"--url", server.URL, "-n0"}, command.ExitError, "", "routesteward trace: --count: 0 is less than 1\nRun 'routesteward trace --help' for usage.\n"},
		"facts that are not there":    {0, []string{"--url", server.URL, "--facts=nowhere.yaml"}, command.ExitError, "", "routesteward trace: --facts: "},
		"a cluster that is not there": {0, []string{"--url", server.URL, "--cluster"}, command.ExitError, "", "routesteward trace: "},
	} {
		t.Run(name, func(t *testing.T) {
			status = test.status
			got := runWith(nil, append([]string{"trace"}, test.args...)...)
			require.Equal(t, test.code, got.code, got.stderr)
			require.Contains(t, got.stdout, test.words)
			if strings.HasSuffix(test.stderr, "\n") || test.stderr == "" {
				require.Equal(t, test.stderr, got.stderr)
			} else {
				require.Contains(t, got.stderr, test.stderr)
			}
		})
	}

	status = 200
	got := runWith([]string{"ROUTESTEWARD_SYSTEM_NAMESPACE=models"}, "trace", "--url", server.URL, facts, "-o", "json", "-H", "X-A: 1")
	require.Equal(t, command.ExitClean, got.code, got.stderr)
	var report trace.Report
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &report), "standard output is JSON and nothing else")
	require.Equal(t, []string{`There is no Gateway in namespace "models": which route should serve the request cannot be determined; name another one with --gateway or --system-namespace.`}, report.NotKnown)
	require.Equal(t, "1", header.Get("X-A"))
	require.Equal(t, report.Answers[0].IDs.Sent, header.Get("X-Request-Id"))
	require.Equal(t, report.Request.UserAgent, header.Get("User-Agent"))
}

// auditFacts are files of the audit's golden cases, as one snapshot.
func auditFacts(t *testing.T, paths ...string) string {
	t.Helper()
	var facts []string
	for _, path := range append([]string{"base.yaml"}, paths...) {
		facts = append(facts, filepath.Join("policy", "audit", "testdata", path))
	}
	return "--facts=" + strings.Join(facts, ",")
}

func TestAudit(t *testing.T) {
	refused, good, shadowed := auditFacts(t, "reference-not-permitted/confirmed-by-the-gateway.yaml"), auditFacts(t, "fine/permitted-by-a-grant.yaml"), auditFacts(t, "route-shadowed/same-owner.yaml")
	for name, test := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"an error":               {[]string{refused}, command.ExitFindings, "\n1 route of 1 audited, 0 in order: 1 error\n", ""},
		"nothing":                {[]string{good, "--strict"}, command.ExitClean, "\n1 route of 1 audited, 1 in order: nothing found\n", ""},
		"a warning":              {[]string{shadowed}, command.ExitClean, "1 warning\n", ""},
		"a warning, strict":      {[]string{shadowed, "--strict"}, command.ExitFindings, "1 warning\n", ""},
		"one route":              {[]string{refused, "aibrix-system/llama-router"}, command.ExitFindings, "listener http accepts it\n", ""},
		"details":                {[]string{good, "--details"}, command.ExitClean, "permitted by ReferenceGrant team-a/llama", ""},
		"no such route":          {[]string{good, "team-x"}, command.ExitError, "", `routesteward audit: no audited route is "team-x"`},
		"json":                   {[]string{refused, "-o", "json"}, command.ExitFindings, `"check": "reference-not-permitted"`, ""},
		"sarif":                  {[]string{refused, "-o", "sarif"}, command.ExitFindings, `"ruleId": "reference-not-permitted"`, ""},
		"html":                   {[]string{refused, "-o", "html"}, command.ExitFindings, "<!doctype html>", ""},
		"another system":         {[]string{refused, "--system-namespace=elsewhere"}, command.ExitClean, "0 routes of 1 audited", ""},
		"watching in JSON":       {[]string{refused, "--watch", "-o", "json"}, command.ExitError, "", "routesteward audit: --watch goes with -o text only\nRun 'routesteward audit --help' for usage.\n"},
		"too often":              {[]string{refused, "--watch", "--interval=1ms"}, command.ExitError, "", "routesteward audit: --interval must be at least 1s\n"},
		"facts that are not":     {[]string{"--facts=nowhere.yaml"}, command.ExitError, "", "routesteward audit: not everything could be checked: nowhere.yaml: cannot be read"},
		"no cluster":             {[]string{"--kubeconfig=nowhere"}, command.ExitError, "", "routesteward audit: "},
		"a policy that is wrong": {[]string{good, "--outside=never"}, command.ExitError, "", `routesteward audit: `},
	} {
		t.Run(name, func(t *testing.T) {
			got := runWith(nil, append([]string{"audit"}, test.args...)...)
			require.Equal(t, test.code, got.code, got.stdout+got.stderr)
			require.Contains(t, got.stdout, test.stdout)
			require.Contains(t, got.stderr, test.stderr)
			if test.code != command.ExitError {
				require.Empty(t, got.stderr)
			} else {
				require.Empty(t, got.stdout)
			}
		})
	}
	require.Equal(t, command.ExitFindings, runWith([]string{"ROUTESTEWARD_STRICT=true"}, "audit", shadowed).code)
}

// notices calls back for every write.
type notices struct {
	mutex sync.Mutex
	text  strings.Builder
	seen  func(string)
}

func (n *notices) Write(p []byte) (int, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	n.text.Write(p)
	n.seen(n.text.String())
	return len(p), nil
}

// TestAuditWatches changes the facts while they are watched, and ends the watch when the change was seen.
func TestAuditWatches(t *testing.T) {
	dir := t.TempDir()
	write := func(from string) {
		text, err := os.ReadFile(filepath.Join("policy", "audit", "testdata", from))
		require.NoError(t, err)
		// In one step, so that no look finds half of it.
		require.NoError(t, os.WriteFile(filepath.Join(dir, "new"), text, 0o600))
		require.NoError(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "facts.yaml")))
	}
	write("reference-not-permitted/confirmed-by-the-gateway.yaml")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stdout := &notices{}
	stdout.seen = func(text string) {
		switch {
		case strings.Contains(text, "nothing found"):
			cancel()
		case strings.Contains(text, "1 error"):
			write("fine/permitted-by-a-grant.yaml")
		}
	}
	var stderr bytes.Buffer
	code := run(ctx, []string{"audit", "--watch", "--interval=1s", "--facts=" + filepath.Join("policy", "audit", "testdata", "base.yaml") + "," + filepath.Join(dir, "facts.yaml")},
		nil, strings.NewReader(""), stdout, &stderr)
	require.Equal(t, command.ExitClean, code, "the last look counts")
	require.Contains(t, stdout.text.String(), "nothing found")
	require.GreaterOrEqual(t, strings.Count(stdout.text.String(), "--- 20"), 2)
	require.Empty(t, stderr.String())
}
