// Package apiproxy lets tests do to routesteward what a bad day does: it stands between one process and the API server.
package apiproxy

import (
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

	"github.com/routesteward/routesteward/hack/localcluster"
)

// silent drops what servers log about clients that were killed.
var silent = log.New(io.Discard, "", 0)

// Proxy can hold back watch events, hold a request before it is made or after it was answered, and answer itself.
type Proxy struct {
	*httptest.Server
	// Kubeconfig is the path of one that leads through the proxy, as routesteward's service account.
	Kubeconfig string

	mu sync.Mutex
	// open is closed while watches flow.
	open     chan struct{}
	asked    func(*http.Request) *metav1.Status
	answered func(*http.Response)
}

// New starts a proxy, which Close ends. The name is that of its kubeconfig in the directory of the cluster.
func New(ctx context.Context, cluster *localcluster.Cluster, name string) (*Proxy, error) {
	target, err := url.Parse(cluster.Config.Host)
	if err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(&rest.Config{Host: cluster.Config.Host, TLSClientConfig: rest.TLSClientConfig{CAData: cluster.Config.CAData}})
	if err != nil {
		return nil, err
	}
	p := &Proxy{open: make(chan struct{})}
	close(p.open)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, proxy.FlushInterval, proxy.ErrorLog = transport, -1, silent
	// As if nothing stood between.
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.URL.Query().Get("watch") == "true" {
			r.Body = &heldBody{r.Body, p, r.Request.Context()}
		}
		if _, answered := p.hooks(); answered != nil {
			answered(r)
		}
		return nil
	}
	// client-go sends a token over TLS only.
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked, _ := p.hooks(); asked != nil {
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
	p.EnableHTTP2, p.Config.ErrorLog = true, silent
	p.StartTLS()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
	account, err := cluster.ServiceAccountConfig(ctx, "routesteward-system", "routesteward")
	if err != nil {
		return nil, err
	}
	p.Kubeconfig = filepath.Join(cluster.Dir, "proxied-"+name)
	return p, localcluster.WriteKubeconfig(p.Kubeconfig, "routesteward", map[string]*rest.Config{
		"routesteward": {Host: p.URL, BearerToken: account.BearerToken, TLSClientConfig: rest.TLSClientConfig{CAData: authority}},
	})
}

func (p *Proxy) hooks() (func(*http.Request) *metav1.Status, func(*http.Response)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked, p.answered
}

// Hook sets two functions: asked is called with each request, and a status that it returns is the answer; answered is called with
// each answer of the API server. Nil is none.
func (p *Proxy) Hook(asked func(*http.Request) *metav1.Status, answered func(*http.Response)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.answered = asked, answered
}

// Hold makes the caches stale until Release.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default:
	}
}

// Release lets watches flow again.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

func (p *Proxy) opened() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

type heldBody struct {
	io.ReadCloser
	proxy *Proxy
	ctx   context.Context
}

func (h *heldBody) Read(into []byte) (int, error) {
	n, err := h.ReadCloser.Read(into)
	select {
	case <-h.proxy.opened():
	case <-h.ctx.Done():
	}
	return n, err
}
