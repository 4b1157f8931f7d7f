package unpark

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/routesteward/routesteward/policy"
)

// WriteJSON writes the report as one JSON object.
func (r Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// WriteText writes the report for people.
func (r Report) WriteText(w io.Writer) error {
	var text strings.Builder
	for _, route := range r.Routes {
		fmt.Fprintf(&text, "%s %s/%s: ", route.Kind, route.Namespace, route.Name)
		switch {
		case route.State == Unparked && r.DryRun:
			fmt.Fprintf(&text, "would be unparked: on %s again\n", gateways(route))
		case route.State == Unparked:
			fmt.Fprintf(&text, "unparked: on %s again\n", gateways(route))
		case route.State == NotParked:
			text.WriteString("is not parked\n")
		default:
			fmt.Fprintf(&text, "%s: %s\n", route.State, route.Problem)
		}
		if route.Fix != "" {
			fmt.Fprintf(&text, "  to fix: %s\n", route.Fix)
		}
	}
	for _, c := range r.Copies {
		fmt.Fprintf(&text, "%s %s/%s: ", c.Kind, c.Namespace, c.Name)
		switch {
		case r.DryRun:
			fmt.Fprintf(&text, "would be removed, as the copy of %s\n", c.Source)
		case c.State == Removed:
			fmt.Fprintf(&text, "removed, as the copy of %s\n", c.Source)
		default:
			fmt.Fprintf(&text, "the copy of %s is still there and serves requests\n  to fix: %s (or --delete-copies), unless routesteward runs and is about to\n", c.Source, c.Fix)
		}
	}
	if len(r.Routes)+len(r.Copies) == 0 {
		text.WriteString("no route is parked\n")
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// gateways are the Gateways of the system namespace, and whatever else, that a route is on.
func gateways(route Route) string {
	var names []string
	for i := range route.ParentRefs {
		ref := &route.ParentRefs[i]
		kind := "Gateway"
		if ref.Kind != nil {
			kind = string(*ref.Kind)
		}
		name := string(ref.Name)
		if namespace := policy.ParentNamespace(ref); namespace != "" {
			name = namespace + "/" + name
		}
		names = append(names, kind+" "+name)
	}
	return strings.Join(names, ", ")
}
