package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/routewarden/routewarden/hack/localcluster"
)

// scraped are the sums of the series of each metric, and by "name value" of those with a value of the labels
// method and code.
type scraped map[string]float64

// scrape reads what a routewarden says of itself.
func scrape(ctx context.Context, url string) (scraped, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	sums := scraped{}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			continue
		}
		name, labels, _ := strings.Cut(line[:at], "{")
		sums[name] += value
		for _, label := range []string{`method="`, `code="`} {
			if _, text, ok := strings.Cut(labels, label); ok {
				text, _, _ = strings.Cut(text, `"`)
				sums[name+" "+text] += value
			}
		}
	}
	return sums, lines.Err()
}

// writes are the requests that change something.
func (s scraped) writes() int {
	const requests = "rest_client_requests_total"
	return int(s[requests+" POST"] + s[requests+" PUT"] + s[requests+" PATCH"] + s[requests+" DELETE"])
}

func (s scraped) requests() int { return int(s["rest_client_requests_total"]) }

// busy is what changes as long as the reconcilers have something to do.
func (s scraped) busy() [3]float64 {
	return [3]float64{s["workqueue_depth"] + s["controller_runtime_active_workers"], s["controller_runtime_reconcile_total"], s["workqueue_adds_total"]}
}

// launch starts routewarden and returns when it is ready, with the time that took from the start of the process.
func (b *bench) launch(ctx context.Context) (*localcluster.Server, time.Duration, error) {
	kubeconfig, err := b.cluster.ServiceAccountKubeconfig(ctx, "routewarden-system", "routewarden")
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	server, err := b.cluster.Serve(ctx, localcluster.ServeOptions{
		Binary: b.options.binary, Kubeconfig: kubeconfig, Flags: b.options.serveFlags, Unready: true,
		Env: []string{fmt.Sprintf("GOMEMLIMIT=%d", memoryLimit)},
	})
	if err != nil {
		return nil, 0, err
	}
	bounded, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	ready := localcluster.HTTPReady(nil, server.HealthURL)
	for {
		err := ready(bounded)
		if err == nil {
			return server, time.Since(began), nil
		}
		select {
		case <-server.Done():
			return nil, 0, fmt.Errorf("routewarden ended: %w\n%s", server.Err(), server.Logs())
		default:
		}
		if waitErr := pause(bounded, 50*time.Millisecond); waitErr != nil {
			return nil, 0, errors.Join(err, waitErr, server.Stop())
		}
	}
}

// settle returns what a routewarden says of itself once its reconcilers have had nothing to do for a second, and when they
// began to have nothing to do.
func settle(ctx context.Context, server *localcluster.Server) (scraped, time.Time, error) {
	var last scraped
	var since time.Time
	for {
		now, err := scrape(ctx, server.MetricsURL)
		if err != nil {
			return nil, since, err
		}
		if last == nil || now.busy() != last.busy() || now.busy()[0] > 0 {
			since = time.Now()
		}
		if last = now; time.Since(since) > time.Second {
			return last, since, nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return nil, since, err
		}
	}
}

// benchScale measures routewarden in a large cluster beside one that is all but empty.
func benchScale(ctx context.Context, args []string) error {
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("bench scale", flag.ContinueOnError)
	o := scaleOptions{sizes: []int{10_000, 30_000, 100_000}}
	flags.Func("routes", "sizes of the cluster in routes, ascending, with commas; it has a fifth as many edges and a tenth as many namespaces (default 10000,30000,100000)", func(text string) error {
		o.sizes = nil
		for number := range strings.SplitSeq(text, ",") {
			routes, err := strconv.Atoi(number)
			if err != nil || routes < 10 || len(o.sizes) > 0 && routes <= o.sizes[len(o.sizes)-1] {
				return fmt.Errorf("%q is not a greater number of routes, of at least 10", number)
			}
			o.sizes = append(o.sizes, routes)
		}
		return nil
	})
	flags.IntVar(&o.routes, "n", 300, "routes that are created, and objects that are changed, in each measurement")
	flags.IntVar(&o.rounds, "rounds", 5, "how often admissions are measured")
	flags.StringVar(&o.binary, "routewarden", filepath.Join(root, "bin", "routewarden"), "the program to measure")
	flags.StringVar(&o.markdown, "markdown", "", "also write the tables to this file")
	flags.StringVar(&o.data, "data", "", "also write what is plotted to this file, as CSV")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.routes < 1 || o.rounds < 1 {
		return errors.New("want -n and -rounds of at least 1, and no arguments")
	}
	o.changes = min(o.routes, sizeOf(o.sizes[0]).Edges)
	// Every five minutes it would compare all that it has cached with etcd, and take a processor for a minute.
	o.apiServerFlags = []string{"--feature-gates=DetectCacheInconsistency=false"}
	var r scaled
	err = inNewCluster(ctx, o.options, func(empty *bench) error {
		return inNewCluster(ctx, o.options, func(full *bench) error {
			version, err := full.clients.Discovery().ServerVersion()
			if err != nil {
				return err
			}
			r.kubernetes = version.GitVersion
			return r.measure(ctx, o, empty, full, func() error { return r.write(o, args) })
		})
	})
	if len(r.sizes) > 0 { // what took minutes is told, whatever went wrong after it
		_, printErr := os.Stdout.WriteString(r.report(o, args).text())
		err = errors.Join(err, printErr)
	}
	return err
}

