package cluster

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/routesteward/routesteward/policy"
)

const wait = 20 * time.Second // so that the patience is 5 s

// felt is a Freshness, and what it asks.
type felt struct {
	*testing.T
	*Freshness
	// stored is what the API server answers, perhaps with an error; cached is what the caches have reached. The first answers
	// take so long.
	stored, cached string
	slow           []time.Duration
	err            error
}

func feel(t *testing.T, test func(*felt)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &felt{T: t, Freshness: NewFreshness(wait), stored: "10", cached: "10"}
		w.now = func(context.Context) (map[policy.Kind]string, error) {
			if len(w.slow) > 0 {
				took := w.slow[0]
				w.slow = w.slow[1:]
				<-time.After(took)
			}
			return map[policy.Kind]string{policy.HTTPRoute: w.stored}, w.err
		}
		w.reached = func(policy.Kind) string { return w.cached }
		test(w)
	})
}

// reads lets it read for so long.
func (w *felt) reads(d time.Duration) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), d)
	defer cancel()
	require.NoError(w, w.Start(ctx))
}

func (w *felt) wantUnknown() {
	w.Helper()
	_, ok := w.Since()
	require.False(w, ok)
}

func (w *felt) wantSince(want time.Time) {
	w.Helper()
	since, ok := w.Since()
	require.True(w, ok)
	require.WithinDuration(w, want, since, 0)
}

func TestFreshness(t *testing.T) {
	t.Run("without one", func(t *testing.T) {
		var none *Freshness
		since, ok := none.Since()
		require.True(t, ok)
		require.Zero(t, since)
		none.watchFailed(policy.HTTPRoute, errors.New("refused"))
		none.watchOpened(policy.HTTPRoute)(nil)
	})
	t.Run("begins with the first answer", func(t *testing.T) {
		feel(t, func(w *felt) {
			w.wantUnknown()
			began := time.Now()
			w.slow = []time.Duration{3 * time.Second}
			w.reads(4*time.Second + time.Millisecond)
			w.wantSince(began.Add(3 * time.Second))
			w.reads(time.Minute)
			w.wantSince(began.Add(3 * time.Second))
		})
	})
	t.Run("quick reads are frequent", func(t *testing.T) {
		feel(t, func(w *felt) {
			asked, now := 0, w.now
			w.now = func(ctx context.Context) (map[policy.Kind]string, error) { asked++; return now(ctx) }
			w.reads(time.Minute - time.Millisecond)
			require.Equal(t, 60, asked)
		})
	})
	t.Run("nothing ran", func(t *testing.T) {
		feel(t, func(w *felt) {
			w.reads(time.Second)
			began := time.Now().Add(-time.Second)
			<-time.After(5 * time.Second)
			w.wantSince(began)
			<-time.After(time.Millisecond)
			w.wantUnknown()
			w.reads(time.Millisecond)
			w.wantSince(time.Now().Add(-time.Millisecond))
		})
	})
	t.Run("no answer for long", func(t *testing.T) {
		feel(t, func(w *felt) {
			w.reads(time.Second)
			asked := time.Now()
			w.slow = []time.Duration{30 * time.Second, 2 * time.Second}
			go func() {
				<-time.After(6 * time.Second)
				w.wantUnknown()
				<-time.After(25 * time.Second)
				w.wantUnknown() // an answer shows how things were when it was asked for
			}()
			w.reads(40 * time.Second)
			w.wantSince(asked.Add(32 * time.Second))
		})
	})
	t.Run("an error: the caches have to catch up", func(t *testing.T) {
		feel(t, func(w *felt) {
			w.reads(time.Second)
			w.err = errors.New("etcd is away")
			w.reads(time.Millisecond)
			w.wantUnknown()
			w.err, w.stored = nil, "100"
			w.reads(time.Millisecond)
			back := time.Now().Add(-time.Millisecond)
			w.wantUnknown()
			w.reads(time.Minute)
			w.cached = "99"
			w.wantUnknown()
			w.cached = "100"
			w.wantSince(back)
			w.cached = "9" // what was once reached is not asked for again
			w.wantSince(back)
		})
	})
	t.Run("versions that cannot be compared", func(t *testing.T) {
		feel(t, func(w *felt) {
			w.watchFailed(policy.HTTPRoute, errors.New("refused"))
			w.watchOpened(policy.HTTPRoute)
			w.cached = "" // nothing read yet
			w.reads(time.Minute)
			w.wantUnknown()
		})
	})
	t.Run("an error of a watch while it is read", func(t *testing.T) {
		feel(t, func(w *felt) {
			w.watchOpened(policy.HTTPRoute)
			w.reads(time.Second)
			now := w.now
			w.now = func(ctx context.Context) (map[policy.Kind]string, error) {
				ended := w.watchOpened(policy.HTTPRoute)
				ended(errors.New("cut off"))
				ended(errors.New("closed after that"))
				w.now = now
				return now(ctx)
			}
			w.reads(time.Millisecond)
			w.wantUnknown()
			w.reads(time.Millisecond)
			w.wantSince(time.Now().Add(-time.Millisecond))
		})
	})
	t.Run("a watch of which the time is over", func(t *testing.T) {
		feel(t, func(w *felt) {
			began := time.Now()
			ended := w.watchOpened(policy.HTTPRoute)
			w.reads(time.Second)
			ended(nil)
			w.reads(time.Second)
			next := w.watchOpened(policy.HTTPRoute)
			w.reads(time.Minute)
			w.wantSince(began)
			// Its end may be noticed after the next one was opened.
			last := w.watchOpened(policy.HTTPRoute)
			next(nil)
			w.reads(time.Minute)
			w.wantSince(began)
			last(nil)
			w.reads(6 * time.Second)
			w.wantUnknown()
			w.watchOpened(policy.HTTPRoute)
			w.stored = "11"
			w.reads(time.Millisecond)
			w.wantUnknown()
			w.cached = "11"
			w.wantSince(time.Now().Add(-time.Millisecond))
		})
	})
}

