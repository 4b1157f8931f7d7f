package routing

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Parent is a parentRef of a route that is to be looked at for a Gateway.
type Parent struct {
	Route policy.Route
	// Index is the parentRef's place in spec.parentRefs.
	Index int
	// Misdirected is true where the parentRef names no namespace and so means a Gateway of the route's own namespace: it is
	// attached to no listener, but what it would match is known.
	Misdirected bool
}

// Parents are the parentRefs of routes that refer to a Gateway (see Refers).
func Parents(gateway *gwv1.Gateway, routes ...policy.Route) []Parent {
	var parents []Parent
	for _, route := range routes {
		for i := range route.ParentRefs {
			if Refers(route, &route.ParentRefs[i], gateway) {
				parents = append(parents, Parent{Route: route, Index: i})
			}
		}
	}
	return parents
}

// Entry is one line of a Gateway's routing table: one match of a route's rule, on one listener, under one hostname. It is
// small, as a table has many, which are sorted: what entries have in common they share.
type Entry struct {
	*Parent
	Listener *ListenerAttachment
	// Hostname under which the listener serves the route; "" is every hostname.
	Hostname string
	// Rule is the place in spec.rules, Match in its matches; -1 where the rule has none and so matches every request.
	Rule, Match int

	match *match
}

// Accepted says whether the listener accepts the route.
func (e Entry) Accepted() policy.Answer {
	if e.Misdirected {
		return policy.No
	}
	return e.Listener.Accepted
}

// Path is the field path of the match, such as spec.rules[0].matches[1]; of the rule where it has none.
func (e Entry) Path() string {
	path := fmt.Sprintf("spec.rules[%d]", e.Rule)
	if e.Match >= 0 {
		path += fmt.Sprintf(".matches[%d]", e.Match)
	}
	return path
}

// String says what requests the entry matches, on one line.
func (e Entry) String() string {
	if e.Hostname == "" {
		return e.match.String()
	}
	return "host " + e.Hostname + ", " + e.match.String()
}

// Matches reports whether a request to the entry's listener matches; Unknown where a regular expression's dialect decides.
func (e Entry) Matches(r Request) policy.Answer {
	if r.Port != 0 && r.Port != e.Listener.Port || r.Protocol != "" && r.Protocol != e.Listener.Protocol || !MatchesHost(e.Hostname, r.Host) {
		return policy.No
	}
	return e.match.matches(r)
}

// Misses says in words each thing that the entry asks for and a request to its listener does not have; empty where Matches
// is not No.
func (e Entry) Misses(r Request) []string {
	var misses []string
	if !MatchesHost(e.Hostname, r.Host) {
		misses = append(misses, fmt.Sprintf("host %s is asked for, the request has %s", e.Hostname, r.Host))
	}
	for _, c := range e.match.criteria(r) {
		if c.answer == policy.No {
			misses = append(misses, fmt.Sprintf("%s is asked for, the request has %s", c.asks, c.has))
		}
	}
	return misses
}

// Compare orders entries by Gateway API's precedence, the one that gets a request that both match first. It is a total
// order, but for entries that differ in nothing it reads.
func Compare(a, b Entry) int {
	if specific := compareSpecific(a, b); specific != 0 {
		return specific
	}
	return cmp.Or(compareRoutes(&a.Route, &b.Route), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Match, b.Match),
		cmp.Compare(a.Hostname, b.Hostname), cmp.Compare(a.Listener.Index, b.Listener.Index), cmp.Compare(a.Index, b.Index))
}

// compareSpecific compares by what an entry matches, and is 0 where only the routes themselves decide.
func compareSpecific(a, b Entry) int {
	aExact, aAny := hostnameRank(a.Hostname)
	bExact, bAny := hostnameRank(b.Hostname)
	return cmp.Or(cmp.Compare(bExact, aExact), cmp.Compare(bAny, aAny), a.match.compare(b.match))
}

// compareRoutes orders by age, then by "namespace/name". A route that is not stored yet is the youngest.
func compareRoutes(a, b *policy.Route) int {
	created := a.Meta.CreationTimestamp.Time.Compare(b.Meta.CreationTimestamp.Time)
	if a.Meta.CreationTimestamp.IsZero() != b.Meta.CreationTimestamp.IsZero() {
		created = -created
	}
	if created != 0 {
		return created
	}
	name := strings.Compare(a.Meta.Name, b.Meta.Name)
	if a.Namespace != b.Namespace {
		name = strings.Compare(a.Namespace+"/"+a.Meta.Name, b.Namespace+"/"+b.Meta.Name)
	}
	return cmp.Or(name, strings.Compare(string(a.Kind), string(b.Kind)))
}

