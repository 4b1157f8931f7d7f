// Package ha measures what becomes of routes that are created while replicas of routewarden, the API server or etcd are
// restarted, killed or paused.
package ha

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/hack/node"
)

const (
	system = "aibrix-system"
	own    = "routewarden-system"
	// team writes routes next to its models, models consents to references, closed does not.
	team, models, closed = "team-a", "models", "closed"

	// clients is how many connections to the API server the tenants have.
	clients = 4
	// calm is how long routes are created before an event and after it is over.
	calm = 2 * time.Second
	poll = 20 * time.Millisecond
	// apiServerGrace is what the API server has to end: it would wait a minute for those who watch. Together with its start
	// that is longer than a leader waits until it gives up its lease, 10 s.
	apiServerGrace = 10 * time.Second
)

// Event is something that happens to the cluster while routes are created.
type Event struct {
	Name string
	// Kill says that a replica is ended without notice, so that calls may fail until its endpoint is gone.
	Kill bool
	// do makes it happen, and returns when everything is as before.
	do func(context.Context, *scene, *Result) error
}

// Events are all of them, in an order in which each finds two replicas that are ready.
func Events() []Event {
	return []Event{
		{Name: "nothing", do: func(context.Context, *scene, *Result) error { return nil }},
		{Name: "rolling restart", do: rollingRestart},
		{Name: "kill -9 of the replica that the API server calls", Kill: true, do: killCalled},
		{Name: "kill -9 of the leader", Kill: true, do: killLeader},
		{Name: "the authority's Secret deleted", do: rotate},
		{Name: "API server restarted", do: restartAPIServer},
		{Name: "etcd paused for 10 s", do: pauseEtcd},
	}
}

// Result is what became of the routes during one event.
type Result struct {
	Event Event
	// Tried are all creations. Each is counted once more below.
	Tried int
	// Admitted and Denied are as they had to be.
	Admitted, Denied int
	// Outage are those that the API server refused or did not answer, and those for which it or routewarden would have
	// needed the API server or etcd while these were away.
	Outage int
	// Faults are the others: routewarden did not answer, could not decide, or decided wrongly.
	Faults []Fault
	// Dropped is when kube-proxy no longer led connections to a killed replica.
	Killed, Dropped time.Time
	// Longest is how long the slowest creation took that was admitted or denied.
	Longest time.Duration

	// away and back are when the API server or etcd went, and could be reached by Pods again.
	away, back time.Time
}

// Fault is a creation that routewarden has let fail.
type Fault struct {
	Began, Ended time.Time
	Err          error
}

// Late are the faults of creations that began after a killed replica's endpoint was gone; all of them where none was killed.
func (r *Result) Late() []Fault {
	var late []Fault
	for _, fault := range r.Faults {
		if !r.Event.Kill || fault.Began.After(r.Dropped) {
			late = append(late, fault)
		}
	}
	return late
}

// kind is what a route asks for.
type kind int

const (
	refused kind = iota // a reference without consent
	granted             // a reference that needs a new grant
	moved               // a route that is relocated, and needs a new grant for that
	kinds
)

// attempt is one creation.
type attempt struct {
	kind         kind
	route        *gwv1.HTTPRoute
	began, ended time.Time
	err          error
}

// scene is a cluster in which routes are created.
type scene struct {
	cluster *node.Cluster
	admin   client.Client
	tenants []client.Client
	number  int
	// stored are the routes that are there now.
	stored map[string]kind
}

// Run makes each event happen in a cluster with routewarden installed, at so many routes a second, and tells each result.
// Afterwards every stored route had its grant and its copy, and once the routes are deleted nothing is left.
//
// The deployment is changed: it gets --outside=rewrite and a short --grant-grace.
func Run(ctx context.Context, cluster *node.Cluster, rate int, events []Event, tell func(*Result)) error {
	s := &scene{cluster: cluster, stored: map[string]kind{}}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	for _, event := range events {
		result, attempts, err := s.happen(ctx, event, rate)
		if err == nil {
			err = s.verify(ctx, attempts)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", event.Name, err)
		}
		tell(result)
	}
	return s.remove(ctx)
}

