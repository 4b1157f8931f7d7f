// Command bench measures what admission costs. It creates HTTPRoutes through a real API server without a webhook, with
// one that allows everything, and with routewarden, and prints them side by side.
//
//	bench [flags]         measure admission, with the tables on stdout
//	bench handler [flags]   measure the handler beside one that allows everything
//	bench check [flags]   measure `routewarden check` beside parsing the same YAML
//	bench relocate [flags]  measure how long it takes until the copies of many relocated routes are there
//	bench gateways [flags]  measure how soon a new route is served by real gateways
//	bench burst [flags]  measure a burst of routes that each need a new grant
//	bench scale [flags]  measure routewarden in clusters of up to 100,000 routes
//	bench ha [flags]        measure what becomes of routes while replicas, the API server and etcd fail
//	bench parse DIR       internal: parse the files of a folder and nothing else
//	bench noop DIR ADDR   internal: serve the webhook that allows everything
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/routewarden/routewarden/hack/localcluster"
	"github.com/routewarden/routewarden/hack/node"
)

func main() {
	node.Contain() // bench ha starts this program as its Pods
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "interrupted")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
}

// options are the command's flags.
type options struct {
	// routes are created in each measurement, in each of so many rounds, by so many workers.
	routes, rounds int
	workers        []int
	scenarios      []scenario
	// binary is the routewarden that is measured, serveFlags are added to its flags.
	binary     string
	serveFlags []string
	// apiServerFlags are added to kube-apiserver's.
	apiServerFlags []string
	markdown       string
}

func run(ctx context.Context, args []string) error {
	if len(args) == 3 && args[0] == "noop" {
		return serveNoop(ctx, args[1], args[2])
	}
	if len(args) == 2 && args[0] == "parse" {
		return parseOnly(args[1])
	}
	if len(args) == 4 && args[0] == "handler" && args[1] == "serve" { // bench handler starts this program so
		return serveHandler(ctx, args[2], args[3])
	}
	if len(args) > 0 && args[0] == "handler" {
		return benchHandler(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "check" {
		return benchCheck(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "relocate" {
		return benchRelocate(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "gateways" {
		return benchGateways(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "burst" {
		return benchBurst(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "scale" {
		return benchScale(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "ha" {
		return benchHA(ctx, args[1:])
	}
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	o := options{workers: []int{1, 16}, scenarios: scenarios()}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.routes, "n", 2000, "routes in each measurement")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each measurement is repeated")
	quick := flags.Bool("quick", false, "see that it works: 200 routes in one round, unless -n or -rounds is given")
	flags.StringVar(&o.markdown, "markdown", "", "also write the tables to this file")
	flags.Func("workers", "how many clients create at once, with commas (default 1,16)", func(text string) error {
		o.workers = nil
		for number := range strings.SplitSeq(text, ",") {
			workers, err := strconv.Atoi(number)
			if err != nil || workers < 1 {
				return fmt.Errorf("%q is not a number of workers", number)
			}
			o.workers = append(o.workers, workers)
		}
		return nil
	})
	var only []scenario
	flags.Func("only", "measure only these routes: no decision, judged, new grant; may be repeated", func(name string) error {
		i := slices.IndexFunc(scenarios(), func(s scenario) bool { return s.name == name })
		if i < 0 {
			return errors.New("want no decision, judged or new grant")
		}
		only = append(only, scenarios()[i])
		return nil
	})
	flags.StringVar(&o.binary, "routewarden", filepath.Join(root, "bin", "routewarden"), "the program to measure")
	flags.Func("serve", "a flag for routewarden, such as --log-level=error; may be repeated", func(text string) error {
		o.serveFlags = append(o.serveFlags, text)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if only != nil {
		o.scenarios = only
	}
	if *quick {
		given := map[string]bool{}
		flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
		if !given["n"] {
			o.routes = 200
		}
		if !given["rounds"] {
			o.rounds = 1
		}
	}
	if o.routes < 1 || o.rounds < 1 {
		return errors.New("-n and -rounds must be at least 1")
	}
	// What cannot be written at the end should be known now.
	if _, err := os.Stat(filepath.Dir(o.markdown)); err != nil {
		return err
	}
	results, err := measure(ctx, o)
	if err != nil {
		return err
	}
	report := newReport(o, args, results)
	if o.markdown != "" {
		err = os.WriteFile(o.markdown, []byte(report.markdown()), 0o644)
	}
	_, printErr := os.Stdout.WriteString(report.text())
	return errors.Join(err, printErr)
}

// progress tells a person what is being done.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
