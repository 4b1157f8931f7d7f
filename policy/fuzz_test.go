package policy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

var fuzzKinds = []policy.Kind{policy.HTTPRoute, policy.GRPCRoute, policy.Gateway, policy.ReferenceGrant}

// decodeAs reads JSON as an object of a kind. What does not fit leaves the rest as it is, as a lenient client might.
func decodeAs(kind policy.Kind, data []byte) runtime.Object {
	var object runtime.Object
	switch kind {
	case policy.HTTPRoute:
		object = &gwv1.HTTPRoute{}
	case policy.GRPCRoute:
		object = &gwv1.GRPCRoute{}
	case policy.Gateway:
		object = &gwv1.Gateway{}
	case policy.ReferenceGrant:
		object = &gwv1.ReferenceGrant{}
	}
	_ = json.Unmarshal(data, object)
	return object
}

// conditions are the compiled matchConditions of the policies that are fuzzed; compiling is dear.
type conditions struct {
	server   apiServer
	compiled map[string]matchconditions.Matcher
}

func (c conditions) of(name string, conditions []admissionregistrationv1.MatchCondition) matchconditions.Matcher {
	if _, ok := c.compiled[name]; !ok {
		c.compiled[name] = c.server.compile(conditions)
	}
	return c.compiled[name]
}

// skipped reports whether the API server would surely not call the webhook. Where a condition fails, the write is refused.
func skipped(matcher matchconditions.Matcher, req policy.Request) bool {
	result := matcher.Match(context.Background(), attributes(req, toUnstructured(req.Object), toUnstructured(req.OldObject)), nil, nil)
	return result.Error == nil && !result.Matches
}

// FuzzEvaluate evaluates objects that no API server has validated. The lowest two bits of the selector choose the kind,
// the next one an update, the others the policy and the facts.
func FuzzEvaluate(f *testing.F) {
	cases, err := policytest.Load("testdata/cases")
	require.NoError(f, err)
	for _, c := range cases {
		object, err := json.Marshal(c.Object)
		require.NoError(f, err)
		old := []byte("{}")
		var selector byte
		for i, kind := range fuzzKinds {
			if kind == c.Request.Kind {
				selector = byte(i)
			}
		}
		if c.Request.OldObject != nil {
			selector |= 4
			old, err = json.Marshal(c.Request.OldObject)
			require.NoError(f, err)
		}
		f.Add(selector, object, old)
		f.Add(selector|0xa0, object, old)
	}
	matchers := conditions{newAPIServer(), map[string]matchconditions.Matcher{}}
	f.Fuzz(func(t *testing.T, selector byte, object, old []byte) {
		kind := fuzzKinds[selector&3]
		s := policytest.NewSource(uint64(selector >> 3))
		req := policy.Request{
			Operation: policy.Create, Kind: kind, Namespace: policytest.OneOf(s, policytest.Namespaces...),
			User: policy.User{Name: policytest.User}, Object: decodeAs(kind, object),
		}
		if selector&4 != 0 {
			req.Operation, req.OldObject = policy.Update, decodeAs(kind, old)
		}
		p := newPolicy(t, s.Config())
		facts := s.Facts(edges(p, req)...)
		reqBefore, factsBefore := copyRequest(req), copyFacts(facts)
		d := p.Evaluate(req, facts)
		requireSound(t, p, req, d)
		requirePrintable(t, p, req, d)
		require.Equal(t, d, p.Evaluate(reqBefore, factsBefore), "the same input again")
		require.Equal(t, reqBefore, req, "the input is not changed")

		// What is decided without all facts is decided with them too.
		for _, partial := range []policy.Facts{policy.Snapshot{}, mask(s, facts)} {
			guess := p.Evaluate(req, partial)
			requireSound(t, p, req, guess)
			requirePrintable(t, p, req, guess)
			if len(guess.Missing) == 0 {
				require.Equal(t, d, guess)
			} else if len(guess.Denied()) > 0 {
				require.False(t, d.Allowed)
			}
		}

		mirrored := copyRequest(req)
		if reverse(mirrored.Object) && (req.OldObject == nil || reverse(mirrored.OldObject)) {
			requireSameFindings(t, d, p.Evaluate(mirrored, facts))
		}

		name := fmt.Sprint(selector>>3, kind)
		if skipped(matchers.of(name, p.MatchConditions(kind)), req) {
			requireNothingToDecide(t, p, req, facts)
			requireNothingToDecide(t, p, req, policy.Snapshot{})
		}
		route, ok := policy.RouteOf(req.Object)
		if !ok {
			return
		}
		p.MayGovern(route)
		p.Governs(route, facts)
		m, err := p.Mutate(req, facts)
		require.Equal(t, reqBefore, req, "the input is not changed")
		if err != nil || len(m.Missing) > 0 {
			return
		}
		requireSound(t, p, m.Request, p.Evaluate(m.Request, facts))
		if !m.Nothing() {
			require.False(t, skipped(matchers.of("mutating "+name, p.MutatingConditions()), req), "changed, and not called")
		}
		if len(m.Out) > 0 {
			again, err := p.Mutate(m.Request, facts)
			require.NoError(t, err)
			require.Empty(t, again.Out, "parking a parked route")
		}
	})
}

