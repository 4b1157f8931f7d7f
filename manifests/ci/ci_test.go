// Package ci has no code: its test runs what people copy from here.
package ci

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/e2e/build"
)

const good = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: llama-router, namespace: aibrix-system}
spec:
  parentRefs: [{name: aibrix-eg}]
  rules:
  - backendRefs: [{name: llama, port: 8000}]
`

var bad = strings.Replace(strings.Replace(good, "namespace: aibrix-system", "namespace: team-a", 1), "{name: aibrix-eg}", "{name: aibrix-eg, namespace: aibrix-system}", 1)

// run runs a script in a directory, with nothing but PATH and HOME of the environment, and returns its output and exit code.
func run(t *testing.T, dir, script string, env ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script)
	cmd.Dir = dir
	for _, name := range []string{"PATH", "HOME", "GOFLAGS", "GOPROXY", "GOCACHE", "GOMODCACHE", "GOSUMDB"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		require.NoError(t, err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// bin is a folder with a routesteward in it.
var bin string

func TestMain(m *testing.M) {
	binary, err := build.Program("")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = filepath.Dir(binary)
	os.Exit(m.Run())
}

type action struct {
	Inputs map[string]struct {
		Description string `json:"description"`
		Default     string `json:"default"`
	} `json:"inputs"`
	Outputs map[string]struct {
		Value string `json:"value"`
	} `json:"outputs"`
	Runs struct {
		Using string `json:"using"`
		Steps []struct {
			Name, ID, If, Uses, Shell, Run string
			Env                            map[string]string
		} `json:"steps"`
	} `json:"runs"`
}

var expression = regexp.MustCompile(`\$\{\{ inputs\.(\w+) \}\}`)

// run does what a runner does with the steps that are scripts, for the given inputs.
func (a action) run(t *testing.T, dir string, given map[string]string) (stdout, summary, output string, code int) {
	t.Helper()
	here, err := filepath.Abs(".")
	require.NoError(t, err)
	temp := t.TempDir()
	input := func(name string) string {
		require.Contains(t, a.Inputs, name)
		if value, ok := given[name]; ok {
			return value
		}
		return a.Inputs[name].Default
	}
	for _, step := range a.Runs.Steps {
		require.Contains(t, []string{"", "inputs.binary == ''"}, step.If)
		if step.Run == "" || step.If != "" && input("binary") != "" {
			continue
		}
		require.Equal(t, "bash", step.Shell)
		env := []string{
			"GITHUB_ACTION_PATH=" + here, "RUNNER_TEMP=" + temp,
			"GITHUB_OUTPUT=" + filepath.Join(temp, "output"), "GITHUB_STEP_SUMMARY=" + filepath.Join(temp, "summary"),
		}
		for name, value := range step.Env {
			match := expression.FindStringSubmatch(value)
			require.NotNil(t, match, value)
			env = append(env, name+"="+input(match[1]))
		}
		require.NotContains(t, step.Run, "${{", "inputs are no part of scripts")
		var stderr string
		stdout, stderr, code = run(t, dir, step.Run, env...)
		t.Logf("%s: exit %d\n%s%s", step.Name, code, stdout, stderr)
		if code != 0 {
			break
		}
	}
	for _, name := range []string{"summary", "output"} {
		text, err := os.ReadFile(filepath.Join(temp, name))
		if err != nil {
			continue
		}
		if name == "summary" {
			summary = string(text)
		} else {
			output = string(text)
		}
	}
	return stdout, summary, output, code
}

func TestGitHubAction(t *testing.T) {
	var a action
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "action.yml")), &a))
	require.Equal(t, "composite", a.Runs.Using)
	require.Equal(t, "${{ steps.check.outputs.findings }}", a.Outputs["findings"].Value)
	for name, input := range a.Inputs {
		require.NotEmpty(t, input.Description, name)
	}

	dir := t.TempDir()
	write(t, filepath.Join(dir, "apps", "bad route.yaml"), bad)
	write(t, filepath.Join(dir, "good.yaml"), good)
	write(t, filepath.Join(dir, "policy.yaml"), "outside: warn\n")

	stdout, summary, output, code := a.run(t, dir, map[string]string{"sarif": "out.sarif"})
	require.Equal(t, 1, code, "built, and found what is wrong")
	require.Contains(t, stdout, "::error file=apps/bad route.yaml,line=5,col=")
	require.Contains(t, stdout, "route-outside-system-namespace")
	require.Contains(t, summary, "```\napps/bad route.yaml\n")
	require.Contains(t, summary, "1 refusal")
	require.Equal(t, "findings=true\n", output)
	require.Contains(t, read(t, filepath.Join(dir, "out.sarif")), `"2.1.0"`)

	binary := filepath.Join(bin, "routesteward")
	for name, test := range map[string]struct {
		inputs map[string]string
		code   int
		stdout string
	}{
		"one good file":    {map[string]string{"files": "good.yaml\n"}, 0, ""},
		"two files":        {map[string]string{"files": "good.yaml\napps/bad route.yaml\n"}, 1, "::error file=apps/bad route.yaml"},
		"a policy":         {map[string]string{"config": "policy.yaml"}, 0, "::warning file=apps/bad route.yaml"},
		"a command":        {map[string]string{"render": "sed s/team-a/team-b/ < 'apps/bad route.yaml'"}, 1, "::error title=route-outside"},
		"a broken command": {map[string]string{"render": "cat good.yaml; false"}, 2, "::error title=not checked::the command of the input render failed: cat good.yaml; false"},
		"a missing file":   {map[string]string{"files": "missing.yaml"}, 2, "::error file=missing.yaml,title=not checked"},
		"no command":       {map[string]string{"files": "$(touch owned)\n`touch owned`; touch owned"}, 2, "::error file=$(touch owned)"},
		"facts":            {map[string]string{"facts": "good.yaml\npolicy.yaml", "files": "good.yaml"}, 0, ""},
		"a baseline":       {map[string]string{"baseline": "baseline.json"}, 0, "::notice file=apps/bad route.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, ok := test.inputs["baseline"]; ok {
				out, _, code := run(t, dir, `"$BINARY" check -f . -R -o json`, "BINARY="+binary)
				require.Equal(t, 1, code)
				write(t, filepath.Join(dir, "baseline.json"), out)
				defer os.Remove(filepath.Join(dir, "baseline.json"))
			}
			test.inputs["binary"] = binary
			stdout, _, output, code := a.run(t, dir, test.inputs)
			require.Equal(t, test.code, code)
			require.Contains(t, stdout, test.stdout)
			if code < 2 {
				require.Equal(t, map[int]string{0: "findings=false\n", 1: "findings=true\n"}[code], output)
			}
			require.NoFileExists(t, filepath.Join(dir, "owned"))
		})
	}
}

