package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/routewarden/routewarden/hack/localcluster"
)

// silent drops what servers tell of clients that were killed.
var silent = log.New(io.Discard, "", 0)

// back stands between one replica and the API server. It can hold back what watches tell, hold a request before it is made or
// after it was answered, and answer itself.
type back struct {
	*httptest.Server
	kubeconfig string

	mu sync.Mutex
	// open is closed while watches flow.
	open chan struct{}
	// asked is called with each request; a status that it returns is the answer. answered is called with each of the API server's.
	asked    func(*http.Request) *metav1.Status
	answered func(*http.Response)
}

func newBack(ctx context.Context, cluster *localcluster.Cluster, name string) (*back, error) {
	target, err := url.Parse(cluster.Config.Host)
	if err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(&rest.Config{Host: cluster.Config.Host, TLSClientConfig: rest.TLSClientConfig{CAData: cluster.Config.CAData}})
	if err != nil {
		return nil, err
	}
	b := &back{open: make(chan struct{})}
	close(b.open)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, proxy.FlushInterval, proxy.ErrorLog = transport, -1, silent
	// As if nothing stood between.
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.URL.Query().Get("watch") == "true" {
			r.Body = &heldBody{r.Body, b, r.Request.Context()}
		}
		if _, answered := b.hooks(); answered != nil {
			answered(r)
		}
		return nil
	}
	// client-go sends a token over TLS only.
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked, _ := b.hooks(); asked != nil {
			if status := asked(r); status != nil {
				if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
					w.Header().Set("Retry-After", "1")
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(int(status.Code))
				_ = json.NewEncoder(w).Encode(status)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	b.EnableHTTP2, b.Config.ErrorLog = true, silent
	b.StartTLS()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Certificate().Raw})
	account, err := cluster.ServiceAccountConfig(ctx, own, "routewarden")
	if err != nil {
		return nil, err
	}
	b.kubeconfig = filepath.Join(cluster.Dir, "proxied-"+name)
	return b, localcluster.WriteKubeconfig(b.kubeconfig, "routewarden", map[string]*rest.Config{
		"routewarden": {Host: b.URL, BearerToken: account.BearerToken, TLSClientConfig: rest.TLSClientConfig{CAData: authority}},
	})
}

func (b *back) hooks() (func(*http.Request) *metav1.Status, func(*http.Response)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked, b.answered
}

// hook sets both functions; nil is none.
func (b *back) hook(asked func(*http.Request) *metav1.Status, answered func(*http.Response)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked, b.answered = asked, answered
}

// hold makes the caches stale until release.
func (b *back) hold() {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.open:
		b.open = make(chan struct{})
	default:
	}
}

func (b *back) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.open:
	default:
		close(b.open)
	}
}

func (b *back) opened() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

type heldBody struct {
	io.ReadCloser
	back *back
	ctx  context.Context
}

func (h *heldBody) Read(into []byte) (int, error) {
	n, err := h.ReadCloser.Read(into)
	select {
	case <-h.back.opened():
	case <-h.ctx.Done():
	}
	return n, err
}

func body(content []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(content)) }
