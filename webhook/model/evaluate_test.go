package model

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// What must be is evaluated here by Gateway API's own words and those of the README, without a call into policy.

const (
	system, teamA, models = "aibrix-system", "team-a", "models"
	sharedGateway         = "aibrix-eg"
)

var origins = []string{system, teamA, models}

// service is a Service that routes may refer to.
type service struct{ namespace, name string }

func (s service) String() string { return s.namespace + "/" + s.name }

// edge is the reference of an HTTPRoute, whose author's namespace is the origin, to a Service. As it is served it comes from the
// system namespace always: no other route is attached to the shared Gateway.
type edge struct {
	origin string
	to     service
}

func (w *world) each(yield func(edge, edgeSet) bool) {
	for i, origin := range origins {
		for j, to := range w.scenario.services {
			if !yield(edge{origin, to}, 1<<(i*len(w.scenario.services)+j)) {
				return
			}
		}
	}
}

// bit is the set of one edge; empty where the scenario has no such Service.
func (w *world) bit(e edge) edgeSet {
	at := slices.Index(w.scenario.services, e.to)
	if at < 0 {
		return 0
	}
	return 1 << (slices.Index(origins, e.origin)*len(w.scenario.services) + at)
}

func (w *world) describe(set edgeSet) string {
	var words []string
	for e, bit := range w.each {
		if set&bit != 0 {
			words = append(words, fmt.Sprintf("%s for routes that come from %s", e.to, e.origin))
		}
	}
	return strings.Join(words, ", ")
}

// permits is what GEP-709 and the ReferenceGrant API say: one "from" and one "to" match; no name is every name.
func permits(grant *gwv1.ReferenceGrant, from string, to service) bool {
	return grant.Namespace == to.namespace &&
		slices.ContainsFunc(grant.Spec.From, func(f gwv1.ReferenceGrantFrom) bool {
			return f.Group == gwv1.GroupName && f.Kind == "HTTPRoute" && string(f.Namespace) == from
		}) &&
		slices.ContainsFunc(grant.Spec.To, func(t gwv1.ReferenceGrantTo) bool {
			return t.Group == "" && t.Kind == "Service" && (t.Name == nil || string(*t.Name) == to.name)
		})
}

// resolves is what a gateway decides about a reference from the system namespace.
func resolves(objects snapshot, to service) bool {
	if to.namespace == system {
		return true
	}
	for _, e := range objects {
		if e.kind == aGrant && permits(e.grant(), system, to) {
			return true
		}
	}
	return false
}

// attached reports whether the shared Gateway takes a route: its listener takes those of its own namespace.
func attached(route *gwv1.HTTPRoute) bool {
	return route.Namespace == system && slices.ContainsFunc(route.Spec.ParentRefs, func(ref gwv1.ParentReference) bool {
		return ref.Name == sharedGateway && (ref.Namespace == nil || *ref.Namespace == system)
	})
}

// backends are the Services that a route refers to.
func backends(route *gwv1.HTTPRoute) []service {
	var found []service
	for _, rule := range route.Spec.Rules {
		for _, ref := range rule.BackendRefs {
			if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Service" {
				continue // what takes the place of a backend that is withheld
			}
			to := service{route.Namespace, string(ref.Name)}
			if ref.Namespace != nil {
				to.namespace = string(*ref.Namespace)
			}
			found = append(found, to)
		}
	}
	return found
}

// flows are the edges over which traffic goes now. Where a route came from is told by who wrote it.
func (w *world) flows(objects snapshot) edgeSet {
	var set edgeSet
	for _, e := range objects {
		if e.kind != aRoute || !attached(e.route()) {
			continue
		}
		origin := system
		if e.ours {
			origin = e.labels()[policy.OriginLabel]
		}
		for _, to := range backends(e.route()) {
			if resolves(objects, to) {
				set |= w.bit(edge{origin, to})
			}
		}
	}
	return set
}

func parked(obj client.Object) bool {
	return obj.GetNamespace() != system && obj.GetAnnotations()[policy.ParkedAnnotation] != ""
}

// edgesOf are the edges for which a route needs consent: of a parked one all.
func (w *world) edgesOf(route *gwv1.HTTPRoute) edgeSet {
	var set edgeSet
	if !parked(route) && !attached(route) {
		return 0
	}
	for _, to := range backends(route) {
		if parked(route) || to.namespace != system {
			set |= w.bit(edge{route.Namespace, to})
		}
	}
	return set
}

// needed are the edges of all stored routes; a copy's are its source's.
func (w *world) needed(objects snapshot) edgeSet {
	var set edgeSet
	for _, e := range objects {
		if e.kind == aRoute && !e.ours {
			set |= w.edgesOf(e.route())
		}
	}
	return set
}

