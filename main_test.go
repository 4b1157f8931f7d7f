package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/policy/options"
	"github.com/routewarden/routewarden/policy/reference"
	"github.com/routewarden/routewarden/webhook"
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
			want: "routewarden: unknown command \"srve\"; did you mean serve?\nRun 'routewarden --help' for usage.\n",
		},
		"unknown command like no other": {
			args: []string{"administrate"},
			want: "routewarden: unknown command \"administrate\"\nRun 'routewarden --help' for usage.\n",
		},
		"help on an unknown command": {
			args: []string{"help", "srve"},
			want: "routewarden: unknown command \"srve\"; did you mean serve?\nRun 'routewarden --help' for usage.\n",
		},
		"unknown flag": {
			args: []string{"serve", "--sytem-namespace=a"},
			want: "routewarden serve: unknown flag: --sytem-namespace; did you mean --system-namespace?\nRun 'routewarden serve --help' for usage.\n",
		},
		"unknown flag of the program": {
			args: []string{"--verbosity"},
			want: "routewarden: unknown flag: --verbosity\nRun 'routewarden --help' for usage.\n",
		},
		"unknown shorthand": {
			args: []string{"config", "-x"},
			want: "routewarden config: unknown shorthand flag: 'x' in -x\nRun 'routewarden config --help' for usage.\n",
		},
		"flag without its value": {
			args: []string{"serve", "--outside"},
			want: "routewarden serve: flag needs an argument: --outside\nRun 'routewarden serve --help' for usage.\n",
		},
		"argument that serve does not take": {
			args: []string{"serve", "now"},
			want: "routewarden serve: unexpected argument \"now\"\nRun 'routewarden serve --help' for usage.\n",
		},
		"argument that config does not take": {
			args: []string{"config", "view"},
			want: "routewarden config: unexpected argument \"view\"\nRun 'routewarden config --help' for usage.\n",
		},
		"one rule too many": {
			args: []string{"rules", "a", "b"},
			want: "routewarden rules: unexpected argument \"b\"\nRun 'routewarden rules --help' for usage.\n",
		},
		"unknown rule": {
			args: []string{"rules", "nope"},
			want: "routewarden rules: unknown rule \"nope\"; the rules are:\n  " + strings.Join(ruleIDs(reference.Rules()), "\n  ") + "\nRun 'routewarden rules --help' for usage.\n",
		},
		"unknown output": {
			args: []string{"version", "-o", "yaml"},
			want: "routewarden version: invalid argument \"yaml\" for \"-o, --output\" flag: want one of text, json\nRun 'routewarden version --help' for usage.\n",
		},
		"unknown shell": {
			args: []string{"completion", "zhs"},
			want: "routewarden completion: unknown command \"zhs\"; did you mean zsh?\nRun 'routewarden completion --help' for usage.\n",
		},
		"argument after the shell": {
			args: []string{"completion", "bash", "now"},
			want: "routewarden completion bash: unexpected argument \"now\"\nRun 'routewarden completion bash --help' for usage.\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, outcome{code: 2, stderr: test.want}, runWith(nil, test.args...))
		})
	}
}

func TestHelp(t *testing.T) {
	want := outcome{stdout: `Routewarden decides at admission whether HTTPRoutes and GRPCRoutes on a shared
Gateway live in the right namespace and may reach their backends, says why not,
and keeps the ReferenceGrants that they need.

Usage:
  routewarden COMMAND [flags]

Commands:
  check        Say of manifests what admission would say, without a cluster
  completion   Generate the autocompletion script for the specified shell
  config       Show each setting's value, where it comes from and what it shadows
  facts        Write what check has to know of a cluster, for --facts
  help         Explain a command
  rules        List the rules, or explain one
  serve        Serve the admission webhook and keep the ReferenceGrants
  version      Show the version

Flags:
  -h, --help
        help for routewarden
`}
	require.Equal(t, want, runWith(nil))
	require.Equal(t, want, runWith(nil, "--help"))
	require.Equal(t, want, runWith(nil, "help"))
}

