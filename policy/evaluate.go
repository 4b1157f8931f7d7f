package policy

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Operation is the admission operation.
type Operation string

// The operations (admission.k8s.io/v1).
const (
	Create Operation = "CREATE"
	Update Operation = "UPDATE"
	Delete Operation = "DELETE"
)

// User is who asks, as authenticated by the API server.
type User struct {
	Name   string
	Groups []string
}

// Request is one write to be evaluated.
type Request struct {
	Operation Operation
	Kind      Kind
	// Namespace is the request's, which is authoritative over the object's metadata.
	Namespace string
	User      User
	// Object is the object as it would be stored: *HTTPRoute, *GRPCRoute, *Gateway or *ReferenceGrant of
	// gateway.networking.k8s.io/v1 (their v1beta1 JSON is the same). OldObject is the stored one at an update.
	Object, OldObject runtime.Object
}

// Severity says what a finding does.
type Severity string

const (
	// SeverityDeny refuses the request.
	SeverityDeny Severity = "deny"
	// SeverityWarn admits it with an admission warning.
	SeverityWarn Severity = "warn"
	// SeverityAudit admits it silently; the finding is counted and logged.
	SeverityAudit Severity = "audit"
)

// Finding is one thing that is wrong with an object, at one field.
type Finding struct {
	// Rule is the id of the rule that found it.
	Rule     string
	Severity Severity
	// Field is the path of the field, such as spec.parentRefs[0]; Value is what is there, as people name it.
	Field, Value string
	// Problem says what is wrong, Fix the next step to take.
	Problem, Fix string
	// Unchanged is true where the finding would deny, but the update leaves what it is about as it was.
	Unchanged bool
}

// MissingFact is a question that could not be decided, because a fact is unknown.
type MissingFact struct {
	Rule         string
	Field, Value string
	Fact         Fact
}

// GrantUse is a managed grant that references of an admitted route need.
type GrantUse struct {
	Edge Edge
	// Name is the grant's: the edge's GrantName.
	Name string
	// Consent is why the edge may have it.
	Consent Consent
	// Exists is true where the grant is there already; otherwise it must be made before the route is admitted.
	Exists bool
	// Unchanged is true where an update leaves every reference that needs the grant as it was: that the grant cannot be
	// made is no reason to refuse the update. NotMade says why it could not, or is empty.
	Unchanged bool
	NotMade   string
}

// Relocated names the copy that serves a parked route.
type Relocated struct {
	Kind            Kind
	Namespace, Name string
	// Gateways are the names of the Gateways that serve it, each once.
	Gateways []string
	// New is true where this write relocates the route, or to other Gateways than before.
	New bool
}

// Decision is the outcome of Evaluate. The zero value denies.
type Decision struct {
	Allowed bool
	// Findings in the order of the rules, then of the fields.
	Findings []Finding
	// Missing are the facts without which the request cannot be decided; Allowed is false then.
	Missing []MissingFact
	// Grants that the route needs, each once; nil where the request is not allowed.
	Grants []GrantUse
	// Relocated says where the route's copy is, or will be, where the route is parked; nil where the request is not allowed.
	Relocated *Relocated
	// Exempt names the exemption that let the request pass unjudged, or is empty.
	Exempt string
}

// Evaluate decides about a request by every rule.
func (p *Policy) Evaluate(req Request, facts Facts) Decision {
	if reason := p.exemption(req); reason != "" {
		return Decision{Allowed: true, Exempt: reason}
	}
	e := evaluation{policy: p, req: req, facts: facts}
	if route, ok := RouteOf(req.Object); ok {
		route.Namespace = req.Namespace
		e.routes[0], e.route = route, &e.routes[0]
		if req.Operation == Update {
			if old, ok := RouteOf(req.OldObject); ok {
				old.Namespace = req.Namespace
				e.routes[1], e.old = old, &e.routes[1]
			}
		}
		e.evaluateRoute()
	}
	for _, rule := range rules {
		e.rule = rule.ID
		rule.check(&e)
	}
	e.decision.Allowed = len(e.decision.Missing) == 0 &&
		!slices.ContainsFunc(e.decision.Findings, func(f Finding) bool { return f.Severity == SeverityDeny })
	if e.decision.Allowed {
		e.decision.Grants = e.grants()
		e.decision.Relocated = e.relocated()
	}
	return e.decision
}

// The exemptions, as they appear in logs.
const (
	ExemptSelf      = "self"
	ExemptUser      = "user"
	ExemptGroup     = "group"
	ExemptNamespace = "namespace"
	ExemptKind      = "kind"
	ExemptDeleting  = "deleting"
)