func label(objects snapshot, namespace string) string {
	if e := objects.get(key{aNamespace, "", namespace}); e != nil {
		return e.labels()[policy.GrantsLabel]
	}
	return ""
}

// alive reports whether a namespace exists and is not being deleted.
func alive(objects snapshot, namespace string) bool {
	e := objects.get(key{aNamespace, "", namespace})
	return e != nil && !e.terminating()
}

// standing are the edges to which their target namespaces consent by themselves; a veto beats everything.
func (w *world) standing(objects snapshot) edgeSet {
	var set edgeSet
	for e, bit := range w.each {
		switch label(objects, e.to.namespace) {
		case policy.GrantsDeny:
			continue
		case policy.GrantsAllow:
			set |= bit
			continue
		}
		if e.origin == e.to.namespace {
			set |= bit
			continue
		}
		for _, o := range objects {
			if o.kind == aGrant && !o.ours && permits(o.grant(), e.origin, e.to) {
				set |= bit
				break
			}
		}
	}
	return set
}

// edgeOfGrant is what one of our grants is for.
func (w *world) edgeOfGrant(e *entry) edgeSet {
	grant := e.grant()
	if len(grant.Spec.To) != 1 || grant.Spec.To[0].Name == nil || len(grant.Spec.From) != 1 || grant.Spec.From[0].Namespace != system {
		return 0
	}
	return w.bit(edge{grant.Labels[policy.OriginLabel], service{e.namespace, string(*grant.Spec.To[0].Name)}})
}

// recorded are the edges that have a managed grant.
func (w *world) recorded(objects snapshot) edgeSet {
	var set edgeSet
	for _, e := range objects {
		if e.kind == aGrant && e.ours {
			set |= w.edgeOfGrant(e)
		}
	}
	return set
}

// vetoed are the edges into namespaces that refuse.
func (w *world) vetoed(objects snapshot) edgeSet {
	var set edgeSet
	for e, bit := range w.each {
		if label(objects, e.to.namespace) == policy.GrantsDeny {
			set |= bit
		}
	}
	return set
}

// served are the edges that have consent and that a gateway would resolve.
func (w *world) served(objects snapshot) edgeSet {
	consented := (w.standing(objects) | w.recorded(objects)) &^ w.vetoed(objects)
	for e, bit := range w.each {
		if consented&bit != 0 && !resolves(objects, e.to) {
			consented &^= bit
		}
	}
	return consented
}

// permissible are the edges that somebody consents to by asking for them.
func (w *world) permissible(u *user, shown snapshot) edgeSet {
	if w.scenario.consent != policy.ConsentRequester || w.scenario.grants != policy.GrantsInject {
		return 0
	}
	var set edgeSet
	for e, bit := range w.each {
		if u.writesGrants[e.to.namespace] && label(shown, e.to.namespace) != policy.GrantsDeny {
			set |= bit
		}
	}
	return set
}

// expected is the answer that an admission must have: "admitted", "denied", or "" where the model does not say, as with stale
// caches. What an update leaves as it was is no reason to refuse it.
func (w *world) expected(d *entryDraft, fresh bool) string {
	if !fresh {
		return ""
	}
	objects := w.s.objects
	switch obj := d.obj.(type) {
	case *gwv1.ReferenceGrant:
		// Who leaves a managed grant as it is is not refused; the model asks for no such thing.
		if d.before != nil && d.before.ours || obj.Labels[policy.ManagedByLabel] == policy.ManagedBy {
			return "denied"
		}
		return "admitted"
	case *gwv1.HTTPRoute:
		switch {
		case obj.Namespace == system && (obj.Labels[policy.ManagedByLabel] == policy.ManagedBy || d.before != nil && d.before.ours):
			return "denied"
		case obj.Namespace != system && pointsAtShared(obj):
			return "denied" // it should have been parked, where routes are relocated
		case obj.Namespace != system && !parked(obj):
			return "admitted" // none of our business
		case parked(obj) && w.scenario.outside != policy.OutsideRewrite && (d.before == nil || !parked(d.before.stored)):
			return "denied"
		}
		if parked(obj) && (d.before == nil || !parked(d.before.stored)) && w.nameTaken(objects, obj) {
			return "denied"
		}
		asked := w.edgesOf(obj)
		if d.before != nil {
			asked &^= w.edgesOf(d.before.route())
		}
		for e, bit := range w.each {
			if asked&bit == 0 {
				continue
			}
			if label(objects, e.to.namespace) == policy.GrantsDeny {
				return "denied"
			}
			standing, recorded, permissible := w.standing(objects)&bit != 0, w.recorded(objects)&bit != 0, w.permissible(d.user, objects)&bit != 0
			switch {
			case recorded && !alive(objects, e.to.namespace):
				return "" // an old grant that nothing needs cannot be made anew, as it would have to be
			case recorded:
			case !standing && !permissible:
				return "denied"
			case standing && w.foreignResolves(objects, e):
			case w.scenario.grants != policy.GrantsInject || !alive(objects, e.to.namespace) || w.squatted(objects, e):
				return "denied"
			}
		}
		return "admitted"
	}
	return ""
}

