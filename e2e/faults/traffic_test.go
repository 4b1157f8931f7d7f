package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// legality is what the decision about a kind of route has to be.
type legality int32

const (
	illegal legality = iota
	legal
	// influx: consent has just changed, and caches may not know yet.
	influx
)

// kind is what a route asks for.
type kind struct {
	name string
	// by is who writes it.
	by string
	// namespace is the route's, backend its Services'; empty is the same.
	namespace, backend string
	// services is how many Services there are, so that routes share grants, which come and go; 0: each route has its own.
	services int
	// fixed is the Service of all of them.
	fixed string
	legal atomic.Int32
	// fickle: consent changes in this fault, so what was right once may not be now. losable: it was revoked.
	fickle, losable bool
}

func newKind(name, namespace, backend string, services int, l legality) *kind {
	k := &kind{name: name, by: tenantName, namespace: namespace, backend: backend, services: services}
	if backend == owned {
		k.by = ownerName
	}
	k.become(l)
	return k
}

func (k *kind) become(l legality)  { k.legal.Store(int32(l)) }
func (k *kind) legality() legality { return legality(k.legal.Load()) }

// kinds are those of every fault; that of routes in a team's namespace is legal where they are relocated.
func kinds(rewrites bool) []*kind {
	outside := illegal
	if rewrites {
		outside = legal
	}
	return []*kind{
		newKind("needs a grant of its own", system, models, 0, legal),
		newKind("outside the system namespace", team, "", 0, outside),
		newKind("shares a grant", system, models, 12, legal),
		newKind("without consent", system, closed, 0, illegal),
		newKind("consented to by who asks", system, owned, 0, legal),
		newKind("consented to by who asks, shared", system, owned, 12, legal),
		newKind("refers to its own namespace", system, "", 0, legal),
		newKind("permitted by somebody's grant", system, shared, 0, legal),
		newKind("permitted by AIBrix's grant", system, aibrix, 0, legal),
		newKind("without consent, in the team's namespace", system, team, 0, illegal),
	}
}

// outcome is what became of a request.
type outcome int

const (
	admitted outcome = iota
	refused
	// either: admitted or refused, while consent was in flux.
	either
	// wrongly ones are what must never be.
	wronglyAdmitted
	wronglyRefused
	// unanswered: the API server got no answer from routesteward. undecided: routesteward answered that it could not decide.
	unanswered
	undecided
	// failed: the API server refused, or did not answer.
	failed
	outcomes
)

// attempt is one creation or update.
type attempt struct {
	kind         *kind
	by           string
	key          client.ObjectKey
	began, ended time.Time
	outcome      outcome
	err          error
}

// judgeOutcome says what an error means for a request whose legality was before when it was made, and is after now.
func judgeOutcome(before, after legality, err error) outcome {
	fluid := before != after || before == influx
	switch message := fmt.Sprint(err); {
	case err == nil && fluid:
		return either
	case err == nil && before == illegal:
		return wronglyAdmitted
	case err == nil:
		return admitted
	case strings.Contains(message, "routesteward could not decide"):
		return undecided
	case strings.Contains(message, "failed calling webhook"):
		return unanswered
	case apierrors.IsForbidden(err) && strings.Contains(message, "denied the request"):
		switch {
		case fluid:
			return either
		case before == legal:
			return wronglyRefused
		}
		return refused
	case strings.Contains(message, "denied the request"):
		return undecided
	}
	return failed
}

// ledger is what is known of every route that was ever asked for.
type ledger struct {
	mu sync.Mutex
	// kinds says what each was created as, by whom by; gone are those that were deleted for certain, or may have been.
	kinds map[client.ObjectKey]*kind
	by    map[client.ObjectKey]string
	// sure are stored for certain, doubtful may be stored: nobody answered, or their deletion was not answered.
	sure map[client.ObjectKey]bool
}

func newLedger() *ledger {
	return &ledger{kinds: map[client.ObjectKey]*kind{}, by: map[client.ObjectKey]string{}, sure: map[client.ObjectKey]bool{}}
}

func (l *ledger) asked(key client.ObjectKey, k *kind, by string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kinds[key], l.by[key] = k, by
}

func (l *ledger) is(key client.ObjectKey, stored bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if stored {
		l.sure[key] = true
	} else {
		delete(l.sure, key)
	}
}

// route is one that is stored.
type route struct {
	key  client.ObjectKey
	kind *kind
	by   string
}

// traffic creates, updates and deletes routes.
type traffic struct {
	w     *world
	kinds []*kind

	mu       sync.Mutex
	attempts []attempt
	deleted  int
	pool     []route
	// stored is called with each creation that was answered.
	stored func(*attempt)

	stop     context.CancelFunc
	requests sync.WaitGroup
}

func (w *world) traffic(kinds []*kind) *traffic { return &traffic{w: w, kinds: kinds} }

// begin creates routes until finish, so many a second whatever becomes of them, and with them every fifth time updates one
// and every third time deletes one.
func (tr *traffic) begin(ctx context.Context) {
	ticking, stop := context.WithCancel(ctx)
	tr.stop = stop
	tr.requests.Go(func() {
		ticker := time.NewTicker(time.Second / time.Duration(*rate))
		defer ticker.Stop()
		for n := 0; ; n++ {
			select {
			case <-ticking.Done():
				return
			case <-ticker.C:
			}
			k := tr.kinds[n%len(tr.kinds)]
			number := tr.next()
			// Not the context of the ticker: what was cut off is no failure.
			tr.requests.Go(func() { tr.note(tr.create(ctx, k, number)) })
			if n%5 == 0 {
				tr.requests.Go(func() { tr.update(ctx, n%3 == 0) })
			}
			if n%3 == 0 {
				tr.requests.Go(func() { tr.remove(ctx) })
			}
		}
	})
}

