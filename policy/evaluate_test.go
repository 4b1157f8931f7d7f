package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

func TestGoverns(t *testing.T) {
	config := policy.DefaultConfig()
	config.Kinds, config.ExemptNamespaces = []policy.Kind{policy.HTTPRoute}, []string{"kube-system"}
	p := newPolicy(t, config)
	parent := func(name, namespace string) gwv1.ParentReference {
		ref := gwv1.ParentReference{Name: gwv1.ObjectName(name)}
		if namespace != "" {
			ref.Namespace = new(gwv1.Namespace(namespace))
		}
		return ref
	}
	direct, elsewhere, implicit := parent("aibrix-eg", "aibrix-system"), parent("x", "infra"), parent("mine", "")
	known := policy.Snapshot{Gateways: map[string]bool{"aibrix-system/mine": true}}
	for name, tc := range map[string]struct {
		namespace   string
		annotations map[string]string
		parents     []gwv1.ParentReference
		facts       policy.Facts
		want        policy.Answer
	}{
		"direct":                      {"team-a", nil, []gwv1.ParentReference{elsewhere, direct}, known, policy.Yes},
		"elsewhere":                   {"team-a", nil, []gwv1.ParentReference{elsewhere}, known, policy.No},
		"no parents":                  {"team-a", nil, nil, known, policy.No},
		"misdirected":                 {"team-a", nil, []gwv1.ParentReference{implicit}, known, policy.Yes},
		"unknown":                     {"team-a", nil, []gwv1.ParentReference{implicit, elsewhere}, policy.Snapshot{}, policy.Unknown},
		"unknown, and direct":         {"team-a", nil, []gwv1.ParentReference{implicit, direct}, policy.Snapshot{}, policy.Yes},
		"direct, and unknown":         {"team-a", nil, []gwv1.ParentReference{direct, implicit}, policy.Snapshot{}, policy.Yes},
		"parked":                      {"team-a", map[string]string{policy.ParkedAnnotation: parkedOnce}, nil, known, policy.Yes},
		"parked, exempt":              {"kube-system", map[string]string{policy.ParkedAnnotation: parkedOnce}, nil, known, policy.No},
		"annotated, and not readable": {"team-a", map[string]string{policy.ParkedAnnotation: "x"}, []gwv1.ParentReference{elsewhere}, known, policy.No},
		"exempt":                      {"kube-system", nil, []gwv1.ParentReference{direct}, known, policy.No},
		"in the system namespace":     {"aibrix-system", nil, []gwv1.ParentReference{implicit}, policy.Snapshot{}, policy.Yes},
		"in the system namespace, on another's Gateway": {"aibrix-system", nil, []gwv1.ParentReference{elsewhere}, known, policy.No},
	} {
		meta := metav1.ObjectMeta{Namespace: tc.namespace, Name: "r", Annotations: tc.annotations}
		route := &gwv1.HTTPRoute{ObjectMeta: meta, Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: tc.parents}}}
		require.Equal(t, tc.want, p.Governs(routeOf(t, route), tc.facts), name)
		require.Equal(t, p.Governs(routeOf(t, route), policy.Snapshot{}) != policy.No, p.MayGovern(routeOf(t, route)), name)
		grpc := &gwv1.GRPCRoute{ObjectMeta: meta, Spec: gwv1.GRPCRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: tc.parents}}}
		require.Equal(t, policy.No, p.Governs(routeOf(t, grpc), tc.facts), "%s: a kind that is not evaluated", name)
		require.False(t, p.MayGovern(routeOf(t, grpc)))
	}
	all := config
	all.Scope = policy.ScopeAll
	route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a"}, Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{implicit}}}}
	require.Equal(t, policy.Yes, newPolicy(t, all).Governs(routeOf(t, route), policy.Snapshot{}))
}

