package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/e2e/apiproxy"
	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/netns"
	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

const (
	system = "aibrix-system"
	own    = "routesteward-system"
	// soon is how long a condition may take on a loaded machine.
	soon = 3 * time.Minute
	tick = 100 * time.Millisecond
	// calm is how long routes are created before a fault, and after all is right again.
	calm = time.Second
)

// The namespaces of the tenants' backends, and who consents.
const (
	team       = "team-a"        // where routes must not be
	models     = "models"        // standing consent
	closed     = "closed"        // none
	owned      = "owned"         // that of the owner, who may write grants there
	shared     = "shared"        // a grant that somebody else wrote
	aibrix     = "aibrix-models" // one that AIBrix's controller wrote
	wanted     = "wanted"        // standing consent that is withdrawn in one of the faults
	welcoming  = "welcoming"     // consent that is given in one of the faults
	vetoing    = "vetoing"       // standing consent that becomes a veto
	revocation = "revoking"      // somebody else's grant, which is deleted
	ownerName  = "owner"
	tenantName = "tenant"
	tenants    = 4
)

// world is a control plane, two replicas of routesteward behind what stands for their Service, and people.
type world struct {
	*localcluster.Cluster
	t        *testing.T
	binary   string
	disk     bool
	front    *front
	backs    []*apiproxy.Proxy
	direct   string // the kubeconfig of routesteward that leads to the API server itself
	replicas []*replica
	settings settings
	admin    client.Client
	people   map[string]client.Client
	foreign  []*unstructured.Unstructured
	audit    *auditLog
	ledger   *ledger
	number   int
}

// settings are how the replicas run.
type settings struct {
	flags string
	// proxied replicas reach the API server through proxies that can be told to misbehave.
	proxied bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	w := &world{t: t, binary: os.Getenv(binaryEnv), people: map[string]client.Client{}, ledger: newLedger()}
	dir := t.TempDir()
	options := localcluster.Options{
		Dir: dir, CRDs: []string{os.Getenv(crdsEnv)}, Audit: true,
		// It would look for the default route, and in a network of our own there is none.
		APIServerFlags: []string{"--audit-log-maxsize=4000", "--advertise-address=10.244.0.1"},
	}
	if netns.Isolated() {
		data := localcluster.EtcdDir(dir)
		require.NoError(t, mount(data, 512))
		t.Cleanup(func() { _ = syscall.Unmount(data, syscall.MNT_DETACH) })
		w.disk = true
		// On a disk in memory it costs nothing to be careful.
		options.EtcdFlags = []string{"--unsafe-no-fsync=false"}
	}
	var err error
	w.Cluster, err = localcluster.Start(ctx, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Stop()) })
	w.audit = &auditLog{path: w.AuditLog()}
	require.NoError(t, w.settle(ctx))
	require.NoError(t, w.Install(ctx))

	w.direct, err = w.ServiceAccountKubeconfig(ctx, own, "routesteward")
	require.NoError(t, err)
	w.front = newFront(t, w.called)
	for i := range 2 {
		b, err := apiproxy.New(ctx, w.Cluster, fmt.Sprint(i))
		require.NoError(t, err)
		w.backs = append(w.backs, b)
		w.replicas = append(w.replicas, &replica{w: w, number: i})
	}
	t.Cleanup(func() {
		for _, r := range w.replicas {
			r.stop()
		}
		for _, b := range w.backs {
			b.Release()
			b.CloseClientConnections()
			b.Close()
		}
	})
	return w
}

// settle makes the namespaces, the tenants with what they may, and objects of other people.
func (w *world) settle(ctx context.Context) error {
	var err error
	config := func(config *rest.Config) *rest.Config {
		config = rest.CopyConfig(config)
		config.WarningHandler = rest.NoWarnings{} // one for each grant
		config.QPS = -1
		config.Timeout = 15 * time.Second
		return config
	}
	scheme := policytest.Scheme()
	if err := admissionv1.AddToScheme(scheme); err != nil {
		return err
	}
	if w.admin, err = client.New(config(w.Config), client.Options{Scheme: scheme}); err != nil {
		return err
	}
	for _, name := range []string{ownerName, tenantName + "-0", tenantName + "-1", tenantName + "-2", tenantName + "-3"} {
		// Each has a certificate of his own, and so a connection.
		his, err := w.ConfigFor(name, "tenants")
		if err != nil {
			return err
		}
		if w.people[name], err = client.New(config(his), client.Options{Scheme: scheme, Mapper: w.admin.RESTMapper()}); err != nil {
			return err
		}
	}
	if err := w.apply(ctx, peopleYAML); err != nil {
		return err
	}
	if err := w.apply(ctx, foreignYAML); err != nil {
		return err
	}
	for _, document := range strings.Split(foreignYAML, "\n---\n") {
		obj := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &obj.Object); err != nil {
			return err
		}
		if err := w.admin.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
			return err
		}
		w.foreign = append(w.foreign, obj)
	}
	return nil
}