func TestHelpOnACommand(t *testing.T) {
	want := outcome{stdout: `Rules lists what routewarden looks at. With a rule's ID, as messages, logs and
metrics name it, it explains the rule: why it is there, what to do about a
finding, a good and a bad example.

Usage:
  routewarden rules [ID] [flags]

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

func TestConfig(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("policy.yaml", []byte("outside: warn\nkinds: [HTTPRoute]\nmetrics-bind-address: 0\n"), 0o600))
	environ := []string{"ROUTEWARDEN_CONFIG=policy.yaml", "ROUTEWARDEN_OUTSIDE=allow", "ROUTEWARDEN_GRANT_GRACE=2m"}
	require.Equal(t, outcome{stdout: `FLAG                          VALUE                SOURCE
--config                      policy.yaml          environment variable ROUTEWARDEN_CONFIG
--system-namespace            aibrix-system        default
--scope                       governed             default
--kinds                       HTTPRoute            file policy.yaml:2
--outside                     reject               command line, shadows environment variable ROUTEWARDEN_OUTSIDE (allow), file policy.yaml:1 (warn)
--grants                      inject               default
--grant-consent               requester            default
--grant-scope                 service              default
--gateway-classes             ""                   default
--exempt-namespaces           ""                   default
--exempt-users                ""                   default
--exempt-groups               ""                   default
--kubeconfig                  ""                   default
--namespace                   routewarden-system   default
--webhook-bind-address        :9443                default
--metrics-bind-address        0                    file policy.yaml:3
--health-probe-bind-address   :8081                default
--leader-elect                true                 default
--webhook-configuration       routewarden          default
--webhook-service             routewarden          default
--webhook-url                 ""                   default
--certs                       embedded             default
--cert-dir                    ""                   default
--ca-secret                   routewarden-ca       default
--ca-duration                 8760h                default
--leaf-duration               168h                 default
--grant-grace                 2m                   environment variable ROUTEWARDEN_GRANT_GRACE
--shutdown-delay              5s                   default
--kube-api-qps                200                  default
--kube-api-burst              400                  default
--log-format                  json                 default
--log-level                   info                 default
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
		`ROUTEWARDEN_GRANT: unknown environment variable; did you mean ROUTEWARDEN_GRANTS?`,
		`--kube-api-burst: Invalid value: "many": want a whole number (from the command line)`,
		`--outside: Unsupported value: "rejct": supported values: "reject", "warn", "allow" (from environment variable ROUTEWARDEN_OUTSIDE)`,
		`--cert-dir: Required value: --certs=files needs the directory of tls.crt, tls.key and ca.crt`,
	}
	environ := []string{"ROUTEWARDEN_OUTSIDE=rejct", "ROUTEWARDEN_GRANT=off"}
	args := []string{"--certs=files", "--kube-api-burst=many"}
	stderr := "routewarden config: the configuration is not valid:\n  " + strings.Join(faults, "\n  ") + "\n"

	text := runWith(environ, append([]string{"config"}, args...)...)
	require.Equal(t, 2, text.code)
	require.Equal(t, stderr, text.stderr)
	require.Regexp(t, `(?m)^--outside +rejct +environment variable ROUTEWARDEN_OUTSIDE$`, text.stdout)
	require.Regexp(t, `(?m)^--kube-api-burst +many +command line$`, text.stdout)

	machine := runWith(environ, append([]string{"config", "-o", "json"}, args...)...)
	require.Equal(t, 2, machine.code)
	require.Equal(t, stderr, machine.stderr)
	var shown struct {
		Settings options.Settings
		Errors   []string
	}
	require.NoError(t, json.Unmarshal([]byte(machine.stdout), &shown))
	require.Equal(t, faults, shown.Errors)
	require.Len(t, shown.Settings, len(serveSettings()))
}

func TestRelocationIsRefusedForNow(t *testing.T) {
	require.Equal(t, outcome{2, "", "routewarden serve: the configuration is not valid:\n" +
		"  --outside: Invalid value: \"rewrite\": relocating routes is not part of this version; use reject, warn or allow (from the command line)\n"},
		runWith(nil, "serve", "--outside=rewrite"))
}

