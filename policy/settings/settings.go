package settings

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/routesteward/routesteward/policy"
)

// SourceKind is the layer that a value came from.
type SourceKind string

// The layers, strongest first.
const (
	FromFlag        SourceKind = "flag"
	FromEnvironment SourceKind = "environment"
	FromFile        SourceKind = "file"
	FromDefault     SourceKind = "default"
)

// Source says where a value came from.
type Source struct {
	Kind SourceKind `json:"kind"`
	// Name is the variable's name or the file's path; empty for flags and defaults.
	Name string `json:"name,omitempty"`
	// Line is the key's line in the file, from 1.
	Line int `json:"line,omitempty"`
}

func (s Source) String() string {
	switch s.Kind {
	case FromFlag:
		return "command line"
	case FromEnvironment:
		return "environment variable " + s.Name
	case FromFile:
		return fmt.Sprintf("file %s:%d", s.Name, s.Line)
	default:
		return string(s.Kind)
	}
}

// Shadow is a value that a stronger layer overrides.
type Shadow struct {
	Source
	// Value is the text as its source spells it.
	Value string `json:"value"`
}

func (s Shadow) String() string { return fmt.Sprintf("%s (%s)", s.Source, quoteEmpty(s.Value)) }

// Setting is the effective value of one flag.
type Setting struct {
	// Flag is the flag's name without dashes.
	Flag string `json:"flag"`
	// Value is a bool, int64, float64, string or []string; durations are strings. A value that cannot be parsed is the text
	// as it was given.
	Value   any    `json:"value"`
	Default any    `json:"default"`
	Source  Source `json:"source"`
	// Shadows are the weaker layers that give the flag a value too, strongest first; defaults are not counted.
	Shadows []Shadow `json:"shadows,omitempty"`
}

// ValueText is the value as one writes it behind the flag.
func (s Setting) ValueText() string { return plain(s.Value) }

// ShadowText is the shadowed values in words, strongest first.
func (s Setting) ShadowText() string {
	texts := make([]string, len(s.Shadows))
	for i, shadow := range s.Shadows {
		texts[i] = shadow.String()
	}
	return strings.Join(texts, ", ")
}

func (s Setting) sourceText() string {
	if len(s.Shadows) == 0 {
		return s.Source.String()
	}
	return s.Source.String() + ", shadows " + s.ShadowText()
}

// Settings are the effective values of a command's flags, in the order in which the flags were added.
type Settings []Setting

// LogValue renders the settings as one structured group, a group each.
func (s Settings) LogValue() slog.Value {
	groups := make([]slog.Attr, len(s))
	for i, setting := range s {
		attrs := []any{slog.Any("value", setting.Value), slog.String("source", setting.Source.String())}
		if len(setting.Shadows) > 0 {
			attrs = append(attrs, slog.String("shadows", setting.ShadowText()))
		}
		groups[i] = slog.Group(setting.Flag, attrs...)
	}
	return slog.GroupValue(groups...)
}

// Text is a table for people.
func (s Settings) Text() string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "FLAG\tVALUE\tSOURCE")
	for _, setting := range s {
		fmt.Fprintf(table, "--%s\t%s\t%s\n", setting.Flag, quoteEmpty(plain(setting.Value)), setting.sourceText())
	}
	_ = table.Flush() // a strings.Builder does not fail
	return text.String()
}

// YAML is a file for --config with the same effect; comments name each value's source.
func (s Settings) YAML() (string, error) {
	file := &yaml.Node{Kind: yaml.MappingNode}
	for _, setting := range s {
		if setting.Flag == ConfigFlag {
			continue
		}
		var key, value yaml.Node
		key.SetString(setting.Flag)
		switch v := setting.Value.(type) {
		case []string:
			value = yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
			for _, element := range v {
				value.Content = append(value.Content, textNode(element))
			}
		case string:
			value = *textNode(v)
		default:
			if err := value.Encode(v); err != nil {
				return "", err
			}
		}
		// A line break in a value that is shadowed would end the comment, and YAML has no control characters.
		value.LineComment = policy.Printable(setting.sourceText())
		file.Content = append(file.Content, &key, &value)
	}
	text, err := yaml.Marshal(file)
	return string(text), err
}

// textNode is a text on one line. Encode would make blocks, which it cannot read back where the first line is empty.
func textNode(text string) *yaml.Node {
	node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		node.Style = yaml.DoubleQuotedStyle
	}
	return node
}

// blame adds to each error the source of the value that its field, a flag with dashes, carries.
func (s Settings) blame(errs field.ErrorList) []string {
	var faults []string
	for _, err := range errs {
		fault := err.Error()
		for _, setting := range s {
			if "--"+setting.Flag != err.Field {
				continue
			}
			switch {
			case setting.Source.Kind != FromDefault:
				fault += fmt.Sprintf(" (from %s)", fromText(setting.Source))
			case err.Type != field.ErrorTypeRequired:
				fault += " (the default)"
			}
		}
		faults = append(faults, fault)
	}
	return faults
}

func fromText(source Source) string {
	if source.Kind == FromFlag {
		return "the command line"
	}
	return source.String()
}

// typed is the text of a flag's value as the type that JSON and YAML show; text that does not parse stays text.
func typed(value pflag.Value, text string) any {
	var parsed any
	var err error
	switch value.Type() {
	case "bool":
		parsed, err = strconv.ParseBool(text)
	case "int":
		parsed, err = strconv.ParseInt(text, 0, 64)
	case "float32":
		parsed, err = strconv.ParseFloat(text, 32)
	case "duration":
		var d time.Duration
		d, err = time.ParseDuration(text)
		parsed = shortDuration(d)
	case listType:
		var values []string
		values, err = splitList(text)
		parsed = append([]string{}, values...) // [] rather than null
	default:
		return text
	}
	if err != nil {
		return text
	}
	return parsed
}

// DefaultText is the flag's default as people write it; empty: nothing.
func DefaultText(flag *pflag.Flag) string { return plain(typed(unwrap(flag.Value), flag.DefValue)) }

func plain(value any) string {
	if values, ok := value.([]string); ok {
		return joinList(values)
	}
	return fmt.Sprint(value)
}

func quoteEmpty(text string) string {
	if text == "" {
		return `""`
	}
	return text
}
