package model

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster"
)

// user is somebody who acts, with the namespaces in which he may write ReferenceGrants.
type user struct {
	name         string
	writesGrants map[string]bool
}

// The users of every scenario. What else each may do is in the scenario's actions: nobody does what RBAC would not let him.
var (
	tenantA  = &user{"tenant a", map[string]bool{teamA: true}}
	tenantB  = &user{"tenant b", map[string]bool{models: true}}
	platform = &user{"the platform", map[string]bool{system: true, teamA: true, models: true}}
)

// action is one thing that can happen. It changes the world's state, and tells its outcome.
type action struct {
	label string
	// system is true for what happens by itself: routesteward's reconcilers, the cluster's own controllers, time.
	system bool
	// enabled says whether the action makes sense in a state; nil: always.
	enabled func(w *world) bool
	do      func(w *world) string
}

// manifest is a route that somebody applies.
type manifest struct {
	namespace, name string
	// parent is sharedGateway, written with its namespace, or "" for no parentRef.
	parent string
	to     []service
	labels map[string]string
	// parkedByHand writes the annotation that routesteward writes, unparked takes it away.
	parkedByHand, unparked bool
}

func (m manifest) String() string {
	var to []string
	for _, service := range m.to {
		to = append(to, service.String())
	}
	words := fmt.Sprintf("the route %s/%s to %s", m.namespace, m.name, strings.Join(append(to, "nothing")[:max(1, len(to))], " and "))
	if m.parent == "" {
		words += " without a parent"
	}
	for name, value := range m.labels {
		words += fmt.Sprintf(" labeled %s=%s", name, value)
	}
	if m.parkedByHand {
		words += " parked by hand"
	}
	if m.unparked {
		words += " and takes the annotation away"
	}
	return words
}

func (m manifest) object() *gwv1.HTTPRoute {
	route := &gwv1.HTTPRoute{
		TypeMeta:   metav1.TypeMeta{APIVersion: gwv1.GroupVersion.String(), Kind: "HTTPRoute"},
		ObjectMeta: metav1.ObjectMeta{Namespace: m.namespace, Name: m.name, Labels: m.labels},
	}
	if m.parkedByHand {
		route.Annotations = map[string]string{policy.ParkedAnnotation: fmt.Sprintf(`[{"name":%q,"namespace":%q}]`, sharedGateway, system)}
	}
	if m.unparked {
		route.Annotations = map[string]string{policy.ParkedAnnotation: ""}
	}
	if m.parent != "" {
		route.Spec.ParentRefs = []gwv1.ParentReference{{Name: gwv1.ObjectName(m.parent), Namespace: new(gwv1.Namespace(system))}}
	}
	for _, to := range m.to {
		ref := gwv1.HTTPBackendRef{}
		ref.Name, ref.Port = gwv1.ObjectName(to.name), new(gwv1.PortNumber(8000))
		if to.namespace != m.namespace {
			ref.Namespace = new(gwv1.Namespace(to.namespace))
		}
		route.Spec.Rules = append(route.Spec.Rules, gwv1.HTTPRouteRule{BackendRefs: []gwv1.HTTPBackendRef{ref}})
	}
	return route
}

func (m manifest) key() key { return key{aRoute, m.namespace, m.name} }

// apply is somebody's write of a route, stored as soon as it is admitted.
func apply(u *user, replica int, m manifest) action {
	return action{
		label: fmt.Sprintf("%s applies %s%s", u.name, m, through(replica)),
		do: func(w *world) string {
			d := w.draft(u, m.object())
			promises, refusal := w.admit(replica, d, false)
			if refusal != "" {
				return refusal
			}
			outcome := w.commit(d, promises)
			w.peopleActed()
			return outcome
		},
	}
}

// applySkipped is a write for which the mutating webhook is not called, as it is where routesteward could not be reached for a
// moment.
func applySkipped(u *user, m manifest) action {
	a := apply(u, leader, m)
	return action{
		label: a.label + ", and the mutating webhook is skipped",
		do: func(w *world) string {
			d := w.draft(u, m.object())
			promises, refusal := w.admit(leader, d, true)
			if refusal != "" {
				return refusal
			}
			outcome := w.commit(d, promises)
			w.peopleActed()
			return outcome
		},
	}
}

