package e2e

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/hack/localcluster"
)

// TestAStoppingReplicaServesUntilItIsOutOfTheService starts a second replica, a follower that the API server does not call, and stops
// it: unready first, then still serving, then gone, with exit code 0.
func TestAStoppingReplicaServesUntilItIsOutOfTheService(t *testing.T) {
	w := serving(t)
	replica, err := w.Serve(t.Context(), localcluster.ServeOptions{
		Binary: binary, Name: "second", Flags: []string{"--shutdown-delay=3s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = replica.Stop() })
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	review := []byte(`{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1", "operation": "DELETE",
		"kind": {"group": "gateway.networking.k8s.io", "version": "v1", "kind": "HTTPRoute"}}}`)
	answers := func() bool {
		response, err := client.Post(replica.WebhookURL+"/validate", "application/json", bytes.NewReader(review))
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return err == nil && bytes.Contains(body, []byte(`"allowed":true`))
	}
	ready := func() bool {
		response, err := http.Get(replica.HealthURL)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	}
	require.True(t, ready())
	require.True(t, answers())
	replica.Signal(syscall.SIGTERM)
	require.Eventually(t, func() bool { return !ready() }, soon, tick/10)
	require.True(t, answers(), "an unready replica still answers the calls that are on their way")
	<-replica.Done()
	require.NoError(t, replica.Err())
	require.False(t, answers())
}
