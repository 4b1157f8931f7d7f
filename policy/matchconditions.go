package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// MatchConditions are the CEL conditions under which the API server calls the webhook for objects of a kind; all must
// hold. They are the same for all kinds of routes. They are sound: a write that they let through without a call is one that
// Evaluate allows without a finding and without a grant, whatever the facts are. A test holds them, and each rule's When, against
// Evaluate with the API server's own CEL.
func (p *Policy) MatchConditions(kind Kind) []admissionregistrationv1.MatchCondition {
	conditions := p.exemptConditions(kind)
	if isRoute(kind) {
		conditions = append(conditions, p.kindConditions()...)
	}
	var all When
	for _, rule := range rules {
		when := rule.When(p, kind)
		all.Inside = append(all.Inside, when.Inside...)
		all.Outside = append(all.Outside, when.Outside...)
	}
	return append(conditions, admissionregistrationv1.MatchCondition{Name: "needs-a-decision", Expression: all.Expression(p.SystemNamespace)})
}

// Expression is the whole condition in CEL.
func (w When) Expression(system string) string {
	return fmt.Sprintf("request.namespace == %s ? (%s) : (%s)", quote(system), anyOf(w.Inside), anyOf(w.Outside))
}

// anyOf is true where one of the expressions is, each of which is written once.
func anyOf(expressions []string) string {
	var distinct []string
	for _, e := range expressions {
		if e = "(" + e + ")"; !slices.Contains(distinct, e) {
			distinct = append(distinct, e)
		}
	}
	if len(distinct) == 0 {
		return "false"
	}
	return strings.Join(distinct, " || ")
}

func isRoute(kind Kind) bool {
	_, ok := RouteKindOf(kind)
	return ok
}

// exemptConditions let through what exemption lets through.
func (p *Policy) exemptConditions(kind Kind) []admissionregistrationv1.MatchCondition {
	conditions := []admissionregistrationv1.MatchCondition{
		{Name: "not-being-deleted", Expression: "!has(object.metadata.deletionTimestamp)"},
	}
	add := func(name, expression string) {
		conditions = append(conditions, admissionregistrationv1.MatchCondition{Name: name, Expression: expression})
	}
	users := p.ExemptUsers
	if p.Self != "" {
		users = append([]string{p.Self}, users...)
	}
	if len(users) > 0 {
		add("not-an-exempt-user", fmt.Sprintf("!(request.userInfo.username in %s)", quoteList(users)))
	}
	if len(p.ExemptGroups) > 0 {
		add("not-in-an-exempt-group", fmt.Sprintf("!has(request.userInfo.groups) || !request.userInfo.groups.exists(g, g in %s)", quoteList(p.ExemptGroups)))
	}
	if len(p.ExemptNamespaces) > 0 && kind != ReferenceGrant {
		add("not-in-an-exempt-namespace", fmt.Sprintf("!(request.namespace in %s)", quoteList(p.ExemptNamespaces)))
	}
	return conditions
}

// kindConditions let through routes of a kind that is not evaluated. The registration names both kinds whatever the policy is:
// it is in the chart too, and a difference would be a conflict for whoever applies the chart again.
func (p *Policy) kindConditions() []admissionregistrationv1.MatchCondition {
	if p.kinds.HasAll(RouteKinds()...) {
		return nil
	}
	evaluated := make([]string, len(p.Kinds))
	for i, kind := range p.Kinds {
		evaluated[i] = string(kind)
	}
	return []admissionregistrationv1.MatchCondition{{Name: "evaluated-kind", Expression: "request.kind.kind in " + quoteList(evaluated)}}
}

// MutatingConditions are the same for the webhook that parks routes: a write that they let through is one that Mutate does
// not change. They are for both kinds of routes, under OutsideRewrite.
func (p *Policy) MutatingConditions() []admissionregistrationv1.MatchCondition {
	return append(append(p.exemptConditions(anyRoute), p.kindConditions()...), admissionregistrationv1.MatchCondition{
		Name: "may-be-relocated",
		Expression: fmt.Sprintf("request.namespace != %s && ((%s) || (%s))", quote(p.SystemNamespace),
			couldBeGoverned(p.SystemNamespace), annotated("object")),
	})
}

func labeledManaged(object string) string {
	return fmt.Sprintf(`%[1]s != null && has(%[1]s.metadata.labels) && %[2]s in %[1]s.metadata.labels && %[1]s.metadata.labels[%[2]s] == %[3]s`,
		object, quote(ManagedByLabel), quote(ManagedBy))
}

// governed are the routes elsewhere that could be governed.
func (p *Policy) governed() []string {
	if p.Scope == ScopeAll {
		return []string{"true"}
	}
	return []string{couldBeGoverned(p.SystemNamespace), annotated("object")}
}

// referring are the routes that could be governed and need a grant.
func (p *Policy) referring(kind Kind) When {
	if !isRoute(kind) || p.Grants == GrantsOff {
		return When{}
	}
	return When{Inside: []string{crossesNamespaces()}, Outside: p.governed()}
}

func annotated(object string) string {
	return fmt.Sprintf("has(%[1]s.metadata.annotations) && %[2]s in %[1]s.metadata.annotations", object, quote(ParkedAnnotation))
}

func isGateway(ref string) string {
	return fmt.Sprintf("(!has(%[1]s.group) || %[1]s.group == %[2]s) && (!has(%[1]s.kind) || %[1]s.kind == %[3]s)",
		ref, quote(gwv1.GroupName), quote(string(Gateway)))
}

// couldBeGoverned and crossesNamespaces ask whether there is a spec: Gateway API 1.2 lets a GRPCRoute have none.
func couldBeGoverned(system string) string {
	return fmt.Sprintf(`has(object.spec) && has(object.spec.parentRefs) && object.spec.parentRefs.exists(p, `+
		`%s && (!has(p.namespace) || p.namespace == "" || p.namespace == %s))`, isGateway("p"), quote(system))
}

func crossesNamespaces() string {
	return anyReference(func(ref string) string {
		return fmt.Sprintf(`has(%[1]s.namespace) && %[1]s.namespace != "" && %[1]s.namespace != request.namespace`, ref)
	})
}

// anyReference holds where one of the places that name a backend is of some sort. It serves both kinds of routes: GRPCRoutes
// have no externalAuth.
func anyReference(is func(ref string) string) string {
	filter := fmt.Sprintf("(has(f.requestMirror) && (%s)) || (has(f.externalAuth) && has(f.externalAuth.backendRef) && (%s))",
		is("f.requestMirror.backendRef"), is("f.externalAuth.backendRef"))
	filters := func(holder string) string {
		return fmt.Sprintf("has(%[1]s.filters) && %[1]s.filters.exists(f, %[2]s)", holder, filter)
	}
	return fmt.Sprintf("has(object.spec) && has(object.spec.rules) && object.spec.rules.exists(r, (%s) || (has(r.backendRefs) && r.backendRefs.exists(b, (%s) || (%s))))",
		filters("r"), is("b"), filters("b"))
}

// quote writes a CEL string literal; CEL reads the escapes that strconv writes for printable and ASCII control characters.
func quote(s string) string { return strconv.QuoteToASCII(s) }

func quoteList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
