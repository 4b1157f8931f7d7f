package webhook

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
)

// served is a webhook server whose only handler tells who called, and waits where the path says so.
type served struct {
	*serving
	url     string
	waiting chan context.Context
	proceed chan struct{}
	manager context.CancelFunc
	ended   chan error
}

func serve(t *testing.T) *served {
	t.Helper()
	certificates := httptest.NewTLSServer(nil)
	certificates.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())

	s := &served{
		serving: newServing(t.Context()), url: "https://127.0.0.1:" + strconv.Itoa(port), waiting: make(chan context.Context, 1),
		proceed: make(chan struct{}), ended: make(chan error, 1),
	}
	inner := &server{serving: s.serving, Server: ctrlwebhook.NewServer(ctrlwebhook.Options{
		Host: "127.0.0.1", Port: port, TLSOpts: []func(*tls.Config){func(c *tls.Config) {
			c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificates.TLS.Certificates[0], nil }
		}},
	})}
	inner.Register("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) }))
	inner.Register("/wait", finishing(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.waiting <- r.Context()
		<-s.proceed
		_, _ = io.WriteString(w, "answered")
	})))
	var ctx context.Context
	ctx, s.manager = context.WithCancel(t.Context())
	go func() { s.ended <- inner.Start(ctx) }()
	t.Cleanup(s.end)
	require.Eventually(t, func() bool { return inner.StartedChecker()(nil) == nil }, 10*time.Second, 10*time.Millisecond)
	return s
}

// apiServer is a client like one: it speaks HTTP/2 and keeps its connection.
func apiServer() *http.Client {
	return &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
}

func get(c *http.Client, url string) (body string, err error) {
	response, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return string(content), err
}

func TestCallsOutliveTheManagerAndTheServer(t *testing.T) {
	s, c := serve(t), apiServer()
	answer := make(chan error, 1)
	go func() {
		body, err := get(c, s.url+"/wait")
		if err == nil && body != "answered" {
			err = io.ErrUnexpectedEOF
		}
		answer <- err
	}()
	call := <-s.waiting
	deadline, bounded := call.Deadline()
	require.True(t, bounded)
	require.LessOrEqual(t, time.Until(deadline), callTimeout*time.Second)

	s.manager()
	require.NoError(t, <-s.ended, "the manager believes that it has ended")
	_, err := get(apiServer(), s.url)
	require.NoError(t, err, "it still serves")

	drained := make(chan struct{})
	go func() { s.drain(); close(drained) }()
	require.Eventually(t, func() bool { _, err := get(apiServer(), s.url); return err != nil }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, call.Err(), "a call that is being answered goes on")
	select {
	case <-drained:
		require.Fail(t, "drained before the call was answered")
	default:
	}
	close(s.proceed)
	require.NoError(t, <-answer)
	<-drained
}

func TestALeavingReplicaGivesItsConnectionsBack(t *testing.T) {
	s, c := serve(t), apiServer()
	from := func() string {
		address, err := get(c, s.url)
		require.NoError(t, err)
		return address
	}
	first := from()
	require.Equal(t, first, from(), "connections are kept")
	s.leaving.Store(true)
	require.Equal(t, first, from(), "the last answer on this connection")
	require.Eventually(t, func() bool { return from() != first }, 10*time.Second, time.Millisecond, "the next call takes another one")
}
