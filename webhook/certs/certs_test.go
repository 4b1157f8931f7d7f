package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	servertls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

func TestNew(t *testing.T) {
	for name, test := range map[string]struct {
		options Options
		err     string
	}{
		"embedded": {options: Options{Mode: Embedded, SecretNamespace: "ns", SecretName: "ca", DNSNames: []string{"a.svc"}}},
		"files":    {options: Options{Mode: Files, Dir: "/certs"}},
		"managed":  {options: Options{Mode: CertManager, Dir: "/certs"}},
		"embedded, no Secret": {
			options: Options{Mode: Embedded, SecretNamespace: "ns", DNSNames: []string{"a.svc"}},
			err:     "embedded certificates need the Secret's namespace and name, and at least one DNS name or IP address",
		},
		"embedded, no names": {
			options: Options{Mode: Embedded, SecretNamespace: "ns", SecretName: "ca"},
			err:     "embedded certificates need the Secret's namespace and name, and at least one DNS name or IP address",
		},
		"files, no directory":   {options: Options{Mode: Files}, err: "certificates from files need a directory"},
		"managed, no directory": {options: Options{Mode: CertManager}, err: "certificates from files need a directory"},
		"neither":               {options: Options{Mode: "letsencrypt"}, err: `unknown certificate mode "letsencrypt": must be "embedded", "cert-manager" or "files"`},
	} {
		t.Run(name, func(t *testing.T) {
			source, err := New(&rest.Config{}, test.options)
			if test.err != "" {
				require.EqualError(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.False(t, source.NeedLeaderElection())
			_, err = source.GetCertificate(nil)
			require.ErrorIs(t, err, servertls.ErrNotAvailable)
			require.ErrorContains(t, source.Ready(nil), "no serving certificate yet")
		})
	}
}

func TestCABundle(t *testing.T) {
	ours := make([]*testCA, 5)
	for i := range ours {
		ours[i] = newAuthority(t, commonName, time.Hour)
	}
	expired, foreign := newAuthority(t, commonName, -time.Hour), newAuthority(t, "corporate", time.Hour)
	notAnAuthority := ours[0].leaf(t, commonName, time.Hour).Leaf

	for name, test := range map[string]struct {
		rotations []*testCA
		existing  []*x509.Certificate
		want      []*x509.Certificate
	}{
		"unknown authority leaves it alone": {existing: bundle(foreign), want: bundle(foreign)},
		"empty":                             {rotations: ours[:1], want: bundle(ours[0])},
		"already there":                     {rotations: ours[:1], existing: bundle(ours[0]), want: bundle(ours[0])},
		"another replica's stays, second":   {rotations: ours[:1], existing: bundle(ours[1]), want: bundle(ours[0], ours[1])},
		"the order of the others stays":     {rotations: ours[:1], existing: bundle(ours[2], ours[0], ours[1]), want: bundle(ours[0], ours[2], ours[1])},
		"three at most":                     {rotations: ours[:1], existing: bundle(ours[1], ours[2], ours[3]), want: bundle(ours[0], ours[1], ours[2])},
		"expired goes":                      {rotations: ours[:1], existing: bundle(expired, ours[1]), want: bundle(ours[0], ours[1])},
		"foreign goes":                      {rotations: ours[:1], existing: bundle(foreign), want: bundle(ours[0])},
		"certificate that is no authority":  {rotations: ours[:1], existing: []*x509.Certificate{notAnAuthority}, want: bundle(ours[0])},
		"own earlier ones, latest first":    {rotations: ours[:3], want: bundle(ours[2], ours[1], ours[0])},
		"own earlier ones before others'":   {rotations: ours[:2], existing: bundle(ours[4], ours[3]), want: bundle(ours[1], ours[0], ours[4])},
		"own earlier one of another name":   {rotations: []*testCA{foreign, ours[0]}, want: bundle(ours[0], foreign)},
		"own earlier one that has expired":  {rotations: []*testCA{expired, ours[0]}, want: bundle(ours[0])},
		"forgotten when others followed":    {rotations: ours, want: bundle(ours[4], ours[3], ours[2])},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSource(Options{Mode: Embedded})
			for _, a := range test.rotations {
				s.setAuthorities(bundle(a))
				require.Len(t, s.Changed(), 1)
				s.setAuthorities(bundle(a))
			}
			got := s.CABundle(encode(test.existing))
			require.Equal(t, names(test.want), names(parse(got)))
			require.Equal(t, string(encode(test.want)), string(got))
		})
	}

	s := newSource(Options{Mode: Embedded})
	s.setAuthorities(bundle(ours[0]))
	require.Equal(t, encode(bundle(ours[0])), s.CABundle([]byte("not PEM")))
}

