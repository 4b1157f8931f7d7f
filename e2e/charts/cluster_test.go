package charts

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/routesteward/routesteward/e2e/build"
	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/manifests"
	"github.com/routesteward/routesteward/manifests/manifeststest"
)

const (
	soon = time.Minute
	tick = 100 * time.Millisecond
)

type cluster struct {
	*localcluster.Cluster
	*kubernetes.Clientset
}

// start starts a control plane with the CRDs in these folders besides Gateway API's, and AIBrix's namespace.
func start(t *testing.T, crds ...string) *cluster {
	t.Helper()
	gateway, err := localcluster.GatewayAPI(t.Context(), "standard")
	require.NoError(t, err)
	c, err := localcluster.Start(t.Context(), localcluster.Options{CRDs: append(crds, gateway), Controllers: localcluster.DefaultControllers})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Stop()) })
	clients, err := kubernetes.NewForConfig(c.Config)
	require.NoError(t, err)
	require.NoError(t, c.MustKubectl(t.Context(), "create", "namespace", "aibrix-system"))
	return &cluster{c, clients}
}

func (c *cluster) helm(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	cmd := helmCommand(t, program, append(args, "--kubeconfig="+c.Kubeconfig)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *cluster) apply(t *testing.T, objects string, args ...string) (string, int) {
	t.Helper()
	out, errOut, exit := c.Kubectl(t.Context(), c.Kubeconfig, objects, append([]string{"apply", "-f", "-"}, args...)...)
	return out + errOut, exit
}

// Every object has only fields that the API server knows, and values that it takes; and it lets the Pods in where Pod
// Security is "restricted".
func TestAPIServerTakesEveryObject(t *testing.T) {
	c := start(t)
	out, exit := c.apply(t, manifests.Pick(manifests.Install, "Namespace", "ServiceAccount"))
	require.Zero(t, exit, out)
	// Without cert-manager's and the Prometheus operator's kinds: e2e/certs has the former.
	for name, values := range map[string]map[string]any{
		"defaults": {},
		"everything": {
			"replicas": 3, "namespace": map[string]any{"create": true}, "priorityClassName": "system-cluster-critical",
			"image":            map[string]any{"digest": "sha256:" + strings.Repeat("0", 64)},
			"imagePullSecrets": []any{map[string]any{"name": "pull"}},
			"flags":            map[string]any{"certs": "files", "client-names": []string{"kube-apiserver"}, "gateway-classes": []string{"shared"}},
			"certs":            map[string]any{"secretName": "mine"},
			"clientCA":         map[string]any{"secret": "client-ca"},
			"networkPolicy":    map[string]any{"apiServerCIDRs": []string{"10.0.0.0/28", "fd00::/64"}},
			"nodeSelector":     map[string]any{"pool": "system"},
			"tolerations":      []any{map[string]any{"key": "system", "operator": "Exists"}},
			"affinity": map[string]any{"nodeAffinity": map[string]any{"requiredDuringSchedulingIgnoredDuringExecution": map[string]any{
				"nodeSelectorTerms": []any{map[string]any{"matchExpressions": []any{map[string]any{"key": "arch", "operator": "Exists"}}}}}}},
			"podLabels": map[string]any{"team": "platform"}, "podAnnotations": map[string]any{"example.com/a": "b"},
			"env":               []any{map[string]any{"name": "ROUTESTEWARD_OUTSIDE", "value": "warn"}},
			"extraVolumes":      []any{map[string]any{"name": "config", "configMap": map[string]any{"name": "settings"}}},
			"extraVolumeMounts": []any{map[string]any{"name": "config", "mountPath": "/config"}},
			"observability":     map[string]any{"dashboard": map[string]any{"enabled": true}},
		},
		"one replica": {"replicas": 1, "flags": map[string]any{"leader-elect": false, "metrics-bind-address": "0"}},
	} {
		t.Run(name, func(t *testing.T) {
			rendered, failure := render(t, "helm", values)
			require.Empty(t, failure)
			content, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": rendered})
			require.NoError(t, err)
			out, exit := c.apply(t, string(content), "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
			require.Zero(t, exit, out)

			if name == "everything" { // a Pod's priority class and Secrets are looked up
				return
			}
			template := manifeststest.Pick[appsv1.Deployment](t, rendered, "Deployment", "routesteward").Spec.Template
			pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
			pod.GenerateName = "routesteward-"
			create := func(pod *corev1.Pod) error {
				_, err := c.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: "Strict"})
				return err
			}
			require.NoError(t, create(pod))
			pod.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil
			require.ErrorContains(t, create(pod), `violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false`)
		})
	}
}

