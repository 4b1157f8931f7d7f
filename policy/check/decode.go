package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
)

// Namespace is the one kind that is read but never judged.
const Namespace policy.Kind = "Namespace"

// The kinds that are facts, those that are judged, and all.
var (
	factKinds      = []policy.Kind{Namespace, policy.Gateway, policy.ReferenceGrant}
	evaluatedKinds = append(policy.RouteKinds(), policy.Gateway, policy.ReferenceGrant)
	ourKinds       = append(slices.Clone(evaluatedKinds), Namespace)
)

// Object is one object of a Document.
type Object struct {
	Kind policy.Kind
	// Item is the number of the object in its List, -1 outside a List.
	Item int
	// Object is the typed object: *gwv1.HTTPRoute, *gwv1.GRPCRoute, *gwv1.Gateway, *gwv1.ReferenceGrant or
	// *corev1.Namespace, in a snapshot also others. Its metadata.namespace is as written.
	client.Object
}

// mentions says whether raw holds the name of one of the kinds, anywhere.
func mentions(raw []byte, kinds []policy.Kind) bool {
	return slices.ContainsFunc(kinds, func(kind policy.Kind) bool { return bytes.Contains(raw, []byte(kind)) })
}

// MayHold says whether the document may hold an object of one of the kinds, or a List of them. It reads no more than the
// lines that begin without a space, so that what is not ours costs next to nothing.
func (d Document) MayHold(kinds []policy.Kind) bool {
	if !mentions(d.Raw, kinds) {
		return false
	}
	kind, sure := quickKind(d.Raw)
	return !sure || strings.HasSuffix(kind, "List") || slices.Contains(kinds, policy.Kind(kind))
}

// quickKind reads the kind of a YAML document in block style without parsing it. It is sure only where there is exactly
// one line "kind: Word" without indentation and every other such line is a plain key, a list item or a comment: then no
// quoted text, flow style, anchor or merge key can make it something else.
func quickKind(raw []byte) (kind string, sure bool) {
	first := true
	for len(raw) > 0 {
		line := raw
		if i := bytes.IndexByte(raw, '\n'); i >= 0 {
			line, raw = raw[:i], raw[i+1:]
		} else {
			raw = nil
		}
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		letter := 'a' <= line[0] && line[0] <= 'z' || 'A' <= line[0] && line[0] <= 'Z'
		switch {
		case first && !letter:
			return "", false
		case line[0] == ' ':
			continue
		case line[0] == '-' && (len(line) == 1 || line[1] == ' '):
			continue
		case !letter:
			return "", false
		}
		first = false
		rest, found := bytes.CutPrefix(line, []byte("kind"))
		if !found || len(rest) > 0 && rest[0] != ':' && rest[0] != ' ' && rest[0] != '\t' {
			continue
		}
		value, found := bytes.CutPrefix(rest, []byte(": "))
		value = bytes.TrimSpace(value)
		if !found || kind != "" || !isWord(value) {
			return "", false
		}
		kind = string(value)
	}
	return kind, kind != ""
}

func isWord(text []byte) bool {
	for _, c := range text {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return len(text) > 0
}

// Objects decodes the document as strictly as kubectl and the API server do: duplicate keys and unknown fields are
// problems. What is not ours is left out; what has a problem is too.
func (d Document) Objects() ([]Object, []Problem) { return d.objects(true, ourKinds) }

func (d Document) objects(strict bool, kinds []policy.Kind) ([]Object, []Problem) {
	text := d.Raw
	if !d.json {
		buffer := buffers.Get().(*[]byte)
		defer buffers.Put(buffer)
		var plain bool
		if *buffer, plain = plainJSON(d.Raw, *buffer); plain {
			if objects, problems := d.decode(*buffer, -1, strict, kinds); len(problems) == 0 {
				return objects, nil
			}
			// Which problem is met first depends on the order of the keys.
		}
		var err error
		if text, err = toJSON(d.Raw, strict); err != nil {
			return nil, d.diagnose(err)
		}
	}
	return d.decode(text, -1, strict, kinds)
}

// buffers hold the JSON of plain documents while they are decoded.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// toJSON is what kubectl does, for the same reading of every scalar.
func toJSON(raw []byte, strict bool) ([]byte, error) {
	if strict {
		return yaml.YAMLToJSONStrict(raw)
	}
	return yaml.YAMLToJSON(raw)
}

// typeMeta is what tells whether something is ours.
type typeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

func (d Document) decode(text []byte, item int, strict bool, kinds []policy.Kind) ([]Object, []Problem) {
	var meta typeMeta
	// What is no object, or names itself by something else than text, is nothing that kubectl would send to us.
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &meta); err != nil {
		return nil, nil
	}
	group, err := schema.ParseGroupVersion(meta.APIVersion)
	if err != nil {
		return nil, nil
	}
	if strings.HasSuffix(meta.Kind, "List") && item < 0 && isList(group, meta.Kind) {
		return d.decodeItems(text, strict, kinds)
	}
	object, version := newObject(group, policy.Kind(meta.Kind))
	if object == nil || !slices.Contains(kinds, policy.Kind(meta.Kind)) {
		return nil, nil
	}
	if !version {
		return nil, []Problem{d.at(item, "apiVersion", "apiVersion: %s: this version of %s is not known here; use %s/v1", meta.APIVersion, meta.Kind, group.Group)}
	}
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
		return nil, []Problem{d.at(item, "metadata.name", "metadata.name: missing: every object needs a name")}
	}
	return []Object{{Kind: policy.Kind(meta.Kind), Item: item, Object: object}}, nil
}

