package manifest

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Locator finds fields in a document's text. It parses the document a second time, so it is made only where something
// is wrong.
type Locator struct {
	Document Document
	root     *yaml.Node
	// keys makes it point to the key of a field with a plain value, not to the value.
	keys bool
}

// Locate makes a Locator for the document.
func (d Document) Locate() *Locator {
	root, _ := nodes(d.Raw) // where YAML cannot be parsed everything is at the document's beginning
	return &Locator{Document: d, root: root}
}

// nodes is the tree of a document of YAML or JSON.
func nodes(raw []byte) (*yaml.Node, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(raw, &document); err != nil {
		return nil, err
	}
	if len(document.Content) == 0 {
		return nil, io.EOF
	}
	return document.Content[0], nil
}

// Find returns where a field of an item (-1: of the document itself) stands, or what comes nearest above it, and the
// text of that line.
func (l *Locator) Find(item int, field string) (line, column int, text string) {
	at := l.root
	if at == nil {
		return l.position(1, 1)
	}
	line, column = at.Line, at.Column
	steps := parsePath(field)
	if item >= 0 {
		steps = append([]string{"items", strconv.Itoa(item)}, steps...)
	}
	for _, step := range steps {
		for at.Kind == yaml.AliasNode {
			at = at.Alias
		}
		var key, value *yaml.Node
		switch at.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(at.Content); i += 2 {
				// The last one, as a duplicate key is the one that is too many.
				if at.Content[i].Value == step {
					key, value = at.Content[i], at.Content[i+1]
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(at.Content) {
				key, value = at.Content[i], at.Content[i]
			}
		}
		if value == nil {
			break
		}
		// A list or map begins on the line after its key, which is where people look.
		if value.Kind == yaml.ScalarNode && value.Value != "" && !l.keys {
			key = value
		}
		line, column, at = key.Line, key.Column, value
	}
	return l.position(line, column)
}

// position turns one in the document into one in the file.
func (l *Locator) position(line, column int) (int, int, string) {
	var text []byte
	rest := l.Document.Raw
	for range line {
		text, rest, _ = bytes.Cut(rest, []byte("\n"))
	}
	if line == 1 && l.Document.column > 1 {
		column += l.Document.column - 1
	}
	return l.Document.Line + line - 1, column, strings.TrimRight(string(text), "\r")
}

// parsePath splits spec.rules[0].name and metadata.labels[a.b/c] into their steps.
func parsePath(field string) []string {
	var steps []string
	for field != "" {
		if rest, found := strings.CutPrefix(field, "["); found {
			var step string
			step, field, _ = strings.Cut(rest, "]")
			steps = append(steps, step)
		} else {
			i := strings.IndexAny(field, ".[")
			if i < 0 {
				i = len(field)
			}
			if i > 0 {
				steps = append(steps, field[:i])
			}
			field = field[i:]
		}
		field = strings.TrimPrefix(field, ".")
	}
	return steps
}

var atLine = regexp.MustCompile(`(?m)^\s*(?:yaml: )?line (\d+): (.*)$`)

// diagnose says where the document is not YAML, or not YAML as kubectl wants it. err is what its conversion to JSON said.
func (d Document) diagnose(err error) []Problem {
	l := &Locator{Document: d}
	problem := func(line, column int, message string) Problem {
		line, column, _ = l.position(line, column)
		return Problem{File: d.File, Line: line, Column: column, Message: message}
	}
	var node yaml.Node
	parseErr := yaml.Unmarshal(d.Raw, &node)
	var load *yaml.LoadError
	if errors.As(parseErr, &load) && load.Mark.Line > 0 {
		message, mark := "not YAML: "+load.Message, load.Mark
		switch {
		case load.Message == "found unexpected end of stream": // which is not where the mistake is
			message, mark = "not YAML: the quote that begins here is not closed", load.ContextMark
		case tabAt(d.Raw, mark.Line):
			message += " (the line is indented with a tab; YAML wants spaces)"
		}
		return []Problem{problem(mark.Line, max(mark.Column, 1), message)}
	}
	if parseErr == nil {
		var problems []Problem
		duplicateKeys(&node, func(key, first *yaml.Node) {
			problems = append(problems, problem(key.Line, key.Column,
				"key "+strconv.Quote(key.Value)+" is here twice, first on line "+strconv.Itoa(d.Line+first.Line-1)))
		})
		badKeys(&node, func(key *yaml.Node) {
			problems = append(problems, problem(key.Line, key.Column,
				"a map or list cannot be a key; where {{ }} is a template, render it first and check what comes out"))
		})
		if len(problems) > 0 {
			return problems
		}
	}
	if at := badCharacter(d.Raw); at >= 0 {
		before := d.Raw[:at]
		return []Problem{problem(1+bytes.Count(before, []byte("\n")), 1+utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]),
			"not YAML: this byte is no character that a text can hold (UTF-8 is wanted)")}
	}
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if match := atLine.FindStringSubmatch(err.Error()); match != nil {
		if line, convErr := strconv.Atoi(match[1]); convErr == nil {
			return []Problem{problem(max(line, 1), 1, "not YAML: "+match[2])}
		}
	}
	return []Problem{problem(1, 1, "not YAML: "+text)}
}

// badCharacter is the offset of the first byte that is not UTF-8 or a control character; -1: there is none.
func badCharacter(raw []byte) int {
	for i := 0; i < len(raw); {
		r, size := utf8.DecodeRune(raw[i:])
		if r == utf8.RuneError && size == 1 || r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == '\x7f' {
			return i
		}
		i += size
	}
	return -1
}

func tabAt(raw []byte, line int) bool {
	var text []byte
	for range line {
		text, raw, _ = bytes.Cut(raw, []byte("\n"))
	}
	return bytes.HasPrefix(bytes.TrimLeft(text, " "), []byte("\t"))
}

// duplicateKeys calls found for every key that stands in its map a second time. It does not follow aliases: what they
// stand for is looked at where it is defined.
func duplicateKeys(node *yaml.Node, found func(key, first *yaml.Node)) {
	if node.Kind == yaml.MappingNode {
		seen := map[string]*yaml.Node{}
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
				continue
			}
			if first := seen[key.Value]; first != nil {
				found(key, first)
			} else {
				seen[key.Value] = key
			}
		}
	}
	for _, child := range node.Content {
		duplicateKeys(child, found)
	}
}

// badKeys calls found for every key that JSON cannot have.
func badKeys(node *yaml.Node, found func(key *yaml.Node)) {
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 && (child.Kind == yaml.MappingNode || child.Kind == yaml.SequenceNode) {
			found(child)
			continue
		}
		badKeys(child, found)
	}
}
