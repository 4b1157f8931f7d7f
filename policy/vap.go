package policy

import (
	"fmt"
	"strconv"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// FallbackName is the name of the ValidatingAdmissionPolicy and of its binding that Fallback makes.
const FallbackName = "routesteward"

// maxFallbackListed bounds the findings in one message of the fallback, which the API server drops above 5 KiB.
const maxFallbackListed = 5

// Fallback compiles the rule about routes outside the system namespace into a ValidatingAdmissionPolicy, which the API
// server itself enforces: also while routesteward is down, and when its webhook configurations are deleted. It errs where
// nothing is refused or warned of, under OutsideAllow.
//
// It is sound: a write that it refuses (under OutsideWarn: warns of) is one that Evaluate refuses (warns of) by this rule,
// whatever the facts are. And it is complete but for what CEL cannot know, which is left to the webhook: which Gateways
// exist, and so whether a parentRef without namespace is misdirected; and what ParkedAnnotation holds, so that an update of
// a route which had it and, under OutsideRewrite, the annotation itself are not evaluated. A test holds it against Evaluate
// with the API server's own CEL.
func (p *Policy) Fallback() (*admissionregistrationv1.ValidatingAdmissionPolicy, *admissionregistrationv1.ValidatingAdmissionPolicyBinding, error) {
	actions := []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}
	switch p.Outside {
	case OutsideAllow:
		return nil, nil, fmt.Errorf("--outside=%s admits every route outside namespace %q, so a ValidatingAdmissionPolicy would have nothing to refuse", p.Outside, p.SystemNamespace)
	case OutsideWarn:
		actions = []admissionregistrationv1.ValidationAction{admissionregistrationv1.Warn, admissionregistrationv1.Audit}
	}
	meta := metav1.ObjectMeta{Name: FallbackName, Labels: map[string]string{"app.kubernetes.io/name": "routesteward"}}
	scope := admissionregistrationv1.NamespacedScope
	rule := admissionregistrationv1.NamedRuleWithOperations{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{gwv1.GroupName}, APIVersions: []string{"v1"}, Scope: &scope},
	}}
	for _, row := range routeKinds {
		if p.kinds.Has(row.Kind) {
			rule.Resources = append(rule.Resources, row.Resource)
		}
	}
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionregistrationv1.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicy"},
		ObjectMeta: meta,
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: new(admissionregistrationv1.Fail),
			MatchConstraints: &admissionregistrationv1.MatchResources{
				// A v1beta1 HTTPRoute is evaluated as the v1 one that it is.
				MatchPolicy:   new(admissionregistrationv1.Equivalent),
				ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{rule},
			},
			MatchConditions: append(p.exemptConditions(anyRoute), admissionregistrationv1.MatchCondition{
				Name: "outside-the-system-namespace", Expression: "request.namespace != " + quote(p.SystemNamespace),
			}),
			Variables: p.fallbackVariables(),
			Validations: []admissionregistrationv1.Validation{{
				Expression: "variables.problems == 0",
				// For what no expression may say: more than 5 KiB.
				Message: Finding{
					Field: "spec.parentRefs", Value: "Gateways in " + p.SystemNamespace, Rule: routeOutsideSystemNamespace.ID,
					Problem: fmt.Sprintf("take routes from namespace %q only", p.SystemNamespace), Fix: fixOutside(p.SystemNamespace, "", false),
				}.String(),
				MessageExpression: fallbackMessage,
				Reason:            new(metav1.StatusReasonForbidden),
			}},
		},
	}
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionregistrationv1.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicyBinding"},
		ObjectMeta: *meta.DeepCopy(),
		Spec:       admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: FallbackName, ValidationActions: actions},
	}
	return policy, binding, nil
}

// fallbackMessage is Denial on one line, as the API server drops a message with a line break.
const fallbackMessage = `request.kind.kind + ' "' + variables.name + '" in namespace "' + request.namespace + '" has ' +
(variables.problems == 1 ? '1 problem' : string(variables.problems) + ' problems') + ': ' +
variables.findings.map(f, '- ' + f).join(' ')`

