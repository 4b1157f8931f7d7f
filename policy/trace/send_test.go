package trace_test

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy/trace"
)

// aibrix answers as AIBrix's gateway plugin and a model's Pod together do. It stands in for them: the headers are the
// documented ones, the rest of a gateway is not here.
func aibrix(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return server
}

func requestTo(t *testing.T, asked trace.Asked) trace.Request {
	t.Helper()
	r, err := trace.NewRequest(asked)
	require.NoError(t, err)
	return r
}

func TestSend(t *testing.T) {
	type got struct {
		method, path, host, body string
		header                   http.Header
	}
	var requests []got
	server := aibrix(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests = append(requests, got{r.Method, r.URL.Path, r.Host, string(body), r.Header})
		w.Header().Set("X-Went-Into-Req-Headers", "true")
		w.Header().Set("Request-Id", "from-the-plugin")
		w.Header().Set("Target-Pod", []string{"llama-0", "llama-1"}[len(requests)%2])
		_, _ = io.WriteString(w, strings.Repeat("x", 100<<10))
	})
	request := requestTo(t, trace.Asked{URL: server.URL, Model: "llama", Headers: []string{"Host: models.example", "Authorization: Bearer secret"}, RoutingStrategy: "random"})
	responses, err := trace.Sender{Timeout: time.Minute}.Send(t.Context(), request, "trace-1", 3)
	require.NoError(t, err)
	require.Len(t, responses, 3)
	ids := map[string]bool{}
	for i, response := range responses {
		require.NoError(t, response.Err)
		require.True(t, response.Sent)
		require.Equal(t, 200, response.Status)
		require.Len(t, response.Body, 64<<10, "no more than the beginning is read")
		require.Equal(t, response.ID, requests[i].header.Get("X-Request-Id"))
		ids[response.ID] = true
		require.Equal(t, got{"POST", "/v1/chat/completions", "models.example", string(request.Body), requests[i].header}, requests[i])
		require.Equal(t, "routesteward-trace/trace-1", requests[i].header.Get("User-Agent"))
		require.Equal(t, "random", requests[i].header.Get("Routing-Strategy"))
		require.Equal(t, "Bearer secret", requests[i].header.Get("Authorization"))
	}
	require.Len(t, ids, 3, "each request has an id of its own")

	report := trace.Explain(request, "trace-1", responses, factsOf(t))
	require.Equal(t, trace.Bypassed, report.Verdict.Outcome)
	require.Equal(t, []trace.PodCount{{Pod: "models/llama-1", Count: 2}, {Pod: "models/llama-0", Count: 1}}, report.Pods)
	require.Equal(t, "from-the-plugin", report.Answers[0].IDs.Plugin)
}

func TestTheUsersHeadersCount(t *testing.T) {
	var header http.Header
	server := aibrix(t, func(_ http.ResponseWriter, r *http.Request) { header = r.Header })
	responses, err := trace.Sender{}.Send(t.Context(), requestTo(t, trace.Asked{URL: server.URL, Headers: []string{"User-Agent: me", "X-Request-Id: mine"}}), "t", 1)
	require.NoError(t, err)
	require.Equal(t, "mine", responses[0].ID)
	require.Equal(t, []string{"me"}, header["User-Agent"])
	require.Equal(t, []string{"mine"}, header["X-Request-Id"])
}

