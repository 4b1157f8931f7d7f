package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fault is something that is broken while routes are created.
type fault struct {
	name string
	settings
	// longOnly: it takes too long for every day. needsDisk: it fills one.
	longOnly, needsDisk bool
	// kinds are added to those of every fault.
	kinds func(w *world) []*kind
	// prepare runs before routes are created, and what it returns after all is looked at.
	prepare func(ctx context.Context, s *scene) (restore func(), err error)
	// do makes the fault happen, and returns when its cause is gone. It says what it has hit with scene.hit.
	do func(ctx context.Context, s *scene) error
}

// scene is a world in which a fault happens.
type scene struct {
	*world
	t       *testing.T
	traffic *traffic
	kinds   map[string]*kind
	hits    []string
	// answered, where the front looks inside, points to what is called with each answer.
	answered *atomic.Pointer[func(*http.Request, *http.Response)]
}

// hit notes what the fault has hit.
func (s *scene) hit(format string, args ...any) {
	s.hits = append(s.hits, fmt.Sprintf(format, args...))
}

// pick is one of two values: that of every day, or that of -faults.long.
func pick[T any](short, full T) T {
	if *long {
		return full
	}
	return short
}

// authority reads routesteward's Secret.
func (w *world) authority(ctx context.Context) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	return secret, w.admin.Get(ctx, client.ObjectKey{Namespace: own, Name: "routesteward-ca"}, secret)
}

// happen creates routes while the fault happens and until all verdicts are right again, and then looks at what is stored.
func (w *world) happen(t *testing.T, f fault) *result {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	w.serve(t, f.settings)
	all := kinds(w.rewrites())
	s := &scene{world: w, t: t, kinds: map[string]*kind{}}
	if f.kinds != nil {
		all = append(all, f.kinds(w)...)
	}
	for _, k := range all {
		s.kinds[k.backend] = k
	}
	s.traffic = w.traffic(all)
	if f.prepare != nil {
		restore, err := f.prepare(ctx, s)
		require.NoError(t, err)
		defer restore()
	}
	// The API server calls the follower, unless the fault is about somebody else.
	w.front.disconnect()
	// As after a fault: the API server may not ask yet.
	require.NoError(t, eventually(ctx, func() error { return s.traffic.probe(ctx, true) }))
	starts := w.replicas[0].started() + w.replicas[1].started()

	r := &result{fault: f.name}
	s.traffic.begin(ctx)
	err := pause(ctx, calm)
	began := time.Now()
	if err == nil {
		err = f.do(ctx, s)
	}
	r.lasted = time.Since(began)
	over := time.Now()
	if err == nil {
		err = eventually(ctx, func() error { return s.traffic.probe(ctx, false) })
	}
	r.recovered = time.Since(over)
	// From now on a wrong verdict is one, whatever may still fail on a busy machine.
	for range 2 {
		err = errors.Join(err, pause(ctx, calm/2), eventually(ctx, func() error { return s.traffic.probe(ctx, true) }))
	}
	s.traffic.finish()
	if t.Failed() || err != nil {
		w.tellAll(t)
	}
	require.NoError(t, err)

	for i := range s.traffic.attempts {
		a := &s.traffic.attempts[i]
		r.counts[a.outcome]++
		r.longest = max(r.longest, a.ended.Sub(a.began))
		if a.outcome == wronglyAdmitted || a.outcome == wronglyRefused {
			r.wrong = append(r.wrong, fmt.Sprintf("%s, which %s, at %s: %v", a.key, a.kind.name, a.began.Format("15:04:05.000"), orAdmitted(a.err)))
		}
		if a.outcome > refused && len(r.examples[a.outcome]) < 2 {
			r.examples[a.outcome] = append(r.examples[a.outcome], fmt.Sprintf("%s: %v", a.began.Format("15:04:05.000"), orAdmitted(a.err)))
		}
	}
	r.deleted = s.traffic.deleted
	r.state, r.settled, err = w.settled(ctx, t)
	require.NoError(t, err)
	r.restarts = w.replicas[0].started() + w.replicas[1].started() - starts
	r.hits = strings.Join(s.hits, "; ")
	r.reports = w.reports()
	require.NoError(t, w.Exited())
	return r
}

// tellAll shows the end of the replicas' logs, without what they say all the time.
func (w *world) tellAll(t *testing.T) {
	for _, r := range w.replicas {
		if server := r.process(); server != nil {
			lines := slices.DeleteFunc(strings.Split(server.Logs(), "\n"), func(line string) bool {
				return strings.Contains(line, `"decided"`) || strings.Contains(line, "no route needs it") || strings.Contains(line, "healthz check failed")
			})
			t.Logf("replica %d:\n%s", r.number, strings.Join(lines[max(0, len(lines)-30):], "\n"))
		}
	}
}
