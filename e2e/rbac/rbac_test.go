package rbac

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/manifests"
	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/grants"
)

// without takes a permission away, and returns when the API server knows; restore gives it back likewise.
func (w *world) without(t *testing.T, p permission) (restore func()) {
	t.Helper()
	set := func(change func([]rbacv1.PolicyRule) []rbacv1.PolicyRule, allowed bool) {
		role := w.roles(t)[p.role]
		all := rules(role)
		*all = change(*all)
		require.NoError(t, w.Update(context.Background(), role))
		resource, subresource, _ := strings.Cut(p.resource, "/")
		attributes := &authorizationv1.ResourceAttributes{
			Namespace: p.role, Verb: p.verb, Group: p.group, Resource: resource, Subresource: subresource, Name: strings.Join(p.names, ""),
		}
		until(t, func() bool {
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: self, ResourceAttributes: attributes}}
			require.NoError(t, w.Create(context.Background(), review))
			return review.Status.Allowed == allowed
		})
	}
	var before []rbacv1.PolicyRule
	set(func(all []rbacv1.PolicyRule) []rbacv1.PolicyRule {
		before = all
		var left []rbacv1.PolicyRule
		for _, rule := range all {
			for _, other := range expand(p.role, rule) {
				if other.String() != p.String() {
					left = append(left, other.rule())
				}
			}
		}
		return left
	}, false)
	return sync.OnceFunc(func() {
		t.Helper()
		set(func([]rbacv1.PolicyRule) []rbacv1.PolicyRule { return before }, true)
	})
}

// until waits for a condition, in the test's own goroutine: it may take long, and fail the test itself.
func until(t *testing.T, condition func() bool, message ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			require.Fail(t, "not within "+soon.String(), message...)
		case <-ticker.C:
		}
	}
}

// deed is something that takes a permission.
type deed struct {
	// act begins it; begun again it goes on. An error means that it could not be done.
	act func() error
	// done reports whether it is done; nil: when act returns no error.
	done func() bool
}

// isMissed takes the permission away, and sees that the deed is then refused to routesteward and not done, and that it is done
// with the permission.
func (w *world) isMissed(t *testing.T, p permission, d deed) {
	t.Helper()
	if d.done == nil {
		d.done = func() bool { return d.act() == nil }
	}
	restore := w.without(t, p)
	t.Cleanup(restore)
	since := w.auditSize(t)
	until(t, func() bool {
		_ = d.act()
		for _, r := range w.requests(t, since) {
			if p.granted(r) && r.ResponseStatus.Code == http.StatusForbidden {
				return true
			}
		}
		return false
	}, "never refused")
	require.False(t, d.done(), "done without the permission")
	restore()
	until(t, func() bool { _ = d.act(); return d.done() }, "not done with the permission")
}

// route is a route on the shared Gateway with backends of the same name in each of these namespaces.
func route(kind, namespace, name string, backends ...string) client.Object {
	port, group := gwv1.PortNumber(80), gwv1.Namespace(system)
	common := gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: "aibrix-eg", Namespace: &group}}}
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	var refs []gwv1.BackendRef
	for _, backend := range backends {
		in := gwv1.Namespace(backend)
		refs = append(refs, gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{Name: "llama", Namespace: &in, Port: &port}})
	}
	if kind == "GRPCRoute" {
		r := &gwv1.GRPCRoute{ObjectMeta: meta, Spec: gwv1.GRPCRouteSpec{CommonRouteSpec: common, Rules: []gwv1.GRPCRouteRule{{}}}}
		for _, ref := range refs {
			r.Spec.Rules[0].BackendRefs = append(r.Spec.Rules[0].BackendRefs, gwv1.GRPCBackendRef{BackendRef: ref})
		}
		return r
	}
	r := &gwv1.HTTPRoute{ObjectMeta: meta, Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: common, Rules: []gwv1.HTTPRouteRule{{}}}}
	for _, ref := range refs {
		r.Spec.Rules[0].BackendRefs = append(r.Spec.Rules[0].BackendRefs, gwv1.HTTPBackendRef{BackendRef: ref})
	}
	return r
}

