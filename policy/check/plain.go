package check

import (
	"bytes"
	"slices"
	"sync"

	"go.yaml.in/yaml/v4"
)

// plainJSON converts a YAML document to the JSON that toJSON makes of it, apart from the order of its keys, if the document
// is as plain as nearly all manifests are: in block style, of ASCII, each scalar on one line and of a type that shows.
// That takes a twentieth of the time. Of everything else it says so, faulty documents included; whether they are is not
// decided here.
func plainJSON(raw []byte, into []byte) (text []byte, ok bool) {
	p := plainDocument{raw: raw, rest: raw, out: into[:0]}
	ok = p.document()
	return p.out, ok
}

// plainTree is a plain document as the tree that YAML makes of it, without tags and comments, and as JSON. Its memory is
// used again after free.
type plainTree struct {
	root *yaml.Node
	json []byte

	slab  []yaml.Node
	used  int
	built []*yaml.Node
}

var plainTrees = sync.Pool{New: func() any { return &plainTree{slab: make([]yaml.Node, 128)} }}

// newPlainTree is nil for a document that is not plain.
func newPlainTree(raw []byte) *plainTree {
	tree := plainTrees.Get().(*plainTree)
	p := plainDocument{raw: raw, rest: raw, out: tree.json[:0], tree: tree, all: string(raw)}
	plain := p.document()
	tree.json = p.out
	if !plain {
		tree.free()
		return nil
	}
	tree.root = tree.built[0]
	return tree
}

// free gives the nodes away. A tree that is nil has none.
func (t *plainTree) free() {
	if t == nil {
		return
	}
	clear(t.slab[:t.used])
	clear(t.built)
	t.root, t.used, t.built = nil, 0, t.built[:0]
	plainTrees.Put(t)
}

func (t *plainTree) node(kind yaml.Kind, line, column int) *yaml.Node {
	if t.used == len(t.slab) { // the nodes before stay where they are
		t.slab, t.used = make([]yaml.Node, 2*len(t.slab)), 0
	}
	node := &t.slab[t.used]
	t.used++
	node.Kind, node.Line, node.Column = kind, line, column
	return node
}

// plainDocument reads a document line by line.
type plainDocument struct {
	raw, rest []byte
	out       []byte
	// tree is built where it is not nil, from nodes of one level at a time. all is raw, of which their texts are parts.
	tree *plainTree
	all  string
	// text is the current line without the indent spaces before it, and those behind; end is set where there is none.
	text   []byte
	indent int
	end    bool
	// line counts from 1, and start is where in raw it begins.
	line, start int
}

const (
	maxPlainDepth = 32
	// maxPlainKeys bounds the search for duplicate keys, maxPlainKey their length, as YAML does.
	maxPlainKeys = 64
	maxPlainKey  = 128
)

func (p *plainDocument) document() bool {
	return p.next() && !p.end && p.block(p.indent, 0) && p.end
}

// leaf adds the node of a scalar, or of an empty map or list, which token, a part of the current line, begins with.
func (p *plainDocument) leaf(token, value []byte, kind yaml.Kind, style yaml.Style) {
	if p.tree != nil {
		// A slice of raw has the capacity of all that is behind it.
		at := cap(p.raw) - cap(token)
		begin := cap(p.raw) - cap(value)
		node := p.tree.node(kind, p.line, at-p.start+1)
		node.Style, node.Value = style, p.all[begin:begin+len(value)]
		p.tree.built = append(p.tree.built, node)
	}
}

// parent makes the nodes that were built since one of them the content of a map or list that begins at line and column.
func (p *plainDocument) parent(kind yaml.Kind, line, column, since int) {
	if p.tree != nil {
		node := p.tree.node(kind, line, column)
		node.Content = slices.Clone(p.tree.built[since:])
		p.tree.built = append(p.tree.built[:since], node)
	}
}

// level is how many nodes have no parent yet.
func (p *plainDocument) level() int {
	if p.tree == nil {
		return 0
	}
	return len(p.tree.built)
}

// next moves to the next line that is more than a comment or blank. It is false for a line that is not plain.
func (p *plainDocument) next() bool {
	for len(p.rest) > 0 {
		line := p.rest
		p.line, p.start = p.line+1, cap(p.raw)-cap(line)
		if i := bytes.IndexByte(p.rest, '\n'); i >= 0 {
			line, p.rest = p.rest[:i], p.rest[i+1:]
		} else {
			p.rest = nil
		}
		for _, c := range line {
			if c < ' ' || c > '~' {
				return false
			}
		}
		p.text = bytes.TrimLeft(line, " ")
		p.indent = len(line) - len(p.text)
		p.text = bytes.TrimRight(p.text, " ")
		if len(p.text) == 0 || p.text[0] == '#' {
			continue
		}
		return p.indent > 0 || !bytes.HasPrefix(line, separator) && !bytes.HasPrefix(line, end)
	}
	p.end, p.text, p.indent = true, nil, -1
	return true
}

func (p *plainDocument) isItem() bool { return len(p.text) > 1 && p.text[0] == '-' && p.text[1] == ' ' }

// block converts the map or list whose lines begin behind indent spaces, and moves behind it.
func (p *plainDocument) block(indent, depth int) bool {
	switch {
	case depth > maxPlainDepth:
		return false
	case p.isItem():
		return p.list(indent, depth)
	}
	return p.mapping(indent, depth)
}

