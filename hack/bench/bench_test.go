package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStatistics(t *testing.T) {
	require.Zero(t, median(nil))
	require.EqualValues(t, 2, median([]float64{3, 1, 2}))
	require.EqualValues(t, 2.5, median([]float64{4, 1, 3, 2}))

	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	require.EqualValues(t, 50, quantile(hundred, 0.5))
	require.EqualValues(t, 99, quantile(hundred, 0.99))
	require.EqualValues(t, 1, quantile(hundred, 0))
	require.EqualValues(t, 2, quantile(hundred[:2], 0.99))
	require.Zero(t, quantile(nil, 0.5))
}

func TestCreate(t *testing.T) {
	routes := newRoutes(100, "model", consentingNamespace)
	var written atomic.Int64
	write := func(context.Context, route) error {
		written.Add(1)
		return nil
	}
	odd := func(_ context.Context, r route) (bool, error) { return strings.HasSuffix(r.name, "1-router"), nil }

	l, err := create(t.Context(), routes, 7, write, odd)
	require.NoError(t, err)
	require.EqualValues(t, 100, written.Load())
	require.Len(t, l.latencies, 100)
	require.True(t, slices.IsSorted(l.latencies))
	require.Equal(t, 90, l.missing)
	require.Positive(t, l.elapsed)

	refuse := func(_ context.Context, r route) error {
		if r.name == "model-42-router" {
			return errors.New("refused")
		}
		return nil
	}
	_, err = create(t.Context(), routes, 1, refuse, nil)
	require.EqualError(t, err, "creating model-42-router: refused")
}

func TestRoutesAndTheirGrantsDiffer(t *testing.T) {
	routes := newRoutes(2, "model", consentingNamespace)
	require.Contains(t, string(routes[1].body), `"backendRefs":[{"kind":"Service","name":"model-1","namespace":"models","port":8000}]`)
	require.Contains(t, string(routes[1].grantBody), `"to":[{"group":"","kind":"Service","name":"model-1"}]`)
	require.NotEqual(t, routes[0].grantName, routes[1].grantName)
}

func TestUsageOfThisProcess(t *testing.T) {
	if _, err := os.Stat("/proc/self/clear_refs"); err != nil {
		t.Skip("needs Linux's /proc")
	}
	for began := time.Now(); time.Since(began) < 50*time.Millisecond; {
	}
	u := readUsage(os.Getpid())
	require.Positive(t, u.cpu)
	require.Less(t, u.cpu, time.Hour)
	require.Greater(t, u.resident, int64(1<<20))
	require.GreaterOrEqual(t, u.peak, u.resident)
	require.Zero(t, child("no such program"))
}

func TestReport(t *testing.T) {
	o := options{routes: 2, rounds: 2, workers: []int{1}, scenarios: scenarios()}
	r := &results{kubernetes: "v1.2.3", samples: map[cell][]sample{}, idle: 20 << 20}
	took := map[contender]time.Duration{noWebhook: 10, again: 10, noopWebhook: 11, twoWrites: 20, routewarden: 12, readBack: 30}
	for _, s := range scenarios() {
		for _, c := range s.contenders {
			for round := range o.rounds {
				r.samples[cell{s.name, 1, c}] = append(r.samples[cell{s.name, 1, c}], sample{
					load: load{
						latencies: []time.Duration{5 * time.Millisecond, 7 * time.Millisecond},
						elapsed:   (took[c] + time.Duration(round)) * time.Millisecond,
					},
					used: map[string]usage{etcd: {cpu: 120 * time.Millisecond, peak: 50 << 20}},
				})
			}
		}
	}
	r.samples[cell{"new grant", 1, readBack}][1].missing = 1

	markdown := newReport(o, []string{"-n", "2"}, r).markdown()
	require.Contains(t, markdown, "# What an admission costs\n\nMeasured with `go run ./hack/bench -n 2` on ")
	for _, row := range []string{
		"| no webhook, twice | 1 | no webhook |  | 100 % | 100–100 % |  |",
		"| no decision | 1 | no webhook | at least 95 % | 84 % | 83–85 % | not met |",
		"| judged | 1 | no-op webhook | at least 90 % | 92 % | 92–92 % | met |",
		"| new grant | 1 | two plain writes | at least 90 % | 164 % | 162–167 % | met |",
		"| new grant | 1 | read as each create returns | no grant missing | 1 of 4 missing |  | not met |",
		"| new grant | 1 | order of storage | no grant missing | 0 of 4 missing |  | met |",
		"| 1 | routewarden | 5.00 | 7.00 | 160 | 84 % | 0.12 | – | – | – | 50 | – | – |",
		"| 2 routes, each with a managed grant | – |",
	} {
		require.Contains(t, markdown, row+"\n")
	}
	text := newReport(o, nil, r).text()
	require.NotContains(t, text, "|")
	require.Regexp(t, `(?m)^judged +1 +no-op webhook +at least 90 % +92 % +92–92 % +met$`, text)
}

