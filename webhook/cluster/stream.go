package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"

	"github.com/routesteward/routesteward/policy"
)

// NewInformer makes the informers of the caches. Those of routes watch by a decoder of our own: a cluster has up to 100,000
// of them, each of which a start reads, and client-go would go through the text of each five times and keep what CacheOptions
// throw away a moment later. The watches' errors are breaks of the freshness.
func NewInformer(config *rest.Config, fresh *Freshness) (func(toolscache.ListerWatcher, runtime.Object, time.Duration, toolscache.Indexers) toolscache.SharedIndexInformer, error) {
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &gwv1.SchemeGroupVersion
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	config.NegotiatedSerializer = clientgoscheme.Codecs.WithoutConversion() // for errors
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, err
	}
	return func(lw toolscache.ListerWatcher, obj runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
		if both, ok := lw.(*toolscache.ListWatch); ok {
			switch obj.(type) {
			case *gwv1.HTTPRoute:
				both.WatchFuncWithContext = watchRoutes(client, fresh, policy.HTTPRoute, (*streamed).httpRoute)
			case *gwv1.GRPCRoute:
				both.WatchFuncWithContext = watchRoutes(client, fresh, policy.GRPCRoute, (*streamed).grpcRoute)
			}
		}
		return toolscache.NewSharedIndexInformer(lw, obj, resync, indexers)
	}, nil
}

func watchRoutes(client rest.Interface, fresh *Freshness, kind policy.Kind, object func(*streamed) runtime.Object) toolscache.WatchFuncWithContext {
	return func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
		options.Watch = true
		stream, err := client.Get().Resource(strings.ToLower(string(kind))+"s").VersionedParams(&options, metav1.ParameterCodec).Stream(ctx)
		if err != nil {
			fresh.watchFailed(kind, err)
			return nil, err
		}
		decoder := &routeDecoder{stream: stream, events: kjson.NewDecoderCaseSensitivePreserveInts(stream), object: object, ended: fresh.watchOpened(kind)}
		return watch.NewStreamWatcher(decoder, apierrors.NewClientErrorReporter(http.StatusInternalServerError, "watch", "ClientWatchDecoding")), nil
	}
}

// routeDecoder implements watch.Decoder.
type routeDecoder struct {
	stream io.ReadCloser
	events kjson.Decoder
	object func(*streamed) runtime.Object
	// ended is called when there are no more events, or nobody wants them.
	ended func(error)
}

// Decode implements watch.Decoder.
func (d *routeDecoder) Decode() (watch.EventType, runtime.Object, error) {
	var event struct {
		Type   watch.EventType `json:"type"`
		Object streamed        `json:"object"`
	}
	if err := d.events.Decode(&event); err != nil {
		if !errors.Is(err, io.EOF) { // its time is not just over
			d.ended(err)
		}
		return "", nil, err
	}
	switch event.Type {
	case watch.Added, watch.Modified, watch.Deleted, watch.Bookmark:
		return event.Type, d.object(&event.Object), nil
	case watch.Error:
		failure := event.Object.failure()
		d.ended(apierrors.FromObject(failure))
		return event.Type, failure, nil
	}
	return "", nil, fmt.Errorf("unknown type of event %q", event.Type)
}

// Close implements watch.Decoder.
func (d *routeDecoder) Close() {
	d.ended(nil)
	_ = d.stream.Close()
}

// streamed is what is read of a route in a watch, or of a meta/v1 Status.
type streamed struct {
	Metadata struct {
		Name              string       `json:"name"`
		Namespace         string       `json:"namespace"`
		UID               types.UID    `json:"uid"`
		ResourceVersion   string       `json:"resourceVersion"`
		Generation        int64        `json:"generation"`
		CreationTimestamp metav1.Time  `json:"creationTimestamp"`
		DeletionTimestamp *metav1.Time `json:"deletionTimestamp"`
		Labels            Texts        `json:"labels"`
		Annotations       Texts        `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		ParentRefs []gwv1.ParentReference `json:"parentRefs"`
		Rules      []struct {
			BackendRefs []struct {
				gwv1.BackendObjectReference `json:",inline"`
				Filters                     []streamedFilter `json:"filters"`
			} `json:"backendRefs"`
			Filters []streamedFilter `json:"filters"`
		} `json:"rules"`
	} `json:"spec"`
	// Status is a route's, or one of the words of a Status.
	Status  json.RawMessage       `json:"status"`
	Message string                `json:"message"`
	Reason  metav1.StatusReason   `json:"reason"`
	Details *metav1.StatusDetails `json:"details"`
	Code    int32                 `json:"code"`
}

type streamedFilter struct {
	RequestMirror *struct {
		BackendRef gwv1.BackendObjectReference `json:"backendRef"`
	} `json:"requestMirror"`
	ExternalAuth *struct {
		BackendRef gwv1.BackendObjectReference `json:"backendRef"`
	} `json:"externalAuth"`
}

func (s *streamed) failure() *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		ListMeta: metav1.ListMeta{ResourceVersion: s.Metadata.ResourceVersion},
		Status:   metav1.StatusFailure, Message: s.Message, Reason: s.Reason, Details: s.Details, Code: s.Code,
	}
}

func (s *streamed) meta() metav1.ObjectMeta {
	m := &s.Metadata
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp, Labels: m.Labels, Annotations: m.Annotations,
	}
}

// status is what says that routesteward has written into it.
func (s *streamed) status() gwv1.RouteStatus {
	var status gwv1.RouteStatus
	if bytes.Contains(s.Status, []byte(`"`+policy.MirrorPrefix)) {
		// Of an API server's own making, so that it can be read; a controller's name is all that is looked for.
		_ = json.Unmarshal(s.Status, &status)
	}
	return status
}

// backends are all that the route refers to, in the order of the fields.
func (s *streamed) backends() []gwv1.BackendObjectReference {
	var all []gwv1.BackendObjectReference
	add := func(filters []streamedFilter) {
		for _, f := range filters {
			if f.RequestMirror != nil {
				all = append(all, f.RequestMirror.BackendRef)
			}
			if f.ExternalAuth != nil {
				all = append(all, f.ExternalAuth.BackendRef)
			}
		}
	}
	for _, rule := range s.Spec.Rules {
		for _, backend := range rule.BackendRefs {
			all = append(all, backend.BackendObjectReference)
			add(backend.Filters)
		}
		add(rule.Filters)
	}
	return all
}

func (s *streamed) httpRoute() runtime.Object {
	route := &gwv1.HTTPRoute{ObjectMeta: s.meta()}
	route.Spec.ParentRefs, route.Status.RouteStatus = s.Spec.ParentRefs, s.status()
	for _, backend := range s.backends() {
		route.Spec.Rules = append(route.Spec.Rules, gwv1.HTTPRouteRule{BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{BackendObjectReference: backend}}}})
	}
	return route
}

func (s *streamed) grpcRoute() runtime.Object {
	route := &gwv1.GRPCRoute{ObjectMeta: s.meta()}
	route.Spec.ParentRefs, route.Status.RouteStatus = s.Spec.ParentRefs, s.status()
	for _, backend := range s.backends() {
		route.Spec.Rules = append(route.Spec.Rules, gwv1.GRPCRouteRule{BackendRefs: []gwv1.GRPCBackendRef{{BackendRef: gwv1.BackendRef{BackendObjectReference: backend}}}})
	}
	return route
}
