package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// faults are all of them, in an order in which replicas need few other settings.
func faults() []fault {
	return slices.Concat(killed(), caches(), controlPlane(), leaderless(), certificates())
}

// killed is kill -9 of the replica that is called, at every phase of an admission that makes a grant.
func killed() []fault {
	proxied := settings{proxied: true}
	return []fault{
		{name: "kill -9 before the grant is made", settings: proxied, do: killAtGrant(false)},
		{name: "kill -9 between the grant and the answer", settings: proxied, do: killAtGrant(true)},
		{name: "kill -9 with the answer on its way", settings: proxied, prepare: holdAnswers, do: killAtAnswer},
		{name: "kill -9 as soon as a route is stored", settings: proxied, longOnly: true, do: killWhenStored},
	}
}

// moment is one at which a replica stands still, because it waits for somebody else.
type moment struct {
	replica *replica
	// grant is what it is about.
	grant client.ObjectKey
}

// isNewGrant reports whether a request of routesteward makes a grant.
func isNewGrant(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/referencegrants")
}

// killAtGrant kills a replica while it waits for the answer to its request for a grant: before that has reached the API server, or when
// the grant is stored.
func killAtGrant(stored bool) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		kept := 0
		for n := range pick(1, 6) {
			reached := make(chan moment)
			released := make(chan struct{})
			var once sync.Once
			for i, b := range s.backs {
				stand := func(ctx context.Context, grant client.ObjectKey) {
					once.Do(func() {
						select {
						case reached <- moment{s.replicas[i], grant}:
							select {
							case <-released:
							case <-ctx.Done(): // the replica is gone
							}
						case <-ctx.Done():
						}
					})
				}
				if stored {
					b.Hook(nil, func(r *http.Response) {
						if isNewGrant(r.Request) && r.StatusCode == http.StatusCreated {
							content, _ := io.ReadAll(r.Body)
							r.Body = body(content)
							stand(r.Request.Context(), keyOf(r.Request, content))
						}
					})
				} else {
					b.Hook(func(r *http.Request) *metav1.Status {
						if isNewGrant(r) {
							content, _ := io.ReadAll(r.Body)
							r.Body = body(content)
							stand(r.Context(), keyOf(r, content))
						}
						return nil
					}, nil)
				}
			}
			var m moment
			select {
			case m = <-reached:
			case <-ctx.Done():
				return ctx.Err()
			}
			starts := m.replica.started()
			m.replica.kill()
			close(released)
			for _, b := range s.backs {
				b.Hook(nil, nil)
			}
			err := s.admin.Get(ctx, m.grant, &gwv1.ReferenceGrant{})
			if client.IgnoreNotFound(err) != nil {
				return err
			}
			if stored != (err == nil) {
				return fmt.Errorf("kill %d: the grant %s: %w", n, m.grant, orAdmitted(err))
			}
			if err == nil {
				kept++
			}
			if err := m.replica.back(ctx, starts+1); err != nil {
				return err
			}
		}
		s.hit("%d replicas killed, each while it waited to hear of a new grant, which was stored %d times", pick(1, 6), kept)
		return nil
	}
}

// keyOf reads the grant in a request or an answer.
func keyOf(r *http.Request, content []byte) client.ObjectKey {
	var obj metav1.PartialObjectMetadata
	if err := unmarshal(content, &obj); err != nil {
		return client.ObjectKey{}
	}
	parts := strings.Split(r.URL.Path, "/")
	return client.ObjectKey{Namespace: parts[len(parts)-2], Name: obj.Name}
}

// holdAnswers has the front look inside.
func holdAnswers(ctx context.Context, s *scene) (restore func(), err error) {
	secret, err := s.authority(ctx)
	if err != nil {
		return nil, err
	}
	var hold atomic.Pointer[func(*http.Request, *http.Response)]
	s.answered = &hold
	return s.front.lookInside(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey], func(r *http.Request, answer *http.Response) {
		if hook := hold.Load(); hook != nil {
			(*hook)(r, answer)
		}
	})
}

// killAtAnswer kills a replica when it has answered, and lets the API server have the answer of the dead.
func killAtAnswer(ctx context.Context, s *scene) error {
	answers, stored := 0, 0
	for range pick(1, 6) {
		reached, released := make(chan *replica), make(chan struct{})
		var held atomic.Int64
		hook := func(r *http.Request, answer *http.Response) {
			content, _ := io.ReadAll(answer.Body)
			answer.Body = body(content)
			// One that made a grant says so in a warning.
			if !strings.Contains(string(content), "created ReferenceGrant") {
				return
			}
			for _, replica := range s.replicas {
				if r.URL.Host == replica.address() {
					held.Add(1)
					select {
					case reached <- replica:
					case <-released:
					}
					<-released
				}
			}
		}
		s.answered.Store(&hook)
		var r *replica
		select {
		case r = <-reached:
		case <-ctx.Done():
			return ctx.Err()
		}
		admittedBefore := s.traffic.count(admitted)
		starts := r.started()
		r.kill()
		s.answered.Store(nil)
		answers += int(held.Load())
		close(released)
		if err := eventually(ctx, func() error {
			if s.traffic.count(admitted) < admittedBefore+int(held.Load()) {
				return errors.New("the API server has not stored the routes yet")
			}
			return nil
		}); err != nil {
			return err
		}
		stored += int(held.Load())
		if err := r.back(ctx, starts+1); err != nil {
			return err
		}
	}
	s.hit("%d replicas killed whose answers were held back: the API server got %d answers of the dead, and stored %d routes", pick(1, 6), answers, stored)
	return nil
}