// The API server shows the names of conditions in errors and metrics.
func TestNamesOfConditions(t *testing.T) {
	config := policy.DefaultConfig()
	config.Kinds, config.Self, config.ExemptGroups, config.ExemptNamespaces = []policy.Kind{policy.HTTPRoute}, "self", []string{"g"}, []string{"kube-system"}
	p := newPolicy(t, config)
	exempt := []string{"not-being-deleted", "not-an-exempt-user", "not-in-an-exempt-group"}
	names := func(kind policy.Kind) (names []string) {
		for _, condition := range p.MatchConditions(kind) {
			names = append(names, condition.Name)
		}
		return names
	}
	route := append(append([]string{}, exempt...), "not-in-an-exempt-namespace", "evaluated-kind", "needs-a-decision")
	require.Equal(t, route, names(policy.HTTPRoute))
	require.Equal(t, route, names(policy.GRPCRoute))
	require.Equal(t, append(append([]string{}, exempt...), "not-in-an-exempt-namespace", "needs-a-decision"), names(policy.Gateway))
	require.Equal(t, append(append([]string{}, exempt...), "needs-a-decision"), names(policy.ReferenceGrant))
	last := p.MutatingConditions()[5]
	require.Equal(t, "may-be-relocated", last.Name)

	p = plain // which exempts nobody and evaluates both kinds
	require.Equal(t, []string{"not-being-deleted", "needs-a-decision"}, names(policy.HTTPRoute))
	require.Equal(t, []string{"not-being-deleted", "needs-a-decision"}, names(policy.Gateway))
	require.Equal(t, []string{"not-being-deleted", "needs-a-decision"}, names(policy.ReferenceGrant))
	require.Len(t, p.MutatingConditions(), 2)
}

// A route that comes under the policy by an update is evaluated as a new one; what it referred to before proves nothing.
func TestReferencesOfARouteThatWasNotGoverned(t *testing.T) {
	config := policy.DefaultConfig()
	config.Outside = policy.OutsideWarn
	route := func(parent string) *gwv1.HTTPRoute {
		r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "r"}}
		r.Spec.ParentRefs = []gwv1.ParentReference{{Name: "gateway", Namespace: new(gwv1.Namespace(parent))}}
		backend := gwv1.HTTPBackendRef{}
		backend.Name, backend.Namespace = "llama", new(gwv1.Namespace("models"))
		r.Spec.Rules = []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{backend}}}
		return r
	}
	facts := policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{"models": {Exists: policy.Yes}}, Grants: map[string][]*gwv1.ReferenceGrant{}, Writers: map[string]bool{},
	}
	req := policy.Request{Operation: policy.Update, Kind: policy.HTTPRoute, Namespace: "team-a", Object: route("aibrix-system"), OldObject: route("infra")}
	d := newPolicy(t, config).Evaluate(req, facts)
	require.Len(t, d.Denied(), 1)
	require.Equal(t, "cross-namespace-reference", d.Denied()[0].Rule)
	req.OldObject = route("aibrix-system")
	require.Empty(t, newPolicy(t, config).Evaluate(req, facts).Denied())
}

// What a relocated copy refers to is evaluated in its source, also while somebody takes its label away, or forges it.
func TestReferencesOfACopyAreItsSources(t *testing.T) {
	route := func(manager string) *gwv1.HTTPRoute {
		r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "aibrix-system", Name: "r", Labels: map[string]string{policy.ManagedByLabel: manager}}}
		r.Spec.ParentRefs = []gwv1.ParentReference{{Name: "gateway"}}
		backend := gwv1.HTTPBackendRef{}
		backend.Name, backend.Namespace = "llama", new(gwv1.Namespace("models"))
		r.Spec.Rules = []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{backend}}}
		return r
	}
	facts := policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{"models": {Exists: policy.Yes}}, Grants: map[string][]*gwv1.ReferenceGrant{}, Writers: map[string]bool{},
	}
	rules := func(before, now string) (rules []string) {
		req := policy.Request{Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: "aibrix-system", Object: route(now)}
		if before != "" {
			req.Operation, req.OldObject = policy.Update, route(before)
			req.OldObject.(*gwv1.HTTPRoute).Spec.Rules = nil
		}
		for _, f := range plain.Evaluate(req, facts).Denied() {
			rules = append(rules, f.Rule)
		}
		return rules
	}
	require.Equal(t, []string{"cross-namespace-reference"}, rules("", "helm"))
	require.Equal(t, []string{"managed-object-changed"}, rules("", policy.ManagedBy))
	require.Equal(t, []string{"managed-object-changed"}, rules(policy.ManagedBy, "helm"))
	require.Equal(t, []string{"managed-object-changed"}, rules("helm", policy.ManagedBy))
	require.Equal(t, []string{"cross-namespace-reference"}, rules("helm", "helm"))
}

