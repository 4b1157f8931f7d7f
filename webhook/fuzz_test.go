package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
	"github.com/routesteward/routesteward/webhook/cluster/clustertest"
	"github.com/routesteward/routesteward/webhook/metrics"
)

// fuzzed are the webhooks under a policy; requesters may create ReferenceGrants in the namespace models alone.
type fuzzed struct {
	validator *validator
	mux       http.Handler
}

func (fuzzed) Exists(context.Context, policy.GrantUse) bool { return false }

func (fuzzed) Ensure(context.Context, policy.GrantUse, string) error { return nil }

func (fuzzed) mayCreateGrants(_ context.Context, _ authenticationv1.UserInfo, namespace string) (bool, error) {
	return namespace == "models", nil
}

func newFuzzed(t testing.TB, change func(*policy.Config)) fuzzed {
	ctrl.SetLogger(logr.Discard())
	config := policy.DefaultConfig()
	config.GatewayClasses, config.ExemptUsers = []string{"aibrix-eg"}, []string{"root"}
	change(&config)
	pol, err := policy.New(config)
	require.NoError(t, err)
	m, err := metrics.New(prometheus.NewRegistry())
	require.NoError(t, err)
	caches := clustertest.NewCaches(t, clustertest.NewServer(t, "v1", ns("models", ""), ns("team-a", "allow"), ns("vault", "deny")), pol)
	f := fuzzed{validator: &validator{
		policy: pol, facts: caches, access: fuzzed{}, grants: fuzzed{}, metrics: m, log: slog.New(slog.DiscardHandler),
	}}
	server := ctrlwebhook.NewServer(ctrlwebhook.Options{})
	validate, mutate := f.validator.handlers()
	server.Register(validatePath, validate)
	server.Register(mutatePath, mutate)
	f.mux = server.WebhookMux()
	return f
}

// post returns what the webhook answers; every answer must be an AdmissionReview that says why it refuses.
func (f fuzzed) post(t *testing.T, path string, body []byte) *admissionv1.AdmissionResponse {
	t.Helper()
	request := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	recorder := httptest.NewRecorder()
	f.mux.ServeHTTP(recorder, request)
	require.Equal(t, http.StatusOK, recorder.Code)
	var review admissionv1.AdmissionReview
	require.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &review))
	require.Equal(t, reviewType, review.TypeMeta)
	answer := review.Response
	require.NotNil(t, answer)
	require.NotNil(t, answer.Result)
	require.Equal(t, answer.Allowed, answer.Result.Code == http.StatusOK)
	// A panic is recovered, and told.
	require.NotContains(t, answer.Result.Message, "[recovered]")
	if !answer.Allowed {
		require.NotEmpty(t, answer.Result.Message)
		require.Empty(t, answer.Warnings)
		require.Empty(t, answer.Patch)
	}
	for _, warning := range answer.Warnings {
		require.Less(t, len(warning), policy.MaxWarning)
	}
	return answer
}

// plainly decodes a body in the simplest way that there is.
func plainly(body []byte) (*admissionv1.AdmissionRequest, error) {
	var review admissionv1.AdmissionReview
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &review); err != nil {
		return nil, err
	}
	if review.TypeMeta != reviewType || review.Request == nil || review.Request.UID == "" {
		return nil, errNoRequest
	}
	return review.Request, nil
}

// plainObject is nil where there is none of a kind that is evaluated, or no object.
func plainObject(kind policy.Kind, raw []byte) (runtime.Object, error) {
	object := map[policy.Kind]runtime.Object{
		policy.HTTPRoute: &gwv1.HTTPRoute{}, policy.GRPCRoute: &gwv1.GRPCRoute{},
		policy.Gateway: &gwv1.Gateway{}, policy.ReferenceGrant: &gwv1.ReferenceGrant{},
	}[kind]
	if object == nil || len(raw) == 0 {
		return nil, nil
	}
	return object, kjson.UnmarshalCaseSensitivePreserveInts(raw, object)
}

