package observability

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/webhook/metrics"
)

const (
	alertsFile    = "../chart/files/observability/alerts.yaml"
	dashboardFile = "../chart/files/observability/dashboard.json"
	runbookURL    = "https://github.com/routesteward/routesteward/blob/main/manifests/observability/RUNBOOK.md#"
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

// dashboardQueries are the expressions of all panels, by panel.
func dashboardQueries(t *testing.T) map[string][]string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, dashboardFile)), &dashboard))
	queries := map[string][]string{}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries[panel.Title] = append(queries[panel.Title], target.Expr)
		}
	}
	require.NotEmpty(t, queries)
	return queries
}

// What others serve, with the labels that are used.
var (
	// targetLabels are those that Prometheus adds to every series that it scrapes.
	targetLabels = []string{"namespace", "pod", "job", "instance"}
	foreign      = map[string][]string{
		"apiserver_admission_webhook_rejection_count":                   {"name", "error_type"},
		"apiserver_admission_webhook_fail_open_count":                   {"name"},
		"apiserver_admission_webhook_request_total":                     {"name"},
		"apiserver_admission_webhook_admission_duration_seconds_bucket": {"name", "le"},
		"apiserver_validating_admission_policy_check_total":             {"policy", "enforcement_action"},
		"process_resident_memory_bytes":                                 nil,
		"process_cpu_seconds_total":                                     nil,
		"go_memstats_heap_inuse_bytes":                                  nil,
	}
	selector = regexp.MustCompile(`([a-z_]+)\s*(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
	grouping = regexp.MustCompile(`\b(?:by|on|without|ignoring) \(([\w, ]+)\)`)
	call     = regexp.MustCompile(`[a-z_]+\s*\(`)
	duration = regexp.MustCompile(`\[[^\]]*\]`)
)

// problems are what is wrong with the names of metrics and labels in a query, and with the values of labels.
func problems(expr string) []string {
	labels := map[string][]string{} // of each metric
	values := map[string][]string{} // of each label of a metric, where they are known
	for _, metric := range append(metrics.Own(), metrics.Used()...) {
		name := metric.Name
		if metric.Type == "histogram" {
			name += "_bucket"
			labels[name] = append(labels[name], "le")
		}
		labels[name] = append(labels[name], targetLabels...)
		for _, label := range metric.Labels {
			labels[name] = append(labels[name], label.Name)
			values[name+" "+label.Name] = label.Values
		}
	}
	for name, own := range foreign {
		labels[name] = append(slices.Clone(own), targetLabels...)
	}

	var found, here []string // here are the labels of all metrics of the query
	rest := duration.ReplaceAllString(grouping.ReplaceAllString(expr, ""), "")
	for _, match := range selector.FindAllStringSubmatch(call.ReplaceAllString(rest, "("), -1) {
		name := match[1]
		if slices.Contains([]string{"and", "or", "unless", "bool"}, name) {
			continue
		}
		known, ok := labels[name]
		if !ok {
			found = append(found, "no metric "+name)
			continue
		}
		here = append(here, known...)
		for _, m := range matcher.FindAllStringSubmatch(match[2], -1) {
			label, asked := m[1], []string{m[3]}
			if !slices.Contains(known, label) {
				found = append(found, name+" has no label "+label)
			}
			if strings.HasSuffix(m[2], "~") {
				asked = strings.Split(m[3], "|")
			}
			for _, value := range asked {
				if all := values[name+" "+label]; len(all) > 0 && !slices.Contains(all, value) {
					found = append(found, name+" has no "+label+" "+value)
				}
			}
		}
	}
	for _, match := range grouping.FindAllStringSubmatch(expr, -1) {
		for _, label := range strings.Split(match[1], ", ") {
			if !slices.Contains(here, label) {
				found = append(found, "no metric of the query has the label "+label)
			}
		}
	}
	if len(here) == 0 {
		found = append(found, "no metric at all")
	}
	return found
}

// e2e/observability runs the queries; here, that they name only what the code declares.
func TestQueriesNameWhatIsDeclared(t *testing.T) {
	for _, a := range alerts(t) {
		require.Empty(t, problems(a.Expr), "%s: %s", a.Alert, a.Expr)
	}
	for panel, queries := range dashboardQueries(t) {
		for _, expr := range queries {
			require.Empty(t, problems(expr), "%s: %s", panel, expr)
		}
	}
}

func TestProblems(t *testing.T) {
	for expr, want := range map[string][]string{
		`sum by (action) (increase(routesteward_grants_total{action="revoked"}[15m])) > 0`:     nil,
		`sum(increase(routesteward_grant_total[15m])) > 0`:                                     {"no metric routesteward_grant_total", "no metric at all"},
		`routesteward_grants_total{verb="revoked"}`:                                            {"routesteward_grants_total has no label verb"},
		`routesteward_grants_total{action=~"made|taken"}`:                                      {"routesteward_grants_total has no action taken"},
		`sum by (action, le) (rate(routesteward_grants_total[5m]))`:                            {"no metric of the query has the label le"},
		`controller_runtime_webhook_latency_seconds and on (job) routesteward_build_info`:      {"no metric controller_runtime_webhook_latency_seconds"},
		`time() - max(routesteward_scan_timestamp_seconds) > 3 * max(routesteward_scan_every)`: {"no metric routesteward_scan_every"},
		`vector(1)`: {"no metric at all"},
	} {
		require.Equal(t, want, problems(expr), expr)
	}
}
