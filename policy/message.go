package policy

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxWarning is the length in bytes that no warning reaches: the API server may cut longer ones.
const MaxWarning = 256

// maxListed bounds the findings that one message lists; a route of 16 rules with 16 backends can have hundreds.
const maxListed = 20

// String is the finding on one line: field, value, problem, next step and rule.
func (f Finding) String() string {
	return Printable(f.Field + ": " + f.Value + ": " + f.Problem + "; to fix: " + f.Fix + " [" + f.Rule + "]")
}

// Warning is the finding as an admission warning: the next step first, shorter than MaxWarning.
func (f Finding) Warning() string {
	rule := f.Rule
	if f.Unchanged {
		rule += ", admitted as unchanged"
	}
	return shorten(fmt.Sprintf("%s [%s] %s: %s: %s", upperFirst(f.Fix), rule, f.Field, f.Value, f.Problem))
}

// String is what could not be decided, on one line.
func (m MissingFact) String() string {
	return Printable(fmt.Sprintf("%s: %s: not known here: whether %s [%s]", m.Field, m.Value, m.Fact, m.Rule))
}

// Warning announces a grant at admission. In a dry run it shows what would be created.
func (g GrantUse) Warning(dryRun bool) string {
	if g.NotMade != "" {
		return shorten("nothing permits what this update leaves as it was: " + g.NotMade)
	}
	verb := "created"
	if dryRun {
		verb = "would create"
	}
	return shorten(fmt.Sprintf("%s ReferenceGrant %s/%s: %s", verb, g.Edge.Namespace, g.Name, g.Edge))
}

// Warning announces a relocation at admission. In a dry run it shows what would be done.
func (r Relocated) Warning(dryRun bool) string {
	verb := "relocated"
	if dryRun {
		verb = "would be relocated"
	}
	return shorten(fmt.Sprintf("%s: %s %s/%s serves this route on Gateway %s; its parentRefs are kept in the annotation %s",
		verb, r.Kind, r.Namespace, r.Name, strings.Join(r.Gateways, ", "), ParkedAnnotation))
}

// Warnings are the admission warnings of an admitted request, each shorter than MaxWarning: findings first, then a
// relocation, then the grants; what is done now or, in a dry run, would be done. A refused request has none: its message says everything.
func (d Decision) Warnings(dryRun bool) []string {
	if !d.Allowed {
		return nil
	}
	var warnings []string
	for _, f := range d.Warned() {
		warnings = append(warnings, f.Warning())
	}
	if d.Relocated != nil && d.Relocated.New {
		warnings = append(warnings, d.Relocated.Warning(dryRun))
	}
	for _, g := range d.Grants {
		if !g.Exists || g.NotMade != "" {
			warnings = append(warnings, g.Warning(dryRun))
		}
	}
	return warnings
}

// Denied returns the findings that refuse the request.
func (d Decision) Denied() []Finding { return d.withSeverity(SeverityDeny) }

// Warned returns the findings that warn.
func (d Decision) Warned() []Finding { return d.withSeverity(SeverityWarn) }

func (d Decision) withSeverity(s Severity) []Finding {
	var out []Finding
	for _, f := range d.Findings {
		if f.Severity == s {
			out = append(out, f)
		}
	}
	return out
}

// Verdict is a word for the decision: deny, warn, audit or allow; undecided where facts are missing.
func (d Decision) Verdict() string {
	verdict := "allow"
	for _, f := range d.Findings {
		switch {
		case f.Severity == SeverityDeny:
			return "deny"
		case f.Severity == SeverityWarn:
			verdict = "warn"
		case verdict == "allow":
			verdict = "audit"
		}
	}
	if len(d.Missing) > 0 {
		return "undecided"
	}
	return verdict
}

// Denial is the message of a refused request: a short first line, then one line for each finding. It is empty where
// nothing was denied.
func (d Decision) Denial(req Request) string {
	denied := d.Denied()
	if len(denied) == 0 {
		return ""
	}
	problems := "1 problem"
	if len(denied) > 1 {
		problems = fmt.Sprintf("%d problems", len(denied))
	}
	text := string(req.Kind) + " " + req.name() + " in namespace " + strconv.Quote(req.Namespace) + " has " + problems + ":"
	for i, f := range denied {
		if i == maxListed {
			text += fmt.Sprintf("\n- and %d more", len(denied)-i)
			break
		}
		text += "\n- " + f.String()
	}
	return text
}

// name is the object's name, or what a generated name begins with: the mutating phase and an offline check do not know
// the rest.
func (r Request) name() string {
	meta := objectMeta(r.Object)
	switch {
	case meta == nil:
		return `""`
	case meta.GenerateName != "":
		return strconv.Quote(meta.GenerateName + "*")
	}
	return strconv.Quote(meta.Name)
}

func upperFirst(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}

// Printable replaces what cannot be printed, line breaks included, by U+FFFD: Gateway API bounds only the length of the names of
// parents, backends and classes, a line break in one could forge a finding, and the API server drops a warning that holds a
// control character.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}

// shorten makes a text one line and cuts it below MaxWarning bytes.
func shorten(s string) string { return Cut(Printable(s), MaxWarning-1) }

// Cut is a text of at most so many bytes, at least three: a longer one ends at a rune's boundary, with an ellipsis.
func Cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	const ellipsis = "…"
	cut := most - len(ellipsis)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + ellipsis
}
