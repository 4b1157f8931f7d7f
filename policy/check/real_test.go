package check_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/check"
)

var update = flag.Bool("update", false, "rewrite the expected texts in testdata")

// TestAIBrixManifests is what a person reads about manifests as teams write them for AIBrix.
func TestAIBrixManifests(t *testing.T) {
	t.Chdir("testdata/aibrix")
	report := run(t, check.Options{Files: []string{"models.yaml"}, Advice: true})
	require.Empty(t, report.Problems)
	got := written(t, report, check.FormatText, false)
	if *update {
		require.NoError(t, os.WriteFile("want.txt", []byte(got), 0o644))
	}
	want, err := os.ReadFile("want.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// TestGatewayAPIExamples reads every example of Gateway API: whatever is valid there must be read here, and what nobody
// keeps from its own Gateway must not be refused.
func TestGatewayAPIExamples(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	require.NoError(t, err)
	examples := filepath.Join(strings.TrimSpace(string(dir)), "examples")
	report := run(t, check.Options{Files: []string{examples}, Recursive: true, Advice: true})
	require.Empty(t, report.Problems)
	require.Greater(t, report.Summary.Objects, 80)
	require.False(t, report.Summary.Failed)
	for f := range report.Findings() {
		if f.Severity != check.SeverityAdvice {
			require.Contains(t, f.Problem, "decided at admission: whether Gateway ", f.Message)
		}
	}

	// With everything known, none of them uses a Gateway of aibrix-system.
	report = run(t, check.Options{Files: []string{examples}, Recursive: true, Facts: []string{write(t, map[string]string{"facts.yaml": ""})}})
	require.Empty(t, report.Problems)
	require.Empty(t, report.Results)

	// And where one of their own namespaces is the system namespace, the route of another one is refused there alone.
	config := policy.DefaultConfig()
	config.SystemNamespace = "gateway-api-example-ns1"
	evaluator, err := policy.New(config)
	require.NoError(t, err)
	report = run(t, check.Options{Files: []string{filepath.Join(examples, "standard")}, Recursive: true, Policy: evaluator})
	var refused []string
	for f := range report.Findings() {
		if f.Severity == check.SeverityDeny {
			refused = append(refused, filepath.Base(f.File)+" "+f.Field)
		}
	}
	require.Equal(t, []string{"httproute.yaml spec.parentRefs[0]"}, refused)
}
