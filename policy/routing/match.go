package routing

import (
	"cmp"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Request is what routing reads of a request.
type Request struct {
	// Host may have a port, which is ignored.
	Host   string
	Method string
	// Path without the query.
	Path   string
	Query  url.Values
	Header http.Header
	// Port and Protocol are the listener's; the zero values mean any listener.
	Port     gwv1.PortNumber
	Protocol gwv1.ProtocolType
}

// isGRPC reports whether a request is a gRPC call.
func (r Request) isGRPC() bool {
	return r.Method == http.MethodPost && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// kindOfPath says how a match looks at the path, in the order of precedence. The API leaves to gateways where
// RegularExpression stands; it is here where Envoy Gateway has it.
type kindOfPath uint8

const (
	exactPath kindOfPath = iota
	regexPath
	prefixPath
)

// match is a HTTPRouteMatch or GRPCRouteMatch with the API's defaults filled in.
type match struct {
	kind kindOfPath
	// path of an HTTP match; a prefix has no trailing slash unless it is "/".
	path string
	// verb is the HTTP method, empty for every one.
	verb string
	// headers and query by name, each name once (the API ignores later ones); header names are canonical.
	headers, query []param

	grpc bool
	// service and procedure of a gRPC match; empty for every one.
	service, procedure string
	// pattern is true where service and procedure are regular expressions.
	pattern bool
}

type param struct {
	name, value string
	pattern     bool
}

func httpMatch(m *gwv1.HTTPRouteMatch) *match {
	out := &match{kind: prefixPath, path: "/"}
	if m.Path != nil {
		if m.Path.Value != nil {
			out.path = *m.Path.Value
		}
		if m.Path.Type != nil {
			switch *m.Path.Type {
			case gwv1.PathMatchExact:
				out.kind = exactPath
			case gwv1.PathMatchRegularExpression:
				out.kind = regexPath
			}
		}
		if out.kind == prefixPath && len(out.path) > 1 {
			out.path = strings.TrimRight(out.path, "/")
		}
	}
	if m.Method != nil {
		out.verb = string(*m.Method)
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		out.headers = appendParam(out.headers, param{http.CanonicalHeaderKey(string(h.Name)), h.Value, h.Type != nil && *h.Type == gwv1.HeaderMatchRegularExpression})
	}
	for i := range m.QueryParams {
		q := &m.QueryParams[i]
		out.query = appendParam(out.query, param{string(q.Name), q.Value, q.Type != nil && *q.Type == gwv1.QueryParamMatchRegularExpression})
	}
	return out.sorted()
}

func grpcMatch(m *gwv1.GRPCRouteMatch) *match {
	out := &match{grpc: true}
	if m.Method != nil {
		out.pattern = m.Method.Type != nil && *m.Method.Type == gwv1.GRPCMethodMatchRegularExpression
		if m.Method.Service != nil {
			out.service = *m.Method.Service
		}
		if m.Method.Method != nil {
			out.procedure = *m.Method.Method
		}
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		out.headers = appendParam(out.headers, param{http.CanonicalHeaderKey(string(h.Name)), h.Value, h.Type != nil && *h.Type == gwv1.GRPCHeaderMatchRegularExpression})
	}
	return out.sorted()
}

func appendParam(params []param, p param) []param {
	if slices.ContainsFunc(params, func(earlier param) bool { return earlier.name == p.name }) {
		return params
	}
	return append(params, p)
}

func (m *match) sorted() *match {
	byName := func(a, b param) int { return strings.Compare(a.name, b.name) }
	slices.SortFunc(m.headers, byName)
	slices.SortFunc(m.query, byName)
	return m
}

// compare orders matches by the API's criteria, the one with precedence first, and is 0 where only the routes' age and
// names decide.
func (m *match) compare(o *match) int {
	switch {
	case m.grpc != o.grpc:
		// A gRPC request that both kinds could serve: the API accepts only one of such routes, so the order means nothing.
		return cmp.Compare(boolean(o.grpc), boolean(m.grpc))
	case m.grpc:
		return cmp.Or(
			cmp.Compare(len(o.service), len(m.service)),
			cmp.Compare(len(o.procedure), len(m.procedure)),
			cmp.Compare(len(o.headers), len(m.headers)),
		)
	}
	length := func(m *match) int {
		if m.kind == exactPath {
			return 0 // two exact paths of different length never match the same request
		}
		return len(m.path)
	}
	return cmp.Or(
		cmp.Compare(m.kind, o.kind),
		cmp.Compare(length(o), length(m)),
		cmp.Compare(boolean(o.verb != ""), boolean(m.verb != "")),
		cmp.Compare(len(o.headers), len(m.headers)),
		cmp.Compare(len(o.query), len(m.query)),
	)
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// matches answers Unknown where a regular expression decides in a way that depends on its dialect.
func (m *match) matches(r Request) policy.Answer {
	answer := policy.Yes
	for _, c := range m.criteria(r) {
		answer = both(answer, c.answer)
	}
	return answer
}

// criterion is one thing that a match asks of a request, with what the request has.
type criterion struct {
	answer    policy.Answer
	asks, has string
}

// criteria are all that a match asks, in the order of precedence.
func (m *match) criteria(r Request) []criterion {
	var all []criterion
	add := func(answer policy.Answer, asks, has string) { all = append(all, criterion{answer, asks, has}) }
	if m.grpc {
		service, procedure, _ := strings.Cut(strings.TrimPrefix(r.Path, "/"), "/")
		answer := policy.AnswerOf(r.isGRPC())
		add(both(answer, both(matchText(m.service, service, m.pattern), matchText(m.procedure, procedure, m.pattern))), m.pathText(), r.Method+" "+r.Path)
	} else {
		answer := policy.No
		switch m.kind {
		case exactPath:
			answer = policy.AnswerOf(r.Path == m.path)
		case prefixPath:
			answer = policy.AnswerOf(m.path == "/" || r.Path == m.path || strings.HasPrefix(r.Path, m.path+"/"))
		case regexPath:
			answer = matchPattern(m.path, r.Path)
		}
		add(answer, m.pathText(), r.Path)
		if m.verb != "" {
			add(policy.AnswerOf(m.verb == r.Method), "method "+m.verb, r.Method)
		}
	}
	for _, h := range m.headers {
		// RFC 9110 joins repeated headers.
		values, ok := r.Header[h.name]
		add(h.matches(strings.Join(values, ","), ok), "header "+h.String(), present(strings.Join(values, ","), ok))
	}
	for _, q := range m.query {
		add(q.matches(r.Query.Get(q.name), r.Query.Has(q.name)), "query "+q.String(), present(r.Query.Get(q.name), r.Query.Has(q.name)))
	}
	return all
}

func present(value string, there bool) string {
	if !there {
		return "none"
	}
	return value
}

func (p param) matches(value string, there bool) policy.Answer {
	switch {
	case !there:
		return policy.No
	case p.pattern:
		return matchPattern(p.value, value)
	}
	return policy.AnswerOf(p.value == value)
}

func matchText(want, text string, pattern bool) policy.Answer {
	switch {
	case want == "":
		return policy.Yes
	case pattern:
		return matchPattern(want, text)
	}
	return policy.AnswerOf(want == text)
}

// matchPattern answers only where it makes no difference whether a gateway anchors the expression; one that is not RE2 is
// unknown.
func matchPattern(pattern, text string) policy.Answer {
	if len(pattern) > maxPattern {
		return policy.Unknown
	}
	whole, err := regexp.Compile(`^(?:` + pattern + `)$`)
	if err != nil {
		return policy.Unknown
	}
	if whole.MatchString(text) {
		return policy.Yes
	}
	if part, err := regexp.Compile(pattern); err == nil && part.MatchString(text) {
		return policy.Unknown
	}
	return policy.No
}

// maxPattern is the longest path that the API accepts.
const maxPattern = 1024

func both(a, b policy.Answer) policy.Answer {
	switch {
	case a == policy.No || b == policy.No:
		return policy.No
	case a == policy.Unknown || b == policy.Unknown:
		return policy.Unknown
	}
	return policy.Yes
}

// Overlap says how much two entries of a routing table compete for the same requests.
type Overlap uint8

const (
	// Disjoint: no request can match both, or one has precedence by being more specific.
	Disjoint Overlap = iota
	// Possible: whether a request can match both depends on regular expressions.
	Possible
	// Partial: some requests match both, and only the routes' age or names decide who gets them.
	Partial
	// Same: both match exactly the same requests; one of them never gets any.
	Same
)

// overlap of two matches that compare equal.
func (m *match) overlap(o *match) Overlap {
	if m.grpc != o.grpc || m.compare(o) != 0 {
		return Disjoint
	}
	result := Same
	lower := func(to Overlap) { result = min(result, to) }
	if m.grpc {
		if m.service != o.service || m.procedure != o.procedure || m.pattern != o.pattern {
			if !m.pattern && !o.pattern {
				return Disjoint // of the same lengths, or both would match everything
			}
			lower(Possible)
		}
	} else {
		switch {
		case m.path != o.path && m.kind == regexPath:
			lower(Possible)
		case m.path != o.path, m.verb != o.verb:
			return Disjoint
		}
	}
	for _, pair := range [][2][]param{{m.headers, o.headers}, {m.query, o.query}} {
		if slices.Equal(pair[0], pair[1]) {
			continue
		}
		lower(Partial)
		for _, a := range pair[0] {
			i := slices.IndexFunc(pair[1], func(b param) bool { return a.name == b.name })
			if i < 0 || a == pair[1][i] {
				continue
			}
			if !a.pattern && !pair[1][i].pattern {
				return Disjoint
			}
			lower(Possible)
		}
	}
	return result
}

// String says what the match looks at, on one line.
func (m *match) String() string {
	var parts []string
	if m.verb != "" {
		parts = append(parts, m.verb)
	}
	parts = append(parts, m.pathText())
	for _, h := range m.headers {
		parts = append(parts, "header "+h.String())
	}
	for _, q := range m.query {
		parts = append(parts, "query "+q.String())
	}
	return strings.Join(parts, ", ")
}

func (m *match) pathText() string {
	switch {
	case m.grpc && m.service == "" && m.procedure == "":
		return "every gRPC method"
	case m.grpc:
		return "gRPC " + cmp.Or(m.service, "*") + "/" + cmp.Or(m.procedure, "*")
	}
	return [...]string{"path = ", "path ~ ", "path prefix "}[m.kind] + m.path
}

func (p param) String() string {
	if p.pattern {
		return strings.ToLower(p.name) + " ~ " + p.value
	}
	return strings.ToLower(p.name) + " = " + p.value
}
