package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/node"
)

const (
	team, models           = "team-a", "models"
	installYAML            = "../../manifests/install.yaml"
	installCertManagerYAML = "../../manifests/install-cert-manager.yaml"
	configs                = "validatingwebhookconfiguration,mutatingwebhookconfiguration"
)

func route(namespace, name, backend string) string {
	in := ""
	if target, service, found := strings.Cut(backend, "/"); found {
		in, backend = ", namespace: "+target, service
	}
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: %s}
spec:
  parentRefs: [{name: aibrix-eg, namespace: aibrix-system}]
  rules: [{backendRefs: [{name: %s, port: 8000%s}]}]
`, name, namespace, backend, in)
}

// jane is a tenant.
var jane = []string{"--as=jane", "--as-group=" + team}

// create creates a route as a tenant, or as whom the flags name, and returns what kubectl prints.
func (c *cluster) create(t *testing.T, route string, as ...string) string {
	t.Helper()
	if len(as) == 0 {
		as = jane
	}
	stdout, stderr, _ := c.kubectl(t.Context(), route, append([]string{"create", "-f", "-"}, as...)...)
	return stdout + stderr
}

// dryRun is what kubectl prints to a tenant who would create a route outside the system namespace. Nothing is stored.
func (c *cluster) dryRun(t *testing.T) string {
	return c.create(t, route(team, "outside", "llama"), append(jane, "--dry-run=server")...)
}

// says waits until what the call returns contains the words: a changed registration is seen after a second.
func says(t *testing.T, words string, call func() string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) { assert.Contains(c, call(), words) }, soon, tick)
}

// refuses waits until a tenant's route outside is refused by routesteward.
func (c *cluster) refuses(t *testing.T) {
	t.Helper()
	says(t, `admission webhook "routes.routesteward.dev" denied the request: HTTPRoute "outside" in namespace "team-a" has 1 problem`, func() string { return c.dryRun(t) })
}

func (c *cluster) grants(t *testing.T) string {
	t.Helper()
	return c.admin(t, "get", "referencegrants", "-A", "-o", "name", "-l", "app.kubernetes.io/managed-by=routesteward")
}

func TestInstallYAML(t *testing.T) {
	c := startWithGatewayAPI(t)
	c.install(t)
	manifest := c.manifest(t, installYAML)
	t.Run("two replicas are ready, and one may be evicted", func(t *testing.T) {
		require.Equal(t, "2/2", c.admin(t, "-n", own, "get", "deployment", "routesteward", "-o", "jsonpath={.status.availableReplicas}/{.spec.replicas}"))
		require.EventuallyWithT(t, func(collect *assert.CollectT) {
			out, _, _ := c.kubectl(t.Context(), "", "-n", own, "get", "poddisruptionbudget", "routesteward", "-o", "jsonpath={.status.currentHealthy} {.status.disruptionsAllowed}")
			assert.Equal(collect, "2 1", out)
		}, soon, tick)
	})
	t.Run("a tenant's routes are evaluated, through the Service", func(t *testing.T) {
		c.refuses(t)
		require.Contains(t, c.create(t, route(team, "outside", "llama")), "[route-outside-system-namespace]")
		says(t, "httproute.gateway.networking.k8s.io/llama-router created", func() string { return c.create(t, route(system, "llama-router", models+"/llama")) })
		require.Contains(t, c.grants(t), "routesteward-llama-")
	})
	t.Run("the registration leads to the Service and trusts its certificate", func(t *testing.T) {
		services := c.admin(t, "get", "validatingwebhookconfiguration", "routesteward",
			"-o", `jsonpath={range .webhooks[*]}{.clientConfig.service.namespace}/{.clientConfig.service.name} {.clientConfig.url}{"\n"}{end}`)
		for line := range strings.Lines(services) {
			require.Equal(t, own+"/routesteward", strings.TrimSpace(line))
		}
		require.NotEmpty(t, c.admin(t, "get", "validatingwebhookconfiguration", "routesteward", "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}"))
	})
	t.Run("it is its Pod's service account, by a projected token", func(t *testing.T) {
		c.needsNode(t, "the API server's audit log shows the token")
		events := c.writes(t)
		require.NotEmpty(t, events)
		for _, event := range events {
			require.Len(t, event.User.Extra["authentication.kubernetes.io/pod-name"], 1)
			require.Contains(t, event.User.Extra["authentication.kubernetes.io/pod-name"][0], "routesteward-")
		}
	})
	t.Run("it runs with what the Pod's securityContext leaves it", func(t *testing.T) {
		c.needsNode(t, "its processes can be seen")
		c.confined(t)
	})
	t.Run("Pod Security lets nothing privileged into its namespace", func(t *testing.T) {
		_, stderr, exit := c.kubectl(t.Context(), "", "-n", own, "run", "privileged", "--image=x", "--privileged", "--dry-run=server")
		require.NotEqual(t, 0, exit)
		require.Contains(t, stderr, `violates PodSecurity "restricted`)
	})
	t.Run("applying it again changes nothing", func(t *testing.T) {
		generations := func() string {
			return c.admin(t, "get", "-f", manifest, "-o", `jsonpath={range .items[?(@.metadata.generation)]}{.kind}/{.metadata.name} {.metadata.generation}{"\n"}{end}`)
		}
		before := generations()
		require.Contains(t, before, "Deployment/routesteward 1")
		for line := range strings.Lines(c.admin(t, "apply", "-f", manifest)) {
			// kubectl sends some lists again, such as empty ones; generations tell that nothing comes of it.
			if kind, _, _ := strings.Cut(line, "."); !strings.Contains(strings.ToLower(before), kind+"/") {
				require.Contains(t, line, " unchanged")
			}
		}
		// An empty list is written where routesteward has written none.
		without := func(s string) string { return mutating.ReplaceAllString(s, "") }
		require.Equal(t, without(before), without(generations()))
	})
	t.Run("break-glass", func(t *testing.T) { c.breakGlass(t, manifest) })
	t.Run("uninstalling leaves routes and grants, and nothing that refuses", func(t *testing.T) {
		c.admin(t, "delete", "-f", manifest)
		require.Empty(t, c.admin(t, "get", configs, "-o", "name"))
		says(t, "created", func() string { return c.create(t, route(team, "afterwards", "llama")) })
		require.Equal(t, "llama-router", c.admin(t, "-n", system, "get", "httproute", "llama-router", "-o", "jsonpath={.metadata.name}"))
		require.Contains(t, c.grants(t), "routesteward-llama-", "removed by whoever wants that")
	})
}

