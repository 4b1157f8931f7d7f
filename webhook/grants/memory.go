package grants

import (
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// State is what a Reconciler remembers of one grant; the package comment has the transitions.
type State int

// The states. The zero value is not stored.
const (
	Settled State = iota
	Unneeded
	Deleted
	Withheld
	WithheldDeleted
)

// Remembered is the state of one grant. Since is when an Unneeded one was first seen so.
type Remembered struct {
	State State
	Since time.Time
}

// deleted reports whether the deletion of the grant was seen, and not evaluated yet.
func (r Remembered) deleted() bool { return r.State == Deleted || r.State == WithheldDeleted }

// reported reports whether the routes that need the grant got an Event that it is missing.
func (r Remembered) reported() bool { return r.State == Withheld || r.State == WithheldDeleted }

// Memory is what a Reconciler remembers besides the caches. It is lost at a restart, which begins every grace again.
type Memory map[types.NamespacedName]Remembered

// memory is a Memory with a count. The zero value is that of a new process.
type memory struct {
	mu     sync.Mutex
	grants Memory
	// withheld counts the grants that are reported.
	withheld int
}

// Memory is a copy of what the reconciler remembers.
func (r *Reconciler) Memory() Memory {
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	return maps.Clone(r.memory.grants)
}

// Recall makes the reconciler remember that and nothing else.
func (r *Reconciler) Recall(m Memory) {
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	r.memory.grants, r.memory.withheld = Memory{}, 0
	for key, remembered := range m {
		r.memory.set(key, remembered)
	}
}

// set is for callers that hold mu.
func (m *memory) set(key types.NamespacedName, now Remembered) {
	if m.grants[key].reported() {
		m.withheld--
	}
	if now.reported() {
		m.withheld++
	}
	if m.grants == nil {
		m.grants = Memory{}
	}
	m.grants[key] = now
	if now.State == Settled {
		delete(m.grants, key)
	}
}

// change gives a grant the state that next makes of the one it has, and returns that.
func (r *Reconciler) change(key types.NamespacedName, next func(Remembered) Remembered) Remembered {
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	now := next(r.memory.grants[key])
	r.memory.set(key, now)
	r.Metrics.Withheld(r.memory.withheld)
	return now
}

func (r *Reconciler) become(key types.NamespacedName, state State) {
	r.change(key, func(Remembered) Remembered { return Remembered{State: state} })
}

func (r *Reconciler) remembered(key types.NamespacedName) Remembered {
	return r.change(key, func(now Remembered) Remembered { return now })
}

// routeSeen notes a route that needs a grant.
func routeSeen(now Remembered) Remembered {
	if now.State == Unneeded {
		return Remembered{}
	}
	return now
}

// deletionSeen notes the deletion of a grant, by whomever.
func deletionSeen(now Remembered) Remembered {
	if now.reported() {
		return Remembered{State: WithheldDeleted}
	}
	return Remembered{State: Deleted}
}

// noRouteSeen notes that a grant exists and no route needs it.
func noRouteSeen(now Remembered) Remembered {
	if now.State == Unneeded {
		return now
	}
	return Remembered{State: Unneeded, Since: time.Now()}
}
