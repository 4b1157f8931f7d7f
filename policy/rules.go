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

	check func(*evaluation)
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
