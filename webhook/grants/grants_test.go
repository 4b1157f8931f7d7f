package grants

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
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

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

const grace = 30 * time.Second

// edge is what the routes of these tests need.
var edge = edgeTo("llama")

func edgeTo(name string) policy.Edge {
	return policy.Edge{Origin: "aibrix-system", FromKind: policy.HTTPRoute, FromNamespace: "aibrix-system", Namespace: "models", Kind: "Service", Name: name}
}

func namespace(name, grants string) *corev1.Namespace {
	obj := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if grants != "" {
		obj.Labels = map[string]string{policy.GrantsLabel: grants}
	}
	return obj
}

// route is in the system namespace, and refers to Services of another one.
func route(name, namespace string, services ...string) *gwv1.HTTPRoute {
	r := &gwv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: name},
		Spec: gwv1.HTTPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: "aibrix-eg"}}},
			Rules:           []gwv1.HTTPRouteRule{{}},
		},
	}
	for _, service := range services {
		r.Spec.Rules[0].BackendRefs = append(r.Spec.Rules[0].BackendRefs, gwv1.HTTPBackendRef{BackendRef: gwv1.BackendRef{
			BackendObjectReference: gwv1.BackendObjectReference{Name: gwv1.ObjectName(service), Namespace: new(gwv1.Namespace(namespace))},
		}})
	}
	return r
}

func foreign(name string, e policy.Edge) *gwv1.ReferenceGrant {
	g := e.Grant("")
	g.Name, g.Labels, g.Annotations = name, nil, nil
	return g
}

// world is a cluster with the grants' maker and reconciler in front of it.
type world struct {
	*testing.T
	server     *clustertest.Server
	caches     *clustertest.Caches
	maker      *Maker
	reconciler *Reconciler
	events     *recorder
	registry   *prometheus.Registry
}

type option struct {
	version string
	policy  func(*policy.Config)
}

func newWorld(t *testing.T, o option, objects ...client.Object) *world {
	t.Helper()
	if o.version == "" {
		o.version = "v1"
	}
	config := policy.DefaultConfig()
	if o.policy != nil {
		o.policy(&config)
	}
	pol, err := policy.New(config)
	require.NoError(t, err)
	w := &world{T: t, registry: prometheus.NewRegistry(), events: &recorder{}}
	m, err := metrics.New(w.registry)
	require.NoError(t, err)
	w.server = clustertest.NewServer(t, o.version, objects...)
	w.caches = clustertest.NewCaches(t, w.server, pol)
	w.maker = &Maker{Writer: w.server, Live: w.server, Caches: w.caches.Reader, Grace: grace, Metrics: m}
	w.reconciler = &Reconciler{
		Policy: pol, Writer: w.server, Live: w.server, Caches: w.caches.Reader, Events: w.events, Metrics: m, Grace: grace,
	}
	return w
}

func (w *world) do(err error) {
	w.Helper()
	require.NoError(w, err)
}

func (w *world) ensure(e policy.Edge) error {
	return w.maker.Ensure(w.Context(), policy.GrantUse{Edge: e, Name: e.GrantName(), Consent: policy.ConsentByRequester}, "said the test")
}

// grant is the grant as it is stored, or nil.
func (w *world) grant(e policy.Edge) *gwv1.ReferenceGrant {
	w.Helper()
	g, err := w.caches.Served().Grant(w.Context(), w.server, grantKey(e))
	require.NoError(w, err)
	return g
}

func (w *world) reconcile(e policy.Edge) time.Duration {
	w.Helper()
	result, err := w.reconciler.Reconcile(w.Context(), ctrl.Request{NamespacedName: grantKey(e)})
	require.NoError(w, err)
	return result.RequeueAfter
}

// deleted is what a watch reports when the grant of the edge was deleted.
func (w *world) deleted(e policy.Edge) {
	w.Helper()
	q := newQueue()
	w.reconciler.grantChanged(w.Context(), q, true, w.caches.Served().GrantObject(e.Grant("")))
	require.Equal(w, []types.NamespacedName{grantKey(e)}, q.drain())
}

