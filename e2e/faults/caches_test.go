package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// caches is what happens between routesteward and the API server.
func caches() []fault {
	proxied := settings{proxied: true}
	return []fault{
		{name: "caches stale while consent changes", settings: proxied, kinds: fickle, do: stale},
		{name: "watches of the leader cut for longer than the grace", settings: proxied, do: cutLeader},
		{name: "watches of the others cut for longer than the grace", settings: proxied, do: cutFollower},
		{name: "429 to half of all writes", settings: proxied, do: storm(http.StatusTooManyRequests)},
		{name: "409 to half of all writes", settings: proxied, do: storm(http.StatusConflict)},
	}
}

// fickle are routes to namespaces that change their minds.
func fickle(*world) []*kind {
	kinds := []*kind{
		newKind("refers to where consent is withdrawn", system, wanted, 0, legal),
		newKind("refers to where consent is given", system, welcoming, 0, illegal),
		newKind("refers to where consent becomes a veto", system, vetoing, 0, legal),
		newKind("refers to where a grant is deleted", system, revocation, 0, legal),
	}
	for _, k := range kinds {
		k.fickle = true
		k.losable = k.backend == vetoing || k.backend == revocation
	}
	return kinds
}

func unmarshal(content []byte, into any) error { return json.Unmarshal(content, into) }

// revoked is the grant that its owner deletes.
func revoked() *gwv1.ReferenceGrant {
	grant := policy.Edge{Origin: system, FromKind: policy.HTTPRoute, FromNamespace: system, Namespace: revocation, Kind: "Service"}.Grant("")
	grant.Name, grant.Labels, grant.Annotations = "revoked", nil, nil
	return grant
}

// stale holds back what watches tell while consent is given and taken.
func stale(ctx context.Context, s *scene) error {
	for _, b := range s.backs {
		b.Hold()
	}
	defer func() {
		for _, b := range s.backs {
			b.Release()
		}
	}()
	for _, k := range s.kinds {
		if k.fickle {
			k.become(influx)
		}
	}
	grant := revoked()
	for _, change := range []func() error{
		func() error { return s.label(ctx, wanted, "") },
		func() error { return s.label(ctx, welcoming, "allow") },
		func() error { return s.label(ctx, vetoing, "deny") },
		func() error { return s.admin.Delete(ctx, grant) },
	} {
		if err := change(); err != nil {
			return err
		}
	}
	held := staleness()
	// Whoever relies on a grant within half of the grace has it, however far caches are behind until then.
	err := pause(ctx, held)
	s.hit("watches held back for %.1f s while 4 namespaces changed their minds", held.Seconds())
	for _, b := range s.backs {
		b.Release()
	}
	if err != nil {
		return err
	}
	decided := map[string]legality{wanted: illegal, welcoming: legal, vetoing: illegal, revocation: illegal}
	probes := s.traffic.kinds
	if err := eventually(ctx, func() error {
		for _, k := range probes {
			want, changed := decided[k.backend]
			if !changed {
				continue
			}
			a := s.traffic.create(ctx, k, s.traffic.next())
			if (a.err == nil) != (want == legal) {
				return fmt.Errorf("a route that %s: %w", k.name, orAdmitted(a.err))
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, k := range probes {
		if want, changed := decided[k.backend]; changed {
			k.become(want)
		}
	}
	return nil
}

// staleness is less than half of the grace: see --grant-grace.
func staleness() time.Duration { return grace()/2 - pick(500*time.Millisecond, time.Second) }

// cut ends a replica's watches and puts off those that it asks for, although it may read and write, as an API server does that
// fills its own caches anew.
func (s *scene) cut(r *replica) (mend func()) {
	back := s.backs[r.number]
	back.Hook(func(request *http.Request) *metav1.Status {
		if request.URL.Query().Get("watch") != "true" {
			return nil
		}
		return tooManyRequests("storage is (re)initializing")
	}, nil)
	back.CloseClientConnections()
	return func() { back.Hook(nil, nil) }
}

// tooManyRequests asks to try again in a second.
func tooManyRequests(message string) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusTooManyRequests,
		Reason: metav1.StatusReasonTooManyRequests, Message: message, Details: &metav1.StatusDetails{RetryAfterSeconds: 1},
	}
}

// cutLeader: the leader has seen that grants are not needed any more, and does not see who needs them anew. When their grace is
// over, nothing keeps it from deleting them but that it knows that it cannot know.
func cutLeader(ctx context.Context, s *scene) error {
	leader := s.leader()
	if leader == nil {
		return errors.New("nobody leads")
	}
	reusing := &reusing{s: s}
	if err := inTurn(ctx, reusing.create, reusing.leave, waiting(grace()/10)); err != nil {
		return err
	}
	began := time.Now()
	mend := s.cut(leader)
	defer mend()
	if err := inTurn(ctx, reusing.create, waiting(grace()+2*time.Second)); err != nil {
		return err
	}
	s.hit("no watches for %.0f s, while %d grants were needed anew", time.Since(began).Seconds(), reused)
	return nil
}

// cutFollower: the replica that admits routes neither sees that nobody needs grants any more nor that the leader has deleted them
// when routes need them anew.
func cutFollower(ctx context.Context, s *scene) error {
	leader := s.leader()
	if leader == nil {
		return errors.New("nobody leads")
	}
	reusing := &reusing{s: s}
	if err := reusing.create(ctx); err != nil {
		return err
	}
	began := time.Now()
	mend := s.cut(s.other(leader))
	defer mend()
	err := inTurn(ctx, reusing.leave, waiting(grace()+2*time.Second), func(ctx context.Context) error {
		// It may say that it cannot tell whether there is consent.
		if err := reusing.create(ctx); !strings.Contains(fmt.Sprint(err), "try again") {
			return err
		}
		return nil
	})
	s.hit("no watches for %.0f s, while %d grants went that are needed anew", time.Since(began).Seconds(), reused)
	return err
}

// storm has a proxy answer half of routesteward's writes with a status.
func storm(code int) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		var refusedWrites, passed atomic.Int64
		asked := func(r *http.Request) *metav1.Status {
			if r.Method == http.MethodGet || strings.HasSuffix(r.URL.Path, "/selfsubjectreviews") {
				return nil
			}
			if rand.IntN(2) == 0 {
				passed.Add(1)
				return nil
			}
			refusedWrites.Add(1)
			if code == http.StatusTooManyRequests {
				return tooManyRequests("too many requests, please try again later")
			}
			return &metav1.Status{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code),
				Reason: metav1.StatusReasonConflict, Message: "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again",
			}
		}
		for _, b := range s.backs {
			b.Hook(asked, nil)
		}
		err := pause(ctx, pick(4*time.Second, 30*time.Second))
		for _, b := range s.backs {
			b.Hook(nil, nil)
		}
		s.hit("%d of %d writes of routesteward answered %d", refusedWrites.Load(), refusedWrites.Load()+passed.Load(), code)
		return err
	}
}
