package routing

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

func rules(matches ...gwv1.HTTPRouteMatch) func(*gwv1.HTTPRoute) {
	return func(r *gwv1.HTTPRoute) {
		for _, m := range matches {
			r.Spec.Rules = append(r.Spec.Rules, gwv1.HTTPRouteRule{Matches: []gwv1.HTTPRouteMatch{m}})
		}
	}
}

func aged(seconds int64) func(*gwv1.HTTPRoute) {
	return func(r *gwv1.HTTPRoute) { r.CreationTimestamp = metav1.NewTime(time.Unix(1_700_000_000+seconds, 0)) }
}

type matchOption func(*gwv1.HTTPRouteMatch)

func on(options ...matchOption) gwv1.HTTPRouteMatch {
	var m gwv1.HTTPRouteMatch
	for _, option := range options {
		option(&m)
	}
	return m
}

func path(kind gwv1.PathMatchType, value string) matchOption {
	return func(m *gwv1.HTTPRouteMatch) { m.Path = &gwv1.HTTPPathMatch{Type: &kind, Value: &value} }
}

func exactly(value string) matchOption   { return path(gwv1.PathMatchExact, value) }
func under(value string) matchOption     { return path(gwv1.PathMatchPathPrefix, value) }
func pathRegex(value string) matchOption { return path(gwv1.PathMatchRegularExpression, value) }
func verb(name gwv1.HTTPMethod) matchOption {
	return func(m *gwv1.HTTPRouteMatch) { m.Method = &name }
}

func header(name, value string) matchOption {
	return func(m *gwv1.HTTPRouteMatch) {
		m.Headers = append(m.Headers, gwv1.HTTPHeaderMatch{Name: gwv1.HTTPHeaderName(name), Value: value})
	}
}

func headerRegex(name, value string) matchOption {
	return func(m *gwv1.HTTPRouteMatch) {
		m.Headers = append(m.Headers, gwv1.HTTPHeaderMatch{Type: new(gwv1.HeaderMatchRegularExpression), Name: gwv1.HTTPHeaderName(name), Value: value})
	}
}

func query(name, value string) matchOption {
	return func(m *gwv1.HTTPRouteMatch) {
		m.QueryParams = append(m.QueryParams, gwv1.HTTPQueryParamMatch{Name: gwv1.HTTPHeaderName(name), Value: value})
	}
}

func tableOf(t *testing.T, gateway *gwv1.Gateway, of Labels, objects ...*gwv1.HTTPRoute) *Table {
	t.Helper()
	var routes []policy.Route
	for _, object := range objects {
		routes = append(routes, view(t, object))
	}
	return NewTable(gateway, Parents(gateway, routes...), of)
}

// where is "namespace/name#rule" of an entry.
func where(e Entry) string {
	return fmt.Sprintf("%s/%s#%d", e.Route.Namespace, e.Route.Meta.Name, e.Rule)
}

func wheres(entries []Entry) []string {
	var all []string
	for _, e := range entries {
		all = append(all, where(e))
	}
	return all
}

