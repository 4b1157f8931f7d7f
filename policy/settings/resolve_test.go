package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/routesteward/routesteward/policy"
)

// bound are the options of a command besides the policy.
type bound struct {
	elect  bool
	grace  time.Duration
	qps    float32
	burst  int
	secret string
}

func (b *bound) Validate() field.ErrorList {
	if b.grace >= time.Second {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("--grant-grace"), b.grace.String(), "must be at least 1s")}
}

type command struct {
	cfg   policy.Config
	bound bound
	flags *pflag.FlagSet
}

func newCommand(t *testing.T, args ...string) *command {
	t.Helper()
	c := &command{cfg: policy.DefaultConfig(), flags: pflag.NewFlagSet("test", pflag.ContinueOnError)}
	c.flags.SortFlags = false
	AddFlags(c.flags, &c.cfg)
	c.flags.BoolVar(&c.bound.elect, "leader-elect", true, "")
	c.flags.DurationVar(&c.bound.grace, "grant-grace", 30*time.Minute, "")
	c.flags.Float32Var(&c.bound.qps, "kube-api-qps", 200, "")
	c.flags.IntVar(&c.bound.burst, "kube-api-burst", 400, "")
	c.flags.StringVar(&c.bound.secret, "ca-secret", "ca", "")
	Tolerate(c.flags)
	require.NoError(t, c.flags.Parse(args))
	return c
}

func (c *command) resolve(environ ...string) (Settings, error) {
	return Resolve(c.flags, []string{"fail-on"}, environ, &c.cfg, &c.bound)
}

func (s Settings) of(t *testing.T, flag string) Setting {
	t.Helper()
	for _, setting := range s {
		if setting.Flag == flag {
			return setting
		}
	}
	require.Fail(t, "no such setting", flag)
	return Setting{}
}

// inFolder makes a folder that holds policy.yaml the working directory, so that messages hold no changing path.
func inFolder(t *testing.T, content string) {
	t.Helper()
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("policy.yaml", []byte(content), 0o600))
}

func faults(t *testing.T, err error) []string {
	t.Helper()
	var invalid *InvalidError
	require.ErrorAs(t, err, &invalid)
	return invalid.Faults
}

func TestEveryFieldOfThePolicyHasAFlag(t *testing.T) {
	c := newCommand(t, "--system-namespace=a", "--scope=b", "--kinds=c", "--outside=d", "--grants=e", "--grant-consent=f",
		"--grant-scope=g", "--relocated-name=m", "--reserved-names=n,o", "--gateway-classes=h,i", "--exempt-namespaces=j", "--exempt-users=k", "--exempt-groups=l")
	require.Equal(t, policy.Config{
		SystemNamespace: "a", Scope: "b", Kinds: []policy.Kind{"c"}, Outside: "d", Grants: "e", GrantConsent: "f", GrantScope: "g",
		RelocatedName: "m", ReservedNames: []string{"n", "o"},
		GatewayClasses: []string{"h", "i"}, ExemptNamespaces: []string{"j"}, ExemptUsers: []string{"k"}, ExemptGroups: []string{"l"},
	}, c.cfg)
}

func TestDefaultsAreThoseOfTheConfig(t *testing.T) {
	c := newCommand(t)
	settings, err := c.resolve("PATH=/bin", "ROUTESTEWARDISH=1")
	require.NoError(t, err)
	require.Equal(t, policy.DefaultConfig(), c.cfg)
	for _, setting := range settings {
		require.Equal(t, Source{Kind: FromDefault}, setting.Source, setting.Flag)
		require.Equal(t, setting.Default, setting.Value, setting.Flag)
	}
	require.Equal(t, []string{"HTTPRoute", "GRPCRoute"}, settings.of(t, "kinds").Value)
	require.Equal(t, []string{}, settings.of(t, "exempt-users").Value)
	require.Equal(t, true, settings.of(t, "leader-elect").Value)
	require.Equal(t, "30m", settings.of(t, "grant-grace").Value)
	require.Equal(t, float64(200), settings.of(t, "kube-api-qps").Value)
	require.Equal(t, int64(400), settings.of(t, "kube-api-burst").Value)
}