// killWhenStored kills the replica that has admitted a route, as soon as the client hears of it: the leader where it is the one.
func killWhenStored(ctx context.Context, s *scene) error {
	for range pick(1, 4) {
		heard := make(chan struct{})
		var once sync.Once
		s.traffic.onAdmitted(func(a *attempt) {
			if a.kind.backend == models {
				once.Do(func() { close(heard) })
			}
		})
		select {
		case <-heard:
		case <-ctx.Done():
			return ctx.Err()
		}
		r := s.called()
		starts := r.started()
		r.kill()
		s.traffic.onAdmitted(nil)
		if err := r.back(ctx, starts+1); err != nil {
			return err
		}
	}
	s.hit("%d replicas killed when a client had heard of its route", pick(1, 4))
	return nil
}

// leaderless is what happens to the replica that reconciles.
func leaderless() []fault {
	return []fault{
		{name: "kill -9 of the leader", longOnly: true, do: killLeader},
		{name: "kill -9 of both replicas at once", longOnly: true, do: killBoth},
		{name: "the leader suspended until its lease has lapsed", longOnly: true, do: suspendLeader},
		{name: "kill -9 of the leader while routes are relocated", settings: settings{flags: "--outside=rewrite"}, prepare: removeRelocated, do: killLeader},
	}
}

// removeRelocated has the routes of the team's namespace deleted after all, as they would be violations under the other settings.
func removeRelocated(_ context.Context, s *scene) (restore func(), err error) {
	return func() {
		if err := s.deleteTeams(s.t.Context()); err != nil {
			s.t.Error(err)
		}
		state, _, err := s.settled(s.t.Context(), s.t)
		if err == nil {
			err = state.err()
		}
		if err != nil {
			s.t.Errorf("after the sources are deleted: %v", err)
		}
	}, nil
}

// succeeded waits until another process leads than that of the replica which had been started so many times.
func (s *scene) succeeded(ctx context.Context, r *replica, starts int) error {
	return eventually(ctx, func() error {
		if leader := s.leader(); leader == nil || leader == r && r.started() == starts {
			return errors.New("nobody has become the leader")
		}
		return nil
	})
}

func killLeader(ctx context.Context, s *scene) error {
	r := s.leader()
	if r == nil {
		return errors.New("nobody leads")
	}
	starts := r.started()
	began := time.Now()
	r.kill()
	if err := s.succeeded(ctx, r, starts); err != nil {
		return err
	}
	s.hit("the leader killed; there was another one after %.0f s", time.Since(began).Seconds())
	return r.back(ctx, starts+1)
}

func killBoth(ctx context.Context, s *scene) error {
	for _, r := range s.replicas {
		starts := r.started()
		defer func() { _ = r.back(ctx, starts+1) }()
		r.process().Signal(syscall.SIGKILL)
	}
	for _, r := range s.replicas {
		<-r.process().Done()
	}
	s.hit("2 replicas killed")
	return nil
}

// suspendLeader stops the leader's process in the midst of its work, lets the other one take over, and lets it go on.
func suspendLeader(ctx context.Context, s *scene) error {
	r := s.leader()
	if r == nil {
		return errors.New("nobody leads")
	}
	starts := r.started()
	// When it wakes up, the grace of these grants is over, and it has not heard of those who need them now.
	reusing := &reusing{s: s}
	if err := inTurn(ctx, reusing.create, reusing.leave, waiting(grace()/10)); err != nil {
		return err
	}
	began := time.Now()
	process := r.process()
	process.Signal(syscall.SIGSTOP)
	err := reusing.create(ctx)
	if err == nil {
		err = s.succeeded(ctx, r, starts)
	}
	succeeded := time.Since(began)
	if err == nil {
		// The new one has begun to work, and the grace is over that the old one has begun to wait for.
		err = pause(ctx, max(2*time.Second, time.Until(began.Add(grace()+2*time.Second))))
	}
	suspended := time.Since(began)
	process.Signal(syscall.SIGCONT)
	if err != nil {
		return err
	}
	s.hit("the leader suspended for %.0f s; the other one led after %.0f s", suspended.Seconds(), succeeded.Seconds())
	// It finds that it leads no more, and ends, after everybody has had the time to notice.
	return r.back(ctx, starts+1)
}

// reused is how many grants change hands in a fault in which the caches do not tell of it.
const reused = 20

// reusing are routes that leave grants to others. Whoever wrote them consented, so that a grant that is lost stays lost.
type reusing struct {
	s      *scene
	routes []client.ObjectKey
}

// create asks for routes that need the same grants every time.
func (r *reusing) create(ctx context.Context) error {
	for n := range reused {
		k := newKind("needs a grant that another route has left", system, owned, 1, legal)
		k.name = fmt.Sprintf("%s (%d)", k.name, n)
		k.fixed = fmt.Sprintf("reused-%d", n)
		a := r.s.traffic.ask(ctx, k, r.s.traffic.next())
		if a.err != nil {
			return a.err
		}
		r.routes = append(r.routes, a.key)
	}
	return nil
}

// leave deletes the routes that there are.
func (r *reusing) leave(ctx context.Context) error {
	for _, key := range r.routes {
		obj := &gwv1.HTTPRoute{}
		obj.Namespace, obj.Name = key.Namespace, key.Name
		r.s.ledger.is(key, false)
		if err := r.s.admin.Delete(ctx, obj); err != nil {
			return err
		}
	}
	r.routes = nil
	return nil
}
