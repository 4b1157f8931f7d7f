// Package localcluster runs a Kubernetes control plane on this machine: the real etcd, kube-apiserver
// and, on demand, kube-controller-manager that hack/programs has put into bin/controlplane, on free ports of 127.0.0.1,
// with RBAC and the Gateway API's CRDs. Everything it starts ends with the process that started it.
package localcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Programs are what a Cluster without controllers runs, for hack/programs.
var Programs = []string{"etcd", "kube-apiserver", "kubectl"}

// DefaultControllers make namespaces, garbage collection, service accounts and aggregated roles
// (admin, edit, view) behave as in a cluster. A namespace's deletion takes at least five seconds.
var DefaultControllers = []string{
	"namespace-controller",
	"garbage-collector-controller",
	"serviceaccount-controller",
	"root-ca-certificate-publisher-controller",
	"clusterrole-aggregation-controller",
}

// Options configure a Cluster. The zero value is a bare API server with Gateway API's standard CRDs.
type Options struct {
	// Dir receives keys, data and logs; it must not be in use. Empty: a temporary folder that Stop removes.
	Dir string
	// CRDs are folders whose YAML files are applied. Nil: Gateway API's standard channel in the
	// version that the project compiles against; empty: none.
	CRDs []string
	// Controllers are those that kube-controller-manager runs, see DefaultControllers; without
	// any it is not started, and Pods need no service account.
	Controllers []string
	// Audit writes every write request, and every request of routesteward's service account, with its
	// response code and annotations to AuditLog.
	Audit bool
	// Address is one of this host, other than those of the loopback device, at which Pods reach the API
	// server. It serves there too, and has the Service "kubernetes" lead there. Empty: it serves on
	// 127.0.0.1 alone, and that Service leads nowhere.
	Address string
	// WebhookUser is whose client certificate, signed by ClientCA, the API server shows to admission webhooks; empty: none.
	WebhookUser string
	// APIServerFlags are added to kube-apiserver's, for example "--v=4"; EtcdFlags to etcd's.
	APIServerFlags, EtcdFlags []string
	// Progress, if set, is called with a short line before each step.
	Progress func(string)
}

// Cluster is a running control plane.
type Cluster struct {
	// Config is the administrator's (group system:masters), without client-side rate limit.
	Config *rest.Config
	// Kubeconfig is a file with the same rights.
	Kubeconfig string
	// Dir is where keys, data and logs are.
	Dir string
	// Etcd is the URL of etcd, which anybody on this machine may write to.
	Etcd string

	options   Options
	root      string
	temporary bool
	authority *authority
	server    string

	mu        sync.Mutex
	processes []*Process // in the order in which they were started

	ended     chan struct{}
	endedOnce sync.Once
}

// Start starts a control plane and returns when it serves the CRDs. ctx bounds the start only.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	c := &Cluster{options: options, root: root, Dir: options.Dir, ended: make(chan struct{})}
	if options.Progress == nil {
		c.options.Progress = func(string) {}
	}
	if _, err := os.Stat(c.binary("kube-apiserver")); err != nil {
		return nil, fmt.Errorf("the control plane's programs are not built, run `make controlplane`: %w", err)
	}
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "localcluster-"); err != nil {
			return nil, err
		}
		c.temporary = true
	}
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.writeKeys(); err != nil {
		return err
	}
	c.options.Progress("starting etcd")
	if err := withFreePorts(1, func(ports []int) error {
		c.Etcd = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
		return c.startEtcd(ctx, c.Etcd)
	}); err != nil {
		return err
	}
	c.options.Progress("starting kube-apiserver")
	if err := withFreePorts(1, func(ports []int) error {
		return c.startAPIServer(ctx, c.Etcd, ports[0])
	}); err != nil {
		return err
	}
	if len(c.options.Controllers) > 0 {
		c.options.Progress("starting kube-controller-manager")
		if err := c.startControllerManager(ctx); err != nil {
			return err
		}
	}
	return c.installCRDs(ctx)
}

// Stop ends all processes of the cluster. It is safe to call it more than once.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	processes := c.processes
	c.processes = nil
	c.mu.Unlock()
	var errs []error
	for _, process := range slices.Backward(processes) {
		errs = append(errs, process.Stop())
	}
	if c.temporary {
		errs = append(errs, os.RemoveAll(c.Dir))
	}
	return errors.Join(errs...)
}

// Done is closed when a process of the control plane has ended, by Stop or by itself.
func (c *Cluster) Done() <-chan struct{} { return c.ended }