func (r *scaled) write(o scaleOptions, args []string) error {
	var errs []error
	if o.data != "" {
		errs = append(errs, os.WriteFile(o.data, []byte(r.csv()), 0o644))
	}
	if o.markdown != "" {
		errs = append(errs, os.WriteFile(o.markdown, []byte(r.report(o, args).markdown()), 0o644))
	}
	return errors.Join(errs...)
}

type scaleOptions struct {
	options
	sizes   []int
	changes int
	data    string
}

// memoryLimit is what the shipped Deployment sets (GOMEMLIMIT).
const memoryLimit = 512 << 20

// repeatedStarts are those that find all in order; the one of the median time is told.
const repeatedStarts = 3

// scaled is what was measured.
type scaled struct {
	kubernetes string
	// few is how large the cluster is that is compared with.
	few   size
	sizes []scaledSize
}

type scaledSize struct {
	size
	// first is a start that finds so many grants missing, again one that finds all in order.
	missing      int
	first, again start
	// resting is the resident set ten seconds after the last start has settled.
	resting int64
	// admissions and changes are those in the small and in the large cluster, in the order of the kinds.
	admissions [][2][]load
	changes    [][2]changed
	audit      audited
}

// start is one of the process.
type start struct {
	// ready is when it was, and settled when the reconcilers had nothing left to do, from the start of the process.
	ready, settled   time.Duration
	cpu, apiServer   time.Duration
	peak             int64
	requests, writes int
}

// changed is what one change costs.
type changed struct {
	cpu      time.Duration
	requests float64
}

type audited struct {
	took time.Duration
	peak int64
	cpu  time.Duration
}

// The kinds of routes whose creation is measured.
var admissions = []struct{ name, target string }{
	{"no decision needed: the API server does not call", systemNamespace},
	{"judged and let in", sharedNamespace},
	{"judged, and a grant made", consentingNamespace},
}

// change is a kind of change.
type change struct {
	name string
	// do makes the change to the i-th object; times counts how often that was done before.
	do func(ctx context.Context, b *bench, i, times int) error
	// objects is the part of the changes that are of different objects.
	objects float64
}

var changes = []change{
	{"a route's status, as a gateway writes it", func(ctx context.Context, b *bench, i, times int) error {
		body := strings.Replace(seededStatusJSON, "Route is accepted", fmt.Sprintf("Route is accepted, as said %d times", times+2), 1)
		return b.patch(ctx, collection(systemNamespace, "httproutes"), seededRoute(i), "status", body)
	}, 1},
	{"a route, its admission included", func(ctx context.Context, b *bench, i, times int) error {
		return b.patch(ctx, collection(systemNamespace, "httproutes"), seededRoute(i), "", fmt.Sprintf(`{"spec":{"hostnames":["v%d.example.com"]}}`, times))
	}, 1},
	{"a managed grant deleted, and made again", func(ctx context.Context, b *bench, i, _ int) error {
		edge := seededEdge(i)
		return b.delete(ctx, collection(edge.Namespace, "referencegrants"), edge.GrantName())
	}, 1},
	// Two edges each have one namespace.
	{"a namespace's consent taken or given", func(ctx context.Context, b *bench, i, times int) error {
		value := `null`
		if times%2 == 1 {
			value = `"allow"`
		}
		return b.patch(ctx, "/api/v1/namespaces", edgeTo(2*i), "", `{"metadata":{"labels":{"routewarden.dev/grants":`+value+`}}}`)
	}, 0.5},
}