// TestSwitch follows one replica through a change of certificates. Each step is observed, then time passes, then a
// handshake must be answered with the old or the new certificate.
func TestSwitch(t *testing.T) {
	type step struct {
		observe func(s *Source, before, after *testCA)
		pass    time.Duration
		wantNew bool
	}
	caBundles := func(of func(before, after *testCA) [][]byte) func(*Source, *testCA, *testCA) {
		return func(s *Source, before, after *testCA) { s.Observe(of(before, after)...) }
	}
	both := caBundles(func(before, after *testCA) [][]byte { return [][]byte{encode(bundle(after, before))} })
	for name, test := range map[string]struct {
		options Options
		same    bool // the authority stays, as in a renewal
		life    time.Duration
		steps   []step
	}{
		"held back until the bundle has been seen long enough": {
			options: Options{AwaitTrust: true},
			life:    time.Hour,
			steps: []step{
				{pass: propagation},
				{observe: both, pass: propagation - 1},
				{observe: both, pass: 1, wantNew: true},
			},
		},
		"a bundle that loses the authority starts again": {
			options: Options{AwaitTrust: true},
			life:    time.Hour,
			steps: []step{
				{observe: both, pass: propagation - 1},
				{observe: caBundles(func(before, _ *testCA) [][]byte { return [][]byte{encode(bundle(before))} }), pass: 1},
				{observe: both, pass: propagation - 1},
				{pass: 1, wantNew: true},
			},
		},
		"every webhook must have it": {
			options: Options{AwaitTrust: true},
			life:    time.Hour,
			steps: []step{
				{observe: caBundles(func(before, after *testCA) [][]byte {
					return [][]byte{encode(bundle(before, after)), encode(bundle(before))}
				}), pass: time.Minute},
				{observe: caBundles(func(before, after *testCA) [][]byte {
					return [][]byte{nil, encode(bundle(before, after))}
				}), pass: time.Minute},
				{observe: caBundles(func(before, after *testCA) [][]byte {
					return [][]byte{encode(bundle(before, after)), encode(bundle(after))}
				}), pass: propagation, wantNew: true},
			},
		},
		"an expired certificate is never preferred": {
			options: Options{AwaitTrust: true},
			life:    time.Minute,
			steps: []step{
				{pass: time.Minute - 1},
				{pass: 1, wantNew: true},
			},
		},
		"nobody calls": {
			options: Options{AwaitTrust: true},
			life:    time.Hour,
			steps:   []step{{observe: func(s *Source, _, _ *testCA) { s.Observe() }, pass: propagation, wantNew: true}},
		},
		"nobody keeps the bundle": {
			life:  time.Hour,
			steps: []step{{pass: propagation, wantNew: true}},
		},
		"a renewal waits for lagging clocks only": {
			options: Options{AwaitTrust: true},
			same:    true,
			life:    time.Hour,
			steps:   []step{{pass: propagation - 1}, {pass: 1, wantNew: true}},
		},
		"unless there is no time left": {
			options: Options{AwaitTrust: true},
			same:    true,
			life:    propagation - 1,
			steps:   []step{{wantNew: true}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before := newAuthority(t, commonName, 24*time.Hour)
				after := newAuthority(t, commonName, 24*time.Hour)
				if test.same {
					after = before
				}
				test.options.Mode = Embedded
				s := newSource(test.options)
				s.Observe(encode(bundle(before)))

				old := before.leaf(t, "a.svc", test.life)
				s.leaves = fixed{old}
				require.Same(t, old, get(t, s), "the first certificate is served at once")
				require.NoError(t, s.Ready(nil))

				latest := after.leaf(t, "a.svc", time.Hour)
				s.leaves = fixed{latest}
				for i, step := range test.steps {
					if step.observe != nil {
						step.observe(s, before, after)
					}
					<-time.After(step.pass)
					require.Equal(t, step.wantNew, get(t, s) == latest, "step %d", i)
					require.NoError(t, s.Ready(nil), "step %d", i)
				}
			})
		})
	}
}

