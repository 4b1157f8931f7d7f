package relocate

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/cluster/clustertest"
	"github.com/routesteward/routesteward/webhook/metrics"
)

const system = "aibrix-system"

// told collects Events.
type told struct{ lines []string }

func (e *told) Eventf(regarding, _ runtime.Object, eventType, reason, _, note string, args ...any) {
	obj := regarding.(client.Object)
	e.lines = append(e.lines, fmt.Sprintf("%s/%s %s %s: %s", obj.GetNamespace(), obj.GetName(), eventType, reason, fmt.Sprintf(note, args...)))
}

func (e *told) take() string {
	lines := strings.Join(e.lines, "\n")
	e.lines = nil
	return lines
}

// world is a reconciler with a cluster in memory.
type world struct {
	*testing.T
	server     *clustertest.Server
	caches     *clustertest.Caches
	reconciler *Reconciler
	events     *told
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	config := policy.DefaultConfig()
	config.Outside = policy.OutsideRewrite
	pol, err := policy.New(config)
	require.NoError(t, err)
	m, err := metrics.New(prometheus.NewRegistry())
	require.NoError(t, err)
	w := &world{T: t, server: clustertest.NewServer(t, "v1", objects...), events: &told{}}
	w.caches = clustertest.NewCaches(t, w.server, pol)
	w.reconciler = &Reconciler{
		Policy: pol, Kind: policy.HTTPRoute, Writer: w.server, Live: w.server, Caches: w.caches.Reader, Events: w.events, Metrics: m,
	}
	return w
}

func (w *world) reconcile(name string) {
	w.Helper()
	_, err := w.reconciler.Reconcile(w.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: system, Name: name}})
	require.NoError(w, err)
}

// route reads a route, nil where there is none.
func (w *world) route(namespace, name string) *gwv1.HTTPRoute {
	w.Helper()
	r := &gwv1.HTTPRoute{}
	err := w.server.Get(w.Context(), types.NamespacedName{Namespace: namespace, Name: name}, r)
	if apierrors.IsNotFound(err) {
		return nil
	}
	require.NoError(w, err)
	return r
}

func namespace(name, consent string) client.Object {
	ns := cluster.NewNamespace()
	ns.SetName(name)
	if consent != "" {
		ns.SetLabels(map[string]string{policy.GrantsLabel: consent})
	}
	return ns
}

const parkedRefs = `[{"name":"aibrix-eg","namespace":"aibrix-system"}]`

// parked is a source with a backend in each of the namespaces; "" is its own.
func parked(in, name string, backends ...string) *gwv1.HTTPRoute {
	r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{
		Namespace: in, Name: name, Generation: 7, Annotations: map[string]string{policy.ParkedAnnotation: parkedRefs},
	}}
	for _, backend := range backends {
		ref := gwv1.HTTPBackendRef{}
		ref.Name, ref.Port = "llama", new(gwv1.PortNumber(8000))
		if backend != "" {
			ref.Namespace = new(gwv1.Namespace(backend))
		}
		r.Spec.Rules = append(r.Spec.Rules, gwv1.HTTPRouteRule{BackendRefs: []gwv1.HTTPBackendRef{ref}})
	}
	return r
}

func (w *world) references(r *gwv1.HTTPRoute) string {
	route, ok := policy.RouteOf(r)
	require.True(w, ok)
	var refs []string
	for ref := range route.References() {
		refs = append(refs, ref.Kind+" "+ref.Namespace)
	}
	return strings.Join(refs, ", ")
}

// accepted is the one condition that tells why a source has no copy.
func (w *world) accepted(r *gwv1.HTTPRoute) string {
	w.Helper()
	require.Len(w, r.Status.Parents, 1)
	require.Len(w, r.Status.Parents[0].Conditions, 1)
	c := r.Status.Parents[0].Conditions[0]
	require.Equal(w, r.Generation, c.ObservedGeneration)
	return fmt.Sprintf("%s %s=%s %s", r.Status.Parents[0].ControllerName, c.Type, c.Status, c.Reason)
}

