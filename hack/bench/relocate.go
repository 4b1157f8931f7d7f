package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/routewarden/routewarden/hack/localcluster"
	"github.com/routewarden/routewarden/policy"
)

// teams is how many namespaces the relocated routes come from.
const teams = 10

// relocation is one round.
type relocation struct {
	// floor is how long it takes to create every route, its copy and the copy's grant by hand, without routewarden.
	floor time.Duration
	// created is when the last create of a source has returned, converged when every copy was there, both from the first one on.
	created, converged time.Duration
	// restarted is how long a routewarden that finds no copies takes from its start until every one is there.
	restarted time.Duration
}

// benchRelocate measures how long it takes until the copies of many routes are there.
func benchRelocate(ctx context.Context, args []string) error {
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("bench relocate", flag.ContinueOnError)
	o := options{serveFlags: []string{"--outside=rewrite"}}
	flags.IntVar(&o.routes, "n", 1000, "routes that are relocated")
	flags.IntVar(&o.rounds, "rounds", 3, "how often it is measured")
	flags.StringVar(&o.binary, "routewarden", filepath.Join(root, "bin", "routewarden"), "the program to measure")
	flags.StringVar(&o.markdown, "markdown", "", "also write the table to this file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.routes < 1 || o.rounds < 1 {
		return errors.New("want -n and -rounds of at least 1, and no arguments")
	}
	var rounds []relocation
	for round := range o.rounds {
		err := inNewCluster(ctx, o, func(b *bench) error {
			r, err := b.relocate(ctx)
			rounds = append(rounds, r)
			progress("round %d of %d: %.1f s until %d copies were there", round+1, o.rounds, r.converged.Seconds(), o.routes)
			return err
		})
		if err != nil {
			return err
		}
	}
	seconds := func(of func(relocation) time.Duration) string {
		var values []float64
		for _, r := range rounds {
			values = append(values, of(r).Seconds())
		}
		return fmt.Sprintf("%.1f (%.1f to %.1f)", median(values), slices.Min(values), slices.Max(values))
	}
	ratio := func(of func(relocation) time.Duration) string {
		var values []float64
		for _, r := range rounds {
			values = append(values, of(r).Seconds()/r.floor.Seconds())
		}
		return fmt.Sprintf("%.2f", median(values))
	}
	rows := [][]string{}
	for _, line := range []struct {
		name string
		of   func(relocation) time.Duration
	}{
		{"three plain writes each: grant, copy, source", func(r relocation) time.Duration { return r.floor }},
		{"until every source was created", func(r relocation) time.Duration { return r.created }},
		{"until every copy was there", func(r relocation) time.Duration { return r.converged }},
		{"routewarden started anew, every copy gone: until all are back", func(r relocation) time.Duration { return r.restarted }},
	} {
		rows = append(rows, []string{line.name, seconds(line.of), ratio(line.of)})
	}
	report := report{
		title: "What a relocation costs",
		preface: []string{fmt.Sprintf("Measured with `%s` on %s: %d routes of %d namespaces, created by 16 workers; the median of %s, and their range. A floor for each round is what it takes to write the same objects by hand, without a webhook.",
			strings.Join(append([]string{"go run ./hack/bench relocate"}, args...), " "), machine(), o.routes, teams, plural(o.rounds, "round"))},
		sections: []section{{title: "Relocating routes", head: []string{"", "Seconds", "Of floor"}, rows: rows}},
	}
	if o.markdown != "" {
		err = os.WriteFile(o.markdown, []byte(report.markdown()), 0o644)
	}
	_, printErr := os.Stdout.WriteString(report.text())
	return errors.Join(err, printErr)
}

func team(i int) string { return fmt.Sprintf("team-%d", i%teams) }

