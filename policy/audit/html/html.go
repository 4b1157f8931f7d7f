// Package html writes an audit's report as one web page: a map of Gateways, routes, backends and grants, and every finding
// with its next command. The page needs nothing else: no network, no other file.
package html

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"io"

	"github.com/routewarden/routewarden/policy/audit"
)

var (
	//go:embed page.css
	style string
	//go:embed page.js
	script string
	//go:embed page.tmpl
	text string

	page = template.Must(template.New("page").Parse(text))
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
func Write(w io.Writer, report audit.Report) error {
	return page.Execute(w, struct {
		ContentPolicy string
		Style         template.CSS
		Script        template.JS
		Report        audit.Report
	}{contentPolicy, template.CSS(style), template.JS(script), report})
}
