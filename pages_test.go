package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/cli/command"
)

// TestMain lets the test binary stand in for the programs that pages call, each under a link of its name.
func TestMain(m *testing.M) {
	name := filepath.Base(os.Args[0])
	if _, ok := standIns[name]; !ok {
		os.Exit(m.Run())
	}
	os.Exit(standIn(name, os.Args[1:]))
}

// standIns check the arguments of a program and do not run it, except for routesteward's own commands that need no cluster.
var standIns = map[string]func(call) error{
	"routesteward": call.routesteward,
	"make":         call.make,
	"go":           call.goTool,
	"kubectl":      call.kubectl,
	"helm":         call.printsManifests,
	"kustomize":    call.printsManifests,
	"docker":       call.nothing,
	"git":          call.nothing,
	"goreleaser":   call.nothing,
	"ko":           call.nothing,
	"pre-commit":   call.nothing,
	"skopeo":       call.nothing,
}

// call is one call of a program on a page. Its environment says where the project is and where to report faults.
type call struct {
	root string
	args []string
}

func standIn(name string, args []string) int {
	c := call{os.Getenv("PAGES_ROOT"), args}
	err := c.files()
	if err == nil {
		err = standIns[name](c)
	}
	switch err {
	case nil:
		return command.ExitClean
	case command.ErrFindings:
		return command.ExitFindings
	}
	faults, _ := os.OpenFile(os.Getenv("PAGES_FAULTS"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	fmt.Fprintf(faults, "%s %s: %v\n", name, strings.Join(args, " "), err)
	return command.ExitError
}

// files requires that each file of the project that is named exists.
func (c call) files() error {
	for _, arg := range c.args {
		if inProject(c.root, arg) && !exists(c.root, arg) {
			return fmt.Errorf("%s does not exist", arg)
		}
	}
	return nil
}

// inProject reports whether a path looks like one of the project's, from its root.
func inProject(root, path string) bool {
	first, _, nested := strings.Cut(strings.TrimPrefix(path, "./"), "/")
	return nested && first != "" && first != "bin" && !strings.HasPrefix(path, "/") && exists(root, first)
}

// exists takes a <placeholder> for any text.
func exists(root, path string) bool {
	matches, err := filepath.Glob(filepath.Join(root, regexp.MustCompile(`<[^>]*>`).ReplaceAllString(path, "*")))
	return err == nil && len(matches) > 0
}

func (c call) nothing() error { return nil }

func (c call) make() error {
	makefile, err := os.ReadFile(filepath.Join(c.root, "Makefile"))
	for _, target := range c.args {
		if !strings.Contains(target, "=") && !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(target)+`:`).Match(makefile) {
			return fmt.Errorf("the Makefile has no target %s", target)
		}
	}
	return err
}

// goTool requires that what is run or tested is a folder with Go files.
func (c call) goTool() error {
	for _, arg := range c.args {
		if strings.HasPrefix(arg, "./") && !exists(c.root, filepath.Join(strings.TrimSuffix(arg, "..."), "*.go")) {
			return fmt.Errorf("%s has no Go files", arg)
		}
		if path, _, ok := strings.Cut(arg, "@"); ok && path != "github.com/routesteward/routesteward" {
			return fmt.Errorf("%s is another module", arg)
		}
	}
	return nil
}

func (c call) kubectl() error {
	for i, flag := range c.args[:max(0, len(c.args)-1)] {
		if file := c.args[i+1]; slices.Contains([]string{"-f", "-k"}, flag) && file != "-" && !exists(c.root, file) && !exists(".", file) {
			return fmt.Errorf("%s does not exist", file)
		}
	}
	if slices.Contains(c.args, "get") && slices.Contains(c.args, "yaml") {
		return c.printsManifests()
	}
	return nil
}

func (c call) printsManifests() error {
	_, err := fmt.Print(os.Getenv("PAGES_ROUTE"))
	return err
}

// routesteward runs a command that needs no cluster, and otherwise parses it.
func (c call) routesteward() error {
	root := rootCommand(newProgram(nil), nil)
	command.Complete(root)
	cmd, rest, err := root.Find(c.args)
	if err != nil {
		return err
	}
	if cmd == root && len(rest) > 0 {
		return fmt.Errorf("unknown command %q", rest[0])
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		return err
	}
	set := cmd.Flags().Changed
	switch cmd.Name() {
	case "check":
		if set("cluster") {
			return nil
		}
	case "audit":
		if !set("facts") || set("watch") {
			return nil
		}
	case "unpark":
		if !set("filename") {
			return nil
		}
	case "facts":
		facts, err := os.ReadFile(filepath.Join(c.root, "hack", "demo", "cluster.yaml"))
		fmt.Print(string(facts))
		return err
	case "serve", "trace":
		return nil
	}
	switch code := run(context.Background(), c.args, nil, os.Stdin, os.Stdout, os.Stderr); code {
	case command.ExitClean:
		return nil
	case command.ExitFindings:
		return command.ErrFindings
	default:
		return fmt.Errorf("exit code %d", code)
	}
}

// page is a Markdown page, split into its blocks of code and the rest.
type page struct {
	name, prose string
	blocks      []block
}

type block struct{ language, text string }

var (
	fence     = regexp.MustCompile("(?ms)^( *)```(.*?)\n(.*?)^ *```$")
	span      = regexp.MustCompile("`([^`]+)`")
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	variables = regexp.MustCompile(`^([A-Z]+=\S* )+`)
)

func readPage(t *testing.T, name string) page {
	content, err := os.ReadFile(name)
	require.NoError(t, err)
	p := page{name: name, prose: fence.ReplaceAllString(string(content), "")}
	for _, match := range fence.FindAllStringSubmatch(string(content), -1) {
		p.blocks = append(p.blocks, block{match[2], regexp.MustCompile(`(?m)^`+match[1]).ReplaceAllString(match[3], "")})
	}
	return p
}

// anchors are the fragments by which the page's headings are linked.
func (p page) anchors() (anchors []string) {
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(p.prose, -1) {
		anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
	}
	return anchors
}

func pages(t *testing.T) (names []string) {
	require.NoError(t, filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch name := entry.Name(); {
		case err != nil:
			return err
		case entry.IsDir() && (path == "bin" || name == "testdata" || name == ".git"):
			return filepath.SkipDir
		case filepath.Ext(name) == ".md":
			names = append(names, path)
		}
		return nil
	}))
	require.Contains(t, names, "README.md")
	return names
}