func (b *bench) patch(ctx context.Context, path, name, subresource, body string) error {
	request := b.clients.RESTClient().Patch(types.MergePatchType).AbsPath(path, name)
	if subresource != "" {
		request = request.Suffix(subresource)
	}
	return request.Body([]byte(body)).Do(ctx).Error()
}

// measure calls done after each size: what is known then is not lost where a larger one fails.
func (r *scaled) measure(ctx context.Context, o scaleOptions, empty, full *bench, done func() error) (err error) {
	r.few = size{Routes: o.changes, Edges: o.changes, Namespaces: (o.changes + 1) / 2}
	few, err := newSeeder(ctx, empty)
	if err != nil {
		return err
	}
	many, err := newSeeder(ctx, full)
	if err != nil {
		return err
	}
	if err := errors.Join(few.grow(ctx, r.few), empty.cluster.Install(ctx), full.cluster.Install(ctx)); err != nil {
		return err
	}
	small, _, err := empty.observe(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, small.Stop()) }()
	if _, err := empty.cluster.WaitIntercepted(ctx); err != nil {
		return err
	}
	times := 0
	for _, routes := range o.sizes {
		s := scaledSize{size: sizeOf(routes)}
		s.missing = s.Edges - many.seeded.Edges
		progress("%d routes: seeding", routes)
		if err := many.grow(ctx, s.size); err != nil {
			return err
		}
		progress("%d routes: start with %d grants missing", routes, s.missing)
		large, first, err := full.observe(ctx)
		if err != nil {
			return err
		}
		s.first = first
		progress("  ready after %.1f s, settled after %.1f s", first.ready.Seconds(), first.settled.Seconds())
		// How long it takes depends on how often the API server happens to collect its garbage meanwhile.
		var again []start
		for range repeatedStarts {
			if err := large.Stop(); err != nil {
				return err
			}
			progress("%d routes: start with all in order", routes)
			var one start
			if large, one, err = full.observe(ctx); err != nil {
				return err
			}
			progress("  ready after %.1f s, settled after %.1f s, at most %.0f MiB", one.ready.Seconds(), one.settled.Seconds(), mebibytes(one.peak))
			again = append(again, one)
		}
		slices.SortFunc(again, func(a, b start) int { return cmp.Compare(a.ready, b.ready) })
		s.again = again[repeatedStarts/2]
		err = func() (err error) {
			defer func() { err = errors.Join(err, large.Stop()) }()
			if _, err := full.cluster.WaitIntercepted(ctx); err != nil {
				return err
			}
			if err := pause(ctx, 10*time.Second); err != nil {
				return err
			}
			s.resting = readUsage(large.PID()).resident
			both := [2]watched{{empty, small}, {full, large}}
			if err := s.admit(ctx, o, both); err != nil {
				return err
			}
			if err := s.change(ctx, o, both, &times); err != nil {
				return err
			}
			// All of it is told, what is measured after the start included.
			s.again.peak = readUsage(large.PID()).peak
			return nil
		}()
		if err != nil {
			return err
		}
		progress("%d routes: audit", routes)
		if s.audit, err = full.audit(ctx); err != nil {
			return err
		}
		r.sizes = append(r.sizes, s)
		if err := done(); err != nil {
			return err
		}
	}
	return nil
}

// observe starts routewarden and returns when it has settled.
func (b *bench) observe(ctx context.Context) (*localcluster.Server, start, error) {
	api := b.cluster.Process(apiServer).PID()
	before := readUsage(api)
	began := time.Now()
	server, ready, err := b.launch(ctx)
	if err != nil {
		return nil, start{}, err
	}
	told, at, err := settle(ctx, server)
	if err != nil {
		return nil, start{}, errors.Join(err, server.Stop())
	}
	used := readUsage(server.PID())
	return server, start{
		ready: ready, settled: at.Sub(began), cpu: used.cpu, apiServer: readUsage(api).cpu - before.cpu, peak: used.peak,
		requests: told.requests(), writes: told.writes(),
	}, nil
}

// watched is a cluster with its routewarden.
type watched struct {
	*bench
	server *localcluster.Server
}

