package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/routewarden/routewarden/hack/localcluster"
	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/policy/audit"
	"github.com/routewarden/routewarden/policy/audit/output"
	"github.com/routewarden/routewarden/policy/check"
	"github.com/routewarden/routewarden/policy/golden"
	"github.com/routewarden/routewarden/webhook"
	"github.com/routewarden/routewarden/webhook/cluster"
	"github.com/routewarden/routewarden/webhook/grants"
	"github.com/routewarden/routewarden/webhook/webhooktest"
)

// scenario is something whose cost is watched.
type scenario struct {
	name string
	// instructions says that they are counted too, which takes a second or two.
	instructions bool
	// prepare returns what is measured: one request, one document, one change, or one round of golden cases.
	prepare func(context.Context) (func() error, error)
}

// scenarios are all of them, the golden cases one by one for their allocations and together for their instructions.
func scenarios() ([]scenario, error) {
	cases, err := goldenCases()
	if err != nil {
		return nil, err
	}
	all := []scenario{}
	for _, c := range cases {
		all = append(all, scenario{"engine/" + c.Name, false, func(context.Context) (func() error, error) { return evaluate(c) }})
	}
	// With one more of them it is another scenario.
	all = append(all, scenario{fmt.Sprintf("engine/all %d golden cases", len(cases)), true, func(context.Context) (func() error, error) { return evaluate(cases...) }})
	return append(all, counted()...), nil
}

// counted are the scenarios that need no golden case to be named.
func counted() []scenario {
	var all []scenario
	for _, q := range webhooktest.Questions() {
		all = append(all,
			scenario{"validate/" + q.Name, true, func(ctx context.Context) (func() error, error) { return answer(ctx, "/validate", q) }},
			scenario{"mutate/" + q.Name, false, func(ctx context.Context) (func() error, error) { return answer(ctx, "/mutate", q) }})
	}
	return append(all,
		scenario{"check/nothing to say", true, checked("aibrix-system", 20, false)},
		scenario{"check/a finding in each", true, checked("team-a", 20, false)},
		scenario{"check/fixed", true, checked("team-a", 20, true)},
		scenario{"audit/as JSON", true, audited},
		scenario{"change/a route is cached and indexed", true, indexed},
		scenario{"change/the grant of a route is reconciled", true, reconciled(few)},
		scenario{"change/the grant of a route is reconciled, 20 times the cluster", true, reconciled(20 * few)},
		scenario{"change/a namespace consents no more", true, withdrawn(few)},
		scenario{"change/a namespace consents no more, 20 times the cluster", true, withdrawn(20 * few)},
	)
}

func goldenCases() ([]golden.Case, error) {
	root, err := localcluster.Root()
	if err != nil {
		return nil, err
	}
	return golden.Load(filepath.Join(root, "policy", "testdata", "cases"))
}