func TestExemptions(t *testing.T) {
	config := policy.DefaultConfig()
	config.Kinds, config.Self = []policy.Kind{policy.HTTPRoute}, "self"
	config.ExemptUsers, config.ExemptGroups, config.ExemptNamespaces = []string{"admin"}, []string{"break-glass"}, []string{"kube-system"}
	p := newPolicy(t, config)
	meta := metav1.ObjectMeta{Namespace: "team-a", Name: "r"}
	for name, tc := range map[string]struct {
		change func(*policy.Request)
		want   string
	}{
		"nobody":              {func(r *policy.Request) {}, ""},
		"a user without name": {func(r *policy.Request) { r.User.Name = "" }, ""},
		"routesteward itself": {func(r *policy.Request) { r.User.Name = "self" }, policy.ExemptSelf},
		"an exempt user":      {func(r *policy.Request) { r.User.Name = "admin" }, policy.ExemptUser},
		"an exempt group":     {func(r *policy.Request) { r.User.Groups = []string{"devs", "break-glass"} }, policy.ExemptGroup},
		"an exempt namespace": {func(r *policy.Request) { r.Namespace = "kube-system" }, policy.ExemptNamespace},
		"a grant in an exempt namespace": {func(r *policy.Request) {
			r.Kind, r.Namespace, r.Object = policy.ReferenceGrant, "kube-system", &gwv1.ReferenceGrant{}
		}, ""},
		"a kind that is not evaluated": {func(r *policy.Request) { r.Kind, r.Object = policy.GRPCRoute, &gwv1.GRPCRoute{ObjectMeta: meta} }, policy.ExemptKind},
		"a deletion":                   {func(r *policy.Request) { r.Operation, r.OldObject, r.Object = policy.Delete, r.Object, nil }, policy.ExemptDeleting},
		"an object on its way out": {func(r *policy.Request) {
			r.Object.(*gwv1.HTTPRoute).DeletionTimestamp = new(metav1.Unix(1, 0))
		}, policy.ExemptDeleting},
		"no Gateway": {func(r *policy.Request) { r.Object = (*gwv1.Gateway)(nil) }, ""},
		"no grant":   {func(r *policy.Request) { r.Kind, r.Object = policy.ReferenceGrant, (*gwv1.ReferenceGrant)(nil) }, ""},
		"no object":  {func(r *policy.Request) { r.Object = nil }, ""},
	} {
		req := policy.Request{Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: "team-a", User: policy.User{Name: "jane"}, Object: &gwv1.HTTPRoute{ObjectMeta: meta}}
		tc.change(&req)
		d := p.Evaluate(req, policy.Snapshot{})
		require.Equal(t, tc.want, d.Exempt, name)
		require.True(t, d.Allowed, name)
	}
}

// Only an update has a stored object, and it is in the request's namespace too.
func TestWhatAnUpdateLeavesAsItWas(t *testing.T) {
	backend := gwv1.HTTPBackendRef{}
	backend.Name, backend.Namespace = "llama", new(gwv1.Namespace("models"))
	route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
	route.Spec.ParentRefs = []gwv1.ParentReference{{Name: "aibrix-eg"}}
	route.Spec.Rules = []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{backend}}}
	facts := policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{"models": {Exists: policy.Yes}}, Grants: map[string][]*gwv1.ReferenceGrant{}, Writers: map[string]bool{},
	}
	req := policy.Request{Operation: policy.Update, Kind: policy.HTTPRoute, Namespace: "aibrix-system", Object: route, OldObject: route.DeepCopy()}
	require.Equal(t, "warn", plain.Evaluate(req, facts).Verdict())
	req.Operation = policy.Create
	require.Equal(t, "deny", plain.Evaluate(req, facts).Verdict())
	for _, old := range []runtime.Object{nil, (*gwv1.HTTPRoute)(nil), (*gwv1.GRPCRoute)(nil), &gwv1.Gateway{}} {
		req.Operation, req.OldObject = policy.Update, old
		require.Equal(t, "deny", plain.Evaluate(req, facts).Verdict())
	}
}

