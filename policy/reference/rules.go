package reference

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/routesteward/routesteward/policy"
)

// Rule is a policy.Rule as JSON shows it.
type Rule struct {
	ID          string `json:"id"`
	Summary     string `json:"summary"`
	Rationale   string `json:"rationale"`
	Remediation string `json:"remediation"`
	// Good and Bad are YAML documents.
	Good string `json:"good"`
	Bad  string `json:"bad"`
}

// Rules returns every rule in the order in which findings are reported.
func Rules() []Rule {
	var rules []Rule
	for _, rule := range policy.Rules() {
		rules = append(rules, Rule{
			ID: rule.ID, Summary: rule.Summary, Rationale: rule.Rationale, Remediation: rule.Remediation,
			Good: strings.TrimSpace(rule.Good) + "\n", Bad: strings.TrimSpace(rule.Bad) + "\n",
		})
	}
	return rules
}

// RulesText is the list of the rules for a terminal.
func RulesText(rules []Rule) string {
	var text strings.Builder
	for _, rule := range rules {
		text.WriteString(rule.ID + "\n" + wrap(rule.Summary, "    "))
	}
	return text.String()
}

// Text is everything about the rule, for a terminal.
func (r Rule) Text() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n%s", r.ID, wrap(r.Summary, "    "))
	fmt.Fprintf(&text, "\nWhy\n%s", wrap(r.Rationale, "    "))
	fmt.Fprintf(&text, "\nWhat to do\n%s", wrap(r.Remediation, "    "))
	fmt.Fprintf(&text, "\nGood\n%s", indent(r.Good))
	fmt.Fprintf(&text, "\nBad\n%s", indent(r.Bad))
	return text.String()
}

// Markdown is everything about the rule, as a section.
func (r Rule) Markdown() string {
	return fmt.Sprintf("## %s\n\n%s\n\n**Why:** %s\n\n**What to do:** %s\n\nGood:\n\n```yaml\n%s```\n\nBad:\n\n```yaml\n%s```\n",
		r.ID, escape(r.Summary), escape(r.Rationale), escape(r.Remediation), r.Good, r.Bad)
}

// escape keeps <placeholders> from being read as HTML.
func escape(text string) string { return strings.ReplaceAll(text, "<", `\<`) }

// RulesMarkdown is the reference of the rules, as a document.
func RulesMarkdown(rules []Rule) string {
	var text strings.Builder
	text.WriteString("# Rules\n\n<!-- generated from the code by `go generate`; change the rules instead -->\n\n")
	for _, rule := range rules {
		fmt.Fprintf(&text, "- [%s](#%s): %s\n", rule.ID, rule.ID, escape(rule.Summary))
	}
	for _, rule := range rules {
		text.WriteString("\n" + rule.Markdown())
	}
	return text.String()
}

// JSON is value as indented JSON in which YAML and URLs stay readable.
func JSON(value any) (string, error) {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(value)
	return text.String(), err
}

func indent(block string) string {
	var text strings.Builder
	for line := range strings.Lines(block) {
		if strings.TrimSpace(line) != "" {
			text.WriteString("    ")
		}
		text.WriteString(line)
	}
	return text.String()
}