// Each pair differs in one criterion of HTTPRouteSpec.Hostnames or HTTPRouteRule.Matches, in their order; everything
// after that criterion speaks for the loser.
func TestPrecedence(t *testing.T) {
	const ns = "aibrix-system"
	chat := Request{
		Host: "test.example.com", Method: "POST", Path: "/v1/chat/completions",
		Header: http.Header{"Model": {"llama"}, "User": {"me"}}, Query: url.Values{"a": {"1"}, "b": {"2"}},
	}
	for name, test := range map[string]struct{ winner, loser *gwv1.HTTPRoute }{
		"a hostname without a wildcard is longer": {
			httpRoute(ns, "z", aged(9), hosts("test.example.com")),
			httpRoute(ns, "a", aged(1), hosts("*.example.com"), rules(on(exactly("/v1/chat/completions")))),
		},
		"characters of a hostname": {
			httpRoute(ns, "z", aged(9), hosts("*.example.com")),
			httpRoute(ns, "a", aged(1), hosts("*.com"), rules(on(exactly("/v1/chat/completions")))),
		},
		"a hostname at all": {
			httpRoute(ns, "z", aged(9), hosts("*.com")),
			httpRoute(ns, "a", aged(1), rules(on(exactly("/v1/chat/completions")))),
		},
		"an exact path": {
			httpRoute(ns, "z", aged(9), rules(on(exactly("/v1/chat/completions")))),
			httpRoute(ns, "a", aged(1), rules(on(under("/v1/chat/completions"), verb("POST"), header("model", "llama")))),
		},
		"the longest prefix": {
			httpRoute(ns, "z", aged(9), rules(on(under("/v1/chat")))),
			httpRoute(ns, "a", aged(1), rules(on(under("/v1"), verb("POST"), header("model", "llama")))),
		},
		"a trailing slash adds nothing to a prefix": {
			httpRoute(ns, "z", aged(9), rules(on(under("/v1"), verb("POST")))),
			httpRoute(ns, "a", aged(1), rules(on(under("/v1/")))),
		},
		"a method": {
			httpRoute(ns, "z", aged(9), rules(on(under("/v1"), verb("POST")))),
			httpRoute(ns, "a", aged(1), rules(on(under("/v1"), header("model", "llama"), header("user", "me")))),
		},
		"more headers": {
			httpRoute(ns, "z", aged(9), rules(on(header("model", "llama"), header("user", "me")))),
			httpRoute(ns, "a", aged(1), rules(on(header("model", "llama"), query("a", "1"), query("b", "2")))),
		},
		"a header that is named twice counts once": {
			httpRoute(ns, "z", aged(9), rules(on(header("model", "llama"), query("a", "1")))),
			httpRoute(ns, "a", aged(1), rules(on(header("model", "llama"), header("Model", "other")))),
		},
		"more query parameters": {
			httpRoute(ns, "z", aged(9), rules(on(query("a", "1"), query("b", "2")))),
			httpRoute(ns, "a", aged(1), rules(on(query("a", "1")))),
		},
		"the oldest route": {
			httpRoute(ns, "z", aged(1)), httpRoute(ns, "a", aged(9)),
		},
		"a route that is not stored is the youngest": {
			httpRoute(ns, "z", aged(1)), httpRoute(ns, "a"),
		},
		"namespace/name": {
			httpRoute(ns, "a", aged(1)), httpRoute(ns, "z", aged(1)),
		},
		"namespace before name": {
			httpRoute("a-namespace", "z", aged(1)), httpRoute("b-namespace", "a", aged(1)),
		},
	} {
		t.Run(name, func(t *testing.T) {
			gateway := gatewayWith(httpListener(from(gwv1.NamespacesFromAll)))
			for _, objects := range [][]*gwv1.HTTPRoute{{test.winner, test.loser}, {test.loser, test.winner}} {
				s := tableOf(t, gateway, labelsOf(nil), objects...).Select(chat)
				require.NotNil(t, s.Winner)
				require.Equal(t, test.winner.Name, s.Winner.Route.Meta.Name)
				require.Len(t, s.RunnersUp, 1)
				require.Equal(t, test.loser.Name, s.RunnersUp[0].Route.Meta.Name)
			}
		})
	}
}

func TestFirstRuleOfARoute(t *testing.T) {
	gateway := gatewayWith(httpListener())
	s := tableOf(t, gateway, labelsOf(nil), httpRoute("aibrix-system", "r", rules(on(under("/v1")), on(under("/v1")), on(exactly("/v1"))))).
		Select(Request{Method: "GET", Path: "/v1"})
	require.Equal(t, "aibrix-system/r#2", where(*s.Winner))
	require.Equal(t, "spec.rules[2].matches[0]", s.Winner.Path())
	require.Equal(t, []string{"aibrix-system/r#0", "aibrix-system/r#1"}, wheres(s.RunnersUp))
}

