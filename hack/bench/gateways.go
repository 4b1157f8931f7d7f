package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/hack/gateways"
	"github.com/routesteward/routesteward/hack/localcluster"
)

// order is when a route's grant comes into being.
type order string

const (
	grantBefore  order = "grant there before, no routesteward"
	atAdmission  order = "routesteward"
	grantNext    order = "route, then its grant"
	grantWatcher order = "route, then a watcher's grant"
)

// The first ones need routesteward out of the way.
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
	options
	tenant client.Client
	runs   int
}

// throttle is the pause of Traefik between two looks at the cluster.
const throttle = 50 * time.Millisecond

// firstAnswers measures how long a new route takes until it serves, by when its grant is made.
func firstAnswers(ctx context.Context, o options) (_ []table, err error) {
	if inside, err := isolated(func() error { return gateways.Prepare(ctx) }); !inside {
		return nil, err
	}
	world, err := gateways.Start(ctx, gateways.Options{Throttle: throttle, Progress: func(line string) { progress("  %s", line) }})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, world.Stop()) }()
	b := &gatewaysBench{World: world, options: o}
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	results := map[order][]firstRequest{}
	for round := range o.rounds {
		// Those without routesteward are measured together; each round begins with the others.
		halves := [][]order{orders[:len(orders)-1], orders[len(orders)-1:]}
		if round%2 == 1 {
			slices.Reverse(halves)
		}
		for _, half := range halves {
			if err := b.measure(ctx, half, results); err != nil {
				return nil, fmt.Errorf("round %d: %w", round+1, err)
			}
			progress("  round %d of %d: %s", round+1, o.rounds, half)
		}
	}
	t := table{head: []string{"The grant", "First 200, median", "of floor", "90 %", "Greatest", "5xx before", "for, median",
		"Envoy Gateway: resolved, median", "RefNotPermitted first", "Traefik: RefNotPermitted first"}}
	for _, order := range orders {
		t.row(line(order, results[order], results[orders[0]])...)
	}
	return []table{t}, nil
}

const benchNamespace = "models"

// prepare makes the models' namespace, which consents, and somebody who may write routes and nothing else.
func (b *gatewaysBench) prepare(ctx context.Context) error {
	if err := b.Namespace(ctx, benchNamespace, map[string]string{"routesteward.dev/grants": "allow"}); err != nil {
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
func (b *gatewaysBench) measure(ctx context.Context, orders []order, results map[order][]firstRequest) (err error) {
	if slices.Contains(orders, atAdmission) {
		if err := b.Install(ctx); err != nil {
			return err
		}
		server, err := b.Serve(ctx, localcluster.ServeOptions{Binary: b.binary})
		if err != nil {
			return err
		}
		defer func() {
			err = errors.Join(err, b.MustKubectl(ctx, "delete", "validatingwebhookconfiguration,mutatingwebhookconfiguration", "routesteward"), server.Stop())
		}()
		if _, err := b.WaitIntercepted(ctx); err != nil {
			return err
		}
	}
	for range b.n {
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
	timed, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	b.runs++
	model := fmt.Sprintf("llama-%d", b.runs)
	if _, err := b.Model(timed, benchNamespace, model, model+"-0"); err != nil {
		return result, err
	}
	route := gateways.Route(gateways.System, model+"-router", model, client.ObjectKey{Namespace: benchNamespace, Name: model})
	grant := gateways.Grant(benchNamespace, model, model)
	defer func() {
		// The grant that routesteward made goes with the route.
		for _, object := range []client.Object{
			route, grant,
			&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: benchNamespace, Name: model}},
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: benchNamespace, Name: model + "-0"}},
		} {
			err = errors.Join(err, client.IgnoreNotFound(b.Client.Delete(timed, object)))
		}
	}()
	if order == grantBefore {
		if err := b.Client.Create(timed, grant); err != nil {
			return result, err
		}
	}
	// Quiet again, whatever the gateways had to do with the model.
	if err := pause(timed, throttle+throttle/4); err != nil {
		return result, err
	}
	changes, err := b.Client.Watch(timed, &gwv1.HTTPRouteList{}, client.InNamespace(route.Namespace), client.MatchingFields{"metadata.name": route.Name})
	if err != nil {
		return result, err
	}
	defer changes.Stop()
	group, ctx := errgroup.WithContext(timed)
	begin := time.Now()
	group.Go(func() error { return b.observe(ctx, changes, begin, order, grant, &result) })
	group.Go(func() error { return ask(ctx, model, begin, &result) })
	group.Go(func() error {
		err := b.tenant.Create(ctx, route)
		if err == nil && order == grantNext {
			err = b.Client.Create(ctx, grant)
		}
		return err
	})
	err = group.Wait()
	return result, err
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
		if err := pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

func line(order order, results, floor []firstRequest) []any {
	served := func(r firstRequest) time.Duration { return r.served }
	var failing []time.Duration
	refused := map[gwv1.GatewayController]int{}
	for _, result := range results {
		if result.failing > 0 {
			failing = append(failing, result.failing)
		}
		for controller := range result.refused {
			refused[controller]++
		}
	}
	milliseconds := func(durations []time.Duration, part float64) string {
		if len(durations) == 0 {
			return "–"
		}
		return fmt.Sprintf("%.0f ms", quantile(durations, part))
	}
	of := func(n int) string { return fmt.Sprintf("%d of %d", n, len(results)) }
	answers := each(results, served)
	return []any{order, milliseconds(answers, 0.5), percent(quantile(answers, 0.5) / quantile(each(floor, served), 0.5)), milliseconds(answers, 0.9), milliseconds(answers, 1),
		of(len(failing)), milliseconds(failing, 0.5), milliseconds(each(results, func(r firstRequest) time.Duration { return r.resolved }), 0.5),
		of(refused[gateways.EnvoyGatewayController]), of(refused[gateways.TraefikController])}
}

func each(results []firstRequest, of func(firstRequest) time.Duration) (durations []time.Duration) {
	for _, r := range results {
		durations = append(durations, of(r))
	}
	return durations
}
