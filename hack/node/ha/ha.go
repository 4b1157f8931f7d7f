// Package ha measures what happens to routes that are created while replicas of routesteward are restarted, replaced or killed.
package ha

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/node"
)

const (
	system = "aibrix-system"
	own    = "routesteward-system"
	team   = "team-a"
	// tenants is how many people create routes, each over their own connection to the API server.
	tenants = 4
	// calm is how long routes are created before an event and after it is over.
	calm = 2 * time.Second
)

// Cluster is where routes are created; routesteward and Gateway API's CRDs are installed.
type Cluster struct {
	// Config is a cluster administrator's, and Kubectl runs kubectl as one.
	Config  *rest.Config
	Kubectl func(ctx context.Context, args ...string) error
	// Node is nil for a cluster that this process has not started. Events that need it are then impossible.
	Node *node.Cluster
}

// Event is something that happens to the cluster while routes are created.
type Event struct {
	Name string
	// Kill is set where a replica is ended without notice, so that calls may fail until its endpoint is gone. It needs
	// Cluster.Node.
	Kill bool
	// Change is set where relocation is switched on or off, so that a route outside may be denied or admitted.
	Change bool
	// do makes it happen, and returns when everything is as before.
	do func(context.Context, *scene, *Result) error
}

// Events are all of them, in an order in which each finds two replicas that are ready.
func Events() []Event {
	return []Event{
		Kubectl("nothing"),
		Kubectl("rolling restart", "-n", own, "rollout", "restart", "deployment/routesteward"),
		{Name: "kill -9 of the replica that the API server calls", Kill: true, do: killCalled},
		{Name: "kill -9 of the leader", Kill: true, do: killLeader},
		{Name: "the authority's Secret deleted", do: rotate},
	}
}

// Kubectl is an event that an administrator makes happen with kubectl, if there are arguments, after which replicas may roll.
func Kubectl(name string, args ...string) Event {
	return Event{Name: name, do: func(ctx context.Context, s *scene, _ *Result) error {
		if len(args) > 0 {
			if err := s.Kubectl(ctx, args...); err != nil {
				return err
			}
		}
		return s.rolledOut(ctx)
	}}
}

// Options configure Run.
type Options struct {
	// Rate is how many routes are created a second.
	Rate   int
	Events []Event
	// Settings are environment variables for routesteward; relocation, and a short grace for grants, when nil.
	Settings []string
	// Tell is called with each result.
	Tell func(*Result)
}

// Result is what happened to the routes during one event.
type Result struct {
	Event Event
	// Tried are all creations. Each is counted once more below.
	Tried int
	// Admitted and Denied are as they had to be.
	Admitted, Denied int
	// Outage are those that the API server refused or did not answer.
	Outage int
	// Faults are the others: routesteward did not answer, could not decide, or decided wrongly.
	Faults []Fault
	// Dropped is when kube-proxy no longer sent connections to a killed replica.
	Killed, Dropped time.Time
	// Longest is how long the slowest creation took that was admitted or denied.
	Longest time.Duration
}

// Late are the faults of creations that began after a killed replica's endpoint was gone; all of them where none was killed.
func (r *Result) Late() []Fault {
	return slices.DeleteFunc(slices.Clone(r.Faults), func(f Fault) bool { return r.Event.Kill && !f.Began.After(r.Dropped) })
}

// scene is a cluster in which routes are created.
type scene struct {
	Cluster
	admin   client.Client
	tenants []client.Client
	number  int
}

// Run is RunIn for a node's cluster.
func Run(ctx context.Context, cluster *node.Cluster, o Options) error {
	return RunIn(ctx, Cluster{cluster.Config, cluster.MustKubectl, cluster}, o)
}

// RunIn makes each event happen in a cluster whose routesteward gets the settings. Every stored route must have its grant and
// its copy, and once all routes are deleted nothing may be left; otherwise there is an error.
func RunIn(ctx context.Context, cluster Cluster, o Options) error {
	if o.Settings == nil {
		o.Settings = []string{"ROUTESTEWARD_OUTSIDE=rewrite", "ROUTESTEWARD_GRANT_GRACE=10s"}
	}
	s := &scene{Cluster: cluster}
	if err := s.prepare(ctx, o.Settings); err != nil {
		return err
	}
	for _, event := range o.Events {
		result, attempts, err := s.happen(ctx, event, o.Rate)
		if err == nil {
			err = s.verify(ctx, attempts)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", event.Name, err)
		}
		o.Tell(result)
	}
	return s.remove(ctx)
}