func TestGRPCPrecedence(t *testing.T) {
	method := func(service, method string) gwv1.GRPCRouteMatch {
		m := gwv1.GRPCRouteMatch{Method: &gwv1.GRPCMethodMatch{}}
		if service != "" {
			m.Method.Service = &service
		}
		if method != "" {
			m.Method.Method = &method
		}
		return m
	}
	withHeader := func(m gwv1.GRPCRouteMatch) gwv1.GRPCRouteMatch {
		m.Headers = []gwv1.GRPCHeaderMatch{{Name: "version", Value: "2"}}
		return m
	}
	gateway := gatewayWith(httpListener())
	ref := []gwv1.ParentReference{{Name: "aibrix-eg"}}
	var routes []policy.Route
	for i, m := range []gwv1.GRPCRouteMatch{
		{}, withHeader(gwv1.GRPCRouteMatch{}), method("", "Generate"), method("inference.Models", ""), method("inference.Models", "Generate"),
		withHeader(method("inference.Models", "Generate")), method("other", ""),
	} {
		route, ok := policy.RouteOf(&gwv1.GRPCRoute{
			ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: fmt.Sprint(i)},
			Spec: gwv1.GRPCRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: ref},
				Rules: []gwv1.GRPCRouteRule{{Matches: []gwv1.GRPCRouteMatch{m}}}},
		})
		require.True(t, ok)
		routes = append(routes, route)
	}
	table := NewTable(gateway, Parents(gateway, routes...), labelsOf(nil))
	call := Request{Method: "POST", Path: "/inference.Models/Generate", Header: http.Header{"Content-Type": {"application/grpc+proto"}, "Version": {"2"}}}
	s := table.Select(call)
	require.Equal(t, "aibrix-system/5#0", where(*s.Winner))
	require.Equal(t, []string{"aibrix-system/4#0", "aibrix-system/3#0", "aibrix-system/2#0", "aibrix-system/1#0", "aibrix-system/0#0"}, wheres(s.RunnersUp))

	call.Header.Del("Content-Type")
	require.Nil(t, table.Select(call).Winner, "this is no gRPC call")
}

func TestMatches(t *testing.T) {
	request := Request{Method: "POST", Path: "/v1/chat", Header: http.Header{"Model": {"llama"}, "X": {"1", "2"}}, Query: url.Values{"q": {"one", "two"}}}
	for name, test := range map[string]struct {
		match gwv1.HTTPRouteMatch
		want  policy.Answer
	}{
		"nothing asked":                        {on(), policy.Yes},
		"the path":                             {on(exactly("/v1/chat")), policy.Yes},
		"another path":                         {on(exactly("/v1/chat/")), policy.No},
		"a prefix ends at a segment":           {on(under("/v1/ch")), policy.No},
		"a prefix":                             {on(under("/v1/")), policy.Yes},
		"a prefix that is the path":            {on(under("/v1/chat/")), policy.Yes},
		"an expression for the whole path":     {on(pathRegex("/v1/.*")), policy.Yes},
		"an expression for a part":             {on(pathRegex("/v1")), policy.Unknown},
		"an expression for neither":            {on(pathRegex("/v2")), policy.No},
		"an expression of another dialect":     {on(pathRegex("(?=x)")), policy.Unknown},
		"an unknown path, and another method":  {on(pathRegex("/v1"), verb("GET")), policy.No},
		"the method":                           {on(verb("POST")), policy.Yes},
		"another method":                       {on(verb("GET")), policy.No},
		"a header, whatever its case":          {on(header("MODEL", "llama")), policy.Yes},
		"a header's value has a case":          {on(header("model", "Llama")), policy.No},
		"a header that is missing":             {on(header("user", "")), policy.No},
		"the first of a repeated header match": {on(header("model", "llama"), header("MODEL", "other")), policy.Yes},
		"a repeated header is joined":          {on(header("x", "1,2")), policy.Yes},
		"a header by an expression":            {on(headerRegex("model", "l.+")), policy.Yes},
		"a header by a partial expression":     {on(headerRegex("model", "l")), policy.Unknown},
		"a query parameter's first value":      {on(query("q", "one")), policy.Yes},
		"a query parameter's second value":     {on(query("q", "two")), policy.No},
		"a query parameter's name has a case":  {on(query("Q", "one")), policy.No},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, httpMatch(&test.match).matches(request))
		})
	}
}

