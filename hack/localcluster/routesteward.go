package localcluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// ServeOptions configure a routesteward that runs beside the cluster.
type ServeOptions struct {
	// Binary is the program; bin/routesteward of the checkout when empty.
	Binary string
	// Name distinguishes the log files of several replicas; "routesteward" when empty.
	Name string
	// Kubeconfig is whom it runs as; its own service account with the shipped RBAC when empty.
	Kubeconfig string
	// Flags of `routesteward serve` come after those that Serve sets, so they win.
	Flags []string
	// Env is added to this process's environment.
	Env []string
	// Unready makes Serve return as soon as the program runs.
	Unready bool
}

// Server is a running `routesteward serve`.
type Server struct {
	*Process
	// WebhookURL is the base that the API server calls, for example https://127.0.0.1:9443.
	WebhookURL string
	// MetricsURL and HealthURL are complete: …/metrics and …/readyz.
	MetricsURL, HealthURL string
}

// Install applies manifests/install.yaml: routesteward's namespace, account, RBAC, webhook registration, and a Deployment
// that nothing here runs. From then on routes can be written only while a routesteward serves.
func (c *Cluster) Install(ctx context.Context) error {
	return c.MustKubectl(ctx, "apply", "--filename="+filepath.Join(c.root, "manifests", "install.yaml"))
}

// Serve starts `routesteward serve` on free ports and returns when its /readyz answers 200. The
// caller stops it; Stop of the cluster does not.
func (c *Cluster) Serve(ctx context.Context, options ServeOptions) (*Server, error) {
	if options.Binary == "" {
		options.Binary = filepath.Join(c.root, "bin", "routesteward")
	}
	if options.Name == "" {
		options.Name = "routesteward"
	}
	if options.Kubeconfig == "" {
		var err error
		if options.Kubeconfig, err = c.ServiceAccountKubeconfig(ctx, "routesteward-system", "routesteward"); err != nil {
			return nil, err
		}
	}
	var server *Server
	err := withFreePorts(3, func(ports []int) error {
		webhook, metrics, health := address(ports[0]), address(ports[1]), address(ports[2])
		ready := HTTPReady(nil, "http://"+health+"/readyz")
		if options.Unready {
			ready = nil
		}
		process, err := StartProcess(ctx, ProcessOptions{
			Name: options.Name,
			Path: options.Binary,
			Env:  options.Env,
			Args: append([]string{
				"serve",
				"--kubeconfig=" + options.Kubeconfig,
				"--webhook-url=https://" + webhook,
				"--webhook-bind-address=" + webhook,
				"--metrics-bind-address=" + metrics,
				"--health-probe-bind-address=" + health,
				// Nobody routes to it by readiness here.
				"--shutdown-delay=0s",
			}, options.Flags...),
			Log:   filepath.Join(c.LogDir(), options.Name+".log"),
			Ready: ready,
		})
		if err != nil {
			return err
		}
		server = &Server{
			Process:    process,
			WebhookURL: "https://" + webhook,
			MetricsURL: "http://" + metrics + "/metrics",
			HealthURL:  "http://" + health + "/readyz",
		}
		return nil
	})
	return server, err
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// probe breaks the default policy: a governed route outside the system namespace.
const probe = `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"generateName": "probe-", "namespace": "default"},
	"spec": {"parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}]}}`

// WaitIntercepted returns when the API server asks a ready routesteward about HTTPRoutes. It creates a
// route outside the system namespace, in a dry run, until routesteward refuses it: true. When
// routesteward's flags let such a route in, it returns false once the API server uses the registration.
func (c *Cluster) WaitIntercepted(ctx context.Context) (refused bool, err error) {
	config := rest.CopyConfig(c.Config)
	config.WarningHandler = rest.NoWarnings{} // where the probe is let in, one for each
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return false, err
	}
	// The API server sees a changed registration after a second at most.
	const settled = 3 * time.Second
	var registered time.Time
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := client.RESTClient().Post().AbsPath("/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes").
			Param("dryRun", "All").SetHeader("Content-Type", "application/json").Body([]byte(probe)).Do(ctx).Error()
		switch {
		case err == nil && !registered.IsZero() && time.Since(registered) > settled:
			return false, nil
		case err == nil && registered.IsZero():
			current, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(ctx, "routesteward", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			complete := len(current.Webhooks) > 0
			for _, webhook := range current.Webhooks {
				complete = complete && len(webhook.ClientConfig.CABundle) > 0
			}
			if complete {
				registered = time.Now()
			}
		case err != nil && strings.Contains(err.Error(), `"routes.routesteward.dev" denied the request`):
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, errors.Join(fmt.Errorf("the API server does not ask routesteward about HTTPRoutes (%w)", context.Cause(ctx)), err)
		case <-ticker.C:
		}
	}
}