// That a grant cannot be made is forgiven only where nothing new would depend on it.
func TestGrantsOfUnchangedReferences(t *testing.T) {
	config := policy.DefaultConfig()
	config.GrantScope = policy.GrantScopeNamespace
	route := func(backends ...string) *gwv1.HTTPRoute {
		r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
		r.Spec.ParentRefs = []gwv1.ParentReference{{Name: "aibrix-eg"}}
		var refs []gwv1.HTTPBackendRef
		for _, name := range backends {
			ref := gwv1.HTTPBackendRef{}
			ref.Name, ref.Namespace = gwv1.ObjectName(name), new(gwv1.Namespace("models"))
			refs = append(refs, ref)
		}
		r.Spec.Rules = []gwv1.HTTPRouteRule{{BackendRefs: refs}}
		return r
	}
	facts := policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{"models": {Exists: policy.Yes, Grants: policy.GrantsAllow}}, Grants: map[string][]*gwv1.ReferenceGrant{},
	}
	for _, tc := range []struct {
		before, now []string
		unchanged   bool
	}{
		{[]string{"llama", "qwen"}, []string{"qwen", "llama"}, true},
		{[]string{"llama"}, []string{"llama", "qwen"}, false},
		{[]string{"llama"}, []string{"qwen", "llama"}, false},
		{[]string{"phi"}, []string{"qwen", "llama"}, false},
	} {
		d := newPolicy(t, config).Evaluate(policy.Request{
			Operation: policy.Update, Kind: policy.HTTPRoute, Namespace: "aibrix-system", Object: route(tc.now...), OldObject: route(tc.before...),
		}, facts)
		require.Len(t, d.Grants, 1)
		require.Equal(t, tc.unchanged, d.Grants[0].Unchanged, "%v, then %v", tc.before, tc.now)
	}
}

func TestGatewaysThatWereThereStay(t *testing.T) {
	config := policy.DefaultConfig()
	config.GatewayClasses = []string{"aibrix-eg", "other"}
	class := func(name string) *gwv1.Gateway {
		return &gwv1.Gateway{Spec: gwv1.GatewaySpec{GatewayClassName: gwv1.ObjectName(name)}}
	}
	for _, tc := range []struct {
		operation policy.Operation
		old       runtime.Object
		want      string
	}{
		{policy.Update, class("aibrix-eg"), "warn"},
		{policy.Update, class("other"), "deny"},
		{policy.Update, nil, "deny"},
		{policy.Update, (*gwv1.Gateway)(nil), "deny"},
		{policy.Create, class("aibrix-eg"), "deny"},
		{policy.Create, nil, "deny"},
	} {
		d := newPolicy(t, config).Evaluate(policy.Request{
			Operation: tc.operation, Kind: policy.Gateway, Namespace: "team-a", Object: class("aibrix-eg"), OldObject: tc.old,
		}, policy.Snapshot{})
		require.Equal(t, tc.want, d.Verdict(), "%+v", tc)
	}
}

// A grant that routesteward manages is one at an update if it was one before.
func TestManagedGrantsThatWereThereStay(t *testing.T) {
	e := policy.Edge{Origin: "team-a", FromKind: policy.HTTPRoute, FromNamespace: "aibrix-system", Namespace: "models", Kind: "Service", Name: "llama"}
	managed, changed, mine := e.Grant("x"), e.Grant("x"), e.Grant("x")
	changed.Spec.To[0].Name = nil
	delete(mine.Labels, policy.ManagedByLabel)
	theirs, moved, reworded, excused := e.Grant("x"), e.Grant("x"), e.Grant("x"), e.Grant("y")
	theirs.Annotations["a"], theirs.Finalizers = "b", []string{"theirs"}
	moved.Labels[policy.OriginLabel], reworded.Annotations[policy.EdgeAnnotation] = "team-b", "other words"
	const byHand, made = "this ReferenceGrant is managed by routesteward and is not changed by hand", "only routesteward creates ReferenceGrants with this label"
	for name, tc := range map[string]struct {
		operation   policy.Operation
		object, old runtime.Object
		problem     string
		verdict     string
	}{
		"as it was":            {policy.Update, managed, managed, byHand, "warn"},
		"changed":              {policy.Update, changed, managed, byHand, "deny"},
		"what is out of scope": {policy.Update, theirs, managed, byHand, "warn"},
		"another origin":       {policy.Update, moved, managed, byHand, "deny"},
		"other words":          {policy.Update, reworded, managed, byHand, "deny"},
		"another consent":      {policy.Update, excused, managed, byHand, "deny"},
		"label taken away":     {policy.Update, mine, managed, byHand, "deny"},
		"label put on":         {policy.Update, managed, mine, made, "deny"},
		"label put on nothing": {policy.Update, managed, nil, made, "deny"},
		"not managed":          {policy.Update, mine, mine, "", "allow"},
		"made":                 {policy.Create, managed, managed, made, "deny"},
		"no grant before":      {policy.Update, managed, (*gwv1.ReferenceGrant)(nil), made, "deny"},
		"no grant now":         {policy.Update, (*gwv1.ReferenceGrant)(nil), managed, "", "allow"},
	} {
		d := plain.Evaluate(policy.Request{Operation: tc.operation, Kind: policy.ReferenceGrant, Namespace: "models", Object: tc.object, OldObject: tc.old}, policy.Snapshot{})
		require.Equal(t, tc.verdict, d.Verdict(), name)
		if tc.problem == "" {
			require.Empty(t, d.Findings, name)
			continue
		}
		require.Len(t, d.Findings, 1, name)
		require.Equal(t, tc.problem, d.Findings[0].Problem, name)
	}
}