// finish returns when the last request is answered.
func (tr *traffic) finish() {
	tr.stop()
	tr.requests.Wait()
}

func (tr *traffic) next() int {
	tr.w.ledger.mu.Lock()
	defer tr.w.ledger.mu.Unlock()
	tr.w.number++
	return tr.w.number
}

func (tr *traffic) note(a attempt) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.attempts = append(tr.attempts, a)
	if tr.stored != nil && a.outcome == admitted {
		tr.stored(&a)
	}
}

func (k *kind) service(number int) string {
	if k.fixed != "" {
		return k.fixed
	}
	if k.services > 0 {
		return fmt.Sprintf("shared-%d", number%k.services)
	}
	return fmt.Sprintf("model-%d", number)
}

func backends(namespace, service string) []gwv1.HTTPRouteRule {
	backend := gwv1.HTTPBackendRef{}
	backend.Name, backend.Port = gwv1.ObjectName(service), new(gwv1.PortNumber(8000))
	if namespace != "" {
		backend.Namespace = new(gwv1.Namespace(namespace))
	}
	return []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{backend}}}
}

// create asks for a route that nobody has. If it is admitted it may be updated and deleted from then on.
func (tr *traffic) create(ctx context.Context, k *kind, number int) attempt {
	a := tr.ask(ctx, k, number)
	if a.err == nil {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.pool = append(tr.pool, route{a.key, k, a.by})
	}
	return a
}

// ask asks for a route.
func (tr *traffic) ask(ctx context.Context, k *kind, number int) attempt {
	by := k.by
	if by == tenantName {
		by = fmt.Sprintf("%s-%d", tenantName, number%tenants)
	}
	obj := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: k.namespace, Name: fmt.Sprintf("r-%d", number)}}
	obj.Spec.ParentRefs = []gwv1.ParentReference{{Name: "aibrix-eg", Namespace: new(gwv1.Namespace(system))}}
	obj.Spec.Rules = backends(k.backend, k.service(number))
	a := attempt{kind: k, by: by, key: client.ObjectKeyFromObject(obj), began: time.Now()}
	tr.w.ledger.asked(a.key, k, by)
	before := k.legality()
	a.err = tr.w.people[by].Create(ctx, obj)
	a.ended = time.Now()
	a.outcome = judgeOutcome(before, k.legality(), a.err)
	if a.err == nil {
		tr.w.ledger.is(a.key, true)
	}
	return a
}

// take takes a stored route out of those that may be changed.
func (tr *traffic) take(which func(route) bool) (route, bool) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.pool) == 0 {
		return route{}, false
	}
	i := rand.IntN(len(tr.pool))
	r := tr.pool[i]
	if !which(r) {
		return r, false
	}
	tr.pool[i] = tr.pool[len(tr.pool)-1]
	tr.pool = tr.pool[:len(tr.pool)-1]
	return r, true
}

// update lets a stored route refer to another Service, so that the grant of the one before is not needed any more; a bad
// one to where nobody consents.
func (tr *traffic) update(ctx context.Context, bad bool) {
	r, found := tr.take(func(r route) bool { return r.kind.backend == models })
	if !found {
		return
	}
	namespace, want := models, legal
	if bad {
		namespace, want = closed, illegal
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"rules": backends(namespace, fmt.Sprintf("model-%d", tr.next()))}})
	if err != nil {
		panic(err)
	}
	obj := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: r.key.Namespace, Name: r.key.Name}}
	a := attempt{kind: r.kind, key: r.key, began: time.Now()}
	a.err = tr.w.people[r.by].Patch(ctx, obj, client.RawPatch(types.MergePatchType, patch))
	a.ended = time.Now()
	a.outcome = judgeOutcome(want, want, a.err)
	tr.note(a)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.pool = append(tr.pool, r)
}

// remove deletes a stored route. That is never evaluated.
func (tr *traffic) remove(ctx context.Context) {
	r, found := tr.take(func(route) bool { return true })
	if !found {
		return
	}
	tr.w.ledger.is(r.key, false)
	obj := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: r.key.Namespace, Name: r.key.Name}}
	if err := tr.w.people[r.by].Delete(ctx, obj); err == nil {
		tr.mu.Lock()
		tr.deleted++
		tr.mu.Unlock()
	}
}

// probe creates a route of each kind, and returns nil when all verdicts are right. Wrong ones are noted, unless consent
// has changed and a first round has not yet shown that the caches know.
func (tr *traffic) probe(ctx context.Context, strict bool) error {
	var errs []error
	for _, k := range tr.kinds {
		a := tr.create(ctx, k, tr.next())
		wrong := a.outcome == wronglyAdmitted || a.outcome == wronglyRefused
		if wrong && (strict || !k.fickle) {
			tr.note(a)
		}
		if a.outcome > refused {
			errs = append(errs, fmt.Errorf("a route that %s: %w", k.name, orAdmitted(a.err)))
		}
	}
	return errors.Join(errs...)
}

func orAdmitted(err error) error {
	if err == nil {
		return errors.New("was admitted")
	}
	return err
}

// count is how many requests have had an outcome so far.
func (tr *traffic) count(o outcome) (n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for i := range tr.attempts {
		if tr.attempts[i].outcome == o {
			n++
		}
	}
	return n
}

// onAdmitted has a function called with each creation that is admitted from now on; nil ends that.
func (tr *traffic) onAdmitted(f func(*attempt)) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.stored = f
}
