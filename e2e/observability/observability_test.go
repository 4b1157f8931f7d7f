// Package observability tests the alerts and the dashboard with a real Prometheus.
package observability

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/e2e/build"
	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
	"github.com/routesteward/routesteward/webhook/metrics"
)

const (
	alertsFile    = "../../manifests/chart/files/observability/alerts.yaml"
	dashboardFile = "../../manifests/chart/files/observability/dashboard.json"

	system = "aibrix-system"
	soon   = 2 * time.Minute
	tick   = 200 * time.Millisecond
)

// TestAlerts runs promtool: every rule is in order, fires when it should and is silent otherwise.
func TestAlerts(t *testing.T) {
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", alertsFile},
		{"test", "rules", "../../manifests/observability/alerts_test.yaml"},
	} {
		out, err := exec.CommandContext(t.Context(), program(t, "promtool"), args...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
}

// query is one of the dashboard or of an alert.
type query struct{ of, expr string }

// dashboardQueries are those of all panels, with the variables filled in as Grafana does.
func dashboardQueries(t *testing.T) []query {
	t.Helper()
	data, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Type, Title, Description string
			Targets                  []struct{ Expr string }
			FieldConfig              struct{ Defaults struct{ Unit string } }
		}
	}
	require.NoError(t, json.Unmarshal(data, &dashboard))
	var queries []query
	for _, panel := range dashboard.Panels {
		if panel.Type == "row" {
			continue
		}
		require.NotEmpty(t, panel.Description, panel.Title)
		require.NotEmpty(t, panel.FieldConfig.Defaults.Unit, panel.Title)
		require.NotEmpty(t, panel.Targets, panel.Title)
		for _, target := range panel.Targets {
			expr := strings.NewReplacer("$namespace", "routesteward-system", "$__rate_interval", "1m").Replace(target.Expr)
			require.NotContains(t, expr, "$")
			queries = append(queries, query{"panel " + panel.Title, expr})
		}
	}
	require.NotEmpty(t, queries)
	return queries
}

// alertQueries are the alerts' expressions without their thresholds: what they compare has to be there for them to fire.
func alertQueries(t *testing.T) (whole, compared []query) {
	t.Helper()
	data, err := os.ReadFile(alertsFile)
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	require.NoError(t, yaml.Unmarshal(data, &file))
	comparison, number := regexp.MustCompile(`\s(?:>|<|==)\s`), regexp.MustCompile(`^[0-9.]+$`)
	for _, rule := range file.Groups[0].Rules {
		whole = append(whole, query{"alert " + rule.Alert, rule.Expr})
		expr := rule.Expr
		if inner, isAbsent := strings.CutPrefix(expr, "absent("); isAbsent {
			expr = strings.TrimSuffix(inner, ")")
		}
		for _, branch := range strings.Split(expr, " or ") {
			for _, side := range comparison.Split(branch, -1) {
				if side = strings.TrimSpace(side); !number.MatchString(side) {
					compared = append(compared, query{"alert " + rule.Alert, side})
				}
			}
		}
	}
	require.Greater(t, len(compared), len(whole))
	return whole, compared
}

