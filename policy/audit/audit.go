package audit

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/routing"
)

// Run audits a cluster under a policy. It is deterministic and changes neither.
func Run(p *policy.Policy, c *Cluster) Report {
	a := newAuditor(p, c)
	a.survey()
	for _, check := range checks {
		a.check = check
		check.run(a)
	}
	return a.finish()
}

// auditor is the state of one Run.
type auditor struct {
	policy *policy.Policy
	// governs is the policy with --scope=governed, which tells parentRefs apart.
	governs *policy.Policy
	cluster *Cluster
	facts   *facts
	out     Report

	gateways  map[string]*gwv1.Gateway // by namespace/name
	services  map[string]*corev1.Service
	endpoints map[string]*readiness
	grants    []*grant
	// byName are the grants that name a target, wide those that name none.
	byName map[string][]*grant // by namespace/name
	wide   map[string][]*grant // by namespace

	// all are all routes, routes those that are audited.
	all    []routing.Route
	routes []*route
	byKey  map[Ref]*route
	// backends by Ref, for audited routes.
	backends map[Ref]*Backend

	check Check
	// worst is the worst severity of the findings about an object.
	worst map[Ref]Severity
	// told are the places of findings by what they say, repeated how often each was made again.
	told     map[statement]int
	repeated map[int]int
}

// statement is what a finding says, wherever in the object.
type statement struct {
	check          string
	object         Ref
	value, problem string
}

// readiness counts the endpoints of a Service.
type readiness struct{ ready, notReady int }

// grant is a ReferenceGrant with what routes use of it.
type grant struct {
	*gwv1.ReferenceGrant
	owner string
	uses  int
	// names are, for each entry of spec.to, what is referred to through it.
	names []map[string]bool
}

func (g *grant) ref() Ref { return refOf(policy.ReferenceGrant, g.Namespace, g.Name) }

// The owners of grants.
const (
	ownerSelf   = "routesteward"
	ownerAIBrix = "aibrix"
	ownerOther  = "other"
)

// The roles of routes.
const (
	roleRoute  = "route"
	roleSource = "source"
	roleCopy   = "copy"
)

// route is an audited route.
type route struct {
	routing.Route
	ref            Ref
	role           string
	origin         string
	governed       string
	model          string
	generation     int64
	status         []gwv1.RouteParentStatus
	parents        []*parent
	references     []*reference
	parkedMistaken string
}

// parent is a parentRef to a Gateway.
type parent struct {
	field       string
	ref         gwv1.ParentReference
	gateway     Ref
	object      *gwv1.Gateway // nil where it is not there
	governed    bool
	misdirected bool
	parked      bool
	attachment  routing.Attachment
	status      []gwv1.RouteParentStatus
	// explained are the reasons in status for which there is a finding already.
	explained map[string]bool
	state     State
}

// reference is one place that names a backend.
type reference struct {
	policy.Reference
	backend Ref
	port    int32
	weight  int32
	mirror  bool
	cross   bool
	// withheld is true where a copy has WithheldKind in the place of the backend; the reference is then that of its source.
	withheld  bool
	edge      policy.Edge
	judgement policy.Judgement
	// permits are the grants by which a gateway lets it pass.
	permits []*grant
	state   State
	words   string
}

// crosses reports whether a ReferenceGrant decides about it.
func (x *reference) crosses() bool { return x.cross && !x.withheld }

func newAuditor(p *policy.Policy, c *Cluster) *auditor {
	config := p.Config
	config.Scope = policy.ScopeGoverned
	governs, err := policy.New(config)
	if err != nil {
		governs = p // its Config was valid, and the scope is
	}
	a := &auditor{
		policy: p, governs: governs, cluster: c, facts: newFacts(c),
		gateways: map[string]*gwv1.Gateway{}, services: map[string]*corev1.Service{}, endpoints: map[string]*readiness{},
		byName: map[string][]*grant{}, wide: map[string][]*grant{}, byKey: map[Ref]*route{}, backends: map[Ref]*Backend{}, worst: map[Ref]Severity{},
		told: map[statement]int{}, repeated: map[int]int{},
	}
	a.out = Report{SchemaVersion: SchemaVersion, Source: c.Source, SystemNamespace: p.SystemNamespace}
	if !c.Time.IsZero() {
		a.out.Time = &c.Time
	}
	for _, o := range c.Gateways {
		a.gateways[o.Namespace+"/"+o.Name] = o
	}
	for _, o := range c.Services {
		a.services[o.Namespace+"/"+o.Name] = o
	}
	for _, o := range c.EndpointSlices {
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
	for _, o := range c.Grants {
		a.addGrant(o)
	}
	slices.SortFunc(a.grants, func(x, y *grant) int {
		return cmp.Or(strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Name, y.Name))
	})
	return a
}

