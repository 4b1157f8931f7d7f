// Package certs tests where serving certificates come from and who may call, with two replicas of the real program behind
// what stands for their Service, a real kube-apiserver that shows a client certificate, and the real cert-manager.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/routesteward/routesteward/e2e/build"
	"github.com/routesteward/routesteward/hack/localcluster"
)

const (
	soon = 90 * time.Second
	tick = 100 * time.Millisecond
	// namespace is routesteward's own.
	namespace = "routesteward-system"
	// caller is whose certificate the API server shows.
	caller = "kube-apiserver-webhooks"
	// rounds of traffic that are enough to see that nothing more happens.
	rounds = 20
)

var (
	cluster *localcluster.Cluster
	clients *kubernetes.Clientset
	// binary is the program under test.
	binary string
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(func() int {
		var err error
		if binary, err = build.Program(""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := start(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "starting the control plane:", err)
			return 1
		}
		code := m.Run()
		if err := cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping:", err)
			code = 1
		}
		return code
	}())
}

// start starts what all tests share. They take turns: RBAC lets routesteward keep one registration.
func start(ctx context.Context) (err error) {
	// The API server calls Services over HTTP/1.1, but webhooks at loopback addresses over HTTP/2. Only the former begins each of
	// several calls at once with a handshake of its own.
	if err := os.Setenv("DISABLE_HTTP2", "true"); err != nil {
		return err
	}
	cluster, err = localcluster.Start(ctx, localcluster.Options{WebhookUser: caller})
	if err := errors.Join(err, os.Unsetenv("DISABLE_HTTP2")); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, cluster.Stop())
		}
	}()
	quiet := rest.CopyConfig(cluster.Config)
	quiet.WarningHandler = rest.NoWarnings{}
	if clients, err = kubernetes.NewForConfig(quiet); err != nil {
		return err
	}
	for _, name := range []string{"aibrix-system", "models"} {
		if _, err := clients.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return cluster.Install(ctx)
}

// replica is a running routesteward.
type replica struct {
	*localcluster.Server
	// dir is where its Secret is mounted.
	dir string
}

// fleet are replicas behind what stands for their Service.
type fleet struct {
	t     *testing.T
	flags []string
	*proxy
}

func newFleet(t *testing.T, flags ...string) *fleet {
	t.Helper()
	return &fleet{t: t, flags: flags, proxy: startProxy(t)}
}

// add starts a replica, which joins the Service when it is ready. Its Secret, if any, is mounted before.
func (f *fleet) add(name string, secret map[string][]byte) *replica {
	f.t.Helper()
	r := &replica{dir: f.t.TempDir()}
	if secret != nil {
		r.mount(f.t, secret)
	}
	require.NoError(f.t, f.serve(name, r))
	return r
}

func (f *fleet) serve(name string, r *replica) error {
	ctx, cancel := context.WithTimeout(f.t.Context(), soon)
	defer cancel()
	flags := append([]string{"--webhook-url=https://" + f.listener.Addr().String()}, f.flags...)
	for _, flag := range f.flags {
		if strings.HasPrefix(flag, "--certs=") {
			flags = append(flags, "--cert-dir="+r.dir)
		}
	}
	server, err := cluster.Serve(ctx, localcluster.ServeOptions{Binary: binary, Name: f.t.Name() + "-" + name, Flags: flags})
	if err != nil {
		return err
	}
	r.Server = server
	f.t.Cleanup(func() { assert.NoError(f.t, server.Stop()) })
	f.proxy.add(r)
	return nil
}

// mount makes the files of a Secret appear all at once, as the kubelet does.
func (r *replica) mount(t *testing.T, secret map[string][]byte) {
	t.Helper()
	data, err := os.MkdirTemp(r.dir, "..data-")
	require.NoError(t, err)
	for name, content := range secret {
		require.NoError(t, os.WriteFile(filepath.Join(data, name), content, 0o600))
		link := filepath.Join(r.dir, name)
		if _, err := os.Lstat(link); err != nil {
			require.NoError(t, os.Symlink(filepath.Join("..data", name), link))
		}
	}
	next := filepath.Join(r.dir, "..next")
	require.NoError(t, os.Symlink(filepath.Base(data), next))
	require.NoError(t, os.Rename(next, filepath.Join(r.dir, "..data")))
}

