package audit

import "slices"

// Check is one thing that an audit looks at. Its texts feed the generated reference, SARIF and the metrics' labels.
type Check struct {
	// ID is kebab-case and stable for ever.
	ID string
	// Severity is that of its findings, unless what is found is less bad.
	Severity Severity
	// Summary is one sentence; Rationale says why it is looked at and what people see, Remediation what to do.
	Summary, Rationale, Remediation string

	run func(*auditor)
	// public takes out of a finding what the object's readers may not know: what exists in other namespaces. Nil: nothing.
	public func(*Finding)
}

// checks in the order in which they run: those that read status come after those that explain it.
var checks = []Check{
	routeOutsideSystemNamespace,
	parentGatewayMissing,
	noListenerAccepts,
	referenceWithheld,
	referenceNotPermitted,
	referenceVetoed,
	managedGrantMissing,
	referenceWithoutConsent,
	backendMissing,
	backendPortMissing,
	backendNotReady,
	gatewayNotProgrammed,
	statusMissing,
	statusNotAccepted,
	statusUnresolvedReferences,
	statusOtherCondition,
	statusStale,
	statusLeftover,
	routeShadowed,
	modelRouterName,
	parkedSourceWithoutCopy,
	copyWithoutSource,
	copyDiffersFromSource,
	managedGrantDrift,
	aibrixGrantDrift,
	grantUnused,
	grantOverWide,
	routingAlgorithmSet,
}

// Checks are all checks, in the order in which findings of one severity are reported.
func Checks() []Check { return slices.Clone(checks) }

// Public is the finding without what exists in other namespaces, for those who may read the object and nothing else. Only Problem
// and Next are other ones.
func (f Finding) Public() Finding {
	i := slices.IndexFunc(checks, func(c Check) bool { return c.ID == f.Check })
	if i >= 0 && checks[i].public != nil {
		checks[i].public(&f)
	}
	return f
}
