package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
)

// size is how large a cluster is: HTTPRoutes in the system namespace, of which the first edges refer to a Service of their own in one of
// so many namespaces, the others to Services beside them.
type size struct{ routes, edges, namespaces int }

// Names have one length each, as a Namespace is stored in an encoding with lengths.
func seededNamespace(i int) string { return fmt.Sprintf("tenant-%06d", i) }
func seededService(i int) string   { return fmt.Sprintf("seeded-%06d", i) }
func seededRoute(i int) string     { return fmt.Sprintf("routes-%06d", i) }

// sampled stands for the object that is copied.
const sampled = 999_999

// seededRouteJSON is a route as Helm installs it.
const seededRouteJSON = `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":%[1]q,` +
	`"labels":{"app.kubernetes.io/managed-by":"Helm","model.aibrix.ai/name":%[1]q},"annotations":{"meta.helm.sh/release-name":%[1]q}},"spec":{` +
	`"parentRefs":[{"name":"aibrix-eg"}],"rules":[{` +
	`"matches":[{"path":{"type":"PathPrefix","value":"/v1/chat/completions"},"headers":[{"type":"Exact","name":"model","value":%[1]q}]},` +
	`{"path":{"type":"PathPrefix","value":"/v1/completions"},"headers":[{"type":"Exact","name":"model","value":%[1]q}]}],` +
	`"timeouts":{"request":"120s"},"backendRefs":[{"kind":"Service","name":%[2]q,"namespace":%[3]q,"port":8000}]}]}}`

// seededStatusJSON is what a gateway writes.
const seededStatusJSON = `{"status":{"parents":[{"parentRef":{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"aibrix-eg"},` +
	`"controllerName":"gateway.envoyproxy.io/gatewayclass-controller","conditions":[` +
	`{"type":"Accepted","status":"True","reason":"Accepted","message":"Route is accepted","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z"},` +
	`{"type":"ResolvedRefs","status":"True","reason":"ResolvedRefs","message":"Resolved all the Object references for the Route","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z"}]}]}}`

// seed fills a cluster faster than its API server would: one object of each sort is created through it, and copies of what that has
// stored, under other names and UIDs, are put into etcd.
func (b *bench) seed(ctx context.Context, s size) error {
	namespace, name, service := seededNamespace(sampled), seededRoute(sampled), seededService(sampled)
	routes := collection(systemNamespace, "httproutes")
	for _, sort := range []struct {
		path, name, key, body string
		copies                int
		// names are those in the i-th copy, each after the one that it replaces.
		names func(i int) []string
	}{
		{namespaces, namespace, "/registry/namespaces/" + namespace,
			`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + namespace + `","labels":{"routesteward.dev/grants":"allow","team":"` + namespace + `"}}}`,
			s.namespaces, func(i int) []string { return []string{namespace, seededNamespace(i)} }},
		{routes, name, "/registry/gateway.networking.k8s.io/httproutes/" + systemNamespace + "/" + name, fmt.Sprintf(seededRouteJSON, name, service, namespace),
			s.routes, func(i int) []string {
				target := systemNamespace
				if i < s.edges {
					target = seededNamespace(i / 2)
				}
				return []string{name, seededRoute(i), service, seededService(i), namespace, target}
			}},
	} {
		if err := b.post(ctx, sort.path, []byte(sort.body)); err != nil {
			return err
		}
		if sort.path == routes {
			if err := b.clients.RESTClient().Patch(types.MergePatchType).AbsPath(routes, name, "status").Body([]byte(seededStatusJSON)).Do(ctx).Error(); err != nil {
				return err
			}
		}
		var object struct{ Metadata struct{ UID string } }
		raw, err := b.clients.RESTClient().Get().AbsPath(sort.path, sort.name).SetHeader("Accept", "application/json").Do(ctx).Raw()
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &object); err != nil {
			return err
		}
		stored, err := b.stored(ctx, sort.key)
		if err != nil {
			return err
		}
		uid := object.Metadata.UID
		if !strings.Contains(stored, uid) || !strings.Contains(stored, sort.name) {
			return fmt.Errorf("etcd's %s is not the object that was created", sort.key)
		}
		if sort.path == routes {
			if err := b.delete(ctx, routes+"/"+name); err != nil {
				return err
			}
		}
		var puts []put
		for i := range sort.copies {
			rename := strings.NewReplacer(append(sort.names(i), uid, fmt.Sprintf("%s%012d", uid[:len(uid)-12], i))...)
			puts = append(puts, put{[]byte(rename.Replace(sort.key)), []byte(rename.Replace(stored))})
		}
		group, putting := errgroup.WithContext(ctx)
		group.SetLimit(4)
		for batch := range slices.Chunk(puts, maxPuts) {
			group.Go(func() error { return b.put(putting, batch) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	// A new API server reads them all at once, which is faster than hearing of each, and remembers no events.
	return b.Restart(ctx, apiServer, time.Minute)
}

// stored and put use etcd's JSON gateway, in which bytes are base64.

func (b *bench) stored(ctx context.Context, key string) (string, error) {
	var answer struct{ KVs []struct{ Value []byte } }
	if err := b.etcd(ctx, "range", map[string][]byte{"key": []byte(key)}, &answer); err != nil {
		return "", err
	}
	if len(answer.KVs) != 1 {
		return "", fmt.Errorf("etcd has no key %s", key)
	}
	return string(answer.KVs[0].Value), nil
}

type put struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value"`
}

// maxPuts is less than the operations that etcd takes in one transaction (--max-txn-ops).
const maxPuts = 100

func (b *bench) put(ctx context.Context, batch []put) error {
	operations := make([]map[string]put, len(batch))
	for i, p := range batch {
		operations[i] = map[string]put{"requestPut": p}
	}
	return b.etcd(ctx, "txn", map[string]any{"success": operations}, &struct{}{})
}

func (b *bench) etcd(ctx context.Context, method string, body, answer any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, b.Etcd+"/v3/kv/"+method, bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("etcd: %s: %s", response.Status, content)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(content, answer)
}
