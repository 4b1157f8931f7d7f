package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/util/cert"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/routewarden/routewarden/hack/localcluster"
	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/webhook"
	"github.com/routewarden/routewarden/webhook/webhooktest"
)

// The aims of the handler, as parts of what a webhook does that allows everything.
const (
	handlerThroughput  = 0.9
	handlerAllocations = 1.1
)

const allowEverything = "/noop"

// handlerServer serves a webhook that allows everything beside routewarden's, both as controller-runtime's server does. Both
// have the logger that routewarden has by default, of which a log is thrown away.
func handlerServer(ctx context.Context, o ctrlwebhook.Options) (ctrlwebhook.Server, error) {
	log := webhook.Options{LogFormat: webhook.LogJSON, LogLevel: webhook.LogInfo}.Logger(io.Discard)
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	webhooks, err := webhooktest.New(ctx, policy.DefaultConfig(), log, 100)
	if err != nil {
		return nil, err
	}
	server := ctrlwebhook.NewServer(o)
	server.Register(allowEverything, webhooktest.Noop())
	webhooks.Register(server)
	return server, nil
}

// serveHandler serves both until ctx ends.
func serveHandler(ctx context.Context, certDir, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	server, err := handlerServer(ctx, ctrlwebhook.Options{Host: host, Port: number, CertDir: certDir})
	if err != nil {
		return err
	}
	return server.Start(ctx)
}

// turn is what so many requests to one contender took.
type turn struct {
	requests      int
	wall, cpu     time.Duration
	allocs, bytes float64 // of one request
}

func (t turn) throughput() float64 { return float64(t.requests) / t.wall.Seconds() }

// benchHandler measures the handler beside one that allows everything.
func benchHandler(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench handler", flag.ContinueOnError)
	n := flags.Int("n", 2000, "requests in each measurement")
	rounds := flags.Int("rounds", 7, "how often each measurement is repeated")
	workers := flags.Int("workers", 8, "how many requests are under way at once over HTTPS")
	markdown := flags.String("markdown", "", "also write the tables to this file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *n < 1 || *rounds < 1 || *workers < 1 {
		return errors.New("want -n, -rounds and -workers of at least 1, and no arguments")
	}
	inProcess, err := handlerInProcess(ctx, *n, *rounds)
	if err != nil {
		return err
	}
	overHTTPS, err := handlerOverHTTPS(ctx, *n, *rounds, *workers)
	if err != nil {
		return err
	}
	r := report{
		title: "What the handler costs",
		preface: []string{
			fmt.Sprintf("Measured with `%s` on %s: %s, %s.", strings.Join(append([]string{"go run ./hack/bench handler"}, args...), " "),
				time.Now().UTC().Format(time.DateOnly), machine(), runtime.Version()),
			fmt.Sprintf("The floor is controller-runtime's admission.Webhook with a handler that allows everything, on the same server and with the same AdmissionReviews: "+
				"routes as AIBrix's controller writes them, with what the API server adds, in a cluster of 2,000 routes in 100 namespaces. "+
				"The contenders take turns of %d requests; everything is the median of %s, and a ratio the median of the ratios of the rounds. "+
				"routewarden counts and logs each decision, and makes sure of the grants that it stands on. A refused request has a message to write, which the floor has not. "+
				"The aims are at least %s of the floor's requests a second and at most %s of its allocations.",
				*n, plural(*rounds, "round"), percent(handlerThroughput), percent(handlerAllocations)),
		},
		sections: []section{inProcess, overHTTPS},
	}
	if _, err := os.Stdout.WriteString(r.text()); err != nil || *markdown == "" {
		return err
	}
	// What people have written below the tables stays.
	text := r.markdown()
	if before, err := os.ReadFile(*markdown); err == nil {
		if i := bytes.Index(before, []byte("\n## Where the time goes\n")); i >= 0 {
			text += string(before[i:])
		}
	}
	return os.WriteFile(*markdown, []byte(text), 0o644)
}

