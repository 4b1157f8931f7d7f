package scan_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-logr/logr/testr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/audit/live"
	"github.com/routesteward/routesteward/webhook/metrics"
	"github.com/routesteward/routesteward/webhook/scan"
)

// source is a cluster that changes between scans.
type source struct {
	objects []runtime.Object
	err     error
}

func (s *source) Read(_ context.Context, o live.Options) (*audit.Cluster, error) {
	if s.err != nil {
		return nil, s.err
	}
	if o.Backends || o.Plugin {
		return nil, errors.New("the scan reads more than its service account may")
	}
	if o.MaxRoutes != 20_000 {
		return nil, errors.New("the scan may take any amount of memory")
	}
	cluster := &audit.Cluster{NotRead: []audit.NotRead{{Resource: "services", Reason: "backends are not looked at here"}}}
	for _, object := range s.objects {
		cluster.Add(object.DeepCopyObject())
	}
	cluster.Complete()
	return cluster, nil
}

func gateway() *gwv1.Gateway {
	return &gwv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "aibrix-eg"},
		Spec:       gwv1.GatewaySpec{GatewayClassName: "aibrix-eg", Listeners: []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}}},
	}
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// route refers to team-a; its status has one reason for each condition.
func route(name, accepted, resolved string) *gwv1.HTTPRoute {
	status := func(reason, good string) metav1.ConditionStatus {
		if reason == good {
			return metav1.ConditionTrue
		}
		return metav1.ConditionFalse
	}
	parent := gwv1.ParentReference{Name: "aibrix-eg"}
	r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: name, UID: "u-" + "x"}}
	r.Spec.ParentRefs = []gwv1.ParentReference{parent}
	r.Spec.Rules = []gwv1.HTTPRouteRule{{
		Matches: []gwv1.HTTPRouteMatch{{Path: &gwv1.HTTPPathMatch{Value: new("/" + name)}}},
		BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{
			Name: "llama", Namespace: new(gwv1.Namespace("team-a")), Port: new(gwv1.PortNumber(8000)),
		}}}},
	}}
	if accepted != "" {
		r.Status.Parents = []gwv1.RouteParentStatus{{ParentRef: parent, ControllerName: "example.com/c", Conditions: []metav1.Condition{
			{Type: "Accepted", Status: status(accepted, "Accepted"), Reason: accepted},
			{Type: "ResolvedRefs", Status: status(resolved, "ResolvedRefs"), Reason: resolved},
		}}}
	}
	return r
}

func grant() *gwv1.ReferenceGrant {
	return &gwv1.ReferenceGrant{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "g"},
		Spec: gwv1.ReferenceGrantSpec{
			From: []gwv1.ReferenceGrantFrom{{Group: gwv1.GroupName, Kind: "HTTPRoute", Namespace: "aibrix-system"}},
			To:   []gwv1.ReferenceGrantTo{{Kind: "Service", Name: new(gwv1.ObjectName("llama"))}},
		},
	}
}

func newScanner(t *testing.T, from *source) (*scan.Scanner, *events.FakeRecorder, *prometheus.Registry) {
	t.Helper()
	engine, err := policy.New(policy.DefaultConfig())
	require.NoError(t, err)
	registry := prometheus.NewRegistry()
	m, err := metrics.New(registry)
	require.NoError(t, err)
	recorder := events.NewFakeRecorder(1000)
	return &scan.Scanner{Policy: engine, Cluster: from, Events: recorder, Metrics: m, Log: testr.New(t)}, recorder, registry
}

func drain(recorder *events.FakeRecorder) []string {
	var all []string
	for {
		select {
		case event := <-recorder.Events:
			all = append(all, event)
		default:
			return all
		}
	}
}

// value is that of one series, "name{label=value,…}".
func value(t *testing.T, registry *prometheus.Registry, series string) float64 {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			if family.GetName()+"{"+strings.Join(labels, ",")+"}" == series {
				return metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
			}
		}
	}
	require.Fail(t, "no such series", series)
	return 0
}

func TestScan(t *testing.T) {
	const (
		refused  = "routesteward_routes{condition=ResolvedRefs,reason=RefNotPermitted}"
		resolved = "routesteward_routes{condition=ResolvedRefs,reason=ResolvedRefs}"
		finding  = "routesteward_audit_findings{check=reference-not-permitted,severity=error}"
	)
	from := &source{objects: []runtime.Object{gateway(), namespace("aibrix-system"), namespace("team-a"), route("llama-router", "Accepted", "RefNotPermitted")}}
	scanner, recorder, registry := newScanner(t, from)
	scanner.Scan(t.Context())
	told := `Warning ReferenceNotPermitted spec.rules[0].backendRefs[0]: Service team-a/llama: its namespace has not consented, so that no ReferenceGrant permits it; to do: ask the owner of the namespace to consent [reference-not-permitted]`
	require.Equal(t, []string{told}, drain(recorder))
	require.Equal(t, []float64{1, 0, 1}, []float64{value(t, registry, refused), value(t, registry, resolved), value(t, registry, finding)})
	require.Equal(t, 1.0, value(t, registry, "routesteward_routes{condition=Accepted,reason=Accepted}"))
	require.Positive(t, value(t, registry, "routesteward_scan_timestamp_seconds{}"))

	scanner.Scan(t.Context())
	require.Empty(t, drain(recorder), "what was told is not told again")

	from.err = errors.New("down")
	scanner.Scan(t.Context())
	require.Equal(t, 1.0, value(t, registry, "routesteward_scan_errors_total{}"))
	require.Equal(t, 1.0, value(t, registry, finding), "the last scan that succeeded counts")

	from.err, from.objects = nil, []runtime.Object{gateway(), namespace("aibrix-system"), namespace("team-a"), grant(), route("llama-router", "Accepted", "ResolvedRefs")}
	scanner.Scan(t.Context())
	require.Empty(t, drain(recorder))
	require.Equal(t, []float64{0, 1, 0}, []float64{value(t, registry, refused), value(t, registry, resolved), value(t, registry, finding)})

	from.objects[len(from.objects)-2] = namespace("other")
	scanner.Scan(t.Context())
	require.Equal(t, []string{told}, drain(recorder), "a problem that comes back is new")
}