// counted has the counts that are not zero, and how many grants are withheld.
func (w *world) counted() string {
	w.Helper()
	var found []string
	families, err := w.registry.Gather()
	require.NoError(w, err)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			switch {
			case family.GetName() == "routesteward_grants_total" && metric.GetCounter().GetValue() > 0:
				found = append(found, fmt.Sprintf("%s=%v", metric.GetLabel()[0].GetValue(), metric.GetCounter().GetValue()))
			case family.GetName() == "routesteward_grants_withheld" && metric.GetGauge().GetValue() > 0:
				found = append(found, fmt.Sprintf("withheld=%v", metric.GetGauge().GetValue()))
			}
		}
	}
	return strings.Join(found, " ")
}

// remembers reports whether the reconciler holds anything in memory.
func (w *world) remembers() bool {
	r := w.reconciler
	return len(r.Memory()) > 0
}

// recorder records Events.
type recorder struct {
	mu     sync.Mutex
	events []string
}

func (r *recorder) Eventf(regarding, _ runtime.Object, eventType, reason, action, note string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	obj := regarding.(client.Object)
	r.events = append(r.events, fmt.Sprintf("%s/%s %s %s %s: %s", obj.GetNamespace(), obj.GetName(), eventType, reason, action, fmt.Sprintf(note, args...)))
}

// take returns the events since the last call.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

// later lets the virtual clock of a synctest bubble run.
func later(d time.Duration) { <-time.After(d) }

func TestEnsureMakesTheGrantOnce(t *testing.T) {
	for _, version := range []string{"v1", "v1beta1"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t, option{version: version}, namespace("models", ""))
			w.do(w.ensure(edge))
			made := w.grant(edge)
			require.True(t, policy.Records(made, edge))
			require.Equal(t, "said the test", made.Annotations[policy.ConsentAnnotation])

			w.do(w.ensure(edge))
			require.Equal(t, made, w.grant(edge))
			w.caches.Freeze(t)
			w.do(w.ensure(edge))
			require.Equal(t, made, w.grant(edge))
			require.Equal(t, "made=1", w.counted())
		})
	}
}

func TestEnsureRenewsWhatMayBeCollected(t *testing.T) {
	tampered := func() *gwv1.ReferenceGrant {
		g := edge.Grant("")
		g.Spec.To[0].Name = nil
		return g
	}
	needing := route("r", "models", "llama")
	for name, tt := range map[string]struct {
		grant   *gwv1.ReferenceGrant
		objects []client.Object
		age     time.Duration
		renewed bool
	}{
		"young":            {grant: edge.Grant(""), age: grace/2 - time.Second},
		"old":              {grant: edge.Grant(""), age: grace / 2, renewed: true},
		"old, needed":      {grant: edge.Grant(""), age: time.Hour, objects: []client.Object{needing}},
		"old, edge shared": {grant: edge.Grant(""), age: time.Hour, objects: []client.Object{route("r", "models", "qwen")}, renewed: true},
		"young, changed":   {grant: tampered(), renewed: true},
		"needed, changed":  {grant: tampered(), age: time.Hour, objects: []client.Object{needing}, renewed: true},
	} {
		for _, consent := range []policy.Consent{policy.ConsentRecorded, policy.ConsentByRequester} {
			t.Run(name+", "+string(consent), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, option{}, append(tt.objects, namespace("models", ""), tt.grant)...)
					before := w.grant(edge)
					later(tt.age)
					use := policy.GrantUse{Edge: edge, Name: edge.GrantName(), Consent: consent}
					require.Equal(t, !tt.renewed, w.maker.Exists(t.Context(), use))
					w.do(w.maker.Ensure(t.Context(), use, "again"))
					after := w.grant(edge)
					require.True(t, policy.Records(after, edge))
					require.Equal(t, tt.renewed, before.UID != after.UID)
				})
			})
		}
	}
}

