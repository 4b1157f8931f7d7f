package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzResolve configures with anything: a file, environment variables (a line each) and the value of a flag. What comes
// out is an error that says what is wrong, or a valid configuration that `routesteward config -o yaml` can hand on.
func FuzzResolve(f *testing.F) {
	for _, file := range []string{
		"", "{}", "null", "- a", "outside: warn\n", "outside: [warn]\nkinds: HTTPRoute\nscope:\ngrants: {a: b}\n", "outside: warn\noutside: reject\n",
		`exempt-users: [a, ' b ', 'c,d', "e\nf", "g\r\nh", '#i', '"', '"j', '0x1f', "\u2028k", '  ', "\t"]`, "exempt-groups: ['~', 'true', '1e3', '- x']\n",
		"exempt-users: &who [a, ' b ', \"c,d\", \"e\\nf\", '']\nexempt-groups: *who\n", "exempt-users: [\"\\r\\n\", \"#x\", \"0x1f\", ~]\n", "<<: {outside: warn}\n",
		"leader-elect: off\n", "kube-api-qps: 1e1\nkube-api-burst: 0x10\ngrant-grace: 90m\n", "kube-api-qps: .nan\n", "grant-grace: 9999999h\n",
		"? [a]\n: b\n", "a: &a [*a]\n", "outside: !!binary aGk=\n", "%YAML 1.2\n---\noutside: warn\n...\n", "outside: warn\n---\nscope: all\n", "\xff\xfe", "\ufeffoutside: warn\n",
		"reserved-names: [\"[\", '']\n", "system-namespace: kube_system\n", "config: other.yaml\n", "outside: |\n  warn\n", "ca-secret: \"\\u2028#\"\n",
	} {
		f.Add(file, "ROUTESTEWARD_SCOPE=all", "")
	}
	f.Add("", "ROUTESTEWARD_KINDS=HTTPRoute,\"GRPCRoute\"\nROUTESTEWARD_EXEMPT_USERS=\"a\"\"b\", c", "a,b")
	f.Add("", "ROUTESTEWARD_X=\nROUTESTEWARD_SERVICE_HOST=10.0.0.1\nROUTESTEWARD_PORT=tcp://10.0.0.1:443", "\"")
	f.Add("exempt-users: [a]\n", "ROUTESTEWARD_EXEMPT_USERS=b\nROUTESTEWARD_EXEMPT_USERS=c\n=\nROUTESTEWARD_=", "c\nd")
	f.Add("scope: all", "ROUTESTEWARD_LEADER_ELECT=T\nROUTESTEWARD_KUBE_API_BURST=0o17\nROUTESTEWARD_GRANT_GRACE=1h0m0s", "")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, file, environment, users string) {
		path := filepath.Join(dir, "policy.yaml")
		require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
		args := []string{"--config=" + path}
		if users != "" {
			args = append(args, "--exempt-users="+users)
		}
		first := newCommand(t, args...)
		settings, err := first.resolve(strings.Split(environment, "\n")...)
		settings.Text()
		settings.LogValue()
		if err != nil {
			found := faults(t, err)
			require.NotEmpty(t, found)
			for _, fault := range found {
				require.NotEmpty(t, fault)
				for _, r := range fault {
					require.True(t, unicode.IsPrint(r) || r == utf8.RuneError, "%q", fault)
				}
			}
			return
		}
		require.Empty(t, first.cfg.Validate())
		require.Empty(t, first.bound.Validate())

		text, err := settings.YAML()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		second := newCommand(t, "--config="+path)
		again, err := second.resolve()
		require.NoError(t, err, text)
		require.Equal(t, first.cfg, second.cfg, text)
		require.Equal(t, first.bound, second.bound, text)
		for i, setting := range again {
			if setting.Flag != ConfigFlag {
				require.Equal(t, settings[i].Value, setting.Value, setting.Flag)
			}
		}
	})
}
