package trace

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/routesteward/routesteward/policy"
)

// Headers of AIBrix's gateway plugin (vllm-project/aibrix, pkg/plugins/gateway).
const (
	headerRoutingStrategy = "Routing-Strategy"
	headerTargetPod       = "Target-Pod"
	headerTargetPodIP     = "Target-Pod-Ip"
	headerRequestID       = "Request-Id"
	headerModel           = "Model"
	// headerSeen is set on every response that the plugin has seen, and on nothing else.
	headerSeen = "X-Went-Into-Req-Headers"
	// errorPrefix begins the headers by which the plugin says why it answers itself.
	errorPrefix = "X-Error-"

	headerXRequestID = "X-Request-Id"
)

// errorNoBackends and errorRouting are the errors that have to do with routes.
const (
	errorNoBackends = "X-Error-No-Model-Backends"
	errorRouting    = "X-Error-Routing"
)

// errorWords say what the plugin's error headers mean.
var errorWords = map[string]string{
	errorRouting:                              "the plugin stopped the request: the HTTPRoute's status is not good, or with a routing strategy no Pod could be chosen",
	errorNoBackends:                           "the plugin stopped the request: it knows no Pod that serves the model",
	"X-Error-Invalid-Routing-Strategy":        "the plugin does not know this routing strategy",
	"X-Error-User":                            "the plugin does not know the user of the header user, or could not look the user up",
	"X-Error-Request-Body-Processing":         "the plugin could not read the request's body, or does not serve its path",
	"X-Error-Multipart-Parsing":               "the plugin could not read the request's multipart body",
	"X-Error-No-Model-In-Request":             "the request's body names no model",
	"X-Error-Response-Unmarshal":              "the plugin could not read what the model's Pod answered",
	"X-Error-Response-Unknown":                "the model's Pod answered something that the plugin does not understand",
	"X-Error-Stream":                          "the request's body sets stream to something that is not true or false",
	"X-Error-Streaming":                       "the stream of the model's Pod broke off, or could not be read",
	"X-Error-No-Stream-Options":               "the user's token limit asks for stream_options in the request's body",
	"X-Error-No-Stream-Options-Include-Usage": "the user's token limit asks for stream_options.include_usage in the request's body",
	"X-Error-Rpm-Exceeded":                    "the user has made more requests in this minute than the limit allows",
	"X-Error-Tpm-Exceeded":                    "the user has used more tokens in this minute than the limit allows",
	"X-Error-Incr-Rpm":                        "the plugin could not count the user's requests: is its Redis there?",
	"X-Error-Incr-Tpm":                        "the plugin could not count the user's tokens: is its Redis there?",
	"X-Error-Model-Rps-Exceeded":              "the model gets more requests in this second than its profile lets through",
	"X-Error-Incr-Model-Rps":                  "the plugin could not count the model's requests: is its Redis there?",
	"X-Error-Model-Replica-Inflight-Exceeded": "every Pod of the model has as many requests under way as its profile lets through",
	"X-Error-Video-Not-Found":                 "the plugin knows no video job of that id",
	"X-Error-Video-Job-Pod-Unavailable":       "the Pod that has the video job is gone, or not ready",
}

// PluginError is an error that AIBrix's gateway plugin reports in a header.
type PluginError struct {
	Header string `json:"header"`
	Value  string `json:"value"`
	// Words say what it means.
	Words string `json:"words"`
}

// pluginErrors are the plugin's errors in a response, by name.
func pluginErrors(header http.Header) []PluginError {
	var errs []PluginError
	for name := range header {
		if !strings.HasPrefix(name, errorPrefix) {
			continue
		}
		words := errorWords[name]
		if words == "" {
			words = "an error that this version of routesteward does not know"
		}
		errs = append(errs, PluginError{Header: strings.ToLower(name), Value: policy.Printable(header.Get(name)), Words: words})
	}
	slices.SortFunc(errs, func(a, b PluginError) int { return strings.Compare(a.Header, b.Header) })
	return errs
}

// seenByPlugin reports whether AIBrix's gateway plugin has had its hands on a response.
func seenByPlugin(header http.Header) bool {
	return header.Get(headerSeen) != "" || len(pluginErrors(header)) > 0
}

// modelBody is the smallest body by which a request to a path of the OpenAI API names a model.
func modelBody(path, model string) map[string]any {
	switch {
	case strings.HasSuffix(path, "/chat/completions"), strings.HasSuffix(path, "/messages"):
		return map[string]any{"model": model, "max_tokens": 1, "messages": []map[string]string{{"role": "user", "content": "ping"}}}
	case strings.HasSuffix(path, "/completions"):
		return map[string]any{"model": model, "max_tokens": 1, "prompt": "ping"}
	case strings.HasSuffix(path, "/rerank"):
		return map[string]any{"model": model, "query": "ping", "documents": []string{"pong"}}
	case strings.HasSuffix(path, "/classify"), strings.HasSuffix(path, "/embeddings"), strings.HasSuffix(path, "/responses"):
		return map[string]any{"model": model, "input": "ping"}
	}
	return map[string]any{"model": model, "prompt": "ping"}
}

// DefaultPath is where a request for a model goes that names no path.
const DefaultPath = "/v1/chat/completions"

// profileAnnotation on a model's Pods may set a routing strategy for every request.
const profileAnnotation = "model.aibrix.ai/config"

// modelPods is the command that lists the Pods which the plugin takes for a model's.
func modelPods(model string) string {
	return fmt.Sprintf("kubectl get pods -A -l %s", quote("model.aibrix.ai/name="+model))
}
