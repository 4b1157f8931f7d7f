package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// edit replaces the bytes from start up to end.
type edit struct {
	start, end int
	with       string
}

// apply makes edits that do not overlap; those at one place in the order in which they were asked for.
func apply(text []byte, edits []edit) []byte {
	sorted := slices.Clone(edits)
	slices.SortStableFunc(sorted, func(a, b edit) int { return a.start - b.start })
	var out bytes.Buffer
	at := 0
	for _, e := range sorted {
		out.Write(text[at:e.start])
		out.WriteString(e.with)
		at = e.end
	}
	out.Write(text[at:])
	return out.Bytes()
}

// editor makes the smallest changes to the text of one document, at the positions that kyaml's nodes carry. kyaml's own
// writer keeps comments and order, but lays out and quotes everything anew.
type editor struct {
	text []byte
	root *yaml.RNode
	// lines has the offset at which each line begins, by YAML's idea of a line break.
	lines []int
	edits []edit
	// namespaces is what the document shall say in the end, by the path of the object that names the namespace.
	namespaces map[string]string
}

func newEditor(text []byte) (*editor, error) {
	root, err := yaml.Parse(string(text))
	if err != nil {
		return nil, err
	}
	return &editor{text: text, root: root, lines: lineStarts(text), namespaces: map[string]string{}}, nil
}

var byteOrderMark = []byte("\uFEFF")

func lineStarts(text []byte) []int {
	at := 0
	if bytes.HasPrefix(text, byteOrderMark) {
		at = len(byteOrderMark) // YAML does not count it as a character
	}
	starts := []int{at}
	for at < len(text) {
		width := lineBreak(text[at:])
		if width == 0 {
			at++
			continue
		}
		at += width
		starts = append(starts, at)
	}
	return starts
}

// lineBreak is the length of the line break that text begins with, or 0. YAML 1.1 knows more of them than line feeds.
func lineBreak(text []byte) int {
	for _, br := range []string{"\r\n", "\n", "\r", "\u0085", "\u2028", "\u2029"} {
		if bytes.HasPrefix(text, []byte(br)) {
			return len(br)
		}
	}
	return 0
}

// offset is where a node begins.
func (e *editor) offset(node *yaml.Node) int {
	at := e.lines[node.Line-1]
	for range node.Column - 1 {
		_, width := utf8.DecodeRune(e.text[at:])
		at += width
	}
	return at
}

// lineEnd is where the line that holds the offset ends, before its line break.
func (e *editor) lineEnd(at int) int {
	for at < len(e.text) && lineBreak(e.text[at:]) == 0 {
		at++
	}
	return at
}

// newline is the line break that the text uses.
func newline(text []byte) string {
	for at := range text {
		if width := lineBreak(text[at:]); width > 0 {
			return string(text[at : at+width])
		}
	}
	return "\n"
}

