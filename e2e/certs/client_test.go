package certs

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestOnlyTheAPIServerMayCall: without --client-ca-file, whoever reaches the port can have a ReferenceGrant made in somebody
// else's name. With it only the API server can, which is served as before.
func TestOnlyTheAPIServerMayCall(t *testing.T) {
	for _, name := range []string{"treasury", "vault", "safe"} {
		_, err := clients.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	open := newFleet(t)
	unprotected := open.add("open", nil)
	open.intercepted()
	forged(t, unprotected, "treasury", nil)
	require.Equal(t, 1, grants(t, "treasury"), "what there is to protect")
	require.NoError(t, unprotected.Stop())

	authorities := filepath.Join(t.TempDir(), "client-ca.crt")
	content, err := os.ReadFile(cluster.ClientCA())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(authorities, content, 0o600))
	f := newFleet(t, "--client-ca-file="+authorities, "--client-names="+caller)
	replicas := []*replica{f.add("a", nil), f.add("b", nil)}
	f.intercepted()
	finish := f.traffic()
	for who, certificates := range map[string][]tls.Certificate{
		"a stranger":        nil,
		"a user":            {certificate(t, "jane")},
		"the administrator": {certificate(t, "admin", "system:masters")},
	} {
		require.ErrorContains(t, forge(t, replicas[0], "vault", certificates), "tls: ", who)
	}
	require.Zero(t, grants(t, "vault"))
	forged(t, replicas[0], "safe", []tls.Certificate{certificate(t, caller)})
	require.Equal(t, 1, grants(t, "safe"), "the certificate makes the difference")
	finish()
	for _, r := range replicas {
		require.True(t, ready(r), "probes need no certificate")
	}
	logHolds(t, "a", `"level":"INFO"`, "TLS handshake error", "CN=jane", "carries none of the names "+caller)
}

// forge sends a replica an AdmissionReview in the administrator's name, for a route that nobody has written.
func forge(t *testing.T, r *replica, target string, certificates []tls.Certificate) error {
	t.Helper()
	review := fmt.Sprintf(`{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1", "operation": "CREATE",
		"kind": {"group": "gateway.networking.k8s.io", "version": "v1", "kind": "HTTPRoute"},
		"resource": {"group": "gateway.networking.k8s.io", "version": "v1", "resource": "httproutes"},
		"namespace": "aibrix-system", "name": "forged", "userInfo": {"username": "admin", "groups": ["system:masters"]},
		"object": {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
			"metadata": {"name": "forged", "namespace": "aibrix-system", "uid": "2"},
			"spec": {"parentRefs": [{"name": "aibrix-eg"}], "rules": [{"backendRefs": [{"name": "gold", "namespace": %q, "port": 80}]}]}}}}`, target)
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, Certificates: certificates},
	}}
	response, err := client.Post(r.WebhookURL+"/validate", "application/json", bytes.NewReader([]byte(review)))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && !bytes.Contains(body, []byte(`"allowed":true`)) {
		err = fmt.Errorf("HTTP %d: %s", response.StatusCode, body)
	}
	return err
}

// forged waits until a replica, which may not know the namespace yet, takes a forged AdmissionReview for a real one.
func forged(t *testing.T, r *replica, target string, certificates []tls.Certificate) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) { assert.NoError(c, forge(t, r, target, certificates)) }, soon, tick)
}

// grants counts the ReferenceGrants in a namespace.
func grants(t *testing.T, namespace string) int {
	t.Helper()
	content, err := clients.RESTClient().Get().AbsPath("/apis/gateway.networking.k8s.io/v1/namespaces", namespace, "referencegrants").Do(t.Context()).Raw()
	require.NoError(t, err)
	var list struct{ Items []any }
	require.NoError(t, json.Unmarshal(content, &list))
	return len(list.Items)
}

// certificate is a user's, of the authority that signs everybody's.
func certificate(t *testing.T, user string, groups ...string) tls.Certificate {
	t.Helper()
	config, err := cluster.ConfigFor(user, groups...)
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	require.NoError(t, err)
	return pair
}
