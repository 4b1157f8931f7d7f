package certs

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClientCA(t *testing.T) {
	ours, strangers := newAuthority(t, "cluster", time.Hour), newAuthority(t, "cluster", time.Hour)
	file := filepath.Join(t.TempDir(), "ca.crt")
	_, err := NewClientCA(file, []string{"kube-apiserver"})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(file, []byte("no certificate"), 0o600))
	_, err = NewClientCA(file, []string{"kube-apiserver"})
	require.ErrorContains(t, err, file)
	require.NoError(t, os.WriteFile(file, encode(bundle(ours)), 0o600))
	_, err = NewClientCA(file, nil)
	require.EqualError(t, err, "no client certificate could be accepted without a name")
	clientCA, err := NewClientCA(file, []string{"kube-apiserver", "api.example.com"})
	require.NoError(t, err)

	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	server.TLS = &tls.Config{}
	clientCA.Require(server.TLS)
	server.StartTLS()
	defer server.Close()
	accepted := func(certificates ...tls.Certificate) bool {
		client := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, Certificates: certificates},
		}}
		response, err := client.Get(server.URL)
		if err != nil {
			return false
		}
		require.NoError(t, response.Body.Close())
		return response.StatusCode == http.StatusOK
	}
	name := func(commonName string, dnsNames ...string) x509.Certificate {
		return x509.Certificate{
			Subject: pkix.Name{CommonName: commonName}, DNSNames: dnsNames, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute),
		}
	}
	signed := func(a *testCA, template x509.Certificate) tls.Certificate {
		leaf, key := a.sign(t, &template)
		return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	}
	apiServer := name("kube-apiserver")
	forServers, expired := name("kube-apiserver"), name("kube-apiserver")
	forServers.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	expired.NotAfter = time.Now().Add(-time.Second)

	require.True(t, accepted(signed(ours, apiServer)))
	require.True(t, accepted(signed(ours, name("", "other", "api.example.com"))))
	for who, certificate := range map[string]tls.Certificate{
		"another user of the same authority": signed(ours, name("jane", "kube-apiserver.example.com")),
		"a name that only begins alike":      signed(ours, name("kube-apiserver-kubelet-client")),
		"another authority of the same name": signed(strangers, apiServer),
		"a certificate for servers":          signed(ours, forServers),
		"an expired certificate":             signed(ours, expired),
	} {
		require.False(t, accepted(certificate), who)
	}
	require.False(t, accepted(), "no certificate")

	require.NoError(t, os.WriteFile(file, encode(bundle(strangers)), 0o600))
	require.True(t, accepted(signed(strangers, apiServer)), "the file was replaced")
	require.False(t, accepted(signed(ours, apiServer)), "the file was replaced")
	require.NoError(t, os.WriteFile(file, []byte("half a fi"), 0o600))
	require.True(t, accepted(signed(strangers, apiServer)), "a broken file changes nothing")
	require.NoError(t, os.Remove(file))
	require.True(t, accepted(signed(strangers, apiServer)), "a missing file changes nothing")
}

// TestClientCAVerifiesEveryConnection: a session that is resumed would not be verified again.
func TestClientCAVerifiesEveryConnection(t *testing.T) {
	ours := newAuthority(t, "cluster", time.Hour)
	file := filepath.Join(t.TempDir(), "ca.crt")
	require.NoError(t, os.WriteFile(file, encode(bundle(ours)), 0o600))
	clientCA, err := NewClientCA(file, []string{"kube-apiserver"})
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{}
	clientCA.Require(server.TLS)
	server.StartTLS()
	defer server.Close()
	leaf, key := ours.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Minute),
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true,
		ClientSessionCache: tls.NewLRUClientSessionCache(0),
		Certificates:       []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}},
	}}}
	for range 2 {
		response, err := client.Get(server.URL)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.False(t, response.TLS.DidResume)
	}
}