func TestSelectKeepsApartWhatItDoesNotKnow(t *testing.T) {
	models := metav1.LabelSelector{MatchLabels: map[string]string{"serves": "models"}}
	gateway := gatewayWith(
		httpListener(from(gwv1.NamespacesFromSelector, models)),
		httpListener(named("internal"), func(l *gwv1.Listener) { l.Port = 8080 }),
	)
	known := labelsOf(map[string]map[string]string{"aibrix-system": {"serves": "models"}, "team-b": {}})
	table := tableOf(t, gateway, known,
		httpRoute("aibrix-system", "llama-router", rules(on(under("/v1")))),
		httpRoute("team-a", "unknown", rules(on(exactly("/v1/chat")))),
		httpRoute("team-b", "refused", rules(on(exactly("/v1/chat")))),
		httpRoute("aibrix-system", "regex", rules(on(pathRegex("/v1")))),
		httpRoute("aibrix-system", "default"),
		httpRoute("aibrix-system", "elsewhere", section("internal"), rules(on(exactly("/v1/chat")))),
	)
	s := table.Select(Request{Method: "GET", Path: "/v1/chat", Port: 80, Protocol: gwv1.HTTPProtocolType})
	require.Equal(t, "aibrix-system/llama-router#0", where(*s.Winner))
	require.Equal(t, []string{"team-a/unknown#0", "aibrix-system/regex#0"}, wheres(s.Unsure))
	require.Equal(t, []string{"aibrix-system/default#0"}, wheres(s.RunnersUp))
	require.Equal(t, []string{"team-b/refused#0"}, wheres(s.Refused))

	s = table.Select(Request{Method: "GET", Path: "/v1/chat", Port: 8080})
	require.Equal(t, "aibrix-system/elsewhere#0", where(*s.Winner))

	s = table.Select(Request{Method: "GET", Path: "/v1/chat", Port: 443})
	require.Nil(t, s.Winner)
	require.Empty(t, s.Refused)
}

func TestMisdirectedAndHomelessRoutesAreRefused(t *testing.T) {
	gateway := gatewayWith(httpListener(serving("a.example")))
	misdirected := view(t, httpRoute("team-a", "misdirected", func(r *gwv1.HTTPRoute) { r.Spec.ParentRefs[0].Namespace = nil }))
	elsewhere := view(t, httpRoute("aibrix-system", "other-host", hosts("b.example")))
	lost := view(t, httpRoute("aibrix-system", "no-such-listener", section("nowhere"), hosts("b.example")))
	table := NewTable(gateway, append(Parents(gateway, misdirected, elsewhere, lost), Parent{Route: misdirected, Misdirected: true}), labelsOf(nil))
	require.Equal(t, []string{"team-a/misdirected#0"}, wheres(table.Select(Request{Host: "a.example", Path: "/"}).Refused))
	require.Equal(t, []string{"aibrix-system/no-such-listener#0", "aibrix-system/other-host#0"}, wheres(table.Select(Request{Host: "b.example", Path: "/"}).Refused))
}