var mutating = regexp.MustCompile(`MutatingWebhookConfiguration/.*\n`)

// auditEvent is how the API server's audit log shows a request.
type auditEvent struct {
	Verb string
	User struct {
		Username string
		// Extra has the Pod that a token is bound to.
		Extra map[string][]string
	}
}

// writes are the writes of routesteward's service account.
func (c *cluster) writes(t *testing.T) []auditEvent {
	t.Helper()
	content, err := os.ReadFile(c.node.AuditLog())
	require.NoError(t, err)
	var events []auditEvent
	for line := range bytes.Lines(content) {
		var event auditEvent
		require.NoError(t, json.Unmarshal(line, &event))
		if event.User.Username == "system:serviceaccount:"+own+":routesteward" && !slices.Contains([]string{"get", "list", "watch"}, event.Verb) {
			events = append(events, event)
		}
	}
	return events
}

// confined looks at the processes. The user is another one where the platform has root make the namespaces only.
func (c *cluster) confined(t *testing.T) {
	pods, err := c.node.Clients.CoreV1().Pods(own).List(t.Context(), metav1.ListOptions{FieldSelector: "status.phase=" + string(corev1.PodRunning)})
	require.NoError(t, err)
	require.Len(t, pods.Items, 2)
	for _, pod := range pods.Items {
		process, err := c.node.Container(own, pod.Name)
		require.NoError(t, err)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", process.PID()))
		require.NoError(t, err)
		require.Contains(t, string(status), "NoNewPrivs:\t1\n")
		require.Contains(t, string(status), "CapEff:\t0000000000000000\n")
		require.Contains(t, string(status), "CapBnd:\t0000000000000000\n")
		if os.Getuid() == 0 && !node.InUserNamespace() {
			require.Contains(t, string(status), "Uid:\t65532\t65532\t65532\t65532\n")
		}
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", process.PID()))
		require.NoError(t, err)
		root := ""
		for line := range strings.Lines(string(mounts)) {
			if fields := strings.Fields(line); fields[4] == "/" {
				root = fields[5]
			}
		}
		require.Contains(t, strings.Split(root, ","), "ro")
	}
}

// firefighters is a group, and the binding that makes its members administrators.
const firefighters = "firefighters"