// serve runs the program with the arguments of the Deployment that is in the cluster, as its service account. Nothing brings
// the API server's calls to it; it keeps the registration.
func (c *cluster) serve(t *testing.T, binary string) (stop func()) {
	t.Helper()
	deployment, err := c.AppsV1().Deployments(namespace).Get(t.Context(), "routesteward", metav1.GetOptions{})
	require.NoError(t, err)
	kubeconfig, err := c.ServiceAccountKubeconfig(t.Context(), namespace, "routesteward")
	require.NoError(t, err)
	ports, err := localcluster.FreePorts(3)
	require.NoError(t, err)
	health := fmt.Sprintf("127.0.0.1:%d", ports[0])
	process, err := localcluster.StartProcess(t.Context(), localcluster.ProcessOptions{
		Path: binary,
		Args: append(deployment.Spec.Template.Spec.Containers[0].Args,
			"--kubeconfig="+kubeconfig, "--shutdown-delay=0s", "--health-probe-bind-address="+health,
			fmt.Sprintf("--webhook-bind-address=127.0.0.1:%d", ports[1]), fmt.Sprintf("--metrics-bind-address=127.0.0.1:%d", ports[2])),
		Log:   filepath.Join(t.TempDir(), "routesteward.log"),
		Ready: localcluster.HTTPReady(nil, "http://"+health+"/readyz"),
	})
	require.NoError(t, err)
	stop = func() { require.NoError(t, process.Stop()) }
	t.Cleanup(stop)
	return stop
}

func (c *cluster) validating(ctx context.Context) (*admissionv1.ValidatingWebhookConfiguration, error) {
	return c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(ctx, "routesteward", metav1.GetOptions{})
}

// inStep waits until the registration is complete: every webhook has its authority, and these are the resources that each
// validating one is about, and the number of mutating ones.
func (c *cluster) inStep(t *testing.T, mutating int, resources ...string) *admissionv1.ValidatingWebhookConfiguration {
	t.Helper()
	var current *admissionv1.ValidatingWebhookConfiguration
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		var err error
		current, err = c.validating(context.Background())
		require.NoError(t, err)
		var found []string
		for _, webhook := range current.Webhooks {
			require.NotEmpty(t, webhook.ClientConfig.CABundle)
			require.NotEmpty(t, webhook.MatchConditions)
			found = append(found, strings.Join(webhook.Rules[0].Resources, ","))
		}
		require.Equal(t, resources, found)
		others, err := c.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(context.Background(), "routesteward", metav1.GetOptions{})
		require.NoError(t, err)
		require.Len(t, others.Webhooks, mutating)
		for _, webhook := range others.Webhooks {
			require.NotEmpty(t, webhook.ClientConfig.CABundle)
		}
	}, soon, tick)
	return current
}

// keeps reports every state of the registration, after this one, in which the API server could not have trusted routesteward.
func (c *cluster) keeps(t *testing.T, current *admissionv1.ValidatingWebhookConfiguration) (check func()) {
	t.Helper()
	events, err := c.AdmissionregistrationV1().ValidatingWebhookConfigurations().Watch(t.Context(),
		metav1.ListOptions{ResourceVersion: current.ResourceVersion, FieldSelector: "metadata.name=routesteward"})
	require.NoError(t, err)
	return func() {
		last, err := c.validating(t.Context())
		require.NoError(t, err)
		seen := current
		for seen.ResourceVersion != last.ResourceVersion {
			event, ok := <-events.ResultChan()
			require.True(t, ok, "the watch has ended")
			require.Equal(t, watch.Modified, event.Type)
			seen = event.Object.(*admissionv1.ValidatingWebhookConfiguration)
			for _, webhook := range seen.Webhooks {
				require.NotEmpty(t, webhook.ClientConfig.CABundle, "%s at resourceVersion %s", webhook.Name, seen.ResourceVersion)
			}
		}
		events.Stop()
	}
}

