package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/routewarden/routewarden/hack/localcluster"
)

// contender is what stands between a client and the stored route.
type contender string

const (
	noWebhook   contender = "no webhook"
	again       contender = "no webhook, again"
	noopWebhook contender = "no-op webhook"
	twoWrites   contender = "two plain writes"
	routewarden contender = "routewarden"
	readBack    contender = "routewarden, grants read back"
)

// scenario is a kind of route, which all its contenders are given.
type scenario struct {
	name string
	// target is the namespace of the backends.
	target     string
	contenders []contender
	// floor is what routewarden is compared with, and atLeast the part of the floor's throughput that is aimed at.
	floor   contender
	atLeast float64
}

func scenarios() []scenario {
	return []scenario{
		{"no decision", systemNamespace, []contender{noWebhook, again, noopWebhook, routewarden}, noWebhook, 0.95},
		{"judged", sharedNamespace, []contender{noWebhook, noopWebhook, routewarden}, noopWebhook, 0.90},
		{"new grant", consentingNamespace, []contender{noWebhook, noopWebhook, twoWrites, routewarden, readBack}, twoWrites, 0.90},
	}
}

// grants reports whether routewarden makes grants for the scenario's routes.
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
	// used is what each process used, by its name in the table.
	used map[string]usage
}

func (s sample) throughput() float64 { return float64(len(s.latencies)) / s.elapsed.Seconds() }

// results are all measurements.
type results struct {
	kubernetes string
	// samples has one for each round.
	samples map[cell][]sample
	// idle is routewarden's memory in an empty cluster, holding with as many routes and managed grants as one measurement
	// makes, both once it has started.
	idle, holding int64
}

// The processes in the table.
const (
	etcd       = "etcd"
	apiServer  = "kube-apiserver"
	aWebhook   = "webhook"
	loadClient = "client"
)

// bench measures in one control plane.
type bench struct {
	options options
	cluster *localcluster.Cluster
	clients *kubernetes.Clientset
}

// measure runs all measurements. Every kind of route has a new control plane in every round: an API server grows with what
// it has been through, and becomes slower.
func measure(ctx context.Context, o options) (*results, error) {
	program, err := os.ReadFile(o.binary)
	if err != nil {
		return nil, fmt.Errorf("routewarden is not built, run `make build`: %w", err)
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// A copy, so that the one that was there at the beginning is measured in every round.
	o.binary = filepath.Join(dir, "routewarden")
	if err := os.WriteFile(o.binary, program, 0o755); err != nil {
		return nil, err
	}

	r := &results{samples: map[cell][]sample{}}
	for round := range o.rounds {
		for _, s := range o.scenarios {
			progress("round %d of %d, routes: %s", round+1, o.rounds, s.name)
			if err := inNewCluster(ctx, o, func(b *bench) error { return b.compare(ctx, s, round, r) }); err != nil {
				return nil, err
			}
		}
	}
	progress("memory of routewarden at rest")
	return r, inNewCluster(ctx, o, func(b *bench) error {
		version, err := b.clients.Discovery().ServerVersion()
		if err != nil {
			return err
		}
		r.kubernetes = version.GitVersion
		r.idle, r.holding, err = b.memory(ctx)
		return err
	})
}

func inNewCluster(ctx context.Context, o options, do func(*bench) error) (err error) {
	cluster, err := localcluster.Start(ctx, localcluster.Options{
		// Deleting what was created takes a good part of the time.
		APIServerFlags: append([]string{"--delete-collection-workers=8"}, o.apiServerFlags...),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	config := rest.CopyConfig(cluster.Config)
	config.WarningHandler = rest.NoWarnings{} // one for each grant
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	b := &bench{options: o, cluster: cluster, clients: clients}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	return do(b)
}

// compare measures each of the scenario's contenders once for each number of workers.
func (b *bench) compare(ctx context.Context, s scenario, round int, r *results) error {
	// An API server is fastest when it is new, which would favour whoever comes first.
	if _, err := create(ctx, newRoutes(b.options.routes, "first", s.target), 16, b.createRoute, nil); err != nil {
		return err
	}
	if err := b.clean(ctx); err != nil {
		return err
	}
	for _, workers := range b.options.workers {
		for i := range s.contenders {
			// Each round begins with another one, so that none is always first.
			c := cell{s.name, workers, s.contenders[(i+round)%len(s.contenders)]}
			sample, err := b.measure(ctx, s, c)
			if err != nil {
				return fmt.Errorf("%s, %s, %s: %w", c.scenario, plural(c.workers, "worker"), c.contender, err)
			}
			progress("  %s, %s: %.0f routes/s", plural(c.workers, "worker"), c.contender, sample.throughput())
			r.samples[c] = append(r.samples[c], sample)
		}
	}
	return nil
}

// prepare makes the namespaces and the grant that the judged routes stand on.
func (b *bench) prepare(ctx context.Context) error {
	var errs []error
	for _, body := range []string{
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + systemNamespace + `"}}`,
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + sharedNamespace + `"}}`,
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + consentingNamespace + `","labels":{"routewarden.dev/grants":"allow"}}}`,
	} {
		errs = append(errs, b.post(ctx, "/api/v1/namespaces", []byte(body)))
	}
	return errors.Join(append(errs,
		b.post(ctx, collection(systemNamespace, "gateways"), []byte(`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway",`+
			`"metadata":{"name":"aibrix-eg"},"spec":{"gatewayClassName":"aibrix-eg","listeners":[{"name":"http","port":80,"protocol":"HTTP"}]}}`)),
		b.post(ctx, collection(sharedNamespace, "referencegrants"), []byte(`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"ReferenceGrant",`+
			`"metadata":{"name":"routes"},"spec":{"from":[{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","namespace":"`+systemNamespace+`"}],`+
			`"to":[{"group":"","kind":"Service"}]}}`)),
	)...)
}

// measure starts the contender, lets it become warm, measures, and leaves the cluster as it was.
func (b *bench) measure(ctx context.Context, s scenario, c cell) (_ sample, err error) {
	process, stop, err := b.start(ctx, c.contender)
	if err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, stop(), b.clean(ctx)) }()

	write := b.createRoute
	if c.contender == twoWrites {
		write = b.createGrantAndRoute
	}
	var verify func(context.Context, route) (bool, error)
	if c.contender == readBack {
		verify = b.readGrant
	}
	if _, err := create(ctx, newRoutes(max(50, b.options.routes/10), "warm", s.target), c.workers, write, verify); err != nil {
		return sample{}, err
	}
	routes := newRoutes(b.options.routes, "model", s.target)
	runtime.GC() // none of ours while the time runs, as far as possible

	pids := map[string]int{etcd: child(etcd), apiServer: child(apiServer), loadClient: os.Getpid()}
	if process != nil {
		pids[aWebhook] = process.PID()
	}
	before := map[string]usage{}
	for name, pid := range pids {
		resetPeak(pid)
		before[name] = readUsage(pid)
	}
	load, err := create(ctx, routes, c.workers, write, verify)
	if err != nil {
		return sample{}, err
	}
	// What a process does with the routes when they have been created belongs to its costs.
	if err := pause(ctx, time.Second); err != nil {
		return sample{}, err
	}
	used := map[string]usage{}
	for name, pid := range pids {
		used[name] = readUsage(pid)
		used[name] = usage{cpu: used[name].cpu - before[name].cpu, peak: used[name].peak}
	}
	if s.grants() && c.contender == routewarden {
		// The order in which etcd stored them tells it without a read for each, which would take part in the time.
		load.missing, err = b.late(ctx, routes)
	}
	return sample{load, used}, err
}

// start puts the contender in place; process is nil where there is none. stop takes it away again.
func (b *bench) start(ctx context.Context, c contender) (process *localcluster.Process, stop func() error, err error) {
	registration := ""
	switch c {
	case noopWebhook:
		registration = "noop"
		process, err = b.startNoop(ctx)
	case routewarden, readBack:
		registration = "routewarden"
		process, err = b.startRoutewarden(ctx)
	}
	if err != nil {
		return nil, nil, err
	}
	return process, func() error {
		if process == nil {
			return nil
		}
		err := process.Stop()
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		return errors.Join(err,
			b.clients.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, registration, metav1.DeleteOptions{}),
			b.waitProbe(ctx, nil, func(err error) bool { return err == nil }))
	}, nil
}

