// Command bench measures what routesteward costs, beside a baseline in the same run, and prints Markdown for
// hack/BENCHMARKS.md. See measurements for what there is.
//
//	bench NAME [-n N] [-rounds N] [-routesteward PROGRAM]
//	bench noop DIR PORT   internal: serve the webhook that allows everything
//	bench parse DIR       internal: parse the files of a folder and nothing else
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/netns"
	"github.com/routesteward/routesteward/hack/node"
)

func main() {
	node.Contain() // bench ha starts this program as its Pods
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	err := run(ctx, os.Args[1:], os.Stdout)
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

// options are the flags of a measurement.
type options struct {
	// n is what -n means to the measurement, rounds how often it is repeated.
	n, rounds int
	binary    string
}

type measurement struct {
	name, title string
	// counted is what -n is.
	counted string
	// defaults of the flags; without rounds there is no flag.
	defaults options
	run      func(context.Context, options) ([]table, error)
	about    string
}

const created = "Medians of the rounds. “Of floor” is the throughput as a part of the floor's in the same round, then the range of the rounds; the floor is no webhook, " +
	"for evaluated routes the webhook that allows everything, and for new grants two plain writes. CPU and requests are for one route. " +
	"Grants: those of some that were not there when the create of their route returned, those missing in the end, those that etcd stored after their route."

func measurements() []measurement {
	return []measurement{
		{"admission", "Creating routes", "routes in each measurement", options{n: 600, rounds: 3}, creating(scenarios(), 1, 16), created},
		{"burst", "A burst of routes that each need a new ReferenceGrant", "routes", options{n: 10_000, rounds: 1},
			creating([]scenario{{"new grant", consentingNamespace, []contender{twoWrites, routesteward}, twoWrites}}, 16), created},
		{"scale", "A large cluster", "routes; a fifth as many need a grant, in a tenth as many namespaces", options{n: 100_000, rounds: 5}, scale,
			"Another cluster stays at 300 routes and is measured in turns with the large one. Most objects of both are put into etcd directly: copies of what the API server has stored for one."},
		{"check", "Checking manifests", "documents", options{n: 10_000, rounds: 5}, check,
			"Medians of the rounds. The floor cuts the input into documents and decodes each strictly into its type, with as many workers. Memory is the greatest resident set."},
		{"relocation", "Relocating routes", "routes", options{n: 1000, rounds: 3}, relocation,
			"Routes of 10 namespaces, created by 16 workers with `--outside=rewrite`. The floor writes each grant, copy, and source itself, without a webhook."},
		{"gateways", "From a new route to its first answer", "routes for each order in a round", options{n: 20, rounds: 2}, firstAnswers,
			"Routes are created one after the other in a quiet cluster. Times begin when the client sends the route. Traefik looks at the cluster every 50 ms and answers requests; “RefNotPermitted first” " +
				"is how often that was the first status that a gateway wrote for the route."},
		{"ha", "Creating routes while parts of the cluster fail", "routes that are created a second", options{n: 50}, highAvailability,
			"`manifests/install.yaml` with `--outside=rewrite`: two replicas behind their Service, in the cluster of [hack/node](node/README.md). After each event every stored route had its ReferenceGrant " +
				"and every relocated one its copy; when the routes were deleted nothing was left."},
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	switch {
	case len(args) == 3 && args[0] == "noop":
		return serveNoop(ctx, args[1], args[2])
	case len(args) == 2 && args[0] == "parse":
		return parseOnly(args[1])
	}
	all := measurements()
	i := slices.IndexFunc(all, func(m measurement) bool { return len(args) > 0 && m.name == args[0] })
	if i < 0 {
		var names []string
		for _, m := range all {
			names = append(names, m.name)
		}
		return fmt.Errorf("want one of %s", strings.Join(names, ", "))
	}
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	m, o := all[i], all[i].defaults
	flags := flag.NewFlagSet("bench "+m.name, flag.ContinueOnError)
	flags.IntVar(&o.n, "n", o.n, m.counted)
	if o.rounds > 0 {
		flags.IntVar(&o.rounds, "rounds", o.rounds, "how often it is measured")
	}
	flags.StringVar(&o.binary, "routesteward", filepath.Join(root, "bin", "routesteward"), "the program to measure, a static binary")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.n < 1 || m.defaults.rounds > 0 && o.rounds < 1 {
		return errors.New("want -n and -rounds of at least 1, and no arguments")
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	if _, err := os.Stat(o.binary); err != nil {
		return fmt.Errorf("routesteward is not built, run `make build`: %w", err)
	}
	tables, err := m.run(ctx, o)
	if err != nil || tables == nil { // the isolated process has printed them
		return err
	}
	return write(out, m, args, tables)
}

// isolated runs this program again in a network of its own, after prepare, and reports whether this is that process.
func isolated(prepare func() error) (bool, error) {
	if netns.Isolated() {
		return true, nil
	}
	if err := prepare(); err != nil {
		return false, err
	}
	exit, err := netns.Isolate()
	if err == nil && exit != 0 {
		os.Exit(exit)
	}
	return false, err
}

// progress reports what is being done.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