// exemption names why a request is not evaluated at all, or is empty. Being deleted comes first: an object
// on its way out must lose its finalizers whatever the policy says.
func (p *Policy) exemption(req Request) string {
	switch {
	case req.Operation == Delete || deleting(req.Object):
		return ExemptDeleting
	case !p.Evaluates(req.Kind):
		return ExemptKind
	case p.Self != "" && req.User.Name == p.Self:
		return ExemptSelf
	case p.exemptUsers.Has(req.User.Name):
		return ExemptUser
	case p.exemptGroups.HasAny(req.User.Groups...):
		return ExemptGroup
	// A managed grant is protected everywhere: its namespace is the target's, not the route's.
	case req.Kind != ReferenceGrant && p.exemptNamespaces.Has(req.Namespace):
		return ExemptNamespace
	}
	return ""
}

func deleting(obj runtime.Object) bool {
	meta := objectMeta(obj)
	return meta != nil && meta.DeletionTimestamp != nil
}

// objectMeta is the metadata of an object that is evaluated, or nil.
func objectMeta(obj runtime.Object) *metav1.ObjectMeta {
	if route, ok := RouteOf(obj); ok {
		return route.Meta
	}
	switch o := obj.(type) {
	case *gwv1.Gateway:
		if o != nil {
			return &o.ObjectMeta
		}
	case *gwv1.ReferenceGrant:
		if o != nil {
			return &o.ObjectMeta
		}
	}
	return nil
}

// evaluation is the state of one Evaluate that rules share.
type evaluation struct {
	policy *Policy
	req    Request
	facts  Facts
	// route and old are set for route kinds; old only at an update. They are kept in routes, which
	// spares each an allocation.
	route, old *Route
	routes     [2]Route
	// parents has the attachment of each of the route's parentRefs.
	parents []parentAttachment
	// parked and wasParked are the parentRefs that ParkedAnnotation keeps, now and before; unparkable says what is wrong with
	// the annotation.
	parked, wasParked []gwv1.ParentReference
	unparkable        error
	// governed says whether the policy governs the route; Unknown where a Gateway's existence is not known.
	governed Answer
	// references are the route's cross-namespace references with their decision, if it is governed.
	references []evaluatedReference

	// rule is the id of the rule that is being checked.
	rule     string
	decision Decision
}

type evaluatedReference struct {
	Reference
	edge Edge
	EdgeDecision
	// unchanged is true at an update of a route that was governed and had the same edge before.
	unchanged bool
}

// report adds a finding. Ratcheting: what an update leaves as it was is no reason to refuse the update.
func (e *evaluation) report(severity Severity, unchanged bool, f Finding) {
	f.Rule, f.Severity = e.rule, severity
	if unchanged && severity == SeverityDeny {
		f.Severity, f.Unchanged = SeverityWarn, true
	}
	e.decision.Findings = append(e.decision.Findings, f)
}

func (e *evaluation) miss(field, value string, fact Fact) {
	e.decision.Missing = append(e.decision.Missing, MissingFact{Rule: e.rule, Field: field, Value: value, Fact: fact})
}

func (e *evaluation) evaluateRoute() {
	p := e.policy
	e.parents, e.governed = p.parents(e.route, e.facts)
	e.parked, e.unparkable = p.Parked(*e.route)
	if len(e.parked) > 0 {
		e.governed = Yes
	}
	// before are the edges that the route had when it was governed already; with a missing fact, if it was. A route that is
	// parked again has none of its edges from before.
	before := map[Edge]bool{}
	var missing Fact
	if e.old != nil {
		e.wasParked, _ = p.Parked(*e.old)
		parents, governed := p.parents(e.old, e.facts)
		if len(e.wasParked) > 0 {
			governed = Yes
		}
		if governed != No {
			old := p.Served(*e.old)
			for ref := range old.References() {
				edge, _ := EdgeOf(old, ref)
				before[edge] = true
			}
		}
		if governed == Unknown {
			missing = parents[slices.IndexFunc(parents, func(p parentAttachment) bool { return p.attachment == undecided })].missing
		}
	}
	// A copy's references are evaluated in its source.
	isCopy := p.IsCopy(*e.route) || e.old != nil && p.IsCopy(*e.old)
	if e.governed != Yes || p.Grants == GrantsOff || isCopy {
		return
	}
	route := p.Served(*e.route)
	for ref := range route.References() {
		if edge, cross := EdgeOf(route, ref); cross {
			e.references = append(e.references, evaluatedReference{Reference: ref, edge: edge, unchanged: before[edge]})
		}
	}
	first := map[Edge]int{}
	for i := range e.references {
		ref := &e.references[i]
		if same, seen := first[ref.edge]; seen {
			ref.EdgeDecision = e.references[same].EdgeDecision
			continue
		}
		first[ref.edge] = i
		if ref.EdgeDecision = p.EvaluateEdge(ref.edge, e.facts, !ref.unchanged); ref.unchanged && missing != (Fact{}) {
			ref.EdgeDecision = EdgeDecision{Outcome: Undecided, Missing: missing}
		}
	}
}

