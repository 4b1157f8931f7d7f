// Package certs serves the webhook's TLS certificate, and changes certificates and authorities in an order in which
// the API server trusts, at every moment, what is served.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	servertls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
)

// Mode says where the serving certificate comes from.
type Mode string

const (
	// Embedded signs certificates in memory with an authority that all replicas share in a Secret.
	Embedded Mode = "embedded"
	// Files reads tls.crt, tls.key and, where present, ca.crt from a directory, and reads them again when they change.
	Files Mode = "files"
	// CertManager reads tls.crt and tls.key likewise, from a Secret that cert-manager keeps. The caBundle is written by
	// cert-manager's cainjector.
	CertManager Mode = "cert-manager"
)

// Options configure a Source.
type Options struct {
	Mode Mode
	// Dir holds the files of Files and CertManager.
	Dir string
	// SecretNamespace and SecretName name the Secret that keeps the authority of Embedded. It is created when missing.
	SecretNamespace, SecretName string
	// DNSNames are the names and IP addresses that certificates of Embedded are valid for.
	DNSNames []string
	// CADuration and LeafDuration are the lifetimes of Embedded's authority, 365 days when zero, and certificates, 7 days
	// when zero. Both are renewed when two thirds have passed; the first must be the longer one.
	CADuration, LeafDuration time.Duration
	// AwaitTrust says that somebody keeps a caBundle, as CABundle computes it but with CertManager, and reports it to Observe.
	// When false, every new certificate is served at once.
	AwaitTrust bool
}

// Source is the serving certificate of one replica. It is a controller-runtime Runnable, safe for concurrent use.
type Source struct {
	options Options
	leaves  servertls.CertificateSource
	// followAuthorities calls setAuthorities with the present authorities, again whenever they change.
	followAuthorities func(context.Context) error
	changed           chan struct{}
	log               logr.Logger

	mu     sync.Mutex
	served *tls.Certificate
	ready  bool
	// present are the authorities that sign now, earlier those that did since this process started, latest first.
	present, earlier []*x509.Certificate
	observed         *observation
}

// New returns a Source; Embedded reaches its Secret through config, the others ignore it.
func New(config *rest.Config, o Options) (*Source, error) {
	s := &Source{options: o, changed: make(chan struct{}, 1), log: ctrl.Log.WithName("certs")}
	switch o.Mode {
	case Embedded:
		if o.SecretNamespace == "" || o.SecretName == "" || len(o.DNSNames) == 0 {
			return nil, errors.New("embedded certificates need the Secret's namespace and name, and at least one DNS name or IP address")
		}
		return s, s.embed(config)
	case Files, CertManager:
		if o.Dir == "" {
			return nil, errors.New("certificates from files need a directory")
		}
		s.readFrom(o.Dir)
		return s, nil
	default:
		return nil, fmt.Errorf("unknown certificate mode %q: must be %q, %q or %q", o.Mode, Embedded, CertManager, Files)
	}
}

// Start obtains certificates and renews them until ctx ends. The last certificate is served beyond that, for connections
// that arrive while the server drains.
func (s *Source) Start(ctx context.Context) error {
	// The library logs every attempt at info level.
	ctx = logr.NewContext(ctx, s.log.V(1))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.followAuthorities(ctx) })
	group.Go(func() error { return s.leaves.Start(ctx) })
	return group.Wait()
}

// NeedLeaderElection implements controller-runtime's LeaderElectionRunnable: every replica serves.
func (s *Source) NeedLeaderElection() bool { return false }

// GetCertificate serves as tls.Config.GetCertificate. It fails while there is no certificate at all.
func (s *Source) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	latest, err := s.leaves.GetCertificate(hello)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if latest != s.served && s.prefers(latest, time.Now()) {
		s.served = latest
		s.log.Info("serving a new certificate", "serial", latest.Leaf.SerialNumber.Text(16), "notAfter", latest.Leaf.NotAfter)
	}
	return s.served, nil
}

// Ready is a healthz.Checker: nil once a certificate is served that the API server trusts.
func (s *Source) Ready(*http.Request) error {
	served, err := s.GetCertificate(nil)
	if err != nil {
		return fmt.Errorf("no serving certificate yet: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Once ready, always ready: from then on only trusted certificates follow, and if somebody empties the caBundle, taking
	// all replicas out of the Service would only prolong the outage.
	s.ready = s.ready || s.trusts(served, time.Now())
	switch {
	case s.ready:
		return nil
	case s.options.Mode == CertManager:
		return errors.New("the webhook configuration's caBundle does not hold the serving certificate's authority yet: cert-manager's cainjector " +
			"writes it there where the annotation cert-manager.io/inject-ca-from names the Certificate in --cert-dir")
	default:
		return errors.New("the webhook configuration's caBundle does not hold the serving certificate's authority yet")
	}
}

// Changed delivers one value when CABundle may return something new; changes nobody has received yet count as one. It is
// meant for one receiver.
func (s *Source) Changed() <-chan struct{} { return s.changed }
