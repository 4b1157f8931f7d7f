package check

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/routesteward/routesteward/policy/manifest"
)

// Format is how a Report is written.
type Format string

const (
	// FormatText is for people.
	FormatText Format = "text"
	// FormatJSON is the Report itself, see report.schema.json.
	FormatJSON Format = "json"
	// FormatSARIF is SARIF 2.1.0, for code scanning.
	FormatSARIF Format = "sarif"
	// FormatJUnit is the XML that CI servers show as tests.
	FormatJUnit Format = "junit"
	// FormatGitHub is workflow commands, which GitHub shows as annotations of the lines.
	FormatGitHub Format = "github"
)

// Formats are all of them; the first one is the default.
func Formats() []Format {
	return []Format{FormatText, FormatJSON, FormatSARIF, FormatJUnit, FormatGitHub}
}

// WriteOptions are what a Format may use besides the Report.
type WriteOptions struct {
	// Color makes text colourful; the other formats have no colours.
	Color bool
	// Version is the program's, which SARIF names.
	Version string
}

// Write writes the report in a format.
func (r Report) Write(w io.Writer, format Format, o WriteOptions) error {
	switch format {
	case FormatText:
		return r.writeText(w, o.Color)
	case FormatJSON:
		return r.writeJSON(w)
	case FormatSARIF:
		return r.writeSARIF(w, o.Version)
	case FormatJUnit:
		return r.writeJUnit(w)
	case FormatGitHub:
		return r.writeGitHub(w)
	}
	return fmt.Errorf("no format %q", format)
}

func (r Report) writeJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// level says how bad a finding is, in the three steps that the formats of other tools know.
func (f Finding) level() level {
	switch {
	case f.Fails:
		return levelError
	case f.State == StateUnchanged, f.State == StateFixed:
		return levelNote
	case f.Severity == SeverityDeny, f.Severity == SeverityUnknown, f.Severity == SeverityWarn:
		return levelWarning
	default:
		return levelNote
	}
}

type level int

const (
	levelNote level = iota
	levelWarning
	levelError
)

// explained is the message with the fix, which those of severity unknown, relocation and grant do not contain.
func (f Finding) explained() string {
	if f.Fix == "" || strings.Contains(f.Message, f.Fix) {
		return f.Message
	}
	return f.Message + "; to fix: " + f.Fix
}

// uri is the file's name as a URI, relative where the name is.
func uri(file string) string {
	if file == manifest.StdinName {
		return "stdin"
	}
	u := url.URL{Path: filepath.ToSlash(file)}
	if filepath.IsAbs(file) {
		u.Scheme = "file"
	}
	return strings.TrimPrefix(u.String(), "./")
}

func plural(count int, one, many string) string {
	if count == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", count, many)
}
