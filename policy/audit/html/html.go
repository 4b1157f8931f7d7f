// Package html writes an audit's report as one web page: a map of Gateways, routes, backends and grants, and every finding
// with its next command. The page needs nothing else: no network, no other file.
package html

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"strings"

	"github.com/routesteward/routesteward/policy/audit"
)

var (
	//go:embed page.css
	style string
	//go:embed page.js
	script string
	//go:embed page.tmpl
	page string
)

// contentPolicy lets the page run its own script and style and nothing else, whatever a report's texts hold, and reach no
// network.
var contentPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; style-src " + source(style) + "; script-src " + source(script)

// source is a Content-Security-Policy source that names an inline element by its content.
func source(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Write writes the page. It is the same for the same report.
//
// It fills in the page by itself, as html/template finds methods by their names: with it the linker must keep every exported
// method of every type, a third of the program.
func Write(w io.Writer, report audit.Report) error {
	// JSON as this package writes it has no <, > or & that could end the script element.
	data, err := json.Marshal(report)
	if err != nil {
		return err
	}
	from := report.Source
	if report.Time != nil {
		from += report.Time.UTC().Format(", 2006-01-02 15:04:05 MST")
	}
	// What is filled in is not looked at again.
	_, err = strings.NewReplacer(
		"{{content policy}}", html.EscapeString(contentPolicy),
		"{{system namespace}}", html.EscapeString(report.SystemNamespace),
		"{{source}}", html.EscapeString(from),
		"{{style}}", style,
		"{{report}}", string(data),
		"{{script}}", script,
	).WriteString(w, page)
	return err
}
