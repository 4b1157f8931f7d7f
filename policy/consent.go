package policy

import (
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Consent is the reason why an edge has the target namespace's consent. The empty string is no consent.
type Consent string

// The reasons, in the order in which they are looked for.
const (
	// ConsentOrigin: the target namespace is the origin of the route.
	ConsentOrigin Consent = "the route comes from this namespace"
	// ConsentGrant: somebody else's ReferenceGrant in the target namespace permits the origin.
	ConsentGrant Consent = "another ReferenceGrant in this namespace permits it"
	// ConsentLabel: the target namespace carries the label routesteward.dev/grants=allow.
	ConsentLabel Consent = "this namespace has the label routesteward.dev/grants=allow"
	// ConsentUnasked: the policy asks for none (--grant-consent=any).
	ConsentUnasked Consent = "none was asked for (--grant-consent=any)"
	// ConsentRecorded: a managed grant for this very edge exists.
	ConsentRecorded Consent = "this ReferenceGrant records it"
	// ConsentByRequester: the requester could have written the grant.
	ConsentByRequester Consent = "given at admission by a requester who may create ReferenceGrants here"
)

// Standing reports whether the consent needs neither a requester nor a record, so that a grant that is lost may be
// made again at any time.
func (c Consent) Standing() bool {
	return c == ConsentOrigin || c == ConsentGrant || c == ConsentLabel || c == ConsentUnasked
}

// Outcome is what is decided about an edge.
type Outcome uint8

// The outcomes. The zero value denies.
const (
	// Refused: nobody consented, or a grant would be needed and may not be made.
	Refused Outcome = iota
	// Vetoed: the target namespace refuses, whoever else consents.
	Vetoed
	// Undecided: a fact is missing.
	Undecided
	// Permitted: somebody else's grant permits the edge.
	Permitted
	// Recorded: the managed grant of the edge exists.
	Recorded
	// Grantable: there is consent, and the managed grant is missing.
	Grantable
)

// EdgeDecision is what a policy decides about one edge, given the facts.
type EdgeDecision struct {
	Outcome Outcome
	Consent Consent
	// Grant is the name of the edge's managed grant, where the edge is Recorded or Grantable.
	Grant string
	// Missing is the fact that an Undecided decision lacks.
	Missing Fact
	// Gone is true where the edge is refused and the target namespace is missing or being deleted. Without consent
	// the requester may not learn this.
	Gone bool
}

// EvaluateEdge decides about an edge. The requester's own rights count only where asked is true: the reconcilers have no
// requester, and an update that leaves a reference as it was says nothing about it.
func (p *Policy) EvaluateEdge(e Edge, facts Facts, asked bool) EdgeDecision {
	namespace := facts.Namespace(e.Namespace)
	if namespace.Exists == Unknown {
		return EdgeDecision{Outcome: Undecided, Missing: Fact{Kind: FactNamespace, Namespace: e.Namespace}}
	}
	// The veto beats every consent, also a grant that the namespace's owner or AIBrix's controller wrote.
	if namespace.Grants == GrantsDeny {
		return EdgeDecision{Outcome: Vetoed}
	}
	foreign, known := facts.ForeignGrants(e.Namespace, e.Name)
	if !known {
		return EdgeDecision{Outcome: Undecided, Missing: Fact{Kind: FactGrants, Namespace: e.Namespace}}
	}
	granted := p.Granted(e)
	name := granted.GrantName()
	managed, known := facts.ManagedGrant(e.Namespace, name)
	if !known {
		return EdgeDecision{Outcome: Undecided, Missing: Fact{Kind: FactGrants, Namespace: e.Namespace}}
	}
	recorded := granted.recordedBy(managed, name)
	consent, missing := p.consent(e, namespace, foreign, recorded, facts, asked)
	if missing != (Fact{}) {
		return EdgeDecision{Outcome: Undecided, Missing: missing}
	}
	refused := func(d EdgeDecision) EdgeDecision {
		if facts.MayHoldMoreGrants(e.Namespace) { // one of them could permit it
			return EdgeDecision{Outcome: Undecided, Missing: Fact{Kind: FactGrants, Namespace: e.Namespace}}
		}
		d.Outcome = Refused
		return d
	}
	gone := namespace.Exists == No || namespace.Terminating
	switch {
	case consent == "":
		return refused(EdgeDecision{Gone: gone})
	case recorded:
		return EdgeDecision{Outcome: Recorded, Consent: consent, Grant: name}
	// Somebody else's grant for where a relocated route is served from says nothing about its origin: the requester's consent
	// is in no other place than the managed grant.
	case consent.Standing() && permits(foreign, e, e.FromNamespace):
		return EdgeDecision{Outcome: Permitted, Consent: consent}
	case p.Grants != GrantsInject:
		return refused(EdgeDecision{Consent: consent})
	case gone:
		return refused(EdgeDecision{Consent: consent, Gone: true})
	default:
		return EdgeDecision{Outcome: Grantable, Consent: consent, Grant: name}
	}
}

// consent is the first reason why an edge has consent, or the fact that is missing to know.
func (p *Policy) consent(e Edge, target NamespaceFacts, foreign []*gwv1.ReferenceGrant, recorded bool, facts Facts, asked bool) (Consent, Fact) {
	switch {
	case e.Origin == e.Namespace:
		return ConsentOrigin, Fact{}
	case permits(foreign, e, e.Origin):
		return ConsentGrant, Fact{}
	case target.Grants == GrantsAllow:
		return ConsentLabel, Fact{}
	case p.GrantConsent == ConsentAny:
		return ConsentUnasked, Fact{}
	case recorded:
		return ConsentRecorded, Fact{}
	case !asked || p.GrantConsent != ConsentRequester || p.Grants != GrantsInject:
		return "", Fact{}
	}
	switch facts.MayCreateGrants(e.Namespace) {
	case Yes:
		return ConsentByRequester, Fact{}
	case Unknown:
		return "", Fact{Kind: FactAccess, Namespace: e.Namespace}
	}
	return "", Fact{}
}

// permits reports whether one of the grants permits the edge to routes of the namespace from.
func permits(grants []*gwv1.ReferenceGrant, e Edge, from string) bool {
	return slices.ContainsFunc(grants, func(grant *gwv1.ReferenceGrant) bool { return Permits(grant, e, from) })
}

// FactKind names a kind of fact that may be unknown.
type FactKind string

// The kinds of facts.
const (
	FactGateway   FactKind = "gateway"
	FactNamespace FactKind = "namespace"
	FactGrants    FactKind = "grants"
	FactAccess    FactKind = "access"
	FactName      FactKind = "name"
)

// Fact names one fact: a Gateway's existence, a namespace's labels, its ReferenceGrants, whether the requester may
// create ReferenceGrants in it, or whether a relocated copy may have a name.
type Fact struct {
	Kind            FactKind
	Namespace, Name string
}

// String says what is not known, as the end of a sentence that begins with "whether".
func (f Fact) String() string {
	switch f.Kind {
	case FactGateway:
		return "Gateway " + f.Namespace + "/" + f.Name + " exists"
	case FactNamespace:
		return "namespace " + f.Namespace + " consents (its label " + GrantsLabel + " is not known here)"
	case FactGrants:
		return "a ReferenceGrant in namespace " + f.Namespace + " permits it"
	case FactName:
		return "the name " + f.Name + " is free in namespace " + f.Namespace
	case FactAccess:
		return "the requester may create ReferenceGrants in namespace " + f.Namespace
	}
	return string(f.Kind)
}
