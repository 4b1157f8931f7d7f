package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/manifests"
)

// TestEmbedded takes the authority away, twice, while admissions go on and a replica joins.
func TestEmbedded(t *testing.T) {
	f := newFleet(t)
	replicas := []*replica{f.add("a", nil), f.add("b", nil)}
	f.intercepted()
	finish := f.traffic()
	secrets := clients.CoreV1().Secrets(namespace)
	for range 2 {
		before, err := secrets.Get(t.Context(), "routesteward-ca", metav1.GetOptions{})
		require.NoError(t, err)
		require.NoError(t, secrets.Delete(t.Context(), before.Name, metav1.DeleteOptions{}))
		if len(replicas) == 2 {
			replicas = append(replicas, f.add("c", nil))
		}
		require.Eventually(t, func() bool {
			after, err := secrets.Get(t.Context(), before.Name, metav1.GetOptions{})
			if err != nil || bytes.Equal(before.Data["tls.crt"], after.Data["tls.crt"]) {
				return false
			}
			authority := parse(t, after.Data["tls.crt"])
			for _, r := range replicas {
				if served := r.served(); served == nil || served.CheckSignatureFrom(authority) != nil {
					return false
				}
			}
			return true
		}, soon, tick)
	}
	finish()
}

// TestFiles replaces the certificate, then the authority too, one replica after the other.
func TestFiles(t *testing.T) {
	ca := newAuthority(t)
	secret, _ := ca.secret(t)
	f := newFleet(t, "--certs=files")
	replicas := []*replica{f.add("a", secret), f.add("b", secret)}
	f.intercepted()
	finish := f.traffic()
	for _, ca := range []*authority{ca, newAuthority(t)} {
		secret, leaf := ca.secret(t)
		for _, r := range replicas {
			r.mount(t, secret)
		}
		for _, r := range replicas {
			r.serves(t, leaf)
		}
	}
	finish()
}

// TestCertManager renews the certificate, the authority, and the authority's key. The kubelet brings the Secret to one
// replica after the other; the last one before cainjector has acted, and to a replica that joins.
func TestCertManager(t *testing.T) {
	crds, err := localcluster.CertManagerCRDs(t.Context())
	require.NoError(t, err)
	kubectl(t, "", "apply", "--server-side", "-f", crds)
	kubectl(t, "", "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
	kubectl(t, chain(t), "apply", "-f", "-")
	annotate(t, inject)
	t.Cleanup(func() { annotate(t, doNotInject) })
	certManager, err := cluster.StartCertManager(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, certManager.Stop()) })

	f := newFleet(t, "--certs=cert-manager")
	secret := issued(t, "routesteward-tls", nil)
	replicas := []*replica{f.add("a", secret), f.add("b", secret)}
	f.intercepted()
	injected(t, secret["ca.crt"])

	finish := f.traffic()
	deliver := func(secret map[string][]byte) {
		t.Helper()
		for _, r := range replicas {
			r.mount(t, secret)
			r.serves(t, parse(t, secret["tls.crt"]))
		}
	}
	renewed := renew(t, "routesteward", "routesteward-tls")
	require.Equal(t, secret["ca.crt"], renewed["ca.crt"])
	deliver(renewed)

	ca := issued(t, "routesteward-cert-manager-ca", nil)
	renewedCA := renew(t, "routesteward-ca", "routesteward-cert-manager-ca")
	require.Equal(t, ca["tls.key"], renewedCA["tls.key"], "the same key")
	deliver(signedBy(t, renewedCA))
	injected(t, ca["tls.crt"], renewedCA["tls.crt"])

	kubectl(t, "", "patch", "certificate", "routesteward-ca", "-n", namespace, "--type=merge", "-p", `{"spec": {"privateKey": {"rotationPolicy": "Always"}}}`)
	rotatedCA := renew(t, "routesteward-ca", "routesteward-cert-manager-ca")
	require.NotEqual(t, ca["tls.key"], rotatedCA["tls.key"], "another key")
	annotate(t, doNotInject)
	latest := signedBy(t, rotatedCA)
	for _, r := range replicas {
		r.mount(t, latest)
	}
	c, served := &replica{dir: t.TempDir()}, make(chan error, 1)
	c.mount(t, latest)
	go func() { served <- f.serve("c", c) }()
	logHolds(t, "c", "not ready", "caBundle does not hold the serving certificate's authority yet")
	annotate(t, inject)
	injected(t, renewedCA["tls.crt"], rotatedCA["tls.crt"])
	require.NoError(t, <-served)
	for _, r := range append(replicas, c) {
		r.serves(t, parse(t, latest["tls.crt"]))
	}

	// Somebody's edit is repaired, and the caBundle remains cainjector's.
	kubectl(t, "", "patch", "validatingwebhookconfiguration", "routesteward", "--type=json", "-p", `[{"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 30}]`)
	require.Eventually(t, func() bool { return *registered(t).Webhooks[0].TimeoutSeconds == 5 }, soon, tick)
	injected(t, rotatedCA["tls.crt"])
	generation := registered(t).Generation
	finish()
	for range rounds {
		require.NoError(t, f.round())
	}
	require.Equal(t, generation, registered(t).Generation, "cainjector and routesteward leave each other's work alone")
}