func TestCopyFollowsItsSource(t *testing.T) {
	w := newWorld(t, namespace("team-a", ""), parked("team-a", "r", ""))
	w.reconcile("r")
	copied := w.route(system, "r")
	require.NotNil(t, copied)
	require.Equal(t, "Service team-a", w.references(copied))
	require.Equal(t, "team-a/r Normal Relocated: HTTPRoute aibrix-system/r serves this route\naibrix-system/r Normal Relocated: created from HTTPRoute team-a/r", w.events.take())

	w.reconcile("r")
	require.Equal(t, copied.ResourceVersion, w.route(system, "r").ResourceVersion, "nothing to do, nothing written")

	drifted := copied.DeepCopy()
	drifted.Spec.Rules, drifted.Labels["x"] = nil, "y"
	require.NoError(t, w.server.Update(t.Context(), drifted))
	w.reconcile("r")
	require.Equal(t, copied.Spec, w.route(system, "r").Spec)
	require.Equal(t, copied.Labels, w.route(system, "r").Labels)

	require.NoError(t, w.server.Delete(t.Context(), w.route("team-a", "r")))
	w.reconcile("r")
	require.Nil(t, w.route(system, "r"))
	require.Empty(t, w.events.take())
}

func TestStatusIsMirrored(t *testing.T) {
	w := newWorld(t, namespace("team-a", ""), parked("team-a", "r", ""))
	source := w.route("team-a", "r")
	source.Status.Parents = []gwv1.RouteParentStatus{{ControllerName: "example.org/mine", ParentRef: gwv1.ParentReference{Name: "mine"}}}
	require.NoError(t, w.server.Status().Update(t.Context(), source))
	w.reconcile("r")

	long := gwv1.GatewayController("example.org/" + strings.Repeat("x", 241))
	copied := w.route(system, "r")
	copied.Status.Parents = []gwv1.RouteParentStatus{
		{ControllerName: "example.org/gw", ParentRef: copied.Spec.ParentRefs[0], Conditions: []metav1.Condition{
			{Type: "Accepted", Status: "True", Reason: "Accepted", Message: "fresh", ObservedGeneration: copied.Generation},
			{Type: "ResolvedRefs", Status: "True", Reason: "ResolvedRefs", Message: "stale", ObservedGeneration: copied.Generation - 1},
		}},
		{ControllerName: long, ParentRef: copied.Spec.ParentRefs[0]},
	}
	require.NoError(t, w.server.Status().Update(t.Context(), copied))
	w.reconcile("r")
	got := w.route("team-a", "r")
	var names []string
	for _, parent := range got.Status.Parents {
		names = append(names, string(parent.ControllerName))
	}
	require.Equal(t, []string{"example.org/mine", "routesteward.dev/example.org/gw", "routesteward.dev/relocation"}, names)
	conditions := got.Status.Parents[1].Conditions
	require.Equal(t, []int64{7, 6}, []int64{conditions[0].ObservedGeneration, conditions[1].ObservedGeneration})
	w.reconcile("r")
	require.Equal(t, got.ResourceVersion, w.route("team-a", "r").ResourceVersion, "the same status is not written again")

	// Not parked any more: only what others have written stays.
	delete(got.Annotations, policy.ParkedAnnotation)
	require.NoError(t, w.server.Update(t.Context(), got))
	w.reconcile("r")
	require.Nil(t, w.route(system, "r"))
	require.Len(t, w.route("team-a", "r").Status.Parents, 1)
}

func TestObservedGenerations(t *testing.T) {
	require.EqualValues(t, 7, observed(3, 3, 7))
	require.EqualValues(t, 6, observed(2, 3, 7))
	require.EqualValues(t, 0, observed(0, 1, 0))
}

