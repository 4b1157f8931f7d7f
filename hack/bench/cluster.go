package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/policy"
)

const (
	systemNamespace = "aibrix-system"
	// sharedNamespace holds a ReferenceGrant of its owner's for every Service.
	sharedNamespace = "shared"
	// consentingNamespace has the label of consent and no grants.
	consentingNamespace = "models"

	etcdName  = "etcd"
	apiServer = "kube-apiserver"
)

// bench is a control plane in which is measured.
type bench struct {
	options
	*localcluster.Cluster
	clients *kubernetes.Clientset
}

// inNewCluster starts a control plane: an API server becomes slower with what it has been through.
func inNewCluster(ctx context.Context, o options, do func(*bench) error) (err error) {
	cluster, err := localcluster.Start(ctx, localcluster.Options{APIServerFlags: []string{
		// Deleting what was created takes a good part of the time.
		"--delete-collection-workers=8",
		// Every five minutes it would compare all that it has cached with etcd, and take a processor for a minute.
		"--feature-gates=DetectCacheInconsistency=false",
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	config := rest.CopyConfig(cluster.Config)
	config.WarningHandler = rest.NoWarnings{} // one for each grant
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	b := &bench{o, cluster, clients}
	for _, object := range []struct{ path, body string }{
		{namespaces, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + systemNamespace + `"}}`},
		{namespaces, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + sharedNamespace + `"}}`},
		{namespaces, `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + consentingNamespace + `","labels":{"routesteward.dev/grants":"allow"}}}`},
		{collection(systemNamespace, "gateways"), `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway",` +
			`"metadata":{"name":"aibrix-eg"},"spec":{"gatewayClassName":"aibrix-eg","listeners":[{"name":"http","port":80,"protocol":"HTTP"}]}}`},
		{collection(sharedNamespace, "referencegrants"), fmt.Sprintf(grantJSON, "routes", sharedNamespace, systemNamespace, "")},
	} {
		if err := b.post(ctx, object.path, []byte(object.body)); err != nil {
			return err
		}
	}
	return do(b)
}

// serve starts routesteward with the shipped permissions and memory limit, and returns when it is ready.
func (b *bench) serve(ctx context.Context, flags ...string) (*localcluster.Server, error) {
	return b.Serve(ctx, localcluster.ServeOptions{Binary: b.binary, Flags: flags, Env: []string{"GOMEMLIMIT=512MiB"}})
}

// startRoutesteward returns when the API server calls it.
func (b *bench) startRoutesteward(ctx context.Context, flags ...string) (*localcluster.Server, error) {
	if err := b.Install(ctx); err != nil {
		return nil, err
	}
	server, err := b.serve(ctx, flags...)
	if err != nil {
		return nil, err
	}
	if _, err := b.WaitIntercepted(ctx); err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	return server, nil
}

// removeWebhooks returns when the API server calls none.
func (b *bench) removeWebhooks(ctx context.Context) error {
	return errors.Join(b.delete(ctx, registrations+"validatingwebhookconfigurations"), b.delete(ctx, registrations+"mutatingwebhookconfigurations"), b.waitProbe(ctx, false))
}

// probe is refused by the webhook that allows everything else, and never stored.
var probe = newRoute("probe", systemNamespace, sharedNamespace)

func (b *bench) waitProbe(ctx context.Context, refused bool) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		last = b.clients.RESTClient().Post().AbsPath(collection(probe.namespace, "httproutes")).Param("dryRun", "All").
			SetHeader("Content-Type", "application/json").Body(probe.body).Do(ctx).Error()
		return last == nil && !refused || refused && last != nil && strings.Contains(last.Error(), "denied the request"), nil
	})
	if err != nil {
		return fmt.Errorf("the API server does not follow the registration of webhooks (%w): %v", err, last)
	}
	return nil
}

const (
	namespaces    = "/api/v1/namespaces"
	registrations = "/apis/admissionregistration.k8s.io/v1/"
)

func collection(namespace, resource string) string {
	return "/apis/gateway.networking.k8s.io/v1/namespaces/" + namespace + "/" + resource
}

func (b *bench) post(ctx context.Context, path string, body []byte) error {
	return b.clients.RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
}

// delete deletes an object or a collection.
func (b *bench) delete(ctx context.Context, path string) error {
	return b.clients.RESTClient().Delete().AbsPath(path).Do(ctx).Error()
}

// list returns the resourceVersions of a collection by name.
func (b *bench) list(ctx context.Context, path string) (map[string]string, error) {
	raw, err := b.clients.RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	err = json.Unmarshal(raw, &list)
	versions := make(map[string]string, len(list.Items))
	for i := range list.Items {
		versions[list.Items[i].Name] = list.Items[i].ResourceVersion
	}
	return versions, err
}

// clean deletes what a measurement has created.
func (b *bench) clean(ctx context.Context) error {
	return errors.Join(b.delete(ctx, collection(systemNamespace, "httproutes")), b.delete(ctx, collection(consentingNamespace, "referencegrants")))
}

// route is an HTTPRoute that is created, and the ReferenceGrant that it needs, for those who write that themselves.
type route struct {
	model, namespace, name string
	body                   []byte
	// target is the namespace of the backend.
	target, grantName string
	grantBody         []byte
}

const routeJSON = `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":%q,"namespace":%q},"spec":{` +
	`"parentRefs":[{"name":"aibrix-eg","namespace":"` + systemNamespace + `"}],"rules":[{` +
	`"matches":[{"path":{"type":"PathPrefix","value":"/v1/chat/completions"},"headers":[{"type":"Exact","name":"model","value":%q}]}],` +
	`"timeouts":{"request":"120s"},"backendRefs":[{"kind":"Service","name":%q,"namespace":%q,"port":8000}]}]}}`

const grantJSON = `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"ReferenceGrant","metadata":{"name":%q,"namespace":%q},"spec":{` +
	`"from":[{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","namespace":%q}],"to":[{"group":"","kind":"Service"%s}]}}`

func newRoute(model, namespace, target string) route {
	r := route{model: model, namespace: namespace, name: model + "-router", target: target}
	r.body = fmt.Appendf(nil, routeJSON, r.name, namespace, model, model, target)
	r.grantName = policy.Edge{
		Origin: namespace, FromKind: policy.HTTPRoute, FromNamespace: systemNamespace, Namespace: target, Kind: "Service", Name: model,
	}.GrantName()
	r.grantBody = fmt.Appendf(nil, grantJSON, r.grantName, target, systemNamespace, fmt.Sprintf(`,"name":%q`, model))
	return r
}

// newRoutes are n routes in the system namespace, each to a Service of its own in the target namespace.
func newRoutes(n int, prefix, target string) []route {
	routes := make([]route, n)
	for i := range routes {
		routes[i] = newRoute(fmt.Sprintf("%s-%d", prefix, i), systemNamespace, target)
	}
	return routes
}

func (b *bench) createRoute(ctx context.Context, r route) error {
	return b.post(ctx, collection(r.namespace, "httproutes"), r.body)
}

// createGrantAndRoute writes the grant first, so that no gateway sees the route without it.
func (b *bench) createGrantAndRoute(ctx context.Context, r route) error {
	if err := b.post(ctx, collection(r.target, "referencegrants"), r.grantBody); err != nil {
		return err
	}
	return b.createRoute(ctx, r)
}

// hasGrant reads the managed grant of a route, past all caches.
func (b *bench) hasGrant(ctx context.Context, r route) (bool, error) {
	err := b.clients.RESTClient().Get().AbsPath(collection(r.target, "referencegrants"), r.grantName).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// load is the outcome of creating routes.
type load struct {
	latencies []time.Duration
	elapsed   time.Duration
}

func (l load) perSecond() float64 { return float64(len(l.latencies)) / l.elapsed.Seconds() }

// create writes the routes by so many workers, each of which then calls after. Latencies do not include that.
func create(ctx context.Context, routes []route, workers int, write func(context.Context, route) error, after ...func(context.Context, route) error) (load, error) {
	l := load{latencies: make([]time.Duration, len(routes))}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	start := time.Now()
	for i, r := range routes {
		group.Go(func() error {
			began := time.Now()
			if err := write(ctx, r); err != nil {
				return fmt.Errorf("creating %s: %w", r.name, err)
			}
			l.latencies[i] = time.Since(began)
			for _, do := range after {
				if err := do(ctx, r); err != nil {
					return fmt.Errorf("after creating %s: %w", r.name, err)
				}
			}
			return nil
		})
	}
	err := group.Wait()
	l.elapsed = time.Since(start)
	return l, err
}

// late counts the routes to the consenting namespace whose grant is missing, or was stored after the route. A grant that was
// deleted and created again counts, too.
func (b *bench) late(ctx context.Context, routes []route) (missing, after int, err error) {
	stored, err := b.list(ctx, collection(systemNamespace, "httproutes"))
	grants, grantsErr := b.list(ctx, collection(consentingNamespace, "referencegrants"))
	if err := errors.Join(err, grantsErr); err != nil {
		return 0, 0, err
	}
	return lateOf(routes, stored, grants)
}

func lateOf(routes []route, stored, grants map[string]string) (missing, after int, err error) {
	for _, r := range routes {
		version, ok := stored[r.name]
		if !ok {
			return 0, 0, fmt.Errorf("HTTPRoute %s was created and is not there", r.name)
		}
		granted, ok := grants[r.grantName]
		if !ok {
			missing++
			continue
		}
		// Both are in one etcd, which numbers its writes.
		order, err := resourceversion.CompareResourceVersion(granted, version)
		if err != nil {
			return 0, 0, err
		}
		if order > 0 {
			after++
		}
	}
	return missing, after, nil
}
