package e2e

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/e2e/apiproxy"
	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

var (
	modelRounds = flag.Int("model-rounds", 4, "sequences of actions of the model-based test")
	modelSteps  = flag.Int("model-steps", 25, "actions between two quiet points of the model-based test")
)

// TestRelocationModel drives random sequences of what people do and of faults, and compares what is there with what must be:
// after every action that nothing can be reached that never consented, and whenever it is quiet that everything is in place.
func TestRelocationModel(t *testing.T) {
	w := serving(t)
	proxy, err := apiproxy.New(t.Context(), w.Cluster, "routesteward")
	require.NoError(t, err)
	w.kubeconfig = proxy.Kubeconfig
	t.Cleanup(func() {
		w.kubeconfig = ""
		w.quits(t) // it knows the API server by the proxy alone
		proxy.CloseClientConnections()
		proxy.Close()
	})
	w.restart(t, "--outside=rewrite")
	w.parksBecome(t, true)
	config := policy.DefaultConfig()
	config.Outside = policy.OutsideRewrite
	pol, err := policy.New(config)
	require.NoError(t, err)
	for i := range *modelRounds {
		seed := policytest.FirstSeed() + uint64(i)
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			w.empty(t)
			m := newModel(t, w, proxy, pol, seed)
			defer func() {
				if t.Failed() {
					t.Logf("to repeat: SEED=%d go test ./e2e -run TestRelocationModel -model-rounds=1\n%s", seed, strings.Join(m.done, "\n"))
				}
			}()
			m.run()
		})
	}
}

// consented is that the owner of a Service has said yes to an origin, at some time.
type consented struct{ origin, namespace, service string }

type model struct {
	*rand.Rand
	t     *testing.T
	w     *world
	proxy *apiproxy.Proxy
	pol   *policy.Policy

	// one and two are tenants, models is a namespace of backends where the tenant one may write grants.
	one, two, models string
	as               map[string]client.Client
	admin            client.Client
	consents         map[consented]bool
	// foreign are objects of other people, as they were written.
	foreign map[string]client.Object
	done    []string
}

var (
	modelNames    = []string{"model-r1", "model-r2"}
	modelServices = []string{"llama", "qwen"}
)

func newModel(t *testing.T, w *world, proxy *apiproxy.Proxy, pol *policy.Policy, seed uint64) *model {
	t.Helper()
	m := &model{
		Rand: rand.New(rand.NewPCG(seed, 0)), t: t, w: w, proxy: proxy, pol: pol,
		one: w.namespace(t, "one", ""), two: w.namespace(t, "two", ""), models: w.namespace(t, "models", ""),
		admin: w.api, as: map[string]client.Client{}, consents: map[consented]bool{}, foreign: map[string]client.Object{},
	}
	for _, namespace := range []string{m.one, m.two, system} {
		u := w.user(t).writesRoutes(namespace)
		if namespace == m.one {
			u.may(m.models, "create", "referencegrants")
		}
		var err error
		m.as[namespace], err = w.as(u.name)
		require.NoError(t, err)
	}
	for _, service := range modelServices {
		for _, namespace := range []string{m.one, m.two, m.models, system} {
			m.consents[consented{namespace, namespace, service}] = true
		}
		m.consents[consented{m.one, m.models, service}] = true // by a requester who may write the grant
	}
	t.Cleanup(proxy.Release)
	return m
}

func pick[T any](m *model, values ...T) T { return values[m.IntN(len(values))] }

func (m *model) run() {
	for range *modelSteps {
		m.act()
		m.safe()
	}
	m.note("quiet")
	m.proxy.Release()
	require.EventuallyWithT(m.t, func(c *assert.CollectT) {
		for _, violation := range m.violations() {
			assert.Fail(c, violation)
		}
	}, 2*soon, 5*tick)
}

func (m *model) note(format string, args ...any) {
	m.done = append(m.done, "  "+fmt.Sprintf(format, args...))
}

// did notes an action with its outcome. Being refused is an outcome; anything that is not a clear answer fails the test.
func (m *model) did(err error, format string, args ...any) bool {
	m.t.Helper()
	outcome := "done"
	if err != nil {
		outcome, _, _ = strings.Cut(err.Error(), "\n")
	}
	m.note("%s: %s", fmt.Sprintf(format, args...), outcome)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsForbidden(err) && !apierrors.IsInternalError(err) {
		require.NoError(m.t, err, strings.Join(m.done, "\n"))
	}
	return err == nil
}

