package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	k8syaml "sigs.k8s.io/yaml"
)

// Edit replaces the bytes from Start up to End.
type Edit struct {
	Start, End int
	With       string
}

// Apply makes edits that do not overlap; those at one place in the order in which they were asked for.
func Apply(text []byte, edits []Edit) []byte {
	sorted := slices.Clone(edits)
	slices.SortStableFunc(sorted, func(a, b Edit) int { return a.Start - b.Start })
	var out bytes.Buffer
	at := 0
	for _, e := range sorted {
		out.Write(text[at:e.Start])
		out.WriteString(e.With)
		at = e.End
	}
	out.Write(text[at:])
	return out.Bytes()
}

// Editor makes the smallest changes to the text of one document, at the positions that YAML's nodes carry: to write the
// nodes would keep comments and order, but lay out and quote everything again.
type Editor struct {
	text []byte
	root *yaml.Node
	// lines has the offset at which each line begins, by YAML's idea of a line break.
	lines []int
	edits []Edit
	// fields is what the document shall say in the end.
	fields []setting
}

// setting is a field with the value that it shall have; nil: it shall not be there.
type setting struct {
	path  []string
	value any
}

// NewEditor makes an editor for the text of one document.
func NewEditor(text []byte) (*Editor, error) {
	root, err := nodes(text)
	if err != nil {
		return nil, err
	}
	return &Editor{text: text, root: root, lines: lineStarts(text)}, nil
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
	if len(text) == 0 || text[0] != '\n' && text[0] != '\r' && text[0] < utf8.RuneSelf {
		return 0 // soon, as it is asked about every byte
	}
	for _, br := range []string{"\r\n", "\n", "\r", "\u0085", "\u2028", "\u2029"} {
		if bytes.HasPrefix(text, []byte(br)) {
			return len(br)
		}
	}
	return 0
}

// offset is where a node begins.
func (e *Editor) offset(node *yaml.Node) int {
	at := e.lines[node.Line-1]
	for range node.Column - 1 {
		_, width := utf8.DecodeRune(e.text[at:])
		at += width
	}
	return at
}

// lineEnd is where the line that holds the offset ends, before its line break.
func (e *Editor) lineEnd(at int) int {
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

// set gives the field at path, such as metadata.name or spec.rules[0].backendRefs[1].namespace, a value: a text, a list, or
// nil, which takes it out.
func (e *Editor) set(path []string, value any) error {
	object, name := path[:len(path)-1], path[len(path)-1]
	mapping, err := lookup(e.root, object)
	if err == nil && mapping.Kind != yaml.MappingNode {
		err = errors.New("is no map")
	}
	if err == nil {
		switch value := value.(type) {
		case string:
			err = e.setText(mapping, name, value)
		case nil:
			return e.remove(path, mapping)
		default:
			err = e.prepend(object, mapping, name, value)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", joinPath(object), err)
	}
	e.fields = append(e.fields, setting{path, value})
	return nil
}

// entry is the index of a key in a map, or -1.
func entry(mapping *yaml.Node, name string) int {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return i
		}
	}
	return -1
}

func (e *Editor) setText(mapping *yaml.Node, field, text string) error {
	content := mapping.Content
	if i := entry(mapping, field); i >= 0 {
		return e.replace(content[i], content[i+1], text)
	}
	for _, name := range []string{"name", "generateName"} {
		if i := entry(mapping, name); i >= 0 {
			return e.insert(content[i], content[i+1], mapping.Style&yaml.FlowStyle != 0, text)
		}
	}
	return errors.New("its name is not written there but merged in (<<)")
}

// remove takes an entry out of a map, and in block style a map that is left empty with it.
func (e *Editor) remove(path []string, mapping *yaml.Node) error {
	i := entry(mapping, path[len(path)-1])
	if i < 0 {
		return fmt.Errorf("%s: is not written there", joinPath(path))
	}
	key, value := mapping.Content[i], mapping.Content[i+1]
	start, _, err := e.token(key)
	_, end, valueErr := e.token(value)
	if err = errors.Join(err, valueErr); err != nil {
		return fmt.Errorf("%s: cannot be changed as it is written", joinPath(path))
	}
	e.fields = append(e.fields, setting{path, nil})
	if mapping.Style&yaml.FlowStyle != 0 {
		switch {
		case i+2 < len(mapping.Content):
			end = e.offset(mapping.Content[i+2])
		case i > 0:
			start = max(bytes.LastIndexByte(e.text[:start], ','), 0)
		}
		e.add(Edit{start, end, ""})
		return nil
	}
	if len(mapping.Content) == 2 && len(path) > 1 {
		path = path[:len(path)-1]
		parent, err := lookup(e.root, path[:len(path)-1])
		if err != nil {
			return fmt.Errorf("%s: %w", joinPath(path), err)
		}
		key = parent.Content[entry(parent, path[len(path)-1])]
		e.fields = append(e.fields, setting{path, nil})
	}
	start, end = e.lines[key.Line-1], e.lineEnd(end)
	e.add(Edit{start, end + lineBreak(e.text[end:]), ""})
	return nil
}

