package registration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/webhook/certs"
)

const (
	patience = 60 * time.Second
	tick     = 50 * time.Millisecond
)

func TestControlPlane(t *testing.T) {
	controlPlane, err := localcluster.Start(t.Context(), localcluster.Options{CRDs: []string{}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, controlPlane.Stop()) })

	for name, test := range map[string]func(*testing.T, *cluster){
		"keeps-in-step":           testKeepsInStep,
		"writes-only-differences": testWritesOnlyDifferences,
		"rotation-under-traffic":  testRotationUnderTraffic,
		"renewal-under-traffic":   testRenewalUnderTraffic,
	} {
		cluster := newCluster(t, controlPlane, name)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, cluster)
		})
	}
}

// cluster is one test's share of the API server: a namespace, a webhook configuration and a user, all of the same name.
type cluster struct {
	name  string
	admin client.Client
	// user may do just what routesteward may, as far as certificates and registration go.
	user *rest.Config
	// proxy stands for the Service: each connection goes to the next ready replica.
	proxy *proxy
}

func newCluster(t *testing.T, controlPlane *localcluster.Cluster, name string) *cluster {
	t.Helper()
	admin, err := client.New(controlPlane.Config, client.Options{})
	require.NoError(t, err)
	user, err := controlPlane.ConfigFor(name)
	require.NoError(t, err)

	meta := metav1.ObjectMeta{Name: name}
	namespaced := metav1.ObjectMeta{Namespace: name, Name: name}
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}}
	keep := []string{"get", "list", "watch", "update"}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: meta},
		&rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{
			APIGroups:     []string{admissionv1.GroupName},
			Resources:     []string{"validatingwebhookconfigurations", "mutatingwebhookconfigurations"},
			ResourceNames: []string{name},
			Verbs:         keep,
		}}},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: meta, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		},
		&rbacv1.Role{ObjectMeta: namespaced, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create"}},
			{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"ca"}, Verbs: keep},
			{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create", "get", "update"}},
			{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
		}},
		&rbacv1.RoleBinding{
			ObjectMeta: namespaced, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		},
	} {
		require.NoError(t, admin.Create(t.Context(), object))
	}
	return &cluster{name: name, admin: admin, user: user, proxy: startProxy(t)}
}

// options registers a webhook for the ConfigMaps of this cluster's namespace.
func (c *cluster) options() Options {
	return Options{
		Name: c.name,
		URL:  "https://" + c.proxy.listener.Addr().String(),
		Validating: []Entry{{
			Name: "configmaps." + c.name + ".test",
			Path: "/validate",
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}},
			MatchConditions: []admissionv1.MatchCondition{{
				Name:       "in-the-namespace-of-this-test",
				Expression: fmt.Sprintf("request.namespace == %q", c.name),
			}},
		}},
	}
}

func (c *cluster) register(t *testing.T) {
	t.Helper()
	require.NoError(t, c.admin.Create(t.Context(), &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: c.name}}))
	// Leave no webhook behind that nobody answers.
	t.Cleanup(func() {
		err := c.admin.Delete(context.Background(), &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: c.name}})
		require.NoError(t, client.IgnoreNotFound(err))
	})
}

func (c *cluster) registered(t *testing.T) *admissionv1.ValidatingWebhookConfiguration {
	t.Helper()
	registered := &admissionv1.ValidatingWebhookConfiguration{}
	require.NoError(t, c.admin.Get(t.Context(), client.ObjectKey{Name: c.name}, registered))
	return registered
}

func (c *cluster) deleteAuthority(t *testing.T) {
	t.Helper()
	require.NoError(t, c.admin.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.name, Name: "ca"}}))
}

// call makes the API server call the webhook.
func (c *cluster) call(ctx context.Context) error {
	return c.admin.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: c.name, GenerateName: "call-"}}, client.DryRunAll)
}

// replica is one process's worth of product code around a webhook that allows everything.
type replica struct {
	source  *certs.Source
	address string

	mu sync.Mutex
	// authorities (by key id) and serials of the certificates that handshakes were answered with.
	authorities, serials map[string]bool
	calls                int
}

