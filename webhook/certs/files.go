package certs

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"time"

	servertls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/cert"
)

// filesInterval is how often files are looked at.
const filesInterval = 5 * time.Second

func (s *Source) readFrom(dir string) {
	s.leaves = &servertls.FileCertificateSource{
		CertPath:       filepath.Join(dir, "tls.crt"),
		KeyPath:        filepath.Join(dir, "tls.key"),
		UpdateInterval: filesInterval,
		// It counts failures over its whole life. A pair caught half-written must not end the process, however often.
		MaxFailures: math.MaxInt,
	}
	if s.options.Mode == CertManager {
		s.followAuthorities = func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		}
		return
	}
	path := filepath.Join(dir, "ca.crt")
	// Before the first certificate is served it must be known whether there is an authority to wait for.
	s.readAuthorities(path)
	s.followAuthorities = func(ctx context.Context) error {
		wait.UntilWithContext(ctx, func(context.Context) { s.readAuthorities(path) }, filesInterval)
		return nil
	}
}

func (s *Source) readAuthorities(path string) {
	certificates, err := cert.CertsFromFile(path)
	switch {
	case err == nil:
		s.setAuthorities(certificates)
	case !errors.Is(err, fs.ErrNotExist):
		s.log.Error(err, "cannot read the certificate authority, keeping the one before", "file", path)
	}
}
