package model

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// found is a state that the search has come to, and how.
type found struct {
	fingerprint fingerprint
	parent      int32
	label       string
	state       state
	// rest is where reconcilers lead from here.
	rest fingerprint
}

// search visits every state that a scenario's actions lead to, breadth first, so that the first counterexample is a shortest one.
type search struct {
	scenario *scenario
	parents  []int32
	labels   []string
	visited  map[fingerprint]int32
	// rests has where the states lead that were brought to rest, by the fingerprint they had when nothing was pending.
	rests       map[fingerprint]fingerprint
	transitions int
	depth       int
	// counterexample is the path to a violation, and what it violates.
	counterexample []string
	violations     []string
	took           time.Duration
}

// worker is what one goroutine finds in one level.
type worker struct {
	w           *world
	fresh       []found
	seen        map[fingerprint]bool
	rests       map[fingerprint]fingerprint
	transitions int
	// failed is the first violation: the state it is in has the parent and the label.
	failed     *found
	violations []string
}

// run searches to the depth; workers is how many goroutines do.
func run(t *testing.T, sc *scenario, depth, workers int) *search {
	t.Helper()
	began := time.Now()
	s := &search{scenario: sc, visited: map[fingerprint]int32{}, rests: map[fingerprint]fingerprint{}}
	all := make([]*worker, workers)
	for i := range all {
		w, err := newWorld(sc)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = &worker{w: w}
	}
	first := found{parent: -1, state: *all[0].w.s}
	first.fingerprint = all[0].w.fingerprint(&first.state)
	var level []found
	bubbles(t, 1, func(int) {
		all[0].rests = map[fingerprint]fingerprint{}
		first.rest, s.violations = all[0].settle(&first.state, s)
	})
	level = append(level, first)
	s.add(&first)
	for s.depth < depth && len(level) > 0 && s.violations == nil {
		bubbles(t, workers, func(i int) {
			from, to := i*len(level)/workers, (i+1)*len(level)/workers
			all[i].expand(s, level[from:to])
		})
		level = level[:0:0]
		for _, one := range all {
			s.transitions += one.transitions
			for from, to := range one.rests {
				s.rests[from] = to
			}
			for i := range one.fresh {
				if _, there := s.visited[one.fresh[i].fingerprint]; !there {
					s.add(&one.fresh[i])
					level = append(level, one.fresh[i])
				}
			}
			if one.failed != nil && s.violations == nil {
				s.counterexample = append(s.path(one.failed.parent), one.failed.label)
				s.violations = one.violations
			}
		}
		s.depth++
	}
	s.took = time.Since(began)
	return s
}

// bubbles runs one function in several goroutines, each with a clock of its own that stands still while there is something to
// do: a pause takes no time.
func bubbles(t *testing.T, n int, what func(i int)) {
	t.Helper()
	var group sync.WaitGroup
	for i := range n {
		group.Add(1)
		go func() {
			defer group.Done()
			synctest.Test(t, func(*testing.T) { what(i) })
		}()
	}
	group.Wait()
}

func (s *search) add(f *found) {
	s.visited[f.fingerprint] = int32(len(s.parents))
	s.parents = append(s.parents, f.parent)
	s.labels = append(s.labels, f.label)
}

// path is the labels of the actions that lead to a state.
func (s *search) path(at int32) []string {
	var labels []string
	for ; at > 0; at = s.parents[at] {
		labels = append(labels, s.labels[at])
	}
	slices.Reverse(labels)
	return labels
}

func (s *search) String() string {
	return fmt.Sprintf("%s: %d states, %d transitions, depth %d, %.1f s", s.scenario.name, len(s.parents), s.transitions, s.depth, s.took.Seconds())
}

// failure is the counterexample in words, and how to replay it.
func (s *search) failure() string {
	var b strings.Builder
	for _, violation := range s.violations {
		fmt.Fprintf(&b, "%s\n", violation)
	}
	for i, label := range s.counterexample {
		fmt.Fprintf(&b, "%3d. %s\n", i+1, label)
	}
	fmt.Fprintf(&b, "go test ./webhook/model -run 'TestReplay' -v -model.scenario=%q -model.replay=%q", s.scenario.name, strings.Join(s.counterexample, "; "))
	return b.String()
}

// expand makes every action in every state.
func (k *worker) expand(s *search, level []found) {
	k.fresh, k.seen, k.rests, k.transitions, k.failed, k.violations = nil, map[fingerprint]bool{}, map[fingerprint]fingerprint{}, 0, nil, nil
	for i := range level {
		from := &level[i]
		at := s.visited[from.fingerprint]
		for _, a := range k.w.possible(&from.state) {
			k.w.set(from.state)
			k.w.step(a)
			k.transitions++
			next := found{parent: at, label: a.label, state: *k.w.s}
			violations, excused := k.w.violations, k.w.excused
			if violations == nil {
				next.fingerprint = k.w.fingerprint(&next.state)
				old := k.seen[next.fingerprint]
				if !old {
					_, old = s.visited[next.fingerprint]
				}
				if !old || a.system && !excused {
					next.rest, violations = k.settle(&next.state, s)
				}
				if violations == nil && a.system && !excused && next.rest != from.rest {
					violations = []string{"where the reconcilers come to rest depends on this step, which nobody asked for"}
				}
				if !old && violations == nil {
					k.seen[next.fingerprint] = true
					k.fresh = append(k.fresh, next)
				}
			}
			if violations != nil {
				k.failed, k.violations = &next, violations
				return
			}
		}
	}
}

// possible are the actions that make sense in a state.
func (w *world) possible(s *state) []action {
	w.set(*s)
	var actions []action
	for _, a := range w.scenario.actions {
		if a.enabled == nil || a.enabled(w) {
			actions = append(actions, a)
		}
	}
	for _, i := range s.queue {
		actions = append(actions, look(i))
	}
	return actions
}

