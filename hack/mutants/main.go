// Command mutants changes a package in one small way after the other and runs its tests: a change that no test notices
// survives. What survives is listed in MUTANTS.md beside the package, each with the reason why, which people write into
// mutants.yaml there; one without a reason makes it fail.
//
//	go run ./hack/mutants ./policy
//
// All mutants are compiled into one test binary, each behind its number, through an overlay: the tree is never touched.
// First each test runs alone and records which mutants its code reaches; then each mutant meets the tests that reach it,
// the quick ones first, until one fails, or takes far too long.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"math"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"
)

var (
	workers = flag.Int("workers", 2, "mutants that are tested at once")
	only    = flag.String("only", "", "test only the mutants whose key contains this text, and write nothing")
	results = flag.String("results", "", "file that gains a line for each mutant that is noticed; those in it already are not tested again, so that a run can go on where one ended: only while the code is the same and the tests only grow")
	slow    = flag.String("slow", "", "files, separated by commas, whose mutants meet the slow tests too")
)

func main() {
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: mutants [flags] ./package")
		os.Exit(2)
	}
	unexplained, err := run(flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if unexplained {
		os.Exit(1)
	}
}

// listed is what `go list` says of a package.
type listed struct {
	Dir, ImportPath, Name, Export string
	GoFiles                       []string
}

func list(args ...string) ([]listed, error) {
	out, err := exec.Command("go", append([]string{"list", "-json=Dir,ImportPath,Name,Export,GoFiles"}, args...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var packages []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
}

// tester runs the mutated test binary.
type tester struct {
	dir, binary string
	tests       []test

	mutex sync.Mutex
	// killer is the test that killed the last mutant of a function; it probably kills the next one too.
	killer map[string]string
}

type test struct {
	name string
	// took is its CPU time: the machine may be busy.
	took    time.Duration
	reaches map[int]bool
}

func run(pattern string) (unexplained bool, err error) {
	work, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(work)
	began := time.Now()
	packages, err := list(pattern)
	if err != nil || len(packages) != 1 {
		return false, fmt.Errorf("%s: want one package: %w", pattern, err)
	}
	p := packages[0]
	mutants, err := mutatePackage(p, work)
	if err != nil {
		return false, err
	}
	t := &tester{dir: p.Dir, binary: filepath.Join(work, "mutated.test"), killer: map[string]string{}}
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", filepath.Join(work, "overlay.json"), "-o", t.binary, pattern)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return false, fmt.Errorf("the mutated package does not build: %w", err)
	}
	if err := t.record(work); err != nil {
		return false, err
	}
	fmt.Fprintf(os.Stderr, "%d mutants, %d tests, ready after %.0f s\n", len(mutants), len(t.tests), time.Since(began).Seconds())

	verdicts, err := t.verdicts(mutants)
	if err != nil {
		return false, err
	}
	fmt.Fprintf(os.Stderr, "%d of %d mutants survive, %.0f s\n", count(verdicts, survived), len(mutants), time.Since(began).Seconds())
	if *only != "" {
		return false, nil
	}
	return report(p, mutants, verdicts)
}

// mutatePackage writes the mutated files and the overlay that puts them in place.
func mutatePackage(p listed, work string) ([]mutant, error) {
	dependencies, err := list("-export", "-deps", p.ImportPath)
	if err != nil {
		return nil, err
	}
	exports, names := map[string]string{}, map[string]string{}
	for _, d := range dependencies {
		exports[d.ImportPath], names[d.ImportPath] = d.Export, d.Name
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	pkg, err := config.Check(p.ImportPath, fset, files, info)
	if err != nil {
		return nil, err
	}

	overlay := map[string]string{}
	write := func(name string, content []byte) error {
		overlay[filepath.Join(p.Dir, name)] = filepath.Join(work, name)
		return os.WriteFile(filepath.Join(work, name), content, 0o600)
	}
	var mutants []mutant
	for i, file := range files {
		src, err := os.ReadFile(filepath.Join(p.Dir, p.GoFiles[i]))
		if err != nil {
			return nil, err
		}
		m := mutator{fset: fset, info: info, pkg: pkg, src: src, name: p.GoFiles[i], imports: map[string]string{}, next: len(mutants) + 1}
		for _, spec := range file.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			m.imports[path] = names[path]
			if spec.Name != nil {
				m.imports[path] = spec.Name.Name
			}
		}
		if err := write(p.GoFiles[i], m.file(file)); err != nil {
			return nil, err
		}
		mutants = append(mutants, m.mutants...)
	}
	if err := write("zz_mutants.go", fmt.Appendf(nil, runtimeSource, p.Name, len(mutants)+1)); err != nil {
		return nil, err
	}
	text, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return nil, err
	}
	return mutants, os.WriteFile(filepath.Join(work, "overlay.json"), text, 0o600)
}