// prepend writes a list into the map at a path, in front of its other entries.
func (e *Editor) prepend(path []string, mapping *yaml.Node, name string, value any) error {
	if len(mapping.Content) == 0 || entry(mapping, name) >= 0 {
		return errors.New("cannot be changed as it is written")
	}
	first := mapping.Content[0]
	start := e.offset(first)
	indent := string(e.text[e.lines[first.Line-1]:start])
	alone := strings.Trim(indent, " \t") == ""
	if mapping.Style&yaml.FlowStyle != 0 {
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		with := strconv.Quote(name) + ": " + string(text) + ", "
		if alone {
			with = strings.TrimSuffix(with, " ") + e.breakAt(e.lineEnd(start)) + indent
		}
		e.add(Edit{start, start, with})
		return nil
	}
	if !alone {
		return errors.New("cannot be changed as it is written")
	}
	text, err := k8syaml.Marshal(map[string]any{name: value})
	if err != nil {
		return err
	}
	// Behind the line above it, which is the map's own key: a comment in between is about the first entry.
	parent, err := lookup(e.root, path[:len(path)-1])
	if err != nil {
		return err
	}
	end := e.lineEnd(e.lines[parent.Content[entry(parent, path[len(path)-1])].Line-1])
	br := e.breakAt(end)
	with := ""
	for line := range strings.Lines(string(text)) {
		with += br + indent + strings.TrimSuffix(line, "\n")
	}
	e.add(Edit{end, end, with})
	return nil
}

func (e *Editor) replace(key, value *yaml.Node, namespace string) error {
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
	e.add(Edit{start, end, with})
	return nil
}

// insert writes a namespace behind an entry of a map.
func (e *Editor) insert(key, value *yaml.Node, flow bool, namespace string) error {
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
		e.add(Edit{end, end, e.breakAt(end) + string(indent) + "namespace: " + scalar(namespace)})
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
	e.add(Edit{valueEnd, valueEnd, comma + name + colon + text})
	return nil
}

func (e *Editor) breakAt(at int) string {
	if width := lineBreak(e.text[at:]); width > 0 {
		return string(e.text[at : at+width])
	}
	return newline(e.text)
}

// add drops what an alias to the same map asks for a second time.
func (e *Editor) add(new Edit) {
	if !slices.Contains(e.edits, new) {
		e.edits = append(e.edits, new)
	}
}

// token is where a scalar or an alias is written, without its anchor.
func (e *Editor) token(node *yaml.Node) (start, end int, err error) {
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
func (e *Editor) result() ([]byte, error) {
	result := Apply(e.text, e.edits)
	unfaithful := errors.New("cannot be changed in place without changing other fields too; YAML anchors may be the reason")
	want, err := meaning(e.text)
	if err != nil {
		return nil, err
	}
	for _, f := range e.fields {
		value, err := asRead(f.value)
		if err != nil || !assign(want, f.path, value) {
			return nil, unfaithful
		}
	}
	if got, err := meaning(result); err != nil || !equalJSON(want, got) {
		return nil, unfaithful
	}
	if json.Valid(e.text) && !json.Valid(result) {
		return nil, unfaithful
	}
	return result, nil
}

// meaning is what kubectl reads in a document of YAML or JSON.
func meaning(raw []byte) (value any, err error) {
	text, err := k8syaml.YAMLToJSONStrict(raw)
	if err != nil {
		return nil, err
	}
	return value, json.Unmarshal(text, &value)
}

// equalJSON compares values that were read from JSON.
func equalJSON(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for name, value := range a {
			if other, ok := b[name]; !ok || !equalJSON(value, other) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equalJSON)
	}
	return a == b
}

