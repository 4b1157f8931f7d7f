package trace

import (
	"github.com/routesteward/routesteward/policy/audit"
)

// SchemaVersion names the form of a Report in JSON. Fields are only ever added under one name.
const SchemaVersion = "routesteward.dev/trace/v1"

// MaxNear bounds Report.Near.
const MaxNear = 20

// Outcome says what became of a request.
type Outcome string

const (
	// Routed: answered 2xx or 3xx through the expected route.
	Routed Outcome = "routed"
	// Answered: answered 2xx or 3xx; nothing is known of the cluster that says by what way.
	Answered Outcome = "answered"
	// Bypassed: AIBrix's gateway plugin chose a Pod by a routing strategy, past the HTTPRoute.
	Bypassed Outcome = "bypassed"
	// Unexpected: answered 2xx or 3xx, but not through the expected route, as far as can be seen.
	Unexpected Outcome = "unexpected"
	// Stopped: answered with an error, or not at all after the request was taken.
	Stopped Outcome = "stopped"
	// Unreached: nobody took the request.
	Unreached Outcome = "unreached"
)

// rank orders outcomes from best to worst.
func (o Outcome) rank() int {
	for i, known := range []Outcome{Routed, Answered, Bypassed, Unexpected, Stopped, Unreached} {
		if o == known {
			return i
		}
	}
	return -1
}

// Report is what a trace found. Its JSON is the output json.
type Report struct {
	// SchemaVersion is the constant of that name.
	SchemaVersion string `json:"schemaVersion"`
	Request       Sent   `json:"request"`
	// Source says in words where the facts about the cluster come from; empty where there are none.
	Source string `json:"source,omitempty"`
	// Answers are the different answers, the most frequent first.
	Answers []Answer `json:"answers"`
	// Pods says how many requests each pod answered; requests whose answer names none are not in it.
	Pods []PodCount `json:"pods,omitempty"`
	// Through is the route that hands the request to AIBrix's gateway plugin, which then has it routed once more.
	Through *Candidate `json:"through,omitempty"`
	// Expected is the way that the request should take; absent where no route serves it, or it is not known.
	Expected *Expected `json:"expected,omitempty"`
	// Refused are routes that match the request, and that no listener accepts.
	Refused []Candidate `json:"refused,omitempty"`
	// Near are routes that the Gateway accepts and that miss the request by one thing, where none serves it; at most MaxNear.
	Near []Candidate `json:"near,omitempty"`
	// Verdict is that of the worst answer.
	Verdict Verdict `json:"verdict"`
	// NotKnown says in whole sentences what is not known, and so is not part of the verdict.
	NotKnown []string `json:"notKnown,omitempty"`
}

// Sent is the request.
type Sent struct {
	Method string `json:"method"`
	URL    string `json:"url"`
	// Host is the Host header where it is not the URL's.
	Host            string `json:"host,omitempty"`
	Model           string `json:"model,omitempty"`
	RoutingStrategy string `json:"routingStrategy,omitempty"`
	Count           int    `json:"count"`
	// UserAgent is in the header of every request, for access logs.
	UserAgent string `json:"userAgent"`
}

// Answer is an answer that one or more of the requests got.
type Answer struct {
	Count int `json:"count"`
	// Status is the HTTP status; 0 where there was no answer, and Failure says why.
	Status  int    `json:"status,omitempty"`
	Failure string `json:"failure,omitempty"`
	// Fastest and Slowest are in milliseconds.
	Fastest int64 `json:"fastestMilliseconds"`
	Slowest int64 `json:"slowestMilliseconds"`
	// IDs are those of the first such request, by which logs can be searched.
	IDs IDs `json:"ids"`
	// Plugin is true where AIBrix's gateway plugin has seen the request; Errors are what it complains about.
	Plugin bool          `json:"plugin"`
	Errors []PluginError `json:"errors,omitempty"`
	// Message is what the body of an error says.
	Message string `json:"message,omitempty"`
	// RoutingStrategy is that by which the plugin chose the pod.
	RoutingStrategy string `json:"routingStrategy,omitempty"`
	// TargetPod is what the header of that name says; Pods are the pods that this may be.
	TargetPod string  `json:"targetPod,omitempty"`
	Pods      []Pod   `json:"pods,omitempty"`
	Outcome   Outcome `json:"outcome"`

	verdict Verdict
}

// IDs are the ids of one request.
type IDs struct {
	// Sent is the x-request-id that was sent. A gateway may replace it: Gateway is what it answered, Plugin what AIBrix's gateway
	// plugin logs.
	Sent    string `json:"sent"`
	Gateway string `json:"gateway,omitempty"`
	Plugin  string `json:"plugin,omitempty"`
}

// Pod is a pod with the Services whose endpoint it is.
type Pod struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Services  []string `json:"services,omitempty"`
}

// PodCount is how many requests one pod answered, whatever the status.
type PodCount struct {
	// Pod is "namespace/name" where that is known, else what the header target-pod says.
	Pod   string `json:"pod"`
	Count int    `json:"count"`
}

// Expected is the way of the request by Gateway API's precedence.
type Expected struct {
	Gateway  audit.Ref `json:"gateway"`
	Listener string    `json:"listener"`
	Candidate
	// Origin is the namespace whose people wrote the route, where that is another than its own: it is a relocated copy.
	Origin string `json:"origin,omitempty"`
	// Parents are the route's parentRefs with their status, References the rule's backends with the grants that permit them,
	// Backends what is known of these.
	Parents    []audit.Parent    `json:"parents"`
	References []audit.Reference `json:"references"`
	Backends   []audit.Backend   `json:"backends"`
	// Findings are what an audit finds wrong with the route, as far as it is about this rule.
	Findings []audit.Finding `json:"findings,omitempty"`
	// Unsure would have precedence, if they match and are accepted, which is not known. RunnersUp match too.
	Unsure    []Candidate `json:"unsure,omitempty"`
	RunnersUp []Candidate `json:"runnersUp,omitempty"`
}

// Candidate is a rule of a route that matches the request.
type Candidate struct {
	Route audit.Ref `json:"route"`
	// Field is the path of the match, Match what it looks at.
	Field string `json:"field"`
	Match string `json:"match"`
	// Why says why the route is refused, or not sure.
	Why string `json:"why,omitempty"`
}

// Verdict is what became of the requests, why, and what to do next.
type Verdict struct {
	Outcome Outcome `json:"outcome"`
	// Where a stopped request ended: "gateway", "gateway plugin" or "backend"; empty where that is not known.
	Where string `json:"where,omitempty"`
	// Words say it in one sentence. Because are its causes, as far as they are known.
	Words   string   `json:"words"`
	Because []string `json:"because,omitempty"`
	// Next says what to do, Command the next command to run.
	Next    string `json:"next,omitempty"`
	Command string `json:"command,omitempty"`
}

// Failed reports whether the trace found something wrong: anything but an answer through the expected route.
func (r Report) Failed() bool {
	return r.Verdict.Outcome != Routed && r.Verdict.Outcome != Answered
}