func through(replica int) string {
	if replica == other {
		return " through the other replica"
	}
	return ""
}

// begin is somebody's write that is admitted, and stored by another step.
func begin(u *user, replica int, m manifest) action {
	return action{
		label:   fmt.Sprintf("%s begins to apply %s%s", u.name, m, through(replica)),
		enabled: func(w *world) bool { return w.s.pending == nil },
		do: func(w *world) string {
			d := w.draft(u, m.object())
			promises, refusal := w.admit(replica, d, false)
			if refusal != "" {
				return refusal
			}
			w.s.pending = &pending{label: fmt.Sprintf("%s's %s", u.name, m), obj: d, since: w.s.clock, promises: promises}
			w.peopleActed()
			return "admitted"
		},
	}
}

// complete and abandon end a write that began.
func complete() action {
	return action{
		label:   "the write that was admitted is stored",
		enabled: func(w *world) bool { return w.s.pending != nil },
		do: func(w *world) string {
			p := w.s.pending
			w.s.pending = nil
			outcome := w.commit(p.obj, p.promises)
			w.peopleActed()
			return p.label + " " + outcome
		},
	}
}

func abandon() action {
	return action{
		label:   "the write that was admitted is given up",
		enabled: func(w *world) bool { return w.s.pending != nil },
		do: func(w *world) string {
			w.s.pending = nil
			return "done"
		},
	}
}

func (w *world) has(k key) bool { return w.s.objects.get(k) != nil }

// remove is somebody's deletion of something; it is admitted always.
func remove(who string, k key) action {
	return action{
		label:   fmt.Sprintf("%s deletes %s", who, k),
		enabled: func(w *world) bool { return w.has(k) },
		do: func(w *world) string {
			err := w.delete(k, nil)
			w.peopleActed()
			return done(err)
		},
	}
}

func done(err error) string {
	if err != nil {
		return "refused: " + err.Error()
	}
	return "done"
}

// revoke is the deletion of a managed grant by the owner of its namespace.
func revoke(who string, e edge) action {
	a := remove(who, key{aGrant, e.to.namespace, grantName(e)})
	a.label = fmt.Sprintf("%s deletes the managed grant of %s for %s", who, e.to, e.origin)
	a.enabled = func(w *world) bool {
		there := w.s.objects.get(key{aGrant, e.to.namespace, grantName(e)})
		return there != nil && there.ours
	}
	return a
}

