package routing

import (
	"net"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Intersect is the hostname under which a listener serves a route's hostname: the more specific of the two, and false
// where no request can have both. The empty string and "*" mean every hostname, and are returned as "".
func Intersect(listener, route string) (string, bool) {
	listener, route = normalHost(listener), normalHost(route)
	switch {
	case covers(listener, route):
		return route, true
	case covers(route, listener):
		return listener, true
	}
	return "", false
}

// MatchesHost reports whether a request's Host, with or without a port, is covered by a hostname of the API: "*.example.com"
// covers one or more labels in front of its suffix, and "" every host.
func MatchesHost(hostname, host string) bool { return covers(normalHost(hostname), requestHost(host)) }

// covers reports whether every host of b is one of a; both are normal.
func covers(a, b string) bool {
	if a == "" || a == b {
		return true
	}
	suffix, wildcard := strings.CutPrefix(a, "*")
	return wildcard && strings.HasSuffix(b, suffix) && len(b) > len(suffix)
}

func normalHost(hostname string) string {
	if hostname == "*" {
		return ""
	}
	return strings.ToLower(hostname)
}

// requestHost is the host of a Host header: no port, no brackets, no root dot.
func requestHost(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
}

// hostnameRank orders hostnames as HTTPRouteSpec.Hostnames asks: characters of a hostname without a wildcard, then
// characters of a hostname.
func hostnameRank(hostname string) (exact, any int) {
	if !strings.HasPrefix(hostname, "*") {
		exact = len(hostname)
	}
	return exact, len(hostname)
}

// effectiveHostnames are the distinct hostnames under which a listener serves a route; empty where there are none.
func effectiveHostnames(listener *gwv1.Hostname, route []gwv1.Hostname) []string {
	own := ""
	if listener != nil {
		own = string(*listener)
	}
	if len(route) == 0 {
		return []string{normalHost(own)}
	}
	var hostnames []string
	seen := map[string]bool{}
	for _, hostname := range route {
		if common, ok := Intersect(own, string(hostname)); ok && !seen[common] {
			seen[common] = true
			hostnames = append(hostnames, common)
		}
	}
	return hostnames
}