func TestStrongestLayerWinsAndNamesWhatItShadows(t *testing.T) {
	flag, environment := Source{Kind: FromFlag}, Source{Kind: FromEnvironment, Name: "ROUTESTEWARD_OUTSIDE"}
	file := Source{Kind: FromFile, Name: "policy.yaml", Line: 2}
	for name, test := range map[string]struct {
		args, environ []string
		content       string
		want          policy.OutsideMode
		source        Source
		shadows       []Shadow
		text          string
	}{
		"nothing": {
			want: "reject", source: Source{Kind: FromDefault},
		},
		"file": {
			content: "\noutside: warn", want: "warn", source: file,
		},
		"environment": {
			environ: []string{"ROUTESTEWARD_OUTSIDE=allow"}, want: "allow", source: environment,
		},
		"flag": {
			args: []string{"--outside=allow"}, want: "allow", source: flag,
		},
		"environment over file": {
			environ: []string{"ROUTESTEWARD_OUTSIDE=allow"}, content: "\noutside: warn",
			want: "allow", source: environment,
			shadows: []Shadow{{file, "warn"}}, text: "file policy.yaml:2 (warn)",
		},
		"flag over file": {
			args: []string{"--outside=allow"}, content: "\noutside: warn",
			want: "allow", source: flag,
			shadows: []Shadow{{file, "warn"}}, text: "file policy.yaml:2 (warn)",
		},
		"flag over environment over file, each the same": {
			args: []string{"--outside=reject"}, environ: []string{"ROUTESTEWARD_OUTSIDE=reject"}, content: "\noutside: reject",
			want: "reject", source: flag,
			shadows: []Shadow{{environment, "reject"}, {file, "reject"}},
			text:    "environment variable ROUTESTEWARD_OUTSIDE (reject), file policy.yaml:2 (reject)",
		},
		"a shadowed value is not evaluated": {
			args: []string{"--outside=warn"}, environ: []string{"ROUTESTEWARD_OUTSIDE="},
			want: "warn", source: flag,
			shadows: []Shadow{{environment, ""}}, text: `environment variable ROUTESTEWARD_OUTSIDE ("")`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inFolder(t, test.content)
			c := newCommand(t, append(test.args, "--config=policy.yaml")...)
			settings, err := c.resolve(test.environ...)
			require.NoError(t, err)
			require.Equal(t, test.want, c.cfg.Outside)
			setting := settings.of(t, "outside")
			require.Equal(t, Setting{
				Flag: "outside", Value: string(test.want), Default: "reject", Source: test.source, Shadows: test.shadows,
			}, setting)
			require.Equal(t, test.text, setting.ShadowText())
		})
	}
}

func TestConfigFileIsItselfLayered(t *testing.T) {
	inFolder(t, "outside: warn")
	require.NoError(t, os.WriteFile("other.yaml", []byte("outside: allow"), 0o600))
	c := newCommand(t)
	settings, err := c.resolve("ROUTESTEWARD_CONFIG=policy.yaml")
	require.NoError(t, err)
	require.Equal(t, policy.OutsideWarn, c.cfg.Outside)
	require.Equal(t, Source{Kind: FromEnvironment, Name: "ROUTESTEWARD_CONFIG"}, settings.of(t, "config").Source)

	c = newCommand(t, "--config=other.yaml")
	settings, err = c.resolve("ROUTESTEWARD_CONFIG=policy.yaml")
	require.NoError(t, err)
	require.Equal(t, policy.OutsideAllow, c.cfg.Outside)
	require.Equal(t, "environment variable ROUTESTEWARD_CONFIG (policy.yaml)", settings.of(t, "config").ShadowText())
}

