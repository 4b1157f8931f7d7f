package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
)

// Namespace is the one kind outside Gateway API that admission reads.
const Namespace policy.Kind = "Namespace"

// Type is a kind of object that is decoded.
type Type struct {
	Group string
	// Versions are those whose JSON is that of what New makes, which is never nil.
	Versions []string
	Kind     policy.Kind
	New      func() policy.Object
}

// Types are those of the kinds that admission evaluates or reads.
func Types() []Type {
	types := []Type{{corev1.GroupName, []string{"v1"}, Namespace, func() policy.Object { return &corev1.Namespace{} }}}
	for _, kind := range append(policy.RouteKinds(), policy.Gateway, policy.ReferenceGrant) {
		types = append(types, Type{gwv1.GroupName, []string{"v1", "v1beta1", "v1alpha2"}, kind, func() policy.Object { return policy.NewObject(kind) }})
	}
	return types
}

// Object is one object of a Document.
type Object struct {
	Kind policy.Kind
	// Item is the number of the object in its List, -1 outside a List.
	Item int
	// Object is what the Type's New made. Its metadata.namespace is as written.
	policy.Object
}

// mentions reports whether raw may hold the name of one of the kinds, anywhere. YAML can spell a name with escapes, with the tag
// !!binary, or in UTF-16.
func mentions(raw []byte, types []Type) bool {
	return bytes.ContainsAny(raw, "\\!\x00") || slices.ContainsFunc(types, func(t Type) bool { return bytes.Contains(raw, []byte(t.Kind)) })
}

// JSON is the document as kubectl reads it, once Parse has converted it. It is nil for what cannot hold an object of the types.
func (d Document) JSON() []byte { return d.text }

// Parse reads the document, and returns where it is not YAML. What names none of the kinds can hold no object of them, so
// that is not converted.
func (d *Document) Parse(types []Type) []Problem {
	switch {
	case d.text != nil:
		return nil
	case d.IsJSON:
		d.text = d.Raw
		return nil
	case !mentions(d.Raw, types):
		if _, err := nodes(d.Raw); err != nil && !errors.Is(err, io.EOF) {
			return d.diagnose(err)
		}
		return nil
	}
	// As kubectl does, for the same reading of every scalar.
	text, err := yaml.YAMLToJSONStrict(d.Raw)
	if err != nil {
		d.duplicates = err
		text, err = yaml.YAMLToJSON(d.Raw)
	}
	if err == nil && mayEndEarly(d.Raw, text) {
		_, err = nodes(d.Raw)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return d.diagnose(err)
	}
	d.text = text
	return nil
}

// mayEndEarly reports whether there may be text behind what was converted, which kubectl's library does not look at. There is none
// behind a map in block style that begins at the margin: every other line is a part of it, or an error.
func mayEndEarly(raw, converted []byte) bool {
	for line := range bytes.Lines(raw) {
		if significant(line) {
			return !isLetter(line[0]) || converted[0] != '{'
		}
	}
	return false
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// Objects decodes the objects of these types, and parses the document if it is not yet. With strict, duplicate keys and unknown
// fields are problems, as they are for kubectl and the API server. Objects with problems are left out.
func (d Document) Objects(types []Type, strict bool) ([]Object, []Problem) {
	if problems := d.Parse(types); d.text == nil {
		return nil, problems
	}
	objects, problems := d.decode(d.text, -1, strict, types)
	if strict && d.duplicates != nil && len(objects)+len(problems) > 0 {
		return nil, d.diagnose(d.duplicates)
	}
	return objects, problems
}

// typeMeta is the type of an object as it is written.
type typeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

func (d Document) decode(text []byte, item int, strict bool, types []Type) ([]Object, []Problem) {
	var meta typeMeta
	// What is no object, or names itself by something else than text, is nothing that kubectl would send to us.
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &meta); err != nil {
		return nil, nil
	}
	group, err := schema.ParseGroupVersion(meta.APIVersion)
	if err != nil {
		return nil, nil
	}
	if item < 0 && isList(group, meta.Kind, types) {
		return d.decodeItems(text, strict, types)
	}
	i := slices.IndexFunc(types, func(t Type) bool { return t.Group == group.Group && string(t.Kind) == meta.Kind })
	if i < 0 {
		return nil, nil
	}
	if !slices.Contains(types[i].Versions, group.Version) {
		if group.Group != gwv1.GroupName {
			return nil, nil
		}
		return nil, []Problem{d.Problem(item, "apiVersion", "apiVersion: %s: this version of %s is not known here; use %s/v1", meta.APIVersion, meta.Kind, group.Group)}
	}
	object := types[i].New()
	faults, err := kjson.UnmarshalStrict(text, object)
	var problems []Problem
	if err != nil {
		problems = append(problems, d.typeProblem(item, err))
	}
	if strict {
		for _, fault := range faults {
			problems = append(problems, d.faultProblem(item, fault))
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	if object.GetName() == "" && object.GetGenerateName() == "" {
		return nil, []Problem{d.Problem(item, "metadata.name", "metadata.name: missing: every object needs a name")}
	}
	return []Object{{Kind: policy.Kind(meta.Kind), Item: item, Object: object}}, nil
}

// isList says whether a kind is a List of anything, or of one of the types.
func isList(group schema.GroupVersion, kind string, types []Type) bool {
	return kind == "List" && group.Group == "" ||
		slices.ContainsFunc(types, func(t Type) bool { return t.Group == group.Group && string(t.Kind)+"List" == kind })
}

func (d Document) decodeItems(text []byte, strict bool, types []Type) ([]Object, []Problem) {
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &list); err != nil {
		return nil, []Problem{d.Problem(-1, "items", "items: must be a list")}
	}
	var objects []Object
	var problems []Problem
	for i, item := range list.Items {
		found, wrong := d.decode(item, i, strict, types)
		objects, problems = append(objects, found...), append(problems, wrong...)
	}
	return objects, problems
}

var quoted = regexp.MustCompile(`^(unknown|duplicate) field "(.*)"$`)

// faultProblem is an unknown or duplicate field.
func (d Document) faultProblem(item int, fault error) Problem {
	match := quoted.FindStringSubmatch(fault.Error())
	if match == nil {
		return d.Problem(item, "", "%v", fault)
	}
	where := d.Locate()
	where.keys = true
	line, column, _ := where.Find(item, match[2])
	return Problem{File: d.File, Line: line, Column: column, Message: fmt.Sprintf("%s: %s field", match[2], match[1])}
}

// goName is the name of a Go struct that the API does not have.
var goName = regexp.MustCompile(`\b[A-Z]\w*\.`)

// typeProblem is a value of the wrong type.
func (d Document) typeProblem(item int, err error) Problem {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		field := goName.ReplaceAllString(wrong.Field, "")
		return d.Problem(item, field, "%s: cannot be a %s", field, wrong.Value)
	}
	return d.Problem(item, "", "%s", strings.TrimPrefix(err.Error(), "json: "))
}

// Problem is one at a field of an item of a List, or of the document itself (-1).
func (d Document) Problem(item int, field, format string, args ...any) Problem {
	where := d.Locate()
	line, column, _ := where.Find(item, field)
	return Problem{File: d.File, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
}