func evaluate(cases ...golden.Case) (func() error, error) {
	var all []func() error
	for _, c := range cases {
		p, err := policy.New(c.Config)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
		facts := c.Facts()
		all = append(all, func() error {
			_, decision, err := p.Admit(c.Request, facts)
			if verdict := decision.Verdict(); err == nil && verdict != c.Want.Verdict {
				err = fmt.Errorf("%s is %s", c.Name, verdict)
			}
			return err
		})
	}
	return func() error {
		for _, one := range all {
			if err := one(); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// few are as many namespaces as a scenario needs, with so many routes each; larger caches only take longer to fill.
const (
	few        = 5
	routesEach = 20
)

func webhooks(ctx context.Context, namespaces int) (webhook.Webhooks, error) {
	log := webhook.Options{LogFormat: webhook.LogJSON, LogLevel: webhook.LogInfo}.Logger(io.Discard)
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	return webhooktest.New(ctx, policy.DefaultConfig(), log, namespaces)
}

func answer(ctx context.Context, path string, q webhooktest.Question) (func() error, error) {
	w, err := webhooks(ctx, few)
	if err != nil {
		return nil, err
	}
	validate, mutate := w.Handlers()
	handler, allowed := validate, q.Allowed
	if path == "/mutate" {
		handler, allowed = mutate, true
	}
	want := fmt.Appendf(nil, `"allowed":%t`, allowed)
	body := bytes.NewReader(nil)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, path, io.NopCloser(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	response := &kept{header: http.Header{}}
	return func() error {
		body.Reset(q.Review)
		handler.ServeHTTP(response, r)
		if !bytes.Contains(response.body, want) {
			return fmt.Errorf("the answer is %s", response.body)
		}
		return nil
	}, nil
}

// kept keeps the last answer.
type kept struct {
	header http.Header
	body   []byte
}

func (k *kept) Header() http.Header { return k.header }
func (k *kept) WriteHeader(int)     {}
func (k *kept) Write(p []byte) (int, error) {
	k.body = append(k.body[:0], p...)
	return len(p), nil
}

// checked checks, or fixes, a file of routes in a namespace.
func checked(namespace string, documents int, fix bool) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		pol, err := policy.New(policy.DefaultConfig())
		if err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp("", "check-*")
		if err != nil {
			return nil, err
		}
		var text strings.Builder
		for i := range documents {
			manifest, err := manifestOf(namespace, fmt.Sprintf("model-%d-router", i))
			if err != nil {
				return nil, err
			}
			text.WriteString("---\n" + manifest)
		}
		if err := os.WriteFile(filepath.Join(dir, "routes.yaml"), []byte(text.String()), 0o600); err != nil {
			return nil, err
		}
		options := check.Options{Policy: pol, Files: []string{dir}, Workers: 1}
		return func() error {
			var report check.Report
			var err error
			if fix {
				var fixes check.Fixes
				fixes, err = check.Fix(ctx, options)
				report = fixes.Report
				if err == nil && len(fixes.Files)+len(fixes.Unfixed) != 1 {
					err = errors.New("not everything is fixed")
				}
			} else {
				report, err = check.Run(ctx, options)
			}
			if want := len(report.Results); err == nil && (report.Summary.Objects != documents || want != 0 && want != documents) {
				err = fmt.Errorf("%d objects and %d results", report.Summary.Objects, want)
			}
			return err
		}, nil
	}
}

// manifestOf is what somebody wrote to get the route.
func manifestOf(namespace, name string) (string, error) {
	route := webhooktest.Route()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(route)
	if err != nil {
		return "", err
	}
	delete(content, "status")
	content["metadata"] = map[string]any{"namespace": namespace, "name": name, "labels": route.Labels}
	text, err := yaml.Marshal(content)
	return string(text), err
}

// audited is an audit of routes on one Gateway, each of another model in one of some namespaces, written as JSON.
func audited(context.Context) (func() error, error) {
	pol, err := policy.New(policy.DefaultConfig())
	if err != nil {
		return nil, err
	}
	gateway := &gwv1.Gateway{Spec: gwv1.GatewaySpec{Listeners: []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}}}}
	gateway.Namespace, gateway.Name = pol.SystemNamespace, "aibrix-eg"
	c := &audit.Cluster{NotRead: []audit.NotRead{{Resource: "services", Reason: "not asked"}}}
	c.Add(gateway)
	for i := range few {
		namespace := &corev1.Namespace{}
		namespace.Name = fmt.Sprintf("models-%d", i)
		c.Add(namespace)
		for j := range routesEach {
			route := webhooktest.Route()
			model := fmt.Sprintf("model-%d-%d", i, j)
			route.Name = model + "-router"
			for k := range route.Spec.Rules[0].Matches {
				route.Spec.Rules[0].Matches[k].Headers[0].Value = model
			}
			backend := &route.Spec.Rules[0].BackendRefs[0].BackendObjectReference
			backend.Name, backend.Namespace = gwv1.ObjectName(fmt.Sprintf("model-%d", j)), new(gwv1.Namespace(namespace.Name))
			view, _ := policy.RouteOf(route)
			for _, edge := range pol.Edges(view) {
				c.Add(edge.Grant(string(policy.ConsentByRequester)))
			}
			c.Add(route)
		}
	}
	c.Complete()
	return func() error {
		report := audit.Run(pol, c)
		if report.Summary.Routes != few*routesEach {
			return fmt.Errorf("%d routes are audited", report.Summary.Routes)
		}
		return output.Write(io.Discard, report, output.FormatJSON, output.Options{})
	}, nil
}

