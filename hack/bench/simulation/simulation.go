// Package simulation is a discrete-event simulation of requests that pass through stations with a limited number of
// servers, such as the cores of an API server. Time is simulated: nothing here sleeps, and a run with the same seed has
// the same outcome.
package simulation

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Station serves requests in the order in which they come, as many at once as it has servers.
type Station struct {
	// Name is for whoever reads the outcome.
	Name string
	// Servers is how many requests are served at once; 0 means that nobody waits, as on a network.
	Servers int
}

// Step is what a request needs from one station, or from one of several that are chosen from at random, as a Service
// chooses a Pod.
type Step struct {
	// At is the stations that can serve it.
	At []*Station
	// Mean is how long that takes once its turn has come; the times are distributed exponentially around it, so that
	// a few take long.
	Mean time.Duration
}

// Load is one experiment. Exactly one of Rate and Clients is set.
type Load struct {
	Steps []Step
	// Rate is how many requests begin in a second, independent of each other (a Poisson process): an open system.
	Rate float64
	// Clients is how many people begin their next request as soon as the last one is done: a closed system.
	Clients int
	// Requests is how many are begun. The first tenth fills the system, and counts for nothing.
	Requests int
	Seed     uint64
}

// Outcome is what came of the requests that count.
type Outcome struct {
	// Latencies are ascending.
	Latencies []time.Duration
	// PerSecond is how many were done in a second.
	PerSecond float64
	// Busy is the part of its servers' time that a station was at work; nothing for those where nobody waits.
	Busy map[*Station]float64
}

// Run simulates a load until every request is done.
func Run(load Load) Outcome {
	s := &run{
		load:   load,
		random: rand.New(rand.NewPCG(load.Seed, 0)),
		state:  map[*Station]*state{},
		counts: load.Requests / 10,
	}
	if load.Clients > 0 {
		for range min(load.Clients, load.Requests) {
			s.begin(0)
		}
	} else {
		s.arrive(0)
	}
	for len(s.events) > 0 {
		e := heap.Pop(&s.events).(event)
		e.do(e.at)
		s.now = e.at
	}
	out := Outcome{Latencies: s.latencies, Busy: map[*Station]float64{}}
	slices.Sort(out.Latencies)
	if took := s.now - s.since; took > 0 {
		out.PerSecond = float64(len(s.latencies)) / took.Seconds()
	}
	for station, state := range s.state {
		if station.Servers > 0 && s.now > 0 {
			out.Busy[station] = state.busy.Seconds() / (float64(station.Servers) * s.now.Seconds())
		}
	}
	return out
}

// run is the state of one simulation.
type run struct {
	load   Load
	random *rand.Rand
	events events
	state  map[*Station]*state
	// begun and planned count requests and events.
	begun, planned int
	// counts is how many requests come before those that count, since is when the first of these began.
	counts    int
	since     time.Duration
	now       time.Duration
	latencies []time.Duration
}

// state is that of one station.
type state struct {
	serving int
	waiting []func(time.Duration)
	busy    time.Duration
}

// arrive begins a request of an open system, and plans the next.
func (s *run) arrive(now time.Duration) {
	if s.begun == s.load.Requests {
		return
	}
	s.begin(now)
	s.at(now+s.exponential(time.Duration(float64(time.Second)/s.load.Rate)), s.arrive)
}

func (s *run) begin(now time.Duration) {
	if s.begun == s.load.Requests {
		return
	}
	number := s.begun
	s.begun++
	if number == s.counts {
		s.since = now
	}
	s.step(now, 0, func(end time.Duration) {
		if number >= s.counts {
			s.latencies = append(s.latencies, end-now)
		}
		if s.load.Clients > 0 {
			s.begin(end)
		}
	})
}

// step takes a request through its steps from the i-th on.
func (s *run) step(now time.Duration, i int, done func(time.Duration)) {
	if i == len(s.load.Steps) {
		done(now)
		return
	}
	step := s.load.Steps[i]
	station := step.At[s.random.IntN(len(step.At))]
	at := s.state[station]
	if at == nil {
		at = &state{}
		s.state[station] = at
	}
	serve := func(now time.Duration) {
		at.serving++
		needs := s.exponential(step.Mean)
		at.busy += needs
		s.at(now+needs, func(now time.Duration) {
			at.serving--
			if len(at.waiting) > 0 {
				next := at.waiting[0]
				at.waiting = at.waiting[1:]
				next(now)
			}
			s.step(now, i+1, done)
		})
	}
	if station.Servers > 0 && at.serving >= station.Servers {
		at.waiting = append(at.waiting, serve)
		return
	}
	serve(now)
}

func (s *run) exponential(mean time.Duration) time.Duration {
	return time.Duration(math.Round(s.random.ExpFloat64() * float64(mean)))
}

func (s *run) at(when time.Duration, do func(time.Duration)) {
	s.planned++
	heap.Push(&s.events, event{when, s.planned, do})
}

// event is something that happens at a simulated time.
type event struct {
	at    time.Duration
	order int
	do    func(time.Duration)
}

// events is a heap, the earliest first.
type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}