// pointsAtShared reports whether a route outside names the shared Gateway, by mistake too: it means its own namespace's, of which
// the model has none.
func pointsAtShared(route *gwv1.HTTPRoute) bool {
	return slices.ContainsFunc(route.Spec.ParentRefs, func(ref gwv1.ParentReference) bool {
		return ref.Name == sharedGateway && (ref.Namespace == nil || *ref.Namespace == system)
	})
}

// nameTaken reports whether somebody else has the name of a route's copy.
func (w *world) nameTaken(objects snapshot, route *gwv1.HTTPRoute) bool {
	source := route.Namespace + "/" + route.Name
	if there := objects.get(key{aRoute, system, route.Name}); there != nil {
		return !there.ours || there.stored.GetAnnotations()[policy.SourceAnnotation] != source
	}
	var waiting []string
	for _, e := range objects {
		if e.kind == aRoute && e.name == route.Name && parked(e.stored) {
			waiting = append(waiting, e.namespace+"/"+e.name)
		}
	}
	return len(waiting) > 0 && !slices.Contains(waiting, source)
}

// foreignResolves reports whether somebody else's grant lets an edge through.
func (w *world) foreignResolves(objects snapshot, e edge) bool {
	return slices.ContainsFunc(objects, func(o *entry) bool { return o.kind == aGrant && !o.ours && permits(o.grant(), system, e.to) })
}

// squatted reports whether somebody else's object has the name of an edge's managed grant.
func (w *world) squatted(objects snapshot, e edge) bool {
	there := objects.get(key{aGrant, e.to.namespace, grantName(e)})
	return there != nil && !there.ours
}

// grantName is a name, not a decision: it may be asked of policy.
func grantName(e edge) string { return policyEdge(e).GrantName() }

func policyEdge(e edge) policy.Edge {
	return policy.Edge{Origin: e.origin, FromKind: policy.HTTPRoute, FromNamespace: system, Namespace: e.to.namespace, Kind: "Service", Name: e.to.name}
}

// excuse is the one reason why a step of a reconciler may change where all come to rest: what is written by caches that are behind
// is what would have been written before the changes that they do not show. A veto that is lifted, or a consent that is withdrawn, in
// that time revokes or records as if it still stood.
func (w *world) excuse() {
	if w.s.views[leader].stale() {
		w.excused = true
	}
}

// judgeCreate evaluates what routesteward creates.
func (w *world) judgeCreate(e *entry) {
	if !w.acting {
		return
	}
	w.excuse()
	switch {
	case e.kind == aRoute && e.namespace == system && e.labels()[policy.ManagedByLabel] == policy.ManagedBy:
		return
	case e.kind != aGrant || e.labels()[policy.ManagedByLabel] != policy.ManagedBy:
		w.violated("routesteward made %s, which is neither a managed grant nor a copy", e.key)
		return
	}
	bit := w.edgeOfGrant(e)
	if bit == 0 {
		w.violated("routesteward made %s, which is for no edge: %v", e.key, e.grant().Spec)
		return
	}
	if w.vetoed(w.shown)&bit != 0 {
		w.violated("routesteward made %s in spite of a veto: %s", e.key, w.describe(bit))
	}
	// Made again where it was itself the record of the consent; standing consent, as it is or as the caches show it; or the
	// consent of the one who asks.
	consent := w.renewed | w.standing(w.s.objects) | w.standing(w.shown)
	if w.asking != nil {
		byRequester := w.permissible(w.asking.user, w.shown) & w.asking.wants
		consent |= byRequester
		w.asking.made |= bit & byRequester
	}
	if consent&bit == 0 {
		w.violated("routesteward made %s, to which nobody consents: %s", e.key, w.describe(bit))
	}
}

// judgeChange evaluates what routesteward changes or deletes.
func (w *world) judgeChange(verb string, before *entry) {
	if !w.acting {
		return
	}
	w.excuse()
	if !before.ours {
		w.violated("routesteward %s %s, which is somebody else's", verb, before.key)
		return
	}
	if before.kind == aGrant {
		w.renewed |= w.edgeOfGrant(before)
	}
}

