package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/routesteward/routesteward/hack/localcluster"
)

// contender is what stands between a client and the stored route.
type contender string

const (
	noWebhook    contender = "no webhook"
	noopWebhook  contender = "no-op webhook"
	twoWrites    contender = "two plain writes"
	routesteward contender = "routesteward"
)

// scenario is a kind of route.
type scenario struct {
	name string
	// target is the namespace of the backends.
	target     string
	contenders []contender
	// floor is the contender that the others are compared with.
	floor contender
}

func scenarios() []scenario {
	return []scenario{
		{"no decision", systemNamespace, []contender{noWebhook, noopWebhook, routesteward}, noWebhook},
		{"evaluated", sharedNamespace, []contender{noWebhook, noopWebhook, routesteward}, noopWebhook},
		{"new grant", consentingNamespace, []contender{noWebhook, noopWebhook, twoWrites, routesteward}, twoWrites},
	}
}

func (s scenario) grants() bool { return s.target == consentingNamespace }

// cell is one line of the table.
type cell struct {
	scenario string
	workers  int
	contender
}

// sample is one measurement of a cell.
type sample struct {
	load
	// cpu is that of the API server, of etcd, and of the webhook; peak and requests are the webhook's.
	cpu      [3]time.Duration
	peak     int64
	requests int
	// Of the grants that were read when the create of their route returned, so many were not there.
	read, unready int64
	// missing and late are grants in the end, and those that were stored after their route.
	missing, late int
}

// readBackEvery is of how many routes one has its grant read.
const readBackEvery = 20

// creating measures each kind of route in a new control plane in each round.
func creating(scenarios []scenario, workers ...int) func(context.Context, options) ([]table, error) {
	return func(ctx context.Context, o options) ([]table, error) {
		samples := map[cell][]sample{}
		for round := range o.rounds {
			for _, s := range scenarios {
				progress("round %d of %d, routes: %s", round+1, o.rounds, s.name)
				if err := inNewCluster(ctx, o, func(b *bench) error { return b.compare(ctx, s, workers, round, samples) }); err != nil {
					return nil, err
				}
			}
		}
		return []table{createdTable(scenarios, workers, samples)}, nil
	}
}

func createdTable(scenarios []scenario, workers []int, samples map[cell][]sample) table {
	t := table{head: []string{"Routes", "Workers", "Against", "p50 ms", "p99 ms", "Routes/s", "of floor", "Range",
		"CPU ms kube-apiserver", "etcd", "webhook", "Its requests", "MiB at most", "Grants unready", "missing", "late"}}
	for _, s := range scenarios {
		for _, workers := range workers {
			for _, c := range s.contenders {
				all := samples[cell{s.name, workers, c}]
				of := func(value func(sample) float64) float64 { return medianOf(all, value) }
				each := func(value func(sample) float64) float64 {
					return of(func(s sample) float64 { return value(s) / float64(len(s.latencies)) })
				}
				cpu := func(process int) float64 {
					return each(func(s sample) float64 { return milliseconds(s.cpu[process]) })
				}
				throughput := ratios(all, samples[cell{s.name, workers, s.floor}], sample.perSecond)
				row := []any{s.name, workers, c, of(func(s sample) float64 { return quantile(s.latencies, 0.5) }), of(func(s sample) float64 { return quantile(s.latencies, 0.99) }),
					int(of(sample.perSecond)), percent(median(throughput)), spread(throughput), cpu(0), cpu(1), cpu(2)}
				if c == routesteward {
					row = append(row, each(func(s sample) float64 { return float64(s.requests) }), mebibytes(int64(of(func(s sample) float64 { return float64(s.peak) }))))
				} else {
					row = append(row, "", "")
				}
				if c == routesteward && s.grants() {
					var sum sample
					for _, one := range all {
						sum.read, sum.unready = sum.read+one.read, sum.unready+one.unready
						sum.missing, sum.late = sum.missing+one.missing, sum.late+one.late
					}
					row = append(row, fmt.Sprintf("%d of %d", sum.unready, sum.read), sum.missing, sum.late)
				} else {
					row = append(row, "", "", "")
				}
				t.row(row...)
			}
		}
	}
	return t
}

// compare measures each of the scenario's contenders once for each number of workers.
func (b *bench) compare(ctx context.Context, s scenario, workers []int, round int, samples map[cell][]sample) error {
	// An API server is fastest when it is new, which would favor whoever comes first.
	if _, err := create(ctx, newRoutes(b.n, "first", s.target), 16, b.createRoute); err != nil {
		return err
	}
	if err := b.clean(ctx); err != nil {
		return err
	}
	for _, workers := range workers {
		for i := range s.contenders {
			// Each round begins with another one.
			c := cell{s.name, workers, s.contenders[(i+round)%len(s.contenders)]}
			sample, err := b.measure(ctx, s, c)
			if err != nil {
				return fmt.Errorf("%s, %d workers, %s: %w", c.scenario, c.workers, c.contender, err)
			}
			progress("  %d workers, %s: %.0f routes/s", c.workers, c.contender, sample.perSecond())
			samples[c] = append(samples[c], sample)
		}
	}
	return nil
}

// measure starts the contender, creates routes, and leaves the cluster as it was.
func (b *bench) measure(ctx context.Context, s scenario, c cell) (m sample, err error) {
	var process *localcluster.Process
	var server *localcluster.Server
	write := b.createRoute
	switch c.contender {
	case noopWebhook:
		process, err = b.startNoop(ctx)
	case routesteward:
		if server, err = b.startRoutesteward(ctx); err == nil {
			process = server.Process
		}
	case twoWrites:
		write = b.createGrantAndRoute
	}
	if err != nil {
		return m, err
	}
	defer func() {
		if process != nil {
			err = errors.Join(err, process.Stop(), b.removeWebhooks(ctx))
		}
		err = errors.Join(err, b.clean(ctx))
	}()
	if _, err := create(ctx, newRoutes(max(50, b.n/10), "warm", s.target), c.workers, write); err != nil {
		return m, err
	}
	routes := newRoutes(b.n, "model", s.target)
	runtime.GC() // none of this program's while the time runs, as far as possible
	used := func() (u [3]usage, requests int, err error) {
		// What a process does with the routes when they have been created belongs to its costs.
		if err = pause(ctx, time.Second); server != nil {
			var metrics scraped
			metrics, _, err = settle(ctx, server)
			requests = metrics.requests()
		}
		for i, p := range []*localcluster.Process{b.Process(apiServer), b.Process(etcdName), process} {
			if p != nil {
				u[i] = readUsage(p.PID())
			}
		}
		return u, requests, err
	}
	before, requests, err := used()
	if err != nil {
		return m, err
	}
	var read, unready atomic.Int64
	m.load, err = create(ctx, routes, c.workers, write, func(ctx context.Context, r route) error {
		if !s.grants() || server == nil || read.Add(1)%readBackEvery != 0 {
			return nil
		}
		there, err := b.hasGrant(ctx, r)
		if !there {
			unready.Add(1)
		}
		return err
	})
	if err != nil {
		return m, err
	}
	after, total, err := used()
	if err != nil {
		return m, err
	}
	for i := range after {
		m.cpu[i] = after[i].cpu - before[i].cpu
	}
	m.peak, m.requests, m.read, m.unready = after[2].peak, total-requests, read.Load()/readBackEvery, unready.Load()
	if s.grants() && server != nil {
		m.missing, m.late, err = b.late(ctx, routes)
	}
	return m, err
}