// TestCertManagerReplicaWaitsForTrust starts a replica whose certificate nobody trusts; it says why it is not ready, and is
// ready when its Secret is the right one.
func TestCertManagerReplicaWaitsForTrust(t *testing.T) {
	ca := newAuthority(t)
	trusted, leaf := ca.secret(t)
	stranger, _ := newAuthority(t).secret(t)
	f := newFleet(t, "--certs=files")
	f.add("trusted", trusted)
	f.intercepted()

	g := newFleet(t, "--certs=cert-manager")
	r := &replica{dir: t.TempDir()}
	r.mount(t, stranger)
	served := make(chan error, 1)
	go func() { served <- g.serve("waiting", r) }()
	logHolds(t, "waiting", "not ready", "the webhook configuration's caBundle does not hold the serving certificate's authority yet: cert-manager's cainjector")
	logHolds(t, "waiting", "nobody keeps the webhook configuration's caBundle: it lacks the annotation cert-manager.io/inject-ca-from")
	select {
	case err := <-served:
		require.Fail(t, "it is ready", "%v", err)
	default:
	}
	r.mount(t, trusted)
	require.NoError(t, <-served)
	r.serves(t, leaf)
}

const (
	inject      = "cert-manager.io/inject-ca-from=" + namespace + "/routesteward"
	doNotInject = "cert-manager.io/inject-ca-from-"
)

func annotate(t *testing.T, annotation string) {
	t.Helper()
	// A clean-up comes after the test's context.
	_, stderr, exit := cluster.Kubectl(context.Background(), cluster.Kubeconfig, "", "annotate", "--overwrite",
		"validatingwebhookconfiguration,mutatingwebhookconfiguration", "routesteward", annotation)
	require.Zero(t, exit, stderr)
}

// injected waits until every webhook's caBundle holds the authorities.
func injected(t *testing.T, authorities ...[]byte) {
	t.Helper()
	require.Eventually(t, func() bool {
		webhooks := registered(t).Webhooks
		for _, webhook := range webhooks {
			for _, authority := range authorities {
				if !bytes.Contains(webhook.ClientConfig.CABundle, bytes.TrimSpace(authority)) {
					return false
				}
			}
		}
		return len(webhooks) > 0
	}, soon, tick)
}

// issued waits for a Secret of cert-manager's whose certificate is another one than before.
func issued(t *testing.T, name string, before []byte) map[string][]byte {
	t.Helper()
	var data map[string][]byte
	require.Eventually(t, func() bool {
		secret, err := clients.CoreV1().Secrets(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || len(secret.Data["tls.crt"]) == 0 || bytes.Equal(secret.Data["tls.crt"], before) {
			return false
		}
		data = secret.Data
		return true
	}, soon, tick)
	return data
}

// renew asks cert-manager for another certificate, as its command-line tool does, and returns the Secret with it.
func renew(t *testing.T, certificate, secret string) map[string][]byte {
	t.Helper()
	before := issued(t, secret, nil)
	kubectl(t, "", "patch", "certificate", certificate, "-n", namespace, "--subresource=status", "--type=merge", "-p",
		`{"status": {"conditions": [{"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "by a test", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}`)
	return issued(t, secret, before["tls.crt"])
}

// signedBy renews the serving certificate until it is the authority's: the issuer may not have seen the latest one yet.
func signedBy(t *testing.T, ca map[string][]byte) map[string][]byte {
	t.Helper()
	for {
		secret := renew(t, "routesteward", "routesteward-tls")
		if bytes.Equal(secret["ca.crt"], ca["tls.crt"]) {
			return secret
		}
		require.NoError(t, t.Context().Err())
	}
}

// chain is the shipped authority and certificate, which here has to be valid for the address that the API server calls.
func chain(t *testing.T) string {
	t.Helper()
	const names = "  dnsNames: [routesteward.routesteward-system.svc]\n"
	shipped := manifests.Pick(manifests.InstallCertManager, "Issuer", "Certificate")
	require.Contains(t, shipped, names)
	return strings.Replace(shipped, names, names+"  ipAddresses: [127.0.0.1]\n", 1)
}

// authority is a platform's own, in files.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.certificate, a.key = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "platform"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// secret returns the files of a new certificate.
func (a *authority) secret(t *testing.T) (map[string][]byte, *x509.Certificate) {
	t.Helper()
	leaf, key := a.sign(t, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	encodedKey, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return map[string][]byte{
		"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}),
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encodedKey}),
		"ca.crt":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}),
	}, leaf
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	require.NoError(t, err)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return certificate, key
}

func parse(t *testing.T, encoded []byte) *x509.Certificate {
	t.Helper()
	certificates, err := cert.ParseCertsPEM(encoded)
	require.NoError(t, err)
	return certificates[0]
}
