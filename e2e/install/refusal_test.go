package install

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const gatewayClass = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: shop}
spec: {controllerName: example.com/shop}
`

// TestUsedClustersAreRefused has one thing at a time in the cluster which shows that somebody else uses it.
func TestUsedClustersAreRefused(t *testing.T) {
	if missing != nil {
		t.Skip(missing)
	}
	c := *shared // used sets hasCRDs
	require.NoError(t, c.used(t.Context()))
	refused := func(why string, remove ...string) {
		t.Helper()
		assert.EqualError(t, c.used(t.Context()), why)
		c.admin(t, append([]string{"delete"}, remove...)...)
	}
	c.admin(t, "create", "namespace", models)
	refused("the namespace models is there", "namespace", models)

	c.admin(t, "-n", "default", "run", "shop", "--image=example.com/shop:v1")
	refused("there are Pods besides the cluster's own, such as default/shop", "-n", "default", "pod", "shop", "--now")

	c.admin(t, "create", "clusterrole", "routesteward", "--verb=get", "--resource=pods")
	c.admin(t, "label", "clusterrole", "routesteward", "app.kubernetes.io/name=routesteward")
	refused("routesteward is installed: [clusterrole.rbac.authorization.k8s.io/routesteward]", "clusterrole", "routesteward")

	certManager := "--filename=" + filepath.Join(certManagerCRDs, "cert-manager.io_certificates.yaml")
	c.admin(t, "apply", "--server-side", certManager)
	refused("cert-manager is installed", certManager)

	if !shared.hasCRDs {
		gatewayClasses := "--filename=" + filepath.Join(crds, "gateway.networking.k8s.io_gatewayclasses.yaml")
		c.admin(t, "apply", "--server-side", gatewayClasses)
		c.admin(t, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
		require.NoError(t, c.used(t.Context()), "the CRDs alone, as some distributions of Kubernetes have them")
		_, stderr, exit := c.kubectl(t.Context(), gatewayClass, "create", "-f", "-")
		require.Zero(t, exit, stderr)
		refused("there are objects of Gateway API: [gatewayclass.gateway.networking.k8s.io/shop]", gatewayClasses)
	}
	require.NoError(t, c.used(t.Context()))
}
