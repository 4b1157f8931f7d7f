package audit

import (
	"iter"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/routing"
)

// Run audits a complete cluster (see Cluster.Complete) under a policy. It is deterministic and changes neither.
func Run(p *policy.Policy, c *Cluster) Report {
	a := newAuditor(p, c)
	a.survey()
	for _, check := range checks {
		a.run(check)
	}
	a.summarize()
	return a.report
}

// auditor is the state of one Run. The survey fills the report with objects, the checks change their states and add findings.
type auditor struct {
	policy *policy.Policy
	// governs is the policy with --scope=governed, which distinguishes parentRefs.
	governs *policy.Policy
	cluster *Cluster
	facts   *facts
	report  Report

	gateways  map[Ref]*gwv1.Gateway
	shown     map[Ref]*Gateway           // those of the report
	services  map[string]*corev1.Service // by namespace/name
	endpoints map[string]*readiness
	grants    []*grant
	// byName are the grants that name a target, wide those that name none.
	byName map[string][]*grant // by namespace/name
	wide   map[string][]*grant // by namespace

	// all are all routes, routes those that are audited.
	all      []policy.Route
	routes   []*route
	byRef    map[Ref]*route
	backends map[Ref]*Backend
	// states are those of the report's objects, which findings make worse.
	states map[Ref]*State

	check Check
	// places are the indexes of the running check's findings by what they state, repeated how often each was made again.
	places   map[statement]int
	repeated map[int]int
}

// readiness counts the endpoints of a Service.
type readiness struct{ ready, notReady int }

// route is an audited route: what the report shows, and what only the checks read.
type route struct {
	*Route
	view       policy.Route
	status     []gwv1.RouteParentStatus
	parents    []*parent
	references []*reference
	// parkedError is what is wrong with the parked parentRefs.
	parkedError error
}

// parent is a parentRef to a Gateway.
type parent struct {
	*Parent
	ref         gwv1.ParentReference
	object      *gwv1.Gateway // nil where it does not exist
	governed    bool
	misdirected bool
	parked      bool
	attachment  routing.Attachment
	status      []gwv1.RouteParentStatus
	// explained are the reasons in status for which there is a finding already.
	explained map[string]bool
}

// reference is one place that names a backend.
type reference struct {
	*Reference
	implicit bool // names no namespace
	weight   int32
	mirror   bool
	edge     policy.Edge
	outcome  policy.Outcome
	// permits are the grants by which a gateway lets it pass.
	permits []*grant
	words   string
}

func newAuditor(p *policy.Policy, c *Cluster) *auditor {
	config := p.Config
	config.Scope = policy.ScopeGoverned
	governs, err := policy.New(config)
	if err != nil {
		governs = p // its Config was valid, and the scope is
	}
	a := &auditor{
		policy: p, governs: governs, cluster: c, facts: c.facts(), report: newReport(p, c),
		gateways: map[Ref]*gwv1.Gateway{}, shown: map[Ref]*Gateway{}, services: map[string]*corev1.Service{}, endpoints: map[string]*readiness{},
		byName: map[string][]*grant{}, wide: map[string][]*grant{}, byRef: map[Ref]*route{}, backends: map[Ref]*Backend{}, states: map[Ref]*State{},
		places: map[statement]int{}, repeated: map[int]int{},
	}
	for _, o := range c.Gateways {
		a.gateways[refOf(policy.Gateway, o.Namespace, o.Name)] = o
	}
	for _, o := range c.Services {
		a.services[o.Namespace+"/"+o.Name] = o
	}
	for _, o := range c.EndpointSlices {
		a.addEndpoints(o)
	}
	for _, o := range c.Grants {
		a.addGrant(o)
	}
	slices.SortFunc(a.grants, func(x, y *grant) int { return compareRefs(x.Ref, y.Ref) })
	a.report.Plugin = a.plugin()
	return a
}

func (a *auditor) system() string { return a.policy.SystemNamespace }

func (a *auditor) addEndpoints(o *discoveryv1.EndpointSlice) {
	key := o.Namespace + "/" + o.Labels[discoveryv1.LabelServiceName]
	if a.endpoints[key] == nil {
		a.endpoints[key] = &readiness{}
	}
	for _, e := range o.Endpoints {
		// Unknown means ready (discovery/v1 EndpointConditions).
		if e.Conditions.Ready == nil || *e.Conditions.Ready {
			a.endpoints[key].ready++
		} else {
			a.endpoints[key].notReady++
		}
	}
}

// eachParent has the parentRefs of audited routes, without those that are parked: their copies are audited.
func (a *auditor) eachParent() iter.Seq2[*route, *parent] {
	return func(yield func(*route, *parent) bool) {
		for _, r := range a.routes {
			for _, p := range r.parents {
				if !p.parked && !yield(r, p) {
					return
				}
			}
		}
	}
}

// eachReference has the references of audited routes, without those of parked sources: their copies are audited.
func (a *auditor) eachReference() iter.Seq2[*route, *reference] {
	return func(yield func(*route, *reference) bool) {
		for _, r := range a.routes {
			for _, x := range r.references {
				if r.Role != RoleSource && !yield(r, x) {
					return
				}
			}
		}
	}
}

// eachCross has the references that need a ReferenceGrant.
func (a *auditor) eachCross() iter.Seq2[*route, *reference] {
	return func(yield func(*route, *reference) bool) {
		for r, x := range a.eachReference() {
			if x.Cross && !x.Withheld && !yield(r, x) {
				return
			}
		}
	}
}

// broken notes that requests to the reference fail, which a gateway reports with a reason.
func (x *reference) broken(r *route, words string, reason gwv1.RouteConditionReason) {
	x.State, x.words = StateBroken, words
	for _, p := range r.parents {
		p.explained[string(reason)] = true
	}
}

// matchedModel is the model that a route asks of requests in AIBrix's header, or "" where there is none or more than one.
func matchedModel(route policy.Route) string {
	http, ok := route.Object().(*gwv1.HTTPRoute)
	if !ok { // AIBrix reads no others
		return ""
	}
	model := ""
	for _, rule := range http.Spec.Rules {
		for _, match := range rule.Matches {
			for _, h := range match.Headers {
				if !strings.EqualFold(string(h.Name), modelHeader) || h.Type != nil && *h.Type != gwv1.HeaderMatchExact || h.Value == model {
					continue
				}
				if model != "" {
					return ""
				}
				model = h.Value
			}
		}
	}
	return model
}
