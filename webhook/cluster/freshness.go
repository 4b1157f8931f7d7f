package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/routesteward/routesteward/policy"
)

// Freshness knows whether the caches of routes have kept up with what is stored, and since when without a break. Code that
// concludes from a cache that there is no such route must ask it: after an outage a write may be possible before the watches
// have delivered what was stored meanwhile. Its states are in the package comment.
type Freshness struct {
	// every is the time between two reads, patience how long nothing may be heard.
	every, patience time.Duration
	// now asks the API server for the resourceVersion of everything that is stored of the policy's kinds, reached what the
	// caches have come to.
	now     func(context.Context) (map[policy.Kind]string, error)
	reached func(policy.Kind) string

	mu    sync.Mutex
	state freshnessState
	// breaks counts how often the state became broken.
	breaks int
	// heard is when the last read that went well began, since when the first one after the last break or silence ended.
	heard, since time.Time
	// behind is what the caches have to reach while they are catching up, by kind.
	behind  map[policy.Kind]string
	watches map[policy.Kind]watches
}

type freshnessState int

const (
	current freshnessState = iota
	broken
	catchingUp
)

// watches are those of one kind.
type watches struct {
	open int
	// missing is since when there is none any more; zero while there is one, and before the first.
	missing time.Time
}

// NewFreshness is one that notices breaks that matter to code that waits so long before it concludes that there is no route.
func NewFreshness(wait time.Duration) *Freshness {
	return &Freshness{every: min(time.Second, wait/16), patience: min(5*time.Second, wait/4), watches: map[policy.Kind]watches{}}
}

// Of sets what is compared. It must be called before Start.
func (f *Freshness) Of(live client.Reader, caches *Reader) {
	f.now = func(ctx context.Context) (map[policy.Kind]string, error) { return stored(ctx, live, caches.policy) }
	f.reached = func(kind policy.Kind) string {
		if informer := caches.informers[kind]; informer != nil {
			return informer.LastSyncResourceVersion()
		}
		return ""
	}
}

// stored reads the version of what is stored of each kind: a list without a resourceVersion is not answered from what an
// API server has cached unless that is as new as etcd, and one of a single name costs the same however many routes there are.
func stored(ctx context.Context, live client.Reader, pol *policy.Policy) (map[policy.Kind]string, error) {
	versions := map[policy.Kind]string{}
	for _, kind := range pol.Kinds {
		list := newRoutes(kind)
		if err := live.List(ctx, list, client.InNamespace(pol.SystemNamespace), client.MatchingFields{"metadata.name": "none"}); err != nil {
			return nil, fmt.Errorf("reading the resourceVersion of %ss: %w", kind, err)
		}
		versions[kind] = list.GetResourceVersion()
	}
	return versions, nil
}

// Start reads until ctx ends. It implements manager.Runnable.
func (f *Freshness) Start(ctx context.Context) error {
	ticker := time.NewTicker(f.every)
	defer ticker.Stop()
	for ill := false; ; {
		err := f.read(ctx)
		if err != nil && !ill && ctx.Err() == nil {
			log.FromContext(ctx).Info("caches may be behind: no ReferenceGrant is deleted before they are known not to be", "reason", err.Error())
		}
		ill = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: admissions conclude from caches in every replica.
func (f *Freshness) NeedLeaderElection() bool { return false }

// read notes how the API server answers.
func (f *Freshness) read(ctx context.Context) error {
	f.mu.Lock()
	began, before := time.Now().Round(0), f.breaks
	f.mu.Unlock()
	versions, err := f.now(ctx)
	ended := time.Now().Round(0)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.broke()
		return err
	}
	// A read that was under way at a break may have been answered before it.
	if f.state == broken && f.breaks == before {
		f.state, f.behind, f.since = catchingUp, versions, ended
	}
	if ended.Sub(f.heard) > f.patience {
		f.since = ended
	}
	f.heard = began
	return nil
}

// broke is for callers that hold mu, as is watchMissing.
func (f *Freshness) broke() {
	f.state = broken
	f.breaks++
}

// watchOpened notes that there is a watch of a kind. What it returns is to be called when there is none any more, with the error
// that ended it, if any; only the first call counts.
func (f *Freshness) watchOpened(kind policy.Kind) (ended func(error)) {
	if f == nil {
		return func(error) {}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.watches[kind]
	if f.tooLong(w) {
		f.broke()
	}
	f.watches[kind] = watches{open: w.open + 1}
	var once sync.Once
	return func(err error) {
		once.Do(func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.watches[kind] = watches{open: f.watches[kind].open - 1}
			f.watchMissing(kind, err)
		})
	}
}

// watchFailed notes that a watch of a kind could not be opened.
func (f *Freshness) watchFailed(kind policy.Kind, err error) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchMissing(kind, err)
}

func (f *Freshness) watchMissing(kind policy.Kind, err error) {
	if err != nil {
		f.broke()
	}
	if w := f.watches[kind]; w.open == 0 && w.missing.IsZero() {
		f.watches[kind] = watches{missing: time.Now().Round(0)}
	}
}

func (f *Freshness) tooLong(w watches) bool {
	return !w.missing.IsZero() && elapsed(w.missing) > f.patience
}

// elapsed is by the wall clock: the other one stands still while a virtual machine is suspended.
func elapsed(since time.Time) time.Duration { return time.Now().Round(0).Sub(since) }

// Since returns since when the caches have kept up without a break; false while it is not known whether they do. Where there is
// no Freshness, caches never fall behind.
func (f *Freshness) Since() (time.Time, bool) {
	if f == nil {
		return time.Time{}, true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == broken || elapsed(f.heard) > f.patience {
		return time.Time{}, false
	}
	for _, w := range f.watches {
		if f.tooLong(w) {
			return time.Time{}, false
		}
	}
	if f.state == catchingUp {
		for kind, version := range f.behind {
			if order, err := resourceversion.CompareResourceVersion(f.reached(kind), version); err != nil || order < 0 {
				return time.Time{}, false
			}
		}
		f.state = current
	}
	return f.since, true
}
