package policy_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

// rewriting is a random policy that relocates, and a random route that it governs outside the system namespace.
func rewriting(t testing.TB, s *policytest.Source) (*policy.Policy, policy.Request, policy.Snapshot) {
	t.Helper()
	config := s.Config()
	config.Outside, config.Kinds, config.ExemptNamespaces, config.ExemptUsers, config.ExemptGroups, config.Self =
		policy.OutsideRewrite, policy.RouteKinds(), nil, nil, nil, ""
	p := newPolicy(t, config)
	for {
		object := s.Route()
		delete(object.GetAnnotations(), policy.ParkedAnnotation)
		req := policy.Request{
			Operation: policy.Create, Kind: policy.Kind(object.GetObjectKind().GroupVersionKind().Kind),
			Namespace: object.GetNamespace(), User: s.User(), Object: object,
		}
		facts := s.Facts(edges(p, req)...)
		m, err := p.Mutate(req, facts)
		require.NoError(t, err)
		if len(m.Out) > 0 {
			return p, req, facts
		}
	}
}

func routeOf(t testing.TB, obj runtime.Object) policy.Route {
	t.Helper()
	route, ok := policy.RouteOf(obj)
	require.True(t, ok)
	return route
}

func typed(t testing.TB, kind policy.Kind, content *unstructured.Unstructured) client.Object {
	t.Helper()
	var object client.Object = &gwv1.HTTPRoute{}
	if kind == policy.GRPCRoute {
		object = &gwv1.GRPCRoute{}
	}
	require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(content.Object, object))
	return object
}

// meaning is what a gateway sees of a route: what matches, what is done to it, and which backends serve it, with every
// namespace written out.
func meaning(t testing.TB, route policy.Route, content *unstructured.Unstructured) string {
	t.Helper()
	seen := map[string]any{"hostnames": content.Object["spec"].(map[string]any)["hostnames"]}
	var walk func(value any) any
	walk = func(value any) any {
		switch v := value.(type) {
		case map[string]any:
			out := map[string]any{}
			for key, element := range v {
				out[key] = walk(element)
			}
			// Only what refers to a backend has a name and a port here.
			if _, isBackend := v["port"]; isBackend && v["name"] != nil {
				if _, explicit := v["namespace"]; !explicit {
					out["namespace"] = route.Namespace
				}
			}
			return out
		case []any:
			var out []any
			for _, element := range v {
				out = append(out, walk(element))
			}
			return out
		}
		return value
	}
	seen["rules"] = walk(content.Object["spec"].(map[string]any)["rules"])
	text, err := json.Marshal(seen)
	require.NoError(t, err)
	return string(text)
}

func TestRelocationKeepsTheMeaning(t *testing.T) {
	mixed := 0
	forEach(t, 1000, func(s *policytest.Source) {
		p, req, facts := rewriting(t, s)
		before := toUnstructured(req.Object.DeepCopyObject())
		source := toUnstructured(req.Object)
		relocation, err := p.Relocate(source, facts)
		if err != nil { // parentRefs that name one Gateway in two ways
			require.ErrorContains(t, err, "more than once")
			return
		}
		require.Equal(t, before, source, "the input is not changed")
		require.Equal(t, meaning(t, routeOf(t, req.Object), source), meaning(t, routeOf(t, typed(t, req.Kind, relocation.Copy)), relocation.Copy))
		require.Equal(t, source.Object["spec"].(map[string]any)["rules"], relocation.Source.Object["spec"].(map[string]any)["rules"])

		// Parents: each one stays or moves, and what moves names the system namespace.
		parked, copied := routeOf(t, typed(t, req.Kind, relocation.Source)), routeOf(t, typed(t, req.Kind, relocation.Copy))
		moved := map[string]bool{}
		for _, ref := range copied.ParentRefs {
			require.Equal(t, p.SystemNamespace, policy.ParentNamespace(&ref))
			require.True(t, policy.IsGatewayParent(&ref))
			moved[parentKey(ref)] = true
		}
		stays := map[string]bool{}
		for _, ref := range parked.ParentRefs {
			stays[parentKey(ref)] = true
		}
		for _, ref := range routeOf(t, req.Object).ParentRefs {
			there := ref
			there.Namespace = new(gwv1.Namespace(p.SystemNamespace))
			require.True(t, stays[parentKey(ref)] || moved[parentKey(there)], "%v is gone", ref)
		}
		if len(stays) > 0 {
			mixed++
		}
		for ref := range copied.References() {
			require.False(t, ref.Implicit)
		}
		for _, edge := range relocation.Edges {
			require.Equal(t, req.Namespace, edge.Origin)
			require.Equal(t, p.SystemNamespace, edge.FromNamespace)
		}
		require.True(t, p.IsCopy(copied))
		require.Empty(t, p.Edges(copied), "a copy has the edges of its source")
	})
	require.NotZero(t, mixed)
}