func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t, commonName, time.Hour)
		s := newSource(Options{Mode: Embedded, AwaitTrust: true})
		s.leaves = fixed{a.leaf(t, "a.svc", time.Minute)}
		const untrusted = "the webhook configuration's caBundle does not hold the serving certificate's authority yet"

		require.EqualError(t, s.Ready(nil), untrusted, "not observed")
		s.Observe(nil)
		require.EqualError(t, s.Ready(nil), untrusted, "empty caBundle")
		s.Observe(encode(bundle(a)))
		require.EqualError(t, s.Ready(nil), untrusted, "not propagated")
		<-time.After(propagation)
		require.NoError(t, s.Ready(nil))
		s.Observe(nil)
		require.NoError(t, s.Ready(nil), "an emptied caBundle must not take all replicas away")
	})
}

func TestCertificates(t *testing.T) {
	first, second := newAuthority(t, commonName, time.Hour), newAuthority(t, commonName, time.Hour)
	s := newSource(Options{Mode: Embedded})
	served := first.leaf(t, "a.svc", time.Minute)
	s.leaves = fixed{served}
	serving, authority := s.Certificates()
	require.Equal(t, served.Leaf, serving)
	require.Nil(t, authority, "none is known")

	s.setAuthorities(bundle(first))
	_, authority = s.Certificates()
	require.True(t, first.certificate.Equal(authority))
	s.setAuthorities(bundle(second))
	_, authority = s.Certificates()
	require.True(t, first.certificate.Equal(authority), "the one that signed what is served")
}

func TestFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newAuthority(t, "corporate", time.Hour), newAuthority(t, "corporate", time.Hour)
		old, renewed, latest := first.leaf(t, "a.svc", time.Hour), first.leaf(t, "a.svc", time.Hour), second.leaf(t, "a.svc", time.Hour)
		dir := t.TempDir()
		s, err := New(nil, Options{Mode: Files, Dir: dir, AwaitTrust: true})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- s.Start(ctx) }()
		look := func() {
			<-time.After(filesInterval)
			synctest.Wait()
		}
		look()
		_, err = s.GetCertificate(nil)
		require.ErrorIs(t, err, servertls.ErrNotAvailable)

		write(t, dir, old)
		look()
		require.Equal(t, old.Certificate, get(t, s).Certificate)
		require.NoError(t, s.Ready(nil), "without ca.crt, trust is out of scope")
		require.Equal(t, []byte("whatever"), s.CABundle([]byte("whatever")))

		write(t, dir, renewed)
		look()
		require.Equal(t, renewed.Certificate, get(t, s).Certificate)

		require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), encode(bundle(first)), 0o600))
		look()
		<-s.Changed()
		require.Equal(t, encode(bundle(first)), s.CABundle(nil))
		s.Observe(s.CABundle(nil))

		write(t, dir, latest)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), encode(bundle(second)), 0o600))
		look()
		<-s.Changed()
		require.Equal(t, encode(bundle(second, first)), s.CABundle(nil))
		require.Equal(t, renewed.Certificate, get(t, s).Certificate, "not trusted yet")
		s.Observe(s.CABundle(nil))
		<-time.After(propagation)
		require.Equal(t, latest.Certificate, get(t, s).Certificate)

		for range 20 {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.crt"), []byte("half a fi"), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("half a fi"), 0o600))
			look()
		}
		require.Equal(t, latest.Certificate, get(t, s).Certificate, "broken files change nothing")
		require.Equal(t, encode(bundle(second, first)), s.CABundle(nil))

		stop()
		require.NoError(t, <-stopped)
		require.Equal(t, latest.Certificate, get(t, s).Certificate, "still served while the server drains")
	})
}

