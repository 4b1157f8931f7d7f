package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// crowd stands in front of an API server and adds HTTPRoutes to its answers that nobody stored: more than one API server
// of this machine could hold. Everything else passes to it and back.
type crowd struct {
	// routes is how many there are.
	routes int
	// local and crossing are what the API server stored for two routes: the first refers to a Service beside it, the second to one
	// in another namespace. Every route is one of them but for the digits of its name.
	local, crossing template
	// changes receives how many of the routes are to change now.
	changes chan int
	// sent is how many bytes of routes watches were told.
	sent atomic.Int64
	pass http.Handler
	// mu guards the templates, which one answer uses at a time.
	mu sync.Mutex
}

const (
	crowdPath = "/apis/gateway.networking.k8s.io/v1/httproutes"
	// crowdName and crowdVersion hold the digits that differ; as many routes and versions can be told apart.
	crowdDigits  = "0000000"
	crowdName    = "crowd-" + crowdDigits
	crowdVersion = 1_000_000_000
	// everyFifth route refers to another namespace.
	everyFifth = 5
)

// template is a stored object and where its digits are.
type template struct {
	text []byte
	// numbers are the places of the number, versions those of resourceVersion and generation.
	numbers, versions []int
}

// newTemplate takes an object as the API server answers it.
func newTemplate(stored []byte) (template, error) {
	var object metav1.PartialObjectMetadata
	if err := json.Unmarshal(stored, &object); err != nil {
		return template{}, err
	}
	text, uid, version := bytes.TrimSpace(stored), string(object.UID), strconv.Itoa(crowdVersion)
	if len(uid) < len(crowdDigits) {
		return template{}, fmt.Errorf("the HTTPRoute has no uid: %s", stored)
	}
	text = bytes.ReplaceAll(text, []byte(uid), []byte(uid[:len(uid)-len(crowdDigits)]+crowdDigits))
	text = bytes.Replace(text, []byte(`"resourceVersion":"`+object.ResourceVersion+`"`), []byte(`"resourceVersion":"`+version+`"`), 1)
	text = bytes.Replace(text, fmt.Appendf(nil, `"generation":%d`, object.Generation), []byte(`"generation":`+version), 1)
	t := template{text: text, versions: places(text, version)}
	for _, at := range places(text, crowdDigits) {
		if !slices.ContainsFunc(t.versions, func(v int) bool { return at >= v && at < v+len(version) }) {
			t.numbers = append(t.numbers, at)
		}
	}
	if len(t.versions) != 2 || len(t.numbers) < 2 {
		return t, fmt.Errorf("unexpected HTTPRoute: %s", stored)
	}
	return t, nil
}

// places are where a part begins.
func places(text []byte, part string) (at []int) {
	for from := 0; ; {
		i := bytes.Index(text[from:], []byte(part))
		if i < 0 {
			return at
		}
		at = append(at, from+i)
		from += i + len(part)
	}
}

// of is the i-th object in a version; it is valid until the next call.
func (t template) of(i, version int) []byte {
	put := func(places []int, digits string, number int) {
		for _, at := range places {
			for j, n := len(digits)-1, number; j >= 0; j, n = j-1, n/10 {
				t.text[at+j] = byte('0' + n%10)
			}
		}
	}
	put(t.numbers, crowdDigits, i)
	put(t.versions, strconv.Itoa(crowdVersion), version)
	return t.text
}

func (c *crowd) route(i, version int) []byte {
	if i%everyFifth == 0 {
		return c.crossing.of(i, version)
	}
	return c.local.of(i, version)
}

// serve answers on a port of its own until ctx ends, and returns its URL. Whoever asks has the rights of the config.
func (c *crowd) serve(ctx context.Context, config *rest.Config) (string, error) {
	transport, err := rest.TransportFor(config)
	if err != nil {
		return "", err
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		return "", err
	}
	c.pass = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1,
		// Watches end with whom they were for.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: c, BaseContext: func(net.Listener) context.Context { return ctx }, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() { _ = server.Serve(listener) }()
	return "http://" + listener.Addr().String(), nil
}

