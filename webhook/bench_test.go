package webhook_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
	"github.com/routesteward/routesteward/webhook"
	"github.com/routesteward/routesteward/webhook/webhooktest"
)

// contenders serves a webhook that allows everything beside routesteward, which logs as it does by default.
func contenders(t testing.TB) http.Handler {
	log := webhook.Options{LogFormat: webhook.LogJSON, LogLevel: webhook.LogInfo}.Logger(io.Discard)
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	server := ctrlwebhook.NewServer(ctrlwebhook.Options{})
	server.Register("/noop", webhooktest.Noop())
	webhooks, err := webhooktest.New(t.Context(), policy.DefaultConfig(), log, 100)
	require.NoError(t, err)
	webhooks.Register(server)
	return server.WebhookMux()
}

// answers keeps nothing but the last answer.
type answers struct {
	header http.Header
	last   bytes.Buffer
}

func (a *answers) Header() http.Header { return a.header }
func (a *answers) WriteHeader(int)     {}
func (a *answers) Write(p []byte) (int, error) {
	a.last.Reset()
	return a.last.Write(p)
}

// TestHandlerAllocations bounds what is allocated between the body of an AdmissionReview and its answer.
func TestHandlerAllocations(t *testing.T) {
	mux := contenders(t)
	for _, q := range webhooktest.Questions() {
		for path, most := range map[string]map[string]float64{
			"/validate": {
				"create, own namespace":              185,
				"create, granted before":             200,
				"update, granted before":             280,
				"create, 16 backends granted before": 350,
				"create, no consent: refused":        235,
				"create, outside: refused":           215,
			},
			"/mutate": {
				"create, own namespace":              161,
				"create, granted before":             163,
				"update, granted before":             236,
				"create, 16 backends granted before": 197,
				"create, no consent: refused":        163,
				"create, outside: refused":           161,
			},
		} {
			t.Run(q.Name+path, func(t *testing.T) {
				policytest.AllocatesAtMost(t, most[q.Name], repeat(mux, path, q.Review))
			})
		}
	}
}

// repeat asks the same again and again, and allocates nothing for that.
func repeat(mux http.Handler, path string, review []byte) func() {
	w, body := &answers{header: http.Header{}}, bytes.NewReader(review)
	r := httptest.NewRequest(http.MethodPost, path, body)
	r.Header.Set("Content-Type", "application/json")
	return func() {
		body.Reset(review)
		mux.ServeHTTP(w, r)
	}
}

// TestBenchmarkedAnswers proves that the benchmarks measure what they say.
func TestBenchmarkedAnswers(t *testing.T) {
	mux := contenders(t)
	for _, q := range webhooktest.Questions() {
		for path, allowed := range map[string]bool{"/noop": true, "/validate": q.Allowed, "/mutate": true} {
			a := &answers{header: http.Header{}}
			ask(mux, path, q.Review, a)
			var answer admissionv1.AdmissionReview
			require.NoError(t, json.Unmarshal(a.last.Bytes(), &answer))
			require.Equal(t, allowed, answer.Response.Allowed, "%s %s: %s", path, q.Name, a.last.String())
			require.NotEqual(t, http.StatusBadRequest, answer.Response.Result.Code, "%s %s: %s", path, q.Name, a.last.String())
		}
	}
}

func ask(mux http.Handler, path string, review []byte, w http.ResponseWriter) {
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(review))
	r.Header.Set("Content-Type", "application/json")
	mux.ServeHTTP(w, r)
}

// BenchmarkHandler is what an admission costs between its body and its answer, without connections.
func BenchmarkHandler(b *testing.B) {
	mux := contenders(b)
	for _, q := range webhooktest.Questions() {
		for _, path := range []string{"/noop", "/validate", "/mutate"} {
			b.Run(q.Name+path, func(b *testing.B) {
				ask := repeat(mux, path, q.Review)
				b.ReportAllocs()
				for b.Loop() {
					ask()
				}
			})
		}
	}
}
