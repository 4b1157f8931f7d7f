package policytest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// The pools that names are drawn from are small, so that references, grants and consents meet. The first of each is the likeliest.
var (
	Namespaces     = []string{"aibrix-system", "team-a", "team-b", "models"}
	Gateways       = []string{"aibrix-eg", "mine"}
	GatewayClasses = []string{"aibrix-eg", "other"}
	Backends       = []string{"llama", "qwen", "0-is-no-label.but.a.subdomain"}
	Users          = []string{User, "gitops", "system:serviceaccount:routesteward-system:routesteward"}
	Groups         = []string{"system:authenticated", Group, "platform"}

	routes = []string{"llama-router", "qwen-router"}
	// odd are names that Gateway API accepts as well: it bounds only their length.
	odd = []string{"Llama 3", "two\nlines", `"quoted"`, "モデル"}
)

// Source makes random objects, the same ones for the same seed. It is not safe for concurrent use.
type Source struct {
	*rand.Rand
	// Standard keeps to the fields of Gateway API's standard channel: no ExternalAuth filters.
	Standard bool
	// Plain keeps to names that are DNS subdomains, as those of objects that can exist.
	Plain bool
}

// FirstSeed is the seed of a test's first random case: that of the environment variable SEED, or 1, so that a test says the
// same of the same code wherever it runs. `make test-random` tries others.
func FirstSeed() uint64 {
	text, set := os.LookupEnv("SEED")
	if !set {
		return 1
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("environment variable SEED: %v", err))
	}
	return seed
}

// NewSource returns the source for a seed.
func NewSource(seed uint64) *Source { return &Source{Rand: rand.New(rand.NewPCG(seed, 0))} }

// Chance is true in one of n cases.
func (s *Source) Chance(n int) bool { return s.IntN(n) == 0 }

// OneOf draws one of the values; the first is as likely as all others together.
func OneOf[T any](s *Source, values ...T) T {
	if s.Chance(2) {
		return values[0]
	}
	return values[s.IntN(len(values))]
}

// subset draws each of the values in one of n cases.
func subset[T any](s *Source, n int, values ...T) []T {
	var drawn []T
	for _, value := range values {
		if s.Chance(n) {
			drawn = append(drawn, value)
		}
	}
	return drawn
}

func maybe[T any](s *Source, value T) *T {
	if s.Chance(2) {
		return nil
	}
	return &value
}

// Config is a valid policy.
func (s *Source) Config() policy.Config {
	c := policy.DefaultConfig()
	c.SystemNamespace = OneOf(s, policy.DefaultConfig().SystemNamespace, "models")
	c.Scope = OneOf(s, policy.ScopeGoverned, policy.ScopeAll)
	c.Kinds = OneOf(s, policy.RouteKinds(), []policy.Kind{policy.HTTPRoute}, []policy.Kind{policy.GRPCRoute})
	c.Outside = OneOf(s, policy.OutsideReject, policy.OutsideRewrite, policy.OutsideWarn, policy.OutsideAllow)
	c.RelocatedName = OneOf(s, policy.RelocatedNameSame, policy.RelocatedNameQualified)
	if s.Chance(4) {
		c.ReservedNames = []string{"qwen-*"}
	}
	c.Grants = OneOf(s, policy.GrantsInject, policy.GrantsRequire, policy.GrantsOff)
	c.GrantConsent = OneOf(s, policy.ConsentRequester, policy.ConsentNamespace, policy.ConsentAny)
	c.GrantScope = OneOf(s, policy.GrantScopeService, policy.GrantScopeNamespace)
	c.GatewayClasses = subset(s, 2, GatewayClasses...)
	for _, namespace := range subset(s, 12, Namespaces...) {
		if namespace != c.SystemNamespace {
			c.ExemptNamespaces = append(c.ExemptNamespaces, namespace)
		}
	}
	c.ExemptUsers = subset(s, 20, Users...)
	c.ExemptGroups = subset(s, 20, Groups...)
	c.Self = OneOf(s, "", Users[len(Users)-1])
	return c
}

// User is somebody of the pool.
func (s *Source) User() policy.User {
	return policy.User{Name: OneOf(s, Users...), Groups: subset(s, 2, Groups...)}
}

// Object is an object of any evaluated kind, most often a route.
func (s *Source) Object() client.Object {
	switch s.IntN(8) {
	case 0:
		return s.Gateway()
	case 1:
		return s.Grant()
	default:
		return s.Route()
	}
}

