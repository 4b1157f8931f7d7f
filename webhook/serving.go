package webhook

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
)

// serving is what evaluates. It outlives the manager, which ends at once when this replica loses the lease: at that moment the
// API server still calls here.
type serving struct {
	// leaving makes every response the last one on its connection.
	leaving atomic.Bool
	// calls ends when the server shall drain, facts when the caches shall end.
	calls, facts         context.Context
	stopCalls, stopFacts context.CancelFunc
	server, caches       sync.WaitGroup
}

func newServing(ctx context.Context) *serving {
	s := &serving{}
	ctx = context.WithoutCancel(ctx)
	s.calls, s.stopCalls = context.WithCancel(ctx)
	s.facts, s.stopFacts = context.WithCancel(ctx)
	return s
}

// drain returns when the last call is answered. No more are taken.
func (s *serving) drain() {
	s.stopCalls()
	s.server.Wait()
}

// end drains and ends the caches.
func (s *serving) end() {
	s.drain()
	s.stopFacts()
	s.caches.Wait()
}

// handler closes connections on a leaving replica, by HTTP/2's GOAWAY, after which the API server calls through a new one.
// It keeps one connection for long, whatever has become of the Service's endpoints since, and to end it only when the server
// drains would lose a call that is just being sent.
func (s *serving) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.leaving.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// finishing lets calls finish that are being answered when the server drains: the server ends their contexts then. The API
// server gives up at the same time.
func finishing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), callTimeout*time.Second)
		defer cancel()
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// server is a webhook server that serves until serving drains.
type server struct {
	ctrlwebhook.Server
	serving *serving
}

// Register implements webhook.Server.
func (s *server) Register(path string, hook http.Handler) {
	s.Server.Register(path, s.serving.handler(hook))
}

// Start implements manager.Runnable.
func (s *server) Start(ctx context.Context) error {
	return outlive(ctx, s.serving.calls, &s.serving.server, s.Server.Start)
}

// newCache is cache.New, for caches that follow the API server until serving ends.
func (s *serving) newCache(config *rest.Config, o cache.Options) (cache.Cache, error) {
	c, err := cache.New(config, o)
	return &lastingCache{c, s}, err
}

type lastingCache struct {
	cache.Cache
	serving *serving
}

// Start implements manager.Runnable.
func (c *lastingCache) Start(ctx context.Context) error {
	return outlive(ctx, c.serving.facts, &c.serving.caches, c.Cache.Start)
}

// outlive runs start until life ends, and returns when ctx ends already, or with start's error.
func outlive(ctx, life context.Context, running *sync.WaitGroup, start func(context.Context) error) error {
	ended := make(chan error, 1)
	running.Go(func() { ended <- start(life) })
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}