func (s *scene) prepare(ctx context.Context, settings []string) error {
	log.SetLogger(logr.Discard()) // otherwise controller-runtime complains that there is none
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	config := rest.CopyConfig(s.Config)
	config.WarningHandler = rest.NoWarnings{} // one for each grant
	config.QPS, config.Timeout = -1, 30*time.Second
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), gwv1.Install(scheme),
		s.Kubectl(ctx, "apply", "-f", filepath.Join(root, "hack/node/ha/tenants.yaml"))); err != nil {
		return err
	}
	if s.admin, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	for i := range tenants {
		config := rest.CopyConfig(config)
		config.Impersonate = rest.ImpersonationConfig{UserName: fmt.Sprintf("tenant-%d", i), Groups: []string{team}}
		// Clients with the same dialer share a connection.
		config.Dial = new(net.Dialer).DialContext
		tenant, err := client.New(config, client.Options{Scheme: scheme, Mapper: s.admin.RESTMapper()})
		if err != nil {
			return err
		}
		s.tenants = append(s.tenants, tenant)
	}
	if err := s.Kubectl(ctx, append([]string{"-n", own, "set", "env", "deployment/routesteward"}, settings...)...); err != nil {
		return err
	}
	if err := s.rolledOut(ctx); err != nil {
		return err
	}
	// The new leader has the registration changed, and the API server sees that after a second.
	return eventually(ctx, func() error {
		for _, k := range kinds {
			a := s.next(k)
			a.create(ctx, s.tenants[0], client.DryRunAll)
			if a.outcome(!slices.Contains(settings, "ROUTESTEWARD_OUTSIDE=rewrite")) == failed {
				return a.fault().Err
			}
		}
		return nil
	})
}

// rolledOut waits until there are only the two replicas of the present Deployment, and all connections go to them.
func (s *scene) rolledOut(ctx context.Context) error {
	if err := s.Kubectl(ctx, "-n", own, "rollout", "status", "deployment/routesteward", "--timeout=3m"); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		replicas, err := s.replicas(ctx)
		if err == nil && len(replicas) != 2 {
			err = fmt.Errorf("there are %d replicas", len(replicas))
		}
		if err != nil || s.Node == nil {
			return err
		}
		routed, err := s.Node.Routed(ctx, own+"/routesteward")
		if err == nil && !slices.Equal(routed, slices.Sorted(slices.Values([]string{replicas[0].Status.PodIP, replicas[1].Status.PodIP}))) {
			err = fmt.Errorf("connections go to %v", routed)
		}
		return err
	})
}

func (s *scene) replicas(ctx context.Context) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := s.admin.List(ctx, &pods, client.InNamespace(own))
	return pods.Items, err
}

// happen creates routes while the event happens.
func (s *scene) happen(ctx context.Context, event Event, rate int) (*Result, []*attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := s.rolledOut(ctx); err != nil {
		return nil, nil, err
	}
	r := &Result{Event: event}
	var attempts []*attempt
	creating, stop := context.WithCancel(ctx)
	var load sync.WaitGroup
	load.Go(func() {
		ticker := time.NewTicker(time.Second / time.Duration(rate))
		defer ticker.Stop()
		for n := 0; pause(creating, ticker.C) == nil; n++ {
			a := s.next(kinds[n%len(kinds)])
			attempts = append(attempts, a)
			// Not with creating: what is cut off by the end of the load is no failure.
			load.Go(func() { a.create(ctx, s.tenants[n%tenants]) })
		}
	})
	err := pause(ctx, time.After(calm))
	if err == nil {
		err = event.do(ctx, s, r)
	}
	if err == nil {
		err = pause(ctx, time.After(calm))
	}
	stop()
	load.Wait()
	r.Tried = len(attempts)
	for _, a := range attempts {
		outcome := a.outcome(event.Change)
		switch outcome {
		case admitted:
			r.Admitted++
		case denied:
			r.Denied++
		case failed:
			r.Faults = append(r.Faults, a.fault())
		case outage:
			r.Outage++
		}
		if outcome == admitted || outcome == denied {
			r.Longest = max(r.Longest, a.Ended.Sub(a.Began))
		}
	}
	return r, attempts, err
}

// answered is the metric with how many calls a replica has answered.
var answered = regexp.MustCompile(`(?m)^controller_runtime_webhook_requests_total\{.* (\d+)$`)

func killCalled(ctx context.Context, s *scene, r *Result) error {
	// The API server keeps one connection, and with it one replica.
	pods, err := s.replicas(ctx)
	if err != nil {
		return err
	}
	var calls [2]int
	for _, sign := range []int{-1, 1} {
		for i, pod := range pods {
			page, err := s.Node.Clients.CoreV1().Pods(own).ProxyGet("http", pod.Name, "8080", "metrics", nil).DoRaw(ctx)
			if err != nil {
				return err
			}
			for _, line := range answered.FindAllStringSubmatch(string(page), -1) {
				n, _ := strconv.Atoi(line[1])
				calls[i] += sign * n
			}
		}
		if err := pause(ctx, time.After(time.Second)); err != nil {
			return err
		}
	}
	called := pods[0]
	if calls[1] > calls[0] {
		called = pods[1]
	}
	return s.kill(ctx, called.Name, r)
}