// Exited returns the error of a process of the control plane that has ended by itself; nil while all
// run and after Stop.
func (c *Cluster) Exited() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, process := range c.processes {
		select {
		case <-process.Done():
			return fmt.Errorf("%s ended (%s), see %s", process.name, process.exit(), process.log)
		default:
		}
	}
	return nil
}

// Process is one that runs: etcd, kube-apiserver or kube-controller-manager; nil when there is none.
func (c *Cluster) Process(name string) *Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, process := range c.processes {
		if process.name == name {
			return process
		}
	}
	return nil
}

// Restart ends a process of the control plane as a kubelet does, by SIGTERM, and SIGKILL after the
// grace, and starts it again as it was; one that has ended already is only started. It returns when that
// is ready; when it is not, Restart may be called again. The log of before is kept with the suffix ".1".
func (c *Cluster) Restart(ctx context.Context, name string, grace time.Duration) error {
	old := c.Process(name)
	if old == nil {
		return fmt.Errorf("%s does not run", name)
	}
	c.mu.Lock()
	at := slices.Index(c.processes, old)
	// From here on its end is no failure.
	c.processes = slices.Delete(c.processes, at, at+1)
	c.mu.Unlock()
	old.Signal(syscall.SIGTERM)
	select {
	case <-old.Done():
	case <-time.After(grace):
		old.Signal(syscall.SIGKILL)
		<-old.Done()
	}
	if err := os.Rename(old.log, old.log+".1"); err != nil {
		return err
	}
	process, err := StartProcess(ctx, old.options)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.processes = slices.Insert(c.processes, at, old)
		return err
	}
	c.keep(process, at)
	return nil
}

// EtcdDir is the folder with etcd's data.
func (c *Cluster) EtcdDir() string { return EtcdDir(c.Dir) }

// EtcdDir is the folder with etcd's data in a cluster's Options.Dir, where something may be mounted before the start.
func EtcdDir(dir string) string { return filepath.Join(dir, "etcd") }

// LogDir is the folder with one log file for each process.
func (c *Cluster) LogDir() string { return filepath.Join(c.Dir, "logs") }

// AuditLog is the file with the audit events, one JSON object a line, complete when the request is
// answered. It exists with Options.Audit only.
func (c *Cluster) AuditLog() string { return filepath.Join(c.Dir, "logs", "audit.log") }

// ClientCA is the file with the authority that signs users' certificates.
func (c *Cluster) ClientCA() string { return c.key("ca.crt") }

func (c *Cluster) binary(name string) string {
	return filepath.Join(c.root, "bin", "controlplane", name)
}

func (c *Cluster) key(name string) string { return filepath.Join(c.Dir, "keys", name) }

