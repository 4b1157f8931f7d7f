// Package live reads from a cluster's API what an audit needs. It never writes.
package live

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
)

const (
	// pageSize is how many objects one request to the API server asks for.
	pageSize = 500
	// Above manyNamespaces, one cluster-wide list is cheaper than a list of each namespace.
	manyNamespaces = 50
	// parallel is how many requests are made at once.
	parallel = 8
	// Without a limit of the client: the API server protects itself by priority and fairness.
	noLimit = -1
)

// Cluster is a cluster behind an API server.
type Cluster struct {
	// Client reads; only List and Get are called.
	Client client.Client
	// Source says in words which cluster it is.
	Source string
}

// Connect returns the cluster of a kubeconfig's context; empty strings mean the usual file and the current context.
func Connect(kubeconfig, context string) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
	if err != nil {
		return nil, err
	}
	return New(config)
}

// New returns the cluster that a client configuration leads to.
func New(config *rest.Config) (*Cluster, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "routesteward-audit"
	config.QPS = noLimit
	// Deprecation warnings are nothing that the reader of a report can act on.
	config.WarningHandler = rest.NoWarnings{}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), gwv1.Install(scheme)); err != nil {
		return nil, err
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", config.Host, err)
	}
	return &Cluster{Client: c, Source: "cluster " + config.Host}, nil
}

// Options say what is read besides Namespaces, Gateways, ReferenceGrants and routes.
type Options struct {
	// Backends reads the Services and EndpointSlices of the namespaces that routes refer to.
	Backends bool
	// Plugin looks for AIBrix's gateway plugin in the namespaces that have a Gateway.
	Plugin bool
	// MaxRoutes ends reading with a *TooManyError where there are more routes of one kind; 0 is no limit.
	MaxRoutes int64
}

// TooManyError says that a cluster has more routes of a kind than Options.MaxRoutes.
type TooManyError struct {
	Resource  string
	Have, Max int64
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("the cluster has %d %s, more than %d", e.Have, e.Resource, e.Max)
}

// Everything reads all that an audit can use.
func Everything() Options { return Options{Backends: true, Plugin: true} }

// kind is a kind that is read, with an empty object and an empty list of its Go types, which are of version.
type kind struct {
	schema.GroupKind
	resource string
	object   func() client.Object
	list     func() client.ObjectList
}

// version is that of the Go types of all kinds.
const version = "v1"

// The kinds without which there is no audit. Routes come first: what was made before them is there when it is read, so
// that nothing seems to be missing that came in between.
var required = append(routes(),
	kind{schema.GroupKind{Group: gwv1.GroupName, Kind: "Gateway"}, "gateways", func() client.Object { return &gwv1.Gateway{} }, func() client.ObjectList { return &gwv1.GatewayList{} }},
	kind{schema.GroupKind{Group: gwv1.GroupName, Kind: "ReferenceGrant"}, "referencegrants", func() client.Object { return &gwv1.ReferenceGrant{} }, func() client.ObjectList { return &gwv1.ReferenceGrantList{} }},
	kind{schema.GroupKind{Kind: "Namespace"}, "namespaces", func() client.Object { return &corev1.Namespace{} }, func() client.ObjectList { return &corev1.NamespaceList{} }},
)

func routes() []kind {
	var kinds []kind
	for _, row := range policy.Routes() {
		kinds = append(kinds, kind{
			schema.GroupKind{Group: gwv1.GroupName, Kind: string(row.Kind)}, row.Resource,
			func() client.Object { return row.New() }, func() client.ObjectList { return row.NewList() },
		})
	}
	return kinds
}

var (
	services       = kind{schema.GroupKind{Kind: "Service"}, "services", func() client.Object { return &corev1.Service{} }, func() client.ObjectList { return &corev1.ServiceList{} }}
	endpointSlices = kind{schema.GroupKind{Group: discoveryv1.GroupName, Kind: "EndpointSlice"}, "endpointslices", func() client.Object { return &discoveryv1.EndpointSlice{} }, func() client.ObjectList { return &discoveryv1.EndpointSliceList{} }}
	deployments    = kind{schema.GroupKind{Group: appsv1.GroupName, Kind: "Deployment"}, "deployments", func() client.Object { return &appsv1.Deployment{} }, func() client.ObjectList { return &appsv1.DeploymentList{} }}
)

// Read reads a cluster, page by page and reduced to what an audit reads. What may not be read of the required kinds is an
// error; of others it is noted in NotRead. Kinds that the cluster does not serve have no objects in it.
func (c *Cluster) Read(ctx context.Context, o Options) (*audit.Cluster, error) {
	r := &reader{client: c.Client, into: &audit.Cluster{Source: c.Source, Time: time.Now().UTC().Truncate(time.Second)}}
	for _, k := range required {
		var most int64
		if _, isRoute := policy.RouteKindOf(policy.Kind(k.Kind)); isRoute {
			most = o.MaxRoutes
		}
		if err := r.list(ctx, k, "", most, nil); err != nil {
			return nil, err
		}
	}
	if !o.Backends {
		r.notRead(services.resource, "", "", "backends are not looked at here")
		r.notRead(endpointSlices.resource, "", "", "backends are not looked at here")
	}
	if !o.Plugin {
		r.notRead(deployments.resource, "", "", "AIBrix's gateway plugin is not looked at here")
	}
	var jobs []func() error
	if o.Backends {
		namespaces := r.into.BackendNamespaces()
		for _, k := range []kind{services, endpointSlices} {
			if len(namespaces) > manyNamespaces {
				// One list, for those who may read all namespaces.
				err := r.list(ctx, k, "", 0, sets.New(namespaces...))
				if err == nil {
					continue
				}
				if !apierrors.IsForbidden(err) {
					return nil, err
				}
			}
			for _, namespace := range namespaces {
				jobs = append(jobs, func() error { return r.optional(ctx, k, namespace) })
			}
		}
	}
	if o.Plugin {
		for _, namespace := range r.into.GatewayNamespaces() {
			jobs = append(jobs, func() error { return r.optional(ctx, deployments, namespace) })
		}
	}
	if err := inParallel(jobs); err != nil {
		return nil, err
	}
	if err := r.configMaps(ctx); err != nil {
		return nil, err
	}
	r.into.Complete()
	return r.into, nil
}

