// Package gateways tests routesteward with real gateways: Envoy Gateway says what it makes of a route,
// and Traefik carries requests. See README.md for what is real and what stands in for something.
package gateways

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/e2e/build"
	"github.com/routesteward/routesteward/hack/gateways"
	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/netns"
)

const (
	system = gateways.System
	// soon is how long a condition may take on a loaded machine.
	soon = 60 * time.Second
	tick = 50 * time.Millisecond
)

// binaryEnv names the routesteward under test to the isolated process.
const binaryEnv = "GATEWAYS_TEST_BINARY"

var (
	// shared is the world of all tests: Envoy Gateway's ports are fixed, so there can be one only.
	shared *world
	// missing is why there is none.
	missing error
)

func TestMain(m *testing.M) {
	if netns.Isolated() {
		os.Exit(inside(m))
	}
	os.Exit(outside(m))
}

// outside builds what is tested and runs the tests in namespaces of their own, where nothing can be downloaded.
func outside(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := gateways.Prepare(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary, err := build.Program("")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	exit, err := netns.Isolate(binaryEnv + "=" + binary)
	switch {
	case errors.Is(err, netns.ErrForbidden) && os.Getenv("CI") != "true":
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED, nothing was tested with real gateways: %v\n*** Needed are user namespaces (see unshare -Urn) or root. With CI=true this fails.\n\n", err)
		missing = err
		return m.Run()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return exit
}

func inside(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var err error
	shared, err = newWorld(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the gateways:", err)
		return 1
	}
	code := m.Run()
	if code != 0 {
		shared.printLogs()
	}
	if err := errors.Join(shared.Exited(), shared.stop()); err != nil {
		fmt.Fprintln(os.Stderr, "stopping:", err)
		code = 1
	}
	return code
}

// world is a control plane with both gateways and a routesteward.
type world struct {
	*gateways.World
	// tenant may write routes everywhere and nothing else, so that consent is never his.
	tenant client.Client
	// forger may write grants everywhere.
	forger client.Client
	server *localcluster.Server
}

// printLogs prints how the logs of those that tests are about end.
func (w *world) printLogs() {
	const lines = 10
	for _, name := range []string{"routesteward", "traefik", "envoy-gateway"} {
		content, err := os.ReadFile(filepath.Join(w.LogDir(), name+".log"))
		if err != nil {
			continue // it did not come to that
		}
		all := strings.Split(strings.TrimSpace(string(content)), "\n")
		fmt.Fprintf(os.Stderr, "end of the log of %s:\n%s\n", name, strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
}

// theWorld skips the test where there can be none.
func theWorld(t *testing.T) *world {
	t.Helper()
	if missing != nil {
		t.Skip(missing)
	}
	t.Cleanup(func() { require.NoError(t, shared.Exited()) })
	return shared
}

func newWorld(ctx context.Context) (_ *world, err error) {
	w := &world{}
	// Traefik's own pause of two seconds would only make the tests slow.
	if w.World, err = gateways.Start(ctx, gateways.Options{Throttle: tick}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop())
		}
	}()
	const verbs = "--verb=get,list,watch,create,update,patch,delete"
	if w.tenant, err = w.user(ctx, "tenant", verbs, "--resource=httproutes.gateway.networking.k8s.io"); err != nil {
		return nil, err
	}
	if w.forger, err = w.user(ctx, "forger", verbs, "--resource=referencegrants.gateway.networking.k8s.io"); err != nil {
		return nil, err
	}
	if err := w.Install(ctx); err != nil {
		return nil, err
	}
	return w, w.serve(ctx)
}

// user is somebody with a ClusterRole of his own.
func (w *world) user(ctx context.Context, name string, role ...string) (client.Client, error) {
	for _, args := range [][]string{
		append([]string{"create", "clusterrole", name}, role...),
		{"create", "clusterrolebinding", name, "--clusterrole=" + name, "--user=" + name},
	} {
		if err := w.MustKubectl(ctx, args...); err != nil {
			return nil, err
		}
	}
	config, err := w.ConfigFor(name)
	if err != nil {
		return nil, err
	}
	config.WarningHandler = rest.NoWarnings{}
	return client.New(config, client.Options{Scheme: w.Client.Scheme()})
}

// serve starts an installed routesteward and waits until the API server asks it. The administrator is
// exempt, so that tests can break things.
func (w *world) serve(ctx context.Context, flags ...string) (err error) {
	w.server, err = w.Serve(ctx, localcluster.ServeOptions{
		Binary: os.Getenv(binaryEnv),
		Flags:  append([]string{"--grant-grace=1s", "--exempt-groups=system:masters"}, flags...),
	})
	if err != nil {
		return err
	}
	return w.untilForging(ctx, func(err error) bool { return err != nil && strings.Contains(err.Error(), "denied the request") })
}

// untilForging waits until the dry run of forging a managed grant has the wanted outcome: routesteward
// refuses it under every policy, and nobody else does.
func (w *world) untilForging(ctx context.Context, wanted func(error) bool) error {
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	forged := gateways.Grant(metav1.NamespaceDefault, "forged", "anything")
	forged.Labels = map[string]string{"app.kubernetes.io/managed-by": "routesteward"}
	for {
		err := w.forger.Create(ctx, forged.DeepCopy(), client.DryRunAll)
		if wanted(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API server still answers: %w", err)
		case <-time.After(tick):
		}
	}
}

func (w *world) stop() error {
	var err error
	if w.server != nil {
		err = w.server.Stop()
	}
	return errors.Join(err, w.World.Stop())
}

// withoutRoutesteward takes routesteward away for the rest of the test.
func (w *world) withoutRoutesteward(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*soon)
		defer cancel()
		require.NoError(t, w.Install(ctx))
		require.NoError(t, w.serve(ctx))
	})
	require.NoError(t, w.MustKubectl(t.Context(), "delete", "validatingwebhookconfiguration,mutatingwebhookconfiguration", "routesteward"))
	require.NoError(t, w.server.Stop())
	require.NoError(t, w.untilForging(t.Context(), func(err error) bool { return err == nil }))
}

