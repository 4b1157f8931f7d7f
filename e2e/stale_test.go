package e2e

import (
	"context"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"sync"

	"k8s.io/client-go/rest"

	"github.com/routewarden/routewarden/hack/localcluster"
)

// staleProxy stands between routewarden and the API server, and can hold back what watches tell: the caches fall behind,
// while everything else goes on.
type staleProxy struct {
	*httptest.Server
	mu   sync.Mutex
	open chan struct{}
}

// newStaleProxy lets the world's routewarden run through it.
func newStaleProxy(ctx context.Context, w *world) (*staleProxy, error) {
	target, err := url.Parse(w.Config.Host)
	if err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(&rest.Config{Host: w.Config.Host, TLSClientConfig: rest.TLSClientConfig{CAData: w.Config.CAData}})
	if err != nil {
		return nil, err
	}
	p := &staleProxy{open: make(chan struct{})}
	close(p.open)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, proxy.FlushInterval = transport, -1
	// A watch that ends with its client is no news.
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.URL.Query().Get("watch") == "true" {
			r.Body = &heldBody{r.Body, p, r.Request.Context()}
		}
		return nil
	}
	// client-go sends a token over TLS only.
	p.Server = httptest.NewUnstartedServer(proxy)
	p.EnableHTTP2 = true
	p.StartTLS()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
	account, err := w.ServiceAccountConfig(ctx, "routewarden-system", "routewarden")
	if err != nil {
		return nil, err
	}
	w.kubeconfig = filepath.Join(w.Dir, "proxied")
	return p, localcluster.WriteKubeconfig(w.kubeconfig, "routewarden", map[string]*rest.Config{
		"routewarden": {Host: p.URL, BearerToken: account.BearerToken, TLSClientConfig: rest.TLSClientConfig{CAData: authority}},
	})
}

// hold makes the caches stale until release.
func (p *staleProxy) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default:
	}
}

func (p *staleProxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

func (p *staleProxy) opened() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

type heldBody struct {
	io.ReadCloser
	proxy *staleProxy
	ctx   context.Context
}

func (b *heldBody) Read(into []byte) (int, error) {
	n, err := b.ReadCloser.Read(into)
	select {
	case <-b.proxy.opened():
	case <-b.ctx.Done():
	}
	return n, err
}
