package unpark

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
)

// Manifests copies YAML or JSON documents, and in them gives every parked route its parentRefs back. A route that was parked
// is written again, without what only a cluster has of it; everything else stays as it is, byte for byte. It returns how many
// were parked.
func Manifests(p *policy.Policy, from io.Reader, to io.Writer) (count int, err error) {
	reader := yamlutil.NewYAMLReader(bufio.NewReader(from))
	for i := 0; ; i++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return count, nil
		}
		if err != nil {
			return count, err
		}
		unparked, text, err := manifest(p, document)
		if err != nil {
			return count, fmt.Errorf("document %d: %w", i+1, err)
		}
		count += unparked
		if i > 0 {
			text = append([]byte("---\n"), text...)
		}
		if !bytes.HasSuffix(text, []byte("\n")) {
			text = append(text, '\n')
		}
		if _, err := to.Write(text); err != nil {
			return count, err
		}
	}
}

func manifest(p *policy.Policy, document []byte) (count int, text []byte, err error) {
	if !bytes.Contains(document, []byte(policy.ParkedAnnotation)) {
		return 0, document, nil
	}
	text, err = yaml.YAMLToJSON(document)
	if err != nil {
		return 0, nil, err
	}
	var content map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &content); err != nil {
		return 0, nil, err
	}
	objects := []any{content}
	if items, isList := content["items"].([]any); isList {
		objects = items
	}
	for _, object := range objects {
		content, ok := object.(map[string]any)
		if !ok {
			continue
		}
		unparked, err := manifestOf(p, &unstructured.Unstructured{Object: content})
		if err != nil {
			return 0, nil, err
		}
		if unparked {
			count++
		}
	}
	if count == 0 {
		return 0, document, nil
	}
	text, err = yaml.Marshal(content)
	return count, text, err
}

// manifestOf makes an object the manifest of a route that is not parked; false where it is none that is.
func manifestOf(p *policy.Policy, object *unstructured.Unstructured) (bool, error) {
	kind := policy.Kind(object.GetKind())
	if _, parked := object.GetAnnotations()[policy.ParkedAnnotation]; !parked ||
		object.GroupVersionKind().Group != gwv1.GroupName || !slices.Contains(policy.RouteKinds(), kind) ||
		object.GetNamespace() == p.SystemNamespace {
		return false, nil
	}
	if err := p.Unpark(object); err != nil {
		return false, fmt.Errorf("%s %s/%s: %w", kind, object.GetNamespace(), object.GetName(), err)
	}
	annotations := object.GetAnnotations()
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	if object.SetAnnotations(annotations); len(annotations) == 0 {
		unstructured.RemoveNestedField(object.Object, "metadata", "annotations")
	}
	for _, field := range []string{"creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"} {
		unstructured.RemoveNestedField(object.Object, "metadata", field)
	}
	delete(object.Object, "status")
	return true, nil
}
