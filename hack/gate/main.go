// Command gate compares what things cost with a baseline, by counts that a busy machine does not change: allocations, and
// instructions as Valgrind counts them.
//
//	gate             compare; the exit code is 1 where something costs more, or the baseline is another toolchain's
//	gate -update     write the baseline anew
//	gate run NAME N  internal: do what is measured N times
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/routewarden/routewarden/hack/localcluster"
)

// How much more is a regression. Allocations have no noise: three runs on a machine with eight times more to do than it has
// processors gave the same 142 counts. Instructions, in three measurements of each scenario, were up to 0.7 % apart, as the seeds
// of hash tables are random and the runtime's timers run.
const (
	moreAllocations  = 1.02
	moreInstructions = 1.05
)

// Instructions are counted for two numbers of repetitions whose difference is divided, so that what is done once does not count.
// Starting a program takes a million instructions more or less, so what is done in few is repeated more often.
const (
	fewRepetitions    = 20
	moreRepetitions   = 120
	manyRepetitions   = 1520
	cheapInstructions = 1_000_000
)

// attempts are how often instructions are counted before they are called a regression: noise goes away, a regression stays.
const attempts = 3

const allocationRuns = 100

func main() {
	code, err := run(context.Background(), os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "gate:", err)
		code = 2
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string) (code int, err error) {
	if len(args) == 3 && args[0] == "run" {
		return 0, repeat(ctx, args[1], args[2])
	}
	flags := flag.NewFlagSet("gate", flag.ContinueOnError)
	update := flags.Bool("update", false, "write the baseline anew")
	if err := flags.Parse(args); err != nil {
		return 0, err
	}
	root, err := localcluster.Root()
	if err != nil {
		return 0, err
	}
	path := filepath.Join(root, "hack", "gate", "baseline.txt")
	var before baseline
	if !*update {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		if before, err = parse(string(text)); err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
	}
	// The files of the scenarios, also of those that processes of their own repeat.
	scratch, err := os.MkdirTemp("", "routewarden-gate-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	if err := os.Setenv("TMPDIR", scratch); err != nil {
		return 0, err
	}
	all, err := scenarios()
	if err != nil {
		return 0, err
	}
	now := baseline{goVersion: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH, counts: map[string]int{}}
	for _, s := range all {
		if now.counts["allocations  "+s.name], err = allocations(ctx, s); err != nil {
			return 0, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if err := valgrindWorks(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "WARNING: instructions are not compared, allocations only, as Valgrind does not work here: %v\n", err)
	} else {
		now.cpu = processor()
		for _, s := range all {
			if !s.instructions {
				continue
			}
			name := "instructions " + s.name
			for attempt := range attempts {
				count, err := instructions(ctx, s)
				if err != nil {
					return 0, fmt.Errorf("%s: %w", s.name, err)
				}
				fmt.Fprintf(os.Stderr, "counted instructions: %s: %d\n", s.name, count)
				if attempt == 0 || count < now.counts[name] {
					now.counts[name] = count
				}
				if old, found := before.counts[name]; !found || !more(name, old, now.counts[name]) {
					break
				}
			}
		}
	}
	if *update {
		if now.cpu == "" {
			return 0, errors.New("the baseline needs instructions too, so install Valgrind (apt-get install valgrind)")
		}
		return 0, os.WriteFile(path, []byte(now.String()), 0o644)
	}
	report, ok := compare(before, now)
	fmt.Print(report)
	if !ok {
		code = 1
	}
	return code, nil
}

// repeat does what a scenario measures so many times. Collections of garbage would count too, at times of their own.
func repeat(ctx context.Context, name, times string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	all := counted()
	if strings.HasPrefix(name, "engine/") {
		if all, err = scenarios(); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(all, func(s scenario) bool { return s.name == name })
	if i < 0 {
		return fmt.Errorf("there is no scenario %q", name)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	one, err := all[i].prepare(ctx)
	if err != nil {
		return err
	}
	for range n {
		if err := one(); err != nil {
			return err
		}
	}
	return nil
}

// allocations are those of one repetition.
func allocations(ctx context.Context, s scenario) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	one, err := s.prepare(ctx)
	if err != nil {
		return 0, err
	}
	for range 3 { // what is made once
		if err := one(); err != nil {
			return 0, err
		}
	}
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	average := testing.AllocsPerRun(allocationRuns, func() { err = errors.Join(err, one()) })
	return int(average), err
}

var references = regexp.MustCompile(`I +refs: +([0-9,]+)`)

// instructions are those of one repetition.
func instructions(ctx context.Context, s scenario) (int, error) {
	counts := map[int]int{}
	one := func(repetitions int) (_ int, err error) {
		for _, n := range []int{fewRepetitions, repetitions} {
			if counts[n] == 0 {
				if counts[n], err = valgrind(ctx, "run", s.name, strconv.Itoa(n)); err != nil {
					return 0, err
				}
			}
		}
		return (counts[repetitions] - counts[fewRepetitions]) / (repetitions - fewRepetitions), nil
	}
	count, err := one(moreRepetitions)
	if err != nil || count > cheapInstructions {
		return count, err
	}
	return one(manyRepetitions)
}

// valgrind runs this program under Valgrind and returns how many instructions it took.
func valgrind(ctx context.Context, args ...string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "valgrind", append([]string{"--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", self}, args...)...)
	// Valgrind says that the processor has RDTSCP, and stumbles over it where the real one has not.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off", "GODEBUG=cpu.rdtscp=off")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out.String())
	}
	match := references.FindSubmatch(out.Bytes())
	if match == nil {
		return 0, fmt.Errorf("%s tells no count:\n%s", strings.Join(cmd.Args, " "), out.String())
	}
	return strconv.Atoi(strings.ReplaceAll(string(match[1]), ",", ""))
}

// valgrindWorks says why it does not.
func valgrindWorks(ctx context.Context) error {
	_, err := valgrind(ctx, "-h")
	return err
}

// processor names what makes the same program take other instructions: what the processor can do that the Go runtime uses.
// Valgrind hides some of it, so this is asked there.
func processor() string {
	content, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	var has []string
	for line := range strings.Lines(string(content)) {
		name, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" && strings.TrimSpace(name) != "Features" {
			continue
		}
		words := " " + strings.TrimSpace(flags) + " "
		for _, feature := range []string{"popcnt", "sse4_2", "avx", "avx2", "bmi2", "erms", "fsrm", "sha_ni", "avx512f", "aes", "sha2"} {
			if strings.Contains(words, " "+feature+" ") {
				has = append(has, feature)
			}
		}
		break
	}
	return strings.Join(has, " ")
}