func (p *plainDocument) list(indent, depth int) bool {
	separator := byte('[')
	line, since := p.line, p.level()
	for p.indent == indent && p.isItem() {
		p.out = append(p.out, separator)
		separator = ','
		item := bytes.TrimLeft(p.text[1:], " ")
		if _, _, isKey := cutKey(item); isKey {
			p.indent, p.text = indent+len(p.text)-len(item), item
			if !p.mapping(p.indent, depth+1) {
				return false
			}
		} else if !p.scalar(item) || !p.next() {
			return false
		}
	}
	p.out = append(p.out, ']')
	p.parent(yaml.SequenceNode, line, indent+1, since)
	return p.indent <= indent
}

func (p *plainDocument) mapping(indent, depth int) bool {
	separator := byte('{')
	var memory [16][]byte
	keys := memory[:0]
	line, since := p.line, p.level()
	for p.indent == indent {
		key, value, isKey := cutKey(p.text)
		if !isKey || len(keys) == maxPlainKeys {
			return false
		}
		for _, other := range keys {
			if bytes.Equal(key, other) {
				return false
			}
		}
		keys = append(keys, key)
		p.out = append(append(append(p.out, separator, '"'), key...), '"', ':')
		separator = ','
		p.leaf(key, key, yaml.ScalarNode, 0)
		if len(value) > 0 && value[0] != '#' {
			if !p.scalar(value) || !p.next() {
				return false
			}
			continue
		}
		if !p.next() {
			return false
		}
		switch {
		case p.indent > indent || p.indent == indent && p.isItem():
			if !p.block(p.indent, depth+1) {
				return false
			}
		case p.tree != nil:
			return false // where nothing is written is for YAML to say
		default:
			p.out = append(p.out, "null"...)
		}
	}
	p.out = append(p.out, '}')
	p.parent(yaml.MappingNode, line, indent+1, since)
	return separator == ',' && p.indent < indent
}

// cutKey cuts a line behind its key.
func cutKey(text []byte) (key, value []byte, ok bool) {
	i := 0
	for i < len(text) && isKeyByte(text[i]) {
		i++
	}
	if i == 0 || i > maxPlainKey || !isLetter(text[0]) || i == len(text) || text[i] != ':' || i+1 < len(text) && text[i+1] != ' ' || isWordOfYAML(text[:i]) {
		return nil, nil, false
	}
	return text[:i], bytes.TrimLeft(text[i+1:], " "), true
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isKeyByte(c byte) bool {
	return isLetter(c) || isDigit(c) || c == '.' || c == '_' || c == '-' || c == '/'
}

// isWordOfYAML reports whether a word may be a truth value or nothing at all (YAML 1.1, as kubectl reads it).
func isWordOfYAML(word []byte) bool {
	if len(word) > len("false") {
		return false
	}
	switch string(bytes.ToLower(word)) {
	case "y", "yes", "true", "on", "n", "no", "false", "off", "null":
		return true
	}
	return false
}

// scalar converts a value, behind which a comment may stand.
func (p *plainDocument) scalar(value []byte) bool {
	first := value[0]
	if first == '"' || first == '\'' {
		closing := bytes.IndexByte(value[1:], first) + 1
		if closing == 0 || bytes.IndexByte(value[1:closing], '\\') >= 0 {
			return false
		}
		if rest := value[closing+1:]; len(rest) > 0 && (len(rest) < 2 || rest[0] != ' ' || bytes.TrimLeft(rest, " ")[0] != '#') {
			return false // also '' in a text, which is one quote
		}
		style := yaml.SingleQuotedStyle
		if first == '"' {
			style = yaml.DoubleQuotedStyle
		}
		p.leaf(value, value[1:closing], yaml.ScalarNode, style)
		return p.quote(value[1:closing])
	}
	if i := bytes.Index(value, []byte(" #")); i >= 0 {
		value = bytes.TrimRight(value[:i], " ")
	}
	if bytes.Contains(value, []byte(": ")) || value[len(value)-1] == ':' {
		return false
	}
	switch string(value) {
	case "{}", "[]":
		kind := yaml.MappingNode
		if first == '[' {
			kind = yaml.SequenceNode
		}
		p.leaf(value, value[:0], kind, yaml.FlowStyle)
		p.out = append(p.out, value...)
		return true
	}
	p.leaf(value, value, yaml.ScalarNode, 0)
	switch {
	case isLetter(first):
		switch string(value) {
		case "true", "false", "null":
			p.out = append(p.out, value...)
			return true
		}
		return !isWordOfYAML(value) && p.quote(value)
	case first == '/':
		return p.quote(value)
	case isDigit(first):
		return p.number(value)
	}
	return false
}

// number converts a plain number, or a duration such as 120s, which is a text.
func (p *plainDocument) number(value []byte) bool {
	digits := 0
	for digits < len(value) && isDigit(value[digits]) {
		digits++
	}
	switch unit := string(value[digits:]); {
	case digits > 18 || digits > 1 && value[0] == '0':
		return false
	case unit == "":
		p.out = append(p.out, value...)
		return true
	case unit == "ms" || unit == "s" || unit == "m" || unit == "h":
		return p.quote(value)
	}
	return false
}

// quote writes a text of printable ASCII.
func (p *plainDocument) quote(text []byte) bool {
	p.out = append(p.out, '"')
	for _, c := range text {
		if c == '"' || c == '\\' {
			p.out = append(p.out, '\\')
		}
		p.out = append(p.out, c)
	}
	p.out = append(p.out, '"')
	return true
}