// tenants are the namespaces of one test case.
type tenants struct {
	w            *world
	t            *testing.T
	team, models string
}

func (w *world) tenants(t *testing.T) tenants {
	t.Helper()
	made := tenants{w: w, t: t}
	for _, name := range []*string{&made.team, &made.models} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "tenant-"}}
		require.NoError(t, w.Create(t.Context(), namespace))
		*name = namespace.Name
	}
	return made
}

// apply may fail at first, while routesteward does not know the namespaces.
func (n tenants) apply(object client.Object) error {
	err := n.w.Create(n.t.Context(), object.DeepCopyObject().(client.Object))
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (n tenants) remove(object client.Object) error {
	return client.IgnoreNotFound(n.w.Delete(n.t.Context(), object))
}

func (n tenants) exists(object client.Object) bool {
	err := n.w.Get(n.t.Context(), client.ObjectKeyFromObject(object), object)
	require.NoError(n.t, client.IgnoreNotFound(err))
	return err == nil
}

func (n tenants) eventually(condition func() bool) {
	n.t.Helper()
	until(n.t, condition)
}

func (n tenants) grants() []gwv1.ReferenceGrant {
	var list gwv1.ReferenceGrantList
	require.NoError(n.t, n.w.List(n.t.Context(), &list, client.InNamespace(n.models)))
	return list.Items
}

// relocated makes a route of the team's that has a copy in the system namespace. The names are those of the namespace, as
// copies have their sources' names.
func (n tenants) relocated(kind string) (source, copied client.Object) {
	n.t.Helper()
	source, copied = route(kind, n.team, n.team, n.team), route(kind, system, n.team)
	n.eventually(func() bool { return n.apply(source) == nil && n.exists(copied) })
	return source, copied
}

// used makes a route in the system namespace with a managed grant.
func (n tenants) used() client.Object {
	n.t.Helper()
	used := route("HTTPRoute", system, n.team, n.models)
	n.eventually(func() bool { return n.apply(used) == nil && len(n.grants()) == 1 })
	return used
}

// revoke deletes the managed grants as their namespace's owner, which no consent undoes.
func (n tenants) revoke() error {
	return n.w.DeleteAllOf(n.t.Context(), &gwv1.ReferenceGrant{}, client.InNamespace(n.models))
}

// events counts how often an Event of this reason was told of a route.
func (n tenants) events(namespace, name, reason string) int {
	var list eventsv1.EventList
	require.NoError(n.t, n.w.List(n.t.Context(), &list, client.InNamespace(namespace)))
	count := 0
	for _, event := range list.Items {
		if event.Regarding.Name != name || event.Reason != reason {
			continue
		}
		count++
		if event.Series != nil {
			count += int(event.Series.Count) - 1
		}
	}
	return count
}

func (n tenants) status(object client.Object) *gwv1.RouteStatus {
	if grpc, ok := object.(*gwv1.GRPCRoute); ok {
		return &grpc.Status.RouteStatus
	}
	return &object.(*gwv1.HTTPRoute).Status.RouteStatus
}

// accept reports a status of the copy as a gateway does.
func (n tenants) accept(object client.Object, reason string) error {
	require.True(n.t, n.exists(object))
	status := metav1.ConditionTrue
	if reason != "Accepted" {
		status = metav1.ConditionFalse
	}
	n.status(object).Parents = []gwv1.RouteParentStatus{{
		ControllerName: "example.com/gateway", ParentRef: gwv1.ParentReference{Name: "aibrix-eg"},
		Conditions: []metav1.Condition{{Type: "Accepted", Status: status, Reason: reason, LastTransitionTime: metav1.Now(), ObservedGeneration: object.GetGeneration()}},
	}}
	return n.w.Status().Update(n.t.Context(), object)
}

// deeds are what routesteward does while it runs, by the permission that it takes. They go in any order.
func (w *world) deeds() map[string]func(*testing.T) deed {
	deeds := map[string]func(*testing.T) deed{
		": create subjectaccessreviews.authorization.k8s.io": func(t *testing.T) deed {
			n := w.tenants(t)
			return deed{act: func() error { return n.apply(route("HTTPRoute", system, n.team, n.models)) }}
		},
		": create referencegrants.gateway.networking.k8s.io": func(t *testing.T) deed {
			n := w.tenants(t)
			return deed{act: func() error { return n.apply(route("HTTPRoute", system, n.team, n.models)) }}
		},
		": delete referencegrants.gateway.networking.k8s.io": func(t *testing.T) deed {
			n := w.tenants(t)
			used := n.used()
			return deed{func() error { return n.remove(used) }, func() bool { return len(n.grants()) == 0 }}
		},
		": create events.events.k8s.io": func(t *testing.T) deed {
			n := w.tenants(t)
			used := n.used()
			return deed{
				func() error {
					// Told once for each revocation: a refused Event does not come by itself.
					_ = n.remove(used)
					used = n.again(used)
					return n.revoke()
				},
				func() bool { return n.events(system, n.team, grants.ReasonRevoked) > 0 },
			}
		},
		": patch events.events.k8s.io": func(t *testing.T) deed {
			var n tenants
			return deed{
				func() error {
					// Another route: a count that was refused is told again after minutes only.
					n = w.tenants(t)
					_, copied := n.relocated("HTTPRoute")
					for _, reason := range []string{"Rejected", "Accepted", "Rejected"} {
						if err := n.accept(copied, reason); err != nil {
							return err
						}
						n.scanned()
					}
					return nil
				},
				func() bool { return n.events(system, n.team, "StatusNotAccepted") > 1 },
			}
		},
	}
	// A revocation has the reconciler look at the grant and at its namespace.
	for _, resource := range []string{"namespaces", "referencegrants.gateway.networking.k8s.io"} {
		deeds[": get "+resource] = func(t *testing.T) deed {
			n := w.tenants(t)
			n.used()
			return deed{n.revoke, func() bool { return n.events(system, n.team, grants.ReasonRevoked) > 0 }}
		}
	}
	// The background scan.
	for _, resource := range []string{
		"namespaces", "httproutes.gateway.networking.k8s.io", "grpcroutes.gateway.networking.k8s.io",
		"gateways.gateway.networking.k8s.io", "referencegrants.gateway.networking.k8s.io",
	} {
		deeds[": list "+resource] = func(t *testing.T) deed {
			n := w.tenants(t)
			return deed{act: func() error {
				if !n.scanned() {
					return fmt.Errorf("the scan failed")
				}
				return nil
			}}
		}
	}
	for kind, resource := range map[string]string{"HTTPRoute": "httproutes", "GRPCRoute": "grpcroutes"} {
		copies := func(t *testing.T) deed {
			n := w.tenants(t)
			return deed{
				func() error { return n.apply(route(kind, n.team, n.team, n.team)) },
				func() bool { return n.exists(route(kind, system, n.team)) },
			}
		}
		deeds[": get "+resource+".gateway.networking.k8s.io"] = copies
		deeds[system+": create "+resource+".gateway.networking.k8s.io"] = copies
		deeds[system+": update "+resource+".gateway.networking.k8s.io"] = func(t *testing.T) deed {
			n := w.tenants(t)
			source, copied := n.relocated(kind)
			return deed{
				func() error {
					if !n.exists(source) {
						return fmt.Errorf("no source")
					}
					source.SetLabels(map[string]string{"model.aibrix.ai/name": "llama"})
					return w.Update(t.Context(), source)
				},
				func() bool { return n.exists(copied) && copied.GetLabels()["model.aibrix.ai/name"] == "llama" },
			}
		}
		deeds[system+": delete "+resource+".gateway.networking.k8s.io"] = func(t *testing.T) deed {
			n := w.tenants(t)
			source, copied := n.relocated(kind)
			return deed{func() error { return n.remove(source) }, func() bool { return !n.exists(copied) }}
		}
		deeds[": update "+resource+"/status.gateway.networking.k8s.io"] = func(t *testing.T) deed {
			n := w.tenants(t)
			source, copied := n.relocated(kind)
			return deed{
				func() error { return n.accept(copied, "Accepted") },
				func() bool {
					require.True(t, n.exists(source))
					return slices.ContainsFunc(n.status(source).Parents, func(parent gwv1.RouteParentStatus) bool {
						return parent.ControllerName == policy.MirrorPrefix+"example.com/gateway"
					})
				},
			}
		}
	}
	return deeds
}

// again makes a route anew with what it had.
func (n tenants) again(object client.Object) client.Object {
	made := route("HTTPRoute", object.GetNamespace(), object.GetName(), n.models)
	n.eventually(func() bool { return n.apply(made) == nil && len(n.grants()) == 1 })
	return made
}

// scanned waits until two more scans have ended, so that one saw all there is now; false when they failed.
func (n tenants) scanned() bool {
	ends, failures := map[float64]bool{}, n.w.metric(n.t, "routesteward_scan_errors_total")
	failed := false
	n.eventually(func() bool {
		ends[n.w.metric(n.t, "routesteward_scan_timestamp_seconds")] = true
		failed = n.w.metric(n.t, "routesteward_scan_errors_total") > failures
		return failed || len(ends) > 2
	})
	return !failed
}

// metric reads one series of the server's /metrics; an absent one is 0.
func (w *world) metric(t *testing.T, series string) float64 {
	response, err := http.Get(w.server.MetricsURL)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	for line := range strings.Lines(string(body)) {
		if text, found := strings.CutPrefix(line, series+" "); found {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			require.NoError(t, err)
			return value
		}
	}
	return 0
}

// starts are what takes a permission when routesteward starts, until it is ready.
func (w *world) starts() map[string]func(*testing.T) deed {
	// Informers of this version stream what there is by a watch; where the API server cannot, they list.
	const withoutStreams = "KUBE_FEATURE_WatchListClient=false"
	ready := func(prepare func(t *testing.T), env ...string) func(*testing.T) deed {
		return func(t *testing.T) deed {
			w.afresh(t)
			if prepare != nil {
				prepare(t)
			}
			return w.start(t, env...)
		}
	}
	starts := map[string]func(*testing.T) deed{
		namespace + ": create secrets":                              ready(nil),
		namespace + ": get secrets routesteward-ca":                 ready(nil),
		namespace + ": watch secrets routesteward-ca":               ready(nil),
		namespace + ": list secrets routesteward-ca":                ready(nil, withoutStreams),
		namespace + ": create leases.coordination.k8s.io":           ready(nil),
		namespace + ": get leases.coordination.k8s.io routesteward": ready(nil),
		namespace + ": update secrets routesteward-ca": ready(func(t *testing.T) {
			require.NoError(t, w.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "routesteward-ca"}}))
		}),
		namespace + ": update leases.coordination.k8s.io routesteward": ready(func(t *testing.T) {
			require.NoError(t, w.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "routesteward"}}))
		}),
		// Who leads is said once: it takes another start.
		namespace + ": create events": func(t *testing.T) deed {
			w.afresh(t)
			return deed{
				func() error {
					w.stop(t)
					begun := w.start(t)
					if err := begun.act(); err != nil {
						return err
					}
					until(t, begun.done)
					return nil
				},
				func() bool {
					var list corev1.EventList
					require.NoError(t, w.List(t.Context(), &list, client.InNamespace(namespace)))
					return len(list.Items) > 0
				},
			}
		},
	}
	for _, kind := range []string{"validating", "mutating"} {
		resource := kind + "webhookconfigurations.admissionregistration.k8s.io routesteward"
		starts[": watch "+resource] = ready(nil)
		starts[": list "+resource] = ready(nil, withoutStreams)
		starts[": update "+resource] = ready(nil)
	}
	for _, resource := range []string{
		"namespaces", "httproutes.gateway.networking.k8s.io", "grpcroutes.gateway.networking.k8s.io",
		"gateways.gateway.networking.k8s.io", "referencegrants.gateway.networking.k8s.io",
	} {
		starts[": watch "+resource] = ready(nil)
	}
	return starts
}