func TestEveryTypeFromEveryLayer(t *testing.T) {
	want := bound{elect: false, grace: 90 * time.Second, qps: 0.5, burst: 7, secret: "off"}
	users := []string{"a", "CN=b,O=c"}
	for name, test := range map[string]struct {
		args, environ []string
		content       string
	}{
		"flags": {args: []string{"--leader-elect=false", "--grant-grace=90s", "--kube-api-qps=0.5", "--kube-api-burst=7",
			"--ca-secret=off", "--exempt-users=a", `--exempt-users="CN=b,O=c"`, "--kinds=GRPCRoute", "--gateway-classes="}},
		"environment": {environ: []string{"ROUTESTEWARD_LEADER_ELECT=false", "ROUTESTEWARD_GRANT_GRACE=1m30s", "ROUTESTEWARD_KUBE_API_QPS=0.5",
			"ROUTESTEWARD_KUBE_API_BURST=7", "ROUTESTEWARD_CA_SECRET=off", `ROUTESTEWARD_EXEMPT_USERS=a, "CN=b,O=c"`, "ROUTESTEWARD_KINDS=GRPCRoute",
			"ROUTESTEWARD_GATEWAY_CLASSES="}},
		"file": {content: `
leader-elect: false
grant-grace: 90s
kube-api-qps: 0.5
kube-api-burst: 7
ca-secret: off
exempt-users: [a, "CN=b,O=c"]
kinds:
- GRPCRoute
gateway-classes: []
`},
	} {
		t.Run(name, func(t *testing.T) {
			inFolder(t, test.content)
			c := newCommand(t, append(test.args, "--config=policy.yaml")...)
			settings, err := c.resolve(test.environ...)
			require.NoError(t, err)
			require.Equal(t, want, c.bound)
			require.Equal(t, users, c.cfg.ExemptUsers)
			require.Equal(t, []policy.Kind{"GRPCRoute"}, c.cfg.Kinds)
			require.Empty(t, c.cfg.GatewayClasses)
			require.Equal(t, users, settings.of(t, "exempt-users").Value)
			require.Equal(t, false, settings.of(t, "leader-elect").Value)
			require.Equal(t, "1m30s", settings.of(t, "grant-grace").Value)
		})
	}
}

func TestEnvironmentFaults(t *testing.T) {
	for name, test := range map[string]struct {
		environ []string
		want    []string
	}{
		"unknown, with and without a suggestion, in order": {
			environ: []string{"ROUTESTEWARD_ZZZ=1", "ROUTESTEWARD_OUTSID=reject", "ROUTESTEWARD_exempt_users=a"},
			want: []string{
				"ROUTESTEWARD_OUTSID: unknown environment variable; did you mean ROUTESTEWARD_OUTSIDE?",
				"ROUTESTEWARD_ZZZ: unknown environment variable",
				"ROUTESTEWARD_exempt_users: unknown environment variable; did you mean ROUTESTEWARD_EXEMPT_USERS?",
			},
		},
		"port of no Service": {
			environ: []string{"ROUTESTEWARD_PORT=tcp://10.0.0.1:443"},
			want:    []string{"ROUTESTEWARD_PORT: unknown environment variable"},
		},
		"not a link, though a Service has the name": {
			environ: []string{"ROUTESTEWARD_SERVICE_HOST=10.0.0.1", "ROUTESTEWARD_SERVICE_HOSTS=1", "ROUTESTEWARD_GRANTSS=off"},
			want: []string{
				"ROUTESTEWARD_GRANTSS: unknown environment variable; did you mean ROUTESTEWARD_GRANTS?",
				"ROUTESTEWARD_SERVICE_HOSTS: unknown environment variable",
			},
		},
		"unparsable": {
			environ: []string{"ROUTESTEWARD_LEADER_ELECT=yes", "ROUTESTEWARD_GRANT_GRACE=", "ROUTESTEWARD_KUBE_API_QPS=x",
				"ROUTESTEWARD_KUBE_API_BURST=1.5", `ROUTESTEWARD_EXEMPT_USERS="a`, "ROUTESTEWARD_EXEMPT_GROUPS=a\nb"},
			want: []string{
				`--exempt-users: Invalid value: "\"a": want values separated by commas, on one line; a value that holds a comma goes in "quotes" (from environment variable ROUTESTEWARD_EXEMPT_USERS)`,
				`--exempt-groups: Invalid value: "a\nb": want values separated by commas, on one line; a value that holds a comma goes in "quotes" (from environment variable ROUTESTEWARD_EXEMPT_GROUPS)`,
				`--leader-elect: Invalid value: "yes": want true or false (from environment variable ROUTESTEWARD_LEADER_ELECT)`,
				`--grant-grace: Invalid value: "": want a duration such as 30s, 5m or 24h (from environment variable ROUTESTEWARD_GRANT_GRACE)`,
				`--kube-api-qps: Invalid value: "x": want a number (from environment variable ROUTESTEWARD_KUBE_API_QPS)`,
				`--kube-api-burst: Invalid value: "1.5": want a whole number (from environment variable ROUTESTEWARD_KUBE_API_BURST)`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newCommand(t).resolve(test.environ...)
			require.Equal(t, test.want, faults(t, err))
		})
	}
}