func (c *cluster) start(t *testing.T, o certs.Options) *replica {
	t.Helper()
	o.Mode, o.SecretNamespace, o.SecretName, o.DNSNames, o.AwaitTrust = certs.Embedded, c.name, "ca", []string{"127.0.0.1", c.name + ".svc"}, true
	source, err := certs.New(c.user, o)
	require.NoError(t, err)
	r := &replica{source: source, address: freeAddress(t).String(), authorities: map[string]bool{}, serials: map[string]bool{}}

	host, port := splitAddress(t, r.address)
	mgr, err := ctrl.NewManager(c.user, ctrl.Options{
		Cache:                         cache.Options{ByObject: ByObject(c.name)},
		Controller:                    config.Controller{SkipNameValidation: new(true)},
		Metrics:                       server.Options{BindAddress: "0"},
		LeaderElection:                true,
		LeaderElectionID:              c.name,
		LeaderElectionNamespace:       c.name,
		LeaderElectionReleaseOnCancel: true,
		WebhookServer: webhook.NewServer(webhook.Options{Host: host, Port: port, TLSOpts: []func(*tls.Config){func(config *tls.Config) {
			config.NextProtos = []string{"http/1.1"}
			config.SessionTicketsDisabled = true
			config.GetCertificate = r.getCertificate
		}}}),
	})
	require.NoError(t, err)
	allow := &admission.Webhook{Handler: admission.HandlerFunc(func(context.Context, admission.Request) admission.Response {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.calls++
		return admission.Allowed("")
	})}
	mgr.GetWebhookServer().Register("/validate", http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		// Every call a new handshake: a connection that stays open would not notice a wrong certificate.
		w.Header().Set("Connection", "close")
		allow.ServeHTTP(w, request)
	}))
	require.NoError(t, mgr.Add(source))
	require.NoError(t, SetupWithManager(mgr, c.options(), source))

	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-stopped)
	})
	c.proxy.add(r)
	return r
}

func (r *replica) getCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certificate, err := r.source.GetCertificate(hello)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.authorities[string(certificate.Leaf.AuthorityKeyId)] = true
		r.serials[certificate.Leaf.SerialNumber.String()] = true
	}
	return certificate, err
}

// received returns how many calls came in, and the number of distinct certificates they were served with.
func (r *replica) received() (calls, certificates int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls, len(r.serials)
}

func (r *replica) servedWith(authority *x509.Certificate) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.authorities[string(authority.SubjectKeyId)]
}

func (r *replica) isReady() bool { return r.source.Ready(nil) == nil }

// intercepted waits until calls arrive at every replica.
func (c *cluster) intercepted(t *testing.T, replicas ...*replica) {
	t.Helper()
	for _, r := range replicas {
		require.Eventually(t, r.isReady, patience, tick)
		require.Eventually(t, func() bool {
			calls, _ := r.received()
			return c.call(t.Context()) == nil && calls > 0
		}, patience, tick)
	}
}