func TestCollide(t *testing.T) {
	const ns = "aibrix-system"
	for name, test := range map[string]struct {
		a, b *gwv1.HTTPRoute
		want Overlap
	}{
		"the same":                                  {httpRoute(ns, "a"), httpRoute(ns, "b"), Same},
		"the same by default":                       {httpRoute(ns, "a", rules(on(under("/")))), httpRoute(ns, "b", rules(on())), Same},
		"the same in another order":                 {httpRoute(ns, "a", rules(on(header("x", "1"), header("y", "2")))), httpRoute(ns, "b", rules(on(header("Y", "2"), header("X", "1")))), Same},
		"one route":                                 {httpRoute(ns, "a", rules(on(), on())), httpRoute(ns, "a", rules(on(), on())), Disjoint},
		"another hostname":                          {httpRoute(ns, "a", hosts("a.example")), httpRoute(ns, "b", hosts("b.example")), Disjoint},
		"a more specific hostname":                  {httpRoute(ns, "a", hosts("a.example")), httpRoute(ns, "b", hosts("*.example")), Disjoint},
		"another path":                              {httpRoute(ns, "a", rules(on(exactly("/a")))), httpRoute(ns, "b", rules(on(exactly("/b")))), Disjoint},
		"a longer prefix":                           {httpRoute(ns, "a", rules(on(under("/a")))), httpRoute(ns, "b", rules(on(under("/a/b")))), Disjoint},
		"another method":                            {httpRoute(ns, "a", rules(on(verb("GET")))), httpRoute(ns, "b", rules(on(verb("POST")))), Disjoint},
		"a method at all":                           {httpRoute(ns, "a", rules(on(verb("GET")))), httpRoute(ns, "b"), Disjoint},
		"another model":                             {httpRoute(ns, "a", rules(on(header("model", "a")))), httpRoute(ns, "b", rules(on(header("model", "b")))), Disjoint},
		"the same model":                            {httpRoute(ns, "a", rules(on(header("model", "a")))), httpRoute(ns, "b", rules(on(header("model", "a")))), Same},
		"another header":                            {httpRoute(ns, "a", rules(on(header("x", "a")))), httpRoute(ns, "b", rules(on(header("y", "b")))), Partial},
		"another header, and another query":         {httpRoute(ns, "a", rules(on(header("x", "a"), query("q", "1")))), httpRoute(ns, "b", rules(on(header("y", "b"), query("q", "2")))), Disjoint},
		"another expression of a header":            {httpRoute(ns, "a", rules(on(headerRegex("x", "a+")))), httpRoute(ns, "b", rules(on(headerRegex("x", "a*")))), Possible},
		"the same expression of a path":             {httpRoute(ns, "a", rules(on(pathRegex("a+")))), httpRoute(ns, "b", rules(on(pathRegex("a+")))), Same},
		"another expression of a path, as long":     {httpRoute(ns, "a", rules(on(pathRegex("a+")))), httpRoute(ns, "b", rules(on(pathRegex("a*")))), Possible},
		"an expression and a value of one header":   {httpRoute(ns, "a", rules(on(headerRegex("x", "a+")))), httpRoute(ns, "b", rules(on(header("x", "a")))), Possible},
		"another header and an expression together": {httpRoute(ns, "a", rules(on(header("x", "a"), headerRegex("z", "a+")))), httpRoute(ns, "b", rules(on(header("y", "a"), headerRegex("z", "a*")))), Possible},
	} {
		t.Run(name, func(t *testing.T) {
			table := tableOf(t, gatewayWith(httpListener()), labelsOf(nil), test.a, test.b)
			entries := table.Entries()
			require.Equal(t, test.want, Collide(entries[0], entries[len(entries)-1]))
			require.Equal(t, test.want, Collide(entries[len(entries)-1], entries[0]))
			collisions := table.Collisions()
			if test.want < Partial {
				require.Empty(t, collisions)
				return
			}
			require.Len(t, collisions, 1)
			require.Equal(t, "aibrix-system/a#0", where(collisions[0].Winner))
			require.Equal(t, "aibrix-system/b#0", where(collisions[0].Loser))
			require.Equal(t, test.want, collisions[0].Overlap)
		})
	}
}

func TestRefusedRoutesDoNotCollide(t *testing.T) {
	table := tableOf(t, gatewayWith(httpListener()), labelsOf(nil), httpRoute("aibrix-system", "r"), httpRoute("team-a", "r"))
	require.Empty(t, table.Collisions())
	require.Len(t, table.Entries(), 2)
}