// What ends a watch of routes is an error or not.
func TestWatchesBreakFreshness(t *testing.T) {
	for name, tt := range map[string]struct {
		code   int
		body   string
		events int
		broken bool
	}{
		"its time is over":     {200, `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}` + "\n", 1, false},
		"nothing to report":    {200, "", 0, false},
		"cut off":              {200, `{"type":"BOOKMARK","obj`, 0, true},
		"no JSON":              {200, `<html>`, 1, true},
		"an error is reported": {200, `{"type":"ERROR","object":{"status":"Failure","reason":"Expired","code":410}}` + "\n", 1, true},
		"it cannot be opened":  {410, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}`, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tt.code)
				_, _ = io.WriteString(w, tt.body)
			}))
			defer server.Close()
			fresh := NewFreshness(wait)
			newInformer, err := NewInformer(&rest.Config{Host: server.URL}, fresh)
			require.NoError(t, err)
			for _, kind := range []policy.Kind{policy.HTTPRoute, policy.GRPCRoute} {
				before := fresh.breaks
				lw := &toolscache.ListWatch{}
				newInformer(lw, NewRoute(kind), 0, nil)
				watched, err := lw.WatchFuncWithContext(t.Context(), metav1.ListOptions{})
				require.Equal(t, tt.code == 200, err == nil)
				events := 0
				if err == nil {
					for range watched.ResultChan() {
						events++
					}
					watched.Stop()
				}
				require.Equal(t, tt.events, events)
				require.Equal(t, tt.broken, fresh.breaks > before)
				require.Zero(t, fresh.watches[kind].open)
				require.NotZero(t, fresh.watches[kind].missing)
			}
		})
	}
}

// A watch that is stopped is no error, whatever its stream holds then.
func TestStoppedWatchIsNoError(t *testing.T) {
	stopped := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		<-stopped
	}))
	defer server.Close()
	defer close(stopped)
	fresh := NewFreshness(wait)
	newInformer, err := NewInformer(&rest.Config{Host: server.URL}, fresh)
	require.NoError(t, err)
	lw := &toolscache.ListWatch{}
	newInformer(lw, NewRoute(policy.HTTPRoute), 0, nil)
	watched, err := lw.WatchFuncWithContext(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Equal(t, watches{open: 1}, fresh.watches[policy.HTTPRoute])
	watched.Stop()
	for range watched.ResultChan() {
	}
	require.Zero(t, fresh.breaks)
	require.Zero(t, fresh.watches[policy.HTTPRoute].open)
}