func testKeepsInStep(t *testing.T, c *cluster) {
	r := c.start(t, certs.Options{})
	// Nothing to be trusted by, but also nobody who calls.
	require.Eventually(t, r.isReady, patience, tick)
	asDesired := func() bool {
		bundle := r.source.CABundle(nil)
		return len(bundle) > 0 && equal(c.registered(t).Webhooks, DesiredValidating(c.options(), bundle))
	}

	c.register(t)
	require.Eventually(t, asDesired, patience, tick, "fill in an empty configuration")
	c.intercepted(t, r)
	served, err := r.source.GetCertificate(nil)
	require.NoError(t, err)
	require.NoError(t, served.Leaf.VerifyHostname("127.0.0.1"))
	require.NoError(t, served.Leaf.VerifyHostname(c.name+".svc"))

	edits := map[string]func(*admissionv1.ValidatingWebhookConfiguration){
		"failurePolicy": func(v *admissionv1.ValidatingWebhookConfiguration) {
			v.Webhooks[0].FailurePolicy = new(admissionv1.Ignore)
		},
		"caBundle": func(v *admissionv1.ValidatingWebhookConfiguration) { v.Webhooks[0].ClientConfig.CABundle = nil },
		"url": func(v *admissionv1.ValidatingWebhookConfiguration) {
			v.Webhooks[0].ClientConfig.URL = new("https://127.0.0.1:1")
		},
		"rules": func(v *admissionv1.ValidatingWebhookConfiguration) { v.Webhooks[0].Rules[0].Resources[0] = "secrets" },
		"match": func(v *admissionv1.ValidatingWebhookConfiguration) { v.Webhooks[0].MatchConditions = nil },
		"selector": func(v *admissionv1.ValidatingWebhookConfiguration) {
			v.Webhooks[0].NamespaceSelector.MatchLabels = map[string]string{"a": "b"}
		},
		"timeoutSeconds": func(v *admissionv1.ValidatingWebhookConfiguration) { v.Webhooks[0].TimeoutSeconds = new(int32(1)) },
		"one removed":    func(v *admissionv1.ValidatingWebhookConfiguration) { v.Webhooks = nil },
		"one added": func(v *admissionv1.ValidatingWebhookConfiguration) {
			added := *v.Webhooks[0].DeepCopy()
			added.Name = "added." + added.Name
			v.Webhooks = append(v.Webhooks, added)
		},
	}
	for name, edit := range edits {
		edited := c.registered(t)
		edit(edited)
		require.NoError(t, c.admin.Update(t.Context(), edited), name)
		require.Eventually(t, asDesired, patience, tick, "repair %s", name)
	}

	deleted := c.registered(t)
	require.NoError(t, c.admin.Delete(t.Context(), deleted))
	_, before := r.received()
	c.deleteAuthority(t)
	require.Eventually(t, func() bool {
		connection, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return false
		}
		defer connection.Close()
		_, now := r.received()
		return now > before
	}, patience, tick, "nobody calls: there is no trust to wait for")
	err = c.admin.Get(t.Context(), client.ObjectKeyFromObject(deleted), deleted)
	require.True(t, apierrors.IsNotFound(err), "a deleted configuration must stay away, got %v", err)

	require.NoError(t, c.admin.Create(t.Context(), &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: c.name}}))
	require.Eventually(t, asDesired, patience, tick, "fill in a configuration that came back")
}

func testWritesOnlyDifferences(t *testing.T, c *cluster) {
	c.register(t)
	authority, _ := newAuthority(t, "routesteward-ca")
	r := newReconciler(c.admin, c.options(), &fakeCertificates{bundle: authority}, won())
	_, err := r.Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)
	first := c.registered(t)
	require.Equal(t, authority, first.Webhooks[0].ClientConfig.CABundle)

	next := newReconciler(c.admin, c.options(), &fakeCertificates{bundle: authority}, won())
	_, err = next.Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)
	require.Equal(t, first.ResourceVersion, c.registered(t).ResourceVersion, "the API's defaults must not look like an edit")

	follower := newReconciler(c.admin, Options{Name: c.name}, &fakeCertificates{bundle: authority}, nil)
	_, err = follower.Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)
	require.Equal(t, first.ResourceVersion, c.registered(t).ResourceVersion, "only the elected replica writes")
}