func TestVariablesAndKeysOfOthersAreNoFaults(t *testing.T) {
	inFolder(t, "fail-on: [any, shape]\n")
	c := newCommand(t, "--config=policy.yaml")
	settings, err := c.resolve("ROUTESTEWARD_FAIL_ON=deny",
		// What the kubelet sets for the Services routesteward and routesteward-webhook.
		"ROUTESTEWARD_SERVICE_HOST=10.0.0.1", "ROUTESTEWARD_SERVICE_PORT=443", "ROUTESTEWARD_SERVICE_PORT_HTTPS=443",
		"ROUTESTEWARD_PORT=tcp://10.0.0.1:443", "ROUTESTEWARD_PORT_443_TCP=tcp://10.0.0.1:443", "ROUTESTEWARD_PORT_443_TCP_PROTO=tcp",
		"ROUTESTEWARD_PORT_443_TCP_PORT=443", "ROUTESTEWARD_PORT_443_TCP_ADDR=10.0.0.1",
		"ROUTESTEWARD_WEBHOOK_SERVICE_HOST=10.0.0.2", "ROUTESTEWARD_WEBHOOK_PORT_443_TCP_ADDR=10.0.0.2")
	require.NoError(t, err)
	for _, setting := range settings {
		require.NotEqual(t, "fail-on", setting.Flag)
	}
}

func TestFileFaults(t *testing.T) {
	for name, test := range map[string]struct {
		content string
		want    []string
	}{
		"unknown keys": {
			content: "outsid: warn\n--scope: all\nsystemNamespace: a\nxyz: 1\n",
			want: []string{
				`policy.yaml:1: unknown key "outsid"; did you mean "outside"?`,
				`policy.yaml:2: unknown key "--scope"; did you mean "scope"?`,
				`policy.yaml:3: unknown key "systemNamespace"; did you mean "system-namespace"?`,
				`policy.yaml:4: unknown key "xyz"`,
			},
		},
		"duplicate key": {
			content: "outside: warn\n\n# again\noutside: reject\n",
			want:    []string{`policy.yaml:4: duplicate key "outside", first on line 1`},
		},
		"shapes": {
			content: "outside: [warn]\nkinds: HTTPRoute\nscope:\ngrants: {a: b}\nexempt-users: [[a]]\nexempt-groups: [~]\n",
			want: []string{
				`policy.yaml:3: scope: no value; write "" or [] if an empty one is meant`,
				`policy.yaml:4: grants: want a value or a list, not a map`,
				`policy.yaml:5: exempt-users: want a list of plain values`,
				`policy.yaml:6: exempt-groups: want a list of plain values`,
				`--kinds: Invalid value: "HTTPRoute": want a YAML list, such as [HTTPRoute] (from file policy.yaml:2)`,
				`--outside: Invalid value: "warn": want one value, not a list (from file policy.yaml:1)`,
			},
		},
		"another file": {
			content: "config: other.yaml\n",
			want:    []string{`policy.yaml:1: a configuration file cannot name another one`},
		},
		"not a map": {
			content: "- outside\n",
			want:    []string{`policy.yaml:1: want a map of flag names to values`},
		},
		"not YAML": {
			content: "outside: warn\n\tgrants: off\n",
			want:    []string{`policy.yaml: not YAML: line 2: found a tab character that violates indentation`},
		},
		"two documents": {
			content: "outside: warn\n---\ngrants: off\n",
			want:    []string{`policy.yaml:2: more than one YAML document`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inFolder(t, test.content)
			_, err := newCommand(t, "--config=policy.yaml").resolve()
			require.Equal(t, test.want, faults(t, err))
		})
	}
}

func TestFilesWithoutSettings(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "comments": "# nothing\n", "null": "---\n", "empty map": "{}"} {
		t.Run(name, func(t *testing.T) {
			inFolder(t, content)
			_, err := newCommand(t, "--config=policy.yaml").resolve()
			require.NoError(t, err)
		})
	}
}