// Collide says whether two entries compete for the same requests with nothing but the routes' age, names and order of
// rules to decide between them. Entries of one route, and of listeners on different ports, do not collide.
func Collide(a, b Entry) Overlap {
	if sameRoute(a, b) || a.Listener.Port != b.Listener.Port || a.Hostname != b.Hostname {
		return Disjoint
	}
	return a.match.overlap(b.match)
}

func sameRoute(a, b Entry) bool {
	return a.Route.Kind == b.Route.Kind && a.Route.Namespace == b.Route.Namespace && a.Route.Meta.Name == b.Route.Meta.Name
}

// Table is what a Gateway routes by, by specification. It is immutable.
type Table struct{ entries []Entry }

// NewTable makes the table of a Gateway from parentRefs, which are all taken to refer to it or to have meant it. They must not be
// changed afterwards.
func NewTable(gateway *gwv1.Gateway, parents []Parent, of Labels) *Table {
	t := &Table{}
	for i := range parents {
		parent := &parents[i]
		attachment := Attach(parent.Route, &parent.Route.ParentRefs[parent.Index], gateway, of)
		matches := matchesOfRoute(parent.Route)
		for j := range attachment.Listeners {
			listener := &attachment.Listeners[j]
			if listener.Reason == gwv1.RouteReasonNoMatchingParent && attachment.Reason != gwv1.RouteReasonNoMatchingParent {
				continue // another listener is meant
			}
			hostnames := listener.Hostnames
			if len(hostnames) == 0 {
				// What the route asks for shows which requests people sent because of it.
				hostnames = effectiveHostnames(nil, parent.Route.Hostnames)
			}
			for _, hostname := range hostnames {
				for _, m := range matches {
					t.entries = append(t.entries, Entry{Parent: parent, Listener: listener, Hostname: hostname, Rule: m.rule, Match: m.index, match: m.match})
				}
			}
		}
	}
	slices.SortStableFunc(t.entries, Compare)
	return t
}

// Entries are all entries in the order of precedence. The caller must not change them.
func (t *Table) Entries() []Entry { return t.entries }

type routeMatch struct {
	rule, index int
	match       *match
}

func matchesOfRoute(r policy.Route) []routeMatch {
	switch object := r.Object().(type) {
	case *gwv1.HTTPRoute:
		rules := object.Spec.Rules
		if len(rules) == 0 { // the API's default, which a manifest that no API server has seen lacks
			rules = make([]gwv1.HTTPRouteRule, 1)
		}
		return matchesOf(rules, func(r *gwv1.HTTPRouteRule) []gwv1.HTTPRouteMatch { return r.Matches }, httpMatch)
	case *gwv1.GRPCRoute:
		return matchesOf(object.Spec.Rules, func(r *gwv1.GRPCRouteRule) []gwv1.GRPCRouteMatch { return r.Matches }, grpcMatch)
	}
	return nil
}

// matchesOf are the matches of all rules; a rule without any matches everything.
func matchesOf[R, M any](rules []R, of func(*R) []M, compile func(*M) *match) []routeMatch {
	var matches []routeMatch
	for i := range rules {
		all := of(&rules[i])
		for j := range all {
			matches = append(matches, routeMatch{i, j, compile(&all[j])})
		}
		if len(all) == 0 {
			matches = append(matches, routeMatch{i, -1, compile(new(M))})
		}
	}
	return matches
}

// Selection is where a request goes. An entry is listed once for each route and rule, by its most specific match.
type Selection struct {
	// Winner is the entry that serves the request, or nil where none does.
	Winner *Entry
	// Unsure are entries that would have precedence over the Winner, if they match and are accepted: one of the two is not known.
	Unsure []Entry
	// RunnersUp match and are accepted too, in the order of precedence.
	RunnersUp []Entry
	// Refused match, but no listener accepts their route.
	Refused []Entry
}