func TestCopiesAreNotChangedByHand(t *testing.T) {
	meta := metav1.ObjectMeta{
		Name: "llama-router", Labels: map[string]string{policy.ManagedByLabel: policy.ManagedBy}, Annotations: map[string]string{policy.SourceAnnotation: "team-a/llama-router"},
	}
	http, grpc := &gwv1.HTTPRoute{ObjectMeta: meta}, &gwv1.GRPCRoute{ObjectMeta: meta}
	finding := func(old, object runtime.Object) policy.Finding {
		route := routeOf(t, object)
		d := plain.Evaluate(policy.Request{Operation: policy.Update, Kind: route.Kind, Namespace: "aibrix-system", Object: object, OldObject: old}, policy.Snapshot{})
		require.Len(t, d.Findings, 1)
		return d.Findings[0]
	}
	for _, kind := range []struct {
		copied  runtime.Object
		changed func() (runtime.Object, *metav1.ObjectMeta)
		spec    runtime.Object
		command string
	}{
		{http, func() (runtime.Object, *metav1.ObjectMeta) { r := http.DeepCopy(); return r, &r.ObjectMeta },
			&gwv1.HTTPRoute{ObjectMeta: meta, Spec: gwv1.HTTPRouteSpec{Hostnames: []gwv1.Hostname{"x"}}}, "kubectl edit httproute -n team-a llama-router"},
		{grpc, func() (runtime.Object, *metav1.ObjectMeta) { r := grpc.DeepCopy(); return r, &r.ObjectMeta },
			&gwv1.GRPCRoute{ObjectMeta: meta, Spec: gwv1.GRPCRouteSpec{Hostnames: []gwv1.Hostname{"x"}}}, "kubectl edit grpcroute -n team-a llama-router"},
	} {
		same, itsMeta := kind.changed()
		itsMeta.Finalizers = []string{"theirs"}
		f := finding(kind.copied, same)
		require.Equal(t, policy.SeverityWarn, f.Severity)
		require.Equal(t, "change its source; what is changed there is copied here: "+kind.command, f.Fix)

		labeled, itsMeta := kind.changed()
		itsMeta.Labels["a"] = "b"
		require.Equal(t, policy.SeverityDeny, finding(kind.copied, labeled).Severity)
		annotated, itsMeta := kind.changed()
		itsMeta.Annotations["a"] = "b"
		require.Equal(t, policy.SeverityDeny, finding(kind.copied, annotated).Severity)
		require.Equal(t, policy.SeverityDeny, finding(kind.copied, kind.spec).Severity)
	}
	require.Equal(t, policy.SeverityDeny, finding(http, grpc).Severity)
	require.Equal(t, policy.SeverityDeny, finding(grpc, http).Severity)

	// Whoever wrote the annotation before it was protected could have a command in it.
	for source, of := range map[string]string{"": "another route", "team-a": "team-a", "team-a/A;B": "team-a/A;B", "A;B/r": "A;B/r", "/r": "/r", "team-a/": "team-a/"} {
		old := http.DeepCopy()
		old.Annotations[policy.SourceAnnotation] = source
		f := finding(old, http)
		require.Equal(t, "this HTTPRoute is the relocated copy of "+of+" and is not changed by hand", f.Problem)
		require.Equal(t, "change its source; what is changed there is copied here", f.Fix, source)
	}
}

