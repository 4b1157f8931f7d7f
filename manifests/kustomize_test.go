package manifests_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/manifests"
	"github.com/routesteward/routesteward/manifests/manifeststest"
	"github.com/routesteward/routesteward/policy"
)

// TestKustomizeExample builds the example with kubectl's kustomize: what it changes arrives, everything else is as in install.yaml.
func TestKustomizeExample(t *testing.T) {
	base, err := os.ReadFile(filepath.Join("kustomize", "base", "install.yaml"))
	require.NoError(t, err)
	require.Equal(t, manifests.Install, string(base), "make generate")

	root, err := localcluster.Root()
	require.NoError(t, err)
	build := func(folder string) string {
		cmd := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "controlplane", "kubectl"), "kustomize", filepath.Join("kustomize", folder))
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		require.NoError(t, err)
		return string(out)
	}
	plain, changed := manifeststest.Objects(t, build("base")), manifeststest.Objects(t, build("example"))
	require.Len(t, plain, len(manifeststest.Objects(t, manifests.Install)))
	require.Len(t, changed, len(plain))
	for i := range plain {
		if kind := plain[i].GetKind(); kind != "Deployment" && kind != "NetworkPolicy" {
			require.Equal(t, plain[i], changed[i])
		}
	}
	deployment := manifeststest.Pick[appsv1.Deployment](t, changed, "Deployment", "routesteward")
	require.EqualValues(t, 3, *deployment.Spec.Replicas)
	container := deployment.Spec.Template.Spec.Containers[0]
	require.Regexp(t, "^registry.example.com/routesteward:", container.Image)
	_, config, _ := manifeststest.Parse(t, container.Args)
	require.Equal(t, policy.OutsideWarn, config.Outside)
	require.Equal(t, policy.ConsentNamespace, config.GrantConsent)
	require.Equal(t, []string{"firefighters"}, config.ExemptGroups)
	network := manifeststest.Pick[networkingv1.NetworkPolicy](t, changed, "NetworkPolicy", "routesteward")
	require.Equal(t, "192.0.2.0/28", network.Spec.Ingress[0].From[0].IPBlock.CIDR)
}