func TestServe(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("policy.yaml", []byte("outside: warn\nnamespace: own\n"), 0o600))
	var pol policy.Config
	var opts webhook.Options
	p := &program{
		environ: []string{"ROUTEWARDEN_CONFIG=policy.yaml", "ROUTEWARDEN_OUTSIDE=allow"},
		serve: func(ctx context.Context, o webhook.Options, c policy.Config) error {
			opts, pol = o, c
			logr.FromContextOrDiscard(ctx).Info("served")
			return nil
		},
	}
	var stdout, stderr bytes.Buffer
	code := p.run(context.Background(), []string{"serve", "--webhook-url=https://127.0.0.1:9443"}, nil, &stdout, &stderr)
	require.Zero(t, code, stderr.String())
	require.Empty(t, stdout.String())

	wantPolicy, wantOptions := policy.DefaultConfig(), webhook.DefaultOptions()
	wantPolicy.Outside = policy.OutsideAllow
	wantOptions.Namespace, wantOptions.WebhookURL = "own", "https://127.0.0.1:9443"
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
	settings := lines[0]["settings"].(map[string]any)
	require.Len(t, settings, len(serveSettings()))
	require.Equal(t, map[string]any{"value": "own", "source": "file policy.yaml:2"}, settings["namespace"])
	require.Equal(t, map[string]any{"value": "governed", "source": "default"}, settings["scope"])
	require.Equal(t, map[string]any{
		"level": "INFO", "msg": "a setting shadows another", "flag": "--outside", "value": "allow",
		"source": "environment variable ROUTEWARDEN_OUTSIDE", "shadows": "file policy.yaml:1 (warn)",
	}, lines[1])
	require.Equal(t, map[string]any{"level": "INFO", "msg": "served"}, lines[2])
}

func TestServeFails(t *testing.T) {
	p := &program{serve: func(context.Context, webhook.Options, policy.Config) error { return errors.New("no API server") }}
	var stdout, stderr bytes.Buffer
	require.Equal(t, 2, p.run(context.Background(), []string{"serve", "--log-level=error"}, nil, &stdout, &stderr))
	require.Equal(t, "routewarden serve: no API server\n", stderr.String())
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
	require.True(t, strings.HasPrefix(got.stdout, "routewarden v1.2.3 "), got.stdout)

	var built build
	require.NoError(t, json.Unmarshal([]byte(runWith(nil, "version", "-o", "json").stdout), &built))
	require.Equal(t, "v1.2.3", built.Version)
	require.Equal(t, runtime.Version(), built.GoVersion)
	require.Equal(t, runtime.GOOS+"/"+runtime.GOARCH, built.Platform)

	version = ""
	require.NotEmpty(t, currentBuild().Version)
	require.Equal(t, "routewarden devel (abc) go1 linux/amd64", build{"devel", "abc", "go1", "linux/amd64"}.String())
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		got := runWith(nil, "completion", shell)
		require.Zero(t, got.code, shell)
		require.Contains(t, got.stdout, "routewarden", shell)
		require.Empty(t, got.stderr, shell)
	}
	require.Equal(t, "embedded\nfiles\n:4\n", runWith(nil, "__complete", "serve", "--certs", "").stdout)
	require.Equal(t, strings.Join(ruleIDs(reference.Rules()), "\n")+"\n:4\n", runWith(nil, "__complete", "rules", "").stdout)
}

// serveSettings are the settings that serve and config take.
func serveSettings() []string {
	c := newConfiguration()
	fs := newFlagSet()
	c.policyGroup().add(fs)
	c.serverGroup().add(fs)
	return options.Names(fs)
}

// A test of the wiring: a setting in two commands' flags has one meaning.
func TestSettingsHaveOneMeaningEach(t *testing.T) {
	c := newConfiguration()
	meanings := map[string]string{}
	for _, group := range []settingsGroup{c.policyGroup(), c.serverGroup(), c.checkGroup()} {
		fs := newFlagSet()
		group.add(fs)
		fs.VisitAll(func(flag *pflag.Flag) {
			if meaning, ok := meanings[flag.Name]; ok {
				require.Equal(t, meaning, flag.Usage, flag.Name)
			}
			meanings[flag.Name] = flag.Usage
		})
	}
	require.Len(t, knownSettings(), len(meanings))
	for _, flag := range []string{"output", "help", "filename", "recursive", "color", "baseline", "fix", "dry-run"} {
		require.NotContains(t, meanings, flag, "--%s is no setting: environment and file do not carry it", flag)
	}
}
