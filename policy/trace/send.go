package trace

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync/atomic"
	"time"
)

// bodyLimit is how much of an answer is read, in bytes: its first words are enough.
const bodyLimit = 64 << 10

// Sender sends requests. The zero value verifies certificates by the system's authorities and never gives up.
type Sender struct {
	// Timeout is for each request, its answer's body included; 0: none.
	Timeout time.Duration
	// Insecure accepts any certificate; CAFile holds the authorities to trust instead of the system's.
	Insecure bool
	CAFile   string
}

// NewID is a random UUID (RFC 9562, version 4): the form that Envoy expects of x-request-id.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// UserAgent is the header by which all requests of one trace can be found in access logs: gateways may replace x-request-id.
func UserAgent(traceID string) string { return "routesteward-trace/" + traceID }

// Send sends a request count times, one after the other, each on a connection of its own. It ends early with ctx. An error
// is about the Sender; what becomes of a request is in its Response.
func (s Sender) Send(ctx context.Context, request Request, traceID string, count int) ([]Response, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
		// A kept connection would pin all requests to one replica of the gateway.
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: s.Insecure}, //nolint:gosec // asked for by a flag
	}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--cacert: %s holds no certificate", s.CAFile)
		}
	}
	client := &http.Client{
		Transport: transport, Timeout: s.Timeout,
		// A redirect is an answer.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	var responses []Response
	for range count {
		response, err := s.send(ctx, client, request, traceID)
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return responses, ctx.Err()
		}
		responses = append(responses, response)
	}
	return responses, nil
}

func (s Sender) send(ctx context.Context, client *http.Client, request Request, traceID string) (Response, error) {
	response := Response{ID: request.Header.Get(headerXRequestID)}
	if response.ID == "" {
		response.ID = NewID()
	}
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(info httptrace.WroteRequestInfo) { sent.Store(info.Err == nil) }})
	r, err := http.NewRequestWithContext(ctx, request.Method, request.URL.String(), bytes.NewReader(request.Body))
	if err != nil {
		return Response{}, err
	}
	r.Header, r.Host = request.Header.Clone(), request.Host
	r.Header.Set(headerXRequestID, response.ID)
	if r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", UserAgent(traceID))
	}
	started := time.Now()
	answer, err := client.Do(r)
	if err == nil {
		defer answer.Body.Close()
		response.Status, response.Header = answer.StatusCode, answer.Header
		if response.Body, err = io.ReadAll(io.LimitReader(answer.Body, bodyLimit)); err != nil {
			err = fmt.Errorf("the answer broke off: %w", err)
		}
	}
	response.Elapsed, response.Err, response.Sent = time.Since(started), err, sent.Load()
	return response, nil
}