// SetNamespace makes the object at path, such as spec.rules[0].backendRefs[1] or metadata, name a namespace.
func (e *editor) setNamespace(path, namespace string) error {
	mapping, err := lookup(e.root.YNode(), path)
	if err == nil {
		err = e.set(mapping, namespace)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	e.namespaces[path] = namespace
	return nil
}

func (e *editor) set(mapping *yaml.Node, namespace string) error {
	if mapping.Kind != yaml.MappingNode {
		return errors.New("is no map")
	}
	content := mapping.Content
	at := func(name string) int {
		for i := 0; i+1 < len(content); i += 2 {
			if content[i].Value == name {
				return i
			}
		}
		return -1
	}
	if i := at("namespace"); i >= 0 {
		return e.replace(content[i], content[i+1], namespace)
	}
	for _, name := range []string{"name", "generateName"} {
		if i := at(name); i >= 0 {
			return e.insert(content[i], content[i+1], mapping.Style&yaml.FlowStyle != 0, namespace)
		}
	}
	return errors.New("its name is not written there but merged in (<<)")
}

func (e *editor) replace(key, value *yaml.Node, namespace string) error {
	start, end, err := e.token(value)
	if err != nil {
		return err
	}
	with := scalar(namespace)
	switch {
	case start == end: // nothing is written, which is null
		if _, start, err = e.token(key); err != nil {
			return err
		}
		colon := bytes.IndexByte(e.text[start:], ':')
		if colon < 0 {
			return errors.New("cannot be changed as it is written")
		}
		start += colon + 1
		end, with = start, " "+with
	case e.text[start] == '"':
		with = strconv.Quote(namespace)
	case e.text[start] == '\'':
		with = "'" + namespace + "'"
	}
	e.add(edit{start, end, with})
	return nil
}

// insert writes a namespace behind an entry of a map.
func (e *editor) insert(key, value *yaml.Node, flow bool, namespace string) error {
	keyStart, keyEnd, err := e.token(key)
	if err != nil {
		return err
	}
	_, valueEnd, err := e.token(value)
	if err != nil {
		return err
	}
	lineStart := e.lines[key.Line-1]
	indent := e.text[lineStart:keyStart]
	alone := len(bytes.Trim(indent, " \t")) == 0
	if !flow {
		end := e.lineEnd(valueEnd)
		if !alone { // behind a dash
			indent = bytes.Repeat([]byte(" "), key.Column-1)
		}
		e.add(edit{end, end, e.breakAt(end) + string(indent) + "namespace: " + scalar(namespace)})
		return nil
	}
	name, colon, comma, text := "namespace", ": ", ", ", scalar(namespace)
	if e.text[keyStart] == '"' {
		name, text = `"namespace"`, strconv.Quote(namespace)
		if rest := string(e.text[keyEnd:max(keyEnd, valueEnd)]); len(rest) > 1 && rest[0] == ':' && !strings.ContainsRune(" \t\r\n", rune(rest[1])) {
			colon, comma = ":", "," // compact JSON
		}
	}
	if alone {
		comma = "," + e.breakAt(e.lineEnd(keyStart)) + string(indent)
	}
	e.add(edit{valueEnd, valueEnd, comma + name + colon + text})
	return nil
}

func (e *editor) breakAt(at int) string {
	if width := lineBreak(e.text[at:]); width > 0 {
		return string(e.text[at : at+width])
	}
	return newline(e.text)
}

// add drops what an alias to the same map asks for a second time.
func (e *editor) add(new edit) {
	if !slices.Contains(e.edits, new) {
		e.edits = append(e.edits, new)
	}
}

// token is where a scalar or an alias is written, without its anchor.
func (e *editor) token(node *yaml.Node) (start, end int, err error) {
	unknown := errors.New("cannot be changed as it is written")
	start = e.offset(node)
	written := func(token string) (int, int, error) {
		if bytes.HasPrefix(e.text[start:], []byte(token)) {
			return start, start + len(token), nil
		}
		return 0, 0, unknown
	}
	if node.Kind == yaml.AliasNode {
		return written("*" + node.Value)
	}
	if node.Kind != yaml.ScalarNode {
		return 0, 0, unknown
	}
	if node.Anchor != "" {
		_, end, err := written("&" + node.Anchor)
		if err != nil {
			return 0, 0, err
		}
		blank := len(e.text[end:]) - len(bytes.TrimLeft(e.text[end:], " \t"))
		start = end + blank
	}
	switch {
	case node.Style&(yaml.TaggedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return 0, 0, unknown
	case node.Style&yaml.DoubleQuotedStyle != 0:
		for at := start + 1; at < len(e.text); at++ {
			switch e.text[at] {
			case '\\':
				at++
			case '"':
				return start, at + 1, nil
			}
		}
		return 0, 0, unknown
	case node.Style&yaml.SingleQuotedStyle != 0:
		for at := start + 1; at < len(e.text); at++ {
			if e.text[at] != '\'' {
				continue
			}
			if at++; at == len(e.text) || e.text[at] != '\'' { // two quotes stand for one
				return start, at, nil
			}
		}
		return 0, 0, unknown
	}
	return written(node.Value)
}

// result is the text with all changes, once it is certain that it says what it said before, but for the namespaces.
func (e *editor) result() ([]byte, error) {
	result := apply(e.text, e.edits)
	unfaithful := errors.New("cannot be changed in place without changing other fields too; YAML anchors may be the reason")
	var want, got any
	if err := yaml.Unmarshal(e.text, &want); err != nil {
		return nil, err
	}
	for path, namespace := range e.namespaces {
		if !assign(want, path, namespace) {
			return nil, unfaithful
		}
	}
	if err := yaml.Unmarshal(result, &got); err != nil || !reflect.DeepEqual(want, got) {
		return nil, unfaithful
	}
	if json.Valid(e.text) && !json.Valid(result) {
		return nil, unfaithful
	}
	return result, nil
}

func assign(value any, path, namespace string) bool {
	for _, s := range steps(path) {
		switch v := value.(type) {
		case map[string]any:
			value = v[s.field]
		case []any:
			if s.index < 0 || s.index >= len(v) {
				return false
			}
			value = v[s.index]
		default:
			return false
		}
	}
	object, ok := value.(map[string]any)
	if ok {
		object["namespace"] = namespace
	}
	return ok
}

// lookup finds the node at a field path.
func lookup(node *yaml.Node, path string) (*yaml.Node, error) {
	missing := errors.New("is not written there")
	for _, s := range steps(path) {
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		var next *yaml.Node
		switch {
		case node.Kind == yaml.MappingNode && s.field != "":
			for i := 0; i+1 < len(node.Content); i += 2 {
				if node.Content[i].Value == s.field {
					next = node.Content[i+1]
				}
			}
		case node.Kind == yaml.SequenceNode && s.field == "" && s.index < len(node.Content):
			next = node.Content[s.index]
		}
		if next == nil {
			return nil, missing
		}
		node = next
	}
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node, nil
}

// step is a field, or an index into a list where field is empty.
type step struct {
	field string
	index int
}

func steps(path string) []step {
	var out []step
	for _, part := range strings.Split(path, ".") {
		field, indexes, _ := strings.Cut(part, "[")
		out = append(out, step{field: field})
		if index, err := strconv.Atoi(strings.TrimSuffix(indexes, "]")); err == nil {
			out = append(out, step{index: index})
		}
	}
	return out
}

// scalar is a text as YAML without quotes where that means the same text.
func scalar(text string) string {
	out, err := yaml.Marshal(text)
	if err != nil {
		return strconv.Quote(text)
	}
	return strings.TrimSuffix(string(out), "\n")
}
