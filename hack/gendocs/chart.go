package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/reference"
	"github.com/routesteward/routesteward/policy/settings"
	"github.com/routesteward/routesteward/webhook"
)

// durationPattern is what Go reads as a duration (time.ParseDuration), without a sign.
const durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`

// chart returns what in manifests/chart follows from the flags of serve: their schema, their defaults for the templates,
// and their description in values.yaml.
func chart(root string) (map[string]string, error) {
	cfg, opts := policy.DefaultConfig(), webhook.DefaultOptions()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	fs.SortFlags = false
	settings.AddFlags(fs, &cfg)
	opts.AddFlags(fs)
	resolved, err := settings.Resolve(fs, nil, nil)
	if err != nil {
		return nil, err
	}

	defaults := yaml.Node{Kind: yaml.MappingNode, HeadComment: "Generated from the flags of `routesteward serve`: what they are when nobody sets them."}
	properties := map[string]any{}
	var comments strings.Builder
	for _, setting := range resolved {
		flag := fs.Lookup(setting.Flag)
		properties[flag.Name] = flagSchema(flag)
		var node yaml.Node
		if err := node.Encode(setting.Default); err != nil {
			return nil, err
		}
		if node.Kind == yaml.SequenceNode {
			node.Style = yaml.FlowStyle
		}
		entry := yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: flag.Name}, &node}}
		defaults.Content = append(defaults.Content, entry.Content...)
		line, err := yaml.Marshal(&entry)
		if err != nil {
			return nil, err
		}
		_, usage := pflag.UnquoteUsage(flag)
		comments.WriteString("\n")
		for comment := range strings.Lines(reference.Paragraphs(usage)) {
			comments.WriteString("  # " + comment)
		}
		fmt.Fprintf(&comments, "  # %s", line)
	}

	dir := filepath.Join(root, "manifests", "chart")
	defaultsFile, err := yaml.Marshal(&defaults)
	if err != nil {
		return nil, err
	}
	schemaPath, valuesPath := filepath.Join(dir, "values.schema.json"), filepath.Join(dir, "values.yaml")
	schema, err := withFlags(schemaPath, properties)
	if err != nil {
		return nil, err
	}
	values, err := os.ReadFile(valuesPath)
	if err != nil {
		return nil, err
	}
	described, err := replaceBetween(string(values), "# flags:begin", "# flags:end", comments.String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", valuesPath, err)
	}
	readmePath := filepath.Join(root, "manifests", "README.md")
	readme, err := os.ReadFile(readmePath)
	if err != nil {
		return nil, err
	}
	table, err := valuesTable(schema, values)
	if err != nil {
		return nil, err
	}
	tabled, err := replaceBetween(string(readme), "<!-- values:begin -->", "<!-- values:end -->", table)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", readmePath, err)
	}
	return map[string]string{
		readmePath: tabled,
		schemaPath: schema,
		valuesPath: described,
		filepath.Join(dir, "files", "flags.yaml"): string(defaultsFile),
		filepath.Join(dir, "files", "kinds.yaml"): kinds(),
	}, nil
}

// kinds are the kinds of routes for the templates.
func kinds() string {
	var resources, names []string
	for _, row := range policy.Routes() {
		resources, names = append(resources, row.Resource), append(names, string(row.Kind))
	}
	return fmt.Sprintf("# Generated from the table of route kinds.\nresources: [%s]\nkinds: [%s]\n", strings.Join(resources, ", "), strings.Join(names, ", "))
}

// withFlags returns the schema in the file with these properties of flags.
func withFlags(path string, properties map[string]any) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var schema struct {
		Schema               string         `json:"$schema"`
		Title                string         `json:"title"`
		Type                 string         `json:"type"`
		AdditionalProperties bool           `json:"additionalProperties"`
		Properties           map[string]any `json:"properties"`
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&schema); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	schema.Properties["flags"] = map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err = encoder.Encode(schema)
	return text.String(), err
}

// valuesTable describes every value of the chart but the flags, by its schema, with its default.
func valuesTable(schema string, values []byte) (string, error) {
	type property struct {
		Description string
		Properties  map[string]property
	}
	var top property
	var defaults map[string]any
	if err := errors.Join(json.Unmarshal([]byte(schema), &top), yaml.Unmarshal(values, &defaults)); err != nil {
		return "", err
	}
	var text strings.Builder
	text.WriteString("\n| Value | Default | Meaning |\n|---|---|---|\n")
	var write func(prefix string, properties map[string]property, defaults map[string]any) error
	write = func(prefix string, properties map[string]property, defaults map[string]any) error {
		for _, name := range slices.Sorted(maps.Keys(properties)) {
			value, ok := defaults[name]
			if path := prefix + name; path == "flags" || !ok {
				continue
			}
			if nested := properties[name].Properties; nested != nil {
				inner, _ := value.(map[string]any)
				if err := write(prefix+name+".", nested, inner); err != nil {
					return err
				}
				continue
			}
			shown, err := json.Marshal(value)
			if err != nil {
				return err
			}
			fmt.Fprintf(&text, "| `%s%s` | `%s` | %s |\n", prefix, name, shown, properties[name].Description)
		}
		return nil
	}
	err := write("", top.Properties, defaults)
	return text.String() + "\n", err
}

// flagSchema is what a value of the flag has to be in values.yaml.
func flagSchema(flag *pflag.Flag) map[string]any {
	_, usage := pflag.UnquoteUsage(flag)
	schema := map[string]any{"description": usage}
	if values := settings.Values(flag); values != nil {
		allowed := make([]any, 0, len(values)+1)
		for _, value := range values {
			allowed = append(allowed, value)
		}
		if slices.Contains(values, "off") {
			allowed = append(allowed, false) // how YAML reads off without quotes; the templates turn it back
		}
		schema["enum"] = allowed
		return schema
	}
	switch kind := flag.Value.Type(); kind {
	case "bool":
		schema["type"] = "boolean"
	case "int":
		schema["type"] = "integer"
	case "float32":
		schema["type"] = "number"
	case "list":
		schema["type"], schema["items"] = "array", map[string]any{"type": "string"}
	case "duration":
		// A number can only be 0, which needs no unit.
		schema["type"], schema["pattern"], schema["minimum"], schema["maximum"] = []string{"string", "integer"}, durationPattern, 0, 0
	default:
		schema["type"] = "string"
	}
	return schema
}
