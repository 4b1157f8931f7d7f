package model

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/routesteward/routesteward/webhook/grants"
)

// The replicas whose caches the model has. The leader's reconcilers and admissions read the same caches.
const (
	leader = iota
	other
	replicas
)

// view is what one replica's caches show.
type view struct {
	// behind is true where they do not follow; objects are what they show then.
	behind  [kinds]bool
	objects snapshot
	// missed is what has happened since to the kinds that do not follow; a watch that goes on tells it all.
	missed []change
	// since is the tick at which they fell behind.
	since int
}

func (v *view) stale() bool { return v.behind != [kinds]bool{} }

// Which reconciler a key is for.
const (
	ofGrants = iota
	ofRelocations
)

// item is a key in a reconciler's queue.
type item struct {
	reconciler int
	name       types.NamespacedName
}

func (i item) String() string { return [...]string{"grant ", "copy "}[i.reconciler] + i.name.String() }

func compareItems(a, b item) int {
	return cmp.Or(a.reconciler-b.reconciler, strings.Compare(a.name.Namespace, b.name.Namespace), strings.Compare(a.name.Name, b.name.Name))
}

// withItem is a sorted set with one more item; the set is shared, so it is not changed.
func withItem(items []item, i item) []item {
	at, found := slices.BinarySearchFunc(items, i, compareItems)
	if found {
		return items
	}
	return slices.Insert(slices.Clone(items), at, i)
}

func withoutItem(items []item, i item) []item {
	at, found := slices.BinarySearchFunc(items, i, compareItems)
	if !found {
		return items
	}
	return slices.Delete(slices.Clone(items), at, at+1)
}

// noted is what the grants' reconciler remembers of a grant; since is a tick.
type noted struct {
	name  types.NamespacedName
	state grants.State
	since int
}

// state is everything there is at one moment. What its slices hold is shared between states and never changed.
type state struct {
	objects snapshot
	views   [replicas]view
	// queue are the keys that a reconciler may look at now, later those that it looks at after some time.
	queue, later []item
	// memory is sorted.
	memory []noted
	// pending is a write that was admitted and is not stored yet.
	pending *pending

	// ever are the consents that were ever given, promised the references of stored routes that were permitted when they were
	// admitted and from which nobody has taken that away: bits by edgeIndex.
	ever, promised edgeSet

	clock int
	// next counts what needs an identity.
	next int
}

// pending is a write between its admission and its being stored.
type pending struct {
	label string
	obj   *entryDraft
	// since is the tick of its admission.
	since int
	// promises are the references that were permitted when it was admitted, and still are unless somebody took that away.
	promises edgeSet
}

// edgeSet is a set of edges of the scenario's universe.
type edgeSet uint64

// fingerprint identifies a state: identities are renamed in the order in which they are met, and times are ages, which count no
// further than the grace.
type fingerprint [16]byte

type encoder struct {
	bytes.Buffer
	ids map[int]int
	s   *state
	w   *world
}

func (e *encoder) number(n int) {
	var raw [binary.MaxVarintLen64]byte
	e.Write(raw[:binary.PutVarint(raw[:], int64(n))])
}

func (e *encoder) text(s string) {
	e.number(len(s))
	e.WriteString(s)
}

func (e *encoder) bit(b bool) {
	if b {
		e.WriteByte(1)
	} else {
		e.WriteByte(0)
	}
}

// id renames an identity, a UID or a resourceVersion, of which only equality matters.
func (e *encoder) id(n int) {
	renamed, ok := e.ids[n]
	if !ok {
		renamed = len(e.ids)
		e.ids[n] = renamed
	}
	e.number(renamed)
}

// age is capped where nothing tells older ones apart.
func (e *encoder) age(since int) { e.number(min(e.s.clock-since, e.w.scenario.ticks)) }

func (e *encoder) objects(objects snapshot, identities bool) {
	e.number(len(objects))
	// Of routes only the order of their creation matters.
	var places []int
	for _, o := range objects {
		if o.kind == aRoute {
			places = append(places, o.place)
		}
	}
	slices.Sort(places)
	for _, o := range objects {
		e.number(int(o.kind))
		e.text(o.namespace)
		e.text(o.name)
		if identities {
			e.number(int(o.content))
		} else {
			e.number(int(o.meaning))
		}
		e.bit(o.ours)
		if o.kind == aRoute && e.w.ordersRoutes {
			at, _ := slices.BinarySearch(places, o.place)
			e.number(at)
		}
		if !identities {
			continue
		}
		e.id(o.uid)
		e.id(o.version)
		if o.sourceUID != "" {
			e.id(identity(o.sourceUID))
		}
		if o.kind == aGrant && o.ours {
			e.age(o.born)
		}
	}
}

func identity(uid string) int {
	n := 0
	for _, digit := range strings.TrimPrefix(uid, "uid-") {
		n = 10*n + int(digit-'0')
	}
	return n
}

func (e *encoder) items(items []item) {
	e.number(len(items))
	for _, i := range items {
		e.number(i.reconciler)
		e.text(i.name.Namespace)
		e.text(i.name.Name)
	}
}

func (e *encoder) sum() fingerprint {
	sum := sha256.Sum256(e.Bytes())
	return fingerprint(sum[:16])
}

// fingerprint of a state.
func (w *world) fingerprint(s *state) fingerprint {
	e := &encoder{ids: map[int]int{}, s: s, w: w}
	e.objects(s.objects, true)
	for i := range s.views {
		v := &s.views[i]
		e.bit(v.stale())
		if v.stale() {
			for _, behind := range v.behind {
				e.bit(behind)
			}
			e.age(v.since)
			e.objects(v.objects, true)
			e.number(len(v.missed))
			for _, c := range v.missed {
				for _, version := range []*entry{c.before, c.after} {
					if e.bit(version != nil); version != nil {
						e.objects(snapshot{version}, true)
					}
				}
			}
		}
	}
	e.items(s.queue)
	e.items(s.later)
	e.number(len(s.memory))
	for _, n := range s.memory {
		e.text(n.name.Namespace)
		e.text(n.name.Name)
		e.number(int(n.state))
		e.age(n.since)
	}
	e.bit(s.pending != nil)
	if p := s.pending; p != nil {
		e.age(p.since)
		e.text(p.obj.String())
		e.number(int(p.obj.digest))
		if p.obj.before != nil {
			e.id(p.obj.before.version)
		}
		e.number(int(p.promises))
	}
	e.number(int(s.ever))
	e.number(int(s.promised))
	return e.sum()
}

// outcome identifies what is stored, whatever led there.
func (w *world) outcome(s *state) fingerprint {
	e := &encoder{ids: map[int]int{}, s: s, w: w}
	e.objects(s.objects, false)
	return e.sum()
}
