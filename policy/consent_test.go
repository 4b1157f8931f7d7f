package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

func TestStandingConsentNeedsNobody(t *testing.T) {
	for consent, standing := range map[policy.Consent]bool{
		"": false, policy.ConsentOrigin: true, policy.ConsentGrant: true, policy.ConsentLabel: true, policy.ConsentUnasked: true,
		policy.ConsentRecorded: false, policy.ConsentByRequester: false,
	} {
		require.Equal(t, standing, consent.Standing(), consent)
	}
}

func TestFactsInWords(t *testing.T) {
	for kind, want := range map[policy.FactKind]string{
		policy.FactGateway:   "Gateway team-a/x exists",
		policy.FactNamespace: "namespace team-a consents (its label routesteward.dev/grants is not known here)",
		policy.FactGrants:    "a ReferenceGrant in namespace team-a permits it",
		policy.FactName:      "the name x is free in namespace team-a",
		policy.FactAccess:    "the requester may create ReferenceGrants in namespace team-a",
		"other":              "other",
	} {
		require.Equal(t, want, policy.Fact{Kind: kind, Namespace: "team-a", Name: "x"}.String())
	}
}

func TestSnapshotTellsGrantsApart(t *testing.T) {
	e := policy.Edge{Origin: "team-a", FromKind: policy.HTTPRoute, FromNamespace: "team-a", Namespace: "models", Kind: "Service", Name: "llama"}
	managed, foreign, namesake := e.Grant(""), e.Grant(""), e.Grant("")
	foreign.Name, foreign.Labels, namesake.Labels = "theirs", nil, nil
	facts := policy.Snapshot{Grants: map[string][]*gwv1.ReferenceGrant{"models": {namesake, foreign, managed}, "team-a": {namesake}}}
	for _, tc := range []struct {
		namespace, name string
		want            *gwv1.ReferenceGrant
	}{{"models", managed.Name, managed}, {"models", "theirs", nil}, {"models", "other", nil}, {"team-a", managed.Name, nil}} {
		grant, known := facts.ManagedGrant(tc.namespace, tc.name)
		require.True(t, known)
		require.Same(t, tc.want, grant)
	}
	grants, known := facts.ForeignGrants("models", "llama")
	require.True(t, known)
	require.Equal(t, []*gwv1.ReferenceGrant{namesake, foreign}, grants)
	_, known = policy.Snapshot{}.ManagedGrant("models", "theirs")
	require.False(t, known)
	_, known = policy.Snapshot{}.ForeignGrants("models", "llama")
	require.False(t, known)
}