// Select says which entry serves a request.
func (t *Table) Select(r Request) Selection {
	var s Selection
	type ruleKey struct {
		kind            policy.Kind
		namespace, name string
		rule            int
	}
	served, refused := map[ruleKey]bool{}, map[ruleKey]Entry{}
	var order []ruleKey
	for _, e := range t.entries {
		matches := e.Matches(r)
		if matches == policy.No {
			continue
		}
		key := ruleKey{e.Route.Kind, e.Route.Namespace, e.Route.Meta.Name, e.Rule}
		if e.Accepted() == policy.No {
			if _, listed := refused[key]; !listed {
				refused[key] = e
				order = append(order, key)
			}
			continue
		}
		if served[key] {
			continue
		}
		served[key] = true
		switch sure := both(matches, e.Accepted()); {
		case sure == policy.Unknown && s.Winner == nil:
			s.Unsure = append(s.Unsure, e)
		case s.Winner == nil:
			s.Winner = new(e)
		case sure == policy.Yes:
			s.RunnersUp = append(s.RunnersUp, e)
		}
	}
	for _, key := range order {
		if !served[key] {
			s.Refused = append(s.Refused, refused[key])
		}
	}
	return s
}

// Collision is an entry whose requests another entry takes.
type Collision struct {
	Winner, Loser Entry
	Overlap       Overlap
}

// Collisions lists for each accepted entry the entry that takes most from it: of those that take as much, the one with the
// highest precedence. Entries that only Possible overlaps are left out.
func (t *Table) Collisions() []Collision {
	buckets := map[string][]Entry{}
	var names []string
	for _, e := range t.entries {
		if e.Accepted() != policy.Yes {
			continue
		}
		name := e.bucket()
		if _, seen := buckets[name]; !seen {
			names = append(names, name)
		}
		buckets[name] = append(buckets[name], e)
	}
	var collisions []Collision
	for _, name := range names {
		collisions = append(collisions, collide(buckets[name])...)
	}
	slices.SortStableFunc(collisions, func(a, b Collision) int { return Compare(a.Loser, b.Loser) })
	return collisions
}

// bucket is the same for entries that can collide.
func (e Entry) bucket() string {
	path := e.match.path
	if e.match.kind == regexPath {
		path = "~"
	}
	return fmt.Sprintf("%d\x00%s\x00%t\x00%d\x00%s\x00%s\x00%d\x00%d", e.Listener.Port, e.Hostname, e.match.grpc, e.match.kind, path, e.match.verb, len(e.match.headers), len(e.match.query))
}

// collide looks through one bucket, in the order of precedence. Where many routes of one path differ in one header, as
// those of a model server do in "model", only those with the same value are compared.
func collide(bucket []Entry) []Collision {
	name := commonHeader(bucket)
	byValue := map[string][]Entry{}
	var others []Entry // without an exact value of that header: to be compared with all
	var collisions []Collision
	for i, e := range bucket {
		value, exact := e.match.exactHeader(name)
		earlier := bucket[:i]
		if exact {
			earlier = merge(byValue[value], others)
		}
		var worst *Collision
		for _, winner := range earlier {
			if overlap := Collide(winner, e); overlap >= Partial && (worst == nil || overlap > worst.Overlap) {
				worst = &Collision{Winner: winner, Loser: e, Overlap: overlap}
				if overlap == Same {
					break
				}
			}
		}
		if worst != nil {
			collisions = append(collisions, *worst)
		}
		if exact {
			byValue[value] = append(byValue[value], e)
		} else {
			others = append(others, e)
		}
	}
	return collisions
}

// merge keeps the order of precedence, which both have.
func merge(a, b []Entry) []Entry {
	if len(b) == 0 {
		return a
	}
	merged := slices.Concat(a, b)
	slices.SortStableFunc(merged, Compare)
	return merged
}

// commonHeader is the header that most entries ask a value of, or "".
func commonHeader(bucket []Entry) string {
	counts := map[string]int{}
	common := ""
	for _, e := range bucket {
		for _, h := range e.match.headers {
			if h.pattern {
				continue
			}
			counts[h.name]++
			if counts[h.name] > counts[common] {
				common = h.name
			}
		}
	}
	return common
}

func (m *match) exactHeader(name string) (value string, ok bool) {
	for _, h := range m.headers {
		if h.name == name && !h.pattern {
			return h.value, true
		}
	}
	return "", false
}
