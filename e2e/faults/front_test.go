package faults

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// front stands for the Service of routesteward: it leads each connection of the API server to one replica, byte by byte. When
// it is told to look inside, it ends TLS itself and can hold an answer that a replica has given.
type front struct {
	listener net.Listener
	pick     func() *replica
	accepted atomic.Int64
	serving  sync.WaitGroup

	mu    sync.Mutex
	open  map[net.Conn]bool
	inner *inner
}

// inner takes the connections of a front that looks inside.
type inner struct {
	net.Listener
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *inner) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *inner) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func newFront(t *testing.T, pick func() *replica) *front {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &front{listener: listener, pick: pick, open: map[net.Conn]bool{}}
	f.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			f.accepted.Add(1)
			f.mu.Lock()
			f.open[conn] = true
			inner := f.inner
			f.mu.Unlock()
			if inner != nil {
				select {
				case inner.conns <- conn:
				case <-inner.done:
					conn.Close()
				}
				continue
			}
			f.serving.Go(func() { f.forward(conn) })
		}
	})
	t.Cleanup(func() {
		assert.NoError(t, listener.Close())
		f.disconnect()
		f.serving.Wait()
	})
	return f
}

func (f *front) url() string { return "https://" + f.listener.Addr().String() }

func (f *front) forward(in net.Conn) {
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.open, in)
	}()
	defer in.Close()
	r := f.pick()
	if r == nil {
		return
	}
	out, err := net.DialTimeout("tcp", r.address(), time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	var downstream sync.WaitGroup
	downstream.Go(func() {
		_, _ = io.Copy(in, out)
		in.Close() // so that the other direction ends too
	})
	_, _ = io.Copy(out, in)
	out.Close()
	downstream.Wait()
}

// disconnect ends the API server's connections, so that the next call chooses a replica anew. Nobody may be calling.
func (f *front) disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.open {
		conn.Close()
	}
	clear(f.open)
}

// lookInside has answered called with each call whose answer the front has received completely; the API server gets the answer when
// it returns. The authority is routesteward's own, in PEM, so that the API server trusts the front. Nobody may be calling now
// and when restore is.
func (f *front) lookInside(authority, key []byte, answered func(*http.Request, *http.Response)) (restore func(), err error) {
	certificate, err := leaf(authority, key)
	if err != nil {
		return nil, err
	}
	upstream := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 10}
	proxy := &httputil.ReverseProxy{
		Transport: upstream,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "https"
			if replica := f.pick(); replica != nil {
				r.Out.URL.Host = replica.address()
			}
		},
		ModifyResponse: func(r *http.Response) error {
			answer, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			r.Body.Close()
			r.Body = body(answer)
			answered(r.Request, r)
			return nil
		},
		// As if nothing stood between.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	inside := &inner{Listener: f.listener, conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: proxy, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeTLS(inside, "", "") })
	f.mu.Lock()
	f.inner = inside
	f.mu.Unlock()
	f.disconnect()
	return func() {
		f.mu.Lock()
		f.inner = nil
		f.mu.Unlock()
		server.Close()
		serving.Wait()
		upstream.CloseIdleConnections()
		f.disconnect()
	}, nil
}

// leaf is a serving certificate for 127.0.0.1.
func leaf(authority, key []byte) (tls.Certificate, error) {
	signer, err := tls.X509KeyPair(authority, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	if len(signer.Certificate) != 1 {
		return tls.Certificate{}, errors.New("the authority is not one certificate")
	}
	parent, err := x509.ParseCertificate(signer.Certificate[0])
	if err != nil {
		return tls.Certificate{}, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "front"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), signer.PrivateKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, nil
}

func body(content []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(content)) }