func killLeader(ctx context.Context, s *scene, r *Result) error {
	var lease coordinationv1.Lease
	key := client.ObjectKey{Namespace: own, Name: "routesteward"}
	if err := s.admin.Get(ctx, key, &lease); err != nil {
		return err
	}
	before := *lease.Spec.HolderIdentity
	name, _, _ := strings.Cut(before, "_")
	if err := s.kill(ctx, name, r); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		err := s.admin.Get(ctx, key, &lease)
		if err == nil && (lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == before) {
			err = errors.New("nobody else leads")
		}
		return err
	})
}

// kill ends a replica without notice, and waits until it is back.
func (s *scene) kill(ctx context.Context, name string, r *Result) error {
	var pod corev1.Pod
	if err := s.admin.Get(ctx, client.ObjectKey{Namespace: own, Name: name}, &pod); err != nil {
		return err
	}
	process, err := s.Node.Container(own, name)
	if err != nil {
		return err
	}
	r.Killed = time.Now()
	process.Signal(syscall.SIGKILL)
	err = eventually(ctx, func() error {
		routed, err := s.Node.Routed(ctx, own+"/routesteward")
		if err == nil && slices.Contains(routed, pod.Status.PodIP) {
			err = errors.New("connections still go to the killed replica")
		}
		return err
	})
	r.Dropped = time.Now()
	return errors.Join(err, s.rolledOut(ctx))
}

// rotate has a new authority made, and waits until every replica serves with it, as far as Pods can be reached from here.
func rotate(ctx context.Context, s *scene, _ *Result) error {
	key := client.ObjectKey{Namespace: own, Name: "routesteward-ca"}
	var secret corev1.Secret
	if err := s.admin.Get(ctx, key, &secret); err != nil {
		return err
	}
	before := secret.UID
	if err := s.admin.Delete(ctx, &secret); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		if err := s.admin.Get(ctx, key, &secret); err != nil {
			return err
		}
		roots := x509.NewCertPool()
		if secret.UID == before || !roots.AppendCertsFromPEM(secret.Data[corev1.TLSCertKey]) {
			return errors.New("there is no new authority yet")
		}
		pods, err := s.replicas(ctx)
		for _, pod := range pods {
			if s.Node == nil {
				break
			}
			dialer := &net.Dialer{Timeout: 5 * time.Second}
			connection, dialErr := tls.DialWithDialer(dialer, "tcp", pod.Status.PodIP+":9443", &tls.Config{RootCAs: roots, ServerName: "routesteward." + own + ".svc"})
			if err = errors.Join(err, dialErr); dialErr == nil {
				connection.Close()
			}
		}
		return err
	})
}

// pause waits for the timer or ticker.
func pause(ctx context.Context, timer <-chan time.Time) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer:
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
		if pause(ctx, time.After(50*time.Millisecond)) != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// Table has a row for each result, below its head.
func Table(results []*Result) (head []string, rows [][]string) {
	head = []string{"Event", "Created", "Admitted", "Denied as right", "Failed: API server", "Failed: routesteward", "of these, after the endpoint was gone", "Endpoint gone after", "Longest answer"}
	for _, r := range results {
		gone, late := "–", "–"
		if r.Event.Kill {
			gone, late = r.Dropped.Sub(r.Killed).Round(time.Millisecond).String(), fmt.Sprint(len(r.Late()))
		}
		rows = append(rows, []string{r.Event.Name, fmt.Sprint(r.Tried), fmt.Sprint(r.Admitted), fmt.Sprint(r.Denied), fmt.Sprint(r.Outage),
			fmt.Sprint(len(r.Faults)), late, gone, r.Longest.Round(time.Millisecond).String()})
	}
	return head, rows
}

// Words show a result in a line, with some of the faults below.
func (r *Result) Words() string {
	words := fmt.Sprintf("%s: %d creations, %d admitted, %d denied, %d without the API server, %d faults (%d late), longest answer %s",
		r.Event.Name, r.Tried, r.Admitted, r.Denied, r.Outage, len(r.Faults), len(r.Late()), r.Longest.Round(time.Millisecond))
	for _, f := range r.Faults[:min(len(r.Faults), 5)] {
		words += fmt.Sprintf("\n    %s to %s: %v", f.Began.Format("15:04:05.000"), f.Ended.Format("15:04:05.000"), f.Err)
	}
	return words
}