// TestQueries runs everything that the dashboard and the alerts ask against what a real Prometheus has scraped of a real
// routesteward and API server.
func TestQueries(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	binary, err := build.Program("")
	require.NoError(t, err)
	w := newWorld(t, binary)
	first := w.serve(t, "first")
	w.intercepted(t)

	// What only an outage shows in the API server's metrics.
	require.NoError(t, first.Stop())
	require.ErrorContains(t, w.client.Create(t.Context(), route("team-a", "in-an-outage", "llama"), client.DryRunAll), "and it was not relocated")
	require.ErrorContains(t, w.client.Create(t.Context(), route(system, "in-an-outage", "models/llama"), client.DryRunAll), "failed calling webhook")
	server := w.serve(t, "second")
	w.intercepted(t)
	w.revoke(t)

	p := startPrometheus(t, server, w.Config)
	wholes, compared := alertQueries(t)
	queries := append(dashboardQueries(t), compared...)

	t.Run("every query has data", func(t *testing.T) {
		open := slices.Clone(queries)
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			if !assert.NoError(c, w.traffic(t.Context())) {
				return
			}
			open = slices.DeleteFunc(open, func(q query) bool {
				values, err := p.query(q.expr)
				require.NoError(t, err, "%s: %s", q.of, q.expr)
				return slices.ContainsFunc(values, func(value string) bool { return value != "NaN" })
			})
			assert.Empty(c, open)
		}, soon, tick)
		t.Logf("%d queries of the dashboard and of alerts return data", len(queries))
	})
	t.Run("every metric that is named exists", func(t *testing.T) {
		httpClient, err := rest.HTTPClientFor(w.Config)
		require.NoError(t, err)
		own, err := body(http.DefaultClient, server.MetricsURL)
		require.NoError(t, err)
		apiserver, err := body(httpClient, w.Config.Host+"/metrics")
		require.NoError(t, err)
		documented := documentedMetrics()
		named := map[string]bool{}
		for _, q := range append(slices.Clone(queries), wholes...) {
			names, err := p.metricsOf(q.expr)
			require.NoError(t, err)
			require.NotEmpty(t, names, q.expr)
			for _, name := range names {
				named[name] = true
				base := strings.TrimSuffix(name, "_bucket")
				if strings.HasPrefix(name, "apiserver_") {
					require.Contains(t, apiserver, "\n"+name, q.of)
					continue
				}
				require.Contains(t, own, "\n"+name, q.of)
				if !strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, "go_") {
					require.Contains(t, documented, base, "%s is not in METRICS.md", name)
				}
			}
		}
		for name, doc := range documented {
			require.Regexp(t, "(?m)^# TYPE "+name+" "+doc.Type+"$", own, "documented")
			for _, label := range doc.Labels {
				require.Regexp(t, `(?m)^`+name+`(_bucket)?\{(.*,)?`+label.Name+`="`, own, "documented")
			}
		}
		t.Logf("%d metrics are named, %d documented", len(named), len(documented))
	})
	t.Run("Prometheus evaluates the alerts", func(t *testing.T) {
		var rules struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError, State string }
			}
		}
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			require.NoError(c, p.get("rules", nil, &rules))
			require.Len(c, rules.Groups, 1)
			require.Len(c, rules.Groups[0].Rules, len(wholes))
			states := map[string]string{}
			for _, rule := range rules.Groups[0].Rules {
				assert.Equal(c, "ok", rule.Health, "%s: %s", rule.Name, rule.LastError)
				states[rule.Name] = rule.State
			}
			// One replica of two: it waits for its 15 minutes. All routes are without status here.
			assert.Equal(c, "pending", states["RoutestewardNotRedundant"])
			assert.Equal(c, "pending", states["RoutestewardRoutesBroken"])
			assert.Equal(c, "inactive", states["RoutestewardAbsent"])
			assert.Equal(c, "inactive", states["RoutestewardCertificateExpiry"])
			assert.Equal(c, "inactive", states["RoutestewardRegistrationOutOfStep"])
			assert.Equal(c, "inactive", states["RoutestewardNoLeader"])
			assert.Equal(c, "inactive", states["RoutestewardScanFailing"])
		}, soon, tick)
	})
	t.Run("a deleted registration is told", func(t *testing.T) {
		_, stderr, exit := w.Kubectl(t.Context(), w.Kubeconfig, "", "delete", "validatingwebhookconfiguration", "routesteward")
		require.Zero(t, exit, stderr)
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			values, err := p.query(`routesteward_registration_in_step{kind="ValidatingWebhookConfiguration"}`)
			assert.NoError(c, err)
			assert.Equal(c, []string{"0"}, values)
		}, soon, tick)
	})
}

func documentedMetrics() map[string]metrics.Metric {
	documented := map[string]metrics.Metric{}
	for _, metric := range append(metrics.Own(), metrics.Used()...) {
		documented[metric.Name] = metric
	}
	return documented
}

// world is a control plane on which routes are relocated, with the fallback policy.
type world struct {
	*localcluster.Cluster
	binary string
	client client.Client
	writes int
}

