package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/routewarden/routewarden/hack/localcluster"
)

// burst is what came of one.
type burst struct {
	kubernetes string
	// before and after are the floor, half of the routes each, and routes what routewarden was measured with.
	before, routes, after load
	// sampled is how many grants were read back as their create returned, of which routes.missing were not there.
	sampled int
	// late counts routes whose grant was stored after them or never, overtaken those that a watch told before their grant,
	// lost the grants that a watch saw deleted, and absent those that are not there at the end.
	late, overtaken, lost, absent int
	// conflicts are routewarden's writes that somebody else was faster with.
	conflicts int
	// requests are those of routewarden for each route, writes those of them that write.
	requests, writes float64
	begin, end       int64
	peak             int64
	cpu              time.Duration
	// memory is the resident set while the routes are created and after.
	memory []memoryAt
}

type memoryAt struct {
	at    time.Duration
	bytes int64
}

// ratio is the throughput as a part of the floor's.
func (r burst) ratio() float64 {
	floor := float64(len(r.before.latencies)+len(r.after.latencies)) / (r.before.elapsed + r.after.elapsed).Seconds()
	return r.perSecond() / floor
}

func (r burst) perSecond() float64 {
	return float64(len(r.routes.latencies)) / r.routes.elapsed.Seconds()
}

// benchBurst measures a burst of routes that each need a new grant.
func benchBurst(ctx context.Context, args []string) error {
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("bench burst", flag.ContinueOnError)
	var o options
	flags.IntVar(&o.routes, "n", 10_000, "routes that are created")
	workers := flags.Int("workers", 16, "how many clients create at once")
	flags.StringVar(&o.binary, "routewarden", filepath.Join(root, "bin", "routewarden"), "the program to measure")
	flags.StringVar(&o.markdown, "markdown", "", "also write the table to this file")
	data := flags.String("data", "", "also write what is plotted to this file, as CSV")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.routes < 2 || *workers < 1 {
		return errors.New("want -n of at least 2, -workers of at least 1, and no arguments")
	}
	var r burst
	if err := inNewCluster(ctx, o, func(b *bench) (err error) {
		r, err = b.burst(ctx, *workers)
		return err
	}); err != nil {
		return err
	}
	measured := r.section()
	measured.pictures = beside(o.markdown, *data, "burst.svg")
	report := report{
		title: "A burst of routes that each need a new ReferenceGrant",
		preface: []string{
			fmt.Sprintf("Measured with `%s` on %s: %s, %s, Kubernetes %s.", strings.Join(append([]string{"go run ./hack/bench burst"}, args...), " "),
				time.Now().UTC().Format(time.DateOnly), machine(), runtime.Version(), r.kubernetes),
			fmt.Sprintf("%d HTTPRoutes in `%s`, each to a Service of its own in another namespace that consents, created by %s. The floor writes the grant and the route itself, without a webhook, half of them before and half after.",
				o.routes, systemNamespace, plural(*workers, "worker")),
		},
		sections: []section{measured},
	}
	if *data != "" {
		err = os.WriteFile(*data, []byte(r.csv()), 0o644)
	}
	if o.markdown != "" {
		err = errors.Join(err, os.WriteFile(o.markdown, []byte(report.markdown()), 0o644))
	}
	_, printErr := os.Stdout.WriteString(report.text())
	return errors.Join(err, printErr)
}

