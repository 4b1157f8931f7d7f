package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/hack/gateways"
	"github.com/routewarden/routewarden/hack/localcluster"
	"github.com/routewarden/routewarden/hack/netns"
)

// order is when a route's grant comes into being.
type order string

const (
	grantBefore  order = "grant there before, no routewarden"
	atAdmission  order = "routewarden"
	grantNext    order = "route, then its grant"
	grantWatcher order = "route, then a watcher's grant"
)

// The first ones need routewarden out of the way.
var orders = []order{grantBefore, grantNext, grantWatcher, atAdmission}

// firstRequest is what became of one route.
type firstRequest struct {
	// served and resolved are how long after the route's creation began the first request was answered with 200, and
	// Envoy Gateway said that the references are resolved.
	served, resolved time.Duration
	// failing is how long requests were answered with 5xx before.
	failing time.Duration
	// refused are the controllers whose first word was that the references are not permitted.
	refused map[gwv1.GatewayController]bool
}

// gatewaysBench measures in one world.
type gatewaysBench struct {
	*gateways.World
	tenant client.Client
	binary string
	pause  time.Duration
	runs   int
}

// benchGateways measures how long a new route takes until it serves, by when its grant is made.
func benchGateways(ctx context.Context, args []string) error {
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("bench gateways", flag.ContinueOnError)
	n := flags.Int("n", 10, "routes for each order in a round")
	rounds := flags.Int("rounds", 3, "how often all orders are measured")
	binary := flags.String("routewarden", filepath.Join(root, "bin", "routewarden"), "the program to measure")
	markdown := flags.String("markdown", "", "also write the tables to this file")
	throttles := []time.Duration{50 * time.Millisecond, 2 * time.Second}
	flags.Func("throttle", "pauses of Traefik between two looks at the cluster, with commas (default 50ms,2s; 2s is its own)", func(text string) error {
		throttles = nil
		for one := range strings.SplitSeq(text, ",") {
			throttle, err := time.ParseDuration(one)
			if err != nil || throttle <= 0 {
				return fmt.Errorf("%q is not a time", one)
			}
			throttles = append(throttles, throttle)
		}
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || *n < 1 || *rounds < 1 {
		return errors.New("want -n and -rounds of at least 1, and no arguments")
	}
	if _, err := os.Stat(*binary); err != nil {
		return fmt.Errorf("routewarden is not built, run `make build`: %w", err)
	}
	if !netns.Isolated() {
		if err := gateways.Prepare(ctx); err != nil {
			return err
		}
		exit, err := netns.Isolate()
		if err == nil && exit != 0 {
			os.Exit(exit)
		}
		return err
	}

	r := report{
		title: "From a new route to its first answer",
		preface: []string{
			fmt.Sprintf("Measured with `%s` on %s: %s, %s.", strings.Join(append([]string{"go run ./hack/bench gateways"}, args...), " "),
				time.Now().UTC().Format(time.DateOnly), machine(), runtime.Version()),
			fmt.Sprintf("Each line is of %d routes, made one after the other in a quiet cluster, each for a Service of another namespace that consents. "+
				"Times begin when the client sends the route. “First 200” is seen by a client that asks Traefik again and again; “5xx before” is how many routes "+
				"answered with 5xx first, and for how long; “said RefNotPermitted first” is how many times that was the first status that a gateway ever wrote for the route.", *n**rounds),
			"“Grant there before” is the floor: somebody wrote the right ReferenceGrant in time. “Route, then its grant” is one client that writes both, and so the fastest pair of hands; " +
				"a watcher writes the grant when its watch shows the route, which is the best that a controller without admission can do.",
			"With a long pause, Traefik's second look replaces what the first one found before it is served: requests then see 404 for longer instead of 5xx. " +
				"Envoy Gateway has no such pause. A gateway watches grants and routes apart, so that on a busy machine it may see a route before the grant that was stored before it.",
		},
	}
	for _, throttle := range throttles {
		s, err := benchThrottle(ctx, throttle, *binary, *n, *rounds)
		if err != nil {
			return err
		}
		r.sections = append(r.sections, s)
	}
	if *markdown != "" {
		err = os.WriteFile(*markdown, []byte(r.markdown()), 0o644)
	}
	_, printErr := os.Stdout.WriteString(r.text())
	return errors.Join(err, printErr)
}

func benchThrottle(ctx context.Context, throttle time.Duration, binary string, n, rounds int) (_ section, err error) {
	s := section{
		title: fmt.Sprintf("Traefik looks at the cluster every %s", throttle),
		head: []string{"The grant", "First 200, median", "90 %", "Greatest", "5xx before", "for, median",
			"Envoy Gateway: resolved, median", "said RefNotPermitted first", "Traefik: said RefNotPermitted first"},
	}
	progress("Traefik looks at the cluster every %s", throttle)
	world, err := gateways.Start(ctx, gateways.Options{Throttle: throttle, Progress: func(line string) { progress("  %s", line) }})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, world.Stop()) }()
	b := &gatewaysBench{World: world, binary: binary, pause: throttle + throttle/4}
	if err := b.prepare(ctx); err != nil {
		return s, err
	}
	results := map[order][]firstRequest{}
	for round := range rounds {
		without, with := orders[:len(orders)-1], orders[len(orders)-1:]
		halves := [][]order{without, with}
		if round%2 == 1 {
			slices.Reverse(halves)
		}
		for _, half := range halves {
			if err := b.measure(ctx, half, n, results); err != nil {
				return s, fmt.Errorf("round %d: %w", round+1, err)
			}
			progress("  round %d of %d: %s", round+1, rounds, half)
		}
	}
	for _, order := range orders {
		s.rows = append(s.rows, line(order, results[order]))
	}
	return s, nil
}

