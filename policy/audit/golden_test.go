package audit_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/check"
)

var update = flag.Bool("update", false, "write the reports of the audits as what is wanted")

const base = "testdata/base.yaml"

// read is the cluster of a case: its own objects and those of base.yaml, unless its first line says that it has its own.
func read(t testing.TB, path string) *audit.Cluster {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	paths := []string{base, path}
	if strings.HasPrefix(string(text), "# base: own\n") {
		paths = paths[1:]
	}
	cluster, problems, err := check.ReadSnapshot(t.Context(), paths)
	require.NoError(t, err)
	require.Empty(t, problems)
	return cluster
}

func newPolicy(t testing.TB, change ...func(*policy.Config)) *policy.Policy {
	t.Helper()
	config := policy.DefaultConfig()
	for _, c := range change {
		c(&config)
	}
	p, err := policy.New(config)
	require.NoError(t, err)
	return p
}

// textOf is a report as people read it.
func textOf(r audit.Report) string {
	var text strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&text, "%s: %s\n", f.Severity, f.Message)
		if f.Command != "" {
			fmt.Fprintf(&text, "  $ %s\n", f.Command)
		}
	}
	for _, words := range r.NotKnown {
		fmt.Fprintf(&text, "not known: %s\n", words)
	}
	for _, m := range r.Models {
		fmt.Fprintf(&text, "model %s by %s: %s: %s\n", m.Name, m.Route, m.State, m.Affected)
	}
	return text.String()
}

// TestGolden runs the cases testdata/<check>/<case>.yaml; what the audit must say is beside each in <case>.want. The cases of
// "fine" are those in which nothing is to be found.
func TestGolden(t *testing.T) {
	ids := []string{"fine"}
	for _, c := range audit.Checks() {
		ids = append(ids, c.ID)
	}
	files, err := filepath.Glob("testdata/*/*")
	require.NoError(t, err)
	seen := map[string]int{}
	for _, file := range files {
		id, name := filepath.Base(filepath.Dir(file)), strings.TrimSuffix(filepath.Base(file), ".yaml")
		require.Contains(t, ids, id, "%s belongs to no check", file)
		if strings.HasSuffix(file, ".want") {
			require.FileExists(t, strings.TrimSuffix(file, ".want")+".yaml")
			continue
		}
		t.Run(id+"/"+name, func(t *testing.T) {
			report := audit.Run(newPolicy(t), read(t, file))
			got, wanted := textOf(report), strings.TrimSuffix(file, ".yaml")+".want"
			if *update {
				require.NoError(t, os.WriteFile(wanted, []byte(got), 0o644))
			}
			want, err := os.ReadFile(wanted)
			require.NoError(t, err)
			require.Equal(t, string(want), got)
			if id == "fine" {
				require.Zero(t, report.Summary.Findings[audit.SeverityError]+report.Summary.Findings[audit.SeverityWarning])
			} else if slices.ContainsFunc(report.Findings, func(f audit.Finding) bool { return f.Check == id }) {
				seen[id]++
			}
			again := audit.Run(newPolicy(t), read(t, file))
			require.Equal(t, report, again, "the same report for the same cluster")
		})
	}
	for _, id := range ids[1:] {
		require.Positive(t, seen[id], "no case of %s finds anything", id)
	}
}
