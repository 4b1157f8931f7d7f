// Package webhook serves the admission webhooks and runs the reconcilers beside them.
package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit/live"
	"github.com/routesteward/routesteward/webhook/certs"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/grants"
	"github.com/routesteward/routesteward/webhook/metrics"
	"github.com/routesteward/routesteward/webhook/registration"
	"github.com/routesteward/routesteward/webhook/relocate"
	"github.com/routesteward/routesteward/webhook/scan"
)

const (
	validatePath = "/validate"
	mutatePath   = "/mutate"
	// callTimeout is how many seconds the API server waits for an answer. Making a grant is the slowest part.
	callTimeout = 5
	// lostDelay is how long a replica that has to stop unasked still serves: until probes have found it unready, and
	// everybody knows.
	lostDelay = 15 * time.Second
)

// Run serves until ctx ends, and logs to the logger in ctx. The options and the policy must be valid.
func Run(ctx context.Context, o Options, config policy.Config) error {
	log := logr.FromContextOrDiscard(ctx)
	ctrl.SetLogger(log)
	klog.SetLogger(log)
	// net/http logs the clients that it refused through the log package, which follows.
	slog.SetDefault(slog.New(logr.ToSlogHandler(log)))
	rest, err := restConfig(o)
	if err != nil {
		return err
	}
	clients, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	if config.Self, err = whoAmI(ctx, clients); err != nil {
		return err
	}
	pol, err := policy.New(config)
	if err != nil {
		return err
	}
	source, err := certs.New(rest, o.certs())
	if err != nil {
		return err
	}
	var clientCA *certs.ClientCA
	if o.ClientCAFile != "" {
		if clientCA, err = certs.NewClientCA(o.ClientCAFile, o.ClientNames); err != nil {
			return fmt.Errorf("--client-ca-file: %w", err)
		}
	}
	serving := newServing(ctx)
	defer serving.end()
	fresh := cluster.NewFreshness(o.GrantGrace)
	mgr, served, err := newManager(rest, o, pol, source, clientCA, serving, fresh)
	if err != nil {
		return err
	}
	log.Info("routesteward starts", "self", config.Self, "referenceGrants", served.ReferenceGrants)
	if clientCA == nil && pol.GrantConsent == policy.ConsentRequester && pol.Grants == policy.GrantsInject {
		log.Info("whoever can connect to the webhook's port can claim to be any requester, and so to consent: let only the API server reach it (a NetworkPolicy), or set --client-ca-file or --grant-consent=namespace")
	}
	ready := &readiness{source: source, started: mgr.GetWebhookServer().StartedChecker(), log: log.WithName("readiness")}
	if err := errors.Join(mgr.Add(source), mgr.Add(ready),
		mgr.AddHealthzCheck("alive", func(*http.Request) error { return nil }),
		mgr.AddReadyzCheck("ready", ready.check)); err != nil {
		return err
	}
	m, err := metrics.New(ctrlmetrics.Registry)
	if err != nil {
		return err
	}
	m.Build(o.Version)
	m.Certificates(source.Certificates)
	if err := setUp(ctx, log, mgr, clients, o, pol, served, fresh, m); err != nil {
		return err
	}
	if o.WebhookConfiguration != "" {
		registered := o.registration(pol)
		registered.InStep = m.Registration
		if err := registration.SetupWithManager(mgr, registered, source); err != nil {
			return err
		}
	}

	// Unready first, so that no new calls are sent here; then the server drains, and the rest stops, the lease last.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	leave := func(delay time.Duration, until <-chan struct{}) {
		ready.stopping.Store(true)
		serving.leaving.Store(true)
		log.Info("stopping: reported unready, still serving", "for", delay.String())
		select {
		case <-until:
		case <-time.After(delay):
		}
	}
	go func() {
		select {
		case <-running.Done():
			return
		case <-ctx.Done():
		}
		leave(o.ShutdownDelay, running.Done())
		serving.drain()
		stop()
	}()
	err = mgr.Start(running)
	if err != nil && running.Err() == nil && ready.isReady() {
		// The lease was lost, as after an outage of the API server. The caller would end the process, in the midst of calls.
		log.Error(err, "stopping")
		leave(lostDelay, ctx.Done())
	}
	return err
}