func parentKey(ref gwv1.ParentReference) string {
	key := policy.ParentNamespace(&ref) + "/" + string(ref.Name)
	if ref.SectionName != nil {
		key += "/" + string(*ref.SectionName)
	}
	if !policy.IsGatewayParent(&ref) {
		key += " " + string(*ref.Kind)
	}
	return key
}

// What relocation makes is left alone and allowed: the parked source by whoever writes it again, the copy by routesteward.
func TestRelocatedRoutesAreAllowedUnchanged(t *testing.T) {
	allowed := 0
	forEach(t, 1000, func(s *policytest.Source) {
		p, req, facts := rewriting(t, s)
		m, decision, err := p.Admit(req, facts)
		require.NoError(t, err)
		require.Empty(t, m.Missing)

		again, err := p.Mutate(m.Request, facts)
		require.NoError(t, err)
		require.True(t, again.Nothing(), "parking a parked route")
		require.Equal(t, m.Request, again.Request)

		if !decision.Allowed {
			return
		}
		allowed++
		for _, use := range decision.Grants {
			grant := use.Edge.Grant("test")
			facts.Grants[grant.Namespace] = append(slices.DeleteFunc(facts.Grants[grant.Namespace], func(g *gwv1.ReferenceGrant) bool {
				return g.Name == grant.Name
			}), grant)
		}
		held, own, _ := p.Holder(routeOf(t, m.Request.Object))
		facts.Holder[held] = []string{own}
		facts.Writers = map[string]bool{}

		// The same manifest again, on top of what is stored, by somebody without rights.
		apply := req
		apply.Operation, apply.OldObject = policy.Update, m.Request.Object.DeepCopyObject()
		apply.Object = req.Object.DeepCopyObject()
		reapplied := apply.Object.(client.Object)
		annotations := map[string]string{policy.ParkedAnnotation: m.Request.Object.(client.Object).GetAnnotations()[policy.ParkedAnnotation]}
		for key, value := range reapplied.GetAnnotations() {
			annotations[key] = value
		}
		reapplied.SetAnnotations(annotations)
		second, decision, err := p.Admit(apply, facts)
		require.NoError(t, err)
		require.True(t, decision.Allowed, "%s", decision.Denial(apply))
		require.Empty(t, decision.Denied())
		require.Equal(t, m.Request.Object, second.Request.Object, "the second apply changes nothing")
		require.False(t, decision.Relocated.New)
		for _, use := range decision.Grants {
			require.True(t, use.Exists)
		}

		// Its parentRefs back, and parked again.
		unparked := toUnstructured(m.Request.Object)
		require.NoError(t, p.Unpark(unparked))
		relocation, err := p.Relocate(unparked, facts)
		require.NoError(t, err)
		require.Equal(t, toUnstructured(m.Request.Object).GetAnnotations()[policy.ParkedAnnotation], relocation.Source.GetAnnotations()[policy.ParkedAnnotation])
	})
	require.NotZero(t, allowed)
}

