package policy

// Rule is one thing that routesteward looks at. Its texts feed the command line, the generated reference and the tests.
type Rule struct {
	// ID is kebab-case and stable for ever: it appears in messages, metrics, logs and audit annotations.
	ID string
	// Summary is one sentence; Rationale says why the rule exists, Remediation what to do about a finding.
	Summary, Rationale, Remediation string
	// Good and Bad are YAML documents that the rule passes and finds fault with, under the default policy with
	// --gateway-classes=aibrix-eg.
	Good, Bad string

	// check reports what is wrong with the object of an evaluation.
	check func(*evaluation)
	// when says for which writes of a kind the rule could find something, or need a grant, whatever the facts are; nil: for
	// every write.
	when func(p *Policy, kind Kind) When
	// Repair is what check --fix can do about the findings.
	Repair Repair
}

// When holds CEL expressions over object, oldObject and request: the webhook is called where one of them is true, those of
// Inside for writes in the system namespace, those of Outside for writes elsewhere.
type When struct {
	Inside, Outside []string
}

var always = When{Inside: []string{"true"}, Outside: []string{"true"}}

// Repair says how check --fix repairs what a rule finds.
type Repair struct {
	// Move the route into the system namespace.
	Move bool
	// Never is why nothing can repair an object of the kind; empty: something can. Where the finding's own words say why, it is
	// SeeFinding.
	Never func(Kind) string
}

// SeeFinding is the reason of a Repair that the finding itself gives.
const SeeFinding = "see the finding"

// When are the writes of a kind for which the rule must be asked.
func (r Rule) When(p *Policy, kind Kind) When {
	if r.when == nil {
		return always
	}
	return r.when(p, kind)
}

// rules in the order in which findings are reported.
var rules = []Rule{
	routeOutsideSystemNamespace,
	routeCannotBeRelocated,
	targetNamespaceRefusesGrants,
	crossNamespaceReference,
	gatewayOutsideSystemNamespace,
	managedObjectChanged,
}

// Rules are all rules, in the order in which their findings are reported.
func Rules() []Rule { return append([]Rule(nil), rules...) }

// RuleOf is the rule with an id; the zero value where there is none.
func RuleOf(id string) Rule {
	for _, rule := range rules {
		if rule.ID == id {
			return rule
		}
	}
	return Rule{}
}
