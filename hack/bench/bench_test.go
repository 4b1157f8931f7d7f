package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/hack/gateways"
)

// TestMain also is the processes that measurements start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "parse" || os.Args[1] == "noop") {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestStatistics(t *testing.T) {
	require.Zero(t, median(nil))
	require.EqualValues(t, 2, median([]float64{3, 1, 2}))
	require.EqualValues(t, 2.5, median([]float64{4, 1, 3, 2}))

	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i)*time.Millisecond)
	}
	require.EqualValues(t, 50, quantile(hundred, 0.5))
	require.EqualValues(t, 99, quantile(hundred, 0.99))
	require.EqualValues(t, 1, quantile(hundred, 0))
	require.EqualValues(t, 100, quantile(hundred[:2], 0.99))
	require.Zero(t, quantile(nil, 0.5))

	half := ratios([]int{1, 4}, []int{2, 4}, func(i int) float64 { return float64(i) })
	require.Equal(t, []float64{0.5, 1}, half)
	require.Equal(t, "50–100 %", spread(half))
}

func TestCreate(t *testing.T) {
	routes := newRoutes(100, "model", consentingNamespace)
	var written, odd atomic.Int64
	write := func(context.Context, route) error {
		written.Add(1)
		return nil
	}
	l, err := create(t.Context(), routes, 7, write, func(_ context.Context, r route) error {
		if strings.HasSuffix(r.name, "1-router") {
			odd.Add(1)
		}
		return nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 100, written.Load())
	require.EqualValues(t, 10, odd.Load())
	require.Len(t, l.latencies, 100)
	require.Positive(t, l.elapsed)

	refuse := func(_ context.Context, r route) error {
		if r.name == "model-42-router" {
			return errors.New("refused")
		}
		return nil
	}
	_, err = create(t.Context(), routes, 1, refuse)
	require.EqualError(t, err, "creating model-42-router: refused")
	_, err = create(t.Context(), routes, 1, write, refuse)
	require.EqualError(t, err, "after creating model-42-router: refused")
}

func TestRoutesAndTheirGrantsDiffer(t *testing.T) {
	routes := newRoutes(2, "model", consentingNamespace)
	require.Contains(t, string(routes[1].body), `"backendRefs":[{"kind":"Service","name":"model-1","namespace":"models","port":8000}]`)
	require.Contains(t, string(routes[1].grantBody), `"to":[{"group":"","kind":"Service","name":"model-1"}]`)
	require.NotEqual(t, routes[0].grantName, routes[1].grantName)
}

func TestLate(t *testing.T) {
	routes := newRoutes(4, "model", consentingNamespace)
	stored := map[string]string{}
	grants := map[string]string{routes[0].grantName: "9", routes[1].grantName: "11", routes[2].grantName: "10"}
	for _, r := range routes {
		stored[r.name] = "10"
	}
	missing, after, err := lateOf(routes, stored, grants)
	require.NoError(t, err)
	require.Equal(t, 1, missing)
	require.Equal(t, 1, after)
	delete(stored, routes[3].name)
	_, _, err = lateOf(routes, stored, grants)
	require.EqualError(t, err, "HTTPRoute model-3-router was created and is not there")
}

func TestUsageOfThisProcess(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("needs Linux's /proc")
	}
	for began := time.Now(); time.Since(began) < 50*time.Millisecond; {
	}
	u := readUsage(os.Getpid())
	require.Positive(t, u.cpu)
	require.Less(t, u.cpu, time.Hour)
	require.Greater(t, u.peak, int64(1<<20))
	require.Zero(t, readUsage(-1))
}