// admit creates routes in both clusters.
func (s *scaledSize) admit(ctx context.Context, o scaleOptions, both [2]watched) error {
	progress("%d routes: admissions", s.Routes)
	s.admissions = make([][2][]load, len(admissions))
	for round := range o.rounds + 1 {
		for kind, admission := range admissions {
			routes := newRoutes(o.routes, fmt.Sprintf("model-%d", round), admission.target)
			if round == 0 {
				routes = routes[:min(len(routes), 50)] // to become warm
			}
			loads, err := byTurns(ctx, routes, both)
			if err != nil {
				return err
			}
			for which, b := range both {
				if round > 0 {
					s.admissions[kind][which] = append(s.admissions[kind][which], loads[which])
				}
				if _, err := create(ctx, routes, 8, func(ctx context.Context, r route) error {
					err := b.delete(ctx, collection(systemNamespace, "httproutes"), r.name)
					if admission.target == consentingNamespace {
						err = errors.Join(err, b.delete(ctx, collection(consentingNamespace, "referencegrants"), r.grantName))
					}
					return err
				}, nil); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// byTurns creates each route in one cluster and then in the other, so that both share what the machine does meanwhile.
func byTurns(ctx context.Context, routes []route, both [2]watched) (loads [2]load, err error) {
	for i, r := range routes {
		for turn := range both {
			which := (i + turn) % 2
			one, err := create(ctx, []route{r}, 1, both[which].createRoute, nil)
			if err != nil {
				return loads, err
			}
			loads[which].latencies = append(loads[which].latencies, one.latencies...)
			loads[which].elapsed += one.elapsed
		}
	}
	for which := range loads {
		slices.Sort(loads[which].latencies)
	}
	return loads, nil
}

// change changes objects in both clusters by turns.
func (s *scaledSize) change(ctx context.Context, o scaleOptions, both [2]watched, times *int) error {
	s.changes = make([][2]changed, len(changes))
	// The garbage of a large cache is collected in one turn or another. An even number leaves everything as it was.
	turns := 2
	if s.Routes == o.sizes[len(o.sizes)-1] {
		turns = 6
	}
	for kind, change := range changes {
		progress("%d routes: %s", s.Routes, change.name)
		objects := max(1, int(float64(o.changes)*change.objects))
		for range turns {
			for which, b := range both {
				once, err := b.change(ctx, change, objects, *times)
				if err != nil {
					return fmt.Errorf("%s: %w", change.name, err)
				}
				s.changes[kind][which].cpu += once.cpu / time.Duration(turns)
				s.changes[kind][which].requests += once.requests / float64(turns)
			}
			*times++
		}
	}
	return nil
}

func (w watched) change(ctx context.Context, change change, objects, times int) (changed, error) {
	var used [2]time.Duration
	var requests [2]int
	// First how much it takes to look whether there is nothing to do.
	for i, n := range []int{0, objects} {
		told, _, err := settle(ctx, w.server)
		if err != nil {
			return changed{}, err
		}
		before := readUsage(w.server.PID()).cpu
		asked := told.requests()
		group, changing := errgroup.WithContext(ctx)
		group.SetLimit(4)
		for object := range n {
			group.Go(func() error { return change.do(changing, w.bench, object, times) })
		}
		if err := group.Wait(); err != nil {
			return changed{}, err
		}
		if told, _, err = settle(ctx, w.server); err != nil {
			return changed{}, err
		}
		used[i], requests[i] = readUsage(w.server.PID()).cpu-before, told.requests()-asked
	}
	return changed{
		cpu:      (used[1] - used[0]) / time.Duration(objects),
		requests: float64(requests[1]-requests[0]) / float64(objects),
	}, nil
}

// audit runs `routewarden audit` once.
func (b *bench) audit(ctx context.Context) (audited, error) {
	began := time.Now()
	cmd := exec.CommandContext(ctx, b.options.binary, "audit", "--kubeconfig="+b.cluster.Kubeconfig, "-o", "json")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	err := cmd.Run()
	// 1 is findings.
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() > 1 {
		return audited{}, fmt.Errorf("routewarden audit: %w: %s", err, complaints.String())
	}
	a := audited{took: time.Since(began), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if used, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		a.peak = used.Maxrss << 10
	}
	return a, nil
}