// FuzzAdmissionHTTP sends anything to the webhooks: what cannot be decoded is never allowed, and what can gets the
// decision of the engine on what a plain decoder reads.
func FuzzAdmissionHTTP(f *testing.F) {
	for _, body := range []string{
		"", "null", "[]", "{}", `{"request": {}}`, review(routeInside), review(`{"spec": {}}`), review("null"), review(routeInside)[:150],
		strings.Replace(review(routeInside), `"CREATE"`, `"UPDATE"`, 1), strings.Replace(review(routeInside), `"CREATE"`, `"DELETE"`, 1),
		strings.ReplaceAll(review(routeInside), "HTTPRoute", "GRPCRoute"), strings.ReplaceAll(review(routeInside), "HTTPRoute", "ReferenceGrant"),
		strings.ReplaceAll(review(routeInside), "v1", "v1beta1"), strings.Replace(review(routeInside), "models", "\xff", 1),
		strings.Replace(review(routeInside), `"spec"`, `"Spec"`, 1), strings.Replace(review(routeInside), `"namespace": "models"`, `"namespace": "models", "namespace": null`, 1),
		strings.Replace(review(routeInside), `"spec"`, `"status": 7, "spec"`, 1), strings.Replace(review(routeInside), `"operation"`, `"dryRun": true, "subResource": "", "operation"`, 1),
		review(`{"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"rules": [{"filters": [{"requestMirror": {"backendRef": {"name": "a", "namespace": "b"}}}]}]}}`),
		review(`{"spec": {"rules": [{"backendRefs": [{"name": "a", "namespace": "vault", "filters": [{"externalAuth": {"backendRef": {"name": "b", "namespace": "models"}}}, {"extensionRef": {"name": "x"}}]}]}]}}`),
	} {
		f.Add([]byte(body))
	}
	// The golden cases, as an API server would ask about them.
	cases, err := policytest.Load(filepath.Join("..", "policy", "testdata", "cases"))
	require.NoError(f, err)
	for _, c := range cases {
		request := &admissionv1.AdmissionRequest{
			UID: "0e6f5d2a", Operation: admissionv1.Operation(c.Request.Operation), Namespace: c.Request.Namespace, Name: c.Object.GetName(),
			UserInfo: authenticationv1.UserInfo{Username: c.Request.User.Name, Groups: c.Request.User.Groups},
		}
		request.Kind.Group, request.Kind.Version, request.Kind.Kind = gwv1.GroupName, "v1", string(c.Request.Kind)
		request.Object.Raw, err = json.Marshal(c.Object)
		require.NoError(f, err)
		if c.Request.OldObject != nil {
			request.OldObject.Raw, err = json.Marshal(c.Request.OldObject)
			require.NoError(f, err)
		}
		body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: reviewType, Request: request})
		require.NoError(f, err)
		f.Add(body)
	}
	policies := []fuzzed{newFuzzed(f, func(*policy.Config) {}), newFuzzed(f, rewrite)}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, under := range policies {
			validated, mutated := under.post(t, validatePath, body), under.post(t, mutatePath, body)
			req, err := plainly(body)
			if err == nil {
				require.Equal(t, req.UID, validated.UID)
				require.Equal(t, req.UID, mutated.UID)
			}
			var object, old runtime.Object
			if err == nil && req.Kind.Group == gwv1.GroupName && req.SubResource == "" && req.Operation != admissionv1.Delete {
				if object, err = plainObject(policy.Kind(req.Kind.Kind), req.Object.Raw); err == nil && req.Operation == admissionv1.Update {
					old, err = plainObject(policy.Kind(req.Kind.Kind), req.OldObject.Raw)
				}
			}
			if err != nil {
				require.False(t, validated.Allowed, "undecodable, and allowed")
				require.False(t, mutated.Allowed && mutated.Patch != nil, "undecodable, and changed")
				continue
			}
			evaluated := req.SubResource == "" && (req.Operation == admissionv1.Delete ||
				object != nil && (req.Operation == admissionv1.Create || req.Operation == admissionv1.Update && old != nil))
			if !evaluated {
				require.EqualValues(t, http.StatusBadRequest, validated.Result.Code)
				require.EqualValues(t, http.StatusBadRequest, mutated.Result.Code)
				continue
			}
			under.requireDecision(t, req, object, old, validated)
			under.requireMutation(t, req, object, old, mutated)
		}
	})
}