func (s *scene) prepare(ctx context.Context) (err error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), coordinationv1.AddToScheme(scheme), gwv1.Install(scheme)); err != nil {
		return err
	}
	quiet := func(config *rest.Config) *rest.Config {
		config = rest.CopyConfig(config)
		config.WarningHandler = rest.NoWarnings{} // one for each grant
		config.QPS = -1
		config.Timeout = 30 * time.Second
		return config
	}
	if s.admin, err = client.New(quiet(s.cluster.Config), client.Options{Scheme: scheme}); err != nil {
		return err
	}
	for name, labels := range map[string]map[string]string{team: nil, closed: nil, models: {"routewarden.dev/grants": "allow"}} {
		if err := s.cluster.Namespace(ctx, name, labels); err != nil {
			return err
		}
	}
	for _, namespace := range []string{team, system} {
		for _, args := range [][]string{
			{"create", "role", "tenants", "-n", namespace, "--verb=create", "--resource=httproutes.gateway.networking.k8s.io"},
			{"create", "rolebinding", "tenants", "-n", namespace, "--role=tenants", "--group=tenants"},
		} {
			if err := s.cluster.MustKubectl(ctx, args...); err != nil {
				return err
			}
		}
	}
	for i := range clients {
		// Each has a certificate of his own, and so a connection.
		config, err := s.cluster.ConfigFor(fmt.Sprintf("tenant-%d", i), "tenants")
		if err != nil {
			return err
		}
		tenant, err := client.New(quiet(config), client.Options{Scheme: scheme, Mapper: s.admin.RESTMapper()})
		if err != nil {
			return err
		}
		s.tenants = append(s.tenants, tenant)
	}
	if err := s.cluster.MustKubectl(ctx, "-n", own, "set", "env", "deployment/routewarden", "ROUTEWARDEN_OUTSIDE=rewrite", "ROUTEWARDEN_GRANT_GRACE=15s"); err != nil {
		return err
	}
	if err := s.rolledOut(ctx); err != nil {
		return err
	}
	// The new leader has the registration changed, and the API server sees that after a second.
	return eventually(ctx, func() error {
		for k := range kinds {
			a := s.next(k)
			a.err = s.tenants[0].Create(ctx, a.route, client.DryRunAll)
			if outcome(&a) == fault {
				return fmt.Errorf("kind %d: %w", k, a.err)
			}
		}
		return nil
	})
}

func (s *scene) rolledOut(ctx context.Context) error {
	if err := s.cluster.MustKubectl(ctx, "-n", own, "rollout", "status", "deployment/routewarden", "--timeout=3m"); err != nil {
		return err
	}
	// Those that are about to go have gone, and kube-proxy knows the others.
	return eventually(ctx, func() error {
		var pods corev1.PodList
		if err := s.admin.List(ctx, &pods, client.InNamespace(own)); err != nil {
			return err
		}
		var addresses []string
		for _, pod := range pods.Items {
			addresses = append(addresses, pod.Status.PodIP)
		}
		routed, err := s.cluster.Routed(ctx, own+"/routewarden")
		slices.Sort(addresses)
		if err == nil && (len(addresses) != 2 || !slices.Equal(addresses, routed)) {
			err = fmt.Errorf("kube-proxy leads to %v, and there are %v", routed, addresses)
		}
		return err
	})
}

// next makes a route that nobody has.
func (s *scene) next(k kind) attempt {
	s.number++
	name := fmt.Sprintf("model-%d", s.number)
	gateway := gwv1.Namespace(system)
	port := gwv1.PortNumber(8000)
	backend := gwv1.HTTPBackendRef{BackendRef: gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{Name: gwv1.ObjectName(name), Port: &port}}}
	route := &gwv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name},
		Spec: gwv1.HTTPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Namespace: &gateway, Name: "aibrix-eg"}}},
		},
	}
	switch k {
	case refused:
		backend.Namespace = new(gwv1.Namespace(closed))
	case granted:
		backend.Namespace = new(gwv1.Namespace(models))
	case moved:
		route.Namespace = team
	}
	route.Spec.Rules = []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{backend}}}
	return attempt{kind: k, route: route}
}

