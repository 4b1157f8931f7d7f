package certs

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// proxy forwards each connection to the next replica that is ready, as a Service does.
type proxy struct {
	listener net.Listener
	accepted atomic.Int64

	mu       sync.Mutex
	replicas []*replica
	next     int
	// open are the API server's connections; each channel is closed when the connection is.
	open map[*net.TCPConn]chan struct{}
}

func startProxy(t *testing.T) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: listener, open: map[*net.TCPConn]chan struct{}{}}
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			p.accepted.Add(1)
			closed := make(chan struct{})
			p.mu.Lock()
			p.open[in.(*net.TCPConn)] = closed
			p.mu.Unlock()
			connections.Go(func() {
				defer close(closed)
				p.forward(in.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		assert.NoError(t, listener.Close())
		p.recycle()
		connections.Wait()
	})
	return p
}

func (p *proxy) add(r *replica) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replicas = append(p.replicas, r)
}

func (p *proxy) pick() *replica {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range p.replicas {
		p.next++
		if r := p.replicas[p.next%len(p.replicas)]; ready(r) {
			return r
		}
	}
	return nil
}

func (p *proxy) forward(in *net.TCPConn) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, in)
	}()
	defer in.Close()
	r := p.pick()
	if r == nil {
		return
	}
	out, err := net.Dial("tcp", strings.TrimPrefix(r.WebhookURL, "https://"))
	if err != nil {
		return
	}
	var downstream sync.WaitGroup
	downstream.Go(func() {
		_, _ = io.Copy(in, out)
		_ = in.CloseWrite()
	})
	_, _ = io.Copy(out, in)
	_ = out.Close()
	downstream.Wait()
}

// recycle has the API server close its connections, so that the next calls begin with a handshake. It must not be called
// while a call is under way: nothing is lost then, as the API server is waited for.
func (p *proxy) recycle() {
	p.mu.Lock()
	open := make(map[*net.TCPConn]chan struct{}, len(p.open))
	for conn, closed := range p.open {
		open[conn] = closed
	}
	p.mu.Unlock()
	for conn := range open {
		_ = conn.CloseWrite()
	}
	for _, closed := range open {
		<-closed
	}
}