func (c *cluster) breakGlass(t *testing.T, manifest string) {
	c.admin(t, "-n", own, "set", "env", "deployment/routesteward", "ROUTESTEWARD_EXEMPT_GROUPS="+firefighters)
	c.admin(t, "create", "clusterrolebinding", firefighters, "--clusterrole=cluster-admin", "--group="+firefighters)
	c.rolledOut(t)
	says(t, "created", func() string {
		return c.create(t, route(team, "urgent", "llama"), "--as=bob", "--as-group="+firefighters)
	})
	require.Contains(t, c.create(t, route(team, "patient", "llama")), "denied the request", "others are not exempt")

	c.admin(t, "delete", configs, "routesteward")
	says(t, "created", func() string { return c.create(t, route(team, "unchecked", "llama")) })
	c.admin(t, "-n", own, "rollout", "restart", "deployment/routesteward")
	c.rolledOut(t)
	require.Empty(t, c.admin(t, "get", configs, "-o", "name"), "it does not come back by itself, not with a new leader either")

	c.admin(t, "apply", "-f", manifest)
	c.refuses(t)
}

// TestInstallCertManagerYAML has the real cert-manager make the certificates, which reach the Pods as their Secret.
func TestInstallCertManagerYAML(t *testing.T) {
	c := startWithGatewayAPI(t, certManagerCRDs)
	root, err := localcluster.Root()
	require.NoError(t, err)
	certManager, err := localcluster.StartProcess(t.Context(), localcluster.ProcessOptions{
		Path: filepath.Join(root, "bin", "certmanager", "certmanager"), Args: []string{"--kubeconfig=" + c.kubeconfig},
		Log: filepath.Join(t.TempDir(), "certmanager.log"),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, certManager.Stop()) })
	c.admin(t, "apply", "-f", c.manifest(t, installCertManagerYAML))
	c.rolledOut(t)
	c.refuses(t)
	says(t, "httproute.gateway.networking.k8s.io/llama-router created", func() string { return c.create(t, route(system, "llama-router", models+"/llama")) })
	authority := c.admin(t, "-n", own, "get", "secret", "routesteward-tls", "-o", `jsonpath={.data.ca\.crt}`)
	require.NotEmpty(t, authority)
	for caBundle := range strings.FieldsSeq(c.admin(t, "get", "validatingwebhookconfiguration", "routesteward", "-o", "jsonpath={.webhooks[*].clientConfig.caBundle}")) {
		require.Equal(t, authority, caBundle)
	}
	require.NotContains(t, c.admin(t, "-n", own, "get", "secrets", "-o", "name"), "secret/routesteward-ca\n", "routesteward has no authority of its own")
}

// TestHelm installs from the chart, changes a flag, and uninstalls.
func TestHelm(t *testing.T) {
	c := startWithGatewayAPI(t)
	helm := func(args ...string) {
		t.Helper()
		stdout, stderr, exit := c.run(t.Context(), "", c.tool("helm", "helm"), args...)
		require.Zero(t, exit, "helm %v: %s%s", args, stdout, stderr)
	}
	set := func(more ...string) []string {
		args := append([]string{"routesteward", "../../manifests/chart", "-n", own, "--wait", "--timeout=" + soon.String()}, more...)
		if image := os.Getenv("IMAGE"); image != "" && c.node == nil {
			repository, digest, found := strings.Cut(image, "@")
			if found {
				return append(args, "--set=image.repository="+repository, "--set=image.digest="+digest)
			}
			colon := strings.LastIndexByte(image, ':')
			require.Positive(t, colon, "IMAGE must have a tag or a digest")
			return append(args, "--set=image.repository="+image[:colon], "--set-string=image.tag="+image[colon+1:])
		}
		return args
	}
	c.admin(t, "create", "namespace", own)
	c.admin(t, "label", "namespace", own, "pod-security.kubernetes.io/enforce=restricted")
	helm(append([]string{"install"}, set()...)...)
	c.refuses(t)
	says(t, "created", func() string { return c.create(t, route(system, "llama-router", models+"/llama")) })

	helm(append([]string{"upgrade"}, set("--set=flags.outside=warn")...)...)
	says(t, "Warning: ", func() string { return c.dryRun(t) })

	helm("uninstall", "routesteward", "-n", own, "--wait", "--timeout="+soon.String())
	require.Empty(t, c.admin(t, "get", configs, "-o", "name"))
	require.Empty(t, c.admin(t, "get", "clusterrole,clusterrolebinding,validatingadmissionpolicy", "-o", "name", "-l", "app.kubernetes.io/name=routesteward"))
	says(t, "created", func() string { return c.create(t, route(team, "afterwards", "llama")) })
	require.Equal(t, "llama-router", c.admin(t, "-n", system, "get", "httproute", "llama-router", "-o", "jsonpath={.metadata.name}"))
	require.Contains(t, c.grants(t), "routesteward-llama-")
	c.admin(t, "delete", "referencegrants", "-A", "-l", "app.kubernetes.io/managed-by=routesteward")
	require.Empty(t, c.grants(t), "the explicit choice")
}