func (f fuzzed) request(req *admissionv1.AdmissionRequest, object, old runtime.Object) policy.Request {
	return policy.Request{
		Operation: policy.Operation(req.Operation), Kind: policy.Kind(req.Kind.Kind), Namespace: req.Namespace,
		User: policy.User{Name: req.UserInfo.Username, Groups: req.UserInfo.Groups}, Object: object, OldObject: old,
	}
}

func (f fuzzed) requireDecision(t *testing.T, req *admissionv1.AdmissionRequest, object, old runtime.Object, got *admissionv1.AdmissionResponse) {
	t.Helper()
	asked := admission.Request{AdmissionRequest: *req}
	preq := f.request(req, object, old)
	decision, _, err := f.validator.decide(t.Context(), asked, preq)
	want := decided(asked, preq, decision, req.DryRun != nil && *req.DryRun)
	if err != nil {
		want = failed(asked, err)
	}
	want.UID = req.UID
	// As JSON, which replaces what is not UTF-8.
	text, err := json.Marshal(want.AdmissionResponse)
	require.NoError(t, err)
	told, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, string(text), string(told))
}

func (f fuzzed) requireMutation(t *testing.T, req *admissionv1.AdmissionRequest, object, old runtime.Object, got *admissionv1.AdmissionResponse) {
	t.Helper()
	var mutation policy.Mutation
	_, err := f.validator.ask(t.Context(), admission.Request{AdmissionRequest: *req}, func(facts policy.Facts) ([]policy.MissingFact, error) {
		var err error
		mutation, err = f.validator.policy.Mutate(f.request(req, object, old), facts)
		return mutation.Missing, err
	})
	if err != nil {
		require.EqualValues(t, http.StatusInternalServerError, got.Result.Code)
		return
	}
	if mutation.Nothing() {
		require.True(t, got.Allowed)
		require.Empty(t, got.Patch)
		return
	}
	var want, patched map[string]any
	require.NoError(t, kjson.UnmarshalCaseSensitivePreserveInts(req.Object.Raw, &want))
	require.NoError(t, kjson.UnmarshalCaseSensitivePreserveInts(req.Object.Raw, &patched))
	if mutation.Apply(want) != nil {
		require.False(t, got.Allowed)
		return
	}
	require.True(t, got.Allowed, got.Result)
	if _, ok := patched["metadata"].(map[string]any); !ok {
		return // no API server stores that
	}
	patch(t, patched, got.Patch)
	require.Equal(t, want, patched)
}

// patch applies a JSON patch of additions to objects and of removals.
func patch(t *testing.T, content map[string]any, text []byte) {
	t.Helper()
	var operations []operation
	require.NoError(t, json.Unmarshal(text, &operations))
	for _, o := range operations {
		var parent any
		var set func(any)
		at := any(content)
		keys := strings.Split(strings.TrimPrefix(o.Path, "/"), "/")
		for _, key := range keys[:len(keys)-1] {
			parent = at
			holder := parent.(map[string]any)
			at, set = holder[key], func(value any) { holder[key] = value }
		}
		last := strings.ReplaceAll(keys[len(keys)-1], "~1", "/")
		switch holder := at.(type) {
		case map[string]any:
			if o.Op == "add" {
				holder[last] = o.Value
				continue
			}
			require.Contains(t, holder, last)
			delete(holder, last)
		case []any:
			require.Equal(t, "remove", o.Op)
			i, err := strconv.Atoi(last)
			require.NoError(t, err)
			set(append(append([]any{}, holder[:i]...), holder[i+1:]...))
		default:
			require.Fail(t, "no such place", o.Path)
		}
	}
}