// afresh makes the cluster as it is before routesteward was ever started, but for routes.
func (w *world) afresh(t *testing.T) {
	t.Helper()
	for _, object := range []client.Object{&corev1.Secret{}, &coordinationv1.Lease{}, &corev1.Event{}} {
		require.NoError(t, w.DeleteAllOf(t.Context(), object, client.InNamespace(namespace)))
	}
	require.NoError(t, w.kubectl(t.Context(), manifests.Pick(manifests.Install, "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"),
		"replace", "-f", "-"))
}

// start starts routesteward; it is done when it is ready.
func (w *world) start(t *testing.T, env ...string) deed {
	return deed{
		act: func() error {
			if w.server != nil {
				return nil
			}
			options := w.serveOptions("routesteward-starts")
			options.Env, options.Unready = env, true
			var err error
			w.server, err = w.Serve(t.Context(), options)
			require.NoError(t, err)
			t.Cleanup(func() { w.stop(t) })
			return nil
		},
		done: func() bool {
			response, err := http.Get(w.server.HealthURL)
			if err != nil {
				return false // not that far yet
			}
			defer response.Body.Close()
			return response.StatusCode == http.StatusOK
		},
	}
}

func (w *world) stop(t *testing.T) {
	if w.server != nil {
		require.NoError(t, w.server.Stop())
		w.server = nil
	}
}