const benchNamespace = "models"

// prepare makes the models' namespace, which consents, and somebody who may write routes and nothing else.
func (b *gatewaysBench) prepare(ctx context.Context) error {
	if err := b.Namespace(ctx, benchNamespace, map[string]string{"routewarden.dev/grants": "allow"}); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"create", "role", "tenants", "-n", gateways.System, "--verb=create,get,list", "--resource=httproutes.gateway.networking.k8s.io"},
		{"create", "rolebinding", "tenants", "-n", gateways.System, "--role=tenants", "--group=tenants"},
	} {
		if err := b.MustKubectl(ctx, args...); err != nil {
			return err
		}
	}
	config, err := b.ConfigFor("tenant", "tenants")
	if err != nil {
		return err
	}
	config.WarningHandler = rest.NoWarnings{} // one for each grant
	b.tenant, err = client.New(config, client.Options{Scheme: b.Client.Scheme()})
	return err
}

// measure makes n routes in each of the orders, taking turns.
func (b *gatewaysBench) measure(ctx context.Context, orders []order, n int, results map[order][]firstRequest) (err error) {
	if slices.Contains(orders, atAdmission) {
		if err := b.Install(ctx); err != nil {
			return err
		}
		server, err := b.Serve(ctx, localcluster.ServeOptions{Binary: b.binary})
		if err != nil {
			return err
		}
		defer func() {
			err = errors.Join(err, b.MustKubectl(ctx, "delete", "validatingwebhookconfiguration,mutatingwebhookconfiguration", "routewarden"), server.Stop())
		}()
		if _, err := b.WaitIntercepted(ctx); err != nil {
			return err
		}
	}
	for range n {
		for _, order := range orders {
			result, err := b.one(ctx, order)
			if err != nil {
				return fmt.Errorf("%s: %w", order, err)
			}
			results[order] = append(results[order], result)
		}
	}
	return nil
}

// one makes one route and asks until it is served.
func (b *gatewaysBench) one(ctx context.Context, order order) (result firstRequest, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	b.runs++
	model := fmt.Sprintf("llama-%d", b.runs)
	if _, err := b.Model(ctx, benchNamespace, model, model+"-0"); err != nil {
		return result, err
	}
	route := gateways.Route(gateways.System, model+"-router", model, client.ObjectKey{Namespace: benchNamespace, Name: model})
	grant := gateways.Grant(benchNamespace, model, model)
	defer func() { err = errors.Join(err, b.remove(ctx, model, route, grant)) }()
	if order == grantBefore {
		if err := b.Client.Create(ctx, grant); err != nil {
			return result, err
		}
	}
	// Quiet again, whatever the gateways had to do with the model.
	select {
	case <-ctx.Done():
		return result, ctx.Err()
	case <-time.After(b.pause):
	}

	changes, err := b.watch(ctx, route)
	if err != nil {
		return result, err
	}
	defer changes.Stop()
	begin := time.Now()
	watched := make(chan error, 1)
	go func() { watched <- b.observe(ctx, changes, begin, order, grant, &result) }()
	requested := make(chan error, 1)
	go func() { requested <- ask(ctx, model, begin, &result) }()
	if err := b.tenant.Create(ctx, route); err != nil {
		return result, err
	}
	if order == grantNext {
		if err := b.Client.Create(ctx, grant); err != nil {
			return result, err
		}
	}
	return result, errors.Join(<-requested, <-watched)
}

