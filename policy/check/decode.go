package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

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
	factKinds   = []policy.Kind{Namespace, policy.Gateway, policy.ReferenceGrant}
	judgedKinds = append(policy.RouteKinds(), policy.Gateway, policy.ReferenceGrant)
	ourKinds    = append(slices.Clone(judgedKinds), Namespace)
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

// parse reads the document, and returns where it is not YAML. What names none of the kinds can hold no object of them, so
// that is not converted.
func (d *Document) parse(kinds []policy.Kind) []Problem {
	switch {
	case d.text != nil:
		return nil
	case d.json:
		d.text = d.Raw
		return nil
	case !mentions(d.Raw, kinds):
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

// Objects decodes the document as strictly as kubectl and the API server do: duplicate keys and unknown fields are
// problems. What is not ours is left out; what has a problem is too.
func (d Document) Objects() ([]Object, []Problem) { return d.objects(true, ourKinds) }

func (d Document) objects(strict bool, kinds []policy.Kind) ([]Object, []Problem) {
	if problems := d.parse(kinds); d.text == nil {
		return nil, problems
	}
	objects, problems := d.decode(d.text, -1, strict, kinds)
	if strict && d.duplicates != nil && len(objects)+len(problems) > 0 {
		return nil, d.diagnose(d.duplicates)
	}
	return objects, problems
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
		group.Group == gwv1.GroupName && slices.Contains(judgedKinds, policy.Kind(strings.TrimSuffix(kind, "List")))
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
	line, column, _ := where.find(item, field)
	return Problem{File: d.File, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
}
