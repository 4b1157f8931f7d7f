// Package node runs a Kubernetes cluster of one node on this machine without a container engine: its Deployments, Services and
// Pods are real, their containers are processes in Linux namespaces. See README.md.
package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/netns"
)

const (
	// Name is the node's, and Address its own besides the one in the Pods' network.
	Name    = "node1"
	Address = "172.18.0.2"
)

// controllers make Deployments, Services, PodDisruptionBudgets and service accounts behave as in any cluster.
var controllers = append([]string{
	"deployment-controller",
	"replicaset-controller",
	"endpointslice-controller",
	"disruption-controller",
}, localcluster.DefaultControllers...)

// Options configure a Cluster.
type Options struct {
	// Program is the file to run where a container has that image; its error is shown in the Pod's status. The program must
	// need nothing else from the file system, as a static binary does.
	Program func(image string) (string, error)
	// CRDs, Audit and Progress are those of localcluster.Options.
	CRDs     []string
	Audit    bool
	Progress func(string)
}

// Cluster is a running cluster of one node.
type Cluster struct {
	*localcluster.Cluster
	// Clients are the administrator's, without client-side rate limit.
	Clients *kubernetes.Clientset

	proxy *localcluster.Process
	agent *agent
}

// Prepare reports what Start would miss.
func Prepare() error {
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	if _, err := os.Stat(proxyProgram(root)); err != nil {
		return fmt.Errorf("kube-proxy is not built, run `make controlplane`: %w", err)
	}
	for program, pkg := range map[string]string{"nft": "nftables", "ip": "iproute2"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: install the package %s", err, pkg)
		}
	}
	return nil
}

func proxyProgram(root string) string {
	return filepath.Join(root, "bin", "controlplane", "kube-proxy")
}

// Start starts a cluster in an isolated process (netns.Isolate), once. ctx bounds the start only.
func Start(ctx context.Context, options Options) (_ *Cluster, err error) {
	if !netns.Isolated() {
		return nil, errors.New("a node needs a network of its own: call netns.Isolate first")
	}
	root, err := localcluster.Root()
	if err != nil {
		return nil, err
	}
	if err := makeNetwork(ctx); err != nil {
		return nil, err
	}
	c := &Cluster{}
	c.Cluster, err = localcluster.Start(ctx, localcluster.Options{
		CRDs: options.CRDs, Audit: options.Audit, Progress: options.Progress, Controllers: controllers, Address: Address,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if c.Clients, err = kubernetes.NewForConfig(c.Config); err != nil {
		return nil, err
	}
	if err := c.register(ctx); err != nil {
		return nil, err
	}
	if c.agent, err = startAgent(c, options.Program); err != nil {
		return nil, err
	}
	return c, c.startProxy(ctx, root)
}

// register creates the Node, with the address that kube-proxy looks for.
func (c *Cluster) register(ctx context.Context) error {
	nodes := c.Clients.CoreV1().Nodes()
	node, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: Name}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: Address}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Started"}}
	_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

// startProxy starts kube-proxy as the user that RBAC knows by default, and returns when it programs the kernel.
func (c *Cluster) startProxy(ctx context.Context, root string) error {
	kubeconfig, err := c.KubeconfigFor("system:kube-proxy")
	if err != nil {
		return err
	}
	ports, err := localcluster.FreePorts(2)
	if err != nil {
		return err
	}
	health := fmt.Sprintf("127.0.0.1:%d", ports[0])
	c.proxy, err = localcluster.StartProcess(ctx, localcluster.ProcessOptions{
		Path: proxyProgram(root),
		Args: []string{
			"--kubeconfig=" + kubeconfig,
			"--hostname-override=" + Name,
			"--proxy-mode=nftables",
			"--cluster-cidr=" + podNetwork,
			"--healthz-bind-address=" + health,
			fmt.Sprintf("--metrics-bind-address=127.0.0.1:%d", ports[1]),
			// These settings are the machine's.
			"--conntrack-max-per-core=0",
			"--conntrack-tcp-timeout-established=0s",
			"--conntrack-tcp-timeout-close-wait=0s",
		},
		Log:   filepath.Join(c.LogDir(), "kube-proxy.log"),
		Ready: localcluster.HTTPReady(nil, "http://"+health+"/healthz"),
	})
	return err
}

// Stop ends everything, the Pods' programs first. It is safe to call it more than once.
func (c *Cluster) Stop() error {
	var errs []error
	if c.agent != nil {
		errs = append(errs, c.agent.stop())
	}
	if c.proxy != nil {
		errs = append(errs, c.proxy.Stop())
	}
	return errors.Join(append(errs, c.Cluster.Stop())...)
}

// Exited returns the error of a process of the cluster itself that has ended; nil while all run.
func (c *Cluster) Exited() error {
	select {
	case <-c.proxy.Done():
		return fmt.Errorf("kube-proxy ended, see %s", c.proxy.LogPath())
	default:
	}
	return c.Cluster.Exited()
}

// Namespace creates a namespace with labels, unless it exists.
func (c *Cluster) Namespace(ctx context.Context, name string, labels map[string]string) error {
	_, err := c.Clients.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	return client.IgnoreAlreadyExists(err)
}