func (m *model) act() {
	ctx := m.t.Context()
	tenant, name := pick(m, m.one, m.two), pick(m, modelNames...)
	switch n := m.IntN(20); {
	case n < 7:
		m.write(tenant, name)
	case n < 9:
		m.did(m.as[tenant].Delete(ctx, &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name}}), "delete %s/%s", tenant, name)
	case n < 10:
		m.did(m.as[tenant].Patch(ctx, &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name}},
			client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"annotations": {"routesteward.dev/parked-parent-refs": null}}}`))), "unpark %s/%s", tenant, name)
	case n < 12:
		m.label(pick(m, m.models, m.two, system), pick(m, "allow", "deny", "", ""))
	case n < 14:
		m.foreignGrant(pick(m, m.models, m.two, system), pick(m, m.one, m.two, system))
	case n < 15:
		m.loseGrant()
	case n < 17:
		m.touchCopy(name)
	case n < 18:
		m.platformRoute(name)
	case n < 19:
		if m.IntN(2) == 0 {
			m.proxy.Hold()
			m.note("the caches fall behind")
		} else {
			m.proxy.Release()
			m.note("the caches catch up")
		}
	default:
		m.proxy.Release()
		if m.IntN(3) == 0 {
			m.note("kill routesteward and start it")
			m.w.crashes(m.t)
		} else {
			m.note("restart routesteward")
			m.w.quits(m.t)
		}
		m.w.restart(m.t, "--outside=rewrite")
	}
}

// write creates or replaces a tenant's route.
func (m *model) write(tenant, name string) {
	ctx := m.t.Context()
	r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: tenant, Name: name, Labels: map[string]string{"version": fmt.Sprint(m.IntN(1000))}}}
	r.Spec.ParentRefs = pick(m,
		[]gwv1.ParentReference{{Name: "aibrix-eg", Namespace: new(gwv1.Namespace(system))}},
		[]gwv1.ParentReference{{Name: "aibrix-eg"}},
		[]gwv1.ParentReference{{Name: "aibrix-eg", Namespace: new(gwv1.Namespace(system))}, {Name: "mine", Namespace: new(gwv1.Namespace(tenant))}},
		[]gwv1.ParentReference{{Name: "aibrix-eg", Namespace: new(gwv1.Namespace(system))}},
	)
	var backends []string
	for range 1 + m.IntN(2) {
		namespace, service := pick(m, "", "", m.models, m.one, m.two, system), pick(m, modelServices...)
		backend := gwv1.HTTPBackendRef{}
		backend.Name, backend.Port = gwv1.ObjectName(service), new(gwv1.PortNumber(8000))
		if namespace != "" {
			backend.Namespace = new(gwv1.Namespace(namespace))
		}
		backends = append(backends, namespace+"/"+service)
		r.Spec.Rules = append(r.Spec.Rules, gwv1.HTTPRouteRule{BackendRefs: []gwv1.HTTPBackendRef{backend}})
	}
	stored := &gwv1.HTTPRoute{}
	err := m.as[tenant].Get(ctx, client.ObjectKeyFromObject(r), stored)
	if apierrors.IsNotFound(err) {
		m.did(m.as[tenant].Create(ctx, r), "create %s/%s to %v", tenant, name, backends)
		return
	}
	require.NoError(m.t, err)
	// Apply leaves alone what the manifest does not name, the annotation for one.
	stored.Spec.ParentRefs, stored.Spec.Rules, stored.Labels = r.Spec.ParentRefs, r.Spec.Rules, r.Labels
	m.did(m.as[tenant].Update(ctx, stored), "apply %s/%s to %v", tenant, name, backends)
}

func (m *model) label(namespace, consent string) {
	value := `null`
	if consent != "" {
		value = `"` + consent + `"`
	}
	if consent == "allow" {
		for _, service := range modelServices {
			for _, origin := range []string{m.one, m.two, system} {
				m.consents[consented{origin, namespace, service}] = true
			}
		}
	}
	m.did(m.admin.Patch(m.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"labels": {"routesteward.dev/grants": `+value+`}}}`))), "label %s %q", namespace, consent)
}

// foreignGrant adds or removes a grant that an owner wrote.
func (m *model) foreignGrant(namespace, origin string) {
	grant := policy.Edge{Origin: origin, FromKind: policy.HTTPRoute, FromNamespace: origin, Namespace: namespace, Kind: "Service", Name: "llama"}.Grant("")
	grant.Name, grant.Labels, grant.Annotations = "from-"+origin, nil, nil
	key := "grant " + namespace + "/" + grant.Name
	if m.foreign[key] != nil {
		if m.did(m.admin.Delete(m.t.Context(), grant), "delete %s", key) {
			delete(m.foreign, key)
		}
		return
	}
	m.consents[consented{origin, namespace, "llama"}] = true
	if m.did(m.admin.Create(m.t.Context(), grant), "create %s", key) {
		m.foreign[key] = grant
	}
}