// Caches that may be behind do not show which routes still need a grant.
func TestEnsureAsksWhoNeedsTheGrantWhereCachesMayBeBehind(t *testing.T) {
	finalized := route("r", "models", "llama")
	finalized.Finalizers = []string{"example.com/wait"}
	for name, tt := range map[string]struct {
		routes []client.Object
		change func(*world) error
		stays  bool
		fails  string
	}{
		"still there": {[]client.Object{route("r", "models", "llama")}, func(*world) error { return nil }, true, ""},
		"gone": {[]client.Object{route("r", "models", "llama")}, func(w *world) error {
			return w.server.Delete(w.Context(), route("r", "models", "llama"))
		}, false, ""},
		"going": {[]client.Object{finalized}, func(w *world) error { return w.server.Delete(w.Context(), finalized) }, false, ""},
		"refers to another Service now": {[]client.Object{route("r", "models", "llama")}, func(w *world) error {
			return w.server.Patch(w.Context(), route("r", "models", "qwen"), client.Merge)
		}, false, ""},
		"one of two is there": {[]client.Object{route("r", "models", "llama"), route("s", "models", "llama")}, func(w *world) error {
			return w.server.Delete(w.Context(), route("r", "models", "llama"))
		}, true, ""},
		"not all of many are asked for": {[]client.Object{route("a", "models", "llama"), route("b", "models", "llama"), route("c", "models", "llama"), route("d", "models", "llama")}, func(w *world) error {
			asked := 0
			w.server.OnGet = func(_ client.ObjectKey, obj client.Object) error {
				if _, ok := obj.(*gwv1.HTTPRoute); ok {
					asked++
					require.LessOrEqual(w, asked, maxLive)
				}
				return nil
			}
			return w.server.DeleteAllOf(w.Context(), &gwv1.HTTPRoute{}, client.InNamespace("aibrix-system"))
		}, false, ""},
		"nobody knows": {[]client.Object{route("r", "models", "llama")}, func(w *world) error {
			w.server.OnGet = func(_ client.ObjectKey, obj client.Object) error {
				if _, ok := obj.(*gwv1.HTTPRoute); ok {
					return errors.New("etcd is away")
				}
				return nil
			}
			return nil
		}, true, "reading a route that needs ReferenceGrant models/" + edge.GrantName() + ": etcd is away"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, option{}, append(tt.routes, namespace("models", ""), edge.Grant(""))...)
				before := w.grant(edge)
				later(time.Hour)
				w.caches.Freeze(t)
				w.do(tt.change(w))
				use := policy.GrantUse{Edge: edge, Name: edge.GrantName(), Consent: policy.ConsentRecorded}
				require.True(t, w.maker.Exists(t.Context(), use), "as the caches show")
				w.maker.Fresh = cluster.NewFreshness(grace)
				require.False(t, w.maker.Exists(t.Context(), use))
				err := w.maker.Ensure(t.Context(), use, "again")
				w.server.OnGet = nil
				if tt.fails != "" {
					require.EqualError(t, err, tt.fails)
				} else {
					require.NoError(t, err)
				}
				require.Equal(t, tt.stays, before.UID == w.grant(edge).UID)
			})
		})
	}
}

// A grant that the caches still hold may be gone.
func TestEnsureAsksForTheGrantWhereCachesMayBeBehind(t *testing.T) {
	for consent, want := range map[policy.Consent]string{
		policy.ConsentByRequester: "",
		policy.ConsentRecorded:    "ReferenceGrant models/" + edge.GrantName() + ", which recorded the consent, was deleted just now, try again",
	} {
		t.Run(string(consent), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, option{}, namespace("models", ""), edge.Grant(""))
				w.caches.Freeze(t)
				w.do(w.server.Delete(t.Context(), edge.Grant("")))
				w.maker.Fresh = cluster.NewFreshness(grace)
				err := w.maker.Ensure(t.Context(), policy.GrantUse{Edge: edge, Name: edge.GrantName(), Consent: consent}, "again")
				if want == "" {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, want)
				}
				require.Equal(t, want == "", w.grant(edge) != nil)
			})
		})
	}
}