func (a *auditor) system() string { return a.policy.SystemNamespace }

// facts answers the policy's questions. Everything of its kinds is known: without them there is no audit.
type facts struct {
	policy.Snapshot
	managed map[string]*gwv1.ReferenceGrant // by namespace/name
	foreign map[string][]*gwv1.ReferenceGrant
}

func newFacts(c *Cluster) *facts {
	f := &facts{Snapshot: c.facts(), managed: map[string]*gwv1.ReferenceGrant{}, foreign: map[string][]*gwv1.ReferenceGrant{}}
	for _, o := range c.Grants {
		if policy.IsManaged(o) {
			f.managed[o.Namespace+"/"+o.Name] = o
		} else {
			f.foreign[o.Namespace] = append(f.foreign[o.Namespace], o)
		}
	}
	return f
}

// ManagedGrant implements policy.Facts without going through all grants of the namespace.
func (f *facts) ManagedGrant(namespace, name string) (*gwv1.ReferenceGrant, bool) {
	return f.managed[namespace+"/"+name], true
}

// ForeignGrants implements policy.Facts.
func (f *facts) ForeignGrants(namespace, _ string) ([]*gwv1.ReferenceGrant, bool) {
	return f.foreign[namespace], true
}

func (a *auditor) addGrant(o *gwv1.ReferenceGrant) {
	g := &grant{ReferenceGrant: o, owner: ownerOther, names: make([]map[string]bool, len(o.Spec.To))}
	switch {
	case policy.IsManaged(o):
		g.owner = ownerSelf
	case o.Name == aibrixGrantName(a.system(), o.Namespace):
		g.owner = ownerAIBrix
	}
	a.grants = append(a.grants, g)
	names := map[string]bool{}
	for _, to := range o.Spec.To {
		if to.Name == nil {
			a.wide[o.Namespace] = append(a.wide[o.Namespace], g)
			return
		}
		names[string(*to.Name)] = true
	}
	for name := range names {
		key := o.Namespace + "/" + name
		a.byName[key] = append(a.byName[key], g)
	}
}

// permits are the grants by which a gateway lets an edge pass: it knows nothing of consent.
func (a *auditor) permits(edge policy.Edge) []*grant {
	var found []*grant
	for _, candidates := range [][]*grant{a.byName[edge.Namespace+"/"+edge.Name], a.wide[edge.Namespace]} {
		for _, g := range candidates {
			if policy.Permits(g.ReferenceGrant, edge, edge.FromNamespace) {
				found = append(found, g)
			}
		}
	}
	slices.SortFunc(found, func(x, y *grant) int { return strings.Compare(x.Name, y.Name) })
	return found
}

// survey looks at everything once; the checks read what it notes.
func (a *auditor) survey() {
	for _, o := range a.cluster.HTTPRoutes {
		r, _ := routing.RouteOf(o)
		a.surveyRoute(r, o.Status.Parents, o.Spec.Rules, nil)
	}
	for _, o := range a.cluster.GRPCRoutes {
		r, _ := routing.RouteOf(o)
		a.surveyRoute(r, o.Status.Parents, nil, o.Spec.Rules)
	}
	slices.SortFunc(a.routes, func(x, y *route) int { return compareRefs(x.ref, y.ref) })
	for _, r := range a.routes {
		a.surveyWithheld(r)
	}
}

