// Gendocs writes the reference documentation that is generated from the code. It runs in the project's root.
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/reference"
	"github.com/routesteward/routesteward/policy/settings"
	"github.com/routesteward/routesteward/webhook"
	"github.com/routesteward/routesteward/webhook/metrics"
)

func main() {
	documents, err := generate(".")
	if err == nil {
		err = write(documents)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

func write(documents map[string]string) error {
	for path, text := range documents {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate returns the text that each generated file in root should have.
func generate(root string) (map[string]string, error) {
	documents, err := chart(root)
	if err != nil {
		return nil, err
	}
	maps.Copy(documents, map[string]string{
		filepath.Join(root, "policy", "settings", "FLAGS.md"): flagsMarkdown(),
		filepath.Join(root, "policy", "RULES.md"):             reference.RulesMarkdown(reference.Rules()),
		filepath.Join(root, "policy", "check", "ADVICE.md"):   adviceMarkdown(),
		filepath.Join(root, "policy", "audit", "FINDINGS.md"): findingsMarkdown(),
		filepath.Join(root, "webhook", "METRICS.md"):          metricsMarkdown(),
	})
	return documents, nil
}

func adviceMarkdown() string {
	var text strings.Builder
	text.WriteString("# Advice\n\n<!-- generated from the code by `go generate`; change the code instead -->\n\nWhat `routesteward check` says about ReferenceGrants that people wrote (`--advice`). It refuses nothing, there or at admission.\n")
	for _, advice := range check.Advices() {
		fmt.Fprintf(&text, "\n## %s\n\n%s\n\n%s\n", advice.ID, advice.Summary, advice.Rationale)
	}
	return text.String()
}

func findingsMarkdown() string {
	var text strings.Builder
	text.WriteString("# Findings\n\n<!-- generated from the code by `go generate`; change the checks instead -->\n\n" +
		"What `routesteward audit` and the background scan of `routesteward serve` look at, in the order in which it is reported. An error makes the audit fail, with `--strict` a warning too. A finding may be less bad than its check.\n\n")
	for _, check := range audit.Checks() {
		fmt.Fprintf(&text, "- [%s](#%s) (%s): %s\n", check.ID, check.ID, check.Severity, escape(check.Summary))
	}
	for _, check := range audit.Checks() {
		fmt.Fprintf(&text, "\n## %s\n\n%s\n\n**Why:** %s\n\n**What to do:** %s\n", check.ID, escape(check.Summary), escape(check.Rationale), escape(check.Remediation))
	}
	return text.String()
}

// escape keeps <placeholders> from being read as HTML.
func escape(text string) string { return strings.ReplaceAll(text, "<", `\<`) }

func metricsMarkdown() string {
	var text strings.Builder
	text.WriteString("# Metrics\n\n<!-- generated from the code by `go generate`; change the code instead -->\n\n" +
		"Routesteward's own metrics, at `/metrics` of `--metrics-bind-address`, and those of controller-runtime and the Go runtime.\n" +
		"Every series exists in every replica from the start, except where it says otherwise.\n" +
		"Alerts and a dashboard that use them: [manifests/observability](../manifests/observability/README.md).\n")
	writeMetrics(&text, metrics.Own())
	text.WriteString("\n# Metrics of controller-runtime\n\nThose that the alerts and the dashboard use.\n")
	writeMetrics(&text, metrics.Used())
	return text.String()
}

func writeMetrics(text *strings.Builder, rows []metrics.Metric) {
	for _, metric := range rows {
		fmt.Fprintf(text, "\n## %s\n\n%s. %s\n", metric.Name, strings.ToUpper(metric.Type[:1])+metric.Type[1:], metric.Help)
		if metric.When != "" {
			fmt.Fprintf(text, "\n%s\n", metric.When)
		}
		if len(metric.Labels) > 0 {
			text.WriteString("\n| Label | Values |\n|---|---|\n")
		}
		for _, label := range metric.Labels {
			values := "any"
			if len(label.Values) > 0 {
				values = "`" + strings.Join(label.Values, "`, `") + "`"
			}
			fmt.Fprintf(text, "| `%s` | %s |\n", label.Name, values)
		}
	}
}

func flagsMarkdown() string {
	cfg, opts, resolved := policy.DefaultConfig(), webhook.DefaultOptions(), check.DefaultSettings()
	var text strings.Builder
	text.WriteString("# Flags\n\n<!-- generated from the code by `go generate`; change the code instead -->\n\n" +
		"A setting has the value of its flag, else of its environment variable (`ROUTESTEWARD_OUTSIDE` for `--outside`), else of the file that `--config` names, else its default.\n" +
		"An unknown variable or key is an error. `routesteward config` shows each value, its source, and what it shadows; so does the first line of the log of `routesteward serve`.\n" +
		"In the [chart](../../manifests/README.md#changing-flags) each flag of `serve` is a value under `flags`.\n")
	for _, group := range []struct {
		title, about string
		add          func(*pflag.FlagSet)
	}{
		{"Policy", "What is admitted. Every command that evaluates routes has these flags.", func(fs *pflag.FlagSet) { settings.AddFlags(fs, &cfg) }},
		{"Server", "`routesteward serve` and `routesteward config`.", opts.AddFlags},
		{"Check", "`routesteward check`. Other commands that read a cluster or a snapshot have some of them.", resolved.AddFlags},
	} {
		fs := pflag.NewFlagSet(group.title, pflag.ContinueOnError)
		fs.SortFlags = false
		group.add(fs)
		fmt.Fprintf(&text, "\n## %s\n\n%s\n\n%s", group.title, group.about, reference.FlagsMarkdown(fs))
	}
	return text.String()
}

// replaceBetween replaces what stands between two lines that occur once each, in this order.
func replaceBetween(text, begin, end, replacement string) (string, error) {
	if strings.Count(text, begin) != 1 || strings.Count(text, end) != 1 || strings.Index(text, begin) > strings.Index(text, end) {
		return "", fmt.Errorf("want %s and, after it, %s, once each", begin, end)
	}
	before, rest, _ := strings.Cut(text, begin)
	_, after, _ := strings.Cut(rest, end)
	return before + begin + "\n" + replacement + end + after, nil
}
