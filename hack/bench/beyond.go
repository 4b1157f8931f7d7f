package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/routewarden/routewarden/hack/localcluster"
)

// held is what a routewarden that holds many routes costs.
type held struct {
	routes int
	// ready is from its start to /readyz.
	ready, cpu time.Duration
	// resident at rest, peak until then, and what it was told.
	resident, peak, told int64
	// change is the CPU that it uses for one changed route, and latency that of an admission, p50 and p99.
	change, p50, p99 time.Duration
}

// costs are what one route costs a cluster, each measured here.
type costs struct {
	// The CPU of one create that routewarden judges, of a change, for each process.
	etcd, apiServer, webhook, client time.Duration
	// perSecond is how many were created in a second, by so many workers.
	perSecond float64
	workers   int
	// watcher is the CPU of the API server for telling one watch of one route.
	watcher time.Duration
	// stored is the bytes of one route as JSON, which is what etcd stores, resident those of the API server's memory.
	stored, resident float64
}

// beyond measures and simulates what this machine's control plane cannot hold.
func beyond(ctx context.Context, args []string) error {
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	o := options{workers: []int{16}}
	sizes := []int{10_000, 100_000, 1_000_000}
	flags := flag.NewFlagSet("bench beyond", flag.ContinueOnError)
	flags.Func("sizes", "how many routes routewarden is told of, with commas (default 10000,100000,1000000)", func(text string) error {
		sizes = nil
		for number := range strings.SplitSeq(text, ",") {
			n, err := strconv.Atoi(number)
			if err != nil || n < 1 {
				return fmt.Errorf("%q is not a number of routes", number)
			}
			sizes = append(sizes, n)
		}
		return nil
	})
	flags.IntVar(&o.routes, "n", 4000, "routes that are created to measure what one costs, and changed where many are held")
	flags.StringVar(&o.binary, "routewarden", filepath.Join(root, "bin", "routewarden"), "the program to measure")
	flags.StringVar(&o.markdown, "markdown", "", "also write the page to this file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.routes < 100 {
		return errors.New("want -n of at least 100, and no arguments")
	}
	if _, err := os.Stat(filepath.Dir(o.markdown)); err != nil {
		return err
	}
	var c costs
	if err := inNewCluster(ctx, o, func(b *bench) (err error) {
		c, err = b.costs(ctx)
		return err
	}); err != nil {
		return err
	}
	var all []held
	for _, n := range sizes {
		if err := inNewCluster(ctx, o, func(b *bench) error {
			h, err := b.hold(ctx, n)
			if err == nil {
				progress("%d routes: ready after %.1f s, %.0f MiB", n, h.ready.Seconds(), mebibytes(h.resident))
				all = append(all, h)
			}
			return err
		}); err != nil {
			return fmt.Errorf("%d routes: %w", n, err)
		}
	}
	report := beyondReport(args, runtime.NumCPU(), all, c)
	if o.markdown != "" {
		err = os.WriteFile(o.markdown, []byte(report.markdown()), 0o644)
	}
	_, printErr := os.Stdout.WriteString(report.text())
	return errors.Join(err, printErr)
}

// hold starts a routewarden whose API server tells it of so many routes.
func (b *bench) hold(ctx context.Context, n int) (h held, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h.routes = n
	crowd, err := b.newCrowd(ctx, n)
	if err != nil {
		return h, err
	}
	if err := b.cluster.Install(ctx); err != nil {
		return h, err
	}
	config, err := b.cluster.ServiceAccountConfig(ctx, "routewarden-system", "routewarden")
	if err != nil {
		return h, err
	}
	url, err := crowd.serve(ctx, config)
	if err != nil {
		return h, err
	}
	kubeconfig := filepath.Join(b.cluster.Dir, "crowd.kubeconfig")
	if err := localcluster.WriteKubeconfig(kubeconfig, "crowd", map[string]*rest.Config{"crowd": {Host: url}}); err != nil {
		return h, err
	}
	began := time.Now()
	server, err := b.cluster.Serve(ctx, localcluster.ServeOptions{Binary: b.options.binary, Kubeconfig: kubeconfig, Flags: b.options.serveFlags})
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	h.ready = time.Since(began)
	if _, err := b.cluster.WaitIntercepted(ctx); err != nil {
		return h, err
	}
	if _, err := settled(ctx, server.PID()); err != nil {
		return h, err
	}
	h.told = crowd.sent.Load()
	used := readUsage(server.PID())
	h.cpu, h.resident, h.peak = used.cpu, used.resident, used.peak

	select {
	case crowd.changes <- b.options.routes:
	case <-time.After(time.Minute):
		return h, errors.New("nobody watches HTTPRoutes")
	}
	after, err := settled(ctx, server.PID())
	if err != nil {
		return h, err
	}
	h.change = (after - used.cpu) / time.Duration(b.options.routes)

	if _, err := create(ctx, newRoutes(200, "warm", sharedNamespace), 1, b.createRoute, nil); err != nil {
		return h, err
	}
	load, err := create(ctx, newRoutes(max(500, b.options.routes/4), "model", sharedNamespace), 1, b.createRoute, nil)
	h.p50, h.p99 = quantile(load.latencies, 0.5), quantile(load.latencies, 0.99)
	return h, err
}