// requirePrintable holds that no text of an object can forge lines of a message, or be lost on a terminal.
func requirePrintable(t testing.TB, p *policy.Policy, req policy.Request, d policy.Decision) {
	t.Helper()
	texts := append(strings.Split(d.Denial(req), "\n"), d.Warnings(true)...)
	for _, f := range d.Findings {
		texts = append(texts, f.String(), f.Warning())
	}
	for _, m := range d.Missing {
		texts = append(texts, m.String())
	}
	for _, text := range texts {
		require.NotContains(t, text, "\n")
		for _, r := range text {
			require.True(t, unicode.IsPrint(r) || r == utf8.RuneError, "%q", text)
		}
	}
}

// reverse reverses the lists of a route, whose order means nothing to the policy; false for other objects.
func reverse(obj runtime.Object) bool {
	switch route := obj.(type) {
	case *gwv1.HTTPRoute:
		slices.Reverse(route.Spec.ParentRefs)
		slices.Reverse(route.Spec.Rules)
		for i := range route.Spec.Rules {
			rule := &route.Spec.Rules[i]
			slices.Reverse(rule.BackendRefs)
			slices.Reverse(rule.Filters)
			for j := range rule.BackendRefs {
				slices.Reverse(rule.BackendRefs[j].Filters)
			}
		}
		return true
	case *gwv1.GRPCRoute:
		slices.Reverse(route.Spec.ParentRefs)
		slices.Reverse(route.Spec.Rules)
		for i := range route.Spec.Rules {
			rule := &route.Spec.Rules[i]
			slices.Reverse(rule.BackendRefs)
			slices.Reverse(rule.Filters)
			for j := range rule.BackendRefs {
				slices.Reverse(rule.BackendRefs[j].Filters)
			}
		}
		return true
	}
	return false
}

// requireSameFindings compares decisions about the same content in another order.
func requireSameFindings(t testing.TB, want, got policy.Decision) {
	t.Helper()
	told := func(d policy.Decision) (texts []string) {
		for _, f := range d.Findings {
			f.Field = ""
			texts = append(texts, fmt.Sprintf("%s %t %s", f.Severity, f.Unchanged, f))
		}
		for _, m := range d.Missing {
			texts = append(texts, fmt.Sprintf("missing %s %s", m.Rule, m.Value))
		}
		for _, use := range d.Grants {
			texts = append(texts, fmt.Sprintf("grant %s %t", use.Edge, use.Exists))
		}
		slices.Sort(texts)
		return texts
	}
	require.Equal(t, want.Allowed, got.Allowed)
	require.Equal(t, told(want), told(got), "the same in another order")
	require.Equal(t, want.Relocated, got.Relocated)
}