type verdict int

const (
	admitted verdict = iota
	denied
	fault
	outage
)

// outcome is what a creation's error says.
func outcome(a *attempt) verdict {
	switch message := fmt.Sprint(a.err); {
	case a.err == nil && a.kind != refused:
		return admitted
	case a.err == nil: // should have been denied
		return fault
	case apierrors.IsForbidden(a.err) && strings.Contains(message, "denied the request"):
		if a.kind == refused {
			return denied
		}
		return fault
	// Without an answer, or with one that says that routewarden could not decide.
	case strings.Contains(message, "failed calling webhook"), strings.Contains(message, "admission webhook"):
		return fault
	}
	return outage
}

// happen creates routes while the event happens.
func (s *scene) happen(ctx context.Context, event Event, rate int) (*Result, []attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := s.rolledOut(ctx); err != nil {
		return nil, nil, err
	}
	result := &Result{Event: event}
	var attempts []attempt
	var mu sync.Mutex
	creating, stop := context.WithCancel(ctx)
	var load sync.WaitGroup
	load.Go(func() {
		ticker := time.NewTicker(time.Second / time.Duration(rate))
		defer ticker.Stop()
		for n := 0; ; n++ {
			select {
			case <-creating.Done():
				return
			case <-ticker.C:
			}
			a, tenant := s.next(kind(n)%kinds), s.tenants[n%clients]
			load.Go(func() {
				a.began = time.Now()
				// Not the context of the load: what was cut off is no failure.
				a.err = tenant.Create(ctx, a.route)
				a.ended = time.Now()
				mu.Lock()
				defer mu.Unlock()
				attempts = append(attempts, a)
			})
		}
	})
	err := pause(ctx, calm)
	if err == nil {
		err = event.do(ctx, s, result)
	}
	if err == nil {
		err = pause(ctx, calm)
	}
	stop()
	load.Wait()
	if err != nil {
		return nil, nil, err
	}
	for i := range attempts {
		result.count(&attempts[i])
	}
	return result, attempts, nil
}

func (r *Result) count(a *attempt) {
	r.Tried++
	took := a.ended.Sub(a.began)
	switch outcome(a) {
	case admitted:
		r.Admitted++
		r.Longest = max(r.Longest, took)
	case denied:
		r.Denied++
		r.Longest = max(r.Longest, took)
	case outage:
		r.Outage++
	case fault:
		// While etcd stands still no grant can be made, and a stopping API server gives up its calls.
		if !r.away.IsZero() && a.ended.After(r.away) && a.began.Before(r.back) && a.err != nil && !apierrors.IsForbidden(a.err) {
			r.Outage++
			return
		}
		r.Faults = append(r.Faults, Fault{a.began, a.ended, fmt.Errorf("%s/%s: %w", a.route.Namespace, a.route.Name, orAdmitted(a.err))})
	}
}

