package cluster

import (
	"bytes"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
)

// Texts are the labels or the annotations of an object: all, or none where none can concern us. Those of others take a good part of
// the time that it takes to decode a route.
type Texts map[string]string

// UnmarshalJSON implements json.Unmarshaler.
func (t *Texts) UnmarshalJSON(raw []byte) error {
	for _, word := range concerning {
		if bytes.Contains(raw, word) {
			return kjson.UnmarshalCaseSensitivePreserveInts(raw, (*map[string]string)(t))
		}
	}
	return nil
}

// concerning are what is in the keys or values of all labels and annotations that are ours, what tells a watch that it has told all
// there was at first, and what letters may be written with.
var concerning = [][]byte{[]byte("routesteward"), []byte(metav1.InitialEventsAnnotationKey), []byte(`\u`)}
