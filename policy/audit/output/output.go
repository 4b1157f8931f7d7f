// Package output writes an audit's report for people and for other programs.
package output

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/audit/html"
	"github.com/routesteward/routesteward/policy/check"
)

// Format is how a report is written.
type Format string

const (
	// FormatText is for people.
	FormatText Format = "text"
	// FormatJSON is the Report itself, see report.schema.json.
	FormatJSON Format = "json"
	// FormatSARIF is SARIF 2.1.0, for code scanning; a finding's place is its object, such as aibrix-system/HTTPRoute/llama.
	FormatSARIF Format = "sarif"
	// FormatHTML is one page with a map.
	FormatHTML Format = "html"
)

// Formats are all of them; the first one is the default.
func Formats() []Format { return []Format{FormatText, FormatJSON, FormatSARIF, FormatHTML} }

// Options are what a Format may use besides the Report.
type Options struct {
	// Color colors text; the other formats have no colors.
	Color bool
	// Details shows in text every route with its listeners, backends and status, not only what was found.
	Details bool
	// Limit is the number of objects whose findings text lists; 0: all.
	Limit int
	// Version is the program's, which SARIF names.
	Version string
}

// Write writes a report in a format.
func Write(to io.Writer, report audit.Report, format Format, o Options) error {
	w := bufio.NewWriter(to)
	write, ok := map[Format]func() error{
		FormatText:  func() error { writeText(w, report, o); return nil },
		FormatJSON:  func() error { return writeJSON(w, report) },
		FormatSARIF: func() error { return writeSARIF(w, report, o.Version) },
		FormatHTML:  func() error { return html.Write(w, report) },
	}[format]
	if !ok {
		return fmt.Errorf("no format %q", format)
	}
	if err := write(); err != nil {
		return err
	}
	return w.Flush()
}

var sarifLevels = map[audit.Severity]string{audit.SeverityError: "error", audit.SeverityWarning: "warning", audit.SeverityInfo: "note"}

func writeSARIF(w io.Writer, report audit.Report, version string) error {
	log := check.NewSARIF(version)
	for _, c := range audit.Checks() {
		log.AddRule(c.ID, c.Summary, c.Rationale+"\n\n"+c.Remediation)
	}
	for _, f := range report.Findings {
		message := f.Message
		if f.Command != "" {
			message += "\n" + f.Command
		}
		log.AddResult(f.Check, sarifLevels[f.Severity], message, f.Fingerprint, strings.Join([]string{f.Object.Namespace, f.Object.Kind, f.Object.Name}, "/"), 0, 0)
	}
	return log.Write(w)
}
