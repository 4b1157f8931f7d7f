package audit

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/routesteward/routesteward/policy"
)

// statement is what a finding of one check states, wherever in the object.
type statement struct {
	object         Ref
	value, problem string
}

// run runs one check. Its findings are complete and in order afterwards.
func (a *auditor) run(check Check) {
	a.check = check
	first := len(a.report.Findings)
	clear(a.places)
	clear(a.repeated)
	check.run(a)
	for i := first; i < len(a.report.Findings); i++ {
		f := &a.report.Findings[i]
		if more := a.repeated[i]; more > 0 {
			f.Problem += fmt.Sprintf("; the same at %s", plural(more, "other place", "other places"))
		}
		f.Problem, f.Value = policy.Printable(f.Problem), policy.Printable(f.Value)
		f.Message = policy.Printable(f.String())
	}
	slices.SortStableFunc(a.report.Findings[first:], func(x, y Finding) int { return compareRefs(x.Object, y.Object) })
}

// found adds a finding of the running check; the severity is the check's where f has none.
func (a *auditor) found(f Finding) {
	f.Check = a.check.ID
	f.Severity = cmp.Or(f.Severity, a.check.Severity)
	f.Fails = f.Severity == SeverityError
	// One cause in many places of an object is reported once.
	key := statement{f.Object, f.Value, f.Problem}
	if i, known := a.places[key]; known {
		a.repeated[i]++
		return
	}
	a.places[key] = len(a.report.Findings)
	sum := sha256.Sum256([]byte(strings.Join([]string{f.Check, f.Object.String(), f.Field, f.Value}, "\x00")))
	f.Fingerprint = hex.EncodeToString(sum[:16])
	a.report.Findings = append(a.report.Findings, f)
	if state := a.states[f.Object]; state != nil {
		*state = worstOf(*state, stateFor(f.Severity))
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

func severityRank(s Severity) int {
	return slices.Index([]Severity{SeverityError, SeverityWarning, SeverityInfo}, s)
}

func stateFor(s Severity) State {
	switch s {
	case SeverityError:
		return StateBroken
	case SeverityWarning:
		return StateWarning
	}
	return StateOK
}

func worstOf(x, y State) State {
	order := []State{StateOK, StateUnknown, StateWarning, StateBroken}
	return order[max(slices.Index(order, x), slices.Index(order, y))]
}

func compareRefs(x, y Ref) int {
	return cmp.Or(-strings.Compare(x.Kind, y.Kind), strings.Compare(x.Group, y.Group), strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Name, y.Name))
}