// Whoever installs it, an upgrade leaves what routesteward keeps in the registration, at every moment, and never ends in a
// conflict; what was deleted in an emergency comes back with it; and nothing stays that could refuse a write.
func TestLife(t *testing.T) {
	c := start(t)
	binary, err := build.Program("")
	require.NoError(t, err)
	flags := `{"flags": {"gateway-classes": ["shared"], "kinds": ["HTTPRoute"], "outside": "rewrite"}}`
	changed := filepath.Join(t.TempDir(), "changed.json")
	require.NoError(t, os.WriteFile(changed, []byte(flags), 0o600))

	for _, test := range []struct {
		name, program string
		args          []string
	}{
		{"Helm 4", "helm", nil},
		{"Helm 4, client-side", "helm", []string{"--server-side=false"}},
		{"Helm 3", "helm3", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			helm := func(args ...string) {
				t.Helper()
				if args[0] != "uninstall" {
					args = append(args, test.args...)
				}
				out, err := c.helm(t, test.program, args...)
				require.NoError(t, err, "helm %s: %s", args, out)
			}
			helm("install", "routesteward", chart, "--create-namespace")
			stop := c.serve(t, binary)
			both, grants := "httproutes,grpcroutes", "referencegrants"
			current := c.inStep(t, 0, both, grants)

			check := c.keeps(t, current)
			helm("upgrade", "routesteward", chart)
			check()
			require.Equal(t, current.Webhooks, c.inStep(t, 0, both, grants).Webhooks, "an upgrade without a change")

			check = c.keeps(t, current)
			helm("upgrade", "routesteward", chart, "--values="+changed)
			stop()
			stop = c.serve(t, binary)
			current = c.inStep(t, 1, both, grants, "gateways")
			helm("upgrade", "routesteward", chart, "--values="+changed)
			require.Equal(t, current.Webhooks, c.inStep(t, 1, both, grants, "gateways").Webhooks)
			check()

			check = c.keeps(t, current)
			helm("rollback", "routesteward", "1")
			stop()
			stop = c.serve(t, binary)
			current = c.inStep(t, 0, both, grants)
			check()

			// Break-glass and back.
			require.NoError(t, c.MustKubectl(t.Context(), "delete", "validatingwebhookconfiguration,mutatingwebhookconfiguration", "routesteward"))
			helm("upgrade", "routesteward", chart)
			require.Equal(t, current.Webhooks, c.inStep(t, 0, both, grants).Webhooks)

			helm("uninstall", "routesteward")
			_, err := c.validating(t.Context())
			require.True(t, apierrors.IsNotFound(err), err)
			_, err = c.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), "routesteward", metav1.GetOptions{})
			require.True(t, apierrors.IsNotFound(err), err)
			stop()
			out, _, exit := c.Kubectl(t.Context(), c.Kubeconfig, "", "get", "-o=name", "--all-namespaces",
				"--selector=app.kubernetes.io/name=routesteward", "clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts,deployments,services,networkpolicies,poddisruptionbudgets,"+
					"validatingadmissionpolicies,validatingadmissionpolicybindings")
			require.Zero(t, exit)
			require.Empty(t, out)
		})
	}

	for _, test := range []struct {
		name string
		args []string
	}{{"kubectl", nil}, {"kubectl, server-side", []string{"--server-side"}}} {
		t.Run(test.name, func(t *testing.T) {
			apply := func() {
				t.Helper()
				out, exit := c.apply(t, manifests.Install, test.args...)
				require.Zero(t, exit, out)
			}
			apply()
			stop := c.serve(t, binary)
			both, grants := "httproutes,grpcroutes", "referencegrants"
			current := c.inStep(t, 0, both, grants)
			check := c.keeps(t, current)
			apply()
			check()
			require.Equal(t, current.Webhooks, c.inStep(t, 0, both, grants).Webhooks)
			require.NoError(t, c.MustKubectl(t.Context(), "delete", "validatingwebhookconfiguration,mutatingwebhookconfiguration", "routesteward"))
			apply()
			require.Equal(t, current.Webhooks, c.inStep(t, 0, both, grants).Webhooks)
			stop()
			_, errOut, exit := c.Kubectl(t.Context(), c.Kubeconfig, manifests.Install, "delete", "-f", "-")
			require.Zero(t, exit, errOut)
		})
	}
}

// A cluster that lacks what routesteward needs is told at once.
func TestClusterIsLookedAt(t *testing.T) {
	t.Run("no Gateway API", func(t *testing.T) {
		bare, err := localcluster.Start(t.Context(), localcluster.Options{CRDs: []string{}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, bare.Stop()) })
		for _, program := range []string{"helm", "helm3"} {
			out, err := (&cluster{Cluster: bare}).helm(t, program, "install", "routesteward", chart, "--create-namespace")
			require.Error(t, err)
			require.Contains(t, out, "install the Gateway API first")
		}
	})
	t.Run("no system namespace, no cert-manager", func(t *testing.T) {
		c := start(t)
		for _, program := range []string{"helm", "helm3"} {
			out, err := c.helm(t, program, "install", "routesteward", chart, "--create-namespace", "--set=flags.system-namespace=elsewhere")
			require.Error(t, err)
			require.Contains(t, out, `there is no namespace "elsewhere": install AIBrix first`)
			out, err = c.helm(t, program, "install", "routesteward", chart, "--create-namespace", "--set=flags.certs=cert-manager")
			require.Error(t, err)
			require.Contains(t, out, "install cert-manager first")
		}
	})
}