func (r burst) section() section {
	of := func(n int) string { return fmt.Sprintf("%d of %d", n, len(r.routes.latencies)) }
	milliseconds := func(l load, part float64) string {
		return fmt.Sprintf("%.1f", quantile(l.latencies, part).Seconds()*1000)
	}
	return section{
		title: "Burst",
		head:  []string{"", "Measured", "Aim", ""},
		rows: [][]string{
			{"grants that were not there when the create returned, of those read back", fmt.Sprintf("%d of %d", r.routes.missing, r.sampled), "0", met(r.routes.missing == 0)},
			{"grants stored after their route, or never (order of storage, by watches)", of(r.late), "0", met(r.late == 0)},
			{"grants deleted meanwhile (by a watch)", of(r.lost), "0", met(r.lost == 0)},
			{"grants missing at the end", of(r.absent), "0", met(r.absent == 0)},
			{"routes of which a watch told before it told of the grant", of(r.overtaken), "", ""},
			{"routes per second", fmt.Sprintf("%.0f", r.perSecond()), "", ""},
			{"of floor: the grant and the route written by hand; here the API server also asks, and is read once for each grant", percent(r.ratio()), "", ""},
			{"p50 of a create, ms (floor: both writes)", milliseconds(r.routes, 0.5) + " (" + milliseconds(r.before, 0.5) + " and " + milliseconds(r.after, 0.5) + ")", "", ""},
			{"p99 of a create, ms (floor: both writes)", milliseconds(r.routes, 0.99) + " (" + milliseconds(r.before, 0.99) + " and " + milliseconds(r.after, 0.99) + ")", "", ""},
			{"routewarden: CPU for each route, ms", fmt.Sprintf("%.2f", r.cpu.Seconds()*1000/float64(len(r.routes.latencies))), "", ""},
			{"routewarden: requests to the API server for each route, of these writes", fmt.Sprintf("%.2f, %.2f", r.requests, r.writes), "", ""},
			{"routewarden: writes refused as somebody else was faster", of(r.conflicts), "", ""},
			{"routewarden: MiB resident at the begin, at most, at the end", fmt.Sprintf("%.0f, %.0f, %.0f", mebibytes(r.begin), mebibytes(r.peak), mebibytes(r.end)), "", ""},
		},
	}
}

func (r burst) csv() string {
	var out strings.Builder
	out.WriteString("seconds,mebibytes\n")
	for _, m := range r.memory {
		fmt.Fprintf(&out, "%.2f,%.1f\n", m.at.Seconds(), mebibytes(m.bytes))
	}
	return out.String()
}

func (b *bench) burst(ctx context.Context, workers int) (r burst, err error) {
	version, err := b.clients.Discovery().ServerVersion()
	if err != nil {
		return r, err
	}
	r.kubernetes = version.GitVersion
	floor := func(prefix string, n int) (load, error) {
		progress("%d routes and grants by hand", n)
		l, err := create(ctx, newRoutes(n, prefix, consentingNamespace), workers, b.createGrantAndRoute, nil)
		return l, errors.Join(err, b.clean(ctx))
	}
	// An API server is fastest when it is new.
	if _, err = floor("first", max(50, b.options.routes/10)); err != nil {
		return r, err
	}
	if r.before, err = floor("before", b.options.routes/2); err != nil {
		return r, err
	}
	if err := b.measureBurst(ctx, workers, &r); err != nil {
		return r, err
	}
	r.after, err = floor("after", b.options.routes-b.options.routes/2)
	return r, err
}