// Route is an HTTPRoute or a GRPCRoute.
func (s *Source) Route() client.Object {
	if s.Chance(3) {
		return s.GRPCRoute()
	}
	return s.HTTPRoute()
}

// HTTPRoute has up to three parentRefs and rules.
func (s *Source) HTTPRoute() *gwv1.HTTPRoute {
	route := &gwv1.HTTPRoute{TypeMeta: typeMeta(policy.HTTPRoute), ObjectMeta: s.meta(OneOf(s, routes...))}
	route.Spec.ParentRefs = s.parentRefs()
	s.park(&route.ObjectMeta)
	for range OneOf(s, 1, 0, 2, 3) {
		route.Spec.Rules = append(route.Spec.Rules, s.httpRule())
	}
	return route
}

// GRPCRoute has up to three parentRefs and rules.
func (s *Source) GRPCRoute() *gwv1.GRPCRoute {
	route := &gwv1.GRPCRoute{TypeMeta: typeMeta(policy.GRPCRoute), ObjectMeta: s.meta(OneOf(s, routes...))}
	route.Spec.ParentRefs = s.parentRefs()
	s.park(&route.ObjectMeta)
	for range OneOf(s, 1, 0, 2, 3) {
		route.Spec.Rules = append(route.Spec.Rules, s.grpcRule())
	}
	return route
}

// park writes the annotation of a parked route into some, as routesteward or as somebody else would.
func (s *Source) park(meta *metav1.ObjectMeta) {
	if !s.Chance(4) {
		return
	}
	if meta.Annotations == nil {
		meta.Annotations = map[string]string{}
	}
	meta.Annotations[policy.ParkedAnnotation] = OneOf(s,
		`[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"aibrix-eg","namespace":"aibrix-system"}]`,
		`[{"name":"mine","namespace":"aibrix-system","sectionName":"http"},{"name":"mine","namespace":"aibrix-system","sectionName":"https"}]`,
		`[{"name":"aibrix-eg","namespace":"models"}]`,
		`[{"name":"mine"}]`, `[]`, `nonsense`,
	)
}

// Gateway has one listener.
func (s *Source) Gateway() *gwv1.Gateway {
	return &gwv1.Gateway{
		TypeMeta: typeMeta(policy.Gateway), ObjectMeta: s.meta(OneOf(s, Gateways...)),
		Spec: gwv1.GatewaySpec{
			GatewayClassName: gwv1.ObjectName(OneOf(s, GatewayClasses...)),
			Listeners:        []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}},
		},
	}
}

// Grant is a ReferenceGrant with up to three entries of from and of to; sometimes it claims to be managed.
func (s *Source) Grant() *gwv1.ReferenceGrant {
	grant := &gwv1.ReferenceGrant{TypeMeta: typeMeta(policy.ReferenceGrant), ObjectMeta: s.meta("grant")}
	for range 1 + s.IntN(3) {
		grant.Spec.From = append(grant.Spec.From, gwv1.ReferenceGrantFrom{
			Group: gwv1.Group(OneOf(s, gwv1.GroupName, "")), Kind: OneOf[gwv1.Kind](s, "HTTPRoute", "GRPCRoute", "Gateway"),
			Namespace: gwv1.Namespace(OneOf(s, Namespaces...)),
		})
	}
	for range 1 + s.IntN(3) {
		group, kind := s.backendKind()
		grant.Spec.To = append(grant.Spec.To, gwv1.ReferenceGrantTo{Group: group, Kind: kind, Name: maybe(s, s.backendName())})
	}
	return grant
}

// Edge is an edge of a route that was not relocated, or sometimes of one that was.
func (s *Source) Edge() policy.Edge {
	group, kind := s.backendKind()
	e := policy.Edge{
		FromKind: OneOf(s, policy.RouteKinds()...), FromNamespace: OneOf(s, Namespaces...),
		Namespace: OneOf(s, Namespaces...), Group: string(group), Kind: string(kind), Name: string(s.backendName()),
	}
	e.Origin = OneOf(s, append([]string{e.FromNamespace}, Namespaces...)...)
	return e
}

// Request is a write by somebody: a create, a delete, or an update of an object that differs a little or not at all.
func (s *Source) Request() policy.Request {
	object := s.Object()
	if s.Chance(20) {
		now := metav1.Unix(1700000000, 0)
		object.SetDeletionTimestamp(&now)
		object.SetFinalizers([]string{"example.org/wait"})
	}
	req := policy.Request{
		Operation: policy.Create,
		Kind:      policy.Kind(object.GetObjectKind().GroupVersionKind().Kind),
		Namespace: object.GetNamespace(), User: s.User(), Object: object,
	}
	switch {
	case s.Chance(40):
		// The API server sends what is deleted as the old object.
		req.Operation, req.Object, req.OldObject = policy.Delete, nil, object
	case s.Chance(2):
		req.Operation, req.OldObject = policy.Update, s.Changed(object)
	}
	return req
}

