package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// teams is how many namespaces the relocated routes come from.
const teams = 10

func team(i int) string { return fmt.Sprintf("team-%d", i%teams) }

// relocated are the times of one round.
type relocated [4]time.Duration

var relocatedTimes = [len(relocated{})]string{
	"grant, copy and source written without routesteward",
	"until every source was created",
	"until every copy was there",
	"routesteward restarted with every copy gone, until all are back",
}

// relocation measures how long it takes until the copies of many routes are there.
func relocation(ctx context.Context, o options) ([]table, error) {
	var rounds []relocated
	for round := range o.rounds {
		progress("round %d of %d", round+1, o.rounds)
		err := inNewCluster(ctx, o, func(b *bench) error {
			r, err := b.relocate(ctx)
			rounds = append(rounds, r)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	t := table{head: []string{"Routes", "", "Seconds", "of floor", "Range"}}
	for i, name := range relocatedTimes {
		var times, ofFloor []float64
		for _, r := range rounds {
			times, ofFloor = append(times, r[i].Seconds()), append(ofFloor, r[i].Seconds()/r[0].Seconds())
		}
		t.row(o.n, name, median(times), percent(median(ofFloor)), spread(ofFloor))
	}
	return []table{t}, nil
}

// sources are n routes outside the system namespace, each to a Service of its own beside it.
func sources(n int, prefix string) []route {
	routes := make([]route, n)
	for i := range routes {
		routes[i] = newRoute(fmt.Sprintf("%s-%d", prefix, i), team(i), team(i))
	}
	return routes
}

// writeAll is what a relocation comes to.
func (b *bench) writeAll(ctx context.Context, r route) error {
	if err := b.createGrantAndRoute(ctx, r); err != nil {
		return err
	}
	return b.createRoute(ctx, newRoute(r.model, systemNamespace, r.target))
}

func (b *bench) relocate(ctx context.Context) (r relocated, err error) {
	for i := range teams {
		if err := b.post(ctx, namespaces, fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, team(i))); err != nil {
			return r, err
		}
	}
	// An API server is fastest when it is new.
	if _, err := create(ctx, sources(max(50, b.n/10), "warm"), 16, b.writeAll); err != nil {
		return r, err
	}
	floor, err := create(ctx, sources(b.n, "floor"), 16, b.writeAll)
	if err != nil {
		return r, err
	}
	r[0] = floor.elapsed
	errs := []error{b.clean(ctx)}
	for i := range teams {
		errs = append(errs, b.delete(ctx, collection(team(i), "httproutes")), b.delete(ctx, collection(team(i), "referencegrants")))
	}
	if err := errors.Join(errs...); err != nil {
		return r, err
	}

	server, err := b.startRoutesteward(ctx, "--outside=rewrite")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	began := time.Now()
	load, err := create(ctx, sources(b.n, "model"), 16, b.createRoute)
	if err != nil {
		return r, err
	}
	r[1] = load.elapsed
	if err := b.copied(ctx); err != nil {
		return r, err
	}
	r[2] = time.Since(began)

	// The registration stays, and deletions are not intercepted.
	if err := errors.Join(server.Stop(), b.delete(ctx, collection(systemNamespace, "httproutes"))); err != nil {
		return r, err
	}
	began = time.Now()
	again, err := b.serve(ctx, "--outside=rewrite")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, again.Stop()) }()
	err = b.copied(ctx)
	r[3] = time.Since(began)
	return r, err
}

// copied returns when as many routes as were relocated are in the system namespace.
func (b *bench) copied(ctx context.Context) error {
	return wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 5*time.Minute, true, func(ctx context.Context) (bool, error) {
		there, err := b.list(ctx, collection(systemNamespace, "httproutes"))
		return len(there) >= b.n, err
	})
}