// inParallel returns the first error, when all jobs are done.
func inParallel(jobs []func() error) error {
	var wait sync.WaitGroup
	errs := make([]error, len(jobs))
	tokens := make(chan struct{}, parallel)
	for i, job := range jobs {
		tokens <- struct{}{}
		wait.Go(func() {
			defer func() { <-tokens }()
			errs[i] = job()
		})
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// reader is the state of one Read.
type reader struct {
	client client.Client
	mutex  sync.Mutex // guards into
	into   *audit.Cluster
}

func (r *reader) notRead(resource, namespace, name, reason string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.into.NotRead = append(r.into.NotRead, audit.NotRead{Resource: resource, Namespace: namespace, Name: name, Reason: reason})
}

func (r *reader) add(obj runtime.Object) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.into.Add(obj)
}

// optional lists a kind in a namespace; that it may not be read is noted.
func (r *reader) optional(ctx context.Context, k kind, namespace string) error {
	err := r.list(ctx, k, namespace, 0, nil)
	if apierrors.IsForbidden(err) {
		r.notRead(k.resource, namespace, "", "you may not list "+k.resource+" there")
		return nil
	}
	return err
}

// list adds all objects of a kind in a namespace, or with "" in all, unless others are given, in those. More than most are a
// *TooManyError, unless that is 0.
func (r *reader) list(ctx context.Context, k kind, namespace string, most int64, only sets.Set[string]) error {
	mapping, err := r.client.RESTMapper().RESTMapping(k.GroupKind)
	if meta.IsNoMatchError(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot ask the cluster which version of %s it serves: %w", k.Kind, err)
	}
	next := ""
	var have int64
	for restarted := false; ; {
		// Objects of a page stay in its memory, so that each page needs its own.
		page := k.page(mapping.GroupVersionKind.GroupVersion())
		err := r.client.List(ctx, page, client.InNamespace(namespace), client.Limit(pageSize), client.Continue(next))
		if apierrors.IsResourceExpired(err) && !restarted {
			// The pages took longer than the API server remembers (five minutes): the rest at once, of a newer state.
			if rest := continueOf(err); rest != "" {
				restarted, next = true, rest
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("cannot list %s: %w", k.resource, err)
		}
		have += int64(meta.LenList(page))
		all := have
		if remaining := page.GetRemainingItemCount(); remaining != nil {
			all += *remaining
		}
		if most > 0 && all > most {
			return &TooManyError{k.resource, all, most}
		}
		if err := meta.EachListItem(page, func(item runtime.Object) error { return r.addOf(k, item, only) }); err != nil {
			return err
		}
		if next = page.GetContinue(); next == "" {
			return nil
		}
	}
}

// page is an empty list of a version. Reading into the Go type spares a conversion of every object; but Gateway API before 1.5 has ReferenceGrants of v1beta1 only, which are the same in JSON.
func (k kind) page(served schema.GroupVersion) client.ObjectList {
	if served.Version == version {
		return k.list()
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(served.WithKind(k.Kind + "List"))
	return list
}

// addOf adds an item of a list of a kind, unless others are given, in those namespaces.
func (r *reader) addOf(k kind, item runtime.Object, only sets.Set[string]) error {
	object, ok := item.(client.Object)
	if !ok {
		return fmt.Errorf("cannot read an item of %s: it is a %T", k.resource, item)
	}
	if only != nil {
		if !only.Has(object.GetNamespace()) {
			return nil
		}
		object = object.DeepCopyObject().(client.Object) // so that those that are left out go
	}
	if other, ok := object.(*unstructured.Unstructured); ok {
		object = k.object()
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(other.Object, object); err != nil {
			return fmt.Errorf("cannot read %s %s/%s: %w", k.Kind, other.GetNamespace(), other.GetName(), err)
		}
	}
	r.add(object)
	return nil
}

// continueOf is the token with which a list that has expired can be finished (meta/v1 ListMeta.continue).
func continueOf(err error) string {
	status, ok := err.(apierrors.APIStatus)
	if !ok {
		return ""
	}
	return status.Status().ListMeta.Continue
}

// configMaps reads those from which the gateway plugins take variables, by name.
func (r *reader) configMaps(ctx context.Context) error {
	for _, deployment := range r.into.Deployments {
		for _, name := range audit.PluginConfigMaps(deployment) {
			configMap := &corev1.ConfigMap{}
			err := r.client.Get(ctx, client.ObjectKey{Namespace: deployment.Namespace, Name: name}, configMap)
			switch {
			case err == nil:
				r.add(configMap)
			case apierrors.IsForbidden(err):
				r.notRead("configmaps", deployment.Namespace, name, "you may not read it")
			case !apierrors.IsNotFound(err):
				return fmt.Errorf("cannot read ConfigMap %s/%s: %s", deployment.Namespace, name, strings.TrimSpace(err.Error()))
			}
		}
	}
	return nil
}