// step makes an action, and evaluates what it has led to.
func (w *world) step(a action) string {
	outcome := a.do(w)
	w.finish()
	w.check()
	return outcome
}

// bounds of what brings a state to rest.
const (
	maxLooks  = 200
	maxPasses = 20
)

// settle drops what is pending, lets the caches catch up, and the reconcilers work until they have nothing to do; that in two
// orders. It returns where they come to rest, and what is wrong on the way or there.
func (k *worker) settle(from *state, s *search) (fingerprint, []string) {
	w := k.w
	var rest fingerprint
	for order := range 2 {
		w.quieten(from, order)
		quiet := w.fingerprint(w.s)
		there, known := k.rests[quiet]
		if !known {
			there, known = s.rests[quiet]
		}
		if !known {
			w.work(order)
			w.checkAtRest()
			there = w.outcome(w.s)
			if w.violations == nil {
				w.resync()
				w.work(order)
				if w.outcome(w.s) != there {
					w.violated("the reconcilers had nothing to do, and a restart leads elsewhere")
				}
			}
			if w.violations != nil {
				return there, append(w.violations, "when the reconcilers come to rest after the last step")
			}
			// The other order may lead elsewhere from the same state.
			if order == 0 {
				k.rests[quiet] = there
			}
		}
		if order > 0 && there != rest {
			return rest, []string{"where the reconcilers come to rest depends on the order in which they look"}
		}
		rest = there
	}
	return rest, nil
}

// quieten drops what is pending, and lets all caches catch up.
func (w *world) quieten(from *state, order int) {
	w.set(*from)
	w.s.pending = nil
	for replica := range replicas {
		for k := range kinds {
			if order == 1 {
				k = kinds - 1 - k
			}
			if w.s.views[replica].behind[k] {
				w.catchUp(replica, k)
			}
		}
	}
	w.finish()
}

// work lets the reconcilers and the cluster's controllers work until they have nothing to do.
func (w *world) work(order int) {
	passes := 0
	for range maxLooks {
		for _, namespace := range origins {
			if a := vanish(namespace); a.enabled(w) {
				w.note("%s: %s", a.label, w.step(a))
			}
		}
		switch queue := w.s.queue; {
		case len(queue) > 0:
			i := queue[0]
			if order > 0 {
				i = queue[len(queue)-1]
			}
			w.note("the reconciler looks at the %s: %s", i, w.step(look(i)))
		case len(w.s.later) > 0 && passes < maxPasses:
			passes++
			w.note("a part of the grace passes: %s", w.step(pass()))
		case len(w.s.later) > 0:
			w.violated("the reconcilers look again and again at %v", w.s.later)
			return
		default:
			return
		}
		if w.violations != nil {
			return
		}
	}
	w.violated("the reconcilers do not come to rest: %v", w.s.queue)
}

// resync lets the reconcilers look at everything anew.
func (w *world) resync() {
	w.startLeader()
	for e := range w.each {
		w.s.queue = withItem(w.s.queue, item{ofGrants, namespacedName(e.to.namespace, grantName(e))})
	}
}

// replay makes actions by their labels, and tells of everything that happens.
func replay(t *testing.T, sc *scenario, labels []string) (told []string, violations []string) {
	t.Helper()
	w, err := newWorld(sc)
	if err != nil {
		t.Fatal(err)
	}
	w.tracing = true
	bubbles(t, 1, func(int) {
		for _, label := range labels {
			at := slices.IndexFunc(w.possible(w.s), func(a action) bool { return a.label == label })
			if at < 0 {
				told = append(told, fmt.Sprintf("%q is not possible here. These are:", label))
				for _, a := range w.possible(w.s) {
					told = append(told, "  "+a.label)
				}
				return
			}
			a := w.possible(w.s)[at]
			w.set(*w.s)
			outcome := w.step(a)
			told = append(told, fmt.Sprintf("%s: %s", label, outcome))
			for _, line := range w.told {
				told = append(told, "    "+line)
			}
			told = append(told, w.listing()...)
			if violations = w.violations; violations != nil {
				return
			}
		}
		before := *w.s
		k := &worker{w: w, rests: map[fingerprint]fingerprint{}}
		if _, violations = k.settle(&before, &search{}); violations == nil {
			w.quieten(&before, 0)
			w.work(0)
			told = append(told, "and then, until there is nothing to do:")
			for _, line := range w.told {
				told = append(told, "    "+line)
			}
			told = append(told, w.listing()...)
		}
	})
	return told, violations
}

// listing is what there is, in words.
func (w *world) listing() []string {
	var lines []string
	for _, e := range w.s.objects {
		line := "      | " + e.key.String()
		switch e.kind {
		case aNamespace:
			if value := label(w.s.objects, e.name); value != "" {
				line += " labeled " + value
			}
			if e.terminating() {
				line += ", being deleted"
			}
			if line == "      | "+e.key.String() {
				continue
			}
		case aGateway:
			continue
		case aGrant:
			line += fmt.Sprintf(" age %d", w.s.clock-e.born)
			if e.ours {
				line += ", managed: " + w.describe(w.edgeOfGrant(e))
			}
		case aRoute:
			line += fmt.Sprintf(" to %v", backends(e.route()))
			if parked(e.stored) {
				line += ", parked"
			}
			if e.ours {
				line += ", a copy"
			}
		}
		lines = append(lines, line)
	}
	if len(w.s.queue)+len(w.s.later) > 0 {
		lines = append(lines, fmt.Sprintf("      | to look at now: %v, later: %v", w.s.queue, w.s.later))
	}
	return lines
}
