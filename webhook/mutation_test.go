package webhook

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/routesteward/routesteward/policy"
)

func rewrite(c *policy.Config) { c.Outside = policy.OutsideRewrite }

// outside is a request for a route in team-a with these metadata and spec.
func outside(metadata, spec string) func(*admission.Request) {
	return func(req *admission.Request) {
		req.Namespace = "team-a"
		req.Object.Raw = []byte(`{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
			"metadata": {"namespace": "team-a", "name": "llama-router"` + metadata + `}, "spec": ` + spec + `}`)
	}
}

func TestParkingPatches(t *testing.T) {
	const governed, other = `{"name": "aibrix-eg", "namespace": "aibrix-system", "future": [1]}`, `{"name": "mine", "namespace": "team-a"}`
	const parked = `[{\"future\":[1],\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\"}]`
	const path = `"/metadata/annotations/routesteward.dev~1parked-parent-refs"`
	for name, tt := range map[string]struct{ metadata, spec, want string }{
		"no annotations": {"", `{"parentRefs": [` + governed + `]}`,
			`[{"op":"add","path":"/metadata/annotations","value":{"routesteward.dev/parked-parent-refs":"` + parked + `"}},{"op":"remove","path":"/spec/parentRefs"}]`},
		"other annotations": {`, "annotations": {"a": "b"}`, `{"parentRefs": [` + governed + `]}`,
			`[{"op":"add","path":` + path + `,"value":"` + parked + `"},{"op":"remove","path":"/spec/parentRefs"}]`},
		"parked before": {`, "annotations": {"routesteward.dev/parked-parent-refs": "old"}`, `{"parentRefs": [` + governed + `]}`,
			`[{"op":"add","path":` + path + `,"value":"` + parked + `"},{"op":"remove","path":"/spec/parentRefs"}]`},
		"mixed": {`, "annotations": {}`, `{"parentRefs": [` + governed + `, ` + other + `, {"name": "aibrix-eg", "namespace": "aibrix-system", "sectionName": "x"}]}`,
			`[{"op":"add","path":` + path + `,"value":"[{\"future\":[1],\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\"},{\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\",\"sectionName\":\"x\"}]"},` +
				`{"op":"remove","path":"/spec/parentRefs/2"},{"op":"remove","path":"/spec/parentRefs/0"}]`},
		"nothing to park": {"", `{"parentRefs": [` + other + `]}`, ""},
		"parked already":  {`, "annotations": {"routesteward.dev/parked-parent-refs": "[]"}`, `{}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAdmissions(t, rewrite)
			answer := (&mutator{a.validator}).Handle(t.Context(), request(outside(tt.metadata, tt.spec)))
			require.True(t, answer.Allowed, answer.Result)
			require.Equal(t, tt.want, string(answer.Patch))
			require.Equal(t, tt.want != "", answer.PatchType != nil)
		})
	}
}

func TestWithdrawnParentRefsArePatchedOut(t *testing.T) {
	a := newAdmissions(t, rewrite)
	const annotations = `, "annotations": {"routesteward.dev/parked-parent-refs": "[{\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\"}]",
		"kubectl.kubernetes.io/last-applied-configuration": "{\"spec\":{\"parentRefs\":[NONE]}}"}`
	req := request(outside(strings.Replace(annotations, "NONE", "", 1), `{}`))
	old := request(outside(strings.Replace(annotations, "NONE", `{\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\"}`, 1), `{}`))
	req.Operation, req.OldObject = admissionv1.Update, old.Object
	answer := (&mutator{a.validator}).Handle(t.Context(), req)
	require.True(t, answer.Allowed, answer.Result)
	require.JSONEq(t, `[{"op": "remove", "path": "/metadata/annotations/routesteward.dev~1parked-parent-refs"}]`, string(answer.Patch))
}

// A stored route whose copy would be refused is left alone; whether it would be is asked of the API server like everything else.
func TestStoredRouteIsParkedOnlyWhereItsCopyWouldBeAdmitted(t *testing.T) {
	const spec = `{"parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}], "rules": [{"backendRefs": [{"name": "llama", "namespace": "models", "port": 8000}]}]}`
	handle := func(may bool, err error) (admission.Response, *admissions) {
		a := newAdmissions(t, rewrite, ns("models", ""), ns("team-a", ""))
		a.access.namespaces, a.access.err = map[string]bool{"models": may}, err
		req := request(outside("", spec))
		req.Operation, req.OldObject = admissionv1.Update, req.Object
		return (&mutator{a.validator}).Handle(t.Context(), req), a
	}
	answer, a := handle(true, nil)
	require.NotEmpty(t, answer.Patch)
	require.Equal(t, []string{"alice in models"}, a.access.asked)
	answer, _ = handle(false, nil)
	require.True(t, answer.Allowed)
	require.Empty(t, answer.Patch)
	answer, _ = handle(false, errors.New("no answer"))
	require.False(t, answer.Allowed)
	require.EqualValues(t, http.StatusInternalServerError, answer.Result.Code)
}

func TestMutatorChangesNothingUnderAnotherPolicy(t *testing.T) {
	a := newAdmissions(t, nil)
	answer := (&mutator{a.validator}).Handle(t.Context(), request(outside("", `{"parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}]}`)))
	require.True(t, answer.Allowed)
	require.Empty(t, answer.Patch)
	require.Equal(t, errored(http.StatusBadRequest, "BadRequest", "not an admission request for routesteward: the body is not an AdmissionReview with a request"),
		(&mutator{a.validator}).Handle(t.Context(), admission.Request{}))
}

// What the patch makes of the raw object is what the engine evaluates.
func TestThePatchMakesWhatTheEngineMade(t *testing.T) {
	a := newAdmissions(t, rewrite)
	req := request(outside("", `{"parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}, {"name": "mine", "namespace": "team-a"}]}`))
	preq, err := policyRequest(req)
	require.NoError(t, err)
	mutation, err := a.validator.policy.Mutate(preq, a.caches.Facts(t.Context()))
	require.NoError(t, err)
	var content map[string]any
	require.NoError(t, json.Unmarshal(req.Object.Raw, &content))
	require.NoError(t, mutation.Apply(content))
	route, ok := policy.RouteOf(mutation.Request.Object)
	require.True(t, ok)
	require.Len(t, route.ParentRefs, 1)
	require.Len(t, content["spec"].(map[string]any)["parentRefs"], 1)
	require.Equal(t, mutation.Request.Object.(client.Object).GetAnnotations()[policy.ParkedAnnotation],
		content["metadata"].(map[string]any)["annotations"].(map[string]any)[policy.ParkedAnnotation])
}
