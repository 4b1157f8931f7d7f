package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/client-go/util/cert"
	ctrl "sigs.k8s.io/controller-runtime"
)

// ClientCA distinguishes the API server from everybody else who can connect: by a client certificate that an authority in a file
// has signed for client authentication and that carries one of the names. It is safe for concurrent use.
type ClientCA struct {
	file  string
	names []string
	log   logr.Logger

	mu      sync.Mutex
	content []byte
	roots   *x509.CertPool
}

// NewClientCA fails when the file cannot be read or holds no certificate. A name matches the certificate's common name or
// one of its DNS names, exactly; there must be one.
func NewClientCA(file string, names []string) (*ClientCA, error) {
	if len(names) == 0 {
		return nil, errors.New("no client certificate could be accepted without a name")
	}
	c := &ClientCA{file: file, names: names, log: ctrl.Log.WithName("certs")}
	return c, c.read()
}

// Require makes a server with that config refuse every other client, before it reads a request.
func (c *ClientCA) Require(config *tls.Config) {
	// Any, since RequireAndVerifyClientCert verifies against a pool that cannot be replaced.
	config.ClientAuth = tls.RequireAnyClientCert
	config.VerifyConnection = c.verify
	// A resumed session would carry on what was verified against authorities that may have gone.
	config.SessionTicketsDisabled = true
}

func (c *ClientCA) verify(state tls.ConnectionState) error {
	client := state.PeerCertificates[0]
	verify := x509.VerifyOptions{
		Roots:         c.current(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, intermediate := range state.PeerCertificates[1:] {
		verify.Intermediates.AddCert(intermediate)
	}
	if _, err := client.Verify(verify); err != nil {
		return fmt.Errorf("the client certificate of %q: %w", client.Subject, err)
	}
	if slices.Contains(c.names, client.Subject.CommonName) || slices.ContainsFunc(client.DNSNames, func(name string) bool { return slices.Contains(c.names, name) }) {
		return nil
	}
	return fmt.Errorf("the client certificate of %q carries none of the names %s", client.Subject, strings.Join(c.names, ", "))
}

// current reads the file again, at every handshake: API servers keep their connections, and so nobody has to watch it.
func (c *ClientCA) current() *x509.CertPool {
	if err := c.read(); err != nil {
		c.log.Error(err, "cannot read the authorities of client certificates, keeping those before", "file", c.file)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.roots
}

func (c *ClientCA) read() error {
	content, err := os.ReadFile(c.file)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.roots != nil && bytes.Equal(content, c.content) {
		return nil
	}
	authorities, err := cert.ParseCertsPEM(content)
	if err != nil {
		return fmt.Errorf("%s: %w", c.file, err)
	}
	roots := x509.NewCertPool()
	for _, authority := range authorities {
		roots.AddCert(authority)
	}
	c.content, c.roots = content, roots
	return nil
}
