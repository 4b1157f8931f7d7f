package gateways

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/hack/gateways"
)

// plugin STANDS IN for AIBrix's gateway plugin, an external processor inside of Envoy, which cannot run
// here. It is a proxy in front of Traefik that takes the same decisions by the same headers, as far as
// HTTPRoutes matter: see README.md for what it leaves out.
type plugin struct {
	client client.Reader
	// algorithm is the environment variable ROUTING_ALGORITHM: the strategy of requests that name none.
	algorithm string
}

// strategies are some of AIBrix's routing strategies. All take the first ready Pod here.
var strategies = []string{"random", "least-request", "prefix-cache"}

// pluginURL is where startPlugin serves.
const pluginURL = "http://10.244.0.2"

// startPlugin serves the stand-in at pluginURL for the rest of the test.
func (w *world) startPlugin(t *testing.T, algorithm string) {
	t.Helper()
	listener, err := net.Listen("tcp", strings.TrimPrefix(pluginURL, "http://")+":80")
	require.NoError(t, err)
	server := &http.Server{Handler: &plugin{client: w.Client, algorithm: algorithm}}
	served := make(chan error)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

func (p *plugin) ServeHTTP(response http.ResponseWriter, request *http.Request) {
	strategy := request.Header.Get("routing-strategy")
	if strategy == "" {
		strategy = p.algorithm
	}
	if strategy != "" && !slices.Contains(strategies, strategy) {
		refuse(response, http.StatusBadRequest, "incorrect routing strategy", "x-error-invalid-routing-strategy", strategy)
		return
	}
	content, err := io.ReadAll(request.Body)
	var body struct{ Model string }
	if err != nil || json.Unmarshal(content, &body) != nil {
		refuse(response, http.StatusBadRequest, "the body is not JSON", "x-error-request-body-processing", "true")
		return
	}
	if body.Model == "" {
		refuse(response, http.StatusBadRequest, "no model in the body", "x-error-no-model-in-request", "true")
		return
	}
	request.Body = io.NopCloser(bytes.NewReader(content))
	pods, err := p.pods(request.Context(), body.Model)
	if err != nil {
		refuse(response, http.StatusInternalServerError, err.Error(), "x-error-routing", "true")
		return
	}
	if len(pods) == 0 {
		refuse(response, http.StatusBadRequest, fmt.Sprintf("model %s does not exist", body.Model), "x-error-no-model-backends", body.Model)
		return
	}
	ready := slices.IndexFunc(pods, isReady)
	if ready < 0 {
		refuse(response, http.StatusServiceUnavailable, "no Pod of the model is ready", "x-error-no-model-backends", "true")
		return
	}

	added := map[string]string{"x-went-into-req-headers": "true", "request-id": rand.Text()}
	to := gateways.URL
	if strategy == "" {
		if err := p.routeWorks(request.Context(), body.Model); err != nil {
			refuse(response, http.StatusServiceUnavailable, err.Error(), "x-error-routing", "true")
			return
		}
		// It chooses the HTTPRoute.
		request.Header.Set("model", body.Model)
	} else {
		address := pods[ready].Status.PodIP + ":" + pods[ready].Labels["model.aibrix.ai/port"]
		to = "http://" + address
		added["routing-strategy"], added[gateways.TargetPod], added[gateways.TargetPodIP] = strategy, pods[ready].Name, address
	}
	target, err := url.Parse(to)
	if err != nil {
		panic(err)
	}
	(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(r *http.Response) error {
			for name, value := range added {
				r.Header.Set(name, value)
			}
			return nil
		},
	}).ServeHTTP(response, request)
}

// pods are those of a model, in all namespaces: its namespace does not matter to the plugin.
func (p *plugin) pods(ctx context.Context, model string) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := p.client.List(ctx, &list, client.MatchingLabels{gateways.ModelLabel: model})
	return list.Items, err
}