func TestWhatIsNotOursIsLeftAlone(t *testing.T) {
	foreign := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "r", Labels: map[string]string{policy.ManagedByLabel: "Helm"}}}
	w := newWorld(t, namespace("team-a", ""), parked("team-a", "r", ""), foreign)
	before := w.route(system, "r")
	w.reconcile("r")
	require.Equal(t, before, w.route(system, "r"))
	require.Equal(t, "routesteward.dev/relocation Accepted=False RelocatedNameTaken", w.accepted(w.route("team-a", "r")))
	require.Equal(t, "team-a/r Warning RelocatedNameTaken: HTTPRoute aibrix-system/r exists and is not this route's copy; give this route another name", w.events.take())
	w.reconcile("r")
	require.Empty(t, w.events.take(), "told once")

	require.NoError(t, w.server.Delete(t.Context(), before))
	w.reconcile("r")
	require.NotNil(t, w.route(system, "r"))
	require.Empty(t, w.route("team-a", "r").Status.Parents)
}

func TestOneOfTwoSourcesHasTheName(t *testing.T) {
	older, younger := parked("team-b", "r", ""), parked("team-a", "r", "")
	older.CreationTimestamp, younger.CreationTimestamp = metav1.Unix(1000, 0), metav1.Unix(2000, 0)
	w := newWorld(t, namespace("team-a", ""), namespace("team-b", ""), older, younger)
	w.reconcile("r")
	require.Equal(t, "team-b/r", w.route(system, "r").Annotations[policy.SourceAnnotation])
	require.Equal(t, "routesteward.dev/relocation Accepted=False RelocatedNameTaken", w.accepted(w.route("team-a", "r")))

	// Who has the copy keeps it, though an older source comes; who waited gets it.
	oldest := parked("team-0", "r", "")
	oldest.CreationTimestamp = metav1.Unix(1, 0)
	require.NoError(t, w.server.Create(t.Context(), namespace("team-0", "")))
	require.NoError(t, w.server.Create(t.Context(), oldest))
	w.reconcile("r")
	require.Equal(t, "team-b/r", w.route(system, "r").Annotations[policy.SourceAnnotation])
	require.NoError(t, w.server.Delete(t.Context(), w.route("team-b", "r")))
	w.reconcile("r")
	require.Equal(t, "team-0/r", w.route(system, "r").Annotations[policy.SourceAnnotation])
	require.Equal(t, "Service team-0", w.references(w.route(system, "r")))
}

// A new leader's caches may show a copy before its source.
func TestStaleCachesDeleteNoCopy(t *testing.T) {
	w := newWorld(t, namespace("team-a", ""))
	w.caches.Freeze(t)
	require.NoError(t, w.server.Create(t.Context(), parked("team-a", "r", "")))
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(w.route("team-a", "r"))
	require.NoError(t, err)
	source, _, err := w.reconciler.source(t.Context(), types.NamespacedName{Namespace: "team-a", Name: "r"})
	require.NoError(t, err)
	require.Equal(t, content["metadata"], source.Object["metadata"])
	copied, err := w.reconciler.Policy.Copy(source, nil)
	require.NoError(t, err)
	require.NoError(t, w.server.Create(t.Context(), copied))
	w.reconcile("r")
	require.NotNil(t, w.route(system, "r"))
	w.caches.Thaw()
	require.NoError(t, w.server.Delete(t.Context(), w.route("team-a", "r")))
	w.reconcile("r")
	require.Nil(t, w.route(system, "r"))
}

func TestForgedCopiesGo(t *testing.T) {
	for _, source := range []string{"", "nonsense", "team-a/other", system + "/r", "team-a/r"} {
		forged := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{
			Namespace: system, Name: "r", Labels: map[string]string{policy.ManagedByLabel: policy.ManagedBy}, Annotations: map[string]string{policy.SourceAnnotation: source},
		}}
		w := newWorld(t, namespace("team-a", ""), forged)
		w.reconcile("r")
		require.Nil(t, w.route(system, "r"), source)
	}
}

