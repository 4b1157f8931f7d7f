package certs

import (
	"crypto/x509"
	"slices"
)

// Certificates returns the certificate that is served now and the authority that signed it, each nil where it is not known.
func (s *Source) Certificates() (serving, authority *x509.Certificate) {
	served, err := s.GetCertificate(nil)
	if err != nil {
		return nil, nil
	}
	s.mu.Lock()
	known := slices.Concat(s.present, s.earlier)
	s.mu.Unlock()
	signed := []*x509.Certificate{served.Leaf}
	for _, der := range served.Certificate[1:] {
		if intermediate, err := x509.ParseCertificate(der); err == nil {
			signed = append(signed, intermediate)
		}
	}
	// Not by x509's Verify: an authority that was renewed with the same key counts, and so does one that has expired.
	for _, c := range known {
		if slices.ContainsFunc(signed, func(s *x509.Certificate) bool { return s.CheckSignatureFrom(c) == nil }) {
			return served.Leaf, c
		}
	}
	return served.Leaf, nil
}
