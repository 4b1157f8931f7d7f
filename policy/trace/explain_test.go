package trace_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/xeipuuv/gojsonschema"
	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/trace"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func factsOf(t testing.TB, change ...func(*audit.Cluster)) *trace.Facts {
	t.Helper()
	cluster, problems, err := check.ReadSnapshot(context.Background(), []string{filepath.Join("testdata", "cluster.yaml")})
	require.NoError(t, err)
	require.Empty(t, problems)
	for _, c := range change {
		c(cluster)
	}
	engine, err := policy.New(policy.DefaultConfig())
	require.NoError(t, err)
	return &trace.Facts{Cluster: cluster, Policy: engine}
}

// withAlgorithm sets the plugin's ROUTING_ALGORITHM.
func withAlgorithm(name string) func(*audit.Cluster) {
	return func(c *audit.Cluster) {
		c.Deployments[0].Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "ROUTING_ALGORITHM", Value: name}}
	}
}

// withheld takes the consent of the backend of a relocated route away: its copy lacks the backend then.
func withheld(c *audit.Cluster) {
	for _, route := range httpRoutes(c) {
		if route.Name != "gemma-router" || route.Namespace != "aibrix-system" {
			continue
		}
		ref := &route.Spec.Rules[0].BackendRefs[0]
		ref.Group, ref.Kind, ref.Namespace = new(gwv1.Group(policy.WithheldGroup)), new(gwv1.Kind(policy.WithheldKind)), nil
		conditions := route.Status.Parents[0].Conditions
		for i := range conditions {
			if conditions[i].Type == string(gwv1.RouteConditionResolvedRefs) {
				conditions[i].Status, conditions[i].Reason = "False", string(gwv1.RouteReasonInvalidKind)
			}
		}
	}
	for _, namespace := range c.Namespaces {
		if namespace.Name == "models" {
			namespace.Labels = map[string]string{policy.GrantsLabel: policy.GrantsDeny}
		}
	}
}

// anotherGateway is one for the same routes, both with an address.
func anotherGateway(c *audit.Cluster) {
	address := func(value string) []gwv1.GatewayStatusAddress { return []gwv1.GatewayStatusAddress{{Value: value}} }
	other := c.Gateways[0].DeepCopy()
	other.Name, other.Status.Addresses = "another", address("10.0.0.2")
	c.Gateways[0].Status.Addresses = address("10.0.0.1")
	c.Gateways = append(c.Gateways, other)
	for _, route := range httpRoutes(c) {
		if route.Name == "llama-router" && route.Namespace == other.Namespace {
			parent := *route.Spec.ParentRefs[0].DeepCopy()
			parent.Name = gwv1.ObjectName(other.Name)
			status := *route.Status.Parents[0].DeepCopy()
			status.ParentRef = parent
			route.Spec.ParentRefs, route.Status.Parents = append(route.Spec.ParentRefs, parent), append(route.Status.Parents, status)
		}
	}
}