// asRead is a value as it is read from JSON.
func asRead(value any) (read any, err error) {
	if _, isText := value.(string); isText || value == nil {
		return value, nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return read, json.Unmarshal(text, &read)
}

// assign sets a field of an object that was read from YAML or JSON, or takes it out where the value is nil.
func assign(object any, path []string, value any) bool {
	for _, step := range path[:len(path)-1] {
		switch o := object.(type) {
		case map[string]any:
			object = o[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(o) {
				return false
			}
			object = o[i]
		default:
			return false
		}
	}
	fields, ok := object.(map[string]any)
	switch name := path[len(path)-1]; {
	case !ok:
		return false
	case value == nil:
		delete(fields, name)
	default:
		fields[name] = value
	}
	return true
}

// lookup finds the node at a path.
func lookup(node *yaml.Node, path []string) (*yaml.Node, error) {
	for _, step := range path {
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		var next *yaml.Node
		switch node.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(node.Content); i += 2 {
				if node.Content[i].Value == step {
					next = node.Content[i+1]
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(node.Content) {
				next = node.Content[i]
			}
		}
		if next == nil {
			return nil, errors.New("is not written there")
		}
		node = next
	}
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node, nil
}

// joinPath is the reverse of parsePath.
func joinPath(path []string) string {
	var out strings.Builder
	for i, step := range path {
		_, err := strconv.Atoi(step)
		switch {
		case err == nil || strings.Contains(step, "."):
			out.WriteString("[" + step + "]")
		case i > 0:
			out.WriteString("." + step)
		default:
			out.WriteString(step)
		}
	}
	return out.String()
}

// scalar is a text as YAML without quotes where that means the same text.
func scalar(text string) string {
	out, err := k8syaml.Marshal(text)
	if err != nil {
		return strconv.Quote(text)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// SetFields gives fields of an item of a List, or of the whole document (-1), their values: all of them or none.
func (e *Editor) SetFields(item int, fields map[string]any) error {
	edits, before := len(e.edits), len(e.fields)
	for _, path := range slices.Sorted(maps.Keys(fields)) {
		if err := e.set(inItem(item, path), fields[path]); err != nil {
			e.edits, e.fields = e.edits[:edits], e.fields[:before]
			return err
		}
	}
	return nil
}

// Has reports whether a field of an item of a List, or of the whole document (-1), is written there.
func (e *Editor) Has(item int, field string) bool {
	_, err := lookup(e.root, inItem(item, field))
	return err == nil
}

// Edits are the changes so far, by offsets in the document. The error is why they cannot be made without changing other fields too.
func (e *Editor) Edits() ([]Edit, error) {
	if len(e.edits) == 0 {
		return nil, nil
	}
	_, err := e.result()
	return e.edits, err
}

// inItem is a path within an item of a List, or within the whole document (-1).
func inItem(item int, path string) []string {
	steps := parsePath(path)
	if item >= 0 {
		steps = append([]string{"items", strconv.Itoa(item)}, steps...)
	}
	return steps
}

// AddGrants returns the edits that write ReferenceGrants in front of the document, or into it where the whole file is one JSON value. In front,
// because `kubectl apply` goes from top to bottom, and a route may be refused as long as its grant is not there.
func (e *Editor) AddGrants(d Document, text []byte, grants []*gwv1.ReferenceGrant) ([]Edit, error) {
	br := newline(text)
	var out strings.Builder
	if !d.IsJSON {
		if directive.Match(d.Raw) {
			return nil, errors.New("no ReferenceGrant can be put in front of a document with a YAML directive (%)")
		}
		for _, grant := range grants {
			text := strings.ReplaceAll(grantYAML(grant), "\n", br)
			if bytes.HasPrefix(d.Raw, separator) {
				out.WriteString("---" + br + text)
			} else {
				out.WriteString(text + "---" + br)
			}
		}
		return []Edit{{0, 0, out.String()}}, nil
	}
	if !json.Valid(bytes.TrimPrefix(text, byteOrderMark)) { // one of several values
		between := br
		if bytes.HasPrefix(text, separator) || bytes.Contains(text, []byte("\n---")) {
			between = br + "---" + br
		}
		for _, grant := range grants {
			out.WriteString(grantJSON(grant, "", br) + between)
		}
		return []Edit{{0, 0, out.String()}}, nil
	}
	items, err := lookup(e.root, []string{"items"})
	if err != nil {
		out.WriteString(`{"apiVersion": "v1", "kind": "List", "items": [` + br)
		for _, grant := range grants {
			out.WriteString(grantJSON(grant, "", br) + "," + br)
		}
		return []Edit{{0, 0, out.String()}, {len(d.Raw), len(d.Raw), br + "]}"}}, nil
	}
	kind, err := lookup(e.root, []string{"kind"})
	if err != nil {
		return nil, fmt.Errorf("kind: %w", err)
	}
	if kind.Value != "List" {
		return nil, fmt.Errorf("its ReferenceGrant cannot be put into a %s; make that a List", kind.Value)
	}
	first := e.offset(items.Content[0])
	indent := string(d.Raw[:first])
	indent = indent[strings.LastIndexAny(indent, "\r\n")+1:]
	for _, grant := range grants {
		if strings.Trim(indent, " \t") == "" {
			out.WriteString(grantJSON(grant, indent, br) + "," + br + indent)
		} else {
			out.WriteString(grantJSON(grant, "", "") + ", ")
		}
	}
	return []Edit{{first, first, out.String()}}, nil
}

// directive matches the lines that begin with a percent sign in front of a document.
var directive = regexp.MustCompile(`\A(\s*#.*\n|\s*\n)*%`)

func grantYAML(grant *gwv1.ReferenceGrant) string {
	text, err := k8syaml.Marshal(grant)
	if err != nil {
		panic(err) // it holds nothing but texts
	}
	return string(text)
}

// grantJSON is a ReferenceGrant as JSON, on one line where br is empty.
func grantJSON(grant *gwv1.ReferenceGrant, indent, br string) string {
	text, err := json.MarshalIndent(grant, indent, "  ")
	if br == "" {
		text, err = json.Marshal(grant)
	}
	if err != nil {
		panic(err) // it holds nothing but texts
	}
	return strings.ReplaceAll(string(text), "\n", br)
}
