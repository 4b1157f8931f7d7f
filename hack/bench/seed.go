package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/routewarden/routewarden/policy"
)

// seeder fills a cluster faster than its API server would: with one object of each sort created through the API server,
// and copies of exactly what that has stored, under other names and UIDs, put into etcd a hundred at a time.
type seeder struct {
	*bench
	http *http.Client
	// seeded is what was put in so far.
	seeded size
	// sample is what is copied, by its sort.
	samples map[string]stored
}

// size is how large a cluster is.
type size struct {
	// Routes counts HTTPRoutes in the system namespace, of which the first Edges refer to a Service of their own in one of so
	// many namespaces, the others to Services beside them.
	Routes, Edges, Namespaces int
}

func sizeOf(routes int) size { return size{routes, routes / 5, routes / 10} }

// stored is an object as it is in etcd.
type stored struct{ key, value, uid string }

// Names have one length each, as a Namespace is stored in an encoding that tells lengths.
func seededNamespace(i int) string { return fmt.Sprintf("tenant-%06d", i) }
func seededService(i int) string   { return fmt.Sprintf("seeded-%06d", i) }

// seededRoute is also the name of the model that it serves.
func seededRoute(i int) string { return fmt.Sprintf("routes-%06d", i) }

// edgeTo is the namespace of an edge's target.
func edgeTo(edge int) string { return seededNamespace(edge / 2) }

// sampled stands for the object that is copied.
const sampled = 999_999

// seededRouteJSON is like routeJSON, and as it is when a gateway serves it.
const seededRouteJSON = `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":%q,"namespace":%q,` +
	`"labels":{"app.kubernetes.io/managed-by":"Helm","model.aibrix.ai/name":%q},"annotations":{"meta.helm.sh/release-name":%q}},"spec":{` +
	`"parentRefs":[{"name":"aibrix-eg"}],"rules":[{` +
	`"matches":[{"path":{"type":"PathPrefix","value":"/v1/chat/completions"},"headers":[{"type":"Exact","name":"model","value":%q}]},` +
	`{"path":{"type":"PathPrefix","value":"/v1/completions"},"headers":[{"type":"Exact","name":"model","value":%q}]}],` +
	`"timeouts":{"request":"120s"},"backendRefs":[{"kind":"Service","name":%q,%s"port":8000}]}]}}`

// seededStatusJSON is what a gateway writes.
const seededStatusJSON = `{"status":{"parents":[{"parentRef":{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"aibrix-eg"},` +
	`"controllerName":"gateway.envoyproxy.io/gatewayclass-controller","conditions":[` +
	`{"type":"Accepted","status":"True","reason":"Accepted","message":"Route is accepted","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z"},` +
	`{"type":"ResolvedRefs","status":"True","reason":"ResolvedRefs","message":"Resolved all the Object references for the Route","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z"}]}]}}`

