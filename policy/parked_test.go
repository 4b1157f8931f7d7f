package policy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// parkedRoute is a route in team-a whose annotation is this one.
func parkedRoute(annotation string) *gwv1.HTTPRoute {
	return &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{
		Namespace: "team-a", Name: "llama-router", Annotations: map[string]string{policy.ParkedAnnotation: annotation},
	}}
}

func TestParkedAnnotation(t *testing.T) {
	ref := func(more string) string { return `{"name":"aibrix-eg","namespace":"aibrix-system"` + more + `}` }
	list := func(refs ...string) string { return "[" + strings.Join(refs, ",") + "]" }
	many := func(n int) string {
		var refs []string
		for i := range n {
			refs = append(refs, ref(fmt.Sprintf(`,"port":%d`, i+1)))
		}
		return list(refs...)
	}
	named := func(length int) string {
		return list(`{"name":"` + strings.Repeat("x", length) + `","namespace":"aibrix-system"}`)
	}
	const twice = "names Gateway aibrix-eg more than once without distinguishing its listeners (at [1])"
	for name, tc := range map[string]struct {
		annotation string
		count      int
		problem    string
	}{
		"one":                       {list(ref("")), 1, ""},
		"group and kind":            {list(ref(`,"group":"gateway.networking.k8s.io","kind":"Gateway"`)), 1, ""},
		"as many as a route has":    {many(32), 32, ""},
		"one more":                  {many(33), 0, "holds 33 parentRefs, which must be 1 to 32"},
		"none":                      {"[]", 0, "holds 0 parentRefs, which must be 1 to 32"},
		"null":                      {"null", 0, "holds 0 parentRefs, which must be 1 to 32"},
		"no JSON":                   {"nonsense", 0, "is not a JSON list of parentRefs"},
		"empty":                     {"", 0, "is not a JSON list of parentRefs"},
		"another kind":              {list(ref(`,"kind":"ListenerSet"`)), 0, "holds a parentRef that is not a Gateway (at [0])"},
		"another group":             {list(ref(`,"group":""`)), 0, "holds a parentRef that is not a Gateway (at [0])"},
		"another namespace":         {list(ref(""), `{"name":"b","namespace":"models"}`), 0, `holds a parentRef that is not in namespace "aibrix-system" (at [1])`},
		"no namespace":              {`[{"name":"aibrix-eg"}]`, 0, `holds a parentRef that is not in namespace "aibrix-system" (at [0])`},
		"a key in another case":     {`[{"name":"aibrix-eg","Namespace":"aibrix-system"}]`, 0, `holds a parentRef that is not in namespace "aibrix-system" (at [0])`},
		"no name":                   {named(0), 0, "holds a parentRef that has no valid name (at [0])"},
		"the longest name":          {named(253), 1, ""},
		"a longer name":             {named(254), 0, "holds a parentRef that has no valid name (at [0])"},
		"a section":                 {list(ref(`,"sectionName":"http"`)), 1, ""},
		"no section":                {list(ref(`,"sectionName":"-"`)), 0, "holds a parentRef that has no valid sectionName (at [0])"},
		"the first and last port":   {list(ref(`,"port":1`), ref(`,"port":65535`)), 2, ""},
		"port 0":                    {list(ref(`,"port":0`)), 0, "holds a parentRef that has no valid port (at [0])"},
		"port 65536":                {list(ref(`,"port":65536`)), 0, "holds a parentRef that has no valid port (at [0])"},
		"the same":                  {list(ref(""), ref("")), 0, twice},
		"all and a section":         {list(ref(""), ref(`,"sectionName":"http"`)), 0, twice},
		"a section and all":         {list(ref(`,"sectionName":"http"`), ref("")), 0, twice},
		"a port and all":            {list(ref(`,"port":80`), ref("")), 0, twice},
		"two sections":              {list(ref(`,"sectionName":"a"`), ref(`,"sectionName":"b"`)), 2, ""},
		"one section twice":         {list(ref(`,"sectionName":"a"`), ref(`,"sectionName":"a"`)), 0, twice},
		"one section, two ports":    {list(ref(`,"sectionName":"a","port":1`), ref(`,"sectionName":"a","port":2`)), 2, ""},
		"a section and a port":      {list(ref(`,"sectionName":"a"`), ref(`,"port":2`)), 2, ""},
		"other Gateways in between": {list(ref(`,"port":1`), `{"name":"b","namespace":"aibrix-system"}`, ref(`,"port":2`)), 3, ""},
	} {
		t.Run(name, func(t *testing.T) {
			route := routeOf(t, parkedRoute(tc.annotation))
			refs, err := plain.Parked(route)
			require.Len(t, refs, tc.count)
			if tc.problem == "" {
				require.NoError(t, err)
				require.Empty(t, plain.CannotRelocate(route))
				return
			}
			require.EqualError(t, err, tc.problem)
			require.Equal(t, "the annotation routesteward.dev/parked-parent-refs "+tc.problem, plain.CannotRelocate(route))
		})
	}
}