func TestReservedNames(t *testing.T) {
	for _, tc := range []struct {
		pattern, name, generated string
		field, value             string
	}{
		{"x-*", "x-1", "", "metadata.name", "x-1"},
		{"x-*", "x-1", "x-", "metadata.name", "x-1"},
		{"x-*", "", "x-", "metadata.generateName", "x-"},
		{"x-*", "", "y-", "", ""},
		{"x-*", "y", "", "", ""},
		{"*", "", "", "", ""}, // offline only: nothing is known of its name
	} {
		config := policy.DefaultConfig()
		config.Outside, config.ReservedNames = policy.OutsideRewrite, []string{tc.pattern}
		route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: tc.name, GenerateName: tc.generated, Annotations: map[string]string{policy.ParkedAnnotation: parkedOnce}}}
		var facts policy.Snapshot
		if tc.name != "" { // who has a generated name is not asked
			facts.Holder = map[policy.HeldName][]string{}
		}
		d := newPolicy(t, config).Evaluate(policy.Request{Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: "team-a", Object: route}, facts)
		require.Empty(t, d.Missing)
		if tc.field == "" {
			require.True(t, d.Allowed, "%+v", tc)
			continue
		}
		require.Len(t, d.Denied(), 1, "%+v", tc)
		require.Equal(t, tc.field, d.Denied()[0].Field)
		require.Equal(t, tc.value, d.Denied()[0].Value)
	}
}

// A route that the mutating webhook was not called for says so.
func TestWhatWasNotRelocated(t *testing.T) {
	config := policy.DefaultConfig()
	config.Outside = policy.OutsideRewrite
	route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
	route.Spec.ParentRefs = []gwv1.ParentReference{{Name: "aibrix-eg", Namespace: new(gwv1.Namespace("aibrix-system"))}, {Name: "mine"}}
	d := newPolicy(t, config).Evaluate(policy.Request{Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: "team-a", Object: route}, policy.Snapshot{})
	require.Equal(t, []policy.Finding{{
		Rule: "route-outside-system-namespace", Severity: policy.SeverityDeny, Field: "spec.parentRefs[0]", Value: "Gateway aibrix-system/aibrix-eg",
		Problem: `takes routes from namespace "aibrix-system" only, and this route is in "team-a", and it was not relocated`,
		Fix: "apply it again under another name, where --dry-run=server shows what is wrong with it; if it is just not relocated, " +
			"ask the platform team to look at the MutatingWebhookConfiguration of routesteward",
	}}, d.Findings)
	require.Equal(t, []policy.MissingFact{{
		Rule: "route-outside-system-namespace", Field: "spec.parentRefs[1]", Value: "Gateway mine",
		Fact: policy.Fact{Kind: policy.FactGateway, Namespace: "team-a", Name: "mine"},
	}}, d.Missing)
}

