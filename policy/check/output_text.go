package check

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/routesteward/routesteward/policy"
)

// Colours of a terminal, as SGR parameters.
const (
	bold   = "1"
	faint  = "2"
	red    = "1;31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

// labels are what the severities are called, and their colours.
var labels = map[Severity]struct{ text, colour string }{
	SeverityDeny:       {"refused", red},
	SeverityUnknown:    {"unknown", yellow},
	SeverityWarn:       {"warning", yellow},
	SeverityAudit:      {"noted", cyan},
	SeverityAdvice:     {"advice", cyan},
	SeverityRelocation: {"relocated", green},
	SeverityGrant:      {"grant", green},
}

// maxExcerpt is how many characters of a line are shown.
const maxExcerpt = 120

type textWriter struct {
	*bufio.Writer
	colour bool
}

func (w textWriter) paint(colour, text string) string {
	if !w.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (r Report) writeText(to io.Writer, colour bool) error {
	w := textWriter{bufio.NewWriter(to), colour}
	results, problems := r.Results, r.Problems
	// Both are in the order of the input, but only results know it; a file's problems come before its results.
	files := []string{}
	byFile := map[string]struct {
		results  []Result
		problems []Problem
	}{}
	note := func(file string) {
		if _, ok := byFile[file]; !ok {
			files = append(files, file)
		}
	}
	for _, p := range problems {
		note(p.File)
		of := byFile[p.File]
		of.problems = append(of.problems, p)
		byFile[p.File] = of
	}
	for _, result := range results {
		note(result.File)
		of := byFile[result.File]
		of.results = append(of.results, result)
		byFile[result.File] = of
	}
	for _, file := range files {
		fmt.Fprintln(w, w.paint(bold, file))
		for _, p := range byFile[file].problems {
			where := ""
			if p.Line > 0 {
				where = fmt.Sprintf("%d:%d", p.Line, max(p.Column, 1))
			}
			fmt.Fprintf(w, "  %s  %s\n", w.paint(red, strings.TrimSpace(where+"  error")), policy.Printable(p.Message))
		}
		for _, result := range byFile[file].results {
			fmt.Fprintf(w, "\n  %s %s\n", result.Kind, w.paint(bold, policy.Printable(result.Namespace+"/"+result.Name)))
			for _, f := range result.Findings {
				w.finding(f)
			}
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, w.summary(r))
	return w.Flush()
}

func (w textWriter) finding(f Finding) {
	label := labels[f.Severity]
	state := ""
	if f.State != "" {
		state = " (" + f.State + ")"
	}
	words := f.Field + ": " + f.Value + ": " + f.Problem
	fmt.Fprintf(w, "  %s  %s%s  %s  %s\n", w.paint(faint, fmt.Sprintf("%d:%d", f.Line, f.Column)), w.paint(label.colour, label.text), state,
		policy.Printable(words), w.paint(faint, "["+f.Rule+"]"))
	if f.text != "" {
		number := fmt.Sprint(f.Line)
		text, marker := excerpt(f.text, f.Column)
		fmt.Fprintf(w, "    %s %s\n", w.paint(faint, number+" |"), text)
		fmt.Fprintf(w, "    %s %s\n", w.paint(faint, strings.Repeat(" ", len(number))+" |"), w.paint(label.colour, marker))
	}
	if f.Fix != "" {
		fmt.Fprintf(w, "    %s %s\n", w.paint(green, "fix:"), policy.Printable(f.Fix))
	}
}

// excerpt is a line of a file as a terminal may show it, and a second line that points to one of its columns.
func excerpt(line string, column int) (text, marker string) {
	runes := []rune(policy.Printable(strings.ReplaceAll(line, "\t", " ")))
	if len(runes) > maxExcerpt {
		runes = append(runes[:maxExcerpt-1], '…')
	}
	if column < 1 || column > len(runes) {
		return string(runes), ""
	}
	marked := strings.TrimRight(string(runes[column-1:]), " ")
	if i := strings.Index(marked, " #"); i > 0 {
		marked = strings.TrimRight(marked[:i], " ")
	}
	return string(runes), strings.Repeat(" ", column-1) + strings.Repeat("^", max(1, utf8.RuneCountInString(marked)))
}

// summary is one line that says what was read and what came of it.
func (w textWriter) summary(r Report) string {
	s := r.Summary
	looked := fmt.Sprintf("%s in %s checked", plural(s.Objects, "object", "objects"), plural(s.Files, "file", "files"))
	var found []string
	for _, part := range []struct {
		severity  Severity
		one, many string
	}{
		{SeverityDeny, "refusal", "refusals"},
		{SeverityUnknown, "decided at admission", "decided at admission"},
		{SeverityWarn, "warning", "warnings"},
		{SeverityAudit, "noted", "noted"},
		{SeverityAdvice, "piece of advice", "pieces of advice"},
		{SeverityRelocation, "route to be relocated", "routes to be relocated"},
		{SeverityGrant, "grant to be made", "grants to be made"},
	} {
		if count := s.Findings[part.severity]; count > 0 {
			found = append(found, w.paint(labels[part.severity].colour, plural(count, part.one, part.many)))
		}
	}
	if len(r.Problems) > 0 {
		found = append(found, w.paint(red, plural(len(r.Problems), "error", "errors")))
	}
	states := map[string]int{}
	for f := range r.Findings() {
		states[f.State]++
	}
	if delete(states, ""); len(states) > 0 {
		found = append(found, fmt.Sprintf("against the baseline %d introduced, %d unchanged, %d fixed",
			states[StateIntroduced], states[StateUnchanged], states[StateFixed]))
	}
	if len(found) == 0 {
		return looked + ": " + w.paint(green, "nothing found")
	}
	return looked + ": " + strings.Join(found, ", ")
}