// served is the certificate that a new connection to the replica gets; nil where there is none.
func (r *replica) served() *x509.Certificate {
	conn, err := tls.Dial("tcp", strings.TrimPrefix(r.WebhookURL, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return nil
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// serves waits until a replica serves a certificate.
func (r *replica) serves(t *testing.T, leaf *x509.Certificate) {
	t.Helper()
	require.Eventually(t, func() bool {
		served := r.served()
		return served != nil && served.Equal(leaf)
	}, soon, tick, "%s does not serve certificate %s", r.WebhookURL, leaf.SerialNumber)
}

// create writes an HTTPRoute on the shared Gateway, in a dry run.
func create(ctx context.Context, namespace string) error {
	route := fmt.Sprintf(`{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"generateName": "probe-", "namespace": %q},
		"spec": {"parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}],
			"rules": [{"backendRefs": [{"name": "model", "namespace": "models", "port": 8000}]}]}}`, namespace)
	return clients.RESTClient().Post().AbsPath("/apis/gateway.networking.k8s.io/v1/namespaces", namespace, "httproutes").
		Param("dryRun", "All").SetHeader("Content-Type", "application/json").Body([]byte(route)).Do(ctx).Error()
}

// admitted must be admitted, refused must be refused; anything else is an admission that failed.
func admitted(ctx context.Context) error { return create(ctx, "aibrix-system") }

func refused(ctx context.Context) error {
	err := create(ctx, "default")
	switch {
	case err == nil:
		return errors.New("a route outside the system namespace was admitted")
	case strings.Contains(err.Error(), `"routes.routesteward.dev" denied the request`):
		return nil
	}
	return err
}

// intercepted waits until the API server reaches the replicas.
func (f *fleet) intercepted() {
	f.t.Helper()
	require.EventuallyWithT(f.t, func(c *assert.CollectT) {
		assert.NoError(c, refused(f.t.Context()))
		assert.NoError(c, admitted(f.t.Context()))
	}, soon, tick)
}

// round makes the API server call several times at once, each over a connection of its own.
func (f *fleet) round() error {
	var calls sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		calls.Go(func() {
			if i%2 == 0 {
				errs[i] = admitted(context.Background())
			} else {
				errs[i] = refused(context.Background())
			}
		})
	}
	calls.Wait()
	f.recycle()
	return errors.Join(errs...)
}

// traffic makes the API server call without a pause. The function it returns ends that and fails the test if one admission
// failed.
func (f *fleet) traffic() (finish func()) {
	f.t.Helper()
	stop, stopped := make(chan struct{}), make(chan struct{})
	var failures []error
	done := 0
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				if done >= rounds {
					return
				}
			default:
			}
			done++
			if err := f.round(); err != nil {
				failures = append(failures, fmt.Errorf("round %d at %s: %w", done, time.Now().Format(time.TimeOnly), err))
			}
		}
	}()
	end := sync.OnceFunc(func() {
		close(stop)
		<-stopped
	})
	f.t.Cleanup(end)
	return func() {
		f.t.Helper()
		end()
		f.t.Logf("%d rounds of 4 admissions, %d failed; %d connections", done, len(failures), f.accepted.Load())
		require.NoError(f.t, errors.Join(failures[:min(len(failures), 5)]...))
	}
}

// registered is the ValidatingWebhookConfiguration as it is now.
func registered(t *testing.T) *admissionv1.ValidatingWebhookConfiguration {
	t.Helper()
	found, err := clients.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(t.Context(), "routesteward", metav1.GetOptions{})
	require.NoError(t, err)
	return found
}

func kubectl(t *testing.T, stdin string, args ...string) {
	t.Helper()
	stdout, stderr, exit := cluster.Kubectl(t.Context(), cluster.Kubeconfig, stdin, args...)
	require.Zero(t, exit, "%s%s", stdout, stderr)
}

func ready(r *replica) bool {
	response, err := http.Get(r.HealthURL)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// logHolds waits for a line in a replica's log with all the words.
func logHolds(t *testing.T, name string, words ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
		content, err := os.ReadFile(filepath.Join(cluster.LogDir(), t.Name()+"-"+name+".log"))
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(content)) {
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
				return true
			}
		}
		return false
	}, soon, tick, "no such line in the log: %s", words)
}
