package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/routewarden/routewarden/hack/localcluster"
)

// checkedRoute is a route as AIBrix writes them; the kind and the model's number are filled in.
const checkedRoute = `apiVersion: gateway.networking.k8s.io/v1
kind: %[1]s
metadata:
  name: model-%[2]d-router
  namespace: aibrix-system
  labels:
    model.aibrix.ai/name: model-%[2]d
spec:
  parentRefs:
  - group: gateway.networking.k8s.io
    kind: Gateway
    name: aibrix-eg
    namespace: aibrix-system
  rules:
  - matches:
    - path:
        type: PathPrefix
        value: /v1/completions
      headers:
      - type: Exact
        name: model
        value: model-%[2]d
    - path:
        type: PathPrefix
        value: /v1/chat/completions
      headers:
      - type: Exact
        name: model
        value: model-%[2]d
    backendRefs:
    - group: ""
      kind: Service
      name: model-%[2]d
      namespace: aibrix-system
      port: 8000
      weight: 1
    timeouts:
      request: 120s
`

// checkInput is what is checked and, for comparison, only parsed.
type checkInput struct {
	title     string
	kind      string
	documents int
	oneFile   bool
	// mend is how many documents there are to one route that --fix has to move to the system namespace; 0: none.
	mend int
}

// text is the i-th document.
func (c checkInput) text(i int) string {
	text := fmt.Sprintf(checkedRoute, c.kind, i)
	if c.mend > 0 && i%c.mend == 0 {
		text = strings.Replace(text, "  namespace: aibrix-system\n", "  namespace: team-a\n", 1)
	}
	return text
}

// offline is one process that read an input.
type offline struct {
	wall, cpu time.Duration
	peak      int64 // bytes
}