func TestEnsureLeavesWhatIsNotItsOwn(t *testing.T) {
	theirs := foreign(edge.GrantName(), edge)
	being := edge.Grant("")
	being.Finalizers = []string{"example.com/wait"}
	for name, tt := range map[string]struct {
		grant   *gwv1.ReferenceGrant
		deleted bool
		want    string
	}{
		"foreign":       {grant: theirs, want: "ReferenceGrant models/" + edge.GrantName() + " exists and is not managed by routesteward: delete or rename it"},
		"being deleted": {grant: being, deleted: true, want: "ReferenceGrant models/" + edge.GrantName() + " is being deleted, try again when it is gone"},
	} {
		for _, stale := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stale cache %v", name, stale), func(t *testing.T) {
				w := newWorld(t, option{}, namespace("models", ""))
				if stale {
					w.caches.Freeze(t)
				}
				w.do(w.server.Create(t.Context(), tt.grant.DeepCopy()))
				if tt.deleted {
					w.do(w.server.Delete(t.Context(), tt.grant.DeepCopy()))
				}
				before := w.grant(edge)
				require.EqualError(t, w.ensure(edge), tt.want)
				require.Equal(t, before, w.grant(edge))
				require.Empty(t, w.counted())
			})
		}
	}
}

func TestEnsureWithStaleCaches(t *testing.T) {
	t.Run("renewed elsewhere", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, option{}, namespace("models", ""), edge.Grant(""))
			later(grace)
			w.caches.Freeze(t)
			w.do(w.server.Delete(t.Context(), edge.Grant("")))
			w.do(w.server.Create(t.Context(), edge.Grant("")))
			renewed := w.grant(edge)
			w.do(w.ensure(edge))
			require.Equal(t, renewed, w.grant(edge))
			require.Empty(t, w.counted())
		})
	})
	t.Run("changed since", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, option{}, namespace("models", ""), edge.Grant(""))
			later(grace)
			w.caches.Freeze(t)
			changed := w.grant(edge)
			changed.Annotations["example.com/note"] = "mine"
			w.do(w.server.Update(t.Context(), changed))
			w.do(w.ensure(edge))
			require.NotEqual(t, changed.UID, w.grant(edge).UID, "an old grant that nothing needs is renewed, whatever changed")
		})
	})
	t.Run("collected", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, option{}, namespace("models", ""), edge.Grant(""))
			later(grace)
			w.caches.Freeze(t)
			w.do(w.server.Delete(t.Context(), edge.Grant("")))
			w.do(w.ensure(edge))
			require.True(t, policy.Records(w.grant(edge), edge))
		})
	})
}

// A grant that is itself the consent is not made again by an admission that was decided before somebody revoked it.
func TestEnsureDoesNotUndoARevocation(t *testing.T) {
	recorded := policy.GrantUse{Edge: edge, Name: edge.GrantName(), Consent: policy.ConsentRecorded, Exists: true}
	want := "ReferenceGrant models/" + edge.GrantName() + ", which recorded the consent, was deleted just now, try again"
	for name, frozen := range map[string]bool{"seen": false, "not yet seen": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, option{}, namespace("models", ""), edge.Grant(""))
				later(grace)
				if frozen {
					w.caches.Freeze(t)
				}
				w.do(w.server.Delete(t.Context(), edge.Grant("")))
				require.EqualError(t, w.maker.Ensure(t.Context(), recorded, "again"), want)
				require.Nil(t, w.grant(edge))
			})
		})
	}
	t.Run("between another replica's deletion and creation", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, option{}, namespace("models", ""), edge.Grant(""))
			later(grace)
			w.caches.Freeze(t)
			w.do(w.server.Delete(t.Context(), edge.Grant("")))
			go func() {
				later(2 * pause)
				_ = w.server.Create(context.Background(), edge.Grant("theirs"))
			}()
			w.do(w.maker.Ensure(t.Context(), recorded, "again"))
			require.Equal(t, "theirs", w.grant(edge).Annotations[policy.ConsentAnnotation])
		})
	})
	t.Run("given up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, option{}, namespace("models", ""))
			ctx, cancel := context.WithTimeout(t.Context(), pause/2)
			defer cancel()
			require.ErrorIs(t, w.maker.Ensure(ctx, recorded, "again"), context.DeadlineExceeded)
		})
	})
}