func TestFileThatCannotBeRead(t *testing.T) {
	inFolder(t, "")
	_, err := newCommand(t).resolve("ROUTESTEWARD_CONFIG=missing.yaml")
	require.Equal(t, []string{
		"--config: cannot read missing.yaml: no such file or directory (from environment variable ROUTESTEWARD_CONFIG)",
	}, faults(t, err))
}

func TestAnchorsStandForTheirValues(t *testing.T) {
	inFolder(t, "exempt-users: &who [a]\nexempt-groups: *who\n")
	c := newCommand(t, "--config=policy.yaml")
	_, err := c.resolve()
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, c.cfg.ExemptGroups)
}

func TestEveryFaultAtOnce(t *testing.T) {
	inFolder(t, "scope: most\ngrant: off\n")
	c := newCommand(t, "--config=policy.yaml", "--kube-api-qps=many", "--leader-elect=maybe", "--exempt-namespaces=aibrix-system", "--grant-grace=1ms")
	settings, err := c.resolve("ROUTESTEWARD_OUTSIDE=rejct", "ROUTESTEWARD_KINDS=", "ROUTESTEWARD_KUBE_API_BURST=x", "ROUTESTEWARD_X=")
	require.EqualError(t, err, strings.TrimSpace(`
the configuration is not valid:
  ROUTESTEWARD_X: unknown environment variable
  policy.yaml:2: unknown key "grant"; did you mean "grants"?
  --leader-elect: Invalid value: "maybe": want true or false (from the command line)
  --kube-api-qps: Invalid value: "many": want a number (from the command line)
  --kube-api-burst: Invalid value: "x": want a whole number (from environment variable ROUTESTEWARD_KUBE_API_BURST)
  --exempt-namespaces: Invalid value: "aibrix-system": is the system namespace; exempting it would switch off the evaluation of cross-namespace references (use --grants=off if that is meant) (from the command line)
  --kinds: Required value: name at least one of HTTPRoute, GRPCRoute (from environment variable ROUTESTEWARD_KINDS)
  --outside: Unsupported value: "rejct": supported values: "reject", "rewrite", "warn", "allow" (from environment variable ROUTESTEWARD_OUTSIDE)
  --scope: Unsupported value: "most": supported values: "governed", "all" (from file policy.yaml:1)
  --grant-grace: Invalid value: "1ms": must be at least 1s (from the command line)
`))
	require.Equal(t, "many", settings.of(t, "kube-api-qps").Value, "what was given is shown as it was given")
	require.Equal(t, "rejct", settings.of(t, "outside").Value)
	require.Equal(t, bound{elect: true, grace: time.Millisecond, qps: 200, burst: 400, secret: "ca"}, c.bound,
		"what cannot be parsed leaves the default, so that it causes no second fault")
}

func TestFaultOfADefaultSaysSo(t *testing.T) {
	c := newCommand(t, "--kinds=HTTPRoute")
	c.cfg.SystemNamespace = "No" // as if the program's own default were wrong
	_, err := c.resolve()
	require.Len(t, faults(t, err), 1)
	require.Contains(t, faults(t, err)[0], `--system-namespace: Invalid value: "No"`)
	require.True(t, strings.HasSuffix(faults(t, err)[0], " (the default)"), faults(t, err)[0])
}

func TestYAMLIsAFileWithTheSameEffect(t *testing.T) {
	args := []string{"--outside=warn", "--grants=off", "--exempt-users=a,\"CN=b,O=c\",#d", "--leader-elect=false", "--kube-api-qps=1.25",
		"--grant-grace=36h", "--ca-secret=0", "--kinds=GRPCRoute"}
	first := newCommand(t, args...)
	settings, err := first.resolve("ROUTESTEWARD_OUTSIDE=allow")
	require.NoError(t, err)
	text, err := settings.YAML()
	require.NoError(t, err)
	require.Contains(t, text, "outside: warn # command line, shadows environment variable ROUTESTEWARD_OUTSIDE (allow)\n")
	require.Contains(t, text, "scope: governed # default\n")
	require.Contains(t, text, "kinds: [GRPCRoute] # command line\n")

	inFolder(t, text)
	second := newCommand(t, "--config=policy.yaml")
	_, err = second.resolve()
	require.NoError(t, err)
	require.Equal(t, first.bound, second.bound)
	require.Equal(t, first.cfg, second.cfg)
}

