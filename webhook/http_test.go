package webhook

import (
	"cmp"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
	"github.com/routesteward/routesteward/webhook/cluster/clustertest"
	"github.com/routesteward/routesteward/webhook/metrics"
)

// newMux serves the webhooks as Run does.
func newMux(t testing.TB) http.Handler {
	ctrl.SetLogger(logr.Discard())
	pol, err := policy.New(policy.DefaultConfig())
	require.NoError(t, err)
	m, err := metrics.New(prometheus.NewRegistry())
	require.NoError(t, err)
	server := ctrlwebhook.NewServer(ctrlwebhook.Options{})
	v := &validator{
		policy: pol, facts: clustertest.NewCaches(t, clustertest.NewServer(t, "v1", ns("models", "")), pol),
		access: &writers{}, grants: &made{}, metrics: m, log: slog.New(slog.DiscardHandler),
	}
	validate, mutate := v.handlers()
	server.Register(validatePath, validate)
	server.Register(mutatePath, mutate)
	return server.WebhookMux()
}

// review asks about the creation of a route in the system namespace.
func review(object string) string {
	return `{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "0e6f5d2a", "operation": "CREATE",
		"namespace": "aibrix-system", "name": "r", "kind": {"group": "gateway.networking.k8s.io", "version": "v1", "kind": "HTTPRoute"},
		"userInfo": {"username": "alice"}, "object": ` + object + `}}`
}

func TestBadInputOverHTTP(t *testing.T) {
	wide, err := json.Marshal(policytest.Wide(16, 16, 16, "models"))
	require.NoError(t, err)
	huge := strings.Replace(routeInside, "llama-router", strings.Repeat("x", 8<<20), 1)
	const malformed = "not an admission request for routesteward: "
	const uid = "\n(routesteward request 0e6f5d2a)"

	for name, tt := range map[string]struct {
		contentType, body string
		// code and message of the answer; the message may be its beginning.
		code    int32
		message string
		begins  bool
		// closes: the server closes the connection rather than read all of it.
		closes bool
		// mutate is the code of the mutating webhook's answer, where it differs.
		mutate int32
	}{
		"empty body":             {code: 400, message: malformed + "request body is empty"},
		"wrong content type":     {contentType: "text/plain", body: review(routeInside), code: 400, message: malformed + "contentType=text/plain, expected application/json"},
		"not JSON":               {body: "not JSON", code: 400, message: malformed + "the body is not an AdmissionReview: ", begins: true},
		"truncated review":       {body: review(routeInside)[:200], code: 400, message: malformed + "the body is not an AdmissionReview: unexpected end of JSON input"},
		"no AdmissionReview":     {body: `{"apiVersion": "v1", "kind": "Pod"}`, code: 400, message: malformed + "the body is not an AdmissionReview with a request"},
		"neither kind nor more":  {body: `{}`, code: 400, message: malformed + "the body is not an AdmissionReview with a request"},
		"null":                   {body: `null`, code: 400, message: malformed + "the body is not an AdmissionReview with a request"},
		"list":                   {body: `[]`, code: 400, message: malformed + "the body is not an AdmissionReview: ", begins: true},
		"other version":          {body: strings.Replace(review(routeInside), "admission.k8s.io/v1", "admission.k8s.io/v1beta1", 1), code: 400, message: malformed + "the body is not an AdmissionReview with a request"},
		"missing request":        {body: `{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}`, code: 400, message: malformed + "the body is not an AdmissionReview with a request"},
		"request is null":        {body: `{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": null}`, code: 400, message: malformed + "the body is not an AdmissionReview with a request"},
		"request of wrong type":  {body: `{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": "r"}`, code: 400, message: malformed + "the body is not an AdmissionReview: json: cannot unmarshal string", begins: true},
		"unknown kind":           {body: strings.Replace(review(routeInside), `"kind": "HTTPRoute"}`, `"kind": "TCPRoute"}`, 1), code: 400, message: malformed + `kind "TCPRoute" of group "gateway.networking.k8s.io" is not evaluated` + uid},
		"no object":              {body: review(`null`), code: 400, message: malformed + "request.object is missing" + uid},
		"object is not a route":  {body: review(`{"spec": []}`), code: 400, message: malformed + "request.object is not a HTTPRoute: json: cannot unmarshal array into Go struct field HTTPRoute.spec of type v1.HTTPRouteSpec" + uid},
		"port is a word":         {body: review(`{"spec": {"rules": [{"backendRefs": [{"port": "http"}]}]}}`), code: 400, message: malformed + "request.object is not a HTTPRoute: json: cannot unmarshal string", begins: true},
		"a truncated end":        {body: strings.TrimSuffix(review(routeInside), "}"), code: 400, message: malformed + "the body is not an AdmissionReview: unexpected end of JSON input"},
		"object is a string":     {body: review(`"{\"spec\":"`), code: 400, message: malformed + "request.object is not a HTTPRoute: json: cannot unmarshal string into Go value of type v1.HTTPRoute" + uid},
		"8 MB":                   {body: review(huge), code: 413, message: malformed + "request entity is too large; limit is 7340032 bytes", closes: true},
		"16 x 16 backends":       {body: review(string(wide)), code: 403, message: `HTTPRoute "wide" in namespace "aibrix-system" has `, begins: true, mutate: 200},
		"invalid UTF-8":          {body: review(strings.Replace(routeInside, "models", "mod\xff\xfeels", 1)), code: 403, message: "HTTPRoute \"llama-router\" in namespace \"aibrix-system\" has 1 problem:\n- spec.rules[0].backendRefs[0]: Service mod\uFFFD\uFFFDels/llama: ", begins: true, mutate: 200},
		"nested beyond reason":   {body: review(strings.Repeat("[", 100_000)), code: 400, message: malformed + "the body is not an AdmissionReview: ", begins: true},
		"fields in another case": {body: strings.Replace(review(routeInside), `"request"`, `"Request"`, 1), code: 400, message: malformed + "the body is not an AdmissionReview with a request"},
	} {
		for path, code := range map[string]int32{validatePath: tt.code, mutatePath: cmp.Or(tt.mutate, tt.code)} {
			t.Run(name+path, func(t *testing.T) {
				server := httptest.NewTLSServer(newMux(t))
				defer server.Close()
				answer, _ := post(t, server, path, tt.contentType, tt.body)
				require.Equal(t, code == 200, answer.Allowed)
				require.Equal(t, code, answer.Result.Code, answer.Result.Message)
				if code != 200 {
					message := answer.Result.Message
					if tt.begins {
						message = message[:min(len(tt.message), len(message))]
					}
					require.Equal(t, tt.message, message)
				}

				answer, reused := post(t, server, validatePath, "", review(`{"spec": {}}`))
				require.True(t, answer.Allowed)
				require.Equal(t, !tt.closes, reused)
			})
		}
	}
}

// post sends a body and reads the AdmissionReview that answers; it also tells whether the connection had served before.
func post(t *testing.T, server *httptest.Server, path, contentType, body string) (*admissionv1.AdmissionResponse, bool) {
	t.Helper()
	if contentType == "" {
		contentType = "application/json"
	}
	reused := false
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", contentType)
	response, err := server.Client().Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, string(content))
	var answer admissionv1.AdmissionReview
	require.NoError(t, json.Unmarshal(content, &answer))
	require.NotNil(t, answer.Response)
	require.NotNil(t, answer.Response.Result)
	return answer.Response, reused
}