func TestUnknownFieldsSurviveRelocation(t *testing.T) {
	source := &unstructured.Unstructured{}
	require.NoError(t, source.UnmarshalJSON([]byte(`{
  "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
  "metadata": {"namespace": "team-a", "name": "llama-router", "uid": "u", "future": "m",
    "labels": {"model.aibrix.ai/name": "llama", "app.kubernetes.io/instance": "x", "app.kubernetes.io/managed-by": "Helm", "argocd.argoproj.io/instance": "x"},
    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "argocd.argoproj.io/tracking-id": "x", "meta.helm.sh/release-name": "x",
      "kustomize.toolkit.fluxcd.io/ssa": "merge", "example.org/kept": "yes"}},
  "spec": {"future": 1, "useDefaultGateways": "All",
    "parentRefs": [{"name": "mine", "namespace": "team-a"}, {"name": "aibrix-eg", "namespace": "aibrix-system", "port": 80, "future": {"a": [1]}}],
    "rules": [{"future": true, "backendRefs": [{"name": "llama", "port": 8000, "weight": 3, "future": "b"}]}]}}`)))
	relocation, err := plain.Relocate(source, policy.Snapshot{})
	require.NoError(t, err)
	text := func(u *unstructured.Unstructured) string {
		out, err := u.MarshalJSON()
		require.NoError(t, err)
		return string(out)
	}
	require.JSONEq(t, `{
  "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
  "metadata": {"namespace": "team-a", "name": "llama-router", "uid": "u", "future": "m",
    "labels": {"model.aibrix.ai/name": "llama", "app.kubernetes.io/instance": "x", "app.kubernetes.io/managed-by": "Helm", "argocd.argoproj.io/instance": "x"},
    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "argocd.argoproj.io/tracking-id": "x", "meta.helm.sh/release-name": "x",
      "kustomize.toolkit.fluxcd.io/ssa": "merge", "example.org/kept": "yes",
      "routesteward.dev/parked-parent-refs": "[{\"future\":{\"a\":[1]},\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\",\"port\":80}]"}},
  "spec": {"future": 1, "useDefaultGateways": "All",
    "parentRefs": [{"name": "mine", "namespace": "team-a"}],
    "rules": [{"future": true, "backendRefs": [{"name": "llama", "port": 8000, "weight": 3, "future": "b"}]}]}}`, text(relocation.Source))
	require.JSONEq(t, `{
  "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
  "metadata": {"namespace": "aibrix-system", "name": "llama-router",
    "labels": {"model.aibrix.ai/name": "llama", "app.kubernetes.io/managed-by": "routesteward", "routesteward.dev/origin": "team-a"},
    "annotations": {"example.org/kept": "yes", "routesteward.dev/source": "team-a/llama-router", "routesteward.dev/source-uid": "u"}},
  "spec": {"future": 1,
    "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "aibrix-eg", "namespace": "aibrix-system", "port": 80, "future": {"a": [1]}}],
    "rules": [{"future": true, "backendRefs": [{"name": "llama", "namespace": "team-a", "port": 8000, "weight": 3, "future": "b"}]}]}}`, text(relocation.Copy))

	require.Equal(t, []policy.Edge{{Origin: "team-a", FromKind: policy.HTTPRoute, FromNamespace: "aibrix-system", Namespace: "team-a", Kind: "Service", Name: "llama"}}, relocation.Edges)

	withheld, err := plain.Copy(relocation.Source, func(e policy.Edge) bool { return e.Name == "llama" })
	require.NoError(t, err)
	rules, _, err := unstructured.NestedSlice(withheld.Object, "spec", "rules")
	require.NoError(t, err)
	require.Equal(t, []any{map[string]any{"future": true, "backendRefs": []any{map[string]any{
		"group": policy.WithheldGroup, "kind": policy.WithheldKind, "name": "llama", "port": int64(8000), "weight": int64(3), "future": "b",
	}}}}, rules)
}