// TestCertManager follows one replica whose Secret's files change before, and after, cainjector has changed the caBundle.
func TestCertManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newAuthority(t, "corporate", time.Hour), newAuthority(t, "corporate", time.Hour)
		old, latest := first.leaf(t, "a.svc", time.Hour), second.leaf(t, "a.svc", time.Hour)
		dir := t.TempDir()
		write(t, dir, old)
		// What cainjector writes is what counts, not what it is about to write.
		require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), encode(bundle(first)), 0o600))
		s, err := New(nil, Options{Mode: CertManager, Dir: dir, AwaitTrust: true})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- s.Start(ctx) }()
		look := func() {
			<-time.After(filesInterval)
			synctest.Wait()
		}
		look()
		const untrusted = "the webhook configuration's caBundle does not hold the serving certificate's authority yet: cert-manager's cainjector " +
			"writes it there where the annotation cert-manager.io/inject-ca-from names the Certificate in --cert-dir"
		require.EqualError(t, s.Ready(nil), untrusted, "not observed")
		s.Observe(nil)
		require.EqualError(t, s.Ready(nil), untrusted, "not injected")
		require.Equal(t, []byte("cainjector's"), s.CABundle([]byte("cainjector's")))
		require.Empty(t, s.Changed())
		s.Observe(encode(bundle(first)))
		<-time.After(propagation)
		require.NoError(t, s.Ready(nil))
		require.Equal(t, old.Certificate, get(t, s).Certificate)

		write(t, dir, latest)
		look()
		require.Equal(t, old.Certificate, get(t, s).Certificate, "not injected yet")
		s.Observe(encode(bundle(first, second)))
		require.Equal(t, old.Certificate, get(t, s).Certificate, "not propagated yet")
		<-time.After(propagation)
		require.Equal(t, latest.Certificate, get(t, s).Certificate)
		require.NoError(t, s.Ready(nil))

		stop()
		require.NoError(t, <-stopped)
	})
}

func TestFilesKnowTheAuthorityBeforeTheFirstCertificate(t *testing.T) {
	a := newAuthority(t, "corporate", time.Hour)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.crt"), encode(bundle(a)), 0o600))
	s, err := New(nil, Options{Mode: Files, Dir: dir, AwaitTrust: true})
	require.NoError(t, err)
	require.Equal(t, encode(bundle(a)), s.CABundle(nil))
}

// fixed is a certificate source that has one certificate.
type fixed struct{ certificate *tls.Certificate }

func (f fixed) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.certificate, nil
}
func (f fixed) Start(context.Context) error { return nil }
func (f fixed) Healthy() bool               { return true }

func newSource(o Options) *Source {
	return &Source{options: o, changed: make(chan struct{}, 1), log: logr.Discard()}
}

func get(t *testing.T, s *Source) *tls.Certificate {
	t.Helper()
	certificate, err := s.GetCertificate(nil)
	require.NoError(t, err)
	return certificate
}

type testCA struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

var serial int64

// newAuthority returns an authority that expires after life, which may be negative.
func newAuthority(t *testing.T, commonName string, life time.Duration) *testCA {
	t.Helper()
	a := &testCA{}
	a.certificate, a.key = a.sign(t, &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             time.Now().Add(-24 * time.Hour),
		NotAfter:              time.Now().Add(life),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	})
	return a
}

// leaf returns a serving certificate that begins now.
func (a *testCA) leaf(t *testing.T, name string, life time.Duration) *tls.Certificate {
	t.Helper()
	leaf, key := a.sign(t, &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		DNSNames:    []string{name},
		NotBefore:   time.Now(),
		NotAfter:    time.Now().Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func (a *testCA) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial++
	template.SerialNumber = big.NewInt(serial)
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

func bundle(authorities ...*testCA) []*x509.Certificate {
	var certificates []*x509.Certificate
	for _, a := range authorities {
		certificates = append(certificates, a.certificate)
	}
	return certificates
}

func encode(certificates []*x509.Certificate) []byte {
	var encoded []byte
	for _, c := range certificates {
		encoded = append(encoded, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return encoded
}

func names(certificates []*x509.Certificate) []string {
	names := []string{}
	for _, c := range certificates {
		names = append(names, c.Subject.CommonName+" "+c.SerialNumber.String())
	}
	return names
}

func write(t *testing.T, dir string, certificate *tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	require.NoError(t, err)
	encodedKey := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.key"), encodedKey, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.crt"), encode([]*x509.Certificate{certificate.Leaf}), 0o600))
}