func (e *evaluation) relocated() *Relocated {
	if len(e.parked) == 0 || e.decision.Exempt != "" {
		return nil
	}
	r := &Relocated{
		Kind: e.route.Kind, Namespace: e.policy.SystemNamespace, Name: e.copyName(),
		New: !slices.EqualFunc(e.parked, e.wasParked, func(a, b gwv1.ParentReference) bool { return equality.Semantic.DeepEqual(a, b) }),
	}
	for _, ref := range e.parked {
		if name := string(ref.Name); !slices.Contains(r.Gateways, name) {
			r.Gateways = append(r.Gateways, name)
		}
	}
	return r
}

// copyName is the name of the route's copy, or what it begins with where the name is still to be generated.
func (e *evaluation) copyName() string {
	if e.route.Meta.Name == "" {
		return e.policy.CopyName(e.route.Namespace, e.route.Meta.GenerateName) + "*"
	}
	return e.policy.CopyName(e.route.Namespace, e.route.Meta.Name)
}

func (e *evaluation) grants() []GrantUse {
	var uses []GrantUse
	listed := map[string]int{} // by the name, which no other edge has
	for i := range e.references {
		ref := &e.references[i]
		if ref.Outcome != Grantable && ref.Outcome != Recorded {
			continue
		}
		if at, ok := listed[ref.Grant]; ok {
			uses[at].Unchanged = uses[at].Unchanged && ref.unchanged
			continue
		}
		listed[ref.Grant] = len(uses)
		uses = append(uses, GrantUse{
			Edge: e.policy.Granted(ref.edge), Name: ref.Grant, Consent: ref.Consent, Exists: ref.Outcome == Recorded, Unchanged: ref.unchanged,
		})
	}
	return uses
}

// attachment is how a parentRef refers to the system namespace.
type attachment uint8

const (
	// elsewhere: not a Gateway of the system namespace.
	elsewhere attachment = iota
	// direct: a Gateway of the system namespace.
	direct
	// misdirected: it names no namespace, the route's own has no such Gateway, and the system namespace has.
	misdirected
	// undecided: it would be misdirected or elsewhere, but a Gateway's existence is not known.
	undecided
)

type parentAttachment struct {
	attachment
	missing Fact
}

// parents is the attachment of each parentRef, and whether the policy governs the route.
func (p *Policy) parents(route *Route, facts Facts) ([]parentAttachment, Answer) {
	governed := AnswerOf(p.Scope == ScopeAll)
	parents := p.attachments(route, facts)
	for i := range parents {
		switch parents[i].attachment {
		case direct, misdirected:
			governed = Yes
		case undecided:
			if governed == No {
				governed = Unknown
			}
		}
	}
	return parents, governed
}

func (p *Policy) attachments(route *Route, facts Facts) []parentAttachment {
	parents := make([]parentAttachment, len(route.ParentRefs))
	for i := range route.ParentRefs {
		parents[i] = p.parent(route, &route.ParentRefs[i], facts)
	}
	return parents
}

func (p *Policy) parent(route *Route, ref *gwv1.ParentReference, facts Facts) parentAttachment {
	if !IsGatewayParent(ref) {
		return parentAttachment{}
	}
	explicit := ParentNamespace(ref)
	if explicit == p.SystemNamespace || (explicit == "" && route.Namespace == p.SystemNamespace) {
		return parentAttachment{attachment: direct}
	}
	if explicit != "" {
		return parentAttachment{}
	}
	name := string(ref.Name)
	own := facts.GatewayExists(route.Namespace, name)
	system := facts.GatewayExists(p.SystemNamespace, name)
	switch {
	case own == Yes || system == No:
		return parentAttachment{}
	case own == Unknown:
		return parentAttachment{undecided, Fact{FactGateway, route.Namespace, name}}
	case system == Unknown:
		return parentAttachment{undecided, Fact{FactGateway, p.SystemNamespace, name}}
	}
	return parentAttachment{attachment: misdirected}
}

// MayGovern reports whether the policy could govern the route, whatever Gateways exist. The reconcilers keep what such
// a route needs.
func (p *Policy) MayGovern(route Route) bool { return p.Governs(route, noFacts) != No }

// Governs reports whether the policy governs a stored route, given the facts.
func (p *Policy) Governs(route Route, facts Facts) Answer {
	if !p.kinds.Has(route.Kind) || p.exemptNamespaces.Has(route.Namespace) {
		return No
	}
	if parked, _ := p.Parked(route); parked != nil {
		return Yes
	}
	_, governed := p.parents(&route, facts)
	return governed
}

var noFacts = Snapshot{}
