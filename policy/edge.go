package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Labels and annotations that routesteward reads and writes.
const (
	// ManagedByLabel with the value ManagedBy marks an object that only routesteward may change.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	ManagedBy      = "routesteward"
	// OriginLabel on a managed grant is the namespace whose people wrote the routes it serves.
	OriginLabel = "routesteward.dev/origin"
	// EdgeAnnotation on a managed grant says in words which edge it permits.
	EdgeAnnotation = "routesteward.dev/edge"
	// ConsentAnnotation on a managed grant says in words whose consent it records.
	ConsentAnnotation = "routesteward.dev/consent"
	// ParkedAnnotation on a route outside the system namespace holds, as a JSON list with every namespace written out, the
	// parentRefs that its relocated copy has in its place.
	ParkedAnnotation = "routesteward.dev/parked-parent-refs"
	// SourceAnnotation on a relocated copy is the namespace/name of its source, SourceUIDAnnotation the source's UID. Its
	// origin is in OriginLabel.
	SourceAnnotation    = "routesteward.dev/source"
	SourceUIDAnnotation = "routesteward.dev/source-uid"
	// MirrorPrefix begins the controllerName of every entry that routesteward writes into a parked source's status.parents. In
	// an entry that is mirrored from the copy it comes before the name of the controller that wrote it there; RelocationController
	// says why there is no copy, or not all of it.
	MirrorPrefix         = "routesteward.dev/"
	RelocationController = MirrorPrefix + "relocation"
	// GrantsLabel on a namespace is its standing consent (GrantsAllow) or its veto (GrantsDeny).
	GrantsLabel = "routesteward.dev/grants"
	GrantsAllow = "allow"
	GrantsDeny  = "deny"
)

// Edge is one cross-namespace reference that some route needs. It is comparable. An empty Name means every name
// (see Granted).
type Edge struct {
	// Origin is the namespace whose people wrote the route.
	Origin string
	// FromKind and FromNamespace are the referring route's kind and namespace.
	FromKind      Kind
	FromNamespace string
	// Namespace, Group, Kind and Name are the target's.
	Namespace, Group, Kind, Name string
}

// EdgeOf is the edge that a reference of a route needs, and false where the route may refer to its own namespace. A
// relocated route refers from the system namespace, so that each of its references needs an edge, those to its origin and to
// the system namespace included.
func EdgeOf(route Route, ref Reference) (Edge, bool) {
	if route.relocatedTo == "" && ref.Namespace == route.Namespace {
		return Edge{}, false
	}
	return Edge{
		Origin: route.Namespace, FromKind: route.Kind, FromNamespace: cmp.Or(route.relocatedTo, route.Namespace),
		Namespace: ref.Namespace, Group: ref.Group, Kind: ref.Kind, Name: ref.Name,
	}, true
}

// Granted is the edge that the managed grant for e permits: e itself, or with GrantScopeNamespace the same for every name.
func (p *Policy) Granted(e Edge) Edge {
	if p.GrantScope == GrantScopeNamespace {
		e.Name = ""
	}
	return e
}

// Edges are the distinct edges that a stored route needs, in the order of its fields. Those of a relocated copy are its
// source's: only the source was written by the people of its namespace. Whether the route is governed is not asked here.
func (p *Policy) Edges(route Route) []Edge {
	if p.IsCopy(route) {
		return nil
	}
	route = p.Served(route)
	var edges []Edge
	seen := sets.Set[Edge]{}
	for ref := range route.References() {
		if edge, cross := EdgeOf(route, ref); cross && !seen.Has(edge) {
			seen.Insert(edge)
			edges = append(edges, edge)
		}
	}
	return edges
}

// GrantNamePrefix begins the name of every managed grant.
const GrantNamePrefix = "routesteward-"

// grantNameHash has 80 bits: a name that another edge would also get cannot be searched for.
var grantNameHash = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// GrantName is the name of the edge's managed grant: deterministic, a DNS label, different for every edge.
func (e Edge) GrantName() string {
	var memory [512]byte
	key := memory[:0]
	for i, part := range [...]string{e.Origin, string(e.FromKind), e.FromNamespace, e.Namespace, e.Group, e.Kind, e.Name} {
		if i > 0 {
			key = append(key, 0)
		}
		key = append(key, part...)
	}
	sum := sha256.Sum256(key)
	name := append(key[:0], GrantNamePrefix...)
	// The target's name is there for people; the hash alone makes the name unique.
	if len(e.Name) <= 32 && len(validation.IsDNS1123Label(e.Name)) == 0 {
		name = append(append(name, e.Name...), '-')
	}
	return string(grantNameHash.AppendEncode(name, sum[:10]))
}