// The author withdraws parked parentRefs by applying a manifest without them.
func TestParkedParentRefsAreWithdrawn(t *testing.T) {
	const parked = `[{"name":"aibrix-eg","namespace":"aibrix-system"}]`
	const with, without = `{"spec":{"parentRefs":[{"name":"aibrix-eg","namespace":"aibrix-system"}]}}`, `{"spec":{"parentRefs":[{"name":"mine"}]}}`
	const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"
	applied := func(manager, fields string) []metav1.ManagedFieldsEntry {
		return []metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(fields)}}
	}
	states, silent := applied("flux", `{"f:spec":{"f:parentRefs":{},"f:rules":{}}}`), applied("flux", `{"f:spec":{"f:rules":{}}}`)
	edited := append(slices.Clone(states), silent...)
	for i := range edited {
		edited[i].Operation = metav1.ManagedFieldsOperationUpdate
	}
	route := func(change func(*gwv1.HTTPRoute)) *gwv1.HTTPRoute {
		r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "llama-router", Annotations: map[string]string{policy.ParkedAnnotation: parked}}}
		change(r)
		return r
	}
	config := policy.DefaultConfig()
	config.Outside = policy.OutsideRewrite
	p := newPolicy(t, config)
	facts := policy.Snapshot{Gateways: map[string]bool{"aibrix-system/aibrix-eg": true, "team-a/mine": true}}
	annotate := func(value string) func(*gwv1.HTTPRoute) {
		return func(r *gwv1.HTTPRoute) { r.Annotations[lastApplied] = value }
	}
	manage := func(fields []metav1.ManagedFieldsEntry) func(*gwv1.HTTPRoute) {
		return func(r *gwv1.HTTPRoute) { r.ManagedFields = fields }
	}
	for name, tc := range map[string]struct {
		before, now func(*gwv1.HTTPRoute)
		withdrawn   bool
	}{
		"kubectl apply of a manifest without them":         {annotate(with), annotate(without), true},
		"kubectl apply of another manifest without them":   {annotate(without), annotate(without + " "), false},
		"kubectl apply of a manifest with them":            {annotate(with), annotate(with + " "), false},
		"kubectl label":                                    {annotate(with), annotate(with), false},
		"server-side apply of a manifest without them":     {manage(states), manage(silent), true},
		"server-side apply by somebody else":               {manage(states), manage(append(applied("jane", `{"f:metadata":{}}`), states...)), false},
		"an edit of an object that was never applied":      {manage(silent), manage(silent), false},
		"fields that cannot be read are no statement":      {manage(applied("flux", `nonsense`)), manage(silent), false},
		"a last-applied manifest that cannot be read":      {annotate(`nonsense`), annotate(without), false},
		"a last-applied manifest that is no route's":       {annotate(`{"spec":{"parentRefs":[{"name":"aibrix-eg","namespace":"aibrix-system"},7]}}`), annotate(without), false},
		"an edit that states none of them":                 {manage(edited), manage(silent), false},
		"an edit of something else":                        {manage(edited[1:]), manage(nil), false},
		"an apply without fields":                          {manage(states), manage([]metav1.ManagedFieldsEntry{{Operation: metav1.ManagedFieldsOperationApply}}), true},
		"server-side apply that states other parents":      {manage(states), manage(states), false},
		"kubectl apply where parentRefs were never parked": {annotate(with), func(r *gwv1.HTTPRoute) { r.Annotations = map[string]string{lastApplied: without} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := p.Mutate(policy.Request{
				Operation: policy.Update, Kind: policy.HTTPRoute, Namespace: "team-a", Object: route(tc.now), OldObject: route(tc.before),
			}, facts)
			require.NoError(t, err)
			require.Equal(t, tc.withdrawn, m.Withdrawn)
			require.Empty(t, m.Out)
			_, still := m.Request.Object.(client.Object).GetAnnotations()[policy.ParkedAnnotation]
			_, had := route(tc.now).Annotations[policy.ParkedAnnotation]
			require.Equal(t, had && !tc.withdrawn, still)
		})
	}
}

func TestCopyNames(t *testing.T) {
	config := policy.DefaultConfig()
	require.Equal(t, "llama-router", newPolicy(t, config).CopyName("team-a", "llama-router"))
	config.RelocatedName = policy.RelocatedNameQualified
	p := newPolicy(t, config)
	require.Equal(t, "team-a.llama-router", p.CopyName("team-a", "llama-router"))

	named := map[string]string{}
	for _, namespace := range []string{"a", "a-b", strings.Repeat("n", 63)} {
		for _, name := range []string{"a", "b.a", "a.b", "b-a", strings.Repeat("x", 253), strings.Repeat("x", 252) + "y", strings.Repeat("x.", 126) + "z", strings.Repeat("x", 189), strings.Repeat("x", 190)} {
			copyName := p.CopyName(namespace, name)
			require.Empty(t, validation.IsDNS1123Subdomain(copyName), copyName)
			require.Empty(t, named[copyName], "%s/%s has the name of another one", namespace, name)
			named[copyName] = namespace + "/" + name
		}
	}
}

