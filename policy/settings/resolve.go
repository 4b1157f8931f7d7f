package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/routesteward/routesteward/policy"
)

// EnvironmentPrefix begins the name of every environment variable that routesteward reads.
const EnvironmentPrefix = "ROUTESTEWARD_"

// EnvironmentVariable is the variable that sets a flag (named without dashes).
func EnvironmentVariable(flag string) string {
	return EnvironmentPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Validator evaluates resolved values. The field of each error is the flag, with dashes, that carries the value.
type Validator interface{ Validate() field.ErrorList }

// InvalidError holds every fault of a configuration.
type InvalidError struct {
	// Faults are sentences that each name the flag, variable or key at fault, and its source.
	Faults []string
}

func (e *InvalidError) Error() string {
	return "the configuration is not valid:\n  " + strings.Join(e.Faults, "\n  ")
}

// Resolve completes the parsed flags of fs from environ ("NAME=value") and the file that --config names, then asks the
// validators, which must be pointers to what the flags are bound to. Variables and keys that belong to a flag in known
// are another command's: they are right, and not read. An error is an *InvalidError; the settings are complete even then.
func Resolve(fs *pflag.FlagSet, known, environ []string, validators ...Validator) (Settings, error) {
	known = append(Names(fs), known...)
	variables, faults := readEnvironment(environ, known)
	var settings Settings
	var invalid field.ErrorList
	resolve := func(flag *pflag.Flag, file map[string]given) {
		setting, err := complete(flag, variables, file)
		settings = append(settings, setting)
		if err != nil {
			invalid = append(invalid, err)
		}
	}

	var file map[string]given
	if config := fs.Lookup(ConfigFlag); config != nil {
		resolve(config, nil)
		var fileFaults []string
		file, fileFaults = readFile(settings[0], known)
		faults = append(faults, fileFaults...)
	}
	fs.VisitAll(func(flag *pflag.Flag) {
		if flag.Name != ConfigFlag {
			resolve(flag, file)
		}
	})

	for _, validator := range validators {
		invalid = append(invalid, validator.Validate()...)
	}
	if faults = append(faults, settings.blame(invalid)...); len(faults) > 0 {
		for i := range faults {
			faults[i] = policy.Printable(faults[i])
		}
		return settings, &InvalidError{Faults: faults}
	}
	return settings, nil
}

// given is a value as one layer spells it.
type given struct {
	Source
	text   string
	values []string // of a YAML list
	isList bool
}

// complete takes the flag's value from the strongest layer that gives one.
func complete(flag *pflag.Flag, variables, file map[string]given) (Setting, *field.Error) {
	value := unwrap(flag.Value)
	setting := Setting{Flag: flag.Name, Default: typed(value, flag.DefValue), Source: Source{Kind: FromDefault}}
	var layers []given
	var err error
	if flag.Changed {
		layers = append(layers, given{Source: Source{Kind: FromFlag}, text: value.String()})
		if t, ok := flag.Value.(*tolerant); ok && t.err != nil {
			layers[0].text, err = t.text, t.err
		}
	}
	for _, layer := range []map[string]given{variables, file} {
		if value, ok := layer[flag.Name]; ok {
			layers = append(layers, value)
		}
	}
	if len(layers) == 0 {
		setting.Value = setting.Default
		return setting, nil
	}

	winner := layers[0]
	setting.Source = winner.Source
	for _, layer := range layers[1:] {
		setting.Shadows = append(setting.Shadows, Shadow{Source: layer.Source, Value: layer.text})
	}
	if winner.Kind != FromFlag {
		err = set(value, winner)
	}
	if err != nil {
		if value.Type() != listType { // what a failed Set leaves behind differs; the validators should see the default
			_ = value.Set(flag.DefValue)
		}
		setting.Value = winner.text
		return setting, field.Invalid(field.NewPath("--"+flag.Name), winner.text, expected(value, winner, err))
	}
	setting.Value = typed(value, value.String())
	if l, ok := value.(interface{ values() []string }); ok {
		setting.Value = l.values() // their text would be trimmed when it is read
	}
	return setting, nil
}

var errShape = errors.New("a list where one value is expected, or one value where a list is expected")

func set(value pflag.Value, winner given) error {
	target, takesList := value.(interface{ replace([]string) })
	if winner.Kind == FromFile && winner.isList != takesList {
		return errShape
	}
	if winner.isList {
		target.replace(winner.values)
		return nil
	}
	return value.Set(winner.text)
}

// expected says what a value that could not be set should look like.
func expected(value pflag.Value, winner given, err error) string {
	switch kind := value.Type(); {
	case kind == listType && winner.Kind == FromFile:
		return fmt.Sprintf("want a YAML list, such as [%s]", winner.text)
	case kind == listType:
		return `want values separated by commas, on one line; a value that holds a comma goes in "quotes"`
	case errors.Is(err, errShape):
		return "want one value, not a list"
	case kind == "bool":
		return "want true or false"
	case kind == "duration":
		return "want a duration such as 30s, 5m or 24h"
	case kind == "int":
		return "want a whole number"
	case kind == "float32":
		return "want a number"
	default:
		return err.Error()
	}
}

// readEnvironment returns the variables of known flags by flag name, and a fault for each unknown ROUTESTEWARD_ variable.
func readEnvironment(environ, known []string) (map[string]given, []string) {
	flags := make(map[string]string, len(known))
	for _, flag := range known {
		flags[EnvironmentVariable(flag)] = flag
	}
	links := serviceLinks(environ)
	variables := map[string]given{}
	var faults []string
	for _, entry := range environ {
		name, text, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, EnvironmentPrefix) {
			continue
		}
		if flag, ok := flags[name]; ok {
			variables[flag] = given{Source: Source{Kind: FromEnvironment, Name: name}, text: text}
			continue
		}
		if links(name) {
			continue
		}
		fault := name + ": unknown environment variable"
		spelled := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, EnvironmentPrefix), "_", "-"))
		if flag := Nearest(spelled, known); flag != "" {
			fault += "; did you mean " + EnvironmentVariable(flag) + "?"
		}
		faults = append(faults, fault)
	}
	slices.Sort(faults)
	return variables, faults
}

