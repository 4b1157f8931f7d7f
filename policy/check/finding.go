package check

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/manifest"
)

// result reports a decision about an object in the words of admission.
func (c *checker) result(where *manifest.Locator, object manifest.Object, d policy.Decision, m policy.Mutation) Result {
	request := m.Request
	r := newResult(where, object)
	r.Operation, r.Verdict = request.Operation, d.Verdict()
	if c.fixes {
		r.evaluated = &evaluated{object.Object, m, d}
	}
	if len(d.Missing) == 0 {
		r.Denial, r.Warnings = d.Denial(request), d.Warnings(true)
	}
	for _, f := range d.Findings {
		r.add(where, Finding{
			Rule: f.Rule, Severity: Severity(f.Severity), Fails: f.Severity == policy.SeverityDeny, Field: f.Field, Value: f.Value, Problem: f.Problem, Fix: f.Fix,
			Message: f.String(),
		})
	}
	for _, m := range d.Missing {
		problem := fmt.Sprintf("decided at admission: whether %s", m.Fact)
		r.add(where, Finding{
			Rule: m.Rule, Severity: SeverityUnknown, Fails: c.options.Strict, Field: m.Field, Value: m.Value, Problem: problem, Fix: c.knowing(m.Fact),
			Message: policy.Printable(fmt.Sprintf("%s: %s: %s [%s]", m.Field, m.Value, problem, m.Rule)),
		})
	}
	if d.Relocated != nil && d.Relocated.New {
		field := parkedField
		if len(m.Out) > 0 {
			field = fmt.Sprintf("spec.parentRefs[%d]", m.Out[0])
		}
		r.add(where, Finding{
			Rule: d.Relocated.Rule(), Severity: SeverityRelocation, Field: field, Value: policy.Printable(fmt.Sprintf("Gateway %s/%s", d.Relocated.Namespace, d.Relocated.Gateways[0])),
			Problem: fmt.Sprintf("admission relocates the route: %s %s/%s serves it", d.Relocated.Kind, d.Relocated.Namespace, d.Relocated.Name),
			Message: d.Relocated.Warning(true),
		})
	}
	for _, g := range d.Grants {
		if g.Exists {
			continue
		}
		field, value := c.grantField(request, g.Edge)
		r.add(where, Finding{
			Rule: g.Rule(), Severity: SeverityGrant, Field: field, Value: value,
			Problem: fmt.Sprintf("admission makes ReferenceGrant %s/%s (consent: %s)", g.Edge.Namespace, g.Name, g.Consent),
			Message: g.Warning(true),
		})
	}
	return r
}

func newResult(where *manifest.Locator, object manifest.Object) Result {
	r := Result{
		File: where.Document.File, Kind: object.Kind, Namespace: object.GetNamespace(), Name: object.GetName(),
		Operation: policy.Create, Verdict: "allow", Document: where.Document.Index, Item: object.Item,
	}
	if r.Name == "" {
		r.Name = object.GetGenerateName() + "*"
	}
	r.Line, r.Column, _ = where.Find(object.Item, "")
	return r
}

// add completes a finding with its place.
func (r *Result) add(where *manifest.Locator, f Finding) {
	f.File = r.File
	f.Line, f.Column, f.text = where.Find(r.Item, f.Field)
	earlier := 0
	for _, other := range r.Findings {
		if other.Rule == f.Rule && other.Severity == f.Severity && other.Value == f.Value && withoutIndexes(other.Field) == withoutIndexes(f.Field) {
			earlier++
		}
	}
	f.Fingerprint = fingerprint(r.Kind, r.Namespace, r.Name, f.Rule, string(f.Severity), withoutIndexes(f.Field), f.Value, fmt.Sprint(earlier))
	r.Findings = append(r.Findings, f)
}

// knowing says what makes a fact known here.
func (c *checker) knowing(fact policy.Fact) string {
	switch {
	case fact.Kind == policy.FactName:
		return "give --facts or --cluster"
	case fact.Kind == policy.FactGateway:
		return "give --facts or --cluster, or name the Gateway's namespace in the parentRef"
	case fact.Kind == policy.FactGrants && c.options.Policy.Grants != policy.GrantsInject:
		return "give --facts or --cluster, or add the ReferenceGrant to what is checked"
	case c.facts.partial():
		return fmt.Sprintf("give --facts or --cluster, or state it with --as-consented=%s", fact.Namespace)
	default:
		return fmt.Sprintf("state it with --as-consented=%s", fact.Namespace)
	}
}

// grantField is the first reference that stands on the managed grant for an edge.
func (c *checker) grantField(request policy.Request, granted policy.Edge) (field, value string) {
	route, _ := policy.RouteOf(request.Object)
	route = c.options.Policy.Served(route)
	for ref := range route.References() {
		if edge, cross := policy.EdgeOf(route, ref); cross && c.options.Policy.Granted(edge) == granted {
			kind := ref.Kind
			if ref.Group != "" {
				kind += "." + ref.Group
			}
			return ref.Path(), policy.Printable(fmt.Sprintf("%s %s/%s", kind, ref.Namespace, ref.Name))
		}
	}
	return "spec.rules", ""
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// withoutIndexes makes a field's path independent of what was added before it.
func withoutIndexes(field string) string { return indexes.ReplaceAllString(field, "[]") }

// fingerprint has 128 bits of a hash over the parts.
func fingerprint(kind policy.Kind, parts ...string) string {
	sum := sha256.Sum256([]byte(string(kind) + "\x00" + strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}