// isList says whether a kind is a List of anything, or of one of our kinds.
func isList(group schema.GroupVersion, kind string) bool {
	return kind == "List" && group.Group == "" ||
		group.Group != gwv1.GroupName && slices.Contains(snapshotKinds, policy.Kind(strings.TrimSuffix(kind, "List"))) ||
		group.Group == gwv1.GroupName && slices.Contains(evaluatedKinds, policy.Kind(strings.TrimSuffix(kind, "List")))
}

func (d Document) decodeItems(text []byte, strict bool, kinds []policy.Kind) ([]Object, []Problem) {
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &list); err != nil {
		return nil, []Problem{d.at(-1, "items", "items: must be a list")}
	}
	var objects []Object
	var problems []Problem
	for i, item := range list.Items {
		found, wrong := d.decode(item, i, strict, kinds)
		objects, problems = append(objects, found...), append(problems, wrong...)
	}
	return objects, problems
}

// newObject is an empty object of one of the kinds that a snapshot may hold, or nil; known says whether the version is one whose JSON is v1's.
func newObject(group schema.GroupVersion, kind policy.Kind) (object client.Object, known bool) {
	switch group {
	case corev1.SchemeGroupVersion:
		switch kind {
		case Namespace:
			return &corev1.Namespace{}, true
		case service:
			return &corev1.Service{}, true
		case configMap:
			return &corev1.ConfigMap{}, true
		}
	case discoveryv1.SchemeGroupVersion:
		if kind == endpointSlice {
			return &discoveryv1.EndpointSlice{}, true
		}
	case appsv1.SchemeGroupVersion:
		if kind == deployment {
			return &appsv1.Deployment{}, true
		}
	case snapshotVersion:
		if kind == snapshot {
			return &snapshotInfo{}, true
		}
	}
	if group.Group != gwv1.GroupName {
		return nil, false
	}
	known = group.Version == "v1" || group.Version == "v1beta1" || group.Version == "v1alpha2"
	if object := policy.NewObject(kind); object != nil {
		return object, known
	}
	return nil, false
}

var quoted = regexp.MustCompile(`^(unknown|duplicate) field "(.*)"$`)

// faultProblem is an unknown or duplicate field.
func (d Document) faultProblem(item int, fault error) Problem {
	match := quoted.FindStringSubmatch(fault.Error())
	if match == nil {
		return d.at(item, "", "%v", fault)
	}
	where := d.newLocator()
	defer where.free()
	where.keys = true
	line, column, _ := where.find(item, match[2])
	return Problem{File: d.File, Line: line, Column: column, Message: fmt.Sprintf("%s: %s field", match[2], match[1])}
}

// goName is the name of a Go struct that the API does not have.
var goName = regexp.MustCompile(`\b[A-Z]\w*\.`)

// typeProblem is a value of the wrong type.
func (d Document) typeProblem(item int, err error) Problem {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		field := goName.ReplaceAllString(wrong.Field, "")
		return d.at(item, field, "%s: cannot be a %s", field, wrong.Value)
	}
	return d.at(item, "", "%s", strings.TrimPrefix(err.Error(), "json: "))
}

// at is a problem at a field.
func (d Document) at(item int, field, format string, args ...any) Problem {
	where := d.newLocator()
	defer where.free()
	line, column, _ := where.find(item, field)
	return Problem{File: d.File, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
}