func newWorld(t *testing.T, binary string) *world {
	t.Helper()
	cluster, err := localcluster.Start(t.Context(), localcluster.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Stop()) })
	w := &world{Cluster: cluster, binary: binary}
	w.client, err = client.New(cluster.Config, client.Options{Scheme: policytest.Scheme()})
	require.NoError(t, err)
	for name, grants := range map[string]string{system: "", "team-a": "", "models": policy.GrantsAllow, "silent": "", "vetoed": policy.GrantsDeny} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
		if grants != "" {
			namespace.Labels[policy.GrantsLabel] = grants
		}
		require.NoError(t, w.client.Create(t.Context(), namespace))
	}
	require.NoError(t, w.client.Create(t.Context(), &gwv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "aibrix-eg"},
		Spec:       gwv1.GatewaySpec{GatewayClassName: "aibrix-eg", Listeners: []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}}},
	}))
	require.NoError(t, w.Install(t.Context()))
	fallback, err := exec.CommandContext(t.Context(), binary, "manifests", "--policy=vap", "--outside=rewrite").Output()
	require.NoError(t, err)
	_, stderr, exit := w.Kubectl(t.Context(), w.Kubeconfig, string(fallback), "apply", "-f", "-")
	require.Zero(t, exit, stderr)
	return w
}

func (w *world) serve(t *testing.T, name string) *localcluster.Server {
	t.Helper()
	server, err := w.Serve(t.Context(), localcluster.ServeOptions{
		Binary: w.binary, Name: name, Flags: []string{"--outside=rewrite", "--grant-grace=1s", "--scan-interval=2s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Stop()) })
	return server
}

// intercepted waits until this routesteward is asked by both webhooks.
func (w *world) intercepted(t *testing.T) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.ErrorContains(c, w.client.Create(t.Context(), route(system, "refused", "vetoed/llama"), client.DryRunAll), "denied the request")
		parked := route("team-a", "parked", "llama")
		assert.NoError(c, w.client.Create(t.Context(), parked, client.DryRunAll))
		assert.Contains(c, parked.Annotations, policy.ParkedAnnotation)
	}, soon, tick)
}

// revoke takes away a grant that a route needs.
func (w *world) revoke(t *testing.T) {
	t.Helper()
	require.NoError(t, w.client.Create(t.Context(), route(system, "revoked", "silent/llama")))
	require.NoError(t, w.client.DeleteAllOf(t.Context(), &gwv1.ReferenceGrant{}, client.InNamespace("silent")))
}

// traffic is a write of each sort.
func (w *world) traffic(ctx context.Context) error {
	w.writes++
	if err := w.client.Create(ctx, route(system, "refused", "vetoed/llama"), client.DryRunAll); !apierrors.IsForbidden(err) {
		return fmt.Errorf("not denied: %w", err)
	}
	for _, write := range []*gwv1.HTTPRoute{
		route(system, fmt.Sprintf("granted-%d", w.writes), fmt.Sprintf("models/llama-%d", w.writes)),
		route("team-a", fmt.Sprintf("relocated-%d", w.writes), "llama"),
	} {
		if err := w.client.Create(ctx, write); err != nil {
			return err
		}
		if w.writes > 1 {
			write.Name = strings.TrimSuffix(write.Name, fmt.Sprint(w.writes)) + fmt.Sprint(w.writes-1)
			if err := client.IgnoreNotFound(w.client.Delete(ctx, write)); err != nil {
				return err
			}
		}
	}
	return nil
}

// route is on the system namespace's Gateway, with one backend, "namespace/name" or "name".
func route(namespace, name, backend string) *gwv1.HTTPRoute {
	r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	r.Spec.ParentRefs = []gwv1.ParentReference{{Name: "aibrix-eg", Namespace: new(gwv1.Namespace(system))}}
	ref := gwv1.HTTPBackendRef{}
	ref.Port = new(gwv1.PortNumber(8000))
	in, service, found := strings.Cut(backend, "/")
	if found {
		ref.Namespace = new(gwv1.Namespace(in))
	} else {
		service = in
	}
	ref.Name = gwv1.ObjectName(service)
	r.Spec.Rules = []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{ref}}}
	return r
}