// settled returns the CPU that a process has used once it rests: less than a fiftieth of a core for two seconds.
func settled(ctx context.Context, pid int) (time.Duration, error) {
	for before := readUsage(pid).cpu; ; {
		if err := pause(ctx, 2*time.Second); err != nil {
			return 0, err
		}
		now := readUsage(pid).cpu
		if now-before <= 40*time.Millisecond {
			return now, nil
		}
		before = now
	}
}

// costs measures what one route costs.
func (b *bench) costs(ctx context.Context) (c costs, err error) {
	progress("what one route costs")
	n := b.options.routes
	judged := scenario{name: "judged", target: sharedNamespace}
	if _, err := create(ctx, newRoutes(n, "first", sharedNamespace), 16, b.createRoute, nil); err != nil {
		return c, err
	}
	if err := b.clean(ctx); err != nil {
		return c, err
	}
	c.workers = b.options.workers[0]
	s, err := b.measure(ctx, judged, cell{judged.name, c.workers, routewarden})
	if err != nil {
		return c, err
	}
	each := func(s sample, process string) time.Duration { return s.used[process].cpu / time.Duration(n) }
	c.etcd, c.apiServer, c.webhook, c.client, c.perSecond = each(s, etcd), each(s, apiServer), each(s, aWebhook), each(s, loadClient), s.throughput()

	// Pairs, as an API server becomes slower with what it has been through.
	const watchers, pairs = 16, 3
	var more []float64
	for range pairs {
		without, err := b.measure(ctx, judged, cell{judged.name, c.workers, noWebhook})
		if err != nil {
			return c, err
		}
		end, err := b.watchRoutes(ctx, watchers)
		if err != nil {
			return c, err
		}
		with, err := b.measure(ctx, judged, cell{judged.name, c.workers, noWebhook})
		end()
		if err != nil {
			return c, err
		}
		more = append(more, float64(each(with, apiServer)-each(without, apiServer))/watchers)
	}
	c.watcher = time.Duration(max(0, median(more)))
	return c, b.footprint(ctx, &c)
}

// watchRoutes opens so many watches of all HTTPRoutes and reads what they tell.
func (b *bench) watchRoutes(ctx context.Context, watchers int) (end func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	for range watchers {
		stream, err := b.clients.RESTClient().Get().AbsPath(crowdPath).Param("watch", "true").
			SetHeader("Accept", "application/json").Stream(ctx)
		if err != nil {
			cancel()
			return nil, err
		}
		group.Go(func() error {
			_, _ = io.Copy(io.Discard, stream)
			return stream.Close()
		})
	}
	return func() { cancel(); _ = group.Wait() }, nil
}

// footprint measures how much room a stored route needs.
func (b *bench) footprint(ctx context.Context, c *costs) error {
	const many = 10_000
	resident := func() (float64, error) {
		if err := b.cluster.Restart(ctx, apiServer, 30*time.Second); err != nil {
			return 0, err
		}
		for {
			_, err := b.list(ctx, collection(systemNamespace, "httproutes"))
			if err == nil {
				break
			}
			// It reads what is stored only now.
			if !apierrors.IsTooManyRequests(err) {
				return 0, err
			}
			if err := pause(ctx, time.Second); err != nil {
				return 0, err
			}
		}
		if _, err := settled(ctx, child(apiServer)); err != nil {
			return 0, err
		}
		return float64(readUsage(child(apiServer)).resident), nil
	}
	before, err := resident()
	if err != nil {
		return err
	}
	if _, err := create(ctx, newRoutes(many, "stored", sharedNamespace), 16, b.createRoute, nil); err != nil {
		return err
	}
	raw, err := b.clients.RESTClient().Get().AbsPath(collection(systemNamespace, "httproutes")).SetHeader("Accept", "application/json").Do(ctx).Raw()
	if err != nil {
		return err
	}
	c.stored = float64(len(raw)) / many
	after, err := resident()
	c.resident = (after - before) / many
	return err
}
