package certs

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"time"

	servertls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"github.com/cert-manager/cert-manager/pkg/server/tls/authority"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
)

func (s *Source) embed(config *rest.Config) error {
	core, err := corev1client.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client for the Secret of the certificate authority: %w", err)
	}
	ca := &authority.DynamicAuthority{
		SecretNamespace: s.options.SecretNamespace,
		SecretName:      s.options.SecretName,
		SecretLabels:    map[string]string{"app.kubernetes.io/managed-by": "routesteward"},
		RESTConfig:      config,
		CommonName:      commonName,
		CADuration:      s.options.CADuration,
		LeafDuration:    s.options.LeafDuration,
	}
	rotated := make(chan struct{}, 1)
	ca.WatchRotation(rotated)
	s.leaves = &servertls.DynamicSource{DNSNames: s.options.DNSNames, Authority: ipAuthority{ca}}
	s.followAuthorities = func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-rotated:
				s.readSecret(ctx, core.Secrets(s.options.SecretNamespace))
			}
		}
	}
	return nil
}

// readSecret publishes the authority in the Secret, because DynamicAuthority keeps its own to itself. Should the Secret
// hold a later one already, another rotation is about to be announced.
func (s *Source) readSecret(ctx context.Context, secrets corev1client.SecretInterface) {
	_ = wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		secret, err := secrets.Get(ctx, s.options.SecretName, metav1.GetOptions{})
		if err != nil {
			s.log.Error(err, "cannot read the certificate authority, trying again")
			return false, nil
		}
		certificates, err := cert.ParseCertsPEM(secret.Data[corev1.TLSCertKey])
		if err != nil {
			s.log.Error(err, "cannot parse the certificate authority, trying again")
			return false, nil
		}
		s.setAuthorities(certificates)
		return true, nil
	})
}

// ipAuthority signs those of the wanted names that are IP addresses as such; DynamicSource asks for DNS names only.
type ipAuthority struct{ *authority.DynamicAuthority }

func (a ipAuthority) Sign(template *x509.Certificate) (*x509.Certificate, error) {
	var names []string
	for _, name := range template.DNSNames {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			names = append(names, name)
		}
	}
	template.DNSNames = names
	return a.DynamicAuthority.Sign(template)
}