func (w *world) apply(ctx context.Context, yaml string) error {
	if _, stderr, exit := w.Kubectl(ctx, w.Kubeconfig, yaml, "apply", "-f", "-"); exit != 0 {
		return fmt.Errorf("kubectl apply: %s", stderr)
	}
	return nil
}

// label sets a namespace's standing consent; "" takes it away.
func (w *world) label(ctx context.Context, namespace, consent string) error {
	value := "null"
	if consent != "" {
		value = `"` + consent + `"`
	}
	obj := &corev1.Namespace{}
	obj.Name = namespace
	return w.admin.Patch(ctx, obj, client.RawPatch("application/merge-patch+json", []byte(`{"metadata": {"labels": {"routesteward.dev/grants": `+value+`}}}`)))
}

// grace is how long a grant is kept that nothing needs: with -faults.long as long as by default.
func grace() time.Duration {
	if *long {
		return 30 * time.Second
	}
	return 4 * time.Second
}

// serve lets both replicas run with the settings, and returns when they are ready and asked.
func (w *world) serve(t *testing.T, s settings) {
	t.Helper()
	if w.settings != s || !w.replicas[0].running() {
		for _, r := range w.replicas {
			r.stop()
		}
		for i, r := range w.replicas {
			kubeconfig := w.direct
			if s.proxied {
				kubeconfig = w.backs[i].Kubeconfig
			}
			flags := append([]string{
				"--webhook-url=" + w.front.url(), "--grant-grace=" + grace().String(), "--exempt-groups=system:masters",
				// Caches, not scans, are what is looked at.
				"--scan-interval=0",
			}, strings.Fields(s.flags)...)
			r.start(kubeconfig, flags)
		}
		w.settings = s
	}
	require.Eventually(t, func() bool { return w.replicas[0].isReady() && w.replicas[1].isReady() && w.leader() != nil }, soon, tick)
}

// policy is that of the replicas.
func (w *world) policy(t *testing.T) *policy.Policy {
	t.Helper()
	config := policy.DefaultConfig()
	config.ExemptGroups = []string{"system:masters"}
	config.Self = "system:serviceaccount:" + own + ":routesteward"
	if w.rewrites() {
		config.Outside = policy.OutsideRewrite
	}
	p, err := policy.New(config)
	require.NoError(t, err)
	return p
}

func (w *world) rewrites() bool { return strings.Contains(w.settings.flags, "--outside=rewrite") }

// called is the replica to which a new connection of the API server leads: one that is ready as far as is known, and where
// both are, the follower, so that its end says nothing about the leader's.
func (w *world) called() *replica {
	var ready []*replica
	for _, r := range w.replicas {
		if r.isReady() {
			ready = append(ready, r)
		}
	}
	if i := slices.IndexFunc(ready, func(r *replica) bool { return !r.leads() }); i >= 0 {
		return ready[i]
	}
	if len(ready) > 0 {
		return ready[0]
	}
	return nil
}

// leader is the replica that says that it leads; nil when none does.
func (w *world) leader() *replica {
	for _, r := range w.replicas {
		if r.leads() {
			return r
		}
	}
	return nil
}

func (w *world) other(r *replica) *replica { return w.replicas[1-r.number] }

// pause returns when so much time has passed, during which something is done to the processes.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// waiting is a pause as a step.
func waiting(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error { return pause(ctx, d) }
}

// inTurn does one step after the other until one fails.
func inTurn(ctx context.Context, steps ...func(context.Context) error) error {
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// eventually calls condition until it returns nil; when ctx or the time ends first, its last error is returned.
func eventually(ctx context.Context, condition func() error) error {
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if pause(ctx, tick) != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// ballast fills the disk of etcd, and returns what frees it again.
func (w *world) ballast() (free func() error, err error) {
	path := filepath.Join(w.EtcdDir(), "ballast")
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	block := make([]byte, 1<<16)
	for len(block) > 0 {
		if _, err := file.Write(block); err != nil {
			// The rest in smaller pieces.
			block = block[:len(block)/2]
		}
	}
	return func() error { return os.Remove(path) }, nil
}
