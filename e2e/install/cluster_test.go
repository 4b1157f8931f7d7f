package install

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/node"
)

// tenants has the namespaces and the rights of team-a, whose routes are tested, and whose models are in the namespace models.
const tenants = "../../hack/node/ha/tenants.yaml"

// namespaces are those of the tests, which must not be there before, and are not afterwards.
var namespaces = []string{own, system, team, models, "closed"}

// cluster is where the tests install. Each finds it without anything of theirs, and leaves it so.
type cluster struct {
	kubeconfig string
	config     *rest.Config
	// dir is for what kubectl and helm keep.
	dir string
	// node is nil for a cluster that the tests have not started.
	node *node.Cluster
	// hasCRDs is set where Gateway API's CRDs were there before, which then stay.
	hasCRDs bool
}

// connect returns the cluster of KUBECONFIG's current context, and how people know it. A change of context does not matter
// from here on.
func connect(dir string) (*cluster, string, error) {
	config, err := clientcmd.NewDefaultClientConfigLoadingRules().Load()
	if err == nil {
		err = errors.Join(clientcmdapi.MinifyConfig(config), clientcmdapi.FlattenConfig(config))
	}
	if err != nil {
		return nil, "", fmt.Errorf("KUBECONFIG: %w", err)
	}
	c := &cluster{kubeconfig: filepath.Join(dir, "kubeconfig"), dir: dir}
	if err := clientcmd.WriteToFile(*config, c.kubeconfig); err != nil {
		return nil, "", err
	}
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig); err != nil {
		return nil, "", err
	}
	context := config.Contexts[config.CurrentContext]
	return c, fmt.Sprintf("the context %q, cluster %q at %s", config.CurrentContext, context.Cluster, c.config.Host), nil
}

// used returns an error for a cluster that somebody else seems to use.
func (c *cluster) used(ctx context.Context) error {
	list := func(args ...string) ([]string, error) {
		stdout, stderr, exit := c.kubectl(ctx, "", args...)
		if exit != 0 {
			return nil, fmt.Errorf("kubectl %s: %s", strings.Join(args, " "), stderr)
		}
		return strings.Fields(stdout), nil
	}
	there, err := list("get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}")
	if err != nil {
		return err
	}
	for _, name := range namespaces {
		if slices.Contains(there, name) {
			return fmt.Errorf("the namespace %s is there", name)
		}
	}
	pods, err := list("get", "pods", "-A", "-o", `jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}`)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		namespace, _, _ := strings.Cut(pod, "/")
		if !strings.HasPrefix(namespace, "kube-") && !strings.HasSuffix(namespace, "-system") && namespace != "local-path-storage" {
			return fmt.Errorf("there are Pods besides the cluster's own, such as %s", pod)
		}
	}
	if found, err := list("get", installed, "-l", "app.kubernetes.io/name=routesteward", "-o", "name"); err != nil || len(found) > 0 {
		return cmp.Or(err, fmt.Errorf("routesteward is installed: %v", found))
	}
	if found, err := list("api-resources", "--api-group=cert-manager.io", "-o", "name"); err != nil || len(found) > 0 {
		return cmp.Or(err, errors.New("cert-manager is installed"))
	}
	kinds, err := list("api-resources", "--api-group=gateway.networking.k8s.io", "--verbs=list", "-o", "name")
	if err != nil {
		return err
	}
	if c.hasCRDs = len(kinds) > 0; c.hasCRDs {
		if found, err := list("get", strings.Join(kinds, ","), "-A", "-o", "name"); err != nil || len(found) > 0 {
			return cmp.Or(err, fmt.Errorf("there are objects of Gateway API: %v", found))
		}
	}
	return nil
}

// installed are the kinds that routesteward's installation has without a namespace.
const installed = configs + ",validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,clusterrolebindings"

// start prepares the cluster for a test, and has everything removed after it.
func start(t *testing.T, crds ...string) *cluster {
	t.Helper()
	if missing != nil {
		t.Skip(missing)
	}
	c, began := shared, time.Now()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if t.Failed() {
			c.printLogs(ctx, began)
		}
		if c.node != nil {
			require.NoError(t, c.node.Exited())
		}
		c.clear(ctx, t, crds)
	})
	// What the test before installed is enforced for a moment after its deletion: newer CRDs come with a policy that refuses
	// older ones.
	apply := func(args ...string) {
		require.EventuallyWithT(t, func(collect *assert.CollectT) {
			_, stderr, exit := c.kubectl(t.Context(), "", append([]string{"apply", "--server-side"}, args...)...)
			assert.Zero(collect, exit, "kubectl apply %v: %s", args, stderr)
		}, soon, time.Second)
	}
	for _, dir := range crds {
		apply(files(t, dir)...)
	}
	c.admin(t, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
	apply("-f", tenants)
	return c
}

