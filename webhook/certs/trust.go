package certs

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"time"

	"k8s.io/client-go/util/cert"
)

const (
	// commonName is the subject of the authorities that Embedded makes.
	commonName = "routesteward-ca"
	// maxAuthorities bounds a caBundle: the present authority and those that replicas may still be serving with.
	maxAuthorities = 3
	// propagation is how long after a change in a webhook configuration was seen here every API server is taken to have
	// seen it too, and how far their clocks may lag behind this one. API servers take up to about a second.
	propagation = 3 * time.Second
)

// observation is what the webhook configurations said at one moment.
type observation struct {
	// called is false when there is no webhook that the API server could call.
	called bool
	// roots are the certificates in every caBundle, by their DER form.
	roots map[string]root
}

type root struct {
	*x509.Certificate
	since time.Time
}

// CABundle returns what a caBundle should hold that holds existing now: the present authorities first, then earlier ones,
// which other replicas may still be serving with. It returns existing when no authority is known.
func (s *Source) CABundle(existing []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.present) == 0 {
		return existing
	}
	earlier := s.earlier
	for _, c := range parse(existing) {
		// Keep only our own kind: a foreign authority in the bundle would otherwise stay for ever.
		if c.IsCA && c.Subject.CommonName == commonName {
			earlier = append(earlier[:len(earlier):len(earlier)], c)
		}
	}
	bundle, now := slices.Clone(s.present), time.Now()
	for _, c := range earlier {
		if len(bundle) < maxAuthorities && now.Before(c.NotAfter) && !slices.ContainsFunc(bundle, c.Equal) {
			bundle = append(bundle, c)
		}
	}
	encoded, err := cert.EncodeCertificates(bundle...)
	if err != nil {
		// Encoding into memory fails only for PEM headers, and there are none.
		return existing
	}
	return encoded
}

// Observe takes note of the caBundle of every webhook that the API server may call now; none means that it calls nobody.
func (s *Source) Observe(caBundles ...[]byte) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	next := &observation{called: len(caBundles) > 0, roots: map[string]root{}}
	for i, bundle := range caBundles {
		roots := map[string]root{}
		for _, c := range parse(bundle) {
			key := string(c.Raw)
			if _, shared := next.roots[key]; i > 0 && !shared {
				continue
			}
			r := root{Certificate: c}
			// What is there at the first look counts as propagated: until traffic comes here, the pod has to become ready.
			if s.observed != nil {
				r.since = now
				if before, known := s.observed.roots[key]; known {
					r.since = before.since
				}
			}
			roots[key] = r
		}
		next.roots = roots
	}
	s.observed = next
}

func (s *Source) setAuthorities(authorities []*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.EqualFunc(authorities, s.present, (*x509.Certificate).Equal) {
		return
	}
	earlier := slices.Concat(s.present, s.earlier)
	s.present, s.earlier = authorities, earlier[:min(len(earlier), maxAuthorities)]
	s.log.Info("certificate authority changed", "certificates", len(authorities))
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// prefers says whether to serve the latest certificate instead of the one served until now.
func (s *Source) prefers(latest *tls.Certificate, now time.Time) bool {
	switch {
	case s.served == nil || !now.Before(s.served.Leaf.NotAfter):
		return true
	case !s.trusts(latest, now):
		return false
	default:
		// An API server whose clock lags would refuse a certificate that begins just now.
		settled := now.Sub(latest.Leaf.NotBefore) >= propagation
		return settled || s.served.Leaf.NotAfter.Sub(now) < propagation
	}
}

// trusts says whether every API server that calls us accepts c.
func (s *Source) trusts(c *tls.Certificate, now time.Time) bool {
	// Without an authority of our own (files without ca.crt) trust is somebody else's business.
	if !s.options.AwaitTrust || s.options.Mode == Files && len(s.present) == 0 {
		return true
	}
	if s.observed == nil {
		return false
	}
	if !s.observed.called {
		return true
	}
	verify := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, r := range s.observed.roots {
		if now.Sub(r.since) >= propagation {
			verify.Roots.AddCert(r.Certificate)
		}
	}
	for _, der := range c.Certificate[1:] {
		if intermediate, err := x509.ParseCertificate(der); err == nil {
			verify.Intermediates.AddCert(intermediate)
		}
	}
	_, err := c.Leaf.Verify(verify)
	return err == nil
}

// parse returns the certificates of a PEM bundle, up to the first one that is broken.
func parse(bundle []byte) []*x509.Certificate {
	certificates, _ := cert.ParseCertsPEM(bundle)
	return certificates
}