// TestLinksOnPages requires that every relative link and every path of the project on a page leads somewhere.
func TestLinksOnPages(t *testing.T) {
	for _, name := range pages(t) {
		p := readPage(t, name)
		for _, match := range link.FindAllStringSubmatch(p.prose, -1) {
			path, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			target := name
			if path != "" {
				target = filepath.Join(filepath.Dir(name), path)
			}
			if assert.True(t, exists(".", target), "%s: %s", name, match[1]) && anchor != "" {
				assert.Contains(t, readPage(t, target).anchors(), anchor, "%s: %s", name, match[1])
			}
		}
		for _, match := range span.FindAllStringSubmatch(p.prose, -1) {
			if path := match[1]; !strings.ContainsAny(path, " \n:") && inProject(".", path) {
				assert.True(t, exists(".", path), "%s: `%s`", name, path)
			}
		}
	}
}

// TestCommandsOnPages runs every command of every page in a shell in which other programs are stand-ins.
func TestCommandsOnPages(t *testing.T) {
	root, err := filepath.Abs(".")
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	bin := t.TempDir()
	for name := range standIns {
		require.NoError(t, os.Symlink(self, filepath.Join(bin, name)))
	}
	grep, err := exec.LookPath("grep")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(grep, filepath.Join(bin, "grep")))
	route := example(t)

	shell := func(t *testing.T, dir, script string) string {
		faults := filepath.Join(t.TempDir(), "faults")
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + bin, "PAGES_ROOT=" + root, "PAGES_FAULTS=" + faults, "PAGES_ROUTE=" + route, "GATEWAY=http://127.0.0.1", "GOCOVERDIR=" + t.TempDir()}
		var stdout, stderr strings.Builder
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(route), &stdout, &stderr
		err := cmd.Run()
		require.NotNil(t, cmd.ProcessState, err)
		wrong, _ := os.ReadFile(faults)
		if assert.Empty(t, string(wrong), "%s\n%s", script, stderr.String()) {
			assert.Less(t, cmd.ProcessState.ExitCode(), command.ExitError, "%s\n%s", script, stderr.String())
			assert.NotContains(t, stderr.String(), ": not found", script)
		}
		return stdout.String() + stderr.String()
	}
	// folder has the files that pages mention.
	folder := func(t *testing.T) string {
		dir := t.TempDir()
		facts, err := os.ReadFile(filepath.Join("hack", "demo", "cluster.yaml"))
		require.NoError(t, err)
		require.NoError(t, os.Mkdir(filepath.Join(dir, "apps"), 0o700))
		for name, content := range map[string]string{"route.yaml": route, "in.yaml": route, "apps/llama.yaml": route, "facts.yaml": string(facts)} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		}
		return dir
	}

	seen := map[string]bool{}
	for _, name := range pages(t) {
		p := readPage(t, name)
		var inline []string
		for _, match := range span.FindAllStringSubmatch(p.prose, -1) {
			command := strings.ReplaceAll(strings.Join(strings.Fields(match[1]), " "), `\|`, "|")
			program, _, called := strings.Cut(variables.ReplaceAllString(command, ""), " ")
			if _, ok := standIns[program]; ok && called && !seen[command] {
				seen[command] = true
				inline = append(inline, command)
			}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, block := range p.blocks {
				dir := folder(t)
				switch block.language {
				case "sh":
					shell(t, dir, block.text)
				case "console":
					commands := regexp.MustCompile(`(?m)^\$ `).Split(block.text, -1)
					for _, command := range commands[1:] {
						line, shown, _ := strings.Cut(command, "\n")
						got := shell(t, dir, line)
						if got != "" {
							assert.Equal(t, strings.TrimSpace(shown), strings.TrimSpace(got), line)
						}
						if strings.Contains(shown, "denied") {
							assert.Contains(t, strings.ReplaceAll(shown, "\n", " "), denial(t, dir), line)
						}
					}
				}
			}
			for _, command := range inline {
				shell(t, folder(t), command)
			}
		})
	}
}

// example is the route of the page of check, which the other pages call route.yaml.
func example(t *testing.T) string {
	p := readPage(t, filepath.Join("policy", "check", "README.md"))
	i := slices.IndexFunc(p.blocks, func(b block) bool { return b.language == "yaml" })
	require.GreaterOrEqual(t, i, 0)
	return p.blocks[i].text
}

// denial is the message with which admission refuses route.yaml, on one line.
func denial(t *testing.T, dir string) string {
	result := runWith(nil, "check", "-o", "json", filepath.Join(dir, "route.yaml"))
	var report check.Report
	require.NoError(t, json.Unmarshal([]byte(result.stdout), &report), result.stderr)
	require.Len(t, report.Results, 1)
	return strings.ReplaceAll(report.Results[0].Denial, "\n", " ")
}