// Changed is a copy of an object with the same kind, namespace and name: another one, one that shares a part, or one
// with other labels only.
func (s *Source) Changed(object client.Object) client.Object {
	changed := object.DeepCopyObject().(client.Object)
	part := s.IntN(4)
	switch o := changed.(type) {
	case *gwv1.HTTPRoute:
		if part == 0 || part == 1 {
			o.Spec.ParentRefs = s.parentRefs()
		}
		if part == 0 || part == 2 {
			o.Spec.Rules = append(o.Spec.Rules[:s.IntN(len(o.Spec.Rules)+1)], s.httpRule())
		}
	case *gwv1.GRPCRoute:
		if part == 0 || part == 1 {
			o.Spec.ParentRefs = s.parentRefs()
		}
		if part == 0 || part == 2 {
			o.Spec.Rules = append(o.Spec.Rules[:s.IntN(len(o.Spec.Rules)+1)], s.grpcRule())
		}
	case *gwv1.Gateway:
		if part <= 1 {
			o.Spec.GatewayClassName = gwv1.ObjectName(OneOf(s, GatewayClasses...))
		}
	case *gwv1.ReferenceGrant:
		if part <= 1 {
			o.Spec = s.Grant().Spec
		}
		if part == 2 {
			o.Labels = s.Grant().Labels
		}
	}
	if s.Chance(2) {
		annotations := map[string]string{"example.org/touched": "yes"}
		for key, value := range changed.GetAnnotations() {
			annotations[key] = value
		}
		changed.SetAnnotations(annotations)
	}
	return changed
}

// Facts is a cluster about which everything is known. Managed grants of the edges are likely in it.
func (s *Source) Facts(edges ...policy.Edge) policy.Snapshot {
	facts := policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{},
		Gateways:   map[string]bool{},
		Grants:     map[string][]*gwv1.ReferenceGrant{},
		Writers:    map[string]bool{},
		Holder:     map[policy.HeldName][]string{},
	}
	for _, name := range routes {
		for _, name := range []string{name, "team-a." + name} {
			if s.Chance(4) {
				facts.Holder[policy.HeldName{Kind: OneOf(s, policy.RouteKinds()...), Name: name}] = []string{OneOf(s, "team-a/"+name, "", "team-b/"+name)}
			}
		}
	}
	for _, namespace := range Namespaces {
		if s.Chance(8) {
			continue
		}
		facts.Namespaces[namespace] = policy.NamespaceFacts{
			Exists: policy.Yes, Terminating: s.Chance(12),
			Grants: OneOf(s, "", policy.GrantsAllow, policy.GrantsDeny, "maybe"),
		}
		facts.Writers[namespace] = s.Chance(3)
		for _, gateway := range Gateways {
			if s.Chance(2) {
				facts.Gateways[namespace+"/"+gateway] = true
			}
		}
		for i := range s.IntN(3) {
			grant := s.Grant()
			grant.Namespace, grant.GenerateName, grant.Name = namespace, "", fmt.Sprintf("grant-%d", i)
			facts.Grants[namespace] = append(facts.Grants[namespace], grant)
		}
	}
	for _, edge := range edges {
		if _, exists := facts.Namespaces[edge.Namespace]; !exists || !s.Chance(4) {
			continue
		}
		if s.Chance(3) {
			edge.Name = ""
		}
		grant := edge.Grant(string(policy.ConsentByRequester))
		if s.Chance(6) {
			grant.Spec.To[0].Kind = "Tampered"
		}
		if slices.ContainsFunc(facts.Grants[edge.Namespace], func(g *gwv1.ReferenceGrant) bool { return g.Name == grant.Name }) {
			continue
		}
		facts.Grants[edge.Namespace] = append(facts.Grants[edge.Namespace], grant)
	}
	return facts
}