func (b *gatewaysBench) watch(ctx context.Context, route *gwv1.HTTPRoute) (watch.Interface, error) {
	var list gwv1.HTTPRouteList
	if err := b.Client.List(ctx, &list, client.InNamespace(route.Namespace)); err != nil {
		return nil, err
	}
	return b.Client.Watch(ctx, &gwv1.HTTPRouteList{}, client.InNamespace(route.Namespace),
		client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", route.Name)},
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})
}

// observe follows the route until both gateways say that its references are resolved. It is the watcher, too.
func (b *gatewaysBench) observe(ctx context.Context, changes watch.Interface, begin time.Time, order order, grant *gwv1.ReferenceGrant, result *firstRequest) error {
	result.refused = map[gwv1.GatewayController]bool{}
	said := map[gwv1.GatewayController]bool{}
	for {
		var event watch.Event
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event = <-changes.ResultChan():
		}
		route, ok := event.Object.(*gwv1.HTTPRoute)
		if !ok {
			return fmt.Errorf("the watch ended: %v", event.Object)
		}
		if event.Type == watch.Added && order == grantWatcher {
			if err := b.Client.Create(ctx, grant); err != nil {
				return err
			}
		}
		resolved := map[gwv1.GatewayController]bool{}
		for _, parent := range route.Status.Parents {
			condition := meta.FindStatusCondition(parent.Conditions, string(gwv1.RouteConditionResolvedRefs))
			switch {
			case condition == nil:
			case condition.Status == metav1.ConditionTrue:
				resolved[parent.ControllerName] = true
				if parent.ControllerName == gateways.EnvoyGatewayController && result.resolved == 0 {
					result.resolved = time.Since(begin)
				}
			case condition.Reason == string(gwv1.RouteReasonRefNotPermitted) && !said[parent.ControllerName]:
				result.refused[parent.ControllerName] = true
			}
			said[parent.ControllerName] = said[parent.ControllerName] || condition != nil
		}
		if len(resolved) == 2 {
			return nil
		}
	}
}

// ask sends requests until one is answered with 200.
func ask(ctx context.Context, model string, begin time.Time, result *firstRequest) error {
	var failing time.Time
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, gateways.URL+"/v1/chat/completions", nil)
		if err != nil {
			return err
		}
		request.Header.Set("model", model)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		switch {
		case response.StatusCode == http.StatusOK:
			result.served = time.Since(begin)
			if !failing.IsZero() {
				result.failing = time.Since(failing)
			}
			return nil
		case response.StatusCode >= http.StatusInternalServerError && failing.IsZero():
			failing = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// remove takes the model away, and with the route its grant where routewarden made that.
func (b *gatewaysBench) remove(ctx context.Context, model string, route *gwv1.HTTPRoute, grant *gwv1.ReferenceGrant) error {
	var errs []error
	for _, object := range []client.Object{
		route, grant,
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: benchNamespace, Name: model}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: benchNamespace, Name: model + "-0"}},
	} {
		if err := b.Client.Delete(ctx, object); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func line(order order, results []firstRequest) []string {
	var served, resolved, failing []time.Duration
	refused := map[gwv1.GatewayController]int{}
	for _, result := range results {
		served, resolved = append(served, result.served), append(resolved, result.resolved)
		if result.failing > 0 {
			failing = append(failing, result.failing)
		}
		for controller := range result.refused {
			refused[controller]++
		}
	}
	for _, durations := range [][]time.Duration{served, resolved, failing} {
		slices.Sort(durations)
	}
	milliseconds := func(d time.Duration) string {
		if d == 0 {
			return "–"
		}
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	of := func(n int) string { return fmt.Sprintf("%d of %d", n, len(results)) }
	return []string{string(order), milliseconds(quantile(served, 0.5)), milliseconds(quantile(served, 0.9)), milliseconds(quantile(served, 1)),
		of(len(failing)), milliseconds(quantile(failing, 0.5)), milliseconds(quantile(resolved, 0.5)),
		of(refused[gateways.EnvoyGatewayController]), of(refused[gateways.TraefikController])}
}