// fallbackVariables are evaluated when first used: the findings' texts for a refusal only.
func (p *Policy) fallbackVariables() []admissionregistrationv1.Variable {
	var variables []admissionregistrationv1.Variable
	add := func(name, expression string) {
		variables = append(variables, admissionregistrationv1.Variable{Name: name, Expression: expression})
	}
	ratchets := p.Outside != OutsideWarn // where nothing is refused, what was there before is warned of too
	add("parentRefs", "has(object.spec) && has(object.spec.parentRefs) ? object.spec.parentRefs : []")
	add("annotated", annotated("object"))
	add("wasAnnotated", "oldObject != null && "+annotated("oldObject"))

	// Which parentRefs name a Gateway of the system namespace, by their indexes.
	unchanged := fmt.Sprintf("oldObject != null && has(oldObject.spec) && has(oldObject.spec.parentRefs) && oldObject.spec.parentRefs.exists(o, %s && o.name == %s.name)",
		namesSystem("o", p.SystemNamespace), "variables.parentRefs[i]")
	evaluated := "true"
	switch {
	case p.Outside == OutsideRewrite:
		evaluated = fmt.Sprintf("!(%s)", unchanged)
	case ratchets:
		// Who gets parked parentRefs back where nothing is relocated any more changes nothing for the worse.
		evaluated = fmt.Sprintf("!variables.wasAnnotated && !(%s)", unchanged)
	}
	add("direct", fmt.Sprintf("%s.filter(i, i < variables.parentRefs.size() &&\n%s &&\n%s)",
		indexes(maxParents), namesSystem("variables.parentRefs[i]", p.SystemNamespace), evaluated))

	// Whether the annotation asks for a relocation where there is none.
	parked := "false"
	if p.Outside == OutsideReject {
		parked = fmt.Sprintf(`variables.annotated && !variables.wasAnnotated && (oldObject == null || object.metadata.annotations[%s] != "")`, quote(ParkedAnnotation))
	}
	add("parked", parked)

	// Whether the route is refused for where it lives alone.
	anywhere := "false"
	if p.Scope == ScopeAll {
		anywhere = "variables.direct.size() == 0 && !variables.parked"
		if ratchets {
			anywhere = "oldObject == null && " + anywhere
		}
		if p.Outside != OutsideReject {
			// A parked source has no parentRefs of its own, and CEL cannot decide what the annotation is worth.
			anywhere += " && (!variables.annotated || variables.parentRefs.size() > 0)"
		}
	}
	add("anywhere", anywhere)

	add("problems", "variables.direct.size() + (variables.parked ? 1 : 0) + (variables.anywhere ? 1 : 0)")
	add("name", `has(object.metadata.generateName) && object.metadata.generateName != "" ? object.metadata.generateName + "*" : object.metadata.name`)
	p.addFallbackTexts(add)
	return variables
}

// addFallbackTexts adds the findings' texts: those of the engine, with CEL for what differs from route to route.
func (p *Policy) addFallbackTexts(add func(name, expression string)) {
	const own = "{own}"
	text := func(f Finding, values ...string) string {
		f.Rule = routeOutsideSystemNamespace.ID
		return interpolate(f.String(), append([]string{own, "request.namespace", "{fix}", "variables.fix"}, values...)...)
	}
	implicit := anyReference(func(ref string) string { return fmt.Sprintf(`!has(%[1]s.namespace) || %[1]s.namespace == ""`, ref) })
	add("fix", fmt.Sprintf("(%s) ?\n%s :\n%s", implicit,
		interpolate(fixOutside(p.SystemNamespace, own, true), own, "request.namespace"), interpolate(fixOutside(p.SystemNamespace, own, false), own, "request.namespace")))
	// Gateway API bounds only the length of a parentRef's name; the message shows what cannot be printed as Printable does.
	add("names", `variables.parentRefs.map(p, p.name.matches("^[\\pL\\pM\\pN\\pP\\pS ]*$") ? p.name :
p.name.split("").map(c, c.matches("^[\\pL\\pM\\pN\\pP\\pS ]$") ? c : "\ufffd").join(""))`)

	f := Finding{Field: "spec.parentRefs[{i}]", Value: fmt.Sprintf("Gateway %s/{name}", p.SystemNamespace), Problem: problemDirect(p.SystemNamespace, own), Fix: "{fix}"}
	if p.Outside == OutsideRewrite {
		f.Problem, f.Fix = f.Problem+problemNotRelocated, fixNotRelocated
	}
	index := "variables.direct[k]"
	findings := fmt.Sprintf("%s.filter(k, k < variables.direct.size()).map(k,\n%s)", indexes(maxFallbackListed),
		text(f, "{i}", "string("+index+")", "{name}", "variables.names["+index+"]"))
	findings += fmt.Sprintf(" +\n(variables.direct.size() > %[1]d ? [\"and \" + string(variables.direct.size() - %[1]d) + \" more\"] : [])", maxFallbackListed)
	if p.Outside == OutsideReject {
		findings = fmt.Sprintf("(variables.parked ? [%s] : []) +\n", text(Finding{
			Field: parkedField, Value: "parked parentRefs", Problem: problemParked(p.Outside), Fix: fixParked + "{fix}",
		})) + findings
	}
	if p.Scope == ScopeAll {
		findings = fmt.Sprintf("(variables.anywhere ? [%s] : []) +\n", text(Finding{
			Field: "metadata.namespace", Value: own, Problem: problemAnywhere(p.SystemNamespace), Fix: "{fix}",
		})) + findings
	}
	add("findings", findings)
}

// namesSystem is CEL for a parentRef to a Gateway of the system namespace, which it names.
func namesSystem(ref, system string) string {
	return fmt.Sprintf("%s && has(%[2]s.namespace) && %[2]s.namespace == %[3]s", isGateway(ref), ref, quote(system))
}

// indexes is CEL for the list of the first n indexes: API servers before 1.34 have nothing that makes one.
func indexes(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = strconv.Itoa(i)
	}
	return "[" + strings.Join(list, ", ") + "]"
}

// interpolate is CEL for a text in which each old string of the pairs is replaced by the value of the expression after it.
func interpolate(text string, pairs ...string) string {
	var replacements []string
	for i := 0; i < len(pairs); i += 2 {
		replacements = append(replacements, pairs[i], `" + `+pairs[i+1]+` + "`)
	}
	return strings.NewReplacer(replacements...).Replace(quote(text))
}