func TestBackendsAreWithheld(t *testing.T) {
	edge := policy.Edge{Origin: "team-a", FromKind: policy.HTTPRoute, FromNamespace: system, Namespace: "models", Kind: "Service", Name: "llama"}
	forAll := policy.Edge{Origin: system, FromKind: policy.HTTPRoute, FromNamespace: system, Namespace: "models", Kind: "Service", Name: "llama"}.Grant("")
	forAll.Name, forAll.Labels = "theirs", nil
	for name, tt := range map[string]struct {
		consent string
		grants  []client.Object
		want    string
	}{
		"no consent":                          {"", nil, "WithheldBackend aibrix-system"},
		"a grant for the system namespace":    {"", []client.Object{forAll}, "WithheldBackend aibrix-system"},
		"a label":                             {"allow", nil, "Service models"},
		"a managed grant":                     {"", []client.Object{edge.Grant("")}, "Service models"},
		"a veto, in spite of a managed grant": {"deny", []client.Object{edge.Grant("")}, "WithheldBackend aibrix-system"},
	} {
		t.Run(name, func(t *testing.T) {
			objects := append([]client.Object{namespace("team-a", ""), namespace("models", tt.consent), parked("team-a", "r", "models")}, tt.grants...)
			w := newWorld(t, objects...)
			w.reconcile("r")
			require.Equal(t, tt.want, w.references(w.route(system, "r")))
			if strings.HasPrefix(tt.want, "Withheld") {
				require.Contains(t, w.events.take(), "team-a/r Warning BackendWithheld: Withheld, as their namespaces do not consent to this route: Service models/llama")
				require.Equal(t, "routesteward.dev/relocation ResolvedRefs=False RefNotPermitted", w.accepted(w.route("team-a", "r")))
				w.reconcile("r")
				require.Empty(t, w.events.take(), "told once")
			}
		})
	}
	t.Run("the grant that admission made is not in the caches yet", func(t *testing.T) {
		w := newWorld(t, namespace("team-a", ""), namespace("models", ""), parked("team-a", "r", "models"))
		w.caches.Freeze(t)
		require.NoError(t, w.server.Create(t.Context(), edge.Grant("")))
		w.reconcile("r")
		require.Equal(t, "Service models", w.references(w.route(system, "r")))
	})
}

func TestWhatCannotBeCopiedIsTold(t *testing.T) {
	extended := parked("team-a", "r", "")
	extended.Spec.Rules[0].Filters = []gwv1.HTTPRouteFilter{{Type: gwv1.HTTPRouteFilterExtensionRef, ExtensionRef: &gwv1.LocalObjectReference{Group: "x", Kind: "Y", Name: "z"}}}
	malformed := parked("team-a", "r", "")
	malformed.Annotations[policy.ParkedAnnotation] = "nonsense"
	for name, tt := range map[string]struct {
		source *gwv1.HTTPRoute
		want   string
	}{
		"extensionRef": {extended, "spec.rules[0].filters[0].extensionRef names an object"},
		"annotation":   {malformed, "is not a JSON list of parentRefs"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, namespace("team-a", ""), tt.source)
			w.reconcile("r")
			require.Nil(t, w.route(system, "r"))
			require.Equal(t, "routesteward.dev/relocation Accepted=False CannotRelocate", w.accepted(w.route("team-a", "r")))
			require.Contains(t, w.events.take(), tt.want)
		})
	}
}

// What the API server refuses today it may take tomorrow: a quota is raised, a namespace is made.
func TestRefusedCopiesAreToldAndTriedAgain(t *testing.T) {
	routes := schema.GroupResource{Resource: "httproutes"}
	for name, refusal := range map[string]error{
		"quota":                 apierrors.NewForbidden(routes, "r", errors.New("quota")),
		"no system namespace":   apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, system),
		"a newer Gateway API's": apierrors.NewInvalid(schema.GroupKind{Kind: "HTTPRoute"}, "r", nil),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, namespace("team-a", ""), parked("team-a", "r", ""))
			w.server.OnCreate = func(client.Object) error { return refusal }
			for range 2 {
				_, err := w.reconciler.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: system, Name: "r"}})
				require.ErrorIs(t, err, refusal, "an error is tried again")
				require.Equal(t, "routesteward.dev/relocation Accepted=False CannotRelocate", w.accepted(w.route("team-a", "r")))
			}
			require.Equal(t, 1, strings.Count(w.events.take(), refusal.Error()), "told once")
			w.server.OnCreate = nil
			w.reconcile("r")
			require.NotNil(t, w.route(system, "r"))
		})
	}
}

