package observability

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

const (
	alertsFile = "../chart/files/observability/alerts.yaml"
	runbookURL = "https://github.com/routesteward/routesteward/blob/main/manifests/observability/RUNBOOK.md#"
)

type alert struct {
	Alert       string
	Expr        string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) []alert {
	t.Helper()
	data, err := os.ReadFile(alertsFile)
	require.NoError(t, err)
	var file struct {
		Groups []struct{ Rules []alert }
	}
	require.NoError(t, yaml.Unmarshal(data, &file))
	require.Len(t, file.Groups, 1)
	require.NotEmpty(t, file.Groups[0].Rules)
	return file.Groups[0].Rules
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(data)
}

// Whoever is woken up finds what to do: each alert has its section, and each section its alert.
func TestEachAlertHasItsSection(t *testing.T) {
	var names, sections []string
	for _, a := range alerts(t) {
		names = append(names, a.Alert)
		require.Equal(t, runbookURL+strings.ToLower(a.Alert), a.Annotations["runbook_url"])
		require.Contains(t, []string{"critical", "warning"}, a.Labels["severity"], a.Alert)
		require.NotEmpty(t, a.Annotations["summary"], a.Alert)
		require.NotEmpty(t, a.Annotations["description"], a.Alert)
	}
	for i, section := range strings.Split(read(t, "RUNBOOK.md"), "\n## ") {
		if i == 0 {
			continue // what is before the first section
		}
		name, text, _ := strings.Cut(section, "\n")
		sections = append(sections, name)
		for _, part := range []string{"**Means:**", "**Look at:**", "**Do:**"} {
			require.Contains(t, text, part, name)
		}
	}
	require.Equal(t, names, sections, "in the same order")
}

// A template that names a label which the expression does not keep would be empty.
func TestTemplatesNameLabelsThatAreThere(t *testing.T) {
	used := regexp.MustCompile(`\$labels\.(\w+)`)
	kept := regexp.MustCompile(`^\s*(?:histogram_quantile\([0-9.]+, )?(?:sum|min|max) by \(([\w, ]+)\)`)
	for _, a := range alerts(t) {
		var labels []string
		if match := kept.FindStringSubmatch(a.Expr); match != nil {
			labels = strings.Split(match[1], ", ")
		}
		for _, text := range a.Annotations {
			for _, match := range used.FindAllStringSubmatch(text, -1) {
				require.Contains(t, labels, match[1], "%s: %s", a.Alert, text)
			}
		}
	}
}

// The tests of the alerts themselves run in promtool (e2e/observability); here, that none is forgotten there.
func TestEachAlertIsTested(t *testing.T) {
	fires := regexp.MustCompile(`labels: '\{alertname="(\w+)"\}'`)
	var fired []string
	for _, match := range fires.FindAllStringSubmatch(read(t, "alerts_test.yaml"), -1) {
		fired = append(fired, match[1])
	}
	for _, a := range alerts(t) {
		require.True(t, slices.Contains(fired, a.Alert), "%s never fires in alerts_test.yaml", a.Alert)
	}
}
