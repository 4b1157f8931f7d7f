package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

func TestWarningsTellWhatADryRunWouldDo(t *testing.T) {
	use := policy.GrantUse{Edge: policy.Edge{Origin: "team-a", FromKind: policy.HTTPRoute, FromNamespace: "team-a", Namespace: "models", Kind: "Service", Name: "llama"}}
	relocated := policy.Relocated{Kind: policy.HTTPRoute, Namespace: "aibrix-system", Name: "r", Gateways: []string{"a", "b"}, New: true}
	grant := use.Edge.GrantName()
	use.Name = grant
	const serves = `HTTPRoute aibrix-system/r serves this route on Gateway a, b; its parentRefs are kept in the annotation routesteward.dev/parked-parent-refs`
	d := policy.Decision{Allowed: true, Grants: []policy.GrantUse{use}, Relocated: &relocated}
	const may = `HTTPRoutes in "team-a" may refer to Service "llama" in "models"`
	require.Equal(t, []string{"relocated: " + serves, "created ReferenceGrant models/" + grant + ": " + may}, d.Warnings(false))
	require.Equal(t, []string{"would be relocated: " + serves, "would create ReferenceGrant models/" + grant + ": " + may}, d.Warnings(true))
	d.Relocated.New, d.Grants[0].Exists = false, true
	require.Empty(t, d.Warnings(true))
	d.Grants[0].NotMade = "namespace models is being deleted"
	for _, d.Grants[0].Exists = range []bool{true, false} {
		require.Equal(t, []string{"nothing permits what this update leaves as it was: namespace models is being deleted"}, d.Warnings(d.Grants[0].Exists))
	}
	d.Relocated.New, d.Allowed = true, false
	require.Empty(t, d.Warnings(true))
}

func TestMissingFactOnOneLine(t *testing.T) {
	m := policy.MissingFact{Rule: "rule", Field: "spec", Value: "two\nlines", Fact: policy.Fact{Kind: policy.FactGateway, Namespace: "a", Name: "b"}}
	require.Equal(t, "spec: two\uFFFDlines: not known here: whether Gateway a/b exists [rule]", m.String())
}

func TestWarningsBeginWithACapital(t *testing.T) {
	for fix, want := range map[string]string{"use a": "Use a", "a": "A", "z": "Z", "Use": "Use", "": "", "éa": "éa", "{": "{", "`": "`"} {
		warning := policy.Finding{Rule: "r", Field: "f", Value: "v", Problem: "p", Fix: fix}.Warning()
		require.Equal(t, want+" [r] f: v: p", warning)
	}
	require.Equal(t, "Use [r, admitted as unchanged] f: v: p", policy.Finding{Rule: "r", Field: "f", Value: "v", Problem: "p", Fix: "use", Unchanged: true}.Warning())
}

func TestDenialListsTwenty(t *testing.T) {
	denial := func(n int) string {
		var d policy.Decision
		for i := range n {
			d.Findings = append(d.Findings, policy.Finding{Rule: "r", Severity: policy.SeverityDeny, Field: fmt.Sprint("f", i), Value: "v", Problem: "p", Fix: "x"})
		}
		return d.Denial(policy.Request{Kind: policy.HTTPRoute, Namespace: "team-a", Object: &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Name: "r"}}})
	}
	require.Empty(t, denial(0))
	require.Equal(t, "HTTPRoute \"r\" in namespace \"team-a\" has 1 problem:\n- f0: v: p; to fix: x [r]", denial(1))
	require.True(t, strings.HasPrefix(denial(20), `HTTPRoute "r" in namespace "team-a" has 20 problems:`))
	require.Equal(t, 20, strings.Count(denial(20), "\n"))
	require.True(t, strings.HasSuffix(denial(20), "- f19: v: p; to fix: x [r]"))
	require.Equal(t, 21, strings.Count(denial(23), "\n"))
	require.True(t, strings.HasSuffix(denial(23), "- f19: v: p; to fix: x [r]\n- and 3 more"))
}

func TestDenialNamesTheObject(t *testing.T) {
	d := policy.Decision{Findings: []policy.Finding{{Severity: policy.SeverityDeny}}}
	begins := func(object *gwv1.Gateway) string {
		req := policy.Request{Kind: policy.Gateway, Namespace: "team-a"}
		if object != nil {
			req.Object = object
		}
		before, _, _ := strings.Cut(d.Denial(req), " in ")
		return before
	}
	require.Equal(t, `Gateway ""`, begins(nil))
	require.Equal(t, `Gateway "a"`, begins(&gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Name: "a"}}))
	require.Equal(t, `Gateway "a-*"`, begins(&gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{GenerateName: "a-"}}))
}

func TestVerdicts(t *testing.T) {
	verdict := func(severities ...policy.Severity) string {
		var d policy.Decision
		for _, severity := range severities {
			d.Findings = append(d.Findings, policy.Finding{Severity: severity})
		}
		return d.Verdict()
	}
	const deny, warn, audit = policy.SeverityDeny, policy.SeverityWarn, policy.SeverityAudit
	require.Equal(t, "allow", verdict())
	require.Equal(t, "audit", verdict(audit))
	require.Equal(t, "warn", verdict(warn, audit))
	require.Equal(t, "warn", verdict(audit, warn))
	require.Equal(t, "deny", verdict(audit, warn, deny))
	require.Equal(t, "undecided", policy.Decision{Missing: []policy.MissingFact{{}}}.Verdict())
	require.Equal(t, "undecided", policy.Decision{Findings: []policy.Finding{{Severity: warn}}, Missing: []policy.MissingFact{{}}}.Verdict())
}

func TestWarningsAreShort(t *testing.T) {
	warning := func(length int) string {
		const rest = " [r] f: v: p"
		return policy.Finding{Rule: "r", Field: "f", Value: "v", Problem: "p", Fix: strings.Repeat("X", length-len(rest))}.Warning()
	}
	require.Len(t, warning(policy.MaxWarning-1), policy.MaxWarning-1)
	require.True(t, strings.HasSuffix(warning(policy.MaxWarning-1), "p"))
	require.Len(t, warning(policy.MaxWarning), policy.MaxWarning-1)
	require.True(t, strings.HasSuffix(warning(policy.MaxWarning), " [r] f: …"))
	require.Equal(t, "Two\uFFFDlines [r] f: v: p", policy.Finding{Rule: "r", Field: "f", Value: "v", Problem: "p", Fix: "two\nlines"}.Warning())
}

func TestCut(t *testing.T) {
	for most, want := range map[int]string{3: "…", 4: "…", 5: "ü…", 6: "ü…", 7: "üü…", 8: "üüüü"} {
		require.Equal(t, want, policy.Cut("üüüü", most))
	}
	require.Equal(t, "\xff\xff…", policy.Cut(strings.Repeat("\xff", 6), 5), "what is not UTF-8 is cut anywhere")
}

func TestLongCopyNames(t *testing.T) {
	config := policy.DefaultConfig()
	config.RelocatedName = policy.RelocatedNameQualified
	p := newPolicy(t, config)
	require.Equal(t, "a."+strings.Repeat("n", 251), p.CopyName("a", strings.Repeat("n", 251)), "the longest name")
	hashed := p.CopyName("a", strings.Repeat("n", 252))
	require.Regexp(t, `^a\.n{234}-[a-z2-7]{16}$`, hashed)
	require.Len(t, hashed, 253)
	require.Regexp(t, `^a\.n{200}-[a-z2-7]{16}$`, p.CopyName("a", strings.Repeat("n", 200)+strings.Repeat(".-", 20)+strings.Repeat("n", 12)))
}