// sources are n routes outside the system namespace, each to a Service of its own beside it.
func sources(n int, prefix string) []route {
	routes := make([]route, n)
	for i := range routes {
		model := fmt.Sprintf("%s-%d", prefix, i)
		namespace := team(i)
		r := route{name: namespace + "/" + model + "-router"}
		r.body = fmt.Appendf(nil, routeJSON, model+"-router", namespace, systemNamespace, model, model, namespace)
		// routeJSON names no namespace in its parentRef.
		r.body = []byte(strings.Replace(string(r.body), `[{"name":"aibrix-eg"`, `[{"name":"aibrix-eg","namespace":"`+systemNamespace+`"`, 1))
		r.grantName = policy.Edge{
			Origin: namespace, FromKind: policy.HTTPRoute, FromNamespace: systemNamespace, Namespace: namespace, Kind: "Service", Name: model,
		}.GrantName()
		r.grantBody = fmt.Appendf(nil, grantJSON, r.grantName, namespace, systemNamespace, model)
		routes[i] = r
	}
	return routes
}

func (b *bench) createSource(ctx context.Context, r route) error {
	namespace, _, _ := strings.Cut(r.name, "/")
	return b.post(ctx, collection(namespace, "httproutes"), r.body)
}

// writeByHand is what a relocation comes to.
func (b *bench) writeByHand(ctx context.Context, r route) error {
	namespace, _, _ := strings.Cut(r.name, "/")
	if err := b.post(ctx, collection(namespace, "referencegrants"), r.grantBody); err != nil {
		return err
	}
	copied := strings.Replace(string(r.body), `"namespace":"`+namespace+`"},"spec"`, `"namespace":"`+systemNamespace+`"},"spec"`, 1)
	if err := b.post(ctx, collection(systemNamespace, "httproutes"), []byte(copied)); err != nil {
		return err
	}
	return b.createSource(ctx, r)
}

func (b *bench) relocate(ctx context.Context) (r relocation, err error) {
	for i := range teams {
		if err := b.post(ctx, "/api/v1/namespaces", []byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"`+team(i)+`"}}`)); err != nil {
			return r, err
		}
	}
	// An API server is fastest when it is new.
	if _, err := create(ctx, sources(max(50, b.options.routes/10), "warm"), 16, b.writeByHand, nil); err != nil {
		return r, err
	}
	byHand, err := create(ctx, sources(b.options.routes, "hand"), 16, b.writeByHand, nil)
	if err != nil {
		return r, err
	}
	r.floor = byHand.elapsed
	if err := b.cleanTeams(ctx); err != nil {
		return r, err
	}

	process, stop, err := b.start(ctx, routewarden)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	began := time.Now()
	sources := sources(b.options.routes, "model")
	load, err := create(ctx, sources, 16, b.createSource, nil)
	if err != nil {
		return r, err
	}
	r.created = load.elapsed
	if r.converged, err = b.copies(ctx, began); err != nil {
		return r, err
	}

	// The registration stays, and deletions are not intercepted.
	if err := process.Stop(); err != nil {
		return r, err
	}
	if err := b.clients.RESTClient().Delete().AbsPath(collection(systemNamespace, "httproutes")).Do(ctx).Error(); err != nil {
		return r, err
	}
	began = time.Now()
	server, err := b.cluster.Serve(ctx, localcluster.ServeOptions{Binary: b.options.binary, Flags: b.options.serveFlags})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	r.restarted, err = b.copies(ctx, began)
	return r, err
}

// copies returns how long after a moment as many routes as were relocated are in the system namespace.
func (b *bench) copies(ctx context.Context, since time.Time) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		there, err := b.list(ctx, collection(systemNamespace, "httproutes"))
		if err != nil {
			return 0, err
		}
		if len(there) >= b.options.routes {
			return time.Since(since), nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return 0, fmt.Errorf("%d of %d copies are there: %w", len(there), b.options.routes, err)
		}
	}
}

func (b *bench) cleanTeams(ctx context.Context) error {
	errs := []error{b.clean(ctx)}
	for i := range teams {
		for _, resource := range []string{"httproutes", "referencegrants"} {
			errs = append(errs, b.clients.RESTClient().Delete().AbsPath(collection(team(i), resource)).Do(ctx).Error())
		}
	}
	return errors.Join(errs...)
}