// startRoutewarden starts it as its own service account with the shipped permissions, and returns when the API server
// asks it.
func (b *bench) startRoutewarden(ctx context.Context) (*localcluster.Process, error) {
	if err := b.cluster.Install(ctx); err != nil {
		return nil, err
	}
	server, err := b.cluster.Serve(ctx, localcluster.ServeOptions{Binary: b.options.binary, Flags: b.options.serveFlags})
	if err != nil {
		return nil, err
	}
	if _, err := b.cluster.WaitIntercepted(ctx); err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	return server.Process, nil
}

// probe is judged by every webhook, and never stored.
var probe = newRoutes(1, "probe", sharedNamespace)[0]

// waitProbe creates a route in a dry run until its outcome is as wanted, or the process ends; process may be nil.
func (b *bench) waitProbe(ctx context.Context, process *localcluster.Process, wanted func(error) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var ended <-chan struct{}
	if process != nil {
		ended = process.Done()
	}
	for {
		err := b.clients.RESTClient().Post().AbsPath(collection(systemNamespace, "httproutes")).Param("dryRun", "All").
			SetHeader("Content-Type", "application/json").Body(probe.body).Do(ctx).Error()
		if ctx.Err() == nil && wanted(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API server does not follow the registration of webhooks (%w): %v", context.Cause(ctx), err)
		case <-ended:
			return fmt.Errorf("it ended: %w", process.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// memory is routewarden's in an empty cluster, and with routes and managed grants.
func (b *bench) memory(ctx context.Context) (idle, holding int64, err error) {
	// The caches are full long before; the first collections of garbage take longer.
	const rest = 10 * time.Second
	resident := func(then func() error) (bytes int64, err error) {
		process, stop, err := b.start(ctx, routewarden)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, stop()) }()
		if err := pause(ctx, rest); err != nil {
			return 0, err
		}
		return readUsage(process.PID()).resident, then()
	}
	idle, err = resident(func() error {
		_, err := create(ctx, newRoutes(b.options.routes, "model", consentingNamespace), 16, b.createRoute, nil)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	holding, err = resident(func() error { return nil })
	return idle, holding, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
