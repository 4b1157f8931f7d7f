package check

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/routewarden/routewarden/policy"
)

// pageSize is how many objects one request to the API server asks for.
const pageSize = 500

// LiveCluster is a Cluster behind an API server. It only reads.
type LiveCluster struct{ client client.Client }

// Connect returns the cluster of a kubeconfig's context; empty strings mean the usual file and the current context.
func Connect(kubeconfig, context string) (*LiveCluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
	if err != nil {
		return nil, err
	}
	config.UserAgent = "routewarden-check"
	c, err := client.New(config, client.Options{})
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", config.Host, err)
	}
	return &LiveCluster{client: c}, nil
}

// ReadFacts implements Cluster. Kinds that the cluster does not serve have no objects in it.
func (c *LiveCluster) ReadFacts(ctx context.Context, keep func(Object)) error {
	for _, kind := range ourKinds {
		gk := schema.GroupKind{Group: gwv1.GroupName, Kind: string(kind)}
		if kind == Namespace {
			gk.Group = ""
		}
		mapping, err := c.client.RESTMapper().RESTMapping(gk)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot ask the cluster which version of %s it serves: %w", kind, err)
		}
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(mapping.GroupVersionKind.GroupVersion().WithKind(string(kind) + "List"))
		for more := true; more; more = list.GetContinue() != "" {
			if err := c.client.List(ctx, list, client.Limit(pageSize), client.Continue(list.GetContinue())); err != nil {
				return fmt.Errorf("cannot list %s: %w", mapping.Resource.Resource, err)
			}
			for i := range list.Items {
				object, _ := newObject(mapping.GroupVersionKind.GroupVersion(), kind)
				if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, object); err != nil {
					return fmt.Errorf("cannot read %s %s/%s: %w", kind, list.Items[i].GetNamespace(), list.Items[i].GetName(), err)
				}
				keep(Object{Kind: kind, Item: -1, Object: object})
			}
		}
	}
	return nil
}

// fact is an object reduced to what the policy reads of it: nothing else of a cluster ends up in a file.
type fact struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        factMeta `json:"metadata"`
	Spec            any      `json:"spec,omitempty"`
}

type factMeta struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace,omitempty"`
	Labels            map[string]string `json:"labels,omitempty"`
	Annotations       map[string]string `json:"annotations,omitempty"`
	DeletionTimestamp *metav1.Time      `json:"deletionTimestamp,omitempty"`
}

type routeFact struct {
	ParentRefs []gwv1.ParentReference `json:"parentRefs,omitempty"`
	Rules      []ruleFact             `json:"rules,omitempty"`
}

// ruleFact has every backend that a route refers to, those of filters included.
type ruleFact struct {
	BackendRefs []gwv1.BackendObjectReference `json:"backendRefs"`
}

type gatewayFact struct {
	GatewayClassName gwv1.ObjectName `json:"gatewayClassName"`
}

func factOf(object Object) fact {
	f := fact{
		TypeMeta: metav1.TypeMeta{APIVersion: gwv1.GroupVersion.String(), Kind: string(object.Kind)},
		Metadata: factMeta{Name: object.GetName(), Namespace: object.GetNamespace(), DeletionTimestamp: object.GetDeletionTimestamp()},
	}
	switch o := object.Object.(type) {
	case *corev1.Namespace:
		f.APIVersion = "v1"
		f.Metadata.Labels = only(o.Labels, policy.GrantsLabel)
	case *gwv1.Gateway:
		f.Spec = gatewayFact{o.Spec.GatewayClassName}
	case *gwv1.ReferenceGrant:
		f.Metadata.Labels = only(o.Labels, policy.ManagedByLabel, policy.OriginLabel)
		f.Metadata.Annotations = only(o.Annotations, policy.EdgeAnnotation, policy.ConsentAnnotation)
		f.Spec = o.Spec
	default:
		route, _ := policy.RouteOf(object.Object)
		f.Metadata.Labels = only(route.Meta.Labels, policy.ManagedByLabel, policy.OriginLabel)
		f.Metadata.Annotations = only(route.Meta.Annotations, policy.ParkedAnnotation, policy.SourceAnnotation, policy.SourceUIDAnnotation)
		isCopy := route.Meta.Labels[policy.ManagedByLabel] == policy.ManagedBy
		if isCopy {
			f.Metadata.Labels, f.Metadata.Annotations = route.Meta.Labels, route.Meta.Annotations
		}
		// Whether a write changes a copy, or what a parked route cannot be relocated with was there before, only all of it says.
		if _, parked := route.Meta.Annotations[policy.ParkedAnnotation]; parked || isCopy {
			f.Spec = specOf(object.Object)
			break
		}
		spec := routeFact{ParentRefs: route.ParentRefs}
		var refs []gwv1.BackendObjectReference
		for ref := range route.References() {
			short := gwv1.BackendObjectReference{Name: gwv1.ObjectName(ref.Name)}
			if ref.Group != "" {
				short.Group = new(gwv1.Group(ref.Group))
			}
			if ref.Kind != "Service" {
				short.Kind = new(gwv1.Kind(ref.Kind))
			}
			if !ref.Implicit {
				short.Namespace = new(gwv1.Namespace(ref.Namespace))
			}
			refs = append(refs, short)
		}
		if len(refs) > 0 {
			spec.Rules = []ruleFact{{refs}}
		}
		f.Spec = spec
	}
	return f
}

// specOf is all of a route's spec.
func specOf(object client.Object) any {
	if route, ok := object.(*gwv1.GRPCRoute); ok {
		return route.Spec
	}
	route, _ := object.(*gwv1.HTTPRoute)
	return route.Spec
}

// only are those entries of a map that have one of the keys.
func only(all map[string]string, keys ...string) map[string]string {
	some := map[string]string{}
	for _, key := range keys {
		if value, ok := all[key]; ok {
			some[key] = value
		}
	}
	return some
}

// WriteSnapshot writes the facts of a cluster as a file for --facts: YAML documents, or with asJSON one object a line.
func WriteSnapshot(ctx context.Context, w io.Writer, cluster Cluster, asJSON bool) error {
	buffered := bufio.NewWriter(w)
	var failed error
	err := cluster.ReadFacts(ctx, func(object Object) {
		text, err := json.Marshal(factOf(object))
		if err == nil && !asJSON {
			text, err = yaml.JSONToYAML(text)
			text = append([]byte("---\n"), text...)
		}
		if err != nil {
			failed = err
			return
		}
		_, _ = buffered.Write(append(bytes.TrimRight(text, "\n"), '\n')) // Flush returns the error
	})
	if err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	return buffered.Flush()
}