func TestPermissions(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	// Most of the time is spent waiting, so each half has a control plane of its own, at the same time.
	running, starting := newWorld(t), newWorld(t)
	shipped := running.permissions(t)
	deeds, starts := running.deeds(), starting.starts()
	all := map[string]bool{}
	for name := range deeds {
		all[name] = true
	}
	for name := range starts {
		require.False(t, all[name])
		all[name] = true
	}
	names := map[string]bool{}
	for _, p := range shipped {
		names[p.String()] = true
	}
	require.Equal(t, names, all, "every permission has a deed that takes it")

	t.Run("each is missed", func(t *testing.T) {
		t.Run("running", func(t *testing.T) {
			t.Parallel()
			running.serve(t)
			for _, p := range shipped {
				if deed, ok := deeds[p.String()]; ok {
					t.Run(p.String(), func(t *testing.T) { running.isMissed(t, p, deed(t)) })
				}
			}
		})
		t.Run("starting", func(t *testing.T) {
			t.Parallel()
			for _, p := range shipped {
				if deed, ok := starts[p.String()]; ok {
					t.Run(p.String(), func(t *testing.T) { starting.isMissed(t, p, deed(t)) })
				}
			}
		})
	})

	t.Run("nothing else is asked for", func(t *testing.T) {
		used := map[string]bool{}
		requests := append(running.requests(t, 0), starting.requests(t, 0)...)
	next:
		for _, r := range requests {
			for _, p := range shipped {
				if p.granted(r) {
					if r.ResponseStatus.Code < 300 {
						used[p.String()] = true
					}
					if r.ResponseStatus.Code == http.StatusForbidden {
						require.Equal(t, "forbid", r.Annotations["authorization.k8s.io/decision"], "%s: refused by something else than RBAC", r)
					}
					continue next
				}
			}
			// What everybody may: discovery, and asking who one is.
			require.Equal(t, http.StatusOK, r.ResponseStatus.Code/100*100, r)
			if r.ObjectRef != nil {
				require.Equal(t, "selfsubjectreviews", r.ObjectRef.Resource, r)
			}
		}
		require.Equal(t, names, used, "of %d requests", len(requests))
		t.Logf("%d permissions, each missed and each used, in %d requests", len(shipped), len(requests))
	})
}