// maxMemory, in KiB, ends a mutant that grows without end.
const maxMemory = 6 << 20

// start runs some tests with a mutant. An error is a failed test, or none within the CPU time.
func (t *tester) start(tests []string, limit time.Duration, mutant string, env ...string) (took time.Duration, failing string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // where it waits for nothing
	defer cancel()
	limits := fmt.Sprintf(`ulimit -v %d; ulimit -t %.0f; exec "$@"`, maxMemory, math.Ceil(limit.Seconds()))
	cmd := exec.CommandContext(ctx, "sh", "-c", limits, "sh", t.binary, "-test.failfast", "-test.short",
		"-test.run=^("+strings.Join(tests, "|")+")$")
	cmd.Dir = t.dir
	cmd.Env = append(append(os.Environ(), "ROUTEWARDEN_MUTANT="+mutant), env...)
	out, err := cmd.Output()
	if match := failure.FindSubmatch(out); match != nil {
		failing = string(match[1])
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), failing, err
}

var failure = regexp.MustCompile(`(?m)^--- FAIL: (\w+)`)

// record runs every test alone, without a mutant, and keeps what it reaches and how long it takes.
func (t *tester) record(work string) error {
	cmd := exec.Command(t.binary, "-test.list=^(Test|Fuzz|Example)")
	cmd.Dir = t.dir
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(*workers)
	for _, name := range strings.Fields(string(out)) {
		group.Go(func() error {
			trace := filepath.Join(work, "reached-"+name)
			took, _, err := t.start([]string{name}, 5*time.Minute, "record", "ROUTEWARDEN_MUTANTS="+trace)
			if err != nil {
				return fmt.Errorf("%s fails without a mutant: %w", name, err)
			}
			content, err := os.ReadFile(trace)
			if err != nil {
				return err
			}
			reaches := map[int]bool{}
			for _, field := range strings.Fields(string(content)) {
				n, _ := strconv.Atoi(field)
				reaches[n] = true
			}
			t.mutex.Lock()
			defer t.mutex.Unlock()
			t.tests = append(t.tests, test{name, took, reaches})
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	slices.SortStableFunc(t.tests, func(a, b test) int { return cmp.Compare(a.took, b.took) })
	return nil
}

// verdict is how a mutant met the tests.
type verdict string

const (
	survived verdict = "survived"
	failed   verdict = "failed"
	timedOut verdict = "timed out"
)

// verdicts are those of the mutants, in their order.
func (t *tester) verdicts(mutants []mutant) ([]verdict, error) {
	known := map[string]verdict{}
	note := io.Discard
	if *results != "" {
		content, err := os.ReadFile(*results)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for line := range strings.Lines(string(content)) {
			said, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			known[name] = verdict(said)
		}
		file, err := os.OpenFile(*results, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		note = file
	}

	all := make([]verdict, len(mutants))
	var group errgroup.Group
	group.SetLimit(*workers)
	var mutex sync.Mutex
	seen := map[string]int{}
	for i, m := range mutants {
		seen[m.key()]++
		name := fmt.Sprintf("%d %s", seen[m.key()], m.key()) // two may say the same
		all[i] = known[name]
		if all[i] != "" {
			continue
		}
		if !strings.Contains(m.key(), *only) {
			all[i] = failed
			continue
		}
		if i%100 == 0 {
			fmt.Fprintf(os.Stderr, "%d of %d\n", i, len(mutants))
		}
		group.Go(func() error {
			all[i] = t.meet(m)
			if all[i] == survived {
				fmt.Fprintf(os.Stderr, "survives: %s:%d: %s\n", m.file, m.line, m.key())
				return nil
			}
			mutex.Lock()
			defer mutex.Unlock()
			_, err := fmt.Fprintf(note, "%s\t%s\n", all[i], name)
			return err
		})
	}
	return all, group.Wait()
}

// quick is how long the tests of one run may take together, so that a mutant rarely waits for slow ones.
const quick = 500 * time.Millisecond

// meet runs the tests that reach a mutant until one notices it.
func (t *tester) meet(m mutant) verdict {
	in := m.file + " " + m.in
	t.mutex.Lock()
	first := t.killer[in]
	t.mutex.Unlock()
	var batch []string
	var takes time.Duration
	try := func() verdict {
		if len(batch) == 0 {
			return survived
		}
		_, name, err := t.start(batch, 10*time.Second+5*takes, strconv.Itoa(m.id))
		batch, takes = nil, 0
		if name != "" {
			t.mutex.Lock()
			t.killer[in] = name
			t.mutex.Unlock()
		}
		var exit *exec.ExitError
		switch {
		case err == nil:
			return survived
		case errors.As(err, &exit) && !exit.Exited(): // the limit ends it by a signal
			return timedOut
		}
		return failed
	}
	meetsSlow := slices.Contains(strings.Split(*slow, ","), m.file)
	meets := func(test test) bool { return test.reaches[m.id] && (test.took <= quick || meetsSlow) }
	for _, test := range t.tests {
		if test.name == first && meets(test) {
			batch, takes = []string{first}, test.took
			if said := try(); said != survived {
				return said
			}
		}
	}
	for _, test := range t.tests {
		if !meets(test) || test.name == first {
			continue
		}
		if takes+test.took > quick {
			if said := try(); said != survived {
				return said
			}
		}
		batch, takes = append(batch, test.name), takes+test.took
	}
	return try()
}

func count(verdicts []verdict, which verdict) int {
	n := 0
	for _, v := range verdicts {
		if v == which {
			n++
		}
	}
	return n
}

// reasons are the contents of mutants.yaml: why a mutant survives, by its key.
type reasons map[string]string

// report writes MUTANTS.md. The keys of mutants that are gone, or killed by now, are reported.
func report(p listed, mutants []mutant, verdicts []verdict) (unexplained bool, err error) {
	why := reasons{}
	file := filepath.Join(p.Dir, "mutants.yaml")
	if content, err := os.ReadFile(file); err == nil {
		if err := yaml.UnmarshalStrict(content, &why); err != nil {
			return false, fmt.Errorf("%s: %w", file, err)
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, `# Mutants of %[1]s

Generated by `+"`make mutants`"+`. The tests of this package meet small changes to its code, one at a time:

| Mutants | Noticed, by a test that fails | Noticed, by a test that does not end | Survive |
|---|---|---|---|
| %[2]d | %[3]d | %[4]d | %[5]d |

Constants, type switches and := are not changed. Random tests run with one seed.

## Survivors

The reasons are those of [mutants.yaml](mutants.yaml).

| Where | Code | Changed to | Why no test notices |
|---|---|---|---|
`, "`"+path.Base(p.ImportPath)+"`", len(mutants), count(verdicts, failed), count(verdicts, timedOut), count(verdicts, survived))
	used := map[string]bool{}
	cell := strings.NewReplacer("|", "\\|", "`", "'")
	for i, m := range mutants {
		if verdicts[i] != survived {
			continue
		}
		reason := why[m.key()]
		used[m.key()] = true
		if reason == "" {
			unexplained, reason = true, "**unexplained**"
			fmt.Fprintf(os.Stderr, "survives without a reason in %s: %s:%d\n%s\n", filepath.Base(file), m.file, m.line, quoteKey(m.key()))
		}
		fmt.Fprintf(&text, "| %s, `%s` | `%s` | `%s` | %s |\n", m.file, cell.Replace(m.in), cell.Replace(m.from), cell.Replace(m.to), cell.Replace(reason))
	}
	for key := range why {
		if !used[key] {
			fmt.Fprintf(os.Stderr, "no such survivor, take it out of %s: %s\n", filepath.Base(file), key)
			unexplained = true
		}
	}
	return unexplained, os.WriteFile(filepath.Join(p.Dir, "MUTANTS.md"), []byte(text.String()), 0o644)
}

func quoteKey(key string) string {
	text, _ := json.Marshal(key)
	return strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(text))
}