func TestEnsureErrors(t *testing.T) {
	resource := schema.GroupResource{Group: gwv1.GroupName, Resource: "referencegrants"}
	key := "models/" + edge.GrantName()
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		setUp func(*world)
		want  string
	}{
		"create": {
			func(w *world) { w.server.OnCreate = func(client.Object) error { return broken } },
			"creating ReferenceGrant " + key + ": broken",
		},
		"namespace goes": {
			func(w *world) {
				w.server.OnCreate = func(client.Object) error {
					return apierrors.NewForbidden(resource, edge.GrantName(), errors.New("being terminated"))
				}
			},
			`creating ReferenceGrant ` + key + `: referencegrants.gateway.networking.k8s.io "` + edge.GrantName() + `" is forbidden: being terminated`,
		},
		"caches": {
			func(w *world) { w.caches.Fail(broken) },
			"reading ReferenceGrant " + key + ": broken",
		},
		"read past the caches": {
			func(w *world) {
				w.caches.Freeze(w.T)
				w.do(w.server.Create(w.Context(), edge.Grant("")))
				w.server.OnGet = func(client.ObjectKey, client.Object) error { return broken }
			},
			"reading ReferenceGrant " + key + ": broken",
		},
		"delete": {
			func(w *world) {
				tampered := edge.Grant("")
				tampered.Spec.To[0].Name = nil
				w.do(w.server.Create(w.Context(), tampered))
				w.server.OnDelete = func(client.Object) error { return broken }
			},
			"replacing ReferenceGrant " + key + ": broken",
		},
		"others interfere": {
			func(w *world) {
				w.server.OnCreate = func(client.Object) error { return apierrors.NewAlreadyExists(resource, edge.GrantName()) }
			},
			"creating ReferenceGrant " + key + ": other writers interfered 5 times, try again",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, option{}, namespace("models", ""))
			tt.setUp(w)
			require.EqualError(t, w.ensure(edge), tt.want)
			require.Empty(t, w.counted())
		})
	}
}

// Replicas that admit routes on one edge at the same time leave one grant, whatever was there, and nobody is refused.
func TestEnsureRaces(t *testing.T) {
	for _, consent := range []policy.Consent{policy.ConsentByRequester, policy.ConsentRecorded} {
		t.Run(string(consent), func(t *testing.T) {
			for range 20 {
				w := newWorld(t, option{}, namespace("models", ""))
				if consent == policy.ConsentRecorded {
					old := edge.Grant("")
					old.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
					w.do(w.server.Create(t.Context(), old))
				}
				const replicas = 8
				failed := make(chan error, replicas)
				for range replicas {
					replica := *w.maker
					replica.Caches = clustertest.NewCaches(t, w.server, w.reconciler.Policy).Reader
					go func() {
						failed <- replica.Ensure(t.Context(), policy.GrantUse{Edge: edge, Name: edge.GrantName(), Consent: consent}, "raced")
					}()
				}
				for range replicas {
					require.NoError(t, <-failed)
				}
				require.True(t, policy.Records(w.grant(edge), edge))
				require.Equal(t, "raced", w.grant(edge).Annotations[policy.ConsentAnnotation])
				require.Equal(t, "made=1", w.counted())
			}
		})
	}
}

// What watches report of a new grant is waited for, and does not decide about the admission.
func TestNewGrantIsAnnounced(t *testing.T) {
	w := newWorld(t, option{}, namespace("models", ""))
	var reads []string
	w.server.OnGet = func(key client.ObjectKey, obj client.Object) error {
		reads = append(reads, fmt.Sprintf("%T %s", obj, key.Name))
		return errors.New("not served")
	}
	w.do(w.ensure(edge))
	require.Equal(t, []string{"*v1beta1.ReferenceGrant " + grantName}, reads)
	w.do(w.ensure(edge))
	require.Len(t, reads, 1, "a grant that is there was announced before")
}
