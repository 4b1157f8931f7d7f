package localcluster_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/routesteward/routesteward/hack/localcluster"
)

func start(t *testing.T, options localcluster.Options) *localcluster.Cluster {
	t.Helper()
	options.Dir = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cluster, err := localcluster.Start(ctx, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Stop()) })
	return cluster
}

const route = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: llama, namespace: team-a}
spec:
  rules:
  - backendRefs: [{name: llama, port: 8000}]
`

func TestUsersHaveTheRightsThatRBACGives(t *testing.T) {
	cluster := start(t, localcluster.Options{Controllers: localcluster.DefaultControllers, Audit: true})
	ctx := t.Context()
	require.NoError(t, cluster.MustKubectl(ctx, "create", "namespace", "team-a"))

	kubeconfig, err := cluster.KubeconfigFor("alice", "team-a-people")
	require.NoError(t, err)
	stdout, _, exit := cluster.Kubectl(ctx, kubeconfig, "", "auth", "whoami", "-o", "json")
	require.Equal(t, 0, exit)
	require.Contains(t, stdout, `"username": "alice"`)
	require.Contains(t, stdout, `"team-a-people"`)

	stdout, stderr, exit := cluster.Kubectl(ctx, kubeconfig, route, "create", "-f", "-")
	require.Equal(t, 1, exit)
	require.Empty(t, stdout)
	require.Contains(t, stderr, `User "alice" cannot create resource "httproutes"`)

	require.NoError(t, cluster.MustKubectl(ctx, "create", "role", "routes", "-n", "team-a", "--verb=create", "--resource=httproutes.gateway.networking.k8s.io"))
	require.NoError(t, cluster.MustKubectl(ctx, "create", "rolebinding", "routes", "-n", "team-a", "--role=routes", "--group=team-a-people"))
	require.EventuallyWithT(t, func(t *assertion) {
		stdout, stderr, exit = cluster.Kubectl(ctx, kubeconfig, route, "create", "-f", "-")
		require.Equal(t, 0, exit, stderr)
	}, 10*time.Second, 100*time.Millisecond)
	require.Equal(t, "httproute.gateway.networking.k8s.io/llama created\n", stdout)

	t.Run("service account", func(t *testing.T) {
		kubeconfig, err := cluster.ServiceAccountKubeconfig(ctx, "team-a", "default")
		require.NoError(t, err)
		stdout, _, exit := cluster.Kubectl(ctx, kubeconfig, "", "auth", "whoami", "-o", "json")
		require.Equal(t, 0, exit)
		require.Contains(t, stdout, `"username": "system:serviceaccount:team-a:default"`)
	})

	t.Run("audit log", func(t *testing.T) {
		content, err := os.ReadFile(cluster.AuditLog())
		require.NoError(t, err)
		var codes []int
		for line := range strings.Lines(string(content)) {
			var event struct {
				User           struct{ Username string }
				ObjectRef      struct{ Resource string }
				ResponseStatus struct{ Code int }
			}
			require.NoError(t, json.Unmarshal([]byte(line), &event))
			if event.User.Username == "alice" && event.ObjectRef.Resource == "httproutes" {
				codes = append(codes, event.ResponseStatus.Code)
			}
		}
		require.NotEmpty(t, codes)
		require.Equal(t, 403, codes[0])
		require.Equal(t, 201, codes[len(codes)-1])
	})

	t.Run("deletion of a namespace with routes in it finishes", func(t *testing.T) {
		require.NoError(t, cluster.MustKubectl(ctx, "delete", "namespace", "team-a", "--timeout=60s"))
		client, err := kubernetes.NewForConfig(cluster.Config)
		require.NoError(t, err)
		_, err = client.CoreV1().Namespaces().Get(ctx, "team-a", metav1.GetOptions{})
		require.True(t, apierrors.IsNotFound(err), "%v", err)
	})
}

func TestGatewayAPI12ServesReferenceGrantAsV1beta1Only(t *testing.T) {
	crds, err := localcluster.GatewayAPI12(t.Context(), "standard")
	require.NoError(t, err)
	cluster := start(t, localcluster.Options{CRDs: []string{crds}})

	client, err := kubernetes.NewForConfig(cluster.Config)
	require.NoError(t, err)
	serves := func(version string) bool {
		list, err := client.Discovery().ServerResourcesForGroupVersion("gateway.networking.k8s.io/" + version)
		require.NoError(t, err)
		for _, resource := range list.APIResources {
			if resource.Kind == "ReferenceGrant" {
				return true
			}
		}
		return false
	}
	require.True(t, serves("v1beta1"))
	require.False(t, serves("v1"))
}

func TestStopLeavesNothing(t *testing.T) {
	cluster, err := localcluster.Start(t.Context(), localcluster.Options{Controllers: localcluster.DefaultControllers})
	require.NoError(t, err)
	require.NoError(t, cluster.Exited())
	require.Len(t, children(t, os.Getpid()), 3, "etcd, kube-apiserver, kube-controller-manager")

	require.NoError(t, cluster.Stop())
	require.NoError(t, cluster.Stop(), "a second time")
	require.Empty(t, children(t, os.Getpid()))
	require.NoDirExists(t, cluster.Dir)
}

func TestStartThatFailsLeavesNothing(t *testing.T) {
	_, err := localcluster.Start(t.Context(), localcluster.Options{APIServerFlags: []string{"--no-such-flag"}})
	require.ErrorContains(t, err, "kube-apiserver exited before it was ready")
	require.ErrorContains(t, err, "unknown flag: --no-such-flag", "the reason is in the error")
	require.Empty(t, children(t, os.Getpid()))
}
