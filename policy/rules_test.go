package policy_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

func TestRules(t *testing.T) {
	cases, err := policytest.Load("testdata/cases")
	require.NoError(t, err)
	count := map[string]int{}
	for _, c := range cases {
		count[c.Rule]++
	}
	seen := map[string]bool{}
	for _, rule := range policy.Rules() {
		t.Run(rule.ID, func(t *testing.T) {
			require.Regexp(t, `^[a-z]+(-[a-z]+)*$`, rule.ID)
			require.False(t, seen[rule.ID], "the id is taken")
			seen[rule.ID] = true
			for _, text := range []string{rule.Summary, rule.Rationale, rule.Remediation} {
				require.Regexp(t, `^[A-Z][^\n]*[^ .]\.$`, text)
				require.NotContains(t, text, "  ")
			}
			require.Equal(t, 1, strings.Count(rule.Summary+" ", ". "), "the summary is one sentence")
			require.NotZero(t, count[rule.ID], "the rule has no golden case")

			require.Empty(t, findings(t, rule, rule.Good))
			require.NotEmpty(t, findings(t, rule, rule.Bad))
		})
	}
}

// findings are those of one rule about an example: its first document is the object, the others are the cluster.
func findings(t *testing.T, rule policy.Rule, example string) []policy.Finding {
	t.Helper()
	objects, err := policytest.Decode([]byte(example))
	require.NoError(t, err)
	require.NotEmpty(t, objects)
	config := policy.DefaultConfig()
	config.GatewayClasses = []string{"aibrix-eg"}
	object := objects[0]
	d := newPolicy(t, config).Evaluate(policy.Request{
		Operation: policy.Create, Kind: policy.Kind(object.GetObjectKind().GroupVersionKind().Kind), Namespace: object.GetNamespace(),
		User: policy.User{Name: policytest.User}, Object: object,
	}, policytest.Case{Config: config, Cluster: objects[1:]}.Facts())
	require.Empty(t, d.Missing)
	require.Empty(t, d.Exempt)
	var found []policy.Finding
	for _, f := range d.Findings {
		if f.Rule == rule.ID {
			found = append(found, f)
		}
	}
	return found
}

func TestRulesAreACopy(t *testing.T) {
	policy.Rules()[0].ID = "changed"
	require.NotEqual(t, "changed", policy.Rules()[0].ID)
}