// surveyWithheld says of the withheld references of a copy what they would refer to, which its source knows.
func (a *auditor) surveyWithheld(r *route) {
	for _, x := range r.references {
		if !x.withheld {
			continue
		}
		if source := a.sourceOf(r); source != nil && source.role == roleSource {
			served := a.policy.Served(source.Route.Route)
			for ref := range served.References() {
				if edge, cross := policy.EdgeOf(served, ref); cross && ref.Path() == x.Path() {
					x.Reference, x.backend = ref, Ref{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
					x.cross, x.edge, x.judgement = true, edge, a.policy.Judge(edge, a.facts, false)
				}
			}
		}
		a.surveyBackend(x.backend)
	}
}

func (a *auditor) surveyRoute(view routing.Route, status []gwv1.RouteParentStatus, http []gwv1.HTTPRouteRule, grpc []gwv1.GRPCRouteRule) {
	a.all = append(a.all, view)
	r := &route{Route: view, ref: refOf(view.Kind, view.Namespace, view.Meta.Name), role: roleRoute, origin: view.Namespace, status: status, generation: view.Meta.Generation}
	meta := view.Meta
	switch {
	case a.policy.IsCopy(view.Route):
		r.role, r.origin = roleCopy, cmp.Or(meta.Labels[policy.OriginLabel], view.Namespace)
	case a.policy.IsParked(view.Route):
		r.role = roleSource
	}
	a.countUses(r)
	if !a.policy.Judges(view.Kind) || slices.Contains(a.policy.ExemptNamespaces, view.Namespace) || meta.DeletionTimestamp != nil {
		return
	}
	if r.role == roleSource {
		a.parkedParents(r)
	}
	for i := range view.ParentRefs {
		if policy.IsGatewayParent(&view.ParentRefs[i]) {
			a.surveyParent(r, fmt.Sprintf("spec.parentRefs[%d]", i), view.ParentRefs[i])
		}
	}
	governed := slices.ContainsFunc(r.parents, func(p *parent) bool { return p.governed })
	if !governed && r.role == roleRoute && a.policy.Governs(view.Route, a.facts) != policy.Yes {
		return
	}
	r.governed = "yes"
	if !slices.ContainsFunc(r.parents, func(p *parent) bool { return p.governed && !p.misdirected }) && slices.ContainsFunc(r.parents, func(p *parent) bool { return p.misdirected }) {
		r.governed = "misdirected"
	}
	r.model = modelOf(view.Route, matchedModel(http))
	a.surveyReferences(r, http, grpc)
	a.routes = append(a.routes, r)
	a.byKey[r.ref] = r
}

func (a *auditor) parkedParents(r *route) {
	refs, err := a.policy.Parked(r.Route.Route)
	if err != nil {
		r.parkedMistaken = err.Error()
		return
	}
	for i, ref := range refs {
		p := &parent{
			field: fmt.Sprintf("metadata.annotations[%s][%d]", policy.ParkedAnnotation, i), ref: ref, parked: true, governed: true, state: StateOK,
			gateway: refOf(policy.Gateway, policy.ParentNamespace(&ref), string(ref.Name)), explained: map[string]bool{},
		}
		p.object = a.gateways[p.gateway.Namespace+"/"+p.gateway.Name]
		p.status = statusOf(r, &ref)
		r.parents = append(r.parents, p)
	}
}

func (a *auditor) surveyParent(r *route, field string, ref gwv1.ParentReference) {
	p := &parent{field: field, ref: ref, explained: map[string]bool{}, state: StateOK}
	alone := r.Route.Route
	alone.ParentRefs = []gwv1.ParentReference{ref}
	p.governed = a.governs.Governs(alone, a.facts) == policy.Yes
	namespace := cmp.Or(policy.ParentNamespace(&ref), r.Namespace)
	if p.governed && namespace != a.system() {
		p.misdirected, namespace = true, a.system()
	}
	p.gateway = refOf(policy.Gateway, namespace, string(ref.Name))
	p.object = a.gateways[namespace+"/"+string(ref.Name)]
	if p.object != nil {
		p.attachment = routing.Attach(r.Route, &ref, p.object, a.labels)
	}
	p.status = statusOf(r, &ref)
	r.parents = append(r.parents, p)
}

func (a *auditor) labels(namespace string) (map[string]string, bool) {
	i, found := slices.BinarySearchFunc(a.sortedNamespaces(), namespace, func(n *corev1.Namespace, name string) int { return strings.Compare(n.Name, name) })
	if !found {
		return nil, false
	}
	return a.cluster.Namespaces[i].Labels, true
}

// sortedNamespaces sorts them when they are first asked for.
func (a *auditor) sortedNamespaces() []*corev1.Namespace {
	byName := func(x, y *corev1.Namespace) int { return strings.Compare(x.Name, y.Name) }
	if !slices.IsSortedFunc(a.cluster.Namespaces, byName) {
		sorted := *a.cluster
		sorted.Namespaces = slices.SortedFunc(slices.Values(a.cluster.Namespaces), byName)
		a.cluster = &sorted
	}
	return a.cluster.Namespaces
}

// statusOf are the entries of status.parents about a parentRef.
func statusOf(r *route, ref *gwv1.ParentReference) []gwv1.RouteParentStatus {
	var found []gwv1.RouteParentStatus
	for _, s := range r.status {
		if sameParent(&s.ParentRef, ref, r.Namespace) {
			found = append(found, s)
		}
	}
	return found
}

func sameParent(x, y *gwv1.ParentReference, namespace string) bool {
	return policy.IsGatewayParent(x) == policy.IsGatewayParent(y) && x.Name == y.Name &&
		cmp.Or(policy.ParentNamespace(x), namespace) == cmp.Or(policy.ParentNamespace(y), namespace) &&
		valueOf(x.SectionName) == valueOf(y.SectionName) && valueOf(x.Port) == valueOf(y.Port)
}

func valueOf[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func (a *auditor) surveyReferences(r *route, http []gwv1.HTTPRouteRule, grpc []gwv1.GRPCRouteRule) {
	details := detailsOf(http, grpc)
	for ref := range r.References() {
		x := &reference{
			Reference: ref, backend: Ref{Group: ref.Group, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}, state: StateOK,
			port: details[ref.Path()].port, weight: details[ref.Path()].weight, mirror: strings.HasSuffix(ref.Path(), "requestMirror.backendRef"),
		}
		r.references = append(r.references, x)
		if r.role == roleCopy && ref.Group == policy.WithheldGroup && ref.Kind == policy.WithheldKind {
			x.withheld = true
			continue
		}
		if edge, cross := policy.EdgeOf(r.Route.Route, ref); cross && r.role != roleSource {
			edge.Origin = r.origin
			x.cross, x.edge, x.judgement, x.permits = true, edge, a.policy.Judge(edge, a.facts, false), a.permits(edge)
		}
		a.surveyBackend(x.backend)
	}
}

// detail is what the policy does not read of a backendRef.
type detail struct{ port, weight int32 }

// detailsOf has them by the path of the reference.
func detailsOf(http []gwv1.HTTPRouteRule, grpc []gwv1.GRPCRouteRule) map[string]detail {
	details := map[string]detail{}
	note := func(path string, ref gwv1.BackendObjectReference, weight *int32) {
		d := detail{weight: 1, port: int32(valueOf(ref.Port))}
		if weight != nil {
			d.weight = *weight
		}
		details[path] = d
	}
	filters := func(path string, filters []gwv1.HTTPRouteFilter) {
		for k, f := range filters {
			if f.RequestMirror != nil {
				note(fmt.Sprintf("%s.filters[%d].requestMirror.backendRef", path, k), f.RequestMirror.BackendRef, nil)
			}
			if f.ExternalAuth != nil {
				note(fmt.Sprintf("%s.filters[%d].externalAuth.backendRef", path, k), f.ExternalAuth.BackendRef, nil)
			}
		}
	}
	for i, rule := range http {
		path := fmt.Sprintf("spec.rules[%d]", i)
		filters(path, rule.Filters)
		for j, b := range rule.BackendRefs {
			backend := fmt.Sprintf("%s.backendRefs[%d]", path, j)
			note(backend, b.BackendObjectReference, b.Weight)
			filters(backend, b.Filters)
		}
	}
	grpcFilters := func(path string, filters []gwv1.GRPCRouteFilter) {
		for k, f := range filters {
			if f.RequestMirror != nil {
				note(fmt.Sprintf("%s.filters[%d].requestMirror.backendRef", path, k), f.RequestMirror.BackendRef, nil)
			}
		}
	}
	for i, rule := range grpc {
		path := fmt.Sprintf("spec.rules[%d]", i)
		grpcFilters(path, rule.Filters)
		for j, b := range rule.BackendRefs {
			backend := fmt.Sprintf("%s.backendRefs[%d]", path, j)
			note(backend, b.BackendObjectReference, b.Weight)
			grpcFilters(backend, b.Filters)
		}
	}
	return details
}

// matchedModel is the model that a route asks of requests in AIBrix's header, or "" where there is none or more than one.
func matchedModel(rules []gwv1.HTTPRouteRule) string {
	model := ""
	for _, rule := range rules {
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

// surveyBackend notes a backend, with its endpoints where they are known.
func (a *auditor) surveyBackend(ref Ref) {
	if a.backends[ref] != nil {
		return
	}
	b := &Backend{Ref: ref, Exists: "unknown", State: StateUnknown}
	a.backends[ref] = b
	if ref.Group != "" || ref.Kind != "Service" {
		b.Note = "only Services are looked at"
		return
	}
	if reason := a.cluster.notRead("services", ref.Namespace, ref.Name); reason != "" {
		b.Note = "not known: " + reason
		return
	}
	service := a.services[ref.Namespace+"/"+ref.Name]
	if service == nil {
		b.Exists, b.State = "no", StateBroken
		return
	}
	b.Exists, b.State = "yes", StateOK
	switch reason := a.cluster.notRead("endpointslices", ref.Namespace, ""); {
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		b.State, b.Note = StateUnknown, "is an ExternalName: it has no endpoints of its own, and many gateways refuse it"
	case reason != "":
		b.State, b.Note = StateUnknown, "endpoints not known: "+reason
	default:
		if r := a.endpoints[ref.Namespace+"/"+ref.Name]; r != nil {
			b.Ready, b.NotReady = r.ready, r.notReady
		}
	}
}

// countUses notes what a route, audited or not, uses of the grants.
func (a *auditor) countUses(r *route) {
	for ref := range r.References() {
		edge, cross := policy.EdgeOf(r.Route.Route, ref)
		if !cross {
			continue
		}
		for _, g := range a.permits(edge) {
			g.uses++
			for i, to := range g.Spec.To {
				if string(to.Group) == edge.Group && string(to.Kind) == edge.Kind && to.Name == nil {
					if g.names[i] == nil {
						g.names[i] = map[string]bool{}
					}
					g.names[i][edge.Name] = true
				}
			}
		}
	}
}

// found adds a finding of the running check; the severity is the check's where f has none.
func (a *auditor) found(f Finding) {
	f.Check = a.check.ID
	if f.Severity == "" {
		f.Severity = a.check.Severity
	}
	f.Fails = f.Severity == SeverityError
	// One cause in many places of an object is told once.
	key := statement{f.Check, f.Object, f.Value, f.Problem}
	if i, told := a.told[key]; told {
		a.repeated[i]++
		return
	}
	a.told[key] = len(a.out.Findings)
	sum := sha256.Sum256([]byte(strings.Join([]string{f.Check, f.Object.String(), f.Field, f.Value}, "\x00")))
	f.Fingerprint = hex.EncodeToString(sum[:16])
	a.out.Findings = append(a.out.Findings, f)
	if worse(f.Severity, a.worst[f.Object]) {
		a.worst[f.Object] = f.Severity
	}
}

// complete writes the messages, when it is known how often each finding was made.
func (a *auditor) complete() {
	for i := range a.out.Findings {
		f := &a.out.Findings[i]
		if more := a.repeated[i]; more > 0 {
			f.Problem += fmt.Sprintf("; the same at %s", plural(more, "other place", "other places"))
		}
		f.Problem, f.Value = policy.Printable(f.Problem), policy.Printable(f.Value)
		f.Message = policy.Printable(f.String())
	}
}

// String is the finding on one line: object, field, value, problem, next step and check.
func (f Finding) String() string {
	text := f.Field + ": "
	if f.Value != "" {
		text += f.Value + ": "
	}
	text += f.Problem
	if f.Next != "" {
		text += "; to do: " + f.Next
	}
	return fmt.Sprintf("%s: %s [%s]", f.Object, text, f.Check)
}

func worse(a, b Severity) bool { return severityRank(a) < severityRank(b) }

func severityRank(s Severity) int {
	switch s {
	case SeverityError:
		return 0
	case SeverityWarning:
		return 1
	case SeverityInfo:
		return 2
	}
	return 3
}

func compareRefs(x, y Ref) int {
	return cmp.Or(-strings.Compare(x.Kind, y.Kind), strings.Compare(x.Group, y.Group), strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Name, y.Name))
}