func ownGrant(name, namespace, from string, to string) *gwv1.ReferenceGrant {
	grant := &gwv1.ReferenceGrant{
		TypeMeta:   metav1.TypeMeta{APIVersion: gwv1.GroupVersion.String(), Kind: "ReferenceGrant"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: gwv1.ReferenceGrantSpec{
			From: []gwv1.ReferenceGrantFrom{{Group: gwv1.GroupName, Kind: "HTTPRoute", Namespace: gwv1.Namespace(from)}},
			To:   []gwv1.ReferenceGrantTo{{Kind: "Service"}},
		},
	}
	if to != "" {
		grant.Spec.To[0].Name = new(gwv1.ObjectName(to))
	}
	return grant
}

// permit is the creation of a grant of somebody's own. It has no label of ours, so that the API server does not call routesteward.
func permit(who string, grant *gwv1.ReferenceGrant) action {
	to := "every Service"
	if grant.Spec.To[0].Name != nil {
		to = string(*grant.Spec.To[0].Name)
	}
	return action{
		label: fmt.Sprintf("%s creates the grant %s/%s from %s to %s", who, grant.Namespace, grant.Name, grant.Spec.From[0].Namespace, to),
		enabled: func(w *world) bool {
			return alive(w.s.objects, grant.Namespace) && !w.has(key{aGrant, grant.Namespace, grant.Name})
		},
		do: func(w *world) string {
			_, err := w.create(grant.DeepCopy())
			w.peopleActed()
			return done(err)
		},
	}
}

// forge is a write of a grant that looks managed, or of one that is: routesteward is asked, and must refuse.
func forge(u *user, replica int, label string, enabled func(w *world) bool, forged func(w *world) *gwv1.ReferenceGrant) action {
	return action{
		label:   u.name + " " + label + through(replica),
		enabled: enabled,
		do: func(w *world) string {
			d := w.draft(u, forged(w))
			if _, refusal := w.admit(replica, d, false); refusal != "" {
				return refusal
			}
			outcome := w.commit(d, 0)
			w.peopleActed()
			return outcome
		},
	}
}

// relabel is the writing of the label of consent on a namespace, by whoever may write the namespace.
func relabel(who, namespace, value string) action {
	words := fmt.Sprintf("%s labels %s %s=%s", who, namespace, policy.GrantsLabel, value)
	if value == "" {
		words = fmt.Sprintf("%s takes the label from %s", who, namespace)
	}
	return action{
		label: words,
		enabled: func(w *world) bool {
			return alive(w.s.objects, namespace) && label(w.s.objects, namespace) != value
		},
		do: func(w *world) string {
			after := w.s.objects.get(key{aNamespace, "", namespace}).stored.DeepCopyObject().(client.Object)
			after.SetLabels(map[string]string{policy.GrantsLabel: value})
			if value == "" {
				after.SetLabels(nil)
			}
			_, err := w.update(after, "")
			w.peopleActed()
			return done(err)
		},
	}
}

// The life of a namespace: it is deleted, its content goes, and it can be made again.
func deleteNamespace(namespace string) action {
	return action{
		label:   "the platform deletes namespace " + namespace,
		enabled: func(w *world) bool { return alive(w.s.objects, namespace) },
		do: func(w *world) string {
			before := w.s.objects.get(key{aNamespace, "", namespace})
			after := before.stored.DeepCopyObject().(client.Object)
			after.SetDeletionTimestamp(&metav1.Time{Time: metav1.Now().Time})
			w.store(w.newEntry(before.key, after, before))
			w.peopleActed()
			return "done"
		},
	}
}

func createNamespace(namespace string) action {
	return action{
		label:   "the platform creates namespace " + namespace,
		enabled: func(w *world) bool { return !w.has(key{aNamespace, "", namespace}) },
		do: func(w *world) string {
			obj := cluster.NewNamespace()
			obj.SetName(namespace)
			_, err := w.create(obj)
			w.peopleActed()
			return done(err)
		},
	}
}

// vanish is what the namespace controller does to a namespace that is being deleted.
func vanish(namespace string) action {
	return action{
		label:  "namespace " + namespace + " goes with all it holds",
		system: true,
		enabled: func(w *world) bool {
			return w.has(key{aNamespace, "", namespace}) && !alive(w.s.objects, namespace)
		},
		do: func(w *world) string {
			for _, e := range w.s.objects {
				if e.namespace == namespace {
					if err := w.delete(e.key, nil); err != nil {
						return done(err)
					}
				}
			}
			err := w.delete(key{aNamespace, "", namespace}, nil)
			w.peopleActed()
			return done(err)
		},
	}
}

// pass lets a tick go by. Writes that were admitted are stored or given up before they are half a grace old, and so are caches
// that are behind: see README.md, "Limits".
func pass() action {
	return action{
		label:  "a part of the grace passes",
		system: true,
		enabled: func(w *world) bool {
			s := w.s
			limit := w.scenario.lag
			if s.pending != nil && s.clock-s.pending.since >= limit {
				return false
			}
			for i := range s.views {
				if s.views[i].stale() && s.clock-s.views[i].since >= limit {
					return false
				}
			}
			return len(s.later) > 0 || slices.ContainsFunc(s.objects, func(e *entry) bool {
				return e.kind == aGrant && e.ours && s.clock-e.born < w.scenario.ticks
			})
		},
		do: func(w *world) string {
			w.s.clock++
			for _, i := range w.s.later {
				w.s.queue = withItem(w.s.queue, i)
			}
			w.s.later = nil
			return "done"
		},
	}
}

// look lets the leader's reconciler look at a key of its queue.
func look(i item) action {
	return action{
		label:   fmt.Sprintf("the reconciler looks at the %s", i),
		system:  true,
		enabled: func(w *world) bool { return slices.Contains(w.s.queue, i) },
		do:      func(w *world) string { return w.reconcile(i) },
	}
}

// restart ends the leader's process and starts it again: its memory is lost, and it lists everything.
func restart() action {
	return action{
		label:  "the leader is restarted",
		system: true,
		do: func(w *world) string {
			w.s.views[leader] = view{}
			w.startLeader()
			return "done"
		},
	}
}

// succeed lets the other replica become the leader, with its caches as they are.
func succeed() action {
	return action{
		label:   "the other replica becomes the leader",
		system:  true,
		enabled: func(w *world) bool { return w.s.views[leader].stale() || w.s.views[other].stale() },
		do: func(w *world) string {
			w.s.views[leader], w.s.views[other] = w.s.views[other], w.s.views[leader]
			w.startLeader()
			return "done"
		},
	}
}

func (w *world) startLeader() {
	w.s.queue, w.s.later, w.s.memory = nil, nil, nil
	var all []change
	for _, e := range w.shows(leader) {
		all = append(all, change{nil, e})
	}
	w.hear(all)
}

var replicaNames = [replicas]string{"the leader's", "the other replica's"}

// fallBehind makes the caches of a replica stand still.
func fallBehind(replica int) action {
	return action{
		label:   replicaNames[replica] + " caches fall behind",
		system:  true,
		enabled: func(w *world) bool { return !w.s.views[replica].stale() },
		do: func(w *world) string {
			// No Gateway ever comes or goes.
			w.s.views[replica] = view{behind: [kinds]bool{aNamespace: true, aGrant: true, aRoute: true}, objects: w.s.objects, since: w.s.clock}
			return "done"
		},
	}
}

// catchUp lets the caches of a replica show what there is of a kind, and hear of all that has happened to it.
func catchUp(replica int, k kind) action {
	return action{
		label:   fmt.Sprintf("%s cache of %ss catches up", replicaNames[replica], k),
		system:  true,
		enabled: func(w *world) bool { return w.s.views[replica].behind[k] },
		do: func(w *world) string {
			w.catchUp(replica, k)
			return "done"
		},
	}
}

func (w *world) catchUp(replica int, k kind) {
	v := &w.s.views[replica]
	var heard, missed []change
	for _, c := range v.missed {
		if c.kind() == k {
			heard = append(heard, c)
		} else {
			missed = append(missed, c)
		}
	}
	v.behind[k], v.missed = false, missed
	v.objects = v.objects.mixed(k, w.s.objects)
	if !v.stale() {
		*v = view{}
	}
	if replica == leader {
		w.hear(heard)
	}
}

// between is an action of routesteward's in the midst of which something else happens: before its n-th call to the API server.
func between(a action, n int, what action) action {
	return action{
		label:  fmt.Sprintf("%s, and before routesteward's call %d %s", a.label, n, what.label),
		system: a.system && what.system,
		enabled: func(w *world) bool {
			return (a.enabled == nil || a.enabled(w))
		},
		do: func(w *world) string {
			interruption := "did not happen"
			w.interruptAt = n
			w.interrupted = func() {
				if what.enabled == nil || what.enabled(w) {
					w.disturbed = true
					interruption = what.do(w)
				}
			}
			outcome := a.do(w)
			w.interrupted = nil
			return fmt.Sprintf("%s (in between: %s)", outcome, interruption)
		},
	}
}

// owns is the life of somebody's own grant.
func owns(who string, grant *gwv1.ReferenceGrant) []action {
	k := key{aGrant, grant.Namespace, grant.Name}
	gone := remove(who, k)
	gone.enabled = func(w *world) bool {
		there := w.s.objects.get(k)
		return there != nil && !there.ours
	}
	gone.label = fmt.Sprintf("%s deletes the grant %s/%s", who, grant.Namespace, grant.Name)
	return []action{permit(who, grant), gone}
}