func answered(status int, body string, headers ...string) trace.Response {
	r := trace.Response{
		ID: "11111111-2222-4333-8444-555555555555", Status: status, Header: http.Header{}, Body: []byte(body), Elapsed: 12 * time.Millisecond, Sent: true,
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func times(n int, r trace.Response) []trace.Response {
	var all []trace.Response
	for range n {
		all = append(all, r)
	}
	return all
}

const (
	seen   = "x-went-into-req-headers: true"
	plugin = "request-id: 99999999-aaaa-4bbb-8ccc-dddddddddddd"
)

func openAIError(text string) string {
	body, _ := json.Marshal(map[string]any{"error": map[string]any{"message": text, "code": "service_unavailable"}})
	return string(body)
}

func TestExplain(t *testing.T) {
	const url = "http://gateway.example"
	tests := map[string]struct {
		asked     trace.Asked
		facts     *trace.Facts
		responses []trace.Response
		outcome   trace.Outcome
		where     string
	}{
		"routed": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, answered(200, "{}", seen, plugin, "target-pod: llama-0")), trace.Routed, "",
		},
		"routed-through-a-copy": {
			trace.Asked{URL: url, Model: "gemma"}, factsOf(t),
			times(1, answered(200, "{}", seen, plugin, "target-pod: llama-0")), trace.Routed, "",
		},
		"routed-by-several-pods": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t), append(times(2, answered(200, "{}", seen, plugin, "target-pod: llama-0")),
				times(1, answered(200, "{}", seen, plugin, "target-pod: llama-1"))...), trace.Routed, "",
		},
		"withheld-from-a-copy": {
			trace.Asked{URL: url, Model: "gemma"}, factsOf(t, withheld),
			times(1, answered(500, "", seen)), trace.Stopped, "gateway",
		},
		"one-gateway-of-several": {
			trace.Asked{URL: "http://10.0.0.2", Model: "llama"}, factsOf(t, anotherGateway),
			times(1, answered(200, "{}", seen, plugin, "target-pod: llama-0")), trace.Routed, "",
		},
		"routed-without-a-pod": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, answered(200, "{}", seen, plugin)), trace.Routed, "",
		},
		"routed-by-address": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, answered(200, "{}", "target-pod: 10.244.0.12:8000")), trace.Routed, "",
		},
		"bypassed-by-address": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, answered(200, "{}", seen, "target-pod: 10.244.0.12:8000")), trace.Bypassed, "",
		},
		"routed-without-the-plugin": {
			trace.Asked{URL: url + "/docs/index.html", RoutingStrategy: "random"}, factsOf(t),
			times(1, answered(301, "", "location: /")), trace.Routed, "",
		},
		"bypassed": {
			trace.Asked{URL: url, Model: "llama", RoutingStrategy: "least-request"}, factsOf(t),
			times(1, answered(200, "{}", seen, plugin, "routing-strategy: least-request", "target-pod: llama-1")), trace.Bypassed, "",
		},
		"bypassed-a-broken-route": {
			trace.Asked{URL: url, Model: "qwen", RoutingStrategy: "least-request"}, factsOf(t),
			times(1, answered(200, "{}", seen, plugin, "routing-strategy: least-request", "target-pod: qwen-0")), trace.Bypassed, "",
		},
		"bypassed-by-default": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t, withAlgorithm("random")),
			times(1, answered(200, "{}", seen, plugin, "routing-strategy: random", "target-pod: llama-1")), trace.Bypassed, "",
		},
		"bypassed-by-default-silently": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t, withAlgorithm("random")),
			times(1, answered(200, "{}", seen)), trace.Bypassed, "",
		},
		"bypassed-by-a-profile": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, answered(200, "{}", seen, "routing-strategy: prefix-cache", "target-pod: llama-1")), trace.Bypassed, "",
		},
		"bypassed-and-failed": {
			trace.Asked{URL: url, Model: "llama", RoutingStrategy: "random"}, factsOf(t),
			times(1, answered(500, openAIError("out of memory"), seen, "routing-strategy: random", "target-pod: llama-1")), trace.Stopped, "backend",
		},
		"not-permitted": {
			trace.Asked{URL: url, Model: "qwen"}, factsOf(t),
			times(1, answered(503, openAIError("httproute: aibrix-system/qwen-router, route's object references are not resolved: RefNotPermitted."), "x-error-routing: true")), trace.Stopped, "gateway plugin",
		},
		"not-permitted-without-the-plugin": {
			trace.Asked{URL: url + "/v1/chat/completions", Headers: []string{"model: qwen"}}, factsOf(t),
			times(1, answered(500, "")), trace.Stopped, "gateway",
		},
		"outside": {
			trace.Asked{URL: url, Model: "mistral"}, factsOf(t),
			times(1, answered(503, openAIError(`httproutes.gateway.networking.k8s.io "mistral-router" not found`), "x-error-routing: true")), trace.Stopped, "gateway plugin",
		},
		"outside-without-the-plugin": {
			trace.Asked{URL: url + "/v1/chat/completions/x", Headers: []string{"model: mistral"}, Method: "POST"},
			factsOf(t, func(c *audit.Cluster) { c.Routes, c.Deployments = without(c, "aibrix-reserved-router"), nil }),
			times(1, answered(404, "")), trace.Stopped, "gateway",
		},
		"misdirected": {
			trace.Asked{URL: url + "/phi"}, factsOf(t),
			times(1, answered(404, "")), trace.Stopped, "gateway",
		},
		"no-route": {
			trace.Asked{URL: url + "/nothing"}, factsOf(t),
			times(1, answered(404, "")), trace.Stopped, "gateway",
		},
		"another-host": {
			trace.Asked{URL: url + "/v1/images", Method: "POST"}, factsOf(t),
			times(1, answered(404, "")), trace.Stopped, "gateway",
		},
		"another-method": {
			trace.Asked{URL: url + "/v1/images", Headers: []string{"Host: images.example.com"}}, factsOf(t),
			times(1, answered(404, "")), trace.Stopped, "gateway",
		},
		"no-ready-endpoint": {
			trace.Asked{URL: url, Model: "deepseek"}, factsOf(t),
			times(1, answered(503, "no healthy upstream", "server: envoy")), trace.Stopped, "gateway",
		},
		"no-pods-of-the-model": {
			trace.Asked{URL: url, Model: "deepseek"}, factsOf(t),
			times(1, answered(503, openAIError("error on getting pods for model deepseek"), "x-error-no-model-backends: true")), trace.Stopped, "gateway plugin",
		},
		"unknown-model": {
			trace.Asked{URL: url, Model: "gpt o'clock"}, factsOf(t),
			times(1, answered(400, openAIError("model gpt does not exist"), "x-error-no-model-backends: gpt")), trace.Stopped, "gateway plugin",
		},
		"unknown-strategy": {
			trace.Asked{URL: url, Model: "llama", RoutingStrategy: "best"}, factsOf(t),
			times(1, answered(400, openAIError("incorrect routing strategy"), "x-error-invalid-routing-strategy: best")), trace.Stopped, "gateway plugin",
		},
		"no-pod-for-the-strategy": {
			trace.Asked{URL: url, Model: "deepseek", RoutingStrategy: "random"}, factsOf(t),
			times(1, answered(503, openAIError("error on selecting target pod"), "x-error-routing: true")), trace.Stopped, "gateway plugin",
		},
		"an-error-of-tomorrow": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, answered(500, "", "x-error-moon-phase: waning", plugin)), trace.Stopped, "gateway plugin",
		},
		"backend-not-found": {
			trace.Asked{URL: url + "/docs/nothing"}, factsOf(t),
			times(1, answered(404, "Not Found")), trace.Stopped, "backend",
		},
		"backend-failed": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, answered(500, openAIError("out of memory"), seen, plugin, "target-pod: llama-0")), trace.Stopped, "backend",
		},
		"backend-too-slow": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, answered(504, "upstream request timeout")), trace.Stopped, "backend",
		},
		"refused-for-what-it-is": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, answered(401, openAIError("Incorrect API key provided"), seen)), trace.Stopped, "",
		},
		"answered-by-somebody-else": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, answered(200, "{}", seen, "target-pod: qwen-0")), trace.Unexpected, "",
		},
		"answered-though-broken": {
			trace.Asked{URL: url, Model: "qwen"}, factsOf(t),
			times(1, answered(200, "{}", seen)), trace.Unexpected, "",
		},
		"answered-without-a-route": {
			trace.Asked{URL: url + "/nothing"}, factsOf(t),
			times(1, answered(200, "hello")), trace.Unexpected, "",
		},
		"distribution": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			append(append(times(12, answered(200, "{}", seen, "target-pod: llama-0")), times(7, answered(200, "{}", seen, "target-pod: llama-1"))...),
				answered(503, "upstream connect error or disconnect/reset before headers")), trace.Stopped, "gateway",
		},
		"no-answer": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, trace.Response{ID: "11111111-2222-4333-8444-555555555555", Err: context.DeadlineExceeded, Sent: true, Elapsed: time.Second}), trace.Stopped, "",
		},
		"unreached": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			times(1, trace.Response{ID: "11111111-2222-4333-8444-555555555555", Err: errors.New("dial tcp: connection refused")}), trace.Unreached, "",
		},
		"unreached-now-and-then": {
			trace.Asked{URL: url, Model: "llama"}, factsOf(t),
			append(times(3, answered(200, "{}", "target-pod: llama-0")),
				trace.Response{ID: "11111111-2222-4333-8444-555555555555", Err: errors.New("dial tcp: connection refused")}), trace.Stopped, "",
		},
		"without-a-cluster": {
			trace.Asked{URL: url, Model: "llama"}, nil,
			times(1, answered(200, "{}", seen, plugin)), trace.Answered, "",
		},
		"without-a-cluster-or-plugin": {
			trace.Asked{URL: url}, nil,
			times(1, answered(200, "hello")), trace.Answered, "",
		},
		"without-a-cluster-bypassed": {
			trace.Asked{URL: url, Model: "llama"}, nil,
			times(1, answered(200, "{}", seen, "routing-strategy: random", "target-pod: llama-0", "target-pod-ip: 10.244.0.11:8000")), trace.Bypassed, "",
		},
		"without-a-cluster-not-permitted": {
			trace.Asked{URL: url, Model: "qwen"}, nil,
			times(1, answered(503, openAIError("httproute: aibrix-system/qwen-router, route's object references are not resolved: RefNotPermitted."), "x-error-routing: true")), trace.Stopped, "gateway plugin",
		},
		"without-a-cluster-not-found": {
			trace.Asked{URL: url + "/x"}, nil, times(1, answered(404, "")), trace.Stopped, "",
		},
		"another-gateway": {
			trace.Asked{URL: url + "/x"}, func() *trace.Facts { f := factsOf(t); f.Gateway = "edge/main"; return f }(),
			times(1, answered(500, "")), trace.Stopped, "",
		},
		"hostile": {
			trace.Asked{URL: url, Model: "llama"}, nil,
			times(1, answered(500, "\x1b[2Jwiped\x07", "x-error-routing: \x1b[31mred", "target-pod: \x1b]0;title")), trace.Stopped, "gateway plugin",
		},
	}
	path, err := filepath.Abs("report.schema.json")
	require.NoError(t, err)
	schema, err := gojsonschema.NewSchema(gojsonschema.NewReferenceLoader("file://" + path))
	require.NoError(t, err)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			request, err := trace.NewRequest(test.asked)
			require.NoError(t, err)
			report := trace.Explain(request, "00000000-0000-4000-8000-000000000000", test.responses, test.facts)
			require.Equal(t, test.outcome, report.Verdict.Outcome)
			require.Equal(t, test.where, report.Verdict.Where)
			require.Equal(t, test.outcome != trace.Routed && test.outcome != trace.Answered, report.Failed())

			var text, object bytes.Buffer
			require.NoError(t, report.WriteText(&text, false))
			require.NotContains(t, text.String(), "\x1b")
			require.NoError(t, report.WriteJSON(&object))
			var read trace.Report
			require.NoError(t, json.Unmarshal(object.Bytes(), &read))
			require.Equal(t, report.Verdict, read.Verdict)
			result, err := schema.Validate(gojsonschema.NewBytesLoader(object.Bytes()))
			require.NoError(t, err)
			require.Empty(t, result.Errors(), object.String())

			golden := filepath.Join("testdata", name+".txt")
			if *update {
				require.NoError(t, os.WriteFile(golden, text.Bytes(), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err, "run with -update")
			require.Equal(t, string(want), text.String())
		})
	}
	result, err := schema.Validate(gojsonschema.NewStringLoader(`{"schemaVersion": "routesteward.dev/trace/v1", "surprise": true}`))
	require.NoError(t, err)
	require.NotEmpty(t, result.Errors())
	files, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	require.NoError(t, err)
	require.Len(t, files, len(tests), "a golden file for every case and none besides")
}

func without(c *audit.Cluster, name string) (kept []policy.Object) {
	for _, route := range c.Routes {
		if route.GetName() != name {
			kept = append(kept, route)
		}
	}
	return kept
}

func httpRoutes(c *audit.Cluster) (routes []*gwv1.HTTPRoute) {
	for _, object := range c.Routes {
		if route, ok := object.(*gwv1.HTTPRoute); ok {
			routes = append(routes, route)
		}
	}
	return routes
}