func (m *model) loseGrant() {
	var grants gwv1.ReferenceGrantList
	require.NoError(m.t, m.admin.List(m.t.Context(), &grants, client.MatchingLabels{policy.ManagedByLabel: policy.ManagedBy}))
	if len(grants.Items) == 0 {
		return
	}
	grant := pick(m, grants.Items...)
	m.did(m.admin.Delete(m.t.Context(), &grant), "delete the managed grant of %s", grant.Annotations[policy.EdgeAnnotation])
}

// touchCopy edits or deletes a copy, as the administrator may, who is exempt.
func (m *model) touchCopy(name string) {
	stored := &gwv1.HTTPRoute{}
	if err := m.admin.Get(m.t.Context(), types.NamespacedName{Namespace: system, Name: name}, stored); apierrors.IsNotFound(err) || stored.Labels[policy.ManagedByLabel] == "" {
		return
	}
	if m.IntN(2) == 0 {
		m.did(m.admin.Delete(m.t.Context(), stored), "delete the copy %s", name)
		return
	}
	stored.Spec.Hostnames = []gwv1.Hostname{"drift.example.org"}
	stored.Labels["drift"] = "yes"
	m.did(m.admin.Update(m.t.Context(), stored), "edit the copy %s", name)
}

// platformRoute adds or removes a route of the system namespace that is no copy.
func (m *model) platformRoute(name string) {
	key := "route " + name
	r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name}}
	if m.foreign[key] != nil {
		if m.did(m.as[system].Delete(m.t.Context(), r), "delete the platform's %s", key) {
			delete(m.foreign, key)
		}
		return
	}
	r.Spec.ParentRefs = []gwv1.ParentReference{{Name: "aibrix-eg"}}
	if m.did(m.as[system].Create(m.t.Context(), r), "create the platform's %s", key) {
		m.foreign[key] = r
	}
}

// scene is everything there is.
type scene struct {
	routes []unstructured.Unstructured
	grants []gwv1.ReferenceGrant
	facts  policy.Snapshot
}

func (m *model) look() (scene, error) {
	ctx := m.t.Context()
	var s scene
	routes := &unstructured.UnstructuredList{}
	routes.SetGroupVersionKind(gwv1.SchemeGroupVersion.WithKind("HTTPRouteList"))
	var grants gwv1.ReferenceGrantList
	var namespaces corev1.NamespaceList
	if err := errors.Join(m.admin.List(ctx, routes), m.admin.List(ctx, &grants), m.admin.List(ctx, &namespaces)); err != nil {
		return s, err
	}
	ours := []string{m.one, m.two, m.models, system}
	for _, route := range routes.Items {
		if slices.Contains(ours, route.GetNamespace()) {
			s.routes = append(s.routes, route)
		}
	}
	s.facts = policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{}, Grants: map[string][]*gwv1.ReferenceGrant{}, Gateways: map[string]bool{system + "/aibrix-eg": true},
	}
	for i := range grants.Items {
		grant := &grants.Items[i]
		if slices.Contains(ours, grant.Namespace) {
			s.grants = append(s.grants, *grant)
			s.facts.Grants[grant.Namespace] = append(s.facts.Grants[grant.Namespace], grant)
		}
	}
	for _, namespace := range namespaces.Items {
		s.facts.Namespaces[namespace.Name] = policy.NamespaceFacts{Exists: policy.Yes, Terminating: namespace.DeletionTimestamp != nil, Grants: namespace.Labels[policy.GrantsLabel]}
	}
	return s, nil
}

func typedRoute(t require.TestingT, obj *unstructured.Unstructured) policy.Route {
	typed := &gwv1.HTTPRoute{}
	require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, typed))
	route, _ := policy.RouteOf(typed)
	return route
}

// safe holds at every moment: no copy refers to a Service whose owner never consented to its origin, and no managed grant
// permits one.
func (m *model) safe() {
	m.t.Helper()
	s, err := m.look()
	require.NoError(m.t, err)
	for i := range s.routes {
		route := typedRoute(m.t, &s.routes[i])
		if !m.pol.IsCopy(route) {
			continue
		}
		origin := s.routes[i].GetLabels()[policy.OriginLabel]
		for ref := range route.References() {
			if ref.Kind != policy.WithheldKind {
				require.True(m.t, m.consents[consented{origin, ref.Namespace, ref.Name}],
					"the copy %s of %s refers to %s/%s, which never consented\n%s", route.Meta.Name, origin, ref.Namespace, ref.Name, strings.Join(m.done, "\n"))
			}
		}
	}
	for _, grant := range s.grants {
		if policy.IsManaged(&grant) {
			require.True(m.t, m.consents[consented{grant.Labels[policy.OriginLabel], grant.Namespace, string(*grant.Spec.To[0].Name)}],
				"the managed grant %s/%s: %s, which was never consented to\n%s", grant.Namespace, grant.Name, grant.Annotations[policy.EdgeAnnotation], strings.Join(m.done, "\n"))
		}
	}
}

