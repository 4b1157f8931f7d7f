package policy_test

import (
	"flag"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

var update = flag.Bool("update", false, "rewrite want.yaml of every golden case")

func TestGoldenCases(t *testing.T) {
	cases, err := policytest.Load("testdata/cases")
	require.NoError(t, err)
	verdicts := map[string]map[string]bool{}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			pol, err := policy.New(c.Config)
			require.NoError(t, err)
			_, decision, err := pol.Admit(c.Request, c.Facts())
			require.NoError(t, err)
			got := policytest.WantOf(decision, c.Request)
			if *update {
				require.NoError(t, c.WriteWant(got))
			} else {
				require.Equal(t, c.Want, got)
			}
			if verdicts[c.Rule] == nil {
				verdicts[c.Rule] = map[string]bool{}
			}
			verdicts[c.Rule][got.Verdict] = true
		})
	}
	for _, rule := range policy.Rules() {
		require.True(t, verdicts[rule.ID]["allow"], "rule %s needs a golden case that is allowed", rule.ID)
		require.True(t, verdicts[rule.ID]["deny"], "rule %s needs a golden case that is denied", rule.ID)
	}
}
