package check_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/policytest"
)

const cases = "../testdata/cases"

// checkCase runs a golden case as files: route.yaml against the facts of cluster.yaml.
func checkCase(t *testing.T, c policytest.Case, o check.Options) check.Report {
	t.Helper()
	evaluator, err := policy.New(c.Config)
	require.NoError(t, err)
	o.Policy, o.User = evaluator, c.Request.User
	o.Files = []string{filepath.Join(c.Dir, "route.yaml")}
	if o.Cluster == nil {
		o.Facts = []string{clusterFile(t, c)}
	}
	report, err := check.Run(t.Context(), o)
	require.NoError(t, err)
	require.Empty(t, report.Problems)
	require.Equal(t, 1, report.Summary.Objects)
	return report
}

// clusterFile is the case's cluster.yaml, empty where there is none.
func clusterFile(t *testing.T, c policytest.Case) string {
	t.Helper()
	file := filepath.Join(c.Dir, "cluster.yaml")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	file = filepath.Join(t.TempDir(), "cluster.yaml")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	return file
}

// admitted is the engine's decision about a request.
func admitted(t *testing.T, evaluator *policy.Policy, request policy.Request, facts policy.Facts) policy.Decision {
	t.Helper()
	_, decision, err := evaluator.Admit(request, facts)
	require.NoError(t, err)
	return decision
}

// requireDecision compares a report on one object with the engine's decision about it.
func requireDecision(t *testing.T, want policy.Decision, request policy.Request, report check.Report) {
	t.Helper()
	if len(want.Findings) == 0 && len(want.Missing) == 0 && len(want.Warnings(true)) == 0 {
		require.Empty(t, report.Results)
		return
	}
	require.Len(t, report.Results, 1)
	result := report.Results[0]
	require.Equal(t, want.Verdict(), result.Verdict)
	require.Equal(t, request.Operation, result.Operation)
	if len(want.Missing) == 0 {
		require.Equal(t, want.Denial(request), result.Denial)
		require.Equal(t, want.Warnings(true), result.Warnings)
	}
	var findings []policy.Finding
	var missing []policy.MissingFact
	grants, relocations := 0, 0
	for _, f := range result.Findings {
		switch f.Severity {
		case check.SeverityUnknown:
			require.Contains(t, f.Message, "decided at admission: whether ")
			missing = append(missing, policy.MissingFact{Rule: f.Rule, Field: f.Field, Value: f.Value})
		case check.SeverityGrant:
			grants++
		case check.SeverityRelocation:
			relocations++
			require.Equal(t, want.Relocated.Warning(true), f.Message)
		default:
			findings = append(findings, policy.Finding{
				Rule: f.Rule, Severity: policy.Severity(f.Severity), Field: f.Field, Value: f.Value, Problem: f.Problem, Fix: f.Fix,
			})
		}
		require.Positive(t, f.Line)
		require.Positive(t, f.Column)
	}
	require.Len(t, findings, len(want.Findings))
	for i, f := range want.Findings {
		require.Equal(t, f.String(), result.Findings[i].Message)
		f.Unchanged = false // the warning shows it
		require.Equal(t, f, findings[i])
	}
	require.Len(t, missing, len(want.Missing))
	for i, m := range want.Missing {
		m.Fact = policy.Fact{}
		require.Equal(t, m, missing[i])
	}
	made := 0
	for _, use := range want.Grants {
		if !use.Exists {
			made++
		}
	}
	require.Equal(t, made, grants)
	require.Equal(t, want.Relocated != nil && want.Relocated.New, relocations == 1)
	require.Equal(t, want.Verdict() == "deny", report.Summary.Failed)
}

// TestGoldenCases is the parity of check and engine: the same verdict, rules and words from files as from the request.
func TestGoldenCases(t *testing.T) {
	all, err := policytest.Load(cases)
	require.NoError(t, err)
	for _, c := range all {
		t.Run(c.Name, func(t *testing.T) {
			evaluator, err := policy.New(c.Config)
			require.NoError(t, err)
			facts := c.Facts()
			report := checkCase(t, c, check.Options{Access: facts.MayCreateGrants})
			requireDecision(t, admitted(t, evaluator, c.Request, facts), c.Request, report)
		})
		t.Run(c.Name+" without the requester's rights", func(t *testing.T) {
			evaluator, err := policy.New(c.Config)
			require.NoError(t, err)
			facts := c.Facts()
			facts.Writers = nil
			report := checkCase(t, c, check.Options{})
			requireDecision(t, admitted(t, evaluator, c.Request, facts), c.Request, report)
		})
		t.Run(c.Name+" by a snapshot", func(t *testing.T) {
			evaluator, err := policy.New(c.Config)
			require.NoError(t, err)
			facts := c.Facts()
			snapshot := filepath.Join(t.TempDir(), "facts.yaml")
			require.NoError(t, os.WriteFile(snapshot, []byte(goldenCluster(c).snapshot(t, false)), 0o600))
			o := check.Options{Access: facts.MayCreateGrants}
			o.Policy, o.User, o.Facts, o.Files = evaluator, c.Request.User, []string{snapshot}, []string{filepath.Join(c.Dir, "route.yaml")}
			report, err := check.Run(t.Context(), o)
			require.NoError(t, err)
			require.Empty(t, report.Problems)
			requireDecision(t, admitted(t, evaluator, c.Request, facts), c.Request, report)
		})
	}
}

// TestGoldenCasesWithoutFacts sees that what is not known is never decided: where check decides without facts, it
// decides as the engine does with them, whatever else the cluster holds.
func TestGoldenCasesWithoutFacts(t *testing.T) {
	all, err := policytest.Load(cases)
	require.NoError(t, err)
	decided := 0
	for _, c := range all {
		if c.Request.Operation != policy.Create {
			continue // whether it is an update is not known either
		}
		t.Run(c.Name, func(t *testing.T) {
			evaluator, err := policy.New(c.Config)
			require.NoError(t, err)
			report, err := check.Run(t.Context(), check.Options{
				Policy: evaluator, User: c.Request.User, Files: []string{filepath.Join(c.Dir, "route.yaml")},
			})
			require.NoError(t, err)
			want := admitted(t, evaluator, c.Request, c.Facts())
			verdict := "allow"
			if len(report.Results) == 1 {
				verdict = report.Results[0].Verdict
			}
			if verdict == "undecided" {
				return
			}
			decided++
			require.Equal(t, want.Verdict(), verdict)
		})
	}
	require.Greater(t, decided, 20)
}
