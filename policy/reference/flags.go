// Package reference renders the documentation that the code itself carries: flags and rules.
package reference

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/routesteward/routesteward/policy/settings"
)

// Width is the number of columns that text for a terminal is wrapped to.
const Width = 80

// FlagsText describes the flags of fs for a terminal, in the order of fs.
func FlagsText(fs *pflag.FlagSet) string {
	var text strings.Builder
	fs.VisitAll(func(flag *pflag.Flag) {
		if flag.Hidden {
			return
		}
		name, usage := describe(flag)
		if flag.Shorthand != "" {
			text.WriteString("  -" + flag.Shorthand + ",")
		} else {
			text.WriteString(" ")
		}
		fmt.Fprintf(&text, " --%s", flag.Name)
		if name != "" {
			fmt.Fprintf(&text, " %s", name)
		}
		if defaults := settings.DefaultText(flag); defaults != "" && defaults != "false" {
			usage += fmt.Sprintf(" (default %s)", defaults)
		}
		text.WriteString("\n" + wrap(usage, "        "))
	})
	return text.String()
}

// FlagsMarkdown is a table of the flags of fs, in the order of fs.
func FlagsMarkdown(fs *pflag.FlagSet) string {
	var text strings.Builder
	text.WriteString("| Flag | Default | Meaning |\n|---|---|---|\n")
	fs.VisitAll(func(flag *pflag.Flag) {
		if flag.Hidden {
			return
		}
		name, usage := describe(flag)
		if name != "" {
			name = " " + name
		}
		defaults := settings.DefaultText(flag)
		if defaults != "" {
			defaults = "`" + defaults + "`"
		}
		cells := []string{"`--" + flag.Name + name + "`", defaults, capitalize(usage)}
		for i := range cells {
			cells[i] = strings.ReplaceAll(cells[i], "|", `\|`)
		}
		fmt.Fprintf(&text, "| %s |\n", strings.Join(cells, " | "))
	})
	return text.String()
}

// describe returns the placeholder of the flag's value ("" for switches) and its usage.
func describe(flag *pflag.Flag) (placeholder, usage string) {
	// UnquoteUsage falls back on the Go type's name, which says nothing about a bool, and less than the values of an enum.
	name, usage := pflag.UnquoteUsage(flag)
	switch values := settings.Values(flag); {
	case values != nil:
		name = strings.Join(values, "|")
	case flag.Value.Type() == "bool":
		name = ""
	case name == flag.Value.Type():
		name = strings.ToUpper(name)
	}
	return name, usage
}

func wrap(text, indent string) string {
	var wrapped strings.Builder
	line := indent
	for word := range strings.FieldsSeq(text) {
		if line != indent && len(line)+1+len(word) > Width {
			wrapped.WriteString(line + "\n")
			line = indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	wrapped.WriteString(line + "\n")
	return wrapped.String()
}

func capitalize(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// Paragraphs wraps each paragraph of a text for a terminal.
func Paragraphs(text string) string {
	var wrapped []string
	for _, paragraph := range strings.Split(text, "\n\n") {
		wrapped = append(wrapped, wrap(paragraph, ""))
	}
	return strings.Join(wrapped, "\n")
}