// Objects are what makes a real cluster agree with the facts, as far as a client can: namespaces (none of them
// terminating), Gateways, ReferenceGrants, and RoleBindings of the user to the ClusterRole GrantWriter.
func Objects(facts policy.Snapshot, user string) []client.Object {
	var objects []client.Object
	for _, namespace := range Namespaces {
		state, exists := facts.Namespaces[namespace]
		if !exists {
			continue
		}
		object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
		if state.Grants != "" {
			object.Labels = map[string]string{policy.GrantsLabel: state.Grants}
		}
		objects = append(objects, object)
		for _, name := range Gateways {
			if facts.Gateways[namespace+"/"+name] {
				objects = append(objects, &gwv1.Gateway{
					TypeMeta: typeMeta(policy.Gateway), ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
					Spec: gwv1.GatewaySpec{
						GatewayClassName: gwv1.ObjectName(GatewayClasses[0]),
						Listeners:        []gwv1.Listener{{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType}},
					},
				})
			}
		}
		for _, grant := range facts.Grants[namespace] {
			objects = append(objects, grant.DeepCopy())
		}
		if facts.Writers[namespace] {
			objects = append(objects, &rbacv1.RoleBinding{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "writes-grants"},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: GrantWriter},
				Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
			})
		}
	}
	return objects
}

// Wide is an HTTPRoute in the default system namespace with as many rules, backendRefs a rule and RequestMirror filters
// a backendRef as asked for (Gateway API allows 16 of each), every backend another Service. Where namespace is "", the
// references name none.
func Wide(rules, backends, filters int, namespace string) *gwv1.HTTPRoute {
	route := &gwv1.HTTPRoute{
		TypeMeta:   typeMeta(policy.HTTPRoute),
		ObjectMeta: metav1.ObjectMeta{Namespace: policy.DefaultConfig().SystemNamespace, Name: "wide"},
		Spec:       gwv1.HTTPRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: "aibrix-eg"}}}},
	}
	reference := func(format string, indexes ...any) gwv1.BackendObjectReference {
		ref := gwv1.BackendObjectReference{Name: gwv1.ObjectName(fmt.Sprintf(format, indexes...)), Port: new(gwv1.PortNumber(8000))}
		if namespace != "" {
			ref.Namespace = new(gwv1.Namespace(namespace))
		}
		return ref
	}
	for i := range rules {
		rule := gwv1.HTTPRouteRule{}
		for j := range backends {
			backend := gwv1.HTTPBackendRef{}
			backend.BackendObjectReference = reference("backend-%d-%d", i, j)
			for k := range filters {
				backend.Filters = append(backend.Filters, gwv1.HTTPRouteFilter{
					Type:          gwv1.HTTPRouteFilterRequestMirror,
					RequestMirror: &gwv1.HTTPRequestMirrorFilter{BackendRef: reference("mirror-%d-%d-%d", i, j, k)},
				})
			}
			rule.BackendRefs = append(rule.BackendRefs, backend)
		}
		route.Spec.Rules = append(route.Spec.Rules, rule)
	}
	return route
}

func typeMeta(kind policy.Kind) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: gwv1.GroupVersion.String(), Kind: string(kind)}
}

func (s *Source) meta(name string) metav1.ObjectMeta {
	meta := metav1.ObjectMeta{Namespace: OneOf(s, Namespaces...), Name: name}
	if s.Chance(8) {
		meta.GenerateName, meta.Name = name+"-", name+"-x7k2p"
	}
	if s.Chance(3) {
		meta.Labels = map[string]string{policy.ManagedByLabel: OneOf(s, policy.ManagedBy, "helm")}
	}
	if s.Chance(4) {
		meta.Annotations = map[string]string{policy.EdgeAnnotation: OneOf(s, "forged", "other")}
	}
	return meta
}

// parentRefs never name the same parent twice in a way that Gateway API refuses: all entries for one parent name
// different sections.
func (s *Source) parentRefs() []gwv1.ParentReference {
	var refs []gwv1.ParentReference
	for range OneOf(s, 1, 0, 2, 3) {
		ref := gwv1.ParentReference{Name: gwv1.ObjectName(OneOf(s, Gateways...))}
		if !s.Plain && s.Chance(20) {
			ref.Name = gwv1.ObjectName(OneOf(s, odd...))
		}
		ref.Namespace = maybe(s, gwv1.Namespace(OneOf(s, Namespaces...)))
		switch s.IntN(8) {
		case 0:
			ref.Group, ref.Kind = new(gwv1.Group("")), new(gwv1.Kind("Service"))
		case 1:
			ref.Kind = new(gwv1.Kind("ListenerSet"))
		case 2:
			ref.Group, ref.Kind = new(gwv1.Group(gwv1.GroupName)), new(gwv1.Kind("Gateway"))
		}
		if names(refs, ref) {
			continue
		}
		if s.Chance(3) {
			for _, section := range []gwv1.SectionName{"http", "https"} {
				ref.SectionName = &section
				refs = append(refs, ref)
			}
			continue
		}
		refs = append(refs, ref)
	}
	return refs
}