// FuzzParked reads the annotation of a parked source, which anybody may write who may write the route: what is copied and
// unparked is what was evaluated, no more.
func FuzzParked(f *testing.F) {
	const ref = `{"name":"aibrix-eg","namespace":"aibrix-system"}`
	many := func(n int) string { // entries that differ
		var refs []string
		for i := range n {
			refs = append(refs, fmt.Sprintf(`{"name":"g%d","namespace":"aibrix-system"}`, i))
		}
		return "[" + strings.Join(refs, ",") + "]"
	}
	const spec = `{"parentRefs":[{"name":"mine","namespace":"team-a"}],"rules":[{"backendRefs":[{"name":"llama","port":8000},{"name":"qwen","namespace":"models","port":1}]}]}`
	for _, annotation := range []string{
		"", "null", "[]", "[null]", "{}", `"x"`, "[" + ref + "]", "[" + ref + "," + ref + "]", "[" + ref + "] [", "[" + ref + "]\n", "[[" + ref + "]]",
		`[{"name":"aibrix-eg","Namespace":"aibrix-system"}]`, `[{"name":"aibrix-eg","namespace":"team-a","Namespace":"aibrix-system"}]`,
		`[{"name":"aibrix-eg","namespace":"aibrix-system","NAMESPACE":"models"}]`, `[{"name":"a","name":"b","namespace":"team-a","namespace":"aibrix-system"}]`,
		`[{"name":"aibrix-eg","namespace":"aibrix-system","namespace":null}]`, `[{"name":"","namespace":"aibrix-system"}]`, `[{"name":"aibrix-eg"}]`,
		`[{"kind":"Service","group":"","name":"aibrix-eg","namespace":"aibrix-system"}]`, `[{"kind":null,"group":null,"name":"aibrix-eg","namespace":"aibrix-system"}]`,
		`[{"name":"aibrix-eg","namespace":"aibrix-system","port":1e2}]`, `[{"name":"aibrix-eg","namespace":"aibrix-system","port":80.0}]`,
		`[{"name":"aibrix-eg","namespace":"aibrix-system","port":4294967376}]`, `[{"name":"aibrix-eg","namespace":"aibrix-system","sectionName":"a"},{"name":"aibrix-eg","namespace":"aibrix-system","sectionName":"b","port":80,"future":{"a":[1]}}]`,
		many(32), many(33), strings.Repeat("[", 20_000), `[{"name":"` + strings.Repeat("x", 300) + `","namespace":"aibrix-system"}]`,
	} {
		f.Add(annotation, []byte(spec))
	}
	f.Add("["+ref+"]", []byte(`{"rules":[{"filters":[{"requestMirror":{"backendRef":{"name":"a","namespace":""}},"extensionRef":{"name":"x"}}],"backendRefs":[{"name":""}]}]}`))
	f.Add("["+ref+"]", []byte(`{"parentRefs":[`+ref+`],"useDefaultGateways":"All"}`))

	f.Fuzz(func(t *testing.T, annotation string, spec []byte) {
		source := &unstructured.Unstructured{Object: map[string]any{}}
		var content any
		if utiljson.Unmarshal(spec, &content) != nil {
			t.Skip("no JSON")
		}
		source.SetAPIVersion(gwv1.GroupVersion.String())
		source.SetKind(string(policy.HTTPRoute))
		source.SetNamespace("team-a")
		source.SetName("llama-router")
		source.SetAnnotations(map[string]string{policy.ParkedAnnotation: annotation})
		source.Object["spec"] = content
		object := &gwv1.HTTPRoute{}
		if runtime.DefaultUnstructuredConverter.FromUnstructured(source.Object, object) != nil {
			t.Skip("no route")
		}
		route := routeOf(t, object)
		p, facts := plain, policy.Snapshot{}
		request := func(object runtime.Object) policy.Request {
			return policy.Request{Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: "team-a", Object: object}
		}
		before := source.DeepCopy()
		refs, err := p.Parked(route)
		relocated, copyErr := p.Copy(source, nil)
		require.Equal(t, before, source, "a copy changes nothing")
		if err != nil {
			require.Empty(t, refs)
			require.Error(t, copyErr)
			require.NotEmpty(t, p.CannotRelocate(route))
			require.Error(t, p.Unpark(source))
			require.Equal(t, before, source, "nothing has changed")
			d := p.Evaluate(request(object), facts)
			require.NotEmpty(t, d.Denied(), "what cannot be read is refused")
			requireSound(t, p, request(object), d)
			requirePrintable(t, p, request(object), d)
			return
		}
		require.NoError(t, copyErr)
		require.NotEmpty(t, refs)
		require.LessOrEqual(t, len(refs), 32)
		for i := range refs {
			require.True(t, policy.IsGatewayParent(&refs[i]))
			require.Equal(t, p.SystemNamespace, policy.ParentNamespace(&refs[i]))
			require.NotEmpty(t, refs[i].Name)
		}
		require.NotEmpty(t, p.Evaluate(request(object), facts).Denied(), "nothing is relocated under the default policy")

		// The copy says what was evaluated, as the API server reads it.
		copied := routeOf(t, strictly(t, relocated))
		require.Len(t, copied.ParentRefs, len(refs))
		for i := range refs {
			refs[i].Group, refs[i].Kind = new(gwv1.Group(gwv1.GroupName)), new(gwv1.Kind("Gateway"))
		}
		require.Equal(t, refs, copied.ParentRefs)
		require.True(t, p.IsCopy(copied))
		evaluated := map[policy.Edge]bool{}
		for _, edge := range p.Edges(route) {
			evaluated[edge] = true
		}
		for ref := range copied.References() {
			require.False(t, ref.Implicit)
			require.True(t, evaluated[policy.Edge{
				Origin: "team-a", FromKind: policy.HTTPRoute, FromNamespace: p.SystemNamespace,
				Namespace: ref.Namespace, Group: ref.Group, Kind: ref.Kind, Name: ref.Name,
			}], "%+v is copied and was not evaluated", ref)
		}

		// What is unparked is the parentRefs that were parked and those that stayed; the engine evaluates them all.
		require.NoError(t, p.Unpark(source))
		_, still := source.GetAnnotations()[policy.ParkedAnnotation]
		require.False(t, still)
		back := strictly(t, source)
		unparked := routeOf(t, back)
		require.Len(t, unparked.ParentRefs, len(refs)+len(route.ParentRefs))
		require.Equal(t, len(route.ParentRefs), len(unparked.ParentRefs[len(refs):]))
		denied := p.Evaluate(request(back), facts).Denied()
		require.GreaterOrEqual(t, len(denied), len(refs), "each of them is refused as if it had never been parked")

		// And what is parked again is what was.
		again, err := p.Relocate(source, facts)
		if err != nil { // spec.parentRefs may hold more than the annotation may
			return
		}
		reparked, err := p.Parked(routeOf(t, strictly(t, again.Source)))
		require.NoError(t, err)
		for _, ref := range refs {
			ref.Group, ref.Kind = nil, nil
			require.True(t, slices.ContainsFunc(reparked, func(other gwv1.ParentReference) bool {
				other.Group, other.Kind = nil, nil
				return equality.Semantic.DeepEqual(ref, other)
			}), "%+v is lost", ref)
		}
	})
}

// strictly reads an HTTPRoute as the API server does, to which the case of keys matters.
func strictly(t testing.TB, content *unstructured.Unstructured) *gwv1.HTTPRoute {
	t.Helper()
	text, err := json.Marshal(content.Object)
	require.NoError(t, err)
	var route gwv1.HTTPRoute
	require.NoError(t, utiljson.Unmarshal(text, &route))
	return &route
}