func TestEntriesAreToldInWords(t *testing.T) {
	table := tableOf(t, gatewayWith(httpListener()), labelsOf(nil), httpRoute("aibrix-system", "r", hosts("a.example"),
		rules(on(exactly("/v1"), verb("POST"), header("model", "llama"), headerRegex("User", ".+"), query("q", "1")))))
	require.Equal(t, `host a.example, POST, path = /v1, header model = llama, header user ~ .+, query q = 1`, table.Entries()[0].String())
	require.Equal(t, "path prefix /", httpMatch(new(on())).String())
	require.Equal(t, "path ~ /v.", httpMatch(new(on(pathRegex("/v.")))).String())
	require.Equal(t, "every gRPC method", grpcMatch(&gwv1.GRPCRouteMatch{}).String())
	require.Equal(t, "gRPC a.B/*", grpcMatch(&gwv1.GRPCRouteMatch{Method: &gwv1.GRPCMethodMatch{Service: new("a.B")}}).String())
}

func TestMisses(t *testing.T) {
	e := tableOf(t, gatewayWith(httpListener()), labelsOf(nil), httpRoute("aibrix-system", "r", hosts("a.example"),
		rules(on(exactly("/v1"), verb("POST"), header("model", "llama"), query("q", "1"))))).Entries()[0]
	require.Empty(t, e.Misses(Request{Host: "a.example:80", Method: "POST", Path: "/v1", Header: http.Header{"Model": {"llama"}}, Query: url.Values{"q": {"1"}}}))
	require.Equal(t, []string{
		"host a.example is asked for, the request has 10.0.0.1", "path = /v1 is asked for, the request has /", "method POST is asked for, the request has GET",
		"header model = llama is asked for, the request has qwen", "query q = 1 is asked for, the request has none",
	}, e.Misses(Request{Host: "10.0.0.1", Method: "GET", Path: "/", Header: http.Header{"Model": {"qwen"}}}))
}

// randomTable draws from small pools, so that routes meet.
func randomTable(t *testing.T, seed uint64) *Table {
	r := rand.New(rand.NewPCG(seed, 0))
	pick := func(values ...string) string { return values[r.IntN(len(values))] }
	var objects []*gwv1.HTTPRoute
	for range 2 + r.IntN(8) {
		object := httpRoute(pick("aibrix-system", "team-a"), pick("a", "b", "c", "d", "e"), aged(int64(r.IntN(3))))
		for range r.IntN(3) {
			object.Spec.Hostnames = append(object.Spec.Hostnames, gwv1.Hostname(pick("a.example", "*.example", "b.a.example", "*.a.example")))
		}
		for range r.IntN(4) {
			m := on(path(gwv1.PathMatchType(pick("Exact", "PathPrefix", "PathPrefix", "RegularExpression")), pick("/", "/v1", "/v1/", "/v1/chat", "/v2")))
			if r.IntN(3) == 0 {
				verb(gwv1.HTTPMethod(pick("GET", "POST")))(&m)
			}
			for range r.IntN(3) {
				header(pick("model", "Model", "user"), pick("llama", "qwen"))(&m)
			}
			if r.IntN(4) == 0 {
				headerRegex(pick("model", "user"), pick("l.*", "q"))(&m)
			}
			for range r.IntN(2) {
				query(pick("q", "p"), pick("1", "2"))(&m)
			}
			rules(m)(object)
		}
		objects = append(objects, object)
	}
	return tableOf(t, gatewayWith(httpListener(from(gwv1.NamespacesFromAll)), httpListener(named("other"), serving("*.example"))), labelsOf(nil), objects...)
}

func TestCompareIsATotalOrder(t *testing.T) {
	for seed := range uint64(300) {
		entries := randomTable(t, seed).Entries()
		for i := range entries {
			for j := range entries {
				// Plain conditions: there are very many pairs.
				got := Compare(entries[i], entries[j])
				if got != -Compare(entries[j], entries[i]) || i < j && got > 0 {
					require.Fail(t, "sorted, and so transitive along the table; and the same from both sides", "seed %d: %s, %s", seed, entries[i], entries[j])
				}
			}
		}
	}
}

