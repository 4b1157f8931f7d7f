package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/routesteward/routesteward/hack/localcluster"
)

// scale compares a large cluster with a small one.
func scale(ctx context.Context, o options) (tables []table, err error) {
	if o.n < 50 {
		return nil, errors.New("want -n of at least 50")
	}
	err = inNewCluster(ctx, o, func(small *bench) error {
		return inNewCluster(ctx, o, func(large *bench) (err error) {
			tables, err = scaleTables(ctx, o, small, large)
			return err
		})
	})
	return tables, err
}

// start is one of the process.
type start struct {
	// ready is when it was, and settled when the reconcilers had nothing left to do, from the start of the process.
	ready, settled   time.Duration
	cpu, apiServer   time.Duration
	peak             int64
	requests, writes int
}

// observe starts routesteward and returns when it has settled.
func (b *bench) observe(ctx context.Context) (server *localcluster.Server, s start, err error) {
	api, began := b.Process(apiServer).PID(), time.Now()
	before := readUsage(api)
	if server, err = b.serve(ctx); err != nil {
		return nil, s, err
	}
	s.ready = time.Since(began)
	metrics, at, err := settle(ctx, server)
	if err != nil {
		return nil, s, errors.Join(err, server.Stop())
	}
	used := readUsage(server.PID())
	s.settled, s.cpu, s.apiServer, s.peak = at.Sub(began), used.cpu, readUsage(api).cpu-before.cpu, used.peak
	s.requests, s.writes = metrics.requests(), metrics.writes()
	return server, s, nil
}

// watched is a cluster with its routesteward.
type watched struct {
	*bench
	server *localcluster.Server
}

func scaleTables(ctx context.Context, o options, small, large *bench) (_ []table, err error) {
	full := size{o.n, o.n / 5, o.n / 10}
	few := min(300, full.edges)
	progress("seeding %d and %d routes", few, full.routes)
	if err := errors.Join(small.seed(ctx, size{few, few, (few + 1) / 2}), large.seed(ctx, full), small.Install(ctx), large.Install(ctx)); err != nil {
		return nil, err
	}
	var both [2]watched // small, then large
	defer func() {
		for _, b := range both {
			if b.server != nil {
				err = errors.Join(err, b.server.Stop())
			}
		}
	}()
	starts := table{title: "Starts", head: []string{"Routes", "Namespaces", "Grants missing", "Ready s", "Settled s", "Requests", "Writes", "CPU s", "CPU s kube-apiserver", "MiB at most"}}
	add := func(s size, missing int, one start) {
		progress("  %d routes, %d grants missing: ready after %s s, settled after %s s", s.routes, missing, seconds(one.ready), seconds(one.settled))
		starts.row(s.routes, s.namespaces, missing, seconds(one.ready), seconds(one.settled), one.requests, one.writes, seconds(one.cpu), seconds(one.apiServer), mebibytes(one.peak))
	}
	server, first, err := small.observe(ctx)
	if err != nil {
		return nil, err
	}
	both[0] = watched{small, server}
	add(size{few, few, (few + 1) / 2}, few, first)
	server, first, err = large.observe(ctx)
	if err != nil {
		return nil, err
	}
	both[1] = watched{large, server}
	add(full, full.edges, first)
	// How long it takes depends on how often the API server happens to collect its garbage meanwhile.
	var again []start
	for range 3 {
		if err := both[1].server.Stop(); err != nil {
			return nil, err
		}
		server, one, err := large.observe(ctx)
		if err != nil {
			return nil, err
		}
		both[1].server, again = server, append(again, one)
	}
	slices.SortFunc(again, func(a, b start) int { return cmp.Compare(a.ready, b.ready) })
	add(full, 0, again[len(again)/2])
	for _, b := range both {
		if _, err := b.WaitIntercepted(ctx); err != nil {
			return nil, err
		}
	}
	admissions, err := admissionsAtScale(ctx, o, both, few)
	if err != nil {
		return nil, err
	}
	audit, err := large.audit(ctx)
	return []table{starts, admissions, audit}, err
}

// admissionsAtScale creates routes in both clusters.
func admissionsAtScale(ctx context.Context, o options, both [2]watched, n int) (table, error) {
	t := table{title: "Creating a route", head: []string{"Routes", "New route", "p50 ms small", "p50 ms large", "large/small", "p99 ms small", "p99 ms large", "large/small"}}
	for _, s := range scenarios() {
		progress("creating routes: %s", s.name)
		var loads [2][]load
		for round := range o.rounds + 1 { // the first one to become warm
			routes := newRoutes(n, fmt.Sprintf("model-%d", round), s.target)
			var once [2]load
			for i, r := range routes {
				// In one cluster and then in the other, so that both share what the machine does meanwhile.
				for turn := range both {
					which := (i + turn) % 2
					one, err := create(ctx, []route{r}, 1, both[which].createRoute)
					if err != nil {
						return t, err
					}
					once[which].latencies = append(once[which].latencies, one.latencies...)
				}
			}
			for which, b := range both {
				if round > 0 {
					loads[which] = append(loads[which], once[which])
				}
				if _, err := create(ctx, routes, 8, func(ctx context.Context, r route) error {
					err := b.delete(ctx, collection(systemNamespace, "httproutes")+"/"+r.name)
					if s.grants() {
						err = errors.Join(err, b.delete(ctx, collection(r.target, "referencegrants")+"/"+r.grantName))
					}
					return err
				}); err != nil {
					return t, err
				}
			}
		}
		row := []any{o.n, s.name}
		for _, part := range []float64{0.5, 0.99} {
			value := func(l load) float64 { return quantile(l.latencies, part) }
			row = append(row, medianOf(loads[0], value), medianOf(loads[1], value), median(ratios(loads[1], loads[0], value)))
		}
		t.row(row...)
	}
	return t, nil
}

// audit runs `routesteward audit` once.
func (b *bench) audit(ctx context.Context) (table, error) {
	progress("audit")
	t := table{title: "`routesteward audit -o json`", head: []string{"Routes", "Seconds", "CPU s", "MiB at most"}}
	a, err := runProcess(ctx, b.binary, "audit", "--kubeconfig="+b.Kubeconfig, "-o", "json")
	t.row(b.n, seconds(a.wall), seconds(a.cpu), mebibytes(a.peak))
	return t, err
}

// ran is a process that has ended.
type ran struct {
	wall time.Duration
	usage
}

// runProcess runs a program that may have findings.
func runProcess(ctx context.Context, name string, args ...string) (ran, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &stderr
	start := time.Now()
	err := cmd.Run()
	r := ran{wall: time.Since(start)}
	if err != nil && (cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1) {
		return r, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if used, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.peak = used.Maxrss << 10 // kilobytes on Linux (getrusage(2))
	}
	return r, nil
}