// violations is what is not as it must be once it is quiet.
func (m *model) violations() (found []string) {
	s, err := m.look()
	if err != nil {
		return []string{err.Error()}
	}
	report := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	inSystem := map[string]*unstructured.Unstructured{}
	sources := map[string][]*unstructured.Unstructured{}
	needed := map[string]policy.Edge{}
	for i := range s.routes {
		obj := &s.routes[i]
		route := typedRoute(m.t, obj)
		if obj.GetNamespace() == system {
			inSystem[obj.GetName()] = obj
		} else if m.pol.Relocates(route) {
			name := m.pol.CopyName(obj.GetNamespace(), obj.GetName())
			sources[name] = append(sources[name], obj)
		}
		if m.pol.Governs(route, s.facts) != policy.Yes {
			continue
		}
		for _, edge := range m.pol.Edges(route) {
			needed[edge.Namespace+"/"+edge.GrantName()] = edge
		}
	}

	for name, candidates := range sources {
		there := inSystem[name]
		isCopy := there != nil && m.pol.IsCopy(typedRoute(m.t, there))
		if there == nil {
			report("%s has no copy", name)
			continue
		}
		owners := 0
		for _, source := range candidates {
			key := source.GetNamespace() + "/" + source.GetName()
			if !isCopy || there.GetAnnotations()[policy.SourceAnnotation] != key {
				if !hasReason(source, "RelocatedNameTaken") {
					report("the status of %s does not say that %s is taken", key, name)
				}
				continue
			}
			owners++
			desired, err := m.pol.Copy(source, func(edge policy.Edge) bool {
				outcome := m.pol.EvaluateEdge(edge, s.facts, false).Outcome
				return outcome == policy.Refused || outcome == policy.Vetoed
			})
			switch {
			case err != nil:
				report("%s: %v", key, err)
			case !policy.InSync(there, desired):
				report("the copy %s is not that of %s: %v, want %v", name, key, there.Object["spec"], desired.Object["spec"])
			case hasReason(source, "RelocatedNameTaken"):
				report("%s has its copy, and its status says otherwise", key)
			}
		}
		if isCopy && owners != 1 {
			report("the copy %s belongs to %d of its sources", name, owners)
		}
	}
	for name, there := range inSystem {
		if m.pol.IsCopy(typedRoute(m.t, there)) && len(sources[name]) == 0 {
			report("the copy %s has no source", name)
		}
	}
	for i := range s.routes {
		if obj := &s.routes[i]; obj.GetNamespace() != system && !m.pol.Relocates(typedRoute(m.t, obj)) && strings.Contains(fmt.Sprint(obj.Object["status"]), "routesteward.dev/") {
			report("%s/%s is not parked, and its status says so still", obj.GetNamespace(), obj.GetName())
		}
	}

	managed := map[string]bool{}
	for _, grant := range s.grants {
		key := grant.Namespace + "/" + grant.Name
		if !policy.IsManaged(&grant) {
			continue
		}
		managed[key] = true
		edge, isNeeded := needed[key]
		switch {
		case !isNeeded:
			report("the grant %s is there and nothing needs it: %s", key, grant.Annotations[policy.EdgeAnnotation])
		case !policy.Records(&grant, edge):
			report("the grant %s is not that of its edge", key)
		case s.facts.Namespaces[grant.Namespace].Grants == policy.GrantsDeny:
			report("the grant %s is there in spite of a veto", key)
		}
	}
	for key, edge := range needed {
		if m.pol.EvaluateEdge(edge, s.facts, false).Outcome == policy.Grantable && !managed[key] {
			report("the grant %s is missing: %s", key, edge)
		}
	}

	for key, want := range m.foreign {
		var have client.Object
		for i := range s.grants {
			if key == "grant "+s.grants[i].Namespace+"/"+s.grants[i].Name {
				have = &s.grants[i]
				if !equality.Semantic.DeepEqual(s.grants[i].Spec, want.(*gwv1.ReferenceGrant).Spec) {
					report("%s was changed", key)
				}
			}
		}
		if there := inSystem[strings.TrimPrefix(key, "route ")]; strings.HasPrefix(key, "route ") && there != nil {
			have = there
		}
		if have == nil || have.GetUID() != want.GetUID() || have.GetGeneration() != want.GetGeneration() {
			report("%s, which is somebody else's, was touched", key)
		}
	}
	return found
}

func hasReason(obj *unstructured.Unstructured, reason string) bool {
	return strings.Contains(fmt.Sprint(obj.Object["status"]), "reason:"+reason)
}