func TestRedirectsAreAnswers(t *testing.T) {
	server := aibrix(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	responses, err := trace.Sender{}.Send(t.Context(), requestTo(t, trace.Asked{URL: server.URL}), "t", 1)
	require.NoError(t, err)
	require.Equal(t, http.StatusFound, responses[0].Status)
}

func TestNoAnswer(t *testing.T) {
	explain := func(request trace.Request, sender trace.Sender) trace.Report {
		responses, err := sender.Send(t.Context(), request, "t", 1)
		require.NoError(t, err)
		return trace.Explain(request, "t", responses, nil)
	}
	t.Run("nobody listens", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		address := listener.Addr().String()
		require.NoError(t, listener.Close())
		report := explain(requestTo(t, trace.Asked{URL: address}), trace.Sender{})
		require.Equal(t, trace.Unreached, report.Verdict.Outcome)
		require.Contains(t, report.Verdict.Words, "connection refused")
	})
	t.Run("too late", func(t *testing.T) {
		release := make(chan struct{})
		server := aibrix(t, func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		})
		defer close(release)
		report := explain(requestTo(t, trace.Asked{URL: server.URL}), trace.Sender{Timeout: 200 * time.Millisecond})
		require.Equal(t, trace.Stopped, report.Verdict.Outcome)
		require.Equal(t, "the request was taken, and no whole answer came: timeout", report.Verdict.Words)
	})
	t.Run("cut off", func(t *testing.T) {
		server := aibrix(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})
		report := explain(requestTo(t, trace.Asked{URL: server.URL}), trace.Sender{})
		require.Equal(t, trace.Stopped, report.Verdict.Outcome)
		require.Equal(t, "the request was taken, and no whole answer came: the answer broke off: unexpected EOF", report.Verdict.Words)
	})
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		server := aibrix(t, func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		})
		_, err := trace.Sender{}.Send(ctx, requestTo(t, trace.Asked{URL: server.URL}), "t", 2)
		require.ErrorIs(t, err, context.Canceled)
	})
}

func TestCertificates(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that fail
	server.StartTLS()
	t.Cleanup(server.Close)
	request := requestTo(t, trace.Asked{URL: server.URL})
	send := func(sender trace.Sender) trace.Response {
		responses, err := sender.Send(t.Context(), request, "t", 1)
		require.NoError(t, err)
		return responses[0]
	}
	require.ErrorContains(t, send(trace.Sender{}).Err, "certificate")
	require.False(t, send(trace.Sender{}).Sent)
	require.NoError(t, send(trace.Sender{Insecure: true}).Err)

	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	require.NoError(t, send(trace.Sender{CAFile: file}).Err)

	_, err := trace.Sender{CAFile: file + "x"}.Send(t.Context(), request, "t", 1)
	require.ErrorContains(t, err, "--cacert: open ")
	require.NoError(t, os.WriteFile(file, []byte("nothing"), 0o600))
	_, err = trace.Sender{CAFile: file}.Send(t.Context(), request, "t", 1)
	require.EqualError(t, err, "--cacert: "+file+" holds no certificate")
}

func TestNewID(t *testing.T) {
	id := trace.NewID()
	require.Regexp(t, regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`), id)
	require.NotEqual(t, id, trace.NewID())
}

func TestAPasswordInTheURLIsNotTold(t *testing.T) {
	parsed, err := url.Parse("http://me:secret@gateway.example/")
	require.NoError(t, err)
	request := requestTo(t, trace.Asked{URL: parsed.String()})
	report := trace.Explain(request, "t", []trace.Response{answered(200, "")}, nil)
	require.NotContains(t, report.Request.URL, "secret")
}

func TestAnswersOfOneCauseAreOne(t *testing.T) {
	request := requestTo(t, trace.Asked{URL: "gateway.example"})
	var responses []trace.Response
	for _, body := range []string{
		"dial 10.0.0.1:8000: refused (request 3c0c3d5e-6f43-4a50-8d39-2a0c3f3d3a77)", "dial 10.0.0.27:8000: refused (request 5b0f3c1e-8f0e-4f0b-9a52-7f4b3b5d7d11)", "no healthy upstream",
	} {
		responses = append(responses, answered(503, body))
	}
	report := trace.Explain(request, "t", responses, nil)
	require.Len(t, report.Answers, 2)
	require.Equal(t, 2, report.Answers[0].Count)

	responses = nil
	for i := range 12 {
		responses = append(responses, answered(200+i, ""))
	}
	var text strings.Builder
	require.NoError(t, trace.Explain(request, "t", responses, nil).WriteText(&text, false))
	require.Contains(t, text.String(), "\n  and 2 other answers: -o json has all\n")
}