var serviceLink = regexp.MustCompile(`^_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// serviceLinks recognizes what the kubelet sets for each Service of the Pod's namespace, a Service named routesteward
// included (ROUTESTEWARD_SERVICE_HOST, ROUTESTEWARD_PORT_443_TCP, ...): nobody wrote these as settings.
func serviceLinks(environ []string) func(name string) bool {
	var services []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if service, ok := strings.CutSuffix(name, "_SERVICE_HOST"); ok {
			services = append(services, service)
		}
	}
	return func(name string) bool {
		return slices.ContainsFunc(services, func(service string) bool {
			rest, ok := strings.CutPrefix(name, service)
			return ok && serviceLink.MatchString(rest)
		})
	}
}

// readFile returns the values of the file that the setting of --config names, by flag name, and its faults.
func readFile(config Setting, known []string) (map[string]given, []string) {
	path := plain(config.Value)
	if path == "" {
		return nil, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return nil, []string{fmt.Sprintf("--%s: cannot read %s: %v (from %s)", ConfigFlag, path, err, fromText(config.Source))}
	}

	values := map[string]given{}
	var faults []string
	fault := func(line int, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s:%d: ", path, line)+fmt.Sprintf(format, args...))
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return values, nil
	} else if err != nil {
		return nil, []string{fmt.Sprintf("%s: not YAML: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))}
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return values, nil
	}
	if root.Kind != yaml.MappingNode {
		fault(root.Line, "want a map of flag names to values")
		return nil, faults
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, node := root.Content[i], root.Content[i+1]
		switch first, seen := values[key.Value]; {
		case key.Value == ConfigFlag:
			fault(key.Line, "a configuration file cannot name another one")
		case !slices.Contains(known, key.Value):
			hint := ""
			if flag := Nearest(strings.TrimLeft(key.Value, "-"), known); flag != "" {
				hint = fmt.Sprintf("; did you mean %q?", flag)
			}
			fault(key.Line, "unknown key %q%s", key.Value, hint)
		case seen:
			fault(key.Line, "duplicate key %q, first on line %d", key.Value, first.Line)
		default:
			value, problem := fileValue(node)
			if problem != "" {
				fault(node.Line, "%s: %s", key.Value, problem)
				continue
			}
			value.Source = Source{Kind: FromFile, Name: path, Line: key.Line}
			values[key.Value] = value
		}
	}
	var next yaml.Node
	if err := decoder.Decode(&next); !errors.Is(err, io.EOF) {
		fault(max(next.Line, 1), "more than one YAML document")
	}
	return values, faults
}

// fileValue keeps scalars as they are spelled: "off" stays off, whatever YAML may make of it.
func fileValue(node *yaml.Node) (given, string) {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch node.Kind {
	case yaml.ScalarNode:
		if node.Tag == "!!null" {
			return given{}, `no value; write "" or [] if an empty one is meant`
		}
		return given{text: node.Value}, ""
	case yaml.SequenceNode:
		value := given{isList: true}
		for _, item := range node.Content {
			if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
				return given{}, "want a list of plain values"
			}
			value.values = append(value.values, item.Value)
		}
		value.text = joinList(value.values)
		return value, ""
	default:
		return given{}, "want a value or a list, not a map"
	}
}

// Nearest is the name that word most likely was meant to be, or "" when none is close.
func Nearest(word string, names []string) string {
	best, distance := "", max(2, len(word)/3)+1
	for _, name := range names {
		if d := editDistance(word, name); d < distance {
			best, distance = name, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions and replacements of bytes that turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
