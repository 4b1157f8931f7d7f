package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routewarden/routewarden/policy"
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
		policy.FactNamespace: "namespace team-a consents (its label routewarden.dev/grants is not known here)",
		policy.FactGrants:    "a ReferenceGrant in namespace team-a permits it",
		policy.FactName:      "the name x is free in namespace team-a",
		policy.FactAccess:    "the requester may create ReferenceGrants in namespace team-a",
		"other":              "other",
	} {
		require.Equal(t, want, policy.Fact{Kind: kind, Namespace: "team-a", Name: "x"}.String())
	}
}