func (c *crowd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	switch {
	case r.Method != http.MethodGet || r.URL.Path != crowdPath:
		c.pass.ServeHTTP(w, r)
	case query.Get("watch") == "":
		c.list(w, query)
	default:
		c.watch(w, r)
	}
}

// list answers a page, as large as it is asked for.
func (c *crowd) list(w http.ResponseWriter, query url.Values) {
	from, _ := strconv.Atoi(query.Get("continue"))
	to := c.routes
	if limit, _ := strconv.Atoi(query.Get("limit")); limit > 0 {
		to = min(to, from+limit)
	}
	next := ""
	if to < c.routes {
		next = strconv.Itoa(to)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"kind":"HTTPRouteList","apiVersion":"gateway.networking.k8s.io/v1","metadata":{"resourceVersion":"%d","continue":%q},"items":[`, crowdVersion, next)
	for i := from; i < to; i++ {
		if i > from {
			_, _ = w.Write([]byte(","))
		}
		if _, err := w.Write(c.route(i, crowdVersion)); err != nil {
			return
		}
	}
	_, _ = w.Write([]byte("]}"))
}

// watch tells all routes first where it is asked to (sendInitialEvents), and then the changes.
func (c *crowd) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	tell := func(kind string, object []byte) error {
		_, err := w.Write([]byte(`{"type":"` + kind + `","object":`))
		if err == nil {
			_, err = w.Write(object)
		}
		if err == nil {
			_, err = w.Write([]byte("}\n"))
		}
		c.sent.Add(int64(len(object)))
		return err
	}
	flush := func() error { return http.NewResponseController(w).Flush() }
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		if c.all(func(i int) error { return tell("ADDED", c.route(i, crowdVersion)) }, c.routes) != nil {
			return
		}
		if tell("BOOKMARK", fmt.Appendf(nil, `{"kind":"HTTPRoute","apiVersion":"gateway.networking.k8s.io/v1","metadata":{"resourceVersion":"%d",`+
			`"annotations":{"k8s.io/initial-events-end":"true"}},"spec":{}}`, crowdVersion)) != nil {
			return
		}
	}
	if flush() != nil {
		return
	}
	version := crowdVersion
	for {
		select {
		case <-r.Context().Done():
			return
		case n := <-c.changes:
			// Neighbours in the list are far apart.
			if c.all(func(i int) error { version++; return tell("MODIFIED", c.route(i*7919%c.routes, version)) }, n) != nil || flush() != nil {
				return
			}
		}
	}
}

// all calls tell for 0 to n-1 until it fails.
func (c *crowd) all(tell func(int) error, n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n {
		if err := tell(i); err != nil {
			return err
		}
	}
	return nil
}

// newCrowd makes the templates from two routes that are stored and deleted again.
func (b *bench) newCrowd(ctx context.Context, routes int) (*crowd, error) {
	if routes < 1 || routes > 9_999_999 {
		return nil, errors.New("the crowd has 1 to 9,999,999 routes")
	}
	c := &crowd{routes: routes, changes: make(chan int)}
	for target, t := range map[string]*template{systemNamespace: &c.local, sharedNamespace: &c.crossing} {
		r := route{name: crowdName + "-router"}
		r.body = fmt.Appendf(nil, routeJSON, r.name, systemNamespace, systemNamespace, crowdName, crowdName, target)
		if err := b.createRoute(ctx, r); err != nil {
			return nil, err
		}
		stored, err := b.clients.RESTClient().Get().AbsPath(collection(systemNamespace, "httproutes"), r.name).Do(ctx).Raw()
		if err != nil {
			return nil, err
		}
		if *t, err = newTemplate(stored); err != nil {
			return nil, err
		}
		if err := b.clients.RESTClient().Delete().AbsPath(collection(systemNamespace, "httproutes"), r.name).Do(ctx).Error(); err != nil {
			return nil, err
		}
	}
	return c, nil
}
