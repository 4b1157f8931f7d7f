package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"

	"github.com/routesteward/routesteward/policy"
)

// NewInformer makes the informers of the caches. The watches of routes are opened and decoded here, because client-go's own
// do not report whether a watch ended in time or was cut off, which is a break of the freshness.
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
			if route, isRoute := policy.RouteOf(obj); isRoute {
				both.WatchFuncWithContext = watchRoutes(client, fresh, route.Kind)
			}
		}
		return toolscache.NewSharedIndexInformer(lw, obj, resync, indexers)
	}, nil
}

func watchRoutes(client rest.Interface, fresh *Freshness, kind policy.Kind) toolscache.WatchFuncWithContext {
	row, _ := policy.RouteKindOf(kind)
	return func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
		options.Watch = true
		stream, err := client.Get().Resource(row.Resource).VersionedParams(&options, metav1.ParameterCodec).Stream(ctx)
		if err != nil {
			fresh.watchFailed(kind, err)
			return nil, err
		}
		decoder := &routeDecoder{stream: stream, events: kjson.NewDecoderCaseSensitivePreserveInts(stream), kind: kind, ended: fresh.watchOpened(kind)}
		return watch.NewStreamWatcher(decoder, apierrors.NewClientErrorReporter(http.StatusInternalServerError, "watch", "ClientWatchDecoding")), nil
	}
}

// routeDecoder implements watch.Decoder.
type routeDecoder struct {
	stream io.ReadCloser
	events kjson.Decoder
	kind   policy.Kind
	// ended is called when there are no more events, or nobody wants them.
	ended func(error)
}

// Decode implements watch.Decoder.
func (d *routeDecoder) Decode() (watch.EventType, runtime.Object, error) {
	eventType, object, err := d.next()
	if failure, ok := object.(*metav1.Status); ok {
		d.ended(apierrors.FromObject(failure))
	} else if err != nil && !errors.Is(err, io.EOF) { // its time is not just over
		d.ended(err)
	}
	return eventType, object, err
}

func (d *routeDecoder) next() (watch.EventType, runtime.Object, error) {
	var event metav1.WatchEvent
	if err := d.events.Decode(&event); err != nil {
		return "", nil, err
	}
	eventType, object := watch.EventType(event.Type), runtime.Object(NewRoute(d.kind))
	switch eventType {
	case watch.Added, watch.Modified, watch.Deleted, watch.Bookmark:
	case watch.Error:
		object = &metav1.Status{}
	default:
		return "", nil, fmt.Errorf("unknown type of event %q", event.Type)
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(event.Object.Raw, object); err != nil {
		return "", nil, err
	}
	object.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{}) // as client-go leaves typed objects
	return eventType, object, nil
}

// Close implements watch.Decoder.
func (d *routeDecoder) Close() {
	d.ended(nil)
	_ = d.stream.Close()
}
