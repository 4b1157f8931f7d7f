package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/routewarden/routewarden/hack/localcluster"
	"github.com/routewarden/routewarden/hack/netns"
	"github.com/routewarden/routewarden/hack/node"
	"github.com/routewarden/routewarden/hack/node/ha"
)

// benchHA measures what becomes of routes that are created while parts of the cluster fail.
func benchHA(ctx context.Context, args []string) error {
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("bench ha", flag.ContinueOnError)
	rate := flags.Int("rate", 50, "routes that are created a second")
	binary := flags.String("routewarden", filepath.Join(root, "bin", "routewarden"), "the program to measure, a static binary")
	markdown := flags.String("markdown", "", "also write the table to this file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *rate < 1 {
		return errors.New("want a -rate of at least 1, and no arguments")
	}
	program, err := filepath.Abs(*binary)
	if err != nil {
		return err
	}
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("routewarden is not built, run `make build`: %w", err)
	}
	crds, err := localcluster.GatewayAPI(ctx, "standard")
	if err != nil {
		return err
	}
	if !netns.Isolated() {
		if err := node.Prepare(); err != nil {
			return err
		}
		exit, err := netns.Isolate()
		if err == nil && exit != 0 {
			os.Exit(exit)
		}
		return err
	}

	results, err := measureHA(ctx, crds, program, *rate)
	if err != nil {
		return err
	}
	head, rows := ha.Table(results)
	r := report{
		title: "Creating routes while parts of the cluster fail",
		preface: []string{
			fmt.Sprintf("Measured with `%s` on %s: %s, %s.", strings.Join(append([]string{"go run ./hack/bench ha"}, args...), " "),
				time.Now().UTC().Format(time.DateOnly), machine(), runtime.Version()),
			fmt.Sprintf("`manifests/install.yaml` as it is shipped, with `--outside=rewrite`: two replicas behind their Service, in a cluster of one node ([what is real in it](node/README.md)). "+
				"Four tenants create %d routes a second, in turn one that refers to a namespace without consent, one that needs a new ReferenceGrant, and one that is relocated.", *rate),
			"“Failed: routewarden” are creations that failed because routewarden did not answer, could not decide, or decided wrongly, and neither the API server nor etcd was away while they lasted. " +
				"A replica that is killed takes with it the calls it was answering, and new ones reach it until kube-proxy has taken its endpoint out of the kernel's rules, which is observed there. " +
				"The node's stand-in for a kubelet notices the end of a process at once; a kubelet may take a second.",
			"After each event every stored route had its ReferenceGrant and every relocated one its copy; after all of them and the grace nothing else was there, and when the routes were deleted nothing was left.",
		},
		sections: []section{{title: "Events", head: head, rows: rows}},
	}
	if *markdown != "" {
		err = os.WriteFile(*markdown, []byte(r.markdown()), 0o644)
	}
	_, printErr := os.Stdout.WriteString(r.text())
	return errors.Join(err, printErr)
}

func measureHA(ctx context.Context, crds, program string, rate int) (results []*ha.Result, err error) {
	cluster, err := node.Start(ctx, node.Options{
		Program:  func(string) (string, error) { return program, nil },
		CRDs:     []string{crds},
		Progress: func(line string) { progress("  %s", line) },
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	if err := cluster.Namespace(ctx, "aibrix-system", nil); err != nil {
		return nil, err
	}
	if err := cluster.Install(ctx); err != nil {
		return nil, err
	}
	return results, ha.Run(ctx, cluster, ha.Options{Rate: rate, Events: ha.Events(), Tell: func(r *ha.Result) {
		progress("%s", r.Words())
		results = append(results, r)
	}})
}