// startWithGatewayAPI is start with Gateway API's CRDs, unless they are there.
func startWithGatewayAPI(t *testing.T, more ...string) *cluster {
	t.Helper()
	if shared != nil && shared.hasCRDs {
		return start(t, more...)
	}
	return start(t, append(more, crds)...)
}

func (c *cluster) clear(ctx context.Context, t *testing.T, crds []string) {
	remove := func(args ...string) {
		_, stderr, exit := c.kubectl(ctx, "", append([]string{"delete", "--ignore-not-found"}, args...)...)
		assert.Zero(t, exit, "kubectl delete %v: %s", args, stderr)
	}
	// First what would refuse the rest.
	remove(installed, "-l", "app.kubernetes.io/name=routesteward")
	remove("clusterrolebinding", firefighters)
	remove(append([]string{"namespace"}, namespaces...)...)
	for _, dir := range crds {
		remove(files(t, dir)...)
	}
	// Which kinds and versions there are.
	assert.NoError(t, os.RemoveAll(filepath.Join(c.dir, "kubectl")))
}

// files are kubectl's flags for the CRDs in a folder.
func files(t *testing.T, dir string) (flags []string) {
	all, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, all)
	for _, file := range all {
		if filepath.Base(file) != "kustomization.yaml" {
			flags = append(flags, "--filename="+file)
		}
	}
	return flags
}

// needsNode skips a test of what only a cluster of hack/node can do.
func (c *cluster) needsNode(t *testing.T, why string) {
	if c.node == nil {
		t.Skip("only with the node on this machine, without KUBECONFIG: " + why)
	}
}

// printLogs prints how the logs of routesteward's replicas end.
func (c *cluster) printLogs(ctx context.Context, since time.Time) {
	const lines = 10
	if c.node == nil {
		logs, stderr, _ := c.kubectl(ctx, "", "-n", own, "logs", "-l", "app.kubernetes.io/name=routesteward", "--prefix", "--tail", fmt.Sprint(lines))
		fmt.Fprintln(os.Stderr, logs, stderr)
		return
	}
	logs, _ := filepath.Glob(filepath.Join(c.node.LogDir(), own+"_*"))
	for _, log := range logs {
		if info, err := os.Stat(log); err != nil || info.ModTime().Before(since) {
			continue
		}
		content, _ := os.ReadFile(log)
		all := strings.Split(strings.TrimSpace(string(content)), "\n")
		fmt.Fprintf(os.Stderr, "end of %s:\n%s\n", filepath.Base(log), strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
}

// tool is the program of that name: in the user's PATH for the user's cluster, else the one that `make` has built.
func (c *cluster) tool(folder, name string) string {
	if found, err := exec.LookPath(name); err == nil && c.node == nil {
		return found
	}
	root, _ := localcluster.Root()
	return filepath.Join(root, "bin", folder, name)
}

func (c *cluster) run(ctx context.Context, stdin, program string, args ...string) (stdout, stderr string, exit int) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig, "KUBECACHEDIR="+filepath.Join(c.dir, "kubectl"), "KUBERC=off",
		"HELM_CACHE_HOME="+c.dir, "HELM_CONFIG_HOME="+c.dir, "HELM_DATA_HOME="+c.dir)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		return "", err.Error(), -1
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// kubectl runs kubectl as the administrator, or as whom the arguments impersonate.
func (c *cluster) kubectl(ctx context.Context, stdin string, args ...string) (stdout, stderr string, exit int) {
	return c.run(ctx, stdin, c.tool("controlplane", "kubectl"), args...)
}

// admin runs kubectl as the administrator, and fails the test when kubectl fails.
func (c *cluster) admin(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, exit := c.kubectl(t.Context(), "", args...)
	require.Equal(t, 0, exit, "kubectl %v: %s", args, stderr)
	return strings.TrimSpace(stdout)
}

var imageLine = regexp.MustCompile(`(?m)^(\s+image: ).*$`)

// manifest is a file with the image that the cluster has: the one that is named there, or IMAGE.
func (c *cluster) manifest(t *testing.T, file string) string {
	t.Helper()
	image := os.Getenv("IMAGE")
	if image == "" || c.node != nil {
		return file
	}
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	changed := filepath.Join(t.TempDir(), filepath.Base(file))
	require.NoError(t, os.WriteFile(changed, imageLine.ReplaceAll(content, []byte("${1}"+image)), 0o600))
	return changed
}

// install applies what is shipped, and waits until the Deployment is available.
func (c *cluster) install(t *testing.T) {
	t.Helper()
	c.admin(t, "apply", "-f", c.manifest(t, installYAML))
	c.rolledOut(t)
}

func (c *cluster) rolledOut(t *testing.T) {
	t.Helper()
	c.admin(t, "-n", own, "rollout", "status", "deployment/routesteward", "--timeout="+soon.String())
}