// newSeeder creates what is copied, and takes it away again.
func newSeeder(ctx context.Context, b *bench) (*seeder, error) {
	s := &seeder{bench: b, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, samples: map[string]stored{}}
	namespace, name := seededNamespace(sampled), seededRoute(sampled)
	route := func(elsewhere string) []byte {
		return fmt.Appendf(nil, seededRouteJSON, name, systemNamespace, name, name, name, name, seededService(sampled), elsewhere)
	}
	routeKey := "/registry/gateway.networking.k8s.io/httproutes/" + systemNamespace + "/" + name
	routePath := collection(systemNamespace, "httproutes")
	for _, sample := range []struct {
		sort, key, path, name string
		body                  []byte
	}{
		{"namespace", "/registry/namespaces/" + namespace, "/api/v1/namespaces", namespace,
			[]byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + namespace + `","labels":{"routewarden.dev/grants":"allow","team":"` + namespace + `"}}}`)},
		{"edge", routeKey, routePath, name, route(`"namespace":"` + namespace + `",`)},
		{"local", routeKey, routePath, name, route("")},
	} {
		if err := b.post(ctx, sample.path, sample.body); err != nil {
			return nil, err
		}
		if sample.path == routePath {
			if err := b.clients.RESTClient().Patch(types.MergePatchType).AbsPath(routePath, name, "status").Body([]byte(seededStatusJSON)).Do(ctx).Error(); err != nil {
				return nil, err
			}
		}
		var object struct{ Metadata struct{ UID string } }
		raw, err := b.clients.RESTClient().Get().AbsPath(sample.path, sample.name).SetHeader("Accept", "application/json").Do(ctx).Raw()
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &object); err != nil {
			return nil, err
		}
		value, err := s.get(ctx, sample.key)
		if err != nil {
			return nil, err
		}
		if !bytes.Contains(value, []byte(object.Metadata.UID)) || !bytes.Contains(value, []byte(sample.name)) {
			return nil, fmt.Errorf("etcd's %s is not the object that was created", sample.key)
		}
		s.samples[sample.sort] = stored{sample.key, string(value), object.Metadata.UID}
		if sample.path == routePath {
			if err := b.delete(ctx, sample.path, sample.name); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// grow brings the cluster to a size, which is no smaller than it was, and returns when the API server knows of it.
func (s *seeder) grow(ctx context.Context, to size) error {
	var puts []put
	copies := func(sort string, from, to int, names func(i int) []string) {
		sample := s.samples[sort]
		for i := from; i < to; i++ {
			uid := fmt.Sprintf("%s%012d", sample.uid[:len(sample.uid)-12], i)
			rename := strings.NewReplacer(append(names(i), sample.uid, uid)...)
			puts = append(puts, put{[]byte(rename.Replace(sample.key)), []byte(rename.Replace(sample.value))})
		}
	}
	copies("namespace", s.seeded.Namespaces, to.Namespaces, func(i int) []string {
		return []string{seededNamespace(sampled), seededNamespace(i)}
	})
	// Routes with an edge are numbered from the bottom, the others from the top, so that both can grow.
	copies("edge", s.seeded.Edges, to.Edges, func(i int) []string {
		return []string{seededRoute(sampled), seededRoute(i), seededService(sampled), seededService(i), seededNamespace(sampled), edgeTo(i)}
	})
	copies("local", s.seeded.Routes-s.seeded.Edges, to.Routes-to.Edges, func(i int) []string {
		return []string{seededRoute(sampled), seededRoute(sampled - 1 - i), seededService(sampled), seededService(i)}
	})
	group, putting := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for batch := range slices.Chunk(puts, maxPuts) {
		group.Go(func() error { return s.put(putting, batch) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	s.seeded = to
	// A new API server reads them all at once, which is faster than to be told of one after the other, and remembers no events.
	if err := s.cluster.Restart(ctx, apiServer, time.Minute); err != nil {
		return err
	}
	return errors.Join(s.await(ctx, "/api/v1/namespaces"), s.await(ctx, collection(systemNamespace, "httproutes")))
}

// seededEdge is that of a seeded route.
func seededEdge(i int) policy.Edge {
	return policy.Edge{
		Origin: systemNamespace, FromKind: policy.HTTPRoute, FromNamespace: systemNamespace,
		Namespace: edgeTo(i), Kind: "Service", Name: seededService(i),
	}
}

// await returns when the API server has all of a collection ready for those who watch.
func (b *bench) await(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	for {
		// At first it says that it is still initializing.
		err := b.watchInitial(ctx, path)
		if err == nil {
			return nil
		}
		if waitErr := pause(ctx, 500*time.Millisecond); waitErr != nil {
			return fmt.Errorf("the API server does not catch up with etcd: %w", errors.Join(waitErr, err))
		}
	}
}

// watchInitial watches a collection until all objects have come.
func (b *bench) watchInitial(ctx context.Context, path string) error {
	stream, err := b.clients.RESTClient().Get().AbsPath(path).Param("watch", "true").Param("sendInitialEvents", "true").
		Param("allowWatchBookmarks", "true").Param("resourceVersionMatch", "NotOlderThan").SetHeader("Accept", metadata).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	lines := bufio.NewReader(stream)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if bytes.Contains(line, []byte(metav1.InitialEventsAnnotationKey)) {
			return nil
		}
	}
}

func (b *bench) delete(ctx context.Context, path, name string) error {
	return b.clients.RESTClient().Delete().AbsPath(path, name).Do(ctx).Error()
}

// get and put use etcd's JSON gateway, which needs no client.

func (s *seeder) get(ctx context.Context, key string) ([]byte, error) {
	var answer struct{ KVs []struct{ Value []byte } }
	if err := s.call(ctx, "range", map[string][]byte{"key": []byte(key)}, &answer); err != nil {
		return nil, err
	}
	if len(answer.KVs) != 1 {
		return nil, fmt.Errorf("etcd has no key %s", key)
	}
	return answer.KVs[0].Value, nil
}

// put is one of the writes of a transaction, in etcd's JSON, where bytes are base64.
type put struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
}

// maxPuts is less than the operations that etcd takes in one transaction (--max-txn-ops).
const maxPuts = 100

func (s *seeder) put(ctx context.Context, batch []put) error {
	type operation struct {
		Put put `json:"requestPut"`
	}
	var transaction struct {
		Success []operation `json:"success"`
	}
	for _, p := range batch {
		transaction.Success = append(transaction.Success, operation{p})
	}
	return s.call(ctx, "txn", transaction, nil)
}

func (s *seeder) call(ctx context.Context, method string, body, answer any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cluster.Etcd+"/v3/kv/"+method, bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	response, err := s.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var read bytes.Buffer
	if _, err := read.ReadFrom(response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("etcd: %s: %s", response.Status, bytes.TrimSpace(read.Bytes()))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(read.Bytes(), answer)
}