// takeTurns measures both contenders so many times; another one begins each round.
func takeTurns(rounds int, measure func(path string) (turn, error)) (floor, ours []turn, err error) {
	for round := range rounds {
		paths := []string{allowEverything, "/validate"}
		if round%2 == 1 {
			paths[0], paths[1] = paths[1], paths[0]
		}
		for _, path := range paths {
			t, err := measure(path)
			if err != nil {
				return nil, nil, err
			}
			if path == allowEverything {
				floor = append(floor, t)
			} else {
				ours = append(ours, t)
			}
		}
	}
	return floor, ours, nil
}

func of(turns []turn, value func(turn) float64) float64 {
	var values []float64
	for _, t := range turns {
		values = append(values, value(t))
	}
	return median(values)
}

func ratiosOf(ours, floor []turn, value func(turn) float64) []float64 {
	var ratios []float64
	for i := range ours {
		ratios = append(ratios, value(ours[i])/value(floor[i]))
	}
	return ratios
}

func cpuPerRequest(t turn) float64 { return float64(t.cpu.Microseconds()) / float64(t.requests) }

// handlerInProcess calls the handlers one request after the other, without connections.
func handlerInProcess(ctx context.Context, n, rounds int) (section, error) {
	s := section{
		title: "In process",
		about: "From a body to its answer through the http.Handler, one request after the other. CPU is that of the process, with its garbage collection.",
		head: []string{"AdmissionReview", "Bytes", "Against", "Requests/s", "of floor", "", "Range", "CPU µs", "of floor",
			"Allocations", "of floor", "", "Bytes allocated"},
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server, err := handlerServer(ctx, ctrlwebhook.Options{})
	if err != nil {
		return s, err
	}
	mux := server.WebhookMux()
	for _, q := range webhooktest.Questions() {
		body := bytes.NewReader(nil)
		calls := func(path string, n int) error {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, path, io.NopCloser(body))
			if err != nil {
				return err
			}
			r.Header.Set("Content-Type", "application/json")
			answer := discarded{header: http.Header{}}
			for range n {
				body.Reset(q.Review)
				mux.ServeHTTP(&answer, r)
			}
			return nil
		}
		floor, ours, err := takeTurns(rounds, func(path string) (turn, error) {
			if err := calls(path, 50); err != nil { // what is made once
				return turn{}, err
			}
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			cpu, start := ownCPU(), time.Now()
			if err := calls(path, n); err != nil {
				return turn{}, err
			}
			t := turn{requests: n, wall: time.Since(start), cpu: ownCPU() - cpu}
			runtime.ReadMemStats(&after)
			t.allocs = float64(after.Mallocs-before.Mallocs) / float64(n)
			t.bytes = float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
			return t, nil
		})
		if err != nil {
			return s, err
		}
		throughput := ratiosOf(ours, floor, turn.throughput)
		allocs := median(ratiosOf(ours, floor, func(t turn) float64 { return t.allocs }))
		cpu := median(ratiosOf(ours, floor, cpuPerRequest))
		progress("in process, %s: %s of the floor's throughput, %s of its CPU, %s of its allocations", q.Name, percent(median(throughput)), percent(cpu), percent(allocs))
		line := func(name string, turns []turn, ratios ...string) {
			s.rows = append(s.rows, []string{q.Name, fmt.Sprint(len(q.Review)), name,
				fmt.Sprintf("%.0f", of(turns, turn.throughput)), ratios[0], ratios[1], ratios[2],
				fmt.Sprintf("%.1f", of(turns, cpuPerRequest)), ratios[3],
				fmt.Sprintf("%.0f", of(turns, func(t turn) float64 { return t.allocs })), ratios[4], ratios[5],
				fmt.Sprintf("%.0f", of(turns, func(t turn) float64 { return t.bytes }))})
		}
		line("no-op", floor, "", "", "", "", "", "")
		line("routewarden", ours, percent(median(throughput)), met(median(throughput) >= handlerThroughput), span(throughput),
			percent(cpu), percent(allocs), met(allocs <= handlerAllocations))
	}
	return s, nil
}

