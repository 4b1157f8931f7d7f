package policy_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

func TestConfigValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		config func(c *policy.Config)
		want   []string
	}{
		"default": {config: func(*policy.Config) {}},
		"everything set": {config: func(c *policy.Config) {
			c.SystemNamespace, c.Scope, c.Kinds = "models", policy.ScopeAll, []policy.Kind{policy.GRPCRoute}
			c.Outside, c.Grants, c.GrantConsent, c.GrantScope = policy.OutsideWarn, policy.GrantsRequire, policy.ConsentAny, policy.GrantScopeNamespace
			c.GatewayClasses, c.ExemptNamespaces = []string{"aibrix-eg", "example.org"}, []string{"kube-system"}
			c.ExemptUsers, c.ExemptGroups = []string{"CN=o'brien, O=é"}, []string{"system:masters"}
		}},
		"zero": {config: func(c *policy.Config) { *c = policy.Config{} }, want: []string{
			`--grant-consent: Unsupported value: "": supported values: "requester", "namespace", "any"`,
			`--grant-scope: Unsupported value: "": supported values: "service", "namespace"`,
			`--grants: Unsupported value: "": supported values: "inject", "require", "off"`,
			`--kinds: Required value: name at least one of HTTPRoute, GRPCRoute`,
			`--outside: Unsupported value: "": supported values: "reject", "rewrite", "warn", "allow"`,
			`--relocated-name: Unsupported value: "": supported values: "same", "qualified"`,
			`--scope: Unsupported value: "": supported values: "governed", "all"`,
			`--system-namespace: Invalid value: "": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', ` +
				`and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`,
		}},
		"rewrite": {config: func(c *policy.Config) {
			c.Outside, c.RelocatedName = policy.OutsideRewrite, policy.RelocatedNameQualified
		}},
		"reserved names": {config: func(c *policy.Config) { c.ReservedNames = []string{"aibrix-*", "[", ""} }, want: []string{
			`--reserved-names: Invalid value: "[": want a name, in which * is any text and ? any character`,
			`--reserved-names: Invalid value: "": want a name, in which * is any text and ? any character`,
		}},
		"unknown values": {
			config: func(c *policy.Config) {
				c.Scope, c.Outside, c.Grants, c.GrantConsent, c.GrantScope = "Governed", "deny", "on", "owner", "cluster"
			},
			want: []string{
				`--grant-consent: Unsupported value: "owner": supported values: "requester", "namespace", "any"`,
				`--grant-scope: Unsupported value: "cluster": supported values: "service", "namespace"`,
				`--grants: Unsupported value: "on": supported values: "inject", "require", "off"`,
				`--outside: Unsupported value: "deny": supported values: "reject", "rewrite", "warn", "allow"`,
				`--scope: Unsupported value: "Governed": supported values: "governed", "all"`,
			},
		},
		"kinds": {config: func(c *policy.Config) { c.Kinds = []policy.Kind{policy.HTTPRoute, "TCPRoute", policy.Gateway} }, want: []string{
			`--kinds: Unsupported value: "TCPRoute": supported values: "HTTPRoute", "GRPCRoute"`,
			`--kinds: Unsupported value: "Gateway": supported values: "HTTPRoute", "GRPCRoute"`,
		}},
		"a kind twice": {config: func(c *policy.Config) { c.Kinds = []policy.Kind{policy.HTTPRoute, policy.GRPCRoute, policy.HTTPRoute} }, want: []string{
			`--kinds: Duplicate value: "HTTPRoute"`,
		}},
		"exempt namespaces": {config: func(c *policy.Config) { c.ExemptNamespaces = []string{"kube-system", "a.b", "aibrix-system"} }, want: []string{
			`--exempt-namespaces: Invalid value: "a.b": must not contain dots`,
			`--exempt-namespaces: Invalid value: "aibrix-system": is the system namespace; exempting it would switch off the evaluation of ` +
				`cross-namespace references (use --grants=off if that is meant)`,
		}},
		"gateway classes": {config: func(c *policy.Config) { c.GatewayClasses = []string{"aibrix-eg", "AIBrix"} }, want: []string{
			`--gateway-classes: Invalid value: "AIBrix": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', ` +
				`and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is ` +
				`'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
		}},
		"exempt users and groups": {
			config: func(c *policy.Config) {
				c.ExemptUsers, c.ExemptGroups = []string{"jane", "", "\xff"}, []string{"", "devs"}
			},
			want: []string{
				`--exempt-groups: Invalid value: "": a name may not be empty`,
				`--exempt-users: Invalid value: "": a name may not be empty`,
				`--exempt-users: Invalid value: "\xff": a name must be valid UTF-8`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := policy.DefaultConfig()
			tc.config(&config)
			var got []string
			for _, err := range config.Validate() {
				got = append(got, err.Error())
			}
			require.Equal(t, tc.want, got)
			p, err := policy.New(config)
			require.Equal(t, len(tc.want) == 0, p != nil)
			for _, message := range tc.want {
				require.ErrorContains(t, err, message)
			}
		})
	}
}

func TestRandomPoliciesAreValid(t *testing.T) {
	forEach(t, 1000, func(s *policytest.Source) { require.Empty(t, s.Config().Validate()) })
}

func TestJudges(t *testing.T) {
	config := policy.DefaultConfig()
	config.Kinds = []policy.Kind{policy.GRPCRoute}
	p := newPolicy(t, config)
	require.True(t, p.Evaluates(policy.GRPCRoute))
	require.False(t, p.Evaluates(policy.HTTPRoute))
	require.True(t, p.Evaluates(policy.ReferenceGrant))
	require.False(t, p.Evaluates(policy.Gateway), "no classes are listed")
	config.GatewayClasses = []string{"aibrix-eg"}
	require.True(t, newPolicy(t, config).Evaluates(policy.Gateway))
}
