package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/routewarden/routewarden/policy"
)

const (
	systemNamespace = "aibrix-system"
	// sharedNamespace holds a ReferenceGrant of its owner's for every Service.
	sharedNamespace = "shared"
	// consentingNamespace has the label of standing consent and no grants.
	consentingNamespace = "models"
)

// route is a request that is made before the time starts: one HTTPRoute and, for those who write it themselves, its
// ReferenceGrant.
type route struct {
	name string
	body []byte
	// grantName is that of the grant which routewarden makes for the route.
	grantName string
	grantBody []byte
}

const routeJSON = `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":%q,"namespace":%q},"spec":{` +
	`"parentRefs":[{"name":"aibrix-eg","namespace":%q}],"rules":[{` +
	`"matches":[{"path":{"type":"PathPrefix","value":"/v1/chat/completions"},"headers":[{"type":"Exact","name":"model","value":%q}]}],` +
	`"timeouts":{"request":"120s"},"backendRefs":[{"kind":"Service","name":%q,"namespace":%q,"port":8000}]}]}}`

const grantJSON = `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"ReferenceGrant","metadata":{"name":%q,"namespace":%q},"spec":{` +
	`"from":[{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","namespace":%q}],"to":[{"group":"","kind":"Service","name":%q}]}}`

// newRoutes are n routes in the system namespace, each to a Service of its own in the target namespace.
func newRoutes(n int, prefix, target string) []route {
	routes := make([]route, n)
	for i := range routes {
		model := fmt.Sprintf("%s-%d", prefix, i)
		r := route{name: model + "-router"}
		r.body = fmt.Appendf(nil, routeJSON, r.name, systemNamespace, systemNamespace, model, model, target)
		r.grantName = policy.Edge{
			Origin: systemNamespace, FromKind: policy.HTTPRoute, FromNamespace: systemNamespace,
			Namespace: target, Kind: "Service", Name: model,
		}.GrantName()
		r.grantBody = fmt.Appendf(nil, grantJSON, model, target, systemNamespace, model)
		routes[i] = r
	}
	return routes
}

func collection(namespace, resource string) string {
	return "/apis/gateway.networking.k8s.io/v1/namespaces/" + namespace + "/" + resource
}

func (b *bench) post(ctx context.Context, path string, body []byte) error {
	return b.clients.RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
}

func (b *bench) createRoute(ctx context.Context, r route) error {
	return b.post(ctx, collection(systemNamespace, "httproutes"), r.body)
}

// createGrantAndRoute is what careful people do without routewarden: the grant first, so that no gateway sees the route
// without it.
func (b *bench) createGrantAndRoute(ctx context.Context, r route) error {
	if err := b.post(ctx, collection(consentingNamespace, "referencegrants"), r.grantBody); err != nil {
		return err
	}
	return b.createRoute(ctx, r)
}

// readGrant reports whether the grant of a route is there, past all caches.
func (b *bench) readGrant(ctx context.Context, r route) (bool, error) {
	_, err := b.clients.RESTClient().Get().AbsPath(collection(consentingNamespace, "referencegrants"), r.grantName).Do(ctx).Raw()
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// load is the outcome of creating routes.
type load struct {
	// latencies of the writes, ascending.
	latencies []time.Duration
	elapsed   time.Duration
	// missing counts the routes for which verify said no.
	missing int
}

// create writes the routes by so many workers, and verifies each when its write has returned; verify may be nil. Latencies
// do not include it, the time elapsed does.
func create(ctx context.Context, routes []route, workers int, write func(context.Context, route) error, verify func(context.Context, route) (bool, error)) (load, error) {
	l := load{latencies: make([]time.Duration, len(routes))}
	var next, missing atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for range workers {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(routes) {
					return nil
				}
				began := time.Now()
				if err := write(ctx, routes[i]); err != nil {
					return fmt.Errorf("creating %s: %w", routes[i].name, err)
				}
				l.latencies[i] = time.Since(began)
				if verify == nil {
					continue
				}
				there, err := verify(ctx, routes[i])
				if err != nil {
					return fmt.Errorf("verifying %s: %w", routes[i].name, err)
				}
				if !there {
					missing.Add(1)
				}
			}
		})
	}
	err := group.Wait()
	l.elapsed, l.missing = time.Since(start), int(missing.Load())
	slices.Sort(l.latencies)
	return l, err
}

// late counts the routes whose grant is not there, or was stored after the route.
func (b *bench) late(ctx context.Context, routes []route) (int, error) {
	stored, err := b.list(ctx, collection(systemNamespace, "httproutes"))
	if err != nil {
		return 0, err
	}
	grants, err := b.list(ctx, collection(consentingNamespace, "referencegrants"))
	if err != nil {
		return 0, err
	}
	late := 0
	for _, r := range routes {
		version, ok := stored[r.name]
		if !ok {
			return 0, fmt.Errorf("HTTPRoute %s was created and is not there", r.name)
		}
		granted, ok := grants[r.grantName]
		if !ok {
			late++
			continue
		}
		// Both are in one etcd, which numbers its writes.
		order, err := resourceversion.CompareResourceVersion(granted, version)
		if err != nil {
			return 0, err
		}
		if order > 0 {
			late++
		}
	}
	return late, nil
}

// What a client accepts that asks for metadata alone.
const (
	metadata     = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	metadataList = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
)

// list returns the resourceVersions of a collection by name.
func (b *bench) list(ctx context.Context, path string) (map[string]string, error) {
	raw, err := b.clients.RESTClient().Get().AbsPath(path).SetHeader("Accept", metadataList).Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	versions := make(map[string]string, len(list.Items))
	for i := range list.Items {
		versions[list.Items[i].Name] = list.Items[i].ResourceVersion
	}
	return versions, nil
}

// clean deletes what a measurement has created.
func (b *bench) clean(ctx context.Context) error {
	var errs []error
	for _, path := range []string{collection(systemNamespace, "httproutes"), collection(consentingNamespace, "referencegrants")} {
		errs = append(errs, b.clients.RESTClient().Delete().AbsPath(path).Do(ctx).Error())
		if left, err := b.list(ctx, path); err != nil {
			errs = append(errs, err)
		} else if len(left) > 0 {
			errs = append(errs, fmt.Errorf("%d objects of %s outlive their deletion", len(left), path))
		}
	}
	return errors.Join(errs...)
}