func names(refs []gwv1.ParentReference, ref gwv1.ParentReference) bool {
	for _, other := range refs {
		if other.Name == ref.Name && policy.ParentNamespace(&other) == policy.ParentNamespace(&ref) {
			return true
		}
	}
	return false
}

func (s *Source) httpRule() gwv1.HTTPRouteRule {
	rule := gwv1.HTTPRouteRule{Filters: s.httpFilters()}
	for range OneOf(s, 1, 0, 2, 3) {
		rule.BackendRefs = append(rule.BackendRefs, gwv1.HTTPBackendRef{
			BackendRef: gwv1.BackendRef{BackendObjectReference: s.backendRef()}, Filters: s.httpFilters(),
		})
	}
	return rule
}

func (s *Source) httpFilters() []gwv1.HTTPRouteFilter {
	var filters []gwv1.HTTPRouteFilter
	for range max(0, s.IntN(5)-2) {
		switch {
		case s.Chance(2):
			filters = append(filters, gwv1.HTTPRouteFilter{
				Type: gwv1.HTTPRouteFilterRequestMirror, RequestMirror: &gwv1.HTTPRequestMirrorFilter{BackendRef: s.backendRef()},
			})
		case s.Chance(2) && !s.Standard:
			filters = append(filters, gwv1.HTTPRouteFilter{
				Type: gwv1.HTTPRouteFilterExternalAuth,
				ExternalAuth: &gwv1.HTTPExternalAuthFilter{
					ExternalAuthProtocol: gwv1.HTTPRouteExternalAuthHTTPProtocol, BackendRef: s.backendRef(),
					HTTPAuthConfig: &gwv1.HTTPAuthConfig{Path: "/check"},
				},
			})
		default:
			filters = append(filters, gwv1.HTTPRouteFilter{
				Type: gwv1.HTTPRouteFilterExtensionRef, ExtensionRef: &gwv1.LocalObjectReference{Group: "example.org", Kind: "Filter", Name: "f"},
			})
		}
	}
	return filters
}

func (s *Source) grpcRule() gwv1.GRPCRouteRule {
	rule := gwv1.GRPCRouteRule{Filters: s.grpcFilters()}
	for range OneOf(s, 1, 0, 2, 3) {
		rule.BackendRefs = append(rule.BackendRefs, gwv1.GRPCBackendRef{
			BackendRef: gwv1.BackendRef{BackendObjectReference: s.backendRef()}, Filters: s.grpcFilters(),
		})
	}
	return rule
}

func (s *Source) grpcFilters() []gwv1.GRPCRouteFilter {
	var filters []gwv1.GRPCRouteFilter
	for range max(0, s.IntN(5)-2) {
		if s.Chance(2) {
			filters = append(filters, gwv1.GRPCRouteFilter{
				Type: gwv1.GRPCRouteFilterRequestMirror, RequestMirror: &gwv1.HTTPRequestMirrorFilter{BackendRef: s.backendRef()},
			})
		} else {
			filters = append(filters, gwv1.GRPCRouteFilter{
				Type: gwv1.GRPCRouteFilterExtensionRef, ExtensionRef: &gwv1.LocalObjectReference{Group: "example.org", Kind: "Filter", Name: "f"},
			})
		}
	}
	return filters
}

func (s *Source) backendRef() gwv1.BackendObjectReference {
	group, kind := s.backendKind()
	ref := gwv1.BackendObjectReference{
		Group: &group, Kind: &kind, Name: s.backendName(), Port: new(gwv1.PortNumber(8000)),
		Namespace: maybe(s, gwv1.Namespace(OneOf(s, Namespaces...))),
	}
	if group == "" && s.Chance(2) {
		ref.Group, ref.Kind = nil, nil
	}
	return ref
}

func (s *Source) backendKind() (gwv1.Group, gwv1.Kind) {
	switch s.IntN(8) {
	case 0:
		return "inference.networking.k8s.io", "InferencePool"
	case 1:
		return "multicluster.x-k8s.io", "ServiceImport"
	default:
		return "", "Service"
	}
}

func (s *Source) backendName() gwv1.ObjectName {
	if !s.Plain && s.Chance(20) {
		return gwv1.ObjectName(OneOf(s, odd...))
	}
	return gwv1.ObjectName(OneOf(s, Backends...))
}
