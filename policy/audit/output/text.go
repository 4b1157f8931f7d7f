package output

import (
	"bufio"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
)

// Colors of a terminal, as SGR parameters.
const (
	bold   = "1"
	faint  = "2"
	red    = "1;31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

var severityColors = map[audit.Severity]string{audit.SeverityError: red, audit.SeverityWarning: yellow, audit.SeverityInfo: cyan}

var stateColors = map[audit.State]string{audit.StateBroken: red, audit.StateWarning: yellow, audit.StateUnknown: yellow, audit.StateOK: green}

type textWriter struct {
	*bufio.Writer
	color bool
}

func (w textWriter) paint(color, text string) string {
	if !w.color || color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

func (w textWriter) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

func writeText(to *bufio.Writer, report audit.Report, o Options) {
	w := textWriter{to, o.Color}
	head := report.Source
	if report.Time != nil {
		head += report.Time.Format(" (read 2006-01-02 15:04:05 UTC)")
	}
	w.line("%s", w.paint(faint, head))
	w.gateways(report)
	w.plugin(report)
	hidden := w.findings(report, o.Limit)
	if o.Details {
		w.details(report)
	}
	if len(report.NotKnown) > 0 {
		w.line("\n%s", w.paint(bold, "Not known"))
		for _, words := range report.NotKnown {
			w.line("  %s", words)
		}
	}
	w.summary(report, hidden, o.Details)
}

func (w textWriter) gateways(report audit.Report) {
	for _, g := range report.Gateways {
		if !g.Exists {
			w.line("\n%s  %s", w.paint(bold, g.Ref.String()), w.paint(red, "does not exist"))
			continue
		}
		w.line("\n%s  class %s", w.paint(bold, g.Ref.String()), g.Class)
		for _, l := range g.Listeners {
			hostname := ""
			if l.Hostname != "" {
				hostname = " for " + l.Hostname
			}
			w.line("  listener %s, %s %d%s: takes routes from %s; %s", l.Name, l.Protocol, l.Port, hostname, l.AllowedNamespaces, plural(l.Routes, "route", "routes"))
		}
	}
}

func (w textWriter) plugin(report audit.Report) {
	if report.Plugin == nil {
		if len(report.Models) > 0 {
			w.line("\n%s  not found, or not to be read: requests with the header routing-strategy go past the HTTPRoute; whether others do is not known",
				w.paint(bold, "AIBrix's gateway plugin"))
		}
		return
	}
	w.line("\n%s  AIBrix's gateway plugin", w.paint(bold, "Deployment "+report.Plugin.Namespace+"/"+report.Plugin.Name))
	for _, v := range report.Plugin.Variables {
		value := fmt.Sprintf("%q", v.Value)
		if !v.Known {
			value = "not known"
		} else if v.Value == "" && !v.Set {
			value = "not set"
		}
		w.line("  %s: %s (%s): %s", v.Name, value, v.Source, v.Meaning)
	}
}

// findings lists them by object, the worst first, and returns how many objects were left out.
func (w textWriter) findings(report audit.Report, limit int) (hidden int) {
	byObject := map[audit.Ref][]audit.Finding{}
	var objects []audit.Ref
	for _, f := range report.Findings {
		if byObject[f.Object] == nil {
			objects = append(objects, f.Object)
		}
		byObject[f.Object] = append(byObject[f.Object], f)
	}
	models := map[audit.Ref]audit.Model{}
	for _, m := range report.Models {
		models[m.Route] = m
	}
	// Findings are ordered by severity, so that objects with nothing but notes come last.
	notes := slices.IndexFunc(objects, func(object audit.Ref) bool { return byObject[object][0].Severity == audit.SeverityInfo })
	if notes >= 0 && len(objects)-notes > maxNotes && limit > 0 {
		defer w.notes(objects[notes:], byObject)
		objects = objects[:notes]
	}
	for i, object := range objects {
		if limit > 0 && i == limit {
			return len(objects) - i
		}
		w.line("\n%s", w.paint(bold, object.String()))
		for _, f := range byObject[object] {
			words := f.Field + ": "
			if f.Value != "" {
				words += f.Value + ": "
			}
			w.line("  %s  %s%s  %s", w.paint(severityColors[f.Severity], string(f.Severity)), words, f.Problem, w.paint(faint, "["+f.Check+"]"))
			if f.Next != "" {
				w.line("    %s %s", w.paint(green, "next:"), f.Next)
			}
			if f.Command != "" {
				w.line("    %s %s", w.paint(faint, "$"), f.Command)
			}
		}
		if m, ok := models[object]; ok && report.Plugin != nil && byObject[object][0].Severity == audit.SeverityError {
			w.line("  %s %s", w.paint(faint, fmt.Sprintf("callers of model %q:", m.Name)), m.Affected)
		}
	}
	return 0
}

// maxNotes is the number of objects up to which notes are listed one by one.
const maxNotes = 5

// notes lists many of them in one line for each check.
func (w textWriter) notes(objects []audit.Ref, byObject map[audit.Ref][]audit.Finding) {
	about := map[string][]audit.Ref{}
	var ids []string
	for _, object := range objects {
		for _, f := range byObject[object] {
			if about[f.Check] == nil {
				ids = append(ids, f.Check)
			}
			about[f.Check] = append(about[f.Check], object)
		}
	}
	w.line("\n%s", w.paint(bold, "Notes"))
	for _, id := range ids {
		const shown = 3
		refs := about[id]
		names := refs[0].String()
		for _, ref := range refs[1:min(shown, len(refs))] {
			names += ", " + ref.String()
		}
		if len(refs) > shown {
			names += fmt.Sprintf(" and %d more", len(refs)-shown)
		}
		w.line("  %s  %s  %s", w.paint(cyan, "info"), names, w.paint(faint, "["+id+"]"))
	}
	w.line("  %s", w.paint(faint, "--limit=0 lists each"))
}

// details shows everything about every route.
func (w textWriter) details(report audit.Report) {
	backends := map[audit.Ref]*audit.Backend{}
	for _, b := range report.Backends {
		backends[b.Ref] = b
	}
	for _, r := range report.Routes {
		w.line("\n%s  %s%s", w.paint(bold, r.Ref.String()), w.paint(stateColors[r.State], string(r.State)), about(r, report.SystemNamespace))
		for _, p := range r.Parents {
			w.parent(p)
		}
		for _, ref := range r.References {
			w.reference(ref, backends[ref.Backend])
		}
	}
}

// about describes a route beside its name.
func about(r *audit.Route, system string) string {
	words := ""
	switch {
	case r.Role == audit.RoleSource:
		words += ", parked: its copy in " + system + " serves for it"
	case r.Role == audit.RoleCopy:
		words += ", relocated from " + r.Origin
	case r.Governed == "misdirected":
		words += ", meant for a Gateway in " + system
	}
	if r.Model != "" {
		words += ", model " + r.Model
	}
	if len(r.Hostnames) > 0 {
		words += ", hostnames " + strings.Join(r.Hostnames, " ")
	}
	return words
}

func (w textWriter) parent(p audit.Parent) {
	selects := ""
	if p.SectionName != "" {
		selects += ", listener " + p.SectionName
	}
	if p.Port != 0 {
		selects += fmt.Sprintf(", port %d", p.Port)
	}
	w.line("  %s → %s%s  %s", p.Field, p.Gateway, selects, w.paint(stateColors[p.State], string(p.State)))
	for _, l := range p.Listeners {
		switch l.Accepted {
		case policy.Yes:
			w.line("    listener %s accepts it", l.Listener)
		case policy.No:
			w.line("    listener %s does not accept it: %s (%s)", l.Listener, l.Words, l.Reason)
		default:
			w.line("    listener %s: not known whether it accepts it: %s", l.Listener, l.Words)
		}
	}
	if len(p.Status) == 0 {
		w.line("    status: no gateway controller has written one")
	}
	for _, s := range p.Status {
		controller := strings.TrimPrefix(s.Controller, "routesteward.dev/")
		for _, c := range s.Conditions {
			words := ""
			if c.Words != "" {
				words = ": " + c.Words
			}
			if c.Stale {
				words += " (of an older version of the route)"
			}
			w.line("    status of %s: %s=%s, %s%s", controller, c.Type, c.Status, c.Reason, words)
		}
	}
}

// outcomeWords say why no grant permits a reference.
var outcomeWords = map[string]string{
	"refused": "nobody has consented", "vetoed": "the namespace refuses it", "grantable": "its grant is missing, although there is consent",
	"undecided": "not known whether there is consent",
}

func (w textWriter) reference(ref audit.Reference, backend *audit.Backend) {
	target := ref.Backend.String()
	if ref.Port != 0 {
		target += fmt.Sprintf(":%d", ref.Port)
	}
	var words []string
	if ref.Cross {
		switch {
		case ref.Withheld:
			words = append(words, "withheld from the copy: "+cmp.Or(outcomeWords[ref.Outcome], "there is consent, and routesteward has not put it back"))
		case len(ref.Grants) > 0:
			words = append(words, "permitted by ReferenceGrant "+strings.Join(ref.Grants, ", "))
		default:
			words = append(words, "not permitted: "+outcomeWords[ref.Outcome])
		}
		if ref.Consent != "" {
			words = append(words, "consent: "+ref.Consent)
		}
	}
	switch {
	case backend.Exists == policy.No:
		words = append(words, "does not exist")
	case backend.Note != "":
		words = append(words, backend.Note)
	default:
		words = append(words, fmt.Sprintf("%d of %s ready", backend.Ready, plural(backend.Ready+backend.NotReady, "endpoint", "endpoints")))
	}
	w.line("  %s → %s  %s: %s", ref.Field, target, w.paint(stateColors[ref.State], string(ref.State)), strings.Join(words, "; "))
}

func (w textWriter) summary(report audit.Report, hidden int, details bool) {
	w.line("")
	s := report.Summary
	byCheck := map[string]int{}
	for _, f := range report.Findings {
		byCheck[f.Check]++
	}
	if hidden > 0 {
		w.line("%s more; --limit=0 lists all. By check:", plural(hidden, "object", "objects"))
		ids := make([]string, 0, len(byCheck))
		for id := range byCheck {
			ids = append(ids, id)
		}
		slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(byCheck[b], byCheck[a]), strings.Compare(a, b)) })
		for _, id := range ids {
			w.line("  %6d  %s", byCheck[id], id)
		}
	}
	var found []string
	for _, part := range []struct {
		severity  audit.Severity
		one, many string
	}{
		{audit.SeverityError, "error", "errors"}, {audit.SeverityWarning, "warning", "warnings"}, {audit.SeverityInfo, "note", "notes"},
	} {
		if count := s.Findings[part.severity]; count > 0 {
			found = append(found, w.paint(severityColors[part.severity], plural(count, part.one, part.many)))
		}
	}
	if len(found) == 0 {
		found = []string{w.paint(green, "nothing found")}
	}
	w.line("%s of %d audited, %d in order: %s", plural(s.Routes, "route", "routes"), s.Seen, s.Healthy, strings.Join(found, ", "))
	if !details && s.Routes > 0 {
		w.line("%s", w.paint(faint, "everything about a route: routesteward audit NAMESPACE/NAME"))
	}
}

func plural(count int, one, many string) string {
	if count == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", count, many)
}
