package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/routewarden/routewarden/hack/bench/simulation"
)

// plan is a cluster that is simulated.
type plan struct {
	// The cores of one API server, of one replica of routewarden (its CPU limit), and of etcd.
	apiServers, apiCores, replicas, replicaCores, etcdCores int
}

// million is the cluster that the page is about.
var million = plan{apiServers: 3, apiCores: 8, replicas: 2, replicaCores: 1, etcdCores: 8}

// hop is one way through a data centre's network, there and back.
const hop = 500 * time.Microsecond

// simulate runs creates at a rate through the plan, with or without routewarden.
func (p plan) simulate(c costs, rate float64, webhook bool) (out simulation.Outcome, busiest map[string]float64) {
	pool := func(name string, n, servers int) (pool []*simulation.Station) {
		for range n {
			pool = append(pool, &simulation.Station{Name: name, Servers: servers})
		}
		return pool
	}
	api, hooks := pool(apiServer, p.apiServers, p.apiCores), pool(aWebhook, p.replicas, p.replicaCores)
	store, network := pool(etcd, 1, p.etcdCores), pool("network", 1, 0)
	// An API server's work is half before it asks the webhook, and half after it.
	steps := []simulation.Step{{At: network, Mean: hop}, {At: api, Mean: c.apiServer / 2}}
	if webhook {
		steps = append(steps, simulation.Step{At: network, Mean: hop}, simulation.Step{At: hooks, Mean: c.webhook})
	}
	steps = append(steps, simulation.Step{At: api, Mean: c.apiServer / 2}, simulation.Step{At: network, Mean: hop}, simulation.Step{At: store, Mean: c.etcd})
	out = simulation.Run(simulation.Load{Steps: steps, Rate: rate, Requests: 100_000, Seed: 1})
	busiest = map[string]float64{}
	for station, busy := range out.Busy {
		busiest[station.Name] = max(busiest[station.Name], busy)
	}
	return out, busiest
}

// most is how many creates in a second keep the stations of a name wholly busy.
func (p plan) most(c costs, name string) float64 {
	switch name {
	case apiServer:
		return float64(p.apiServers*p.apiCores) / c.apiServer.Seconds()
	case aWebhook:
		return float64(p.replicas*p.replicaCores) / c.webhook.Seconds()
	}
	return float64(p.etcdCores) / c.etcd.Seconds()
}

// here simulates this machine: everything shares its cores, and so many clients wait for their answers.
func here(c costs, cores int) simulation.Outcome {
	machine := []*simulation.Station{{Name: "machine", Servers: cores}}
	var steps []simulation.Step
	for _, mean := range []time.Duration{c.client, c.apiServer / 2, c.webhook, c.apiServer / 2, c.etcd} {
		steps = append(steps, simulation.Step{At: machine, Mean: mean})
	}
	return simulation.Run(simulation.Load{Steps: steps, Clients: c.workers, Requests: 50_000, Seed: 1})
}