func isReady(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// routeWorks looks at the one place where AIBrix looks for a model's route, and only at its conditions.
func (p *plugin) routeWorks(ctx context.Context, model string) error {
	var route gwv1.HTTPRoute
	if err := p.client.Get(ctx, client.ObjectKey{Namespace: system, Name: model + "-router"}, &route); err != nil {
		return err
	}
	for _, parent := range route.Status.Parents {
		for _, condition := range parent.Conditions {
			switch {
			case condition.Type == string(gwv1.RouteConditionAccepted) && condition.Reason != string(gwv1.RouteReasonAccepted):
				return fmt.Errorf("HTTPRoute %s/%s is not accepted: %s", route.Namespace, route.Name, condition.Reason)
			case condition.Type == string(gwv1.RouteConditionResolvedRefs) && condition.Reason != string(gwv1.RouteReasonResolvedRefs):
				return fmt.Errorf("the references of HTTPRoute %s/%s are not resolved: %s", route.Namespace, route.Name, condition.Reason)
			}
		}
	}
	return nil
}

// refuse answers as the plugin does when it answers itself: a header, and an error as OpenAI's API has it.
func refuse(response http.ResponseWriter, status int, message, header, value string) {
	kind := map[int]string{http.StatusBadRequest: "invalid_request_error", http.StatusServiceUnavailable: "overloaded_error"}[status]
	if kind == "" {
		kind = "api_error"
	}
	response.Header().Set(header, value)
	response.Header().Set("Content-Type", "application/json")
	response.WriteHeader(status)
	// A client that has gone does not need the answer.
	_ = json.NewEncoder(response).Encode(map[string]any{"error": map[string]any{"message": message, "type": kind, "code": nil, "param": nil}})
}

// prompts sends a request as AIBrix's users do: the model is in the body.
func (w *world) prompts(ctx context.Context, model string, headers ...string) (answer, error) {
	body := strings.NewReader(`{"model": "` + model + `", "messages": [{"role": "user", "content": "Hello?"}]}`)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, pluginURL+"/v1/chat/completions", body)
	if err != nil {
		return answer{}, err
	}
	return send(request, append([]string{"Content-Type", "application/json"}, headers...)...)
}

// The symptom that sends people the wrong way: one route, broken for one caller and fine for the next.
func TestABrokenRouteWorksForWhoNamesAStrategy(t *testing.T) {
	w := theWorld(t)
	w.startPlugin(t, "")
	models := w.namespace(t, "models", "")
	model, pods := w.model(t, models, "llama-0")
	broken := route(model, models)
	history := w.watches(t, broken)
	w.breaks(t, broken)
	for _, controller := range controllers {
		history.of(t, controller, notPermitted)
	}

	refused, err := w.prompts(t.Context(), model)
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, refused.Status)
	require.Equal(t, "true", refused.Header.Get("x-error-routing"))
	require.Contains(t, refused.Body, "RefNotPermitted")

	bypassing, err := w.prompts(t.Context(), model, "routing-strategy", "least-request")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, bypassing.Status)
	require.Equal(t, "least-request", bypassing.Header.Get("routing-strategy"))
	require.Equal(t, pods[0].Name, bypassing.Header.Get(gateways.TargetPod))
	require.Equal(t, pods[0].Address, bypassing.Header.Get(gateways.TargetPodIP))
	require.NotEmpty(t, bypassing.Header.Get("request-id"))

	// With consent routesteward makes the grant, and the two get the same.
	w.consents(t, models, "allow")
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		through, err := w.prompts(t.Context(), model)
		require.NoError(c, err)
		require.Equal(c, http.StatusOK, through.Status, through.Body)
		require.Equal(c, pods[0].Name, through.Header.Get(gateways.TargetPod))
		require.NotEmpty(c, through.Header.Get("request-id"))
		require.Empty(c, through.Header.Get("routing-strategy"))
	}, soon, tick)
}

func TestWhatThePluginsStandInRefuses(t *testing.T) {
	w := theWorld(t)
	w.startPlugin(t, "")
	models := w.namespace(t, "models", "")
	model, _ := w.model(t, models, "llama-0")
	for name, test := range map[string]struct {
		model         string
		headers       []string
		status        int
		header, value string
	}{
		"a strategy that does not exist": {model, []string{"routing-strategy", "best"}, http.StatusBadRequest, "x-error-invalid-routing-strategy", "best"},
		"no model":                       {"", nil, http.StatusBadRequest, "x-error-no-model-in-request", "true"},
		"a model that does not exist":    {"unheard-of", nil, http.StatusBadRequest, "x-error-no-model-backends", "unheard-of"},
		"a model without a route":        {model, nil, http.StatusServiceUnavailable, "x-error-routing", "true"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := w.prompts(t.Context(), test.model, test.headers...)
			require.NoError(t, err)
			require.Equal(t, test.status, got.Status)
			require.Equal(t, test.value, got.Header.Get(test.header))
		})
	}
}