// Whatever the order of the routes, a request goes to the first of the entries that match it, and to one of two colliding
// routes never by being more specific.
func TestSelectTakesTheFirst(t *testing.T) {
	for seed := range uint64(500) {
		table := randomTable(t, seed)
		r := rand.New(rand.NewPCG(seed, 1))
		pick := func(values ...string) string { return values[r.IntN(len(values))] }
		request := Request{
			Host: pick("a.example", "b.a.example", "c.example", "other"), Method: pick("GET", "POST"), Path: pick("/", "/v1", "/v1/chat", "/v1/chat/x", "/v2"),
			Header: http.Header{"Model": {pick("llama", "qwen")}}, Query: url.Values{"q": {pick("1", "2")}},
		}
		var want []Entry
		for _, e := range table.Entries() {
			require.Equal(t, e.Matches(request) == policy.No, len(e.Misses(request)) > 0, "seed %d", seed)
			if both(e.Accepted(), e.Matches(request)) == policy.Yes {
				want = append(want, e)
			}
		}
		s := table.Select(request)
		if len(want) == 0 {
			require.Nil(t, s.Winner, "seed %d", seed)
			continue
		}
		require.NotNil(t, s.Winner, "seed %d", seed)
		if slices.ContainsFunc(s.Unsure, func(e Entry) bool { return where(e) == where(want[0]) }) {
			continue // another match of its rule comes earlier, and is not sure
		}
		require.Equal(t, where(want[0]), where(*s.Winner), "seed %d", seed)
	}
}

// The quick way through the buckets finds what comparing everything with everything finds.
func TestCollisionsAreComplete(t *testing.T) {
	found := 0
	for seed := range uint64(500) {
		table := randomTable(t, seed)
		var want []string
		entries := table.Entries()
		for i, loser := range entries {
			var worst Overlap
			var by Entry
			for _, winner := range entries[:i] {
				if loser.Accepted() == policy.Yes && winner.Accepted() == policy.Yes {
					if overlap := Collide(winner, loser); overlap >= Partial && overlap > worst {
						worst, by = overlap, winner
					}
				}
			}
			if worst >= Partial {
				want = append(want, fmt.Sprint(where(loser), loser, loser.Listener.Name, where(by), worst))
			}
		}
		var got []string
		for _, c := range table.Collisions() {
			got = append(got, fmt.Sprint(where(c.Loser), c.Loser, c.Loser.Listener.Name, where(c.Winner), c.Overlap))
		}
		slices.Sort(want)
		slices.Sort(got)
		require.Equal(t, want, got, "seed %d", seed)
		found += len(got)
	}
	require.Positive(t, found)
}

func FuzzMatchPattern(f *testing.F) {
	f.Add("/v1/.*", "/v1/chat")
	f.Add("(", "x")
	f.Add("a|b", "ab")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		_ = matchPattern(pattern, text) // none panics
		if literal := regexp.QuoteMeta(text); utf8.ValidString(text) && len(literal) <= maxPattern {
			require.Equal(t, policy.Yes, matchPattern(literal, text))
			require.NotEqual(t, policy.Yes, matchPattern(literal, text+"x"))
		}
	})
}

func BenchmarkCollisions(b *testing.B) {
	gateway := gatewayWith(httpListener())
	var routes []policy.Route
	for i := range 2000 {
		model := fmt.Sprintf("model-%d", i)
		object := httpRoute("aibrix-system", model+"-router", aged(int64(i)))
		for _, p := range []string{"/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/rerank"} {
			object.Spec.Rules = append(object.Spec.Rules, gwv1.HTTPRouteRule{Matches: []gwv1.HTTPRouteMatch{on(under(p), header("model", model))}})
		}
		route, _ := policy.RouteOf(object)
		routes = append(routes, route)
	}
	for b.Loop() {
		if collisions := NewTable(gateway, Parents(gateway, routes...), labelsOf(nil)).Collisions(); len(collisions) != 0 {
			b.Fatal(len(collisions))
		}
	}
}