func testRotationUnderTraffic(t *testing.T, c *cluster) {
	c.register(t)
	replicas := []*replica{c.start(t, certs.Options{}), c.start(t, certs.Options{})}
	c.intercepted(t, replicas...)
	finish := c.traffic(t)

	secret := &corev1.Secret{}
	seen := map[string]bool{}
	rotated := func(why string) {
		t.Helper()
		require.Eventually(t, func() bool {
			if c.admin.Get(t.Context(), client.ObjectKey{Namespace: c.name, Name: "ca"}, secret) != nil {
				return false
			}
			authorities, err := cert.ParseCertsPEM(secret.Data[corev1.TLSCertKey])
			if err != nil || seen[string(authorities[0].SubjectKeyId)] {
				return false
			}
			for _, r := range replicas {
				if !r.servedWith(authorities[0]) {
					return false
				}
			}
			seen[string(authorities[0].SubjectKeyId)] = true
			return true
		}, patience, tick, why)
	}
	rotated("the first authority")

	c.deleteAuthority(t)
	replicas = append(replicas, c.start(t, certs.Options{}))
	rotated("deleted, and a replica that starts meanwhile")

	certificate, key := newAuthority(t, "somebody's own")
	secret.Data = map[string][]byte{corev1.TLSCertKey: certificate, "ca.crt": certificate, corev1.TLSPrivateKeyKey: key}
	require.NoError(t, c.admin.Update(t.Context(), secret))
	rotated("replaced")

	secret.Data = map[string][]byte{corev1.TLSCertKey: []byte("not"), "ca.crt": []byte("an authority")}
	require.NoError(t, c.admin.Update(t.Context(), secret))
	rotated("destroyed")

	finish()
	bundle, err := cert.ParseCertsPEM(c.registered(t).Webhooks[0].ClientConfig.CABundle)
	require.NoError(t, err)
	require.Len(t, bundle, 3, "the bundle is bounded")
}

func testRenewalUnderTraffic(t *testing.T, c *cluster) {
	c.register(t)
	short := certs.Options{LeafDuration: 12 * time.Second}
	replicas := []*replica{c.start(t, short), c.start(t, short)}
	c.intercepted(t, replicas...)
	finish := c.traffic(t)
	for _, r := range replicas {
		require.Eventually(t, func() bool {
			_, certificates := r.received()
			return certificates >= 3
		}, patience, tick)
	}
	finish()
}

// traffic makes the API server call the webhook without a pause. The function it returns ends that and fails the test if
// one call failed.
func (c *cluster) traffic(t *testing.T) (finish func()) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var (
		workers  sync.WaitGroup
		mu       sync.Mutex
		calls    int
		failures []error
	)
	for range 3 {
		workers.Go(func() {
			for ctx.Err() == nil {
				// Not ctx: a call that was cut off is no failure, and none to learn from.
				err := c.call(context.Background())
				mu.Lock()
				calls++
				if err != nil {
					failures = append(failures, fmt.Errorf("call %d at %s: %w", calls, time.Now().Format(time.TimeOnly), err))
				}
				mu.Unlock()
			}
		})
	}
	t.Cleanup(func() {
		stop()
		workers.Wait()
	})
	return func() {
		t.Helper()
		stop()
		workers.Wait()
		t.Logf("%d calls, %d failed", calls, len(failures))
		require.NoError(t, errors.Join(failures[:min(len(failures), 5)]...))
		require.Greater(t, calls, 20, "there was traffic")
	}
}

// proxy forwards each connection to the next replica that is ready, as a Service does.
type proxy struct {
	listener net.Listener

	mu       sync.Mutex
	replicas []*replica
	next     int
}

func startProxy(t *testing.T) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: listener}
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() { p.forward(in) })
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		connections.Wait()
	})
	return p
}

func (p *proxy) add(r *replica) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replicas = append(p.replicas, r)
}

func (p *proxy) pick() *replica {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range p.replicas {
		p.next++
		if r := p.replicas[p.next%len(p.replicas)]; r.isReady() {
			return r
		}
	}
	return nil
}

func (p *proxy) forward(in net.Conn) {
	defer in.Close()
	r := p.pick()
	if r == nil {
		return
	}
	out, err := net.Dial("tcp", r.address)
	if err != nil {
		return
	}
	defer out.Close()
	var upstream sync.WaitGroup
	upstream.Go(func() {
		_, _ = io.Copy(out, in)
		_ = out.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(in, out)
	_ = in.Close()
	upstream.Wait()
}

func freeAddress(t *testing.T) net.Addr {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr()
}

func splitAddress(t *testing.T, address string) (string, int) {
	t.Helper()
	resolved, err := net.ResolveTCPAddr("tcp", address)
	require.NoError(t, err)
	return resolved.IP.String(), resolved.Port
}

func newAuthority(t *testing.T, commonName string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER})
}