// A quota or another webhook may answer with any text: what it is too long for ends at a rune's boundary.
func TestLongRefusalsStayText(t *testing.T) {
	for _, prefix := range []string{"", "x"} {
		refusal := apierrors.NewForbidden(schema.GroupResource{Resource: "httproutes"}, "r", errors.New(prefix+strings.Repeat("ü", maxMessage)))
		w := newWorld(t, namespace("team-a", ""), parked("team-a", "r", ""))
		w.server.OnCreate = func(client.Object) error { return refusal }
		_, err := w.reconciler.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: system, Name: "r"}})
		require.ErrorIs(t, err, refusal)
		message := w.route("team-a", "r").Status.Parents[0].Conditions[0].Message
		require.LessOrEqual(t, len(message), maxMessage)
		require.True(t, utf8.ValidString(message) && strings.HasSuffix(message, "ü…"))
		event := w.events.take()
		require.Less(t, len(event), 2*maxNote)
		require.True(t, utf8.ValidString(event) && strings.Contains(event, "ü…"))
	}
}

func TestErrorsAreRetried(t *testing.T) {
	w := newWorld(t, namespace("team-a", ""), parked("team-a", "r", ""))
	w.server.OnCreate = func(client.Object) error { return errors.New("broken") }
	_, err := w.reconciler.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: system, Name: "r"}})
	require.ErrorContains(t, err, "broken")
	w.server.OnCreate = func(client.Object) error { return apierrors.NewAlreadyExists(schema.GroupResource{}, "r") }
	w.reconcile("r") // somebody was faster; his event follows
	w.caches.Fail(errors.New("no caches"))
	_, err = w.reconciler.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: system, Name: "r"}})
	require.ErrorContains(t, err, "no caches")
}

func TestKeys(t *testing.T) {
	edge := policy.Edge{Origin: "team-a", FromKind: policy.HTTPRoute, FromNamespace: system, Namespace: "models", Kind: "Service", Name: "llama"}
	w := newWorld(t, namespace("team-a", ""), namespace("models", ""), parked("team-a", "r", "models"), parked("team-a", "local", ""))
	names := func(requests []ctrl.Request) string {
		var names []string
		for _, request := range requests {
			require.Equal(t, system, request.Namespace)
			names = append(names, request.Name)
		}
		return strings.Join(names, ",")
	}
	plain := func(namespace, name string) client.Object {
		return &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	ctx := t.Context()
	require.Equal(t, "r", names(w.reconciler.keysByRoute(ctx, parked("team-a", "r", "models"))))
	require.Empty(t, names(w.reconciler.keysByRoute(ctx, plain("team-a", "other"))), "not parked")
	require.Empty(t, names(w.reconciler.keysByRoute(ctx, plain(system, "other"))), "nobody waits for the name")
	require.Equal(t, "r", names(w.reconciler.keysByRoute(ctx, plain(system, "r"))), "a source waits for the name")
	require.Equal(t, "r", names(w.reconciler.keysByGrant(ctx, edge.Grant(""))), "the managed grant of one source's edge")
	foreign := edge.Grant("")
	foreign.Labels = nil
	require.Equal(t, "r", names(w.reconciler.keysByGrant(ctx, foreign)))
	foreign.Spec.To[0].Name = new(gwv1.ObjectName("other"))
	require.Empty(t, names(w.reconciler.keysByGrant(ctx, foreign)), "permits something else")
}