func beyondReport(args []string, cores int, all []held, c costs) report {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1000) }
	us := func(d time.Duration) string { return fmt.Sprintf("%.0f", d.Seconds()*1e6) }
	count := func(n float64) string { return fmt.Sprintf("%.0f", n) }

	told := section{
		title: "Measured: one routewarden that is told of so many routes",
		about: "The real program with its real API server, but a proxy between them adds the routes to the answers: each as the API server " +
			"stored it but for name, uid and versions, every fifth one with a reference to another namespace. “Ready” is from its start to /readyz; " +
			"memory is at rest; an admission is a judged create through the API server, which holds none of the routes.",
		head: []string{"Routes", "Told MiB", "Ready s", "CPU s", "MiB at rest", "MiB peak", "Bytes a route", "CPU µs a change", "Admission p50 ms", "p99 ms"},
	}
	for _, h := range all {
		bytes := "–"
		if more := h.routes - all[0].routes; more > 0 {
			bytes = count(float64(h.resident-all[0].resident) / float64(more))
		}
		told.rows = append(told.rows, []string{fmt.Sprint(h.routes), count(mebibytes(h.told)), fmt.Sprintf("%.1f", h.ready.Seconds()), fmt.Sprintf("%.1f", h.cpu.Seconds()),
			count(mebibytes(h.resident)), count(mebibytes(h.peak)), bytes, us(h.change), ms(h.p50), ms(h.p99)})
	}

	one := section{
		title: "Measured: what one route costs a cluster",
		about: fmt.Sprintf("A create that routewarden judges, with %d workers; a watch is one more client that is told of every route; memory is the "+
			"API server's after a restart, as far as it grew with 10,000 routes.", c.workers),
		head: []string{"", "Of one route"},
		rows: [][]string{
			{"CPU of kube-apiserver", ms(c.apiServer) + " ms"},
			{"CPU of etcd", ms(c.etcd) + " ms"},
			{"CPU of routewarden", ms(c.webhook) + " ms"},
			{"CPU of kube-apiserver for one more watch", us(c.watcher) + " µs"},
			{"Stored", count(c.stored) + " bytes"},
			{"Memory of kube-apiserver", count(c.resident) + " bytes"},
		},
	}

	fits := here(c, cores)
	valid := section{
		title: "Does the simulation fit?",
		about: "The same simulation of this machine, whose cores all processes share, beside what was measured on it. Where other work shares them too, fewer are measured.",
		head:  []string{"", "Measured", "Simulated"},
		rows:  [][]string{{fmt.Sprintf("creates a second, %d workers", c.workers), count(c.perSecond), count(fits.PerSecond)}},
	}

	p := million
	busy := section{
		title: "Simulated: creates in a large cluster",
		about: fmt.Sprintf("%d API servers of %d cores, etcd with %d, %d replicas of routewarden limited to %d core each, %v for a way through the network and back. "+
			"Requests come independently of each other; the time of each step is distributed exponentially around what was measured here. etcd's disk is left out, which favours the cluster, not routewarden.",
			p.apiServers, p.apiCores, p.etcdCores, p.replicas, p.replicaCores, hop),
		head: []string{"Creates/s", "p50 ms without", "p50 ms with", "p99 ms without", "p99 ms with", "Busy kube-apiserver", "Busy etcd", "Busy routewarden"},
	}
	most := math.Min(p.most(c, apiServer), math.Min(p.most(c, aWebhook), p.most(c, etcd)))
	for _, part := range []float64{0.05, 0.25, 0.5, 0.75, 0.9, 0.97} {
		rate := most * part
		without, _ := p.simulate(c, rate, false)
		with, stations := p.simulate(c, rate, true)
		busy.rows = append(busy.rows, []string{count(rate), ms(quantile(without.Latencies, 0.5)), ms(quantile(with.Latencies, 0.5)),
			ms(quantile(without.Latencies, 0.99)), ms(quantile(with.Latencies, 0.99)), percent(stations[apiServer]), percent(stations[etcd]), percent(stations[aWebhook])})
	}

	limits := section{
		title: "Where the limit is",
		about: fmt.Sprintf("How many creates a second each part can take when it does nothing else. One core of routewarden serves %.1f cores of API servers: from there on the API server is the limit.",
			c.apiServer.Seconds()/c.webhook.Seconds()),
		head: []string{"Part", "Creates/s at most"},
		rows: [][]string{
			{fmt.Sprintf("%d API servers of %d cores", p.apiServers, p.apiCores), count(p.most(c, apiServer))},
			{fmt.Sprintf("etcd with %d cores", p.etcdCores), count(p.most(c, etcd))},
		},
	}
	for _, replicas := range []int{1, 2, 3, 5} {
		q := p
		q.replicas = replicas
		limits.rows = append(limits.rows, []string{plural(replicas, "replica") + " of routewarden", count(q.most(c, aWebhook))})
	}

	last := all[len(all)-1]
	return report{
		title: "Beyond one machine: a million routes",
		preface: []string{
			fmt.Sprintf("Made with `%s` on %s, %s.", strings.Join(append([]string{"go run ./hack/bench beyond"}, args...), " "), time.Now().UTC().Format(time.DateOnly), machine()),
			"What one machine can show is measured, what it cannot is computed or simulated from that, and each section says which.",
			fmt.Sprintf("In short: a replica that holds %d routes takes %.1f GiB and is ready after %.0f s; the API server needs about %.0f GiB to hold them, and %.1f times routewarden's CPU for each create. "+
				"So the API server is the limit, in memory and in CPU, as long as routewarden has one core for each %.0f of the API servers'. What grows with the routes is the start and the memory; a change and an admission cost the same.",
				last.routes, float64(last.resident)/(1<<30), last.ready.Seconds(), float64(last.routes)*c.resident/(1<<30), c.apiServer.Seconds()/c.webhook.Seconds(), c.apiServer.Seconds()/c.webhook.Seconds()),
		},
		sections: []section{told, one, valid, limits, busy, clusters(all, c), replicas(all, c)},
	}
}

// clusters divides a million routes.
func clusters(all []held, c costs) section {
	s := section{
		title: "Computed: a million routes in one cluster, or in many",
		about: "Clusters share nothing: routewarden reads and writes its own API server only, so that many clusters are many times one. In etcd a route needs at least what is stored; " +
			"its history until the next compaction comes on top, and other objects. etcd's quota is 2 GiB by default, and 8 GiB is the most that it recommends. A start reads every route once: that is what an API server sends for each replica.",
		head: []string{"Clusters", "Routes in each", "etcd GiB", "API server MiB", "A start reads MiB", "routewarden ready s", "routewarden MiB"},
	}
	for _, h := range all {
		if h.routes > 1_000_000 || 1_000_000%h.routes != 0 {
			continue
		}
		n := float64(h.routes)
		s.rows = append([][]string{{fmt.Sprint(1_000_000 / h.routes), fmt.Sprint(h.routes), fmt.Sprintf("%.2f", n*c.stored/(1<<30)), fmt.Sprintf("%.0f", n*c.resident/(1<<20)),
			fmt.Sprintf("%.0f", mebibytes(h.told)), fmt.Sprintf("%.1f", h.ready.Seconds()), fmt.Sprintf("%.0f", mebibytes(h.resident))}}, s.rows...)
	}
	return s
}

// replicas says what each one more costs.
func replicas(all []held, c costs) section {
	last := all[len(all)-1]
	s := section{
		title: fmt.Sprintf("Computed: replicas, with %d routes", last.routes),
		about: "Every replica answers admissions and holds all routes; one of them reconciles. So a replica adds its memory, one more watch of every change, and the read at its start; " +
			"replicas that start at the same time (a rollout starts them one after the other) ask the API server for all of it at once.",
		head: []string{"Replicas", "MiB in all", "CPU of API servers a change", "Part of a create", "Read at once MiB"},
	}
	for _, n := range []int{1, 2, 3, 5} {
		watches := time.Duration(n) * c.watcher
		s.rows = append(s.rows, []string{fmt.Sprint(n), fmt.Sprintf("%.0f", float64(n)*mebibytes(last.resident)), fmt.Sprintf("%.0f µs", watches.Seconds()*1e6),
			fmt.Sprintf("%.1f %%", 100*watches.Seconds()/c.apiServer.Seconds()), fmt.Sprintf("%.0f", float64(n)*mebibytes(last.told))})
	}
	return s
}