// benchCheck measures `routewarden check` beside the bare cost of parsing the same YAML.
func benchCheck(ctx context.Context, args []string) (err error) {
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("bench check", flag.ContinueOnError)
	n := flags.Int("n", 10_000, "documents in an input")
	rounds := flags.Int("rounds", 5, "how often each measurement is repeated")
	binary := flags.String("routewarden", filepath.Join(root, "bin", "routewarden"), "the program to measure")
	markdown := flags.String("markdown", "", "also write the table to this file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *n < 1 || *rounds < 1 {
		return errors.New("want -n and -rounds of at least 1, and no arguments")
	}
	if _, err := os.Stat(*binary); err != nil {
		return fmt.Errorf("routewarden is not built, run `make build`: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "routewarden-bench-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	s := section{
		title: "Checking manifests",
		about: fmt.Sprintf("The median of %s. Parsing alone cuts the input into documents and decodes each strictly into its type, with as many workers; "+
			"its number of documents a second is the floor. CPU is in seconds, memory the greatest resident set in MiB.", plural(*rounds, "round")),
		head: []string{"Input", "Documents", "MiB", "", "Documents/s", "ms a document", "Time of floor", "CPU", "Peak memory"},
	}
	for i, input := range []checkInput{
		{"routes in one file", "HTTPRoute", *n, true, 0},
		{"routes in as many files", "HTTPRoute", *n, false, 0},
		{"ten times the routes in one file", "HTTPRoute", 10 * *n, true, 0},
		{"nothing of ours in one file", "Widget", *n, true, 0},
		{"routes in one file, one of a hundred to be mended", "HTTPRoute", *n, true, 100},
		{"routes in one file, all to be mended", "HTTPRoute", *n, true, 1},
	} {
		folder := filepath.Join(dir, fmt.Sprint(i))
		size, err := input.write(folder)
		if err != nil {
			return err
		}
		var parsed, checked, fixed []offline
		for range *rounds {
			p, err := measureProcess(ctx, self, "parse", folder)
			if err != nil {
				return err
			}
			c, err := measureProcess(ctx, *binary, "check", "-f", folder)
			if err != nil {
				return err
			}
			parsed, checked = append(parsed, p), append(checked, c)
			if input.mend > 0 {
				f, err := measureProcess(ctx, *binary, "check", "-f", folder, "--fix")
				if err != nil {
					return err
				}
				fixed = append(fixed, f)
				if _, err := input.write(folder); err != nil { // as it was
					return err
				}
			}
			progress("%s: parsed in %.2fs, checked in %.2fs", input.title, p.wall.Seconds(), c.wall.Seconds())
		}
		floor := middle(parsed)
		type line struct {
			name string
			offline
		}
		lines := []line{{"parsing alone", floor}, {"routewarden check", middle(checked)}}
		if len(fixed) > 0 {
			lines = append(lines, line{"routewarden check --fix", middle(fixed)})
		}
		for _, line := range lines {
			s.rows = append(s.rows, []string{
				input.title, fmt.Sprint(input.documents), fmt.Sprintf("%.1f", float64(size)/(1<<20)), line.name,
				fmt.Sprintf("%.0f", float64(input.documents)/line.wall.Seconds()),
				fmt.Sprintf("%.3f", 1000*line.wall.Seconds()/float64(input.documents)),
				fmt.Sprintf("%.2f×", line.wall.Seconds()/floor.wall.Seconds()),
				fmt.Sprintf("%.2f", line.cpu.Seconds()), fmt.Sprintf("%.0f", float64(line.peak)/(1<<20)),
			})
		}
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	r := report{
		title: "What a check costs",
		preface: []string{fmt.Sprintf("Measured with `%s` on %s: %s, %s.",
			strings.Join(append([]string{"go run ./hack/bench check"}, args...), " "), time.Now().UTC().Format(time.DateOnly), machine(), runtime.Version())},
		sections: []section{s},
	}
	if _, err := os.Stdout.WriteString(r.text()); err != nil || *markdown == "" {
		return err
	}
	return os.WriteFile(*markdown, []byte(r.markdown()), 0o644)
}

// write makes the input in a folder and returns its size in bytes.
func (c checkInput) write(folder string) (size int64, err error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return 0, err
	}
	if !c.oneFile {
		for i := range c.documents {
			text := c.text(i)
			size += int64(len(text))
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%06d.yaml", i)), []byte(text), 0o644); err != nil {
				return 0, err
			}
		}
		return size, nil
	}
	file, err := os.Create(filepath.Join(folder, "all.yaml"))
	if err != nil {
		return 0, err
	}
	w := bufio.NewWriter(file)
	for i := range c.documents {
		n, _ := w.WriteString("---\n" + c.text(i)) // Flush returns the error
		size += int64(n)
	}
	return size, errors.Join(w.Flush(), file.Close())
}

func measureProcess(ctx context.Context, name string, args ...string) (offline, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = io.Discard, &stderr
	start := time.Now()
	err := cmd.Run()
	o := offline{wall: time.Since(start)}
	if err != nil && cmd.ProcessState.ExitCode() != 1 { // findings
		return o, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	o.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if used, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		o.peak = used.Maxrss << 10 // kilobytes on Linux (getrusage(2))
	}
	return o, nil
}

// middle is the measurement of the median time.
func middle(all []offline) offline {
	slices.SortFunc(all, func(a, b offline) int { return cmp.Compare(a.wall, b.wall) })
	return all[len(all)/2]
}

// parseOnly is the floor: it reads a folder's files, cuts them into documents and decodes each.
func parseOnly(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	documents := make(chan []byte, 4*runtime.GOMAXPROCS(0))
	var failed error
	var once sync.Once
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for document := range documents {
				if err := yaml.UnmarshalStrict(document, &gwv1.HTTPRoute{}); err != nil {
					once.Do(func() { failed = err })
				}
			}
		})
	}
	for _, entry := range entries {
		file, err := os.Open(filepath.Join(folder, entry.Name()))
		if err != nil {
			return err
		}
		scanner := bufio.NewScanner(file)
		scanner.Split(func(data []byte, end bool) (int, []byte, error) {
			if i := bytes.Index(data, []byte("---\n")); i >= 0 {
				return i + 4, data[:i], nil
			}
			if end && len(data) > 0 {
				return len(data), data, nil
			}
			return 0, nil, nil
		})
		for scanner.Scan() {
			if len(scanner.Bytes()) > 0 {
				documents <- bytes.Clone(scanner.Bytes())
			}
		}
		if err := errors.Join(scanner.Err(), file.Close()); err != nil {
			return err
		}
	}
	close(documents)
	workers.Wait()
	return failed
}