// judgeStatus evaluates what routesteward writes into a status: it leaves everybody else's entries as they are.
func (w *world) judgeStatus(before *entry, after *gwv1.HTTPRoute) {
	theirs := func(route *gwv1.HTTPRoute) []gwv1.RouteParentStatus {
		return slices.DeleteFunc(slices.Clone(route.Status.Parents), func(s gwv1.RouteParentStatus) bool {
			return strings.HasPrefix(string(s.ControllerName), policy.MirrorPrefix)
		})
	}
	if !equality.Semantic.DeepEqual(theirs(before.route()), theirs(after)) {
		w.violated("routesteward changed the status of %s that others wrote", before.key)
	}
}

// peopleActed notes what people's doings mean: the consents that they gave, and what they took away.
func (w *world) peopleActed() {
	objects := w.s.objects
	w.s.ever |= w.standing(objects)
	served := w.served(objects)
	lost := w.s.promised &^ served
	w.s.promised &= served
	if p := w.s.pending; p != nil && p.promises&^served != 0 {
		lost |= p.promises &^ served
		kept := *p
		kept.promises &= served
		w.s.pending = &kept
	}
	if lost != 0 {
		w.disturbed = true
	}
}

// check is what must hold after every step.
func (w *world) check() {
	objects := w.s.objects
	if reached := w.flows(objects) &^ w.s.ever; reached != 0 {
		w.violated("traffic reaches what never consented: %s", w.describe(reached))
	}
	w.s.promised &= w.needed(objects)
	promised := w.s.promised
	if w.s.pending != nil {
		promised |= w.s.pending.promises
	}
	if lost := promised &^ w.served(objects); lost != 0 {
		w.violated("a route was admitted, nobody took anything away, and nothing permits: %s", w.describe(lost))
	}
	for _, e := range objects {
		if e.kind == aGrant && !e.ours && e.labels()[policy.ManagedByLabel] == policy.ManagedBy {
			w.violated("%s was forged", e.key)
		}
	}
}

// checkAtRest is what must hold where caches are fresh and reconcilers have nothing to do.
func (w *world) checkAtRest() {
	objects := w.s.objects
	needed, recorded, vetoed, standing := w.needed(objects), w.recorded(objects), w.vetoed(objects), w.standing(objects)
	if surplus := recorded &^ needed; surplus != 0 {
		w.violated("at rest a grant is there that nothing needs: %s", w.describe(surplus))
	}
	if refused := recorded & vetoed; refused != 0 {
		w.violated("at rest a grant is there in spite of a veto: %s", w.describe(refused))
	}
	for e, bit := range w.each {
		if needed&standing&bit != 0 && w.scenario.grants == policy.GrantsInject && alive(objects, e.to.namespace) && !w.squatted(objects, e) && !resolves(objects, e.to) {
			w.violated("at rest a grant is missing: %s", w.describe(bit))
		}
	}
	for _, e := range objects {
		if e.kind == aGrant && e.ours && w.edgeOfGrant(e) == 0 {
			w.violated("at rest %s is not as routesteward makes it", e.key)
		}
	}
	w.checkCopies()
}

// checkCopies: at rest every parked source has its copy, or somebody else has the name, and the copy lets through what has
// consent and nothing else.
func (w *world) checkCopies() {
	objects := w.s.objects
	consented := (w.standing(objects) | w.recorded(objects)) &^ w.vetoed(objects)
	for _, e := range objects {
		if e.kind != aRoute {
			continue
		}
		if e.ours {
			source := objects.get(key{aRoute, e.labels()[policy.OriginLabel], e.name})
			if source == nil || !parked(source.stored) {
				w.violated("at rest %s is there without its source", e.key)
			}
			continue
		}
		if !parked(e.stored) {
			continue
		}
		there := objects.get(key{aRoute, system, e.name})
		if there == nil {
			w.violated("at rest %s has no copy", e.key)
			continue
		}
		if !there.ours || there.labels()[policy.OriginLabel] != e.namespace {
			continue // whoever has it first has the name
		}
		var may, has edgeSet
		if w.scenario.grants != policy.GrantsOff {
			may = w.edgesOf(e.route()) & consented
		}
		for _, to := range backends(there.route()) {
			has |= w.bit(edge{e.namespace, to})
		}
		if has&^may != 0 {
			w.violated("at rest the copy %s refers to what has not consented: %s", there.key, w.describe(has&^may))
		}
		if may&^has != 0 {
			w.violated("at rest the copy %s lacks what has consented: %s", there.key, w.describe(may&^has))
		}
	}
}