func newManager(config *rest.Config, o Options, pol *policy.Policy, source *certs.Source, clientCA *certs.ClientCA, serving *serving, fresh *cluster.Freshness) (ctrl.Manager, cluster.Served, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), cluster.AddToScheme(scheme)); err != nil {
		return nil, cluster.Served{}, err
	}
	served, err := cluster.Discover(config, pol)
	if err != nil {
		return nil, served, err
	}
	cached := cluster.CacheOptions(served)
	maps.Copy(cached, registration.ByObject(o.WebhookConfiguration))
	newInformer, err := cluster.NewInformer(config, fresh)
	if err != nil {
		return nil, served, err
	}
	host, port, err := splitHostPort(o.WebhookBindAddress)
	if err != nil {
		return nil, served, err
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:   scheme,
		Cache:    cache.Options{ByObject: cached, NewInformer: newInformer},
		NewCache: serving.newCache,
		WebhookServer: &server{serving: serving, Server: ctrlwebhook.NewServer(ctrlwebhook.Options{
			Host: host,
			Port: port,
			TLSOpts: []func(*tls.Config){func(t *tls.Config) {
				t.MinVersion = tls.VersionTLS12
				t.GetCertificate = source.GetCertificate
				if clientCA != nil {
					clientCA.Require(t)
				}
			}},
		})},
		Metrics:                 metricsserver.Options{BindAddress: o.MetricsBindAddress},
		HealthProbeBindAddress:  o.HealthProbeBindAddress,
		LeaderElection:          o.LeaderElect,
		LeaderElectionID:        "routesteward",
		LeaderElectionNamespace: o.Namespace,
		// Safe, as the process ends when the manager does.
		LeaderElectionReleaseOnCancel: true,
	})
	return mgr, served, err
}

// setUp adds the webhooks and the reconcilers.
func setUp(ctx context.Context, log logr.Logger, mgr ctrl.Manager, clients kubernetes.Interface, o Options, pol *policy.Policy, served cluster.Served, fresh *cluster.Freshness, m *metrics.Metrics) error {
	reader, err := cluster.NewReader(ctx, mgr.GetCache(), served, pol)
	if err != nil {
		return err
	}
	fresh.Of(mgr.GetAPIReader(), reader)
	if err := mgr.Add(fresh); err != nil {
		return err
	}
	access := newAccessReviewer(clients.AuthorizationV1().SubjectAccessReviews())
	reconciler := &grants.Reconciler{
		Policy: pol, Writer: mgr.GetClient(), Live: mgr.GetAPIReader(), Caches: reader,
		Events: mgr.GetEventRecorder("routesteward"), Metrics: m, Grace: o.GrantGrace, Fresh: fresh,
	}
	if err := reconciler.SetupWithManager(mgr); err != nil {
		return err
	}
	for _, kind := range pol.Kinds {
		relocator := &relocate.Reconciler{
			Policy: pol, Kind: kind, Writer: mgr.GetClient(), Live: mgr.GetAPIReader(), Caches: reader,
			Events: mgr.GetEventRecorder("routesteward"), Metrics: m,
		}
		if err := relocator.SetupWithManager(mgr); err != nil {
			return err
		}
	}
	if o.ScanInterval > 0 {
		m.ScanEvery(o.ScanInterval)
		source, err := live.New(mgr.GetConfig())
		if err != nil {
			return err
		}
		if err := mgr.Add(&scan.Scanner{
			Policy: pol, Cluster: source, Interval: o.ScanInterval, Events: mgr.GetEventRecorder("routesteward"), Metrics: m, Log: log.WithName("scan"),
		}); err != nil {
			return err
		}
	}
	Webhooks{
		Policy:          pol,
		Caches:          reader,
		MayCreateGrants: access.mayCreateGrants,
		Grants:          &grants.Maker{Writer: mgr.GetClient(), Live: mgr.GetAPIReader(), Caches: reader, Grace: o.GrantGrace, Fresh: fresh, Metrics: m},
		Metrics:         m,
		Log:             slog.New(logr.ToSlogHandler(log)).With("logger", "admission"),
	}.Register(mgr.GetWebhookServer())
	return nil
}

func restConfig(o Options) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the API server (--kubeconfig, KUBECONFIG, or a Pod's service account): %w", err)
	}
	config.QPS, config.Burst = o.KubeAPIQPS, o.KubeAPIBurst
	config.UserAgent = "routesteward"
	return config, nil
}

// whoAmI is the user name under which the API server knows us (authentication.k8s.io/v1 SelfSubjectReview).
func whoAmI(ctx context.Context, clients kubernetes.Interface) (string, error) {
	review, err := clients.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("asking the API server for our own user name: %w", err)
	}
	return review.Status.UserInfo.Username, nil
}