// Grant is the managed grant that permits exactly this edge. An annotation describes the consent.
func (e Edge) Grant(consent string) *gwv1.ReferenceGrant {
	return &gwv1.ReferenceGrant{
		TypeMeta: metav1.TypeMeta{APIVersion: gwv1.GroupVersion.String(), Kind: string(ReferenceGrant)},
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   e.Namespace,
			Name:        e.GrantName(),
			Labels:      map[string]string{ManagedByLabel: ManagedBy, OriginLabel: e.Origin},
			Annotations: map[string]string{EdgeAnnotation: e.String(), ConsentAnnotation: consent},
		},
		Spec: e.grantSpec(),
	}
}

func (e Edge) grantSpec() gwv1.ReferenceGrantSpec {
	to := gwv1.ReferenceGrantTo{Group: gwv1.Group(e.Group), Kind: gwv1.Kind(e.Kind)}
	if e.Name != "" {
		to.Name = new(gwv1.ObjectName(e.Name))
	}
	return gwv1.ReferenceGrantSpec{
		From: []gwv1.ReferenceGrantFrom{{Group: gwv1.GroupName, Kind: gwv1.Kind(e.FromKind), Namespace: gwv1.Namespace(e.FromNamespace)}},
		To:   []gwv1.ReferenceGrantTo{to},
	}
}

// String says in words what the edge permits.
func (e Edge) String() string {
	target := fmt.Sprintf("%s %q", kindWithGroup(e.Group, e.Kind), e.Name)
	if e.Name == "" {
		target = fmt.Sprintf("every %s", kindWithGroup(e.Group, e.Kind))
	}
	from := fmt.Sprintf("%ss in %q", e.FromKind, e.FromNamespace)
	if e.Origin != e.FromNamespace {
		from += fmt.Sprintf(" that come from %q", e.Origin)
	}
	return fmt.Sprintf("%s may refer to %s in %q", from, target, e.Namespace)
}

func kindWithGroup(group, kind string) string {
	if group == "" {
		return kind
	}
	return kind + "." + group
}

// IsManaged reports whether a ReferenceGrant carries routesteward's label.
func IsManaged(grant *gwv1.ReferenceGrant) bool {
	return grant.Labels[ManagedByLabel] == ManagedBy
}

// Records reports whether a managed grant is the untouched grant of this very edge, so that it permits the edge and
// records the consent to it. A grant that is being deleted records nothing.
func Records(grant *gwv1.ReferenceGrant, e Edge) bool {
	return e.recordedBy(grant, e.GrantName())
}

// RecordedBy is Records for the edge of a plan, which has the name already.
func (g GrantUse) RecordedBy(grant *gwv1.ReferenceGrant) bool {
	return g.Edge.recordedBy(grant, g.Name)
}

func (e Edge) recordedBy(grant *gwv1.ReferenceGrant, name string) bool {
	return grant != nil && grant.DeletionTimestamp.IsZero() &&
		grant.Namespace == e.Namespace && grant.Name == name && IsManaged(grant) && grant.Labels[OriginLabel] == e.Origin &&
		e.isGrantedBy(grant.Spec)
}

// isGrantedBy reports whether a spec is grantSpec's.
func (e Edge) isGrantedBy(spec gwv1.ReferenceGrantSpec) bool {
	if len(spec.From) != 1 || len(spec.To) != 1 {
		return false
	}
	to := spec.To[0]
	return spec.From[0] == gwv1.ReferenceGrantFrom{Group: gwv1.GroupName, Kind: gwv1.Kind(e.FromKind), Namespace: gwv1.Namespace(e.FromNamespace)} &&
		to.Group == gwv1.Group(e.Group) && to.Kind == gwv1.Kind(e.Kind) &&
		(to.Name == nil) == (e.Name == "") && (to.Name == nil || string(*to.Name) == e.Name)
}

// Permits reports whether a ReferenceGrant permits routes of the edge's kind in the namespace from to refer to the
// edge's target, by the rules of Gateway API: one entry of spec.from and one of spec.to must match, and an absent
// to.name means every name. A grant that is being deleted permits nothing.
func Permits(grant *gwv1.ReferenceGrant, e Edge, from string) bool {
	if grant.Namespace != e.Namespace || !grant.DeletionTimestamp.IsZero() {
		return false
	}
	return slices.ContainsFunc(grant.Spec.From, func(f gwv1.ReferenceGrantFrom) bool {
		return f.Group == gwv1.GroupName && string(f.Kind) == string(e.FromKind) && string(f.Namespace) == from
	}) && slices.ContainsFunc(grant.Spec.To, func(t gwv1.ReferenceGrantTo) bool {
		return string(t.Group) == e.Group && string(t.Kind) == e.Kind &&
			(t.Name == nil || (e.Name != "" && string(*t.Name) == e.Name))
	})
}