func TestShadowedValueStaysInItsComment(t *testing.T) {
	c := newCommand(t, "--exempt-users=jane")
	settings, err := c.resolve("ROUTESTEWARD_EXEMPT_USERS=\"x\nscope: all\"\b")
	require.NoError(t, err)
	text, err := settings.YAML()
	require.NoError(t, err)
	require.Contains(t, text, "exempt-users: [jane] # command line, shadows environment variable ROUTESTEWARD_EXEMPT_USERS (\"x\uFFFDscope: all\"\uFFFD)\n")
}

func TestListsOfAFileAreShownAsTheyAre(t *testing.T) {
	inFolder(t, `exempt-users: [" a ", "b\r\nc", "  "]`)
	c := newCommand(t, "--config=policy.yaml")
	settings, err := c.resolve()
	require.NoError(t, err)
	require.Equal(t, []string{" a ", "b\r\nc", "  "}, c.cfg.ExemptUsers)
	require.Equal(t, c.cfg.ExemptUsers, settings.of(t, "exempt-users").Value)
}

func TestSettingsLogAsOneGroup(t *testing.T) {
	settings := Settings{
		{Flag: "outside", Value: "warn", Source: Source{Kind: FromFlag}, Shadows: []Shadow{{Source{FromFile, "p.yaml", 3}, "allow"}}},
		{Flag: "leader-elect", Value: true, Source: Source{Kind: FromDefault}},
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("starting", "settings", settings)
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, map[string]any{
		"outside":      map[string]any{"value": "warn", "source": "command line", "shadows": "file p.yaml:3 (allow)"},
		"leader-elect": map[string]any{"value": true, "source": "default"},
	}, line["settings"])
}

func TestText(t *testing.T) {
	settings := Settings{
		{Flag: "outside", Value: "warn", Source: Source{Kind: FromFlag}, Shadows: []Shadow{{Source{FromFile, "p.yaml", 3}, "allow"}}},
		{Flag: "kinds", Value: []string{"a", "b"}, Source: Source{Kind: FromEnvironment, Name: "ROUTESTEWARD_KINDS"}},
		{Flag: "exempt-users", Value: []string{}, Source: Source{Kind: FromDefault}},
	}
	require.Equal(t, strings.TrimLeft(`
FLAG             VALUE   SOURCE
--outside        warn    command line, shadows file p.yaml:3 (allow)
--kinds          a,b     environment variable ROUTESTEWARD_KINDS
--exempt-users   ""      default
`, "\n"), settings.Text())
}

func TestNearest(t *testing.T) {
	names := []string{"outside", "grants", "grant-scope", "gateway-classes"}
	for word, want := range map[string]string{
		"outside": "outside", "otuside": "outside", "grant": "grants", "grantscope": "grant-scope",
		"gateway-class": "gateway-classes", "": "", "x": "", "completely-different": "",
	} {
		require.Equal(t, want, Nearest(word, names), word)
	}
}

func TestShortDuration(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s": 0, "30s": 30 * time.Second, "10m": 10 * time.Minute, "1m30s": 90 * time.Second, "24h": 24 * time.Hour, "20h": 20 * time.Hour,
		"1h30m": 90 * time.Minute, "1h0m5s": time.Hour + 5*time.Second, "1.5s": 1500 * time.Millisecond, "-10m": -10 * time.Minute,
	} {
		require.Equal(t, want, shortDuration(d))
		parsed, err := time.ParseDuration(want)
		require.NoError(t, err)
		require.Equal(t, d, parsed)
	}
}

func TestInvalidErrorIsFoundBehindOthers(t *testing.T) {
	_, err := newCommand(t).resolve("ROUTESTEWARD_X=")
	var invalid *InvalidError
	require.True(t, errors.As(errors.Join(errors.New("other"), err), &invalid))
	require.Equal(t, []string{"ROUTESTEWARD_X: unknown environment variable"}, invalid.Faults)
}

func TestMessagesNameAbsolutePathsAsGiven(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.yaml")
	require.NoError(t, os.WriteFile(path, []byte("x: 1"), 0o600))
	_, err := newCommand(t, "--config="+path).resolve()
	require.Equal(t, []string{path + `:1: unknown key "x"`}, faults(t, err))
}