const parkedOnce = `[{"name":"aibrix-eg","namespace":"aibrix-system"}]`

func TestParkedMeansNothingElsewhere(t *testing.T) {
	inside := parkedRoute(parkedOnce)
	inside.Namespace = "aibrix-system"
	require.False(t, plain.IsParked(routeOf(t, inside)))
	require.False(t, plain.IsParked(routeOf(t, &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a"}})))
	require.True(t, plain.IsParked(routeOf(t, parkedRoute("anything"))))
}

func TestRelocates(t *testing.T) {
	config := policy.DefaultConfig()
	config.Kinds, config.ExemptNamespaces = []policy.Kind{policy.HTTPRoute}, []string{"kube-system"}
	p := newPolicy(t, config)
	require.True(t, p.Relocates(routeOf(t, parkedRoute(parkedOnce))))
	deleted := parkedRoute(parkedOnce)
	deleted.DeletionTimestamp = new(metav1.Unix(1, 0))
	require.False(t, p.Relocates(routeOf(t, deleted)))
	exempt := parkedRoute(parkedOnce)
	exempt.Namespace = "kube-system"
	require.False(t, p.Relocates(routeOf(t, exempt)))
	require.False(t, p.Relocates(routeOf(t, &gwv1.GRPCRoute{ObjectMeta: parkedRoute(parkedOnce).ObjectMeta})))
	require.False(t, p.Relocates(routeOf(t, &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a"}})))
}

func TestExtensionsCannotBeRelocated(t *testing.T) {
	extension := &gwv1.LocalObjectReference{Group: "example.org", Kind: "Filter", Name: "x"}
	const problem = ` names an object of namespace "team-a", which a copy in "aibrix-system" cannot name`
	http := parkedRoute(parkedOnce)
	http.Spec.Rules = []gwv1.HTTPRouteRule{{Filters: []gwv1.HTTPRouteFilter{{}, {ExtensionRef: extension}}}}
	require.Equal(t, "spec.rules[0].filters[1].extensionRef"+problem, plain.CannotRelocate(routeOf(t, http)))
	http.Spec.Rules = []gwv1.HTTPRouteRule{{}, {BackendRefs: []gwv1.HTTPBackendRef{{}, {Filters: []gwv1.HTTPRouteFilter{{ExtensionRef: extension}}}}}}
	require.Equal(t, "spec.rules[1].backendRefs[1].filters[0].extensionRef"+problem, plain.CannotRelocate(routeOf(t, http)))
	grpc := &gwv1.GRPCRoute{ObjectMeta: http.ObjectMeta}
	grpc.Spec.Rules = []gwv1.GRPCRouteRule{{Filters: []gwv1.GRPCRouteFilter{{}, {ExtensionRef: extension}}}}
	require.Equal(t, "spec.rules[0].filters[1].extensionRef"+problem, plain.CannotRelocate(routeOf(t, grpc)))
	grpc.Spec.Rules = []gwv1.GRPCRouteRule{{}, {BackendRefs: []gwv1.GRPCBackendRef{{}, {Filters: []gwv1.GRPCRouteFilter{{ExtensionRef: extension}}}}}}
	require.Equal(t, "spec.rules[1].backendRefs[1].filters[0].extensionRef"+problem, plain.CannotRelocate(routeOf(t, grpc)))
}

func TestHolders(t *testing.T) {
	meta := func(namespace, name string, labels, annotations map[string]string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels, Annotations: annotations}
	}
	managed := map[string]string{policy.ManagedByLabel: policy.ManagedBy}
	parked := map[string]string{policy.ParkedAnnotation: parkedOnce}
	http := func(m metav1.ObjectMeta) policy.Route { return routeOf(t, &gwv1.HTTPRoute{ObjectMeta: m}) }
	own, copied := http(meta("aibrix-system", "own", nil, nil)), http(meta("aibrix-system", "copy", managed, map[string]string{policy.SourceAnnotation: "team-a/copy"}))
	nameless := http(meta("aibrix-system", "nameless", managed, nil))
	source, other := http(meta("team-a", "copy", nil, parked)), http(meta("team-b", "copy", nil, parked))
	first, second := http(meta("team-a", "new", nil, parked)), http(meta("team-b", "new", nil, parked))
	ordinary, generated := http(meta("team-a", "ordinary", nil, nil)), http(meta("team-a", "", nil, parked))
	grpc := routeOf(t, &gwv1.GRPCRoute{ObjectMeta: meta("team-b", "own", nil, parked)})

	for _, routes := range [][]policy.Route{
		{own, copied, nameless, source, other, first, second, ordinary, generated, grpc},
		{source, other, first, second, ordinary, generated, grpc, own, copied, nameless},
	} {
		require.Equal(t, map[policy.HeldName][]string{
			{Kind: policy.HTTPRoute, Name: "own"}: {""}, {Kind: policy.HTTPRoute, Name: "copy"}: {"team-a/copy"},
			{Kind: policy.HTTPRoute, Name: "nameless"}: {"?"}, {Kind: policy.HTTPRoute, Name: "new"}: {"team-a/new", "team-b/new"},
			{Kind: policy.GRPCRoute, Name: "own"}: {"team-b/own"},
		}, plain.Holders(routes))
	}
	for _, route := range []policy.Route{ordinary, generated} {
		held, source, holds := plain.Holder(route)
		require.False(t, holds)
		require.Zero(t, held)
		require.Empty(t, source)
	}
}

// content is a route's content, as a client reads it.
func content(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	require.NoError(t, object.UnmarshalJSON([]byte(text)))
	return object
}

func TestInSync(t *testing.T) {
	const text = `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
  "metadata": {"name": "a", "labels": {"a": "b"}, "annotations": {"c": "d"}}, "spec": {"hostnames": ["x"]}}`
	require.True(t, policy.InSync(content(t, text), content(t, strings.Replace(text, `"name": "a"`, `"name": "a", "uid": "u"`, 1))))
	for _, change := range []string{`"b"`, `"d"`, `"x"`} {
		require.False(t, policy.InSync(content(t, text), content(t, strings.Replace(text, change, `"other"`, 1))), change)
	}
}

func TestWhatCannotBeCopiedOrUnparked(t *testing.T) {
	route := func(annotation, spec string) *unstructured.Unstructured {
		object := content(t, `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a", "namespace": "team-a"}, "spec": `+spec+`}`)
		if annotation != "" {
			object.SetAnnotations(map[string]string{policy.ParkedAnnotation: annotation})
		}
		return object
	}
	const refs = `{"parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}]}`
	for name, tc := range map[string]struct {
		source                 *unstructured.Unstructured
		copy, unpark, relocate string
	}{
		"no route":        {route(parkedOnce, `{"rules": 7}`), "cannot restore slice from int64", "cannot restore slice from int64", "cannot restore slice from int64"},
		"not parked":      {route("", `{}`), "the route is not parked", "unexpected end of JSON input", "the route is not parked"},
		"unreadable":      {route("x", `{}`), "annotation routesteward.dev/parked-parent-refs is not a JSON list of parentRefs", "annotation routesteward.dev/parked-parent-refs is not a JSON list of parentRefs", "annotation routesteward.dev/parked-parent-refs is not a JSON list of parentRefs"},
		"parked":          {route(parkedOnce, `{}`), "", "", ""},
		"not parked yet":  {route("", refs), "the route is not parked", "unexpected end of JSON input", ""},
		"without a spec":  {content(t, `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": {"name": "a", "namespace": "team-a", "annotations": {"routesteward.dev/parked-parent-refs": "[{\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\"}]"}}}`), "", "", ""},
		"a null spec":     {content(t, `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": {"name": "a", "namespace": "team-a", "annotations": {"routesteward.dev/parked-parent-refs": "[{\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\"}]"}}, "spec": null}`), "", "value cannot be set because .spec is not a map[string]interface{}", ""},
		"null parentRefs": {route(parkedOnce, `{"parentRefs": null}`), "", ".spec.parentRefs accessor error: <nil> is of the type <nil>, expected []interface{}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(want string, err error) {
				t.Helper()
				if want == "" {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, want)
				}
			}
			before := tc.source.DeepCopy()
			copied, err := plain.Copy(tc.source, nil)
			check(tc.copy, err)
			require.Equal(t, err == nil, copied != nil)
			_, err = plain.Relocate(tc.source, policy.Snapshot{})
			check(tc.relocate, err)
			require.Equal(t, before, tc.source)
			err = plain.Unpark(tc.source)
			check(tc.unpark, err)
			if err != nil {
				require.Equal(t, before, tc.source)
			}
		})
	}
}

// What tools keep in the labels and annotations of objects that they applied themselves stays with the source.
func TestCopiesHaveNoBookkeeping(t *testing.T) {
	source := content(t, `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a", "namespace": "team-a"}, "spec": {}}`)
	annotations := map[string]string{policy.ParkedAnnotation: parkedOnce}
	kept := []string{"example.org/x", "app.kubernetes.io/name", "plain", "nothelm.sh/x", "kubectl.kubernetes.io/restartedAt"}
	for _, key := range append([]string{
		"kubectl.kubernetes.io/last-applied-configuration", "app.kubernetes.io/managed-by", "app.kubernetes.io/instance",
		"routesteward.dev/other", "argocd.argoproj.io/tracking-id", "kustomize.toolkit.fluxcd.io/name", "toolkit.fluxcd.io/x", "helm.sh/chart",
		"meta.helm.sh/release-name", "config.k8s.io/owning-inventory", "internal.config.k8s.io/x", "cli-utils.sigs.k8s.io/x", "applyset.kubernetes.io/part-of",
	}, kept...) {
		annotations[key] = "v"
	}
	source.SetAnnotations(annotations)
	copied, err := plain.Copy(source, nil)
	require.NoError(t, err)
	want := map[string]string{policy.SourceAnnotation: "team-a/a", policy.SourceUIDAnnotation: ""}
	for _, key := range kept {
		want[key] = "v"
	}
	require.Equal(t, want, copied.GetAnnotations())
	require.Equal(t, map[string]string{policy.ManagedByLabel: policy.ManagedBy, policy.OriginLabel: "team-a"}, copied.GetLabels())
}

func TestParkingApplies(t *testing.T) {
	config := policy.DefaultConfig()
	config.Outside = policy.OutsideRewrite
	p := newPolicy(t, config)
	const system, other = `{"name": "aibrix-eg", "namespace": "aibrix-system"}`, `{"name": "x", "namespace": "infra"}`
	parking := func(refs string) policy.Parking {
		object := content(t, `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a", "namespace": "elsewhere"}, "spec": {"parentRefs": `+refs+`}}`)
		// The request's namespace counts, not the object's.
		m, err := p.Mutate(policy.Request{Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: "team-a", Object: typed(t, policy.HTTPRoute, object)}, policy.Snapshot{
			Gateways: map[string]bool{"elsewhere/mine": true, "aibrix-system/mine": true},
		})
		require.NoError(t, err)
		return m.Parking
	}
	apply := func(k policy.Parking, spec string) (string, error) {
		object := content(t, `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a"}, "spec": `+spec+`}`)
		err := k.Apply(object.Object)
		text, marshalErr := object.MarshalJSON()
		require.NoError(t, marshalErr)
		return string(text), err
	}
	require.Equal(t, []int{0}, parking(`[{"name": "mine"}]`).Out, "misdirected in team-a")
	two := parking("[" + system + "," + other + "," + system + "]")
	require.Equal(t, []int{0, 2}, two.Out)
	text, err := apply(two, `{"parentRefs": [`+system+","+other+","+system+`]}`)
	require.NoError(t, err)
	require.JSONEq(t, `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a", "annotations":
		{"routesteward.dev/parked-parent-refs": "[{\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\"}]"}}, "spec": {"parentRefs": [`+other+`]}}`, text)
	text, err = apply(parking("["+system+"]"), `{"parentRefs": [`+system+`]}`)
	require.NoError(t, err)
	require.JSONEq(t, `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a", "annotations":
		{"routesteward.dev/parked-parent-refs": "[{\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\"}]"}}, "spec": {}}`, text)
	_, err = apply(two, `{"parentRefs": [7]}`)
	require.EqualError(t, err, "spec.parentRefs[0]: not an object")
	_, err = apply(two, `{"parentRefs": 7}`)
	require.ErrorContains(t, err, ".spec.parentRefs accessor error")
	_, err = apply(policy.Parking{}, `{"parentRefs": 7}`)
	require.NoError(t, err, "nothing is looked at")
}

func TestWithheldReferencesNameNothing(t *testing.T) {
	source := content(t, `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a", "namespace": "team-a"}, "spec": {"rules": [{
		"backendRefs": [{"name": "llama", "namespace": "models", "port": 80}, {"name": "qwen", "namespace": "models", "port": 80}, {"name": "phi", "port": 80}]}]}}`)
	source.SetAnnotations(map[string]string{policy.ParkedAnnotation: parkedOnce})
	copied, err := plain.Copy(source, func(e policy.Edge) bool { return e.Name != "qwen" })
	require.NoError(t, err)
	rules, err := json.Marshal(copied.Object["spec"].(map[string]any)["rules"])
	require.NoError(t, err)
	require.JSONEq(t, `[{"backendRefs": [
		{"group": "routesteward.dev", "kind": "WithheldBackend", "name": "llama", "port": 80}, {"name": "qwen", "namespace": "models", "port": 80},
		{"group": "routesteward.dev", "kind": "WithheldBackend", "name": "phi", "port": 80}]}]`, string(rules))
}

func TestParentRefsThatAreNoObjectsAreNotRelocated(t *testing.T) {
	inside := content(t, `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "a", "namespace": "aibrix-system"}, "spec": {"parentRefs": [null]}}`)
	_, err := plain.Relocate(inside, policy.Snapshot{})
	require.EqualError(t, err, "spec.parentRefs[0]: not an object")
}