func count(t *testing.T, registry *prometheus.Registry) int {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	series := 0
	for _, family := range families {
		series += len(family.GetMetric())
	}
	return series
}

func TestReasonsAreBounded(t *testing.T) {
	from := &source{objects: []runtime.Object{gateway(), namespace("aibrix-system"), namespace("team-a"), grant(),
		route("a", "MyOwnReason", "ResolvedRefs"), route("b", "", "")}}
	scanner, _, registry := newScanner(t, from)
	scanner.Scan(t.Context())
	before := count(t, registry)
	require.Equal(t, 1.0, value(t, registry, "routesteward_routes{condition=Accepted,reason=Other}"))
	require.Equal(t, 1.0, value(t, registry, "routesteward_routes{condition=Accepted,reason=NoStatus}"))
	from.objects = append(from.objects, route("c", "YetAnother", "ResolvedRefs"))
	scanner.Scan(t.Context())
	require.Equal(t, before, count(t, registry))
}

// However many routes are broken, one scan writes a bounded number of Events, and the next ones the rest.
func TestEventsAreBounded(t *testing.T) {
	from := &source{objects: []runtime.Object{gateway(), namespace("aibrix-system"), namespace("team-a"), grant()}}
	for i := range 130 {
		from.objects = append(from.objects, route(fmt.Sprintf("r-%03d", i), "UnsupportedValue", "ResolvedRefs"))
	}
	scanner, recorder, _ := newScanner(t, from)
	scanner.Scan(t.Context())
	require.Len(t, drain(recorder), 100)
	scanner.Scan(t.Context())
	require.Len(t, drain(recorder), 30)
	scanner.Scan(t.Context())
	require.Empty(t, drain(recorder))
}

func TestNote(t *testing.T) {
	for name, test := range map[string]struct {
		finding audit.Finding
		want    string
	}{
		"a namespace that is not there is not told": {
			audit.Finding{Check: "reference-not-permitted", Field: "f", Value: "Service b/s", Problem: `there is no namespace "b"`, Next: "create it"},
			"f: Service b/s: its namespace has not consented, so that no ReferenceGrant permits it; to do: ask the owner of the namespace to consent [reference-not-permitted]",
		},
		"nor a grant": {
			audit.Finding{Check: "reference-without-consent", Field: "f", Value: "Service b/s", Problem: "ReferenceGrant b/secret lets it pass", Next: "narrow it"},
			"f: Service b/s: its namespace has not consented to routes of this one's origin; to do: ask the owner of the namespace to consent [reference-without-consent]",
		},
		"nor a grant against a veto": {
			audit.Finding{Check: "reference-vetoed", Field: "f", Value: "Service b/s", Problem: "ReferenceGrant b/secret lets it pass", Next: "use a backend elsewhere"},
			"f: Service b/s: its namespace refuses references from other namespaces (label routesteward.dev/grants=deny); to do: use a backend elsewhere [reference-vetoed]",
		},
		"nor a route of another namespace": {
			audit.Finding{Check: "route-shadowed", Object: audit.Ref{Namespace: "a"}, Field: "f", Problem: "HTTPRoute b/secret takes them", Next: "n", Related: []audit.Ref{{Namespace: "b", Name: "secret"}}},
			"f: an older route of another namespace takes these requests; to do: n [route-shadowed]",
		},
		"one of the same namespace is": {
			audit.Finding{Check: "route-shadowed", Object: audit.Ref{Namespace: "a"}, Field: "f", Problem: "HTTPRoute a/other takes them", Next: "n", Related: []audit.Ref{{Namespace: "a", Name: "other"}}},
			"f: HTTPRoute a/other takes them; to do: n [route-shadowed]",
		},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.want, scan.Note(test.finding)) })
	}
	long := scan.Note(audit.Finding{Problem: strings.Repeat("ü", 1000)})
	require.LessOrEqual(t, len(long), 1024)
	require.True(t, strings.HasSuffix(long, "ü…"))
	for _, check := range audit.Checks() {
		require.Regexp(t, `^[A-Z][A-Za-z]{1,127}$`, scan.Reason(check.ID))
	}
	require.Equal(t, "RouteShadowed", scan.Reason("route-shadowed"))
}