func (b *bench) measureBurst(ctx context.Context, workers int, r *burst) (err error) {
	if err := b.cluster.Install(ctx); err != nil {
		return err
	}
	server, _, err := b.launch(ctx)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, server.Stop(), b.clients.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, "routewarden", metav1.DeleteOptions{}),
			b.waitProbe(ctx, nil, func(err error) bool { return err == nil }), b.clean(ctx))
	}()
	if _, err := b.cluster.WaitIntercepted(ctx); err != nil {
		return err
	}
	if _, err := create(ctx, newRoutes(50, "warm", consentingNamespace), workers, b.createRoute, nil); err != nil {
		return err
	}
	earlier, _, err := settle(ctx, server)
	if err != nil {
		return err
	}

	watched, cancel := context.WithCancel(ctx)
	defer cancel()
	routes, err := b.watch(watched, collection(systemNamespace, "httproutes"))
	if err != nil {
		return err
	}
	grants, err := b.watch(watched, collection(consentingNamespace, "referencegrants"))
	if err != nil {
		return err
	}
	progress("%d routes with routewarden", b.options.routes)
	resetPeak(server.PID())
	before := readUsage(server.PID())
	r.begin = before.resident
	began := time.Now()
	recorded := make(chan []memoryAt, 1)
	go func() { recorded <- recordMemory(watched, server.PID(), began) }()

	created := newRoutes(b.options.routes, "model", consentingNamespace)
	const every = 20
	var sampled int64
	var mu sync.Mutex
	r.routes, err = create(ctx, created, workers, b.createRoute, func(ctx context.Context, route route) (bool, error) {
		mu.Lock()
		sampled++
		skip := sampled%every != 0
		mu.Unlock()
		if skip {
			return true, nil
		}
		return b.readGrant(ctx, route)
	})
	if err != nil {
		return err
	}
	r.sampled = int(sampled / every)
	told, _, err := settle(ctx, server)
	if err != nil {
		return err
	}
	used := readUsage(server.PID())
	r.cpu = used.cpu - before.cpu
	each := func(later, earlier int) float64 { return float64(later-earlier) / float64(len(created)) }
	r.requests, r.writes = each(told.requests(), earlier.requests()), each(told.writes(), earlier.writes())
	r.conflicts = int(told["rest_client_requests_total 409"])
	if err := pause(ctx, 10*time.Second); err != nil {
		return err
	}
	used = readUsage(server.PID())
	r.peak, r.end = used.peak, used.resident

	for _, w := range []*observed{routes, grants} {
		if err := w.until(ctx, len(created)); err != nil {
			return err
		}
	}
	cancel()
	r.memory = <-recorded
	r.lost = grants.deletions()
	for _, route := range created {
		stored, granted := routes.of(route.name), grants.of(route.grantName)
		switch {
		case stored.version == "":
			return fmt.Errorf("no watch told of HTTPRoute %s", route.name)
		case granted.version == "":
			r.late++
			continue
		}
		order, err := resourceversion.CompareResourceVersion(granted.version, stored.version)
		if err != nil {
			return err
		}
		if order > 0 {
			r.late++
		}
		if granted.at.After(stored.at) {
			r.overtaken++
		}
	}
	there, err := b.list(ctx, collection(consentingNamespace, "referencegrants"))
	if err != nil {
		return err
	}
	for _, route := range created {
		if _, ok := there[route.grantName]; !ok {
			r.absent++
		}
	}
	return nil
}

// recordMemory reads the resident set of a process until ctx ends.
func recordMemory(ctx context.Context, pid int, began time.Time) []memoryAt {
	var all []memoryAt
	for {
		all = append(all, memoryAt{time.Since(began), readUsage(pid).resident})
		if pause(ctx, 250*time.Millisecond) != nil {
			return all
		}
	}
}

// observed is what a watch of a collection has told so far.
type observed struct {
	path string
	mu   sync.Mutex
	// added are the first versions of objects by name.
	added   map[string]seen
	deleted int
	err     error
}

type seen struct {
	version string
	at      time.Time
}

// watch begins to watch what comes from now on, until ctx ends.
func (b *bench) watch(ctx context.Context, path string) (*observed, error) {
	raw, err := b.clients.RESTClient().Get().AbsPath(path).Param("limit", "1").SetHeader("Accept", metadataList).Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	stream, err := b.clients.RESTClient().Get().AbsPath(path).Param("watch", "true").Param("resourceVersion", list.ResourceVersion).
		SetHeader("Accept", metadata).Stream(ctx)
	if err != nil {
		return nil, err
	}
	w := &observed{path: path, added: map[string]seen{}}
	go w.read(stream)
	return w, nil
}

func (w *observed) read(stream io.ReadCloser) {
	defer stream.Close()
	events := json.NewDecoder(stream)
	for {
		var event struct {
			Type   string
			Object metav1.PartialObjectMetadata
		}
		err := events.Decode(&event)
		w.mu.Lock()
		switch {
		case err != nil:
			w.err = fmt.Errorf("the watch of %s ended: %w", w.path, err)
			w.mu.Unlock()
			return
		case event.Type == "ADDED":
			w.added[event.Object.Name] = seen{event.Object.ResourceVersion, time.Now()}
		case event.Type == "DELETED":
			w.deleted++
		}
		w.mu.Unlock()
	}
}

func (w *observed) of(name string) seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.added[name]
}

func (w *observed) deletions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deleted
}

// until returns when so many objects were told of, or none has come for a while.
func (w *observed) until(ctx context.Context, want int) error {
	last, since := -1, time.Now()
	for {
		w.mu.Lock()
		have, err := len(w.added), w.err
		w.mu.Unlock()
		if err != nil {
			return err
		}
		if have != last {
			last, since = have, time.Now()
		}
		if have >= want || time.Since(since) > 5*time.Second {
			return nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
