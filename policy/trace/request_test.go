package trace_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy/trace"
)

func TestNewRequest(t *testing.T) {
	for name, test := range map[string]struct {
		asked                  trace.Asked
		method, url, host      string
		body, model, mediaType string
	}{
		"a URL": {
			asked:  trace.Asked{URL: "http://gateway.example/x?a=1#top"},
			method: "GET", url: "http://gateway.example/x?a=1", host: "gateway.example",
		},
		"an address alone": {
			asked:  trace.Asked{URL: "10.0.0.1:8080"},
			method: "GET", url: "http://10.0.0.1:8080/", host: "10.0.0.1:8080",
		},
		"a model": {
			asked:  trace.Asked{URL: "10.0.0.1", Model: "llama"},
			method: "POST", url: "http://10.0.0.1/v1/chat/completions", host: "10.0.0.1", model: "llama", mediaType: "application/json",
			body: `{"max_tokens":1,"messages":[{"content":"ping","role":"user"}],"model":"llama"}`,
		},
		"a model of another path": {
			asked:  trace.Asked{URL: "10.0.0.1/v1/completions", Model: "llama"},
			method: "POST", url: "http://10.0.0.1/v1/completions", host: "10.0.0.1", model: "llama", mediaType: "application/json",
			body: `{"max_tokens":1,"model":"llama","prompt":"ping"}`,
		},
		"a model for embeddings": {
			asked:  trace.Asked{URL: "https://10.0.0.1/v1/embeddings", Model: "bge"},
			method: "POST", url: "https://10.0.0.1/v1/embeddings", host: "10.0.0.1", model: "bge", mediaType: "application/json",
			body: `{"input":"ping","model":"bge"}`,
		},
		"a body that names a model": {
			asked:  trace.Asked{URL: "10.0.0.1/v1/rerank", Data: []byte(`{"model":"bge"}`)},
			method: "POST", url: "http://10.0.0.1/v1/rerank", host: "10.0.0.1", model: "bge", mediaType: "application/json",
			body: `{"model":"bge"}`,
		},
		"a body that is no JSON": {
			asked:  trace.Asked{URL: "10.0.0.1", Data: []byte("hello"), Method: "put", Headers: []string{"Content-Type: text/plain", "Host: a.example"}},
			method: "PUT", url: "http://10.0.0.1/", host: "a.example", mediaType: "text/plain", body: "hello",
		},
		"an empty body": {
			asked:  trace.Asked{URL: "10.0.0.1", Data: []byte{}},
			method: "POST", url: "http://10.0.0.1/", host: "10.0.0.1",
		},
		"a body that is JSON, and no object": {
			asked:  trace.Asked{URL: "10.0.0.1", Data: []byte(`[]`)},
			method: "POST", url: "http://10.0.0.1/", host: "10.0.0.1", mediaType: "application/json", body: "[]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := trace.NewRequest(test.asked)
			require.NoError(t, err)
			require.Equal(t, test.method, r.Method)
			require.Equal(t, test.url, r.URL.String())
			require.Equal(t, test.host, r.Host)
			require.Equal(t, test.body, string(r.Body))
			require.Equal(t, test.model, r.Model)
			require.Equal(t, test.mediaType, r.Header.Get("Content-Type"))
		})
	}

	r, err := trace.NewRequest(trace.Asked{URL: "10.0.0.1", Headers: []string{"X-A:1", "x-a: 2"}, RoutingStrategy: "random"})
	require.NoError(t, err)
	require.Equal(t, http.Header{"X-A": {"1", "2"}, "Routing-Strategy": {"random"}}, r.Header)
}

func TestNewRequestRefuses(t *testing.T) {
	for _, test := range []struct {
		asked trace.Asked
		err   string
	}{
		{trace.Asked{}, "--url: name the gateway's address, such as http://10.0.0.1/v1/chat/completions"},
		{trace.Asked{URL: "ftp://x"}, `--url: scheme "ftp" is neither http nor https`},
		{trace.Asked{URL: "http:///x"}, `--url: "http:///x" names no host`},
		{trace.Asked{URL: "http://a b"}, `--url: parse "http://a b": invalid character " " in host name`},
		{trace.Asked{URL: "x", Headers: []string{"no colon"}}, `--header: "no colon" is not of the form 'Name: value'`},
		{trace.Asked{URL: "x", Headers: []string{"a b: c"}}, `--header: "a b: c" is not of the form 'Name: value'`},
		{trace.Asked{URL: "x", Headers: []string{"a: b\r\nc: d"}}, `--header: "a: b\r\nc: d" is not of the form 'Name: value'`},
		{trace.Asked{URL: "x", RoutingStrategy: "a\nb"}, `--routing-strategy: "a\nb" is no value of a header`},
		{trace.Asked{URL: "x", Model: "llama", Data: []byte("{}")}, "--model writes the body itself: give either --model or --data"},
		{trace.Asked{URL: "x", Method: "GET /"}, `--request: "GET /" is no method`},
	} {
		_, err := trace.NewRequest(test.asked)
		require.EqualError(t, err, test.err)
	}
}
