package trace

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy/routing"
)

// Request is what is sent. Make it with NewRequest.
type Request struct {
	Method string
	URL    *url.URL
	Header http.Header
	// Host is the Host header.
	Host string
	Body []byte
	// Model is the model that the body names, or empty.
	Model string
}

// Asked is what a user asks to be sent, in curl's words.
type Asked struct {
	URL string
	// Model makes a small body that names it, and the path of chat completions where the URL has none.
	Model string
	// Method is empty for the usual one: POST with a body, GET without.
	Method string
	// Headers are "Name: value". Data is the body; nil: none.
	Headers []string
	Data    []byte
	// RoutingStrategy is the header routing-strategy.
	RoutingStrategy string
}

// NewRequest reads what was asked for; its errors name the flag.
func NewRequest(asked Asked) (Request, error) {
	r := Request{Header: http.Header{}, Method: strings.ToUpper(asked.Method), Body: asked.Data}
	text := asked.URL
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	var err error
	switch r.URL, err = url.Parse(text); {
	case asked.URL == "":
		return Request{}, errors.New("--url: name the gateway's address, such as http://10.0.0.1/v1/chat/completions")
	case err != nil:
		return Request{}, fmt.Errorf("--url: %w", err)
	case r.URL.Scheme != "http" && r.URL.Scheme != "https":
		return Request{}, fmt.Errorf("--url: scheme %q is neither http nor https", r.URL.Scheme)
	case r.URL.Host == "":
		return Request{}, fmt.Errorf("--url: %q names no host", asked.URL)
	case asked.Model != "" && asked.Data != nil:
		return Request{}, errors.New("--model writes the body itself: give either --model or --data")
	}
	r.URL.Fragment = ""
	if r.URL.Path == "" {
		r.URL.Path = "/"
		if asked.Model != "" {
			r.URL.Path = DefaultPath
		}
	}
	r.Host = r.URL.Host
	for _, header := range asked.Headers {
		name, value, ok := strings.Cut(header, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !isToken(name) || !isValue(value) {
			return Request{}, fmt.Errorf("--header: %q is not of the form 'Name: value'", header)
		}
		if strings.EqualFold(name, "Host") {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	if asked.RoutingStrategy != "" {
		if !isValue(asked.RoutingStrategy) {
			return Request{}, fmt.Errorf("--routing-strategy: %q is no value of a header", asked.RoutingStrategy)
		}
		r.Header.Set(headerRoutingStrategy, asked.RoutingStrategy)
	}
	if asked.Model != "" {
		if r.Body, err = json.Marshal(modelBody(r.URL.Path, asked.Model)); err != nil {
			return Request{}, err
		}
	}
	if r.Body != nil {
		var named struct {
			Model string `json:"model"`
		}
		isJSON := json.Valid(r.Body)
		if isJSON && json.Unmarshal(r.Body, &named) == nil {
			r.Model = named.Model
		}
		if r.Header.Get("Content-Type") == "" && isJSON {
			r.Header.Set("Content-Type", "application/json")
		}
	}
	if r.Method == "" {
		r.Method = http.MethodGet
		if r.Body != nil {
			r.Method = http.MethodPost
		}
	}
	if !isToken(r.Method) {
		return Request{}, fmt.Errorf("--request: %q is no method", r.Method)
	}
	return r, nil
}

// strategy is the routing strategy that the request names, or "".
func (r Request) strategy() string { return r.Header.Get(headerRoutingStrategy) }

// routed is the request as routing reads it. AIBrix's plugin takes the model from the body and puts it into a header; the
// gateway then routes once more.
func (r Request) routed(withModel bool) routing.Request {
	routed := routing.Request{Host: r.Host, Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.Query(), Header: r.Header}
	if withModel {
		routed.Header = r.Header.Clone()
		routed.Header.Set(headerModel, r.Model)
	}
	return routed
}

// protocol is the listener protocol that the URL asks for.
func (r Request) protocol() gwv1.ProtocolType {
	if r.URL.Scheme == "https" {
		return gwv1.HTTPSProtocolType
	}
	return gwv1.HTTPProtocolType
}

// Response is what came back for one request.
type Response struct {
	// ID is the x-request-id that was sent.
	ID     string
	Status int
	Header http.Header
	// Body is its beginning.
	Body    []byte
	Elapsed time.Duration
	// Err is why there is no response. Sent says that the request had been written by then, so that something behind the
	// address took it.
	Err  error
	Sent bool
}

// isToken reports whether a text may be a method or the name of a header (RFC 9110, section 5.6.2).
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	})
}

// isValue reports whether a text may be the value of a header.
func isValue(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
