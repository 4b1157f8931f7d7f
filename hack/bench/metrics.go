package main

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/routesteward/routesteward/hack/localcluster"
)

// scraped are the sums of the series of each metric, and by "name value" of those with a value of the labels method and code.
type scraped map[string]float64

// scrape reads routesteward's metrics.
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

const requestsTotal = "rest_client_requests_total"

// writes are the requests that change something.
func (s scraped) writes() int {
	return int(s[requestsTotal+" POST"] + s[requestsTotal+" PUT"] + s[requestsTotal+" PATCH"] + s[requestsTotal+" DELETE"])
}

func (s scraped) requests() int { return int(s[requestsTotal]) }

// busy is what changes as long as the reconcilers have something to do.
func (s scraped) busy() [3]float64 {
	return [3]float64{s["workqueue_depth"] + s["controller_runtime_active_workers"], s["controller_runtime_reconcile_total"], s["workqueue_adds_total"]}
}

// settle returns the metrics of a routesteward once its reconcilers have had nothing to do for a second, and when they began to
// have nothing to do.
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
