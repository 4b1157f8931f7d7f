// Package gateways runs a control plane with real gateways on this machine: Envoy Gateway, which AIBrix
// uses, as the authority on route status and on what an Envoy would be told, and Traefik for real HTTP
// traffic. Both serve the same routes, each on a Gateway of its own in the system namespace.
//
// Pods are HTTP servers of this process, at addresses of the namespaces that netns.Isolate makes.
package gateways

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/netns"
)

const (
	// System is the namespace of the Gateways, as AIBrix names it.
	System = "aibrix-system"
	// EnvoyGateway and Traefik are the names of the Gateways and of their classes. The first is AIBrix's.
	EnvoyGateway = "aibrix-eg"
	Traefik      = "aibrix-traefik"
	// EnvoyGatewayController and TraefikController are what the two write as status.parents[].controllerName.
	EnvoyGatewayController = "gateway.envoyproxy.io/gatewayclass-controller"
	TraefikController      = "traefik.io/gateway-controller"
	// URL is where Traefik serves the listener of its Gateway.
	URL = "http://10.244.0.1"
)

// Options configure a World.
type Options struct {
	// Throttle is the pause that Traefik makes between two looks at the cluster; its default, 2s, when zero.
	Throttle time.Duration
	// Progress, if set, is called with a short line before each step.
	Progress func(string)
}

// World is a control plane with both gateways, and whatever Pods were added. Nothing is installed of
// routesteward: see Install and Serve of the Cluster.
type World struct {
	*localcluster.Cluster
	// Client is the administrator's.
	Client client.WithWatch

	root         string
	throttle     time.Duration
	envoyGateway *localcluster.Process
	traefik      *localcluster.Process
	bound        string // where Envoy Gateway's program is mounted

	mu        sync.Mutex
	addresses int
	pods      []*server
}

// Prepare fetches what Start needs and an isolated process cannot fetch, and tells what is not built.
func Prepare(ctx context.Context) error {
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	for _, program := range []string{"envoy-gateway", "xds", "traefik"} {
		if _, err := os.Stat(binary(root, program)); err != nil {
			return fmt.Errorf("the gateways are not built, run `make gateways`: %w", err)
		}
	}
	_, err = crds(ctx)
	return err
}

func binary(root, program string) string { return filepath.Join(root, "bin", "gateways", program) }

func crds(ctx context.Context) ([]string, error) {
	standard, err := localcluster.GatewayAPI(ctx, "standard")
	if err != nil {
		return nil, err
	}
	own, err := localcluster.EnvoyGatewayCRDs(ctx)
	return []string{standard, own}, err
}

// Start starts a world in an isolated process, one at a time, and returns when both gateways have
// accepted their Gateways. ctx bounds the start only.
func Start(ctx context.Context, options Options) (_ *World, err error) {
	if !netns.Isolated() {
		return nil, errors.New("gateways need a network of their own: call netns.Isolate first")
	}
	if err := furnish(); err != nil {
		return nil, err
	}
	folders, err := crds(ctx)
	if err != nil {
		return nil, err
	}
	root, err := localcluster.Root()
	if err != nil {
		return nil, err
	}
	w := &World{root: root, throttle: options.Throttle}
	if w.throttle == 0 {
		w.throttle = 2 * time.Second
	}
	progress := options.Progress
	if progress == nil {
		progress = func(string) {}
	}
	w.Cluster, err = localcluster.Start(ctx, localcluster.Options{
		CRDs: folders,
		// Services get their endpoints as in a cluster.
		Controllers: append([]string{"endpointslice-controller"}, localcluster.DefaultControllers...),
		Audit:       true,
		// It would look for the default route, and there is none.
		APIServerFlags: []string{"--advertise-address=10.244.0.1"},
		Progress:       progress,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Stop())
		}
	}()
	// Otherwise controller-runtime complains, after 30 seconds, that nobody told it where to log.
	log.SetLogger(logr.Discard())
	config := rest.CopyConfig(w.Config)
	config.WarningHandler = rest.NoWarnings{}
	if w.Client, err = client.NewWithWatch(config, client.Options{Scheme: scheme()}); err != nil {
		return nil, err
	}
	if err := w.create(ctx, objects()...); err != nil {
		return nil, err
	}
	progress("starting Envoy Gateway")
	if err := w.startEnvoyGateway(ctx); err != nil {
		return nil, err
	}
	progress("starting Traefik")
	if err := w.startTraefik(ctx); err != nil {
		return nil, err
	}
	progress("waiting for both Gateways")
	return w, eventually(ctx, func() error {
		for _, name := range []string{EnvoyGateway, Traefik} {
			var gateway gwv1.Gateway
			if err := w.Client.Get(ctx, client.ObjectKey{Namespace: System, Name: name}, &gateway); err != nil {
				return err
			}
			if !meta.IsStatusConditionTrue(gateway.Status.Conditions, string(gwv1.GatewayConditionAccepted)) {
				return fmt.Errorf("Gateway %s is not accepted: %v", name, gateway.Status.Conditions)
			}
		}
		return nil
	})
}

// Stop ends everything, the Pods included. It is safe to call it more than once.
func (w *World) Stop() error {
	var errs []error
	for _, process := range []*localcluster.Process{w.traefik, w.envoyGateway} {
		if process != nil {
			errs = append(errs, process.Stop())
		}
	}
	w.mu.Lock()
	pods := w.pods
	w.pods = nil
	w.mu.Unlock()
	for _, pod := range pods {
		errs = append(errs, pod.stop())
	}
	if w.bound != "" {
		errs = append(errs, unbind(w.bound))
		w.bound = ""
	}
	return errors.Join(append(errs, w.Cluster.Stop())...)
}

// Exited returns the error of a process that has ended by itself; nil while all run.
func (w *World) Exited() error {
	for name, process := range map[string]*localcluster.Process{"Envoy Gateway": w.envoyGateway, "Traefik": w.traefik} {
		select {
		case <-process.Done():
			return fmt.Errorf("%s ended, see %s", name, process.LogPath())
		default:
		}
	}
	return w.Cluster.Exited()
}

func scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, gwv1.Install} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s
}

// objects are AIBrix's Gateway, that of Traefik beside it, and what Pods need.
func objects() []client.Object {
	gateway := func(name string) *gwv1.Gateway {
		return &gwv1.Gateway{
			ObjectMeta: metav1.ObjectMeta{Namespace: System, Name: name},
			Spec: gwv1.GatewaySpec{
				GatewayClassName: gwv1.ObjectName(name),
				// No allowedRoutes, as in AIBrix: routes of the Gateway's own namespace only.
				Listeners: []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}},
			},
		}
	}
	class := func(name, controller string) *gwv1.GatewayClass {
		return &gwv1.GatewayClass{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       gwv1.GatewayClassSpec{ControllerName: gwv1.GatewayController(controller)},
		}
	}
	return []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: System}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: envoyGatewayNamespace}},
		class(EnvoyGateway, EnvoyGatewayController),
		class(Traefik, TraefikController),
		gateway(EnvoyGateway),
		gateway(Traefik),
	}
}

func (w *World) create(ctx context.Context, objects ...client.Object) error {
	for _, object := range objects {
		if err := w.Client.Create(ctx, object); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// eventually calls condition until it returns nil; when ctx ends first, its last error is returned.
func eventually(ctx context.Context, condition func() error) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := condition()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}