func TestAdmissionTable(t *testing.T) {
	samples := map[cell][]sample{}
	took := map[contender]time.Duration{noWebhook: 10, noopWebhook: 11, twoWrites: 20, routesteward: 12}
	for _, s := range scenarios() {
		for _, c := range s.contenders {
			for round := range 2 {
				samples[cell{s.name, 1, c}] = append(samples[cell{s.name, 1, c}], sample{
					load: load{[]time.Duration{5 * time.Millisecond, 7 * time.Millisecond}, (took[c] + time.Duration(round)) * time.Millisecond},
					cpu:  [3]time.Duration{120 * time.Millisecond, 60 * time.Millisecond}, peak: 50 << 20, requests: 4, read: 2,
				})
			}
		}
	}
	samples[cell{"new grant", 1, routesteward}][1].unready = 1
	samples[cell{"new grant", 1, routesteward}][0].late = 2
	var out strings.Builder
	require.NoError(t, write(&out, measurements()[0], []string{"admission", "-n", "2"}, []table{createdTable(scenarios(), []int{1}, samples)}))
	require.Regexp(t, "^## Creating routes\n\n.*\n\n....-..-.., commit .+, .+, go.+: `go run ./hack/bench admission -n 2`\n\n\\| Routes \\|", out.String())
	for _, row := range []string{
		"| no decision | 1 | routesteward | 5.00 | 7.00 | 160 | 84 % | 83–85 % | 60.00 | 30.00 | 0.00 | 2.00 | 50 |  |  |  |",
		"| evaluated | 1 | routesteward | 5.00 | 7.00 | 160 | 92 % | 92–92 % | 60.00 | 30.00 | 0.00 | 2.00 | 50 |  |  |  |",
		"| new grant | 1 | two plain writes | 5.00 | 7.00 | 97 | 100 % | 100–100 % | 60.00 | 30.00 | 0.00 |  |  |  |  |  |",
		"| new grant | 1 | routesteward | 5.00 | 7.00 | 160 | 164 % | 162–167 % | 60.00 | 30.00 | 0.00 | 2.00 | 50 | 1 of 4 | 0 | 2 |",
	} {
		require.Contains(t, out.String(), row+"\n")
	}
}

func TestArguments(t *testing.T) {
	names := "want one of admission, burst, scale, check, relocation, gateways, ha"
	for args, want := range map[string]string{
		"":                              names,
		"everything":                    names,
		"admission -n 0":                "want -n and -rounds of at least 1, and no arguments",
		"burst extra":                   "want -n and -rounds of at least 1, and no arguments",
		"scale -n 49 -routesteward .":   "want -n of at least 50",
		"ha -rounds 2":                  "flag provided but not defined: -rounds",
		"admission -routesteward /none": "routesteward is not built, run `make build`: stat /none: no such file or directory",
	} {
		require.EqualError(t, run(t.Context(), strings.Fields(args), io.Discard), want)
	}
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
	metrics, err := scrape(t.Context(), server.URL)
	require.NoError(t, err)
	require.Equal(t, 9, metrics.writes())
	require.Equal(t, 19, metrics.requests())
	require.EqualValues(t, 1, metrics["rest_client_requests_total 409"])
	require.EqualValues(t, 3, metrics.busy()[0])
}

func TestLineOfGateways(t *testing.T) {
	results := []firstRequest{
		{served: 30 * time.Millisecond, resolved: 3 * time.Millisecond},
		{served: 10 * time.Millisecond, resolved: time.Millisecond, failing: 7 * time.Millisecond,
			refused: map[gwv1.GatewayController]bool{gateways.TraefikController: true}},
		{served: 20 * time.Millisecond, resolved: 2 * time.Millisecond},
	}
	require.Equal(t, []any{atAdmission, "20 ms", "67 %", "30 ms", "30 ms", "1 of 3", "7 ms", "2 ms", "0 of 3", "1 of 3"}, line(atAdmission, results, results[:1]))
	require.Equal(t, "–", line(atAdmission, results[:1], results)[6], "none was failing")
}

// The measurements themselves, small: that everything is found there, whatever the numbers are.
func TestMeasurements(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "routesteward")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/routesteward/routesteward")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	measured := func(args ...string) string {
		var out strings.Builder
		require.NoError(t, run(t.Context(), append(args, "-routesteward", binary), &out))
		return out.String()
	}
	text := measured("burst", "-n", "60")
	require.Regexp(t, `(?m)^\| new grant \| 16 \| routesteward \| .* \| 0 of 3 \| 0 \| 0 \|$`, text)
	text = measured("scale", "-n", "60", "-rounds", "1")
	require.Regexp(t, `(?m)^\| 60 \| 6 \| 12 \| \d`, text)
	require.Regexp(t, `(?m)^\| 60 \| 6 \| 0 \| \d`, text)
	require.Regexp(t, `(?m)^\| 60 \| new grant \| \d`, text)

	text = measured("check", "-n", "20", "-rounds", "1")
	for _, contender := range []string{"parsing alone", "check", "check --fix"} {
		require.Contains(t, text, fmt.Sprintf("| 20 | routes in one file, all to be fixed | %s |", contender))
	}
	text = measured("relocation", "-n", "20", "-rounds", "1")
	require.Regexp(t, `(?m)^\| 20 \| until every copy was there \| \d`, text)
}
