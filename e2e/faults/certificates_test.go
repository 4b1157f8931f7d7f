package faults

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"syscall"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// certificates is what a jump of the clock does to the certificate authority. Nothing but the machine's clock makes a Go
// program believe in another time, so processes are suspended until real certificates with short lives have expired, which is what
// a jump is to them; and what a jump of years leaves behind is written into the Secret.
func certificates() []fault {
	return []fault{
		{name: "the clock jumps past the end of the serving certificate", longOnly: true, settings: settings{flags: "--leaf-duration=8s --ca-duration=10m"}, do: jump(10*time.Second, false)},
		{name: "the clock jumps past the end of the authority", longOnly: true, settings: settings{flags: "--leaf-duration=15s --ca-duration=45s"}, prepare: renewAuthority, do: jump(50*time.Second, true)},
		{name: "the authority in the Secret has expired", do: expire(false)},
		{name: "replicas start with an authority that expired long ago", longOnly: true, do: expire(true)},
	}
}

// served is the certificate that a replica serves.
func (r *replica) served() (*x509.Certificate, error) {
	conn, err := tls.Dial("tcp", r.address(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// jump suspends both replicas until their certificate, and where that is meant their authority, has expired.
func jump(by time.Duration, authority bool) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		var last time.Time
		for _, r := range s.replicas {
			served, err := r.served()
			if err != nil {
				return err
			}
			if served.NotAfter.After(last) {
				last = served.NotAfter
			}
		}
		if authority {
			secret, err := s.authority(ctx)
			if err != nil {
				return err
			}
			block, _ := pem.Decode(secret.Data[corev1.TLSCertKey])
			if block == nil {
				return errors.New("no certificate in the Secret")
			}
			ca, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return err
			}
			if ca.NotAfter.After(last) {
				last = ca.NotAfter
			}
		}
		for _, r := range s.replicas {
			r.process().Signal(syscall.SIGSTOP)
		}
		// Connections with a certificate that was good must not outlive it here: they would hide that it expired.
		s.front.disconnect()
		err := pause(ctx, max(by, time.Until(last)+time.Second))
		for _, r := range s.replicas {
			r.process().Signal(syscall.SIGCONT)
		}
		s.hit("both replicas suspended until %.0f s after the end of what they serve", time.Since(last).Seconds())
		return err
	}
}

// expire puts an authority into the Secret that expired long ago, with restart also into the webhook configuration while both replicas are killed.
func expire(restart bool) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		certificate, key, err := expiredAuthority()
		if err != nil {
			return err
		}
		secret, err := s.authority(ctx)
		if err != nil {
			return err
		}
		secret.Data = map[string][]byte{corev1.TLSCertKey: certificate, corev1.TLSPrivateKeyKey: key, "ca.crt": certificate}
		starts := []int{s.replicas[0].started(), s.replicas[1].started()}
		if restart {
			for _, r := range s.replicas {
				r.process().Signal(syscall.SIGKILL)
			}
			s.hit("2 replicas killed")
		}
		if err := s.admin.Update(ctx, secret); err != nil {
			return err
		}
		if restart {
			if err := s.trustOnly(ctx, certificate); err != nil {
				return err
			}
			for i, r := range s.replicas {
				if err := r.back(ctx, starts[i]+1); err != nil {
					return err
				}
			}
		}
		began := time.Now()
		if err := eventually(ctx, func() error {
			secret, err := s.authority(ctx)
			if err == nil && bytes.Equal(secret.Data[corev1.TLSCertKey], certificate) {
				err = errors.New("the expired authority is still there")
			}
			return err
		}); err != nil {
			return err
		}
		s.hit("an authority whose end was a year ago; there was another one after %.1f s", time.Since(began).Seconds())
		err = s.servedByPresent(ctx)
		// The next call begins with a handshake.
		s.front.disconnect()
		return err
	}
}

// servedByPresent waits until both replicas serve with certificates of the authority in the Secret.
func (w *world) servedByPresent(ctx context.Context) error {
	return eventually(ctx, func() error {
		secret, err := w.authority(ctx)
		if err != nil {
			return err
		}
		block, _ := pem.Decode(secret.Data[corev1.TLSCertKey])
		if block == nil {
			return errors.New("no certificate in the Secret")
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		for _, r := range w.replicas {
			served, err := r.served()
			if err != nil {
				return err
			}
			if err := served.CheckSignatureFrom(ca); err != nil {
				return fmt.Errorf("replica %d: %w", r.number, err)
			}
		}
		return nil
	})
}

// renewAuthority has the replicas make one that lives as long as their flags say, and not those of earlier ones.
func renewAuthority(ctx context.Context, s *scene) (restore func(), err error) {
	secret, err := s.authority(ctx)
	if err != nil {
		return nil, err
	}
	return func() {}, errors.Join(s.admin.Delete(ctx, secret), s.servedByPresent(ctx))
}

// trustOnly writes the caBundle of every webhook, as the administrator may.
func (w *world) trustOnly(ctx context.Context, bundle []byte) error {
	return eventually(ctx, func() error { return w.setCABundles(ctx, bundle) })
}

func (w *world) setCABundles(ctx context.Context, bundle []byte) error {
	validating := &admissionv1.ValidatingWebhookConfiguration{}
	if err := w.admin.Get(ctx, client.ObjectKey{Name: "routesteward"}, validating); err != nil {
		return err
	}
	for i := range validating.Webhooks {
		validating.Webhooks[i].ClientConfig.CABundle = bundle
	}
	return w.admin.Update(ctx, validating)
}

func expiredAuthority() (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "routesteward-ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().AddDate(-2, 0, 0), NotAfter: time.Now().AddDate(-1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), nil
}