// certs are the options of the serving certificate.
func (o Options) certs() certs.Options {
	names := []string{fmt.Sprintf("%s.%s.svc", o.WebhookService, o.Namespace)}
	if u, err := url.Parse(o.WebhookURL); err == nil && o.WebhookURL != "" {
		names = []string{u.Hostname()}
	}
	return certs.Options{
		Mode:            certs.Mode(o.Certs),
		Dir:             o.CertDir,
		SecretNamespace: o.Namespace,
		SecretName:      o.CASecret,
		DNSNames:        names,
		CADuration:      o.CADuration,
		LeafDuration:    o.LeafDuration,
		AwaitTrust:      o.WebhookConfiguration != "",
	}
}

// registration is what the policy makes of our webhook configurations.
func (o Options) registration(pol *policy.Policy) registration.Options {
	entry := func(name string, kind policy.Kind, versions []string, resources ...string) registration.Entry {
		scope := admissionregistrationv1.NamespacedScope
		return registration.Entry{
			Name: name, Path: validatePath, TimeoutSeconds: callTimeout,
			Rules: []admissionregistrationv1.RuleWithOperations{{
				// Deletion is never evaluated, and the status subresource never named.
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
				Rule: admissionregistrationv1.Rule{
					APIGroups: []string{gwv1.GroupName}, APIVersions: versions, Resources: resources, Scope: &scope,
				},
			}},
			MatchConditions: pol.MatchConditions(kind),
		}
	}
	// Whatever the policy evaluates, the rules are those of the chart, so that applying it again changes nothing. The conditions decide.
	var routes []string
	for _, row := range policy.Routes() {
		routes = append(routes, row.Resource)
	}
	v1 := []string{"v1"}
	entries := []registration.Entry{
		entry("routes.routesteward.dev", policy.HTTPRoute, v1, routes...),
		// Clusters may serve either version, or both.
		entry("referencegrants.routesteward.dev", policy.ReferenceGrant, []string{"v1", "v1beta1"}, "referencegrants"),
	}
	if pol.Evaluates(policy.Gateway) {
		entries = append(entries, entry("gateways.routesteward.dev", policy.Gateway, v1, "gateways"))
	}
	options := registration.Options{
		Name:       o.WebhookConfiguration,
		Service:    types.NamespacedName{Namespace: o.Namespace, Name: o.WebhookService},
		URL:        o.WebhookURL,
		Injected:   o.Certs == CertsCertManager,
		Validating: entries,
	}
	if pol.Outside == policy.OutsideRewrite {
		park := entry("routes.routesteward.dev", policy.HTTPRoute, v1, routes...)
		park.Path, park.MatchConditions = mutatePath, pol.MutatingConditions()
		options.Mutating = []registration.Entry{park}
	}
	return options
}

// readiness is ready while the caches are synced, a trusted certificate is served, and nobody asked us to stop.
type readiness struct {
	source           *certs.Source
	started          func(*http.Request) error
	synced, stopping atomic.Bool
	// listening is set once started has connected. To connect again at every probe would log a refused client each time
	// where client certificates are asked for; a listener that breaks later ends the process.
	listening atomic.Bool

	log logr.Logger
	mu  sync.Mutex
	// logged is the last logged reason; nil until a probe has answered.
	logged *string
}

// Start implements manager.Runnable; the manager calls it when the caches are synced.
func (r *readiness) Start(context.Context) error {
	r.synced.Store(true)
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every replica serves.
func (r *readiness) NeedLeaderElection() bool { return false }

// isReady reports whether the last probe has found us ready.
func (r *readiness) isReady() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logged != nil && *r.logged == ""
}

// check answers probes. Their answers never hold a reason, so the log does, whenever it changes.
func (r *readiness) check(req *http.Request) error {
	err := r.reason(req)
	var why string
	if err != nil {
		why = err.Error()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.logged != nil && *r.logged == why:
		return err
	case err == nil:
		r.log.Info("ready")
	default:
		r.log.Info("not ready", "why", why)
	}
	r.logged = &why
	return err
}

func (r *readiness) reason(req *http.Request) error {
	switch {
	case r.stopping.Load():
		return errors.New("stopping")
	case !r.synced.Load():
		return errors.New("the caches are not synced yet")
	}
	// In this order: to connect without a certificate to be had would log a failed handshake.
	if err := r.source.Ready(req); err != nil || r.listening.Load() {
		return err
	}
	if err := r.started(req); err != nil {
		return err
	}
	r.listening.Store(true)
	return nil
}

func splitHostPort(address string) (string, int, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	number, err := strconv.Atoi(port)
	return host, number, err
}