// discarded is an answer that nobody reads.
type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) WriteHeader(int)             {}
func (d *discarded) Write(p []byte) (int, error) { return len(p), nil }

func ownCPU() time.Duration {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // it cannot fail
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// handlerOverHTTPS calls the handlers in another process as an API server does: HTTP/2 over TLS, on a connection that is kept.
func handlerOverHTTPS(ctx context.Context, n, rounds, workers int) (s section, err error) {
	s = section{
		title: "Over HTTPS",
		about: fmt.Sprintf("The server is a process of its own, asked over HTTP/2 by %s at once as an API server asks it. CPU is that of the server.", plural(workers, "worker")),
		head:  []string{"AdmissionReview", "Against", "Requests/s", "of floor", "", "Range", "CPU µs", "of floor"},
	}
	dir, err := os.MkdirTemp("", "routewarden-bench-*")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	certificate, key, err := cert.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
	if err != nil {
		return s, err
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "tls.crt"), certificate, 0o600), os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600)); err != nil {
		return s, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	ports, err := localcluster.FreePorts(1)
	if err != nil {
		return s, err
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
	questions := webhooktest.Questions()
	call := func(path string, q webhooktest.Question) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+path, bytes.NewReader(q.Review))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		content, err := io.ReadAll(response.Body)
		if want := fmt.Sprintf(`"allowed":%t`, path == allowEverything || q.Allowed); err == nil && !bytes.Contains(content, []byte(want)) {
			err = fmt.Errorf("%s was answered %s %s", q.Name, response.Status, content)
		}
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return s, err
	}
	process, err := localcluster.StartProcess(ctx, localcluster.ProcessOptions{
		Name: "webhooks", Path: executable, Args: []string{"handler", "serve", dir, address}, Log: filepath.Join(dir, "log"),
		Ready: func(context.Context) error { return call(allowEverything, questions[0]) },
	})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, process.Stop()) }()
	for _, q := range questions {
		calls := func(path string, n int) error {
			var left atomic.Int64
			left.Store(int64(n))
			var failed error
			var once sync.Once
			var all sync.WaitGroup
			for range workers {
				all.Go(func() {
					for left.Add(-1) >= 0 {
						if err := call(path, q); err != nil {
							once.Do(func() { failed = err })
							return
						}
					}
				})
			}
			all.Wait()
			return failed
		}
		floor, ours, err := takeTurns(rounds, func(path string) (turn, error) {
			if err := calls(path, 50); err != nil {
				return turn{}, err
			}
			cpu, start := readUsage(process.PID()).cpu, time.Now()
			err := calls(path, n)
			return turn{requests: n, wall: time.Since(start), cpu: readUsage(process.PID()).cpu - cpu}, err
		})
		if err != nil {
			return s, err
		}
		throughput := ratiosOf(ours, floor, turn.throughput)
		cpu := median(ratiosOf(ours, floor, cpuPerRequest))
		progress("over HTTPS, %s: %s of the floor's throughput, %s of its CPU", q.Name, percent(median(throughput)), percent(cpu))
		s.rows = append(s.rows,
			[]string{q.Name, "no-op", fmt.Sprintf("%.0f", of(floor, turn.throughput)), "", "", "", fmt.Sprintf("%.0f", of(floor, cpuPerRequest)), ""},
			[]string{q.Name, "routewarden", fmt.Sprintf("%.0f", of(ours, turn.throughput)), percent(median(throughput)),
				met(median(throughput) >= handlerThroughput), span(throughput), fmt.Sprintf("%.0f", of(ours, cpuPerRequest)), percent(cpu)})
	}
	return s, nil
}