// indexed is what the arrival of a changed route costs before anybody looks at it.
func indexed(ctx context.Context) (func() error, error) {
	w, err := webhooks(ctx, few)
	if err != nil {
		return nil, err
	}
	var transform func(any) (any, error)
	for obj, by := range cluster.CacheOptions(w.Caches.Served()) {
		if _, ok := obj.(*gwv1.HTTPRoute); ok {
			transform = by.Transform
		}
	}
	route := webhooktest.Route()
	return func() error {
		cached, err := transform(route.DeepCopy())
		if err != nil {
			return err
		}
		typed, ok := policy.RouteOf(cached.(client.Object))
		if keys := w.Caches.GrantKeys(typed); !ok || len(keys) != 0 {
			return fmt.Errorf("the route needs %v", keys)
		}
		return nil
	}, nil
}

// reconciled is a look at a grant that is there, needed and consented, in a cluster of so many namespaces; whatever would write panics.
func reconciled(namespaces int) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		r, request, err := reconciler(ctx, namespaces)
		return func() error {
			result, err := r.Reconcile(ctx, request)
			if err == nil && result != (ctrl.Result{}) {
				err = fmt.Errorf("the outcome is %v", result)
			}
			return err
		}, err
	}
}

// withdrawn is what a changed label of a namespace costs until its grants are to be looked at.
func withdrawn(namespaces int) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		r, request, err := reconciler(ctx, namespaces)
		if err != nil {
			return nil, err
		}
		before, after := cluster.NewNamespace(), cluster.NewNamespace()
		before.SetName(request.Namespace)
		after.SetName(request.Namespace)
		before.SetLabels(map[string]string{policy.GrantsLabel: policy.GrantsAllow})
		watches := r.Watches()
		i := slices.IndexFunc(watches, func(w cluster.Watch) bool { return w.Object.GetObjectKind().GroupVersionKind().Kind == "Namespace" })
		if i < 0 {
			return nil, errors.New("nobody watches namespaces")
		}
		q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[ctrl.Request]())
		context.AfterFunc(ctx, q.ShutDown)
		update := event.UpdateEvent{ObjectOld: before, ObjectNew: after}
		return func() error {
			if !watches[i].Predicate.Update(update) {
				return errors.New("the change is passed over")
			}
			watches[i].Handler.Update(ctx, update, q)
			if q.Len() != routesEach {
				return fmt.Errorf("%d grants are to be looked at", q.Len())
			}
			for q.Len() > 0 {
				got, _ := q.Get()
				q.Done(got)
				if got.Namespace != request.Namespace {
					return fmt.Errorf("%s is to be looked at", got)
				}
			}
			return nil
		}, nil
	}
}

// reconciler is that of a cluster of so many namespaces, with one of its grants.
func reconciler(ctx context.Context, namespaces int) (*grants.Reconciler, ctrl.Request, error) {
	w, err := webhooks(ctx, namespaces)
	if err != nil {
		return nil, ctrl.Request{}, err
	}
	edge := policy.Edge{
		Origin: w.Policy.SystemNamespace, FromKind: policy.HTTPRoute, FromNamespace: w.Policy.SystemNamespace,
		Namespace: "models-1", Kind: "Service", Name: "model-1",
	}
	return &grants.Reconciler{Policy: w.Policy, Caches: w.Caches, Events: &events.FakeRecorder{}, Metrics: w.Metrics, Grace: time.Minute},
		ctrl.Request{NamespacedName: types.NamespacedName{Namespace: edge.Namespace, Name: edge.GrantName()}}, nil
}