// Under --scope=all where a route lives is wrong only where nothing else is said about it.
func TestOneMatterIsOneFinding(t *testing.T) {
	elsewhere := gwv1.ParentReference{Name: "theirs", Namespace: new(gwv1.Namespace("infra"))}
	direct := gwv1.ParentReference{Name: "aibrix-eg", Namespace: new(gwv1.Namespace("aibrix-system"))}
	for _, tc := range []struct {
		outside    policy.OutsideMode
		annotation string
		parents    []gwv1.ParentReference
		want       []string
	}{
		{policy.OutsideReject, "", nil, []string{"metadata.namespace"}},
		{policy.OutsideReject, "", []gwv1.ParentReference{elsewhere}, []string{"metadata.namespace"}},
		{policy.OutsideReject, "", []gwv1.ParentReference{elsewhere, direct}, []string{"spec.parentRefs[1]"}},
		{policy.OutsideReject, parkedOnce, []gwv1.ParentReference{elsewhere}, []string{"metadata.annotations[routesteward.dev/parked-parent-refs]"}},
		{policy.OutsideReject, "nonsense", nil, []string{"metadata.annotations[routesteward.dev/parked-parent-refs]"}},
		{policy.OutsideRewrite, "nonsense", []gwv1.ParentReference{elsewhere}, []string{"metadata.annotations[routesteward.dev/parked-parent-refs]"}},
		{policy.OutsideRewrite, parkedOnce, nil, nil},
		{policy.OutsideRewrite, parkedOnce, []gwv1.ParentReference{elsewhere}, []string{"metadata.namespace"}},
	} {
		config := policy.DefaultConfig()
		config.Outside, config.Scope = tc.outside, policy.ScopeAll
		route := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
		if tc.annotation != "" {
			route.Annotations = map[string]string{policy.ParkedAnnotation: tc.annotation}
		}
		route.Spec.ParentRefs = tc.parents
		d := newPolicy(t, config).Evaluate(policy.Request{Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: "team-a", Object: route}, policy.Snapshot{
			Holder: map[policy.HeldName][]string{},
		})
		var fields []string
		for _, f := range d.Denied() {
			fields = append(fields, f.Field)
		}
		require.Equal(t, tc.want, fields, "%+v", tc)
	}
}

// What counts as the parentRef that was there before.
func TestParentRefsThatWereThereStay(t *testing.T) {
	ref := func(kind, namespace string) gwv1.ParentReference {
		r := gwv1.ParentReference{Name: "aibrix-eg"}
		if kind != "" {
			r.Kind = new(gwv1.Kind(kind))
		}
		if namespace != "" {
			r.Namespace = new(gwv1.Namespace(namespace))
		}
		return r
	}
	route := func(annotation string, ref gwv1.ParentReference) *gwv1.HTTPRoute {
		r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: "r"}}
		if annotation != "" {
			r.Annotations = map[string]string{policy.ParkedAnnotation: annotation}
		}
		r.Spec.ParentRefs = []gwv1.ParentReference{ref}
		return r
	}
	direct, theirs, implicit := ref("", "aibrix-system"), ref("", "infra"), ref("", "")
	other := direct
	other.Name = "other-eg"
	listener := direct
	listener.SectionName = new(gwv1.SectionName("http"))
	for name, tc := range map[string]struct {
		old, now *gwv1.HTTPRoute
		want     policy.Severity
		scope    policy.Scope
	}{
		"the same":                       {old: route("", direct), now: route("", direct), want: policy.SeverityWarn},
		"another listener":               {old: route("", direct), now: route("", listener), want: policy.SeverityWarn},
		"another Gateway":                {old: route("", other), now: route("", direct), want: policy.SeverityDeny},
		"a namesake elsewhere":           {old: route("", theirs), now: route("", direct), want: policy.SeverityDeny},
		"a Service of the name":          {old: route("", ref("Service", "aibrix-system")), now: route("", direct), want: policy.SeverityDeny},
		"it was parked":                  {old: route(parkedOnce, theirs), now: route("", direct), want: policy.SeverityWarn},
		"it was parked, with namespace":  {old: route(parkedOnce, theirs), now: route("", implicit), want: policy.SeverityWarn},
		"another one was parked":         {old: route(parkedOnce, theirs), now: route("", other), want: policy.SeverityDeny},
		"parked as before, --scope=all":  {old: route(parkedOnce, theirs), now: route(parkedOnce, theirs), want: policy.SeverityWarn, scope: policy.ScopeAll},
		"outside as before, --scope=all": {old: route("", theirs), now: route("", theirs), want: policy.SeverityWarn, scope: policy.ScopeAll},
	} {
		config := policy.DefaultConfig()
		if tc.scope != "" {
			config.Scope = tc.scope
		}
		d := newPolicy(t, config).Evaluate(policy.Request{Operation: policy.Update, Kind: policy.HTTPRoute, Namespace: "team-a", Object: tc.now, OldObject: tc.old}, policy.Snapshot{
			Gateways: map[string]bool{"aibrix-system/aibrix-eg": true}, Holder: map[policy.HeldName][]string{},
		})
		require.Len(t, d.Findings, 1, name)
		require.Equal(t, "route-outside-system-namespace", d.Findings[0].Rule, name)
		require.Equal(t, tc.want, d.Findings[0].Severity, name)
	}
}