func TestArguments(t *testing.T) {
	for args, want := range map[string]string{
		"-n 0":                "-n and -rounds must be at least 1",
		"-workers 1,x":        `invalid value "1,x" for flag -workers: "x" is not a number of workers`,
		"-only all":           `invalid value "all" for flag -only: want no decision, judged or new grant`,
		"extra":               `unexpected argument "extra"`,
		"burst -n 1":          "want -n of at least 2, -workers of at least 1, and no arguments",
		"scale -routes 9":     `invalid value "9" for flag -routes: "9" is not a greater number of routes, of at least 10`,
		"scale -routes 30,20": `invalid value "30,20" for flag -routes: "20" is not a greater number of routes, of at least 10`,
		"-routewarden /none":  "routewarden is not built, run `make build`: open /none: no such file or directory",
	} {
		require.EqualError(t, run(t.Context(), strings.Fields(args)), want)
	}
}

func TestObservedOrder(t *testing.T) {
	events := `{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"7"}}}
{"type":"MODIFIED","object":{"metadata":{"name":"a","resourceVersion":"8"}}}
{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"9"}}}
`
	o := &observed{path: "things", added: map[string]seen{}}
	o.read(io.NopCloser(strings.NewReader(events)))
	require.Equal(t, "7", o.of("a").version, "the first version")
	require.Empty(t, o.of("b").version)
	require.Equal(t, 1, o.deletions())
	require.EqualError(t, o.until(t.Context(), 2), "the watch of things ended: EOF")
}

func TestScrape(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `# HELP workqueue_depth of queues
workqueue_depth{name="grants"} 2
workqueue_depth{name="relocate"} 1
rest_client_requests_total{code="201",host="a",method="POST"} 5
rest_client_requests_total{code="409",host="a",method="POST"} 1
rest_client_requests_total{code="200",host="a",method="GET"} 10
rest_client_requests_total{code="200",host="a",method="DELETE"} 3
`)
	}))
	defer server.Close()
	told, err := scrape(t.Context(), server.URL)
	require.NoError(t, err)
	require.Equal(t, 9, told.writes())
	require.Equal(t, 19, told.requests())
	require.EqualValues(t, 1, told["rest_client_requests_total 409"])
	require.EqualValues(t, 3, told.busy()[0])
}

// The harness itself, small: that everything is found there, whatever the numbers are.
func TestBurstAndScale(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "routewarden")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/routewarden/routewarden").CombinedOutput()
	require.NoError(t, err, "%s", out)
	contents := func(name string) string {
		content, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return string(content)
	}
	require.NoError(t, run(t.Context(), []string{"burst", "-n", "60", "-routewarden", binary,
		"-markdown", filepath.Join(dir, "burst.md"), "-data", filepath.Join(dir, "burst.csv")}))
	for _, row := range []string{
		"| grants that were not there when the create returned, of those read back | 0 of 3 | 0 | met |",
		"| grants stored after their route, or never (order of storage, by watches) | 0 of 60 | 0 | met |",
		"| grants deleted meanwhile (by a watch) | 0 of 60 | 0 | met |",
		"| grants missing at the end | 0 of 60 | 0 | met |",
	} {
		require.Contains(t, contents("burst.md"), row)
	}
	require.Greater(t, strings.Count(contents("burst.csv"), "\n"), 2)

	require.NoError(t, run(t.Context(), []string{"scale", "-routes", "60", "-n", "4", "-rounds", "1", "-routewarden", binary,
		"-markdown", filepath.Join(dir, "scale.md"), "-data", filepath.Join(dir, "scale.csv")}))
	require.Regexp(t, `(?m)^\| 60 \| 6 \| 12 \| \d`, contents("scale.md"))
	require.Regexp(t, `(?m)^\| 60 \| judged, and a grant made \| \d`, contents("scale.md"))
	require.Regexp(t, `(?m)^\| 60 \| a managed grant deleted, and made again \| \d`, contents("scale.md"))
	require.Equal(t, 2, strings.Count(contents("scale.csv"), "\n"))
}
