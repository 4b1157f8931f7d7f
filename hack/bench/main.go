// Command bench measures what admission costs. It creates HTTPRoutes through a real API server without a webhook, with
// one that allows everything, and with routewarden, and prints them side by side.
//
//	bench [flags]         measure admission, with the tables on stdout
//	bench check [flags]   measure `routewarden check` beside parsing the same YAML
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
	"strconv"
	"strings"
	"syscall"

	"github.com/routewarden/routewarden/hack/localcluster"
)

func main() {
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
	// binary is the routewarden that is measured, serveFlags are added to its flags.
	binary     string
	serveFlags []string
	markdown   string
}

func run(ctx context.Context, args []string) error {
	if len(args) == 3 && args[0] == "noop" {
		return serveNoop(ctx, args[1], args[2])
	}
	if len(args) == 2 && args[0] == "parse" {
		return parseOnly(args[1])
	}
	if len(args) > 0 && args[0] == "check" {
		return benchCheck(ctx, args[1:])
	}
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	o := options{workers: []int{1, 16}}
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
	// A file that cannot be written should be known now, not in half an hour.
	var file *os.File
	if o.markdown != "" {
		if file, err = os.OpenFile(o.markdown, os.O_WRONLY|os.O_CREATE, 0o644); err != nil {
			return err
		}
		defer file.Close()
	}

	results, err := measure(ctx, o)
	if err != nil {
		return err
	}
	report := newReport(o, args, results)
	if _, err := os.Stdout.WriteString(report.text()); err != nil {
		return err
	}
	if file == nil {
		return nil
	}
	return errors.Join(file.Truncate(0), writeAll(file, report.markdown()))
}

func writeAll(file *os.File, text string) error {
	_, err := file.WriteString(text)
	return err
}

// measure runs all measurements in a control plane of its own.
func measure(ctx context.Context, o options) (*results, error) {
	if _, err := os.Stat(o.binary); err != nil {
		return nil, fmt.Errorf("routewarden is not built, run `make build`: %w", err)
	}
	cluster, err := localcluster.Start(ctx, localcluster.Options{
		Progress: func(step string) { progress("%s", step) },
		// Deleting what was created takes a good part of the time.
		APIServerFlags: []string{"--delete-collection-workers=8"},
	})
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, cluster: cluster}
	results, err := b.run(ctx)
	progress("stopping")
	return results, errors.Join(err, cluster.Stop())
}

// progress tells a person what is being done.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