// What the mutating webhook looks at before it changes anything.
func TestMutateLooksTwice(t *testing.T) {
	const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"
	config := policy.DefaultConfig()
	config.Outside = policy.OutsideRewrite
	p := newPolicy(t, config)
	route := func(namespace, applied string, parents ...gwv1.ParentReference) *gwv1.HTTPRoute {
		r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "r", Annotations: map[string]string{
			policy.ParkedAnnotation: parkedOnce, lastApplied: applied,
		}}}
		r.Spec.ParentRefs = parents
		return r
	}
	direct, implicit := gwv1.ParentReference{Name: "other-eg", Namespace: new(gwv1.Namespace("aibrix-system"))}, gwv1.ParentReference{Name: "mine"}
	const with, implied, without = `{"spec":{"parentRefs":[{"name":"aibrix-eg","namespace":"aibrix-system"}]}}`, `{"spec":{"parentRefs":[{"name":"mine"}]}}`, `{"spec":{}}`
	mutate := func(object, old runtime.Object, facts policy.Snapshot) policy.Mutation {
		req := policy.Request{Operation: policy.Update, Kind: policy.HTTPRoute, Namespace: "team-a", Object: object, OldObject: old}
		m, err := p.Mutate(req, facts)
		require.NoError(t, err)
		require.Empty(t, m.Missing)
		if m.Nothing() {
			require.Equal(t, req, m.Request)
			require.Same(t, req.Object, m.Request.Object, "what does not change is not copied")
		}
		return m
	}
	none := policy.Snapshot{Gateways: map[string]bool{}}

	require.True(t, mutate(route("team-a", without), route("team-a", with), none).Withdrawn)
	m := mutate(route("team-a", without, direct), route("team-a", with), none)
	require.False(t, m.Withdrawn, "others put parentRefs in their place")
	require.Equal(t, []int{0}, m.Out)
	m = mutate(route("team-a", without, implicit), route("team-a", with), policy.Snapshot{})
	require.True(t, m.Nothing(), "whether the parentRef takes their place is not known")

	theirs := policy.Snapshot{Gateways: map[string]bool{"aibrix-system/mine": true, "elsewhere/mine": true}}
	require.True(t, mutate(route("elsewhere", without), route("elsewhere", implied), theirs).Withdrawn, "the request's namespace counts, not the objects'")
	require.True(t, mutate((*gwv1.HTTPRoute)(nil), route("team-a", with), none).Nothing())

	unreadable := route("team-a", "", direct)
	unreadable.ManagedFields = []metav1.ManagedFieldsEntry{{FieldsV1: metav1.NewFieldsV1("{")}}
	_, decision, err := p.Admit(policy.Request{Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: "team-a", Object: unreadable}, none)
	require.Error(t, err)
	require.Zero(t, decision)
}

// A stored route from before relocation stays where it is as long as its copy would be refused.
func TestStoredRoutesAreParkedWhereTheirCopyIsAdmitted(t *testing.T) {
	config := policy.DefaultConfig()
	config.Outside, config.Scope = policy.OutsideRewrite, policy.ScopeAll
	p := newPolicy(t, config)
	stored := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "r"}}
	stored.Spec.ParentRefs = []gwv1.ParentReference{{Name: "aibrix-eg", Namespace: new(gwv1.Namespace("aibrix-system"))}}
	req := policy.Request{Operation: policy.Update, Kind: policy.HTTPRoute, Namespace: "team-a", Object: stored.DeepCopy(), OldObject: stored}
	facts := policy.Snapshot{Namespaces: map[string]policy.NamespaceFacts{"models": {Exists: policy.Yes}}, Grants: map[string][]*gwv1.ReferenceGrant{}, Writers: map[string]bool{}}

	m, err := p.Mutate(req, facts)
	require.NoError(t, err)
	require.Equal(t, []policy.MissingFact{{
		Rule: "route-cannot-be-relocated", Field: "metadata.name", Value: "r", Fact: policy.Fact{Kind: policy.FactName, Namespace: "aibrix-system", Name: "r"},
	}}, m.Missing)
	require.True(t, m.Nothing())
	again, decision, err := p.Admit(req, facts)
	require.NoError(t, err)
	require.Equal(t, m, again)
	require.Equal(t, policy.Decision{Missing: m.Missing}, decision)

	facts.Holder = map[policy.HeldName][]string{}
	m, err = p.Mutate(req, facts)
	require.NoError(t, err)
	require.Empty(t, m.Missing)
	require.Equal(t, []int{0}, m.Out)

	facts.Holder[policy.HeldName{Kind: policy.HTTPRoute, Name: "r"}] = []string{""}
	m, err = p.Mutate(req, facts)
	require.NoError(t, err)
	require.Empty(t, m.Missing)
	require.True(t, m.Nothing())
	require.Same(t, req.Object, m.Request.Object)

	// Parked by its author, who withdraws it in the same apply: that what is left is refused keeps nothing parked.
	const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"
	stored.Annotations = map[string]string{lastApplied: `{"spec":{"parentRefs":[{"name":"aibrix-eg","namespace":"aibrix-system"}]}}`}
	withdrawn := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "r", Annotations: map[string]string{
		lastApplied: `{}`, policy.ParkedAnnotation: parkedOnce,
	}}}
	backend := gwv1.HTTPBackendRef{}
	backend.Name, backend.Namespace = "llama", new(gwv1.Namespace("models"))
	withdrawn.Spec.Rules = []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{backend}}}
	req.Object = withdrawn
	m, decision, err = p.Admit(req, facts)
	require.NoError(t, err)
	require.True(t, m.Withdrawn)
	require.NotContains(t, m.Request.Object.(client.Object).GetAnnotations(), policy.ParkedAnnotation)
	require.Equal(t, "deny", decision.Verdict())
}