var unique atomic.Int64

// named makes a name that no other test has.
func named(prefix string) string { return fmt.Sprintf("%s-%d", prefix, unique.Add(1)) }

// namespace makes a namespace of the test's own, with the label routesteward.dev/grants when consent is
// not empty.
func (w *world) namespace(t *testing.T, prefix, consent string) string {
	t.Helper()
	name, labels := named(prefix), map[string]string{}
	if consent != "" {
		labels[consentLabel] = consent
	}
	require.NoError(t, w.Namespace(t.Context(), name, labels))
	w.deleted(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return name
}

const consentLabel = "routesteward.dev/grants"

// consents labels a namespace; an empty consent takes the label away.
func (w *world) consents(t *testing.T, namespace, consent string) {
	t.Helper()
	value := "null"
	if consent != "" {
		value = `"` + consent + `"`
	}
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"`+consentLabel+`":`+value+`}}}`))
	require.NoError(t, w.Client.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, patch))
}

// deleted deletes the object at the end of the test.
func (w *world) deleted(t *testing.T, object client.Object) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		require.NoError(t, client.IgnoreNotFound(w.Client.Delete(ctx, object)))
	})
}

// model makes a Service with Pods and returns its name, which is the model's too.
func (w *world) model(t *testing.T, namespace string, pods ...string) (model string, made []gateways.Pod) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	model = named("llama")
	made, err := w.Model(ctx, namespace, model, pods...)
	require.NoError(t, err)
	return model, made
}

// route is a tenant's route in the system namespace, named as AIBrix names it, to a model's Service.
func route(model, namespace string) *gwv1.HTTPRoute {
	return gateways.Route(system, model+"-router", model, client.ObjectKey{Namespace: namespace, Name: model})
}

// applies creates a route as the tenant and deletes it at the end of the test. What was made a moment
// ago may not be in routesteward's caches yet, and a refused write changes nothing.
func (w *world) applies(t *testing.T, route *gwv1.HTTPRoute) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		require.NoError(c, w.tenant.Create(t.Context(), route.DeepCopy()))
	}, soon, tick)
	w.deleted(t, route)
}

// breaks creates a route as the administrator, whom routesteward does not evaluate.
func (w *world) breaks(t *testing.T, route *gwv1.HTTPRoute) {
	t.Helper()
	require.NoError(t, w.Client.Create(t.Context(), route.DeepCopy()))
	w.deleted(t, route)
}

// answer is a response with its body.
type answer struct {
	Status int
	Header http.Header
	Body   string
}

// get sends a request. headers are name, value, name, value…
func (w *world) get(ctx context.Context, url string, headers ...string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	return send(request, headers...)
}

func send(request *http.Request, headers ...string) (answer, error) {
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(body)}, err
}

// ask sends a request for a model through Traefik, as AIBrix's plugin passes it on.
func (w *world) ask(ctx context.Context, model string) (answer, error) {
	return w.get(ctx, gateways.URL+"/v1/chat/completions", "model", model)
}

// answers waits until requests for a model get that status, and returns the last answer.
func (w *world) answers(t *testing.T, model string, status int) answer {
	t.Helper()
	var last answer
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var err error
		last, err = w.ask(t.Context(), model)
		require.NoError(c, err)
		assert.Equal(c, status, last.Status)
	}, soon, tick)
	return last
}

// conditions are what a gateway says about a route, such as "ResolvedRefs=False/RefNotPermitted", by type.
type conditions map[string]string

// works is what a gateway says of a route that works.
var works = conditions{"Accepted": "True/Accepted", "ResolvedRefs": "True/ResolvedRefs"}

// history has everything that the gateways ever said about one route.
type history struct {
	mu sync.Mutex
	// said by each controller, without repetitions.
	said map[gwv1.GatewayController][]conditions
	// stored is the resourceVersion with which the route was stored first.
	stored string
}

// watches begins a history before the route is there.
func (w *world) watches(t *testing.T, route *gwv1.HTTPRoute) *history {
	t.Helper()
	var list gwv1.HTTPRouteList
	require.NoError(t, w.Client.List(t.Context(), &list, client.InNamespace(route.Namespace)))
	watch, err := w.Client.Watch(t.Context(), &gwv1.HTTPRouteList{}, client.InNamespace(route.Namespace),
		client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", route.Name)},
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
	require.NoError(t, err)
	h := &history{said: map[gwv1.GatewayController][]conditions{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range watch.ResultChan() {
			if route, ok := event.Object.(*gwv1.HTTPRoute); ok {
				h.add(route)
			}
		}
	}()
	t.Cleanup(func() {
		watch.Stop()
		<-done
	})
	return h
}

// firstVersion is the resourceVersion with which the route was stored.
func (h *history) firstVersion() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stored
}

func (h *history) add(route *gwv1.HTTPRoute) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stored = cmp.Or(h.stored, route.ResourceVersion)
	for _, parent := range route.Status.Parents {
		told := gwv1.GatewayController(strings.TrimPrefix(string(parent.ControllerName), mirrored))
		if parent.ParentRef.Name != ownGateway[told] {
			continue // Traefik reports on the other one's Gateway, too
		}
		now := conditions{}
		for _, condition := range parent.Conditions {
			// Others are the gateway's own, such as the kinds of backends that it knows.
			if _, standard := works[condition.Type]; standard {
				now[condition.Type] = fmt.Sprintf("%s/%s", condition.Status, condition.Reason)
			}
		}
		before := h.said[parent.ControllerName]
		if len(before) == 0 || !maps.Equal(before[len(before)-1], now) {
			h.said[parent.ControllerName] = append(before, now)
		}
	}
}

// of waits until a controller has said that last, and returns all that it has said.
func (h *history) of(t *testing.T, controller gwv1.GatewayController, last conditions) []conditions {
	t.Helper()
	var all []conditions
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		h.mu.Lock()
		defer h.mu.Unlock()
		all = slices.Clone(h.said[controller])
		require.NotEmpty(c, all)
		assert.Equal(c, last, all[len(all)-1])
	}, soon, tick)
	return all
}

// refused waits until both gateways have said that no listener takes the route, and nothing else. What
// they say of the references of such a route differs.
func (h *history) refused(t *testing.T) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, controller := range controllers {
			require.NotEmpty(c, h.said[controller])
			for _, said := range h.said[controller] {
				assert.Equal(c, "False/NotAllowedByListeners", said["Accepted"])
			}
		}
	}, soon, tick)
}

var ownGateway = map[gwv1.GatewayController]gwv1.ObjectName{
	gateways.EnvoyGatewayController: gateways.EnvoyGateway,
	gateways.TraefikController:      gateways.Traefik,
}

// mirrored is before a controller's name where routesteward repeats what it said of a copy.
const mirrored = "routesteward.dev/"

var controllers = []gwv1.GatewayController{gateways.EnvoyGatewayController, gateways.TraefikController}

// grants names the ReferenceGrants in a namespace.
func (w *world) grants(t require.TestingT, ctx context.Context, namespace string) []string {
	var list gwv1.ReferenceGrantList
	require.NoError(t, w.Client.List(ctx, &list, client.InNamespace(namespace)))
	var names []string
	for _, grant := range list.Items {
		names = append(names, grant.Name)
	}
	return names
}