func orAdmitted(err error) error {
	if err == nil {
		return errors.New("was admitted")
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// eventually calls condition until it returns nil; when ctx ends first, its last error is returned.
func eventually(ctx context.Context, condition func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if pause(ctx, 5*poll) != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

func rollingRestart(ctx context.Context, s *scene, _ *Result) error {
	if err := s.cluster.MustKubectl(ctx, "-n", own, "rollout", "restart", "deployment/routewarden"); err != nil {
		return err
	}
	return s.rolledOut(ctx)
}

func killCalled(ctx context.Context, s *scene, r *Result) error {
	// The API server keeps one connection, and with it one replica.
	var pods corev1.PodList
	if err := s.admin.List(ctx, &pods, client.InNamespace(own)); err != nil {
		return err
	}
	most, called := -1, ""
	before := map[string]int{}
	for range 2 {
		for _, pod := range pods.Items {
			calls, err := calls(ctx, pod.Status.PodIP)
			if err != nil {
				return err
			}
			if n, found := before[pod.Name]; found && calls-n > most {
				most, called = calls-n, pod.Name
			}
			before[pod.Name] = calls
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return s.kill(ctx, called, r)
}

// calls is how many admissions a replica has answered.
func calls(ctx context.Context, address string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+":8080/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	return sum(response.Body, "controller_runtime_webhook_requests_total")
}

func killLeader(ctx context.Context, s *scene, r *Result) error {
	var lease coordinationv1.Lease
	if err := s.admin.Get(ctx, client.ObjectKey{Namespace: own, Name: "routewarden"}, &lease); err != nil {
		return err
	}
	name, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	if err := s.kill(ctx, name, r); err != nil {
		return err
	}
	before := *lease.Spec.HolderIdentity
	return eventually(ctx, func() error {
		if err := s.admin.Get(ctx, client.ObjectKeyFromObject(&lease), &lease); err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == before {
			return errors.New("nobody else leads")
		}
		return nil
	})
}

// kill ends a replica without notice, and waits until it is back.
func (s *scene) kill(ctx context.Context, name string, r *Result) error {
	var pod corev1.Pod
	if err := s.admin.Get(ctx, client.ObjectKey{Namespace: own, Name: name}, &pod); err != nil {
		return err
	}
	process, err := s.cluster.Container(own, name)
	if err != nil {
		return err
	}
	r.Killed = time.Now()
	process.Signal(syscall.SIGKILL)
	for {
		routed, err := s.cluster.Routed(ctx, own+"/routewarden")
		if err != nil {
			return err
		}
		if !slices.Contains(routed, pod.Status.PodIP) {
			break
		}
		if err := pause(ctx, poll); err != nil {
			return fmt.Errorf("kube-proxy still leads to the killed replica: %w", err)
		}
	}
	r.Dropped = time.Now()
	return s.rolledOut(ctx)
}

func rotate(ctx context.Context, s *scene, _ *Result) error {
	key := client.ObjectKey{Namespace: own, Name: "routewarden-ca"}
	var secret corev1.Secret
	if err := s.admin.Get(ctx, key, &secret); err != nil {
		return err
	}
	before := secret.UID
	if err := s.admin.Delete(ctx, &secret); err != nil {
		return err
	}
	if err := eventually(ctx, func() error {
		if err := s.admin.Get(ctx, key, &secret); err != nil {
			return err
		}
		if secret.UID == before || len(secret.Data[corev1.TLSCertKey]) == 0 {
			return errors.New("there is no new authority yet")
		}
		return nil
	}); err != nil {
		return err
	}
	// Until both replicas serve with it.
	return eventually(ctx, func() error { return s.servedBy(ctx, secret.Data[corev1.TLSCertKey]) })
}

func restartAPIServer(ctx context.Context, s *scene, r *Result) error {
	r.away = time.Now()
	if err := s.cluster.Restart(ctx, "kube-apiserver", apiServerGrace); err != nil {
		return err
	}
	// A Pod reaches it when kube-proxy knows that it is back.
	err := eventually(ctx, func() error {
		routed, err := s.cluster.Routed(ctx, "default/kubernetes")
		if err == nil && len(routed) == 0 {
			err = errors.New("the API server is not in its Service")
		}
		return err
	})
	r.back = time.Now()
	if err != nil {
		return err
	}
	return s.rolledOut(ctx)
}

func pauseEtcd(ctx context.Context, s *scene, r *Result) error {
	etcd := s.cluster.Process("etcd")
	r.away = time.Now()
	etcd.Signal(syscall.SIGSTOP)
	err := pause(ctx, 10*time.Second)
	etcd.Signal(syscall.SIGCONT)
	r.back = time.Now()
	if err != nil {
		return err
	}
	// A leader that could not renew its lease goes, and its process begins anew.
	if err := pause(ctx, 10*time.Second); err != nil {
		return err
	}
	return s.rolledOut(ctx)
}