func (c *Cluster) writeKeys() error {
	for _, dir := range []string{"keys", "kubeconfigs"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, dir), 0o700); err != nil {
			return err
		}
	}
	var err error
	if c.authority, err = newAuthority(); err != nil {
		return err
	}
	addresses := []net.IP{net.IPv4(127, 0, 0, 1)}
	if c.options.Address != "" {
		// The second is the Service's.
		addresses = append(addresses, net.ParseIP(c.options.Address), net.IPv4(10, 96, 0, 1))
	}
	certificate, key, err := c.authority.serverCertificate(addresses, "localhost", "kubernetes.default.svc")
	if err != nil {
		return err
	}
	_, accounts, err := newKey()
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"ca.crt":              c.authority.pem,
		"apiserver.crt":       certificate,
		"apiserver.key":       key,
		"serviceaccounts.key": accounts,
		"audit-policy.yaml":   []byte(auditPolicy),
	} {
		if err := os.WriteFile(c.key(name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startEtcd(ctx context.Context, url string) error {
	return c.run(ctx, ProcessOptions{
		Path: c.binary("etcd"),
		Args: append([]string{
			"--data-dir=" + c.EtcdDir(),
			"--listen-client-urls=" + url,
			"--advertise-client-urls=" + url,
			"--listen-peer-urls=http://127.0.0.1:0",
			"--unsafe-no-fsync", // the data need not survive a crash of the machine
			"--log-level=warn",
		}, c.options.EtcdFlags...),
		Ready: HTTPReady(nil, url+"/health"),
	})
}

func (c *Cluster) startAPIServer(ctx context.Context, etcd string, port int) error {
	c.server = fmt.Sprintf("https://127.0.0.1:%d", port)
	args := []string{
		"--etcd-servers=" + etcd,
		fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file=" + c.key("apiserver.crt"),
		"--tls-private-key-file=" + c.key("apiserver.key"),
		"--client-ca-file=" + c.key("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.key("serviceaccounts.key"),
		"--service-account-signing-key-file=" + c.key("serviceaccounts.key"),
		"--authorization-mode=RBAC",
		"--allow-privileged",
		"--service-cluster-ip-range=10.96.0.0/16",
	}
	if c.options.Address != "" {
		args = append(args, "--bind-address=0.0.0.0", "--advertise-address="+c.options.Address)
	} else {
		// The Service "kubernetes" cannot have a loopback address as its endpoint.
		args = append(args, "--bind-address=127.0.0.1", "--endpoint-reconciler-type=none")
	}
	if !slices.Contains(c.options.Controllers, "serviceaccount-controller") {
		args = append(args, "--disable-admission-plugins=ServiceAccount")
	}
	if c.options.Audit {
		args = append(args, "--audit-policy-file="+c.key("audit-policy.yaml"), "--audit-log-path="+c.AuditLog(), "--audit-log-mode=blocking")
	}

	var err error
	if c.options.WebhookUser != "" {
		admission, err := c.writeAdmissionConfiguration(c.options.WebhookUser)
		if err != nil {
			return err
		}
		args = append(args, "--admission-control-config-file="+admission)
	}
	if c.Config, err = c.ConfigFor("admin", "system:masters"); err != nil {
		return err
	}
	c.Config.QPS = -1
	if c.Kubeconfig, err = c.writeKubeconfig("admin", c.Config); err != nil {
		return err
	}
	httpClient, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return err
	}
	serves := HTTPReady(httpClient, c.server+"/readyz")
	return c.run(ctx, ProcessOptions{
		Path: c.binary("kube-apiserver"),
		Args: append(args, c.options.APIServerFlags...),
		Ready: func(ctx context.Context) error {
			if err := serves(ctx); err != nil {
				return err
			}
			// It is made in the background, after readiness.
			_, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
			return err
		},
		// Open watches hold it back; nobody waits for them here.
		StopTimeout: time.Minute,
	})
}

func (c *Cluster) startControllerManager(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return err
	}
	ready := func(context.Context) error { return nil }
	if slices.Contains(c.options.Controllers, "serviceaccount-controller") {
		ready = func(ctx context.Context) error {
			_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
			return err
		}
	}
	return c.run(ctx, ProcessOptions{
		Path: c.binary("kube-controller-manager"),
		Args: []string{
			"--kubeconfig=" + c.Kubeconfig,
			"--controllers=" + strings.Join(c.options.Controllers, ","),
			"--leader-elect=false",
			"--secure-port=0",
			"--root-ca-file=" + c.key("ca.crt"),
			"--kube-api-qps=500",
			"--kube-api-burst=1000",
		},
		Ready: ready,
	})
}

func (c *Cluster) installCRDs(ctx context.Context) error {
	dirs := c.options.CRDs
	if dirs == nil {
		standard, err := GatewayAPI(ctx, "standard")
		if err != nil {
			return err
		}
		dirs = []string{standard}
	}
	var files []string
	for _, dir := range dirs {
		found, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("no CRDs: %s has no *.yaml", dir)
		}
		for _, file := range found {
			if filepath.Base(file) != "kustomization.yaml" {
				files = append(files, "--filename="+file)
			}
		}
	}
	if len(files) == 0 {
		return nil
	}
	c.options.Progress("installing CRDs")
	// Server-side: the CRDs are larger than the annotation that a client-side apply would write.
	if err := c.MustKubectl(ctx, append([]string{"apply", "--server-side"}, files...)...); err != nil {
		return err
	}
	return c.MustKubectl(ctx, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
}

// run starts a process that Stop will end. It logs to a file with its name.
func (c *Cluster) run(ctx context.Context, options ProcessOptions) error {
	options.Log = filepath.Join(c.LogDir(), filepath.Base(options.Path)+".log")
	process, err := StartProcess(ctx, options)
	if err != nil {
		return err
	}
	c.keep(process, len(c.processes))
	return nil
}

// keep takes note of a process that has been started.
func (c *Cluster) keep(process *Process, at int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.processes = slices.Insert(c.processes, at, process)
	go func() {
		<-process.Done()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.processes == nil || slices.Contains(c.processes, process) {
			c.endedOnce.Do(func() { close(c.ended) })
		}
	}()
}

// auditPolicy keeps each write once, with its annotations and without bodies, and all that routesteward
// asks for.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  users: ["system:serviceaccount:routesteward-system:routesteward"]
- level: None
  verbs: [get, list, watch]
- level: None
  resources:
  - {group: coordination.k8s.io, resources: [leases]}
- level: Metadata
`
