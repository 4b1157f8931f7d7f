package policy

import (
	"fmt"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Answer is a fact that may be unknown. The zero value is Unknown.
type Answer uint8

// The answers.
const (
	Unknown Answer = iota
	No
	Yes
)

// AnswerOf turns a known truth into an Answer.
func AnswerOf(yes bool) Answer {
	if yes {
		return Yes
	}
	return No
}

var answers = []string{Unknown: "unknown", No: "no", Yes: "yes"}

// MarshalText writes the answer as it is in reports: yes, no or unknown.
func (a Answer) MarshalText() ([]byte, error) { return []byte(answers[a]), nil }

// UnmarshalText reads what MarshalText writes.
func (a *Answer) UnmarshalText(text []byte) error {
	i := slices.Index(answers, string(text))
	if i < 0 {
		return fmt.Errorf("%q is none of yes, no and unknown", text)
	}
	*a = Answer(i)
	return nil
}

// NamespaceFacts is what the engine reads of a namespace. The zero value is unknown.
type NamespaceFacts struct {
	Exists Answer
	// Terminating is true while the namespace is being deleted; nothing can be created in it.
	Terminating bool
	// Grants is the value of the label GrantsLabel: GrantsAllow, GrantsDeny, or anything else for no statement.
	Grants string
}

// Facts is a read-only view of the cluster, answered from memory. What is not known must be answered so (Unknown,
// known=false), never guessed: the engine reports it in Decision.Missing.
type Facts interface {
	Namespace(name string) NamespaceFacts
	// GatewayExists says whether a Gateway of that name exists.
	GatewayExists(namespace, name string) Answer
	// ManagedGrant is the managed grant of that name, or nil where there is none.
	ManagedGrant(namespace, name string) (grant *gwv1.ReferenceGrant, known bool)
	// ForeignGrants are the ReferenceGrants of a namespace that routesteward does not manage. Those may be left out that name
	// objects in spec.to and none of them the target's name; where that is empty, none may.
	ForeignGrants(namespace, target string) (grants []*gwv1.ReferenceGrant, known bool)
	// MayHoldMoreGrants reports whether a namespace may hold ReferenceGrants that these facts do not have, as an input without
	// a cluster cannot know: what would be refused for lack of a grant is undecided then.
	MayHoldMoreGrants(namespace string) bool
	// Holders are who has the name of a relocated copy in the system namespace: the source ("namespace/name") of the copy
	// that is there, "" for a route that is none, and where there is no route yet every source that is parked for it.
	Holders(kind Kind, name string) (sources []string, known bool)
	// MayCreateGrants says whether the requester may create ReferenceGrants in the namespace.
	MayCreateGrants(namespace string) Answer
}

// Snapshot is Facts held in maps: the facts of a golden case, of files, or of a test. Where a map is nil, everything in
// it is unknown; where it is not, what it does not hold does not exist.
type Snapshot struct {
	Namespaces map[string]NamespaceFacts
	// Gateways by "namespace/name".
	Gateways map[string]bool
	// Grants by namespace, managed and foreign.
	Grants map[string][]*gwv1.ReferenceGrant
	// Holder has what Policy.Holders returns.
	Holder map[HeldName][]string
	// Writers says by namespace whether the requester may create ReferenceGrants.
	Writers map[string]bool
}

var _ Facts = Snapshot{}

// Namespace implements Facts.
func (s Snapshot) Namespace(name string) NamespaceFacts {
	if s.Namespaces == nil {
		return NamespaceFacts{}
	}
	if facts, ok := s.Namespaces[name]; ok {
		return facts
	}
	return NamespaceFacts{Exists: No}
}

// GatewayExists implements Facts.
func (s Snapshot) GatewayExists(namespace, name string) Answer {
	if s.Gateways == nil {
		return Unknown
	}
	return AnswerOf(s.Gateways[namespace+"/"+name])
}

// ManagedGrant implements Facts.
func (s Snapshot) ManagedGrant(namespace, name string) (*gwv1.ReferenceGrant, bool) {
	for _, grant := range s.Grants[namespace] {
		if grant.Name == name && IsManaged(grant) {
			return grant, true
		}
	}
	return nil, s.Grants != nil
}

// ForeignGrants implements Facts.
func (s Snapshot) ForeignGrants(namespace, _ string) ([]*gwv1.ReferenceGrant, bool) {
	var foreign []*gwv1.ReferenceGrant
	for _, grant := range s.Grants[namespace] {
		if !IsManaged(grant) {
			foreign = append(foreign, grant)
		}
	}
	return foreign, s.Grants != nil
}

// MayHoldMoreGrants implements Facts.
func (s Snapshot) MayHoldMoreGrants(string) bool { return false }

// Holders implements Facts.
func (s Snapshot) Holders(kind Kind, name string) ([]string, bool) {
	return s.Holder[HeldName{kind, name}], s.Holder != nil
}

// MayCreateGrants implements Facts.
func (s Snapshot) MayCreateGrants(namespace string) Answer {
	if s.Writers == nil {
		return Unknown
	}
	return AnswerOf(s.Writers[namespace])
}
