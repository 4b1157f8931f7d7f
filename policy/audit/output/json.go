package output

import (
	"bufio"
	"bytes"
	"encoding/json"
	"reflect"
	"strings"

	"github.com/routesteward/routesteward/policy/audit"
)

// writeJSON writes what a json.Encoder with an indent of two spaces writes, but one element of a list at a time: an Encoder
// holds all of it, twice, and a report of a large cluster has hundreds of megabytes.
func writeJSON(w *bufio.Writer, report audit.Report) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	value := func(indent string, v reflect.Value) error {
		text.Reset()
		encoder.SetIndent(indent, "  ")
		if err := encoder.Encode(v.Interface()); err != nil {
			return err
		}
		_, err := w.Write(bytes.TrimSuffix(text.Bytes(), []byte("\n")))
		return err
	}
	separator := "{"
	fields := reflect.ValueOf(report)
	for i := range fields.NumField() {
		field := fields.Field(i)
		name, options, _ := strings.Cut(fields.Type().Field(i).Tag.Get("json"), ",")
		if options == "omitempty" && field.IsZero() {
			continue
		}
		w.WriteString(separator + "\n  \"" + name + "\": ") // a Writer remembers its error
		separator = ","
		if field.Kind() != reflect.Slice || field.Len() == 0 {
			if err := value("  ", field); err != nil {
				return err
			}
			continue
		}
		w.WriteString("[")
		for j := range field.Len() {
			if j > 0 {
				w.WriteString(",")
			}
			w.WriteString("\n    ")
			if err := value("    ", field.Index(j)); err != nil {
				return err
			}
		}
		w.WriteString("\n  ]")
	}
	_, err := w.WriteString("\n}\n")
	return err
}