func TestGitLabJob(t *testing.T) {
	var jobs map[string]struct {
		Variables    map[string]string
		BeforeScript []string `json:"before_script"`
		Script       []string
		Artifacts    struct{ Reports struct{ JUnit string } }
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "gitlab-ci.yml")), &jobs))
	job := jobs["routesteward"]
	require.Contains(t, job.BeforeScript[0], `github.com/routesteward/routesteward@$VERSION`)
	path := "PATH=" + bin + ":" + os.Getenv("PATH")
	for text, want := range map[string]int{good: 0, bad: 1} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "apps", "route.yaml"), text)
		stdout, stderr, code := run(t, dir, strings.Join(job.Script, "\n"), path, "CHECK="+job.Variables["CHECK"])
		require.Equal(t, want, code, stderr)
		require.Contains(t, stdout, "1 object in 1 file checked")
		report := read(t, filepath.Join(dir, job.Artifacts.Reports.JUnit))
		require.Contains(t, report, "<testsuites")
		require.Equal(t, want == 1, strings.Contains(report, "<failure"), report)
	}
}

func TestPreCommitHook(t *testing.T) {
	var config struct {
		Repos []struct {
			Hooks []struct{ Entry, Files string }
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "pre-commit-config.yaml")), &config))
	hook := config.Repos[0].Hooks[0]
	path := "PATH=" + bin + ":" + os.Getenv("PATH")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "good.yaml"), good)
	write(t, filepath.Join(dir, "bad.yml"), bad)
	files := regexp.MustCompile(hook.Files)
	require.True(t, files.MatchString("a/good.yaml") && files.MatchString("bad.yml") && files.MatchString("x.json"))
	require.False(t, files.MatchString("yaml.go"))
	_, _, code := run(t, dir, hook.Entry+" good.yaml", path)
	require.Equal(t, 0, code)
	stdout, _, code := run(t, dir, hook.Entry+" good.yaml bad.yml", path)
	require.Equal(t, 1, code)
	require.Contains(t, stdout, "bad.yml\n")

	if _, err := exec.LookPath("pre-commit"); err != nil {
		return
	}
	write(t, filepath.Join(dir, ".pre-commit-config.yaml"), read(t, "pre-commit-config.yaml"))
	commit := `git init -q . && git add . && pre-commit run --color=never`
	stdout, stderr, code := run(t, dir, commit, path, "PRE_COMMIT_HOME="+t.TempDir())
	require.Equal(t, 1, code, stderr)
	require.Contains(t, stdout, "routesteward check", stderr)
	require.Contains(t, stdout, "bad.yml\n")
	require.NoError(t, os.Remove(filepath.Join(dir, "bad.yml")))
	stdout, stderr, code = run(t, dir, commit, path, "PRE_COMMIT_HOME="+t.TempDir())
	require.Equal(t, 0, code, stdout+stderr)
}

// The scripts have to be run by whoever copies them.
func TestScriptsAreExecutable(t *testing.T) {
	for _, script := range []string{"github-check", "server-dry-run"} {
		info, err := os.Stat(script)
		require.NoError(t, err)
		require.NotZero(t, info.Mode()&0o111, script)
	}
}
