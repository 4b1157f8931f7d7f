package main

import (
	"encoding/json"
	"fmt"
)

// panel is one panel of the dashboard. What a Grafana panel has more is the same for all.
type panel struct {
	title, description string
	// kind is Grafana's type of panel.
	kind string
	// unit is one of Grafana's, such as s, ops or bytes.
	unit string
	// width of the 24 columns.
	width   int
	targets []target
}

// target is a query and the legend of its series.
type target struct{ expr, legend string }

// scope selects the replicas of the chosen namespace. Without a label namespace, "All" selects them too.
const scope = `namespace=~"$namespace"`

// ours keeps of the series of a metric that other programs have too those of routewarden, by the target that they come from.
func ours(expr string) string {
	return fmt.Sprintf("(%s and on (job, instance) routewarden_build_info{%s})", expr, scope)
}

// rate is the increase in a second.
func rate(metric string, selectors ...string) string {
	for _, selector := range selectors {
		metric += "{" + selector + "}"
	}
	return "rate(" + metric + "[$__rate_interval])"
}

func quantile(q, by, buckets string) string {
	return fmt.Sprintf("histogram_quantile(%s, sum by (%s, le) (%s))", q, by, buckets)
}

// rows are the panels in the order in which one looks at them in an incident.
func rows() []struct {
	title  string
	panels []panel
} {
	webhook := `name=~".+[.]routewarden[.]dev"`
	return []struct {
		title  string
		panels []panel
	}{
		{"At a glance", []panel{
			{"Replicas", "Replicas that Prometheus reaches. One is no redundancy.", "stat", "none", 4, []target{
				{fmt.Sprintf("count(routewarden_build_info{%s})", scope), ""}}},
			{"Leader", "The elected replica, which reconciles and scans. None: nothing is mended.", "stat", "none", 4, []target{
				{fmt.Sprintf(`leader_election_master_status{name="routewarden", %s} == 1`, scope), "{{instance}}"}}},
			{"Registration in step", "1: the webhook configurations hold what routewarden needs. 0: they are missing, so that nothing is judged, or cannot be updated.", "stat", "none", 4, []target{
				{fmt.Sprintf("min by (kind) (routewarden_registration_in_step{%s})", scope), "{{kind}}"}}},
			{"Certificates expire in", "Until the first replica's certificate, and its authority, expire. They are renewed when a third of their lifetime is left.", "stat", "s", 4, []target{
				{fmt.Sprintf("min by (certificate) (routewarden_certificate_not_after_timestamp_seconds{%s} - time())", scope), "{{certificate}}"}}},
			{"Grants withheld", "ReferenceGrants that routes need and whose namespaces do not consent. These routes answer 5xx.", "stat", "none", 4, []target{
				{fmt.Sprintf("max(routewarden_grants_withheld{%s})", scope), ""}}},
			{"Last scan", "How long ago the last background scan of all routes ended.", "stat", "s", 4, []target{
				{fmt.Sprintf("time() - max(routewarden_scan_timestamp_seconds{%s})", scope), ""}}},
		}},
		{"Admissions", []panel{
			{"Decisions by verdict", "Writes that were judged, a second. error: could not be judged, and was refused with a 500. Writes that the registration's conditions skip are not here.", "timeseries", "ops", 12, []target{
				{fmt.Sprintf("sum by (verdict) (%s)", rate("routewarden_decisions_total", scope)), "{{verdict}}"}}},
			{"Time to answer", "As routewarden measures it. The API server gives up after five seconds. Making a grant is one request to the API server, asking for a requester's rights another.", "timeseries", "s", 12, []target{
				{quantile("0.5", "webhook", ours(rate("controller_runtime_webhook_latency_seconds_bucket", scope))), "{{webhook}} median"},
				{quantile("0.99", "webhook", ours(rate("controller_runtime_webhook_latency_seconds_bucket", scope))), "{{webhook}} 99 %"}}},
			{"Denials by rule", "Refused writes by the rule of their first finding, without dry runs.", "timeseries", "ops", 12, []target{
				{fmt.Sprintf("sum by (rule) (%s)", rate("routewarden_decisions_total", `verdict="deny", dry_run="false", `+scope)), "{{rule}}"}}},
			{"Could not be judged", "Share of writes that were answered with an error, and why.", "timeseries", "percentunit", 12, []target{
				{fmt.Sprintf("sum by (reason) (%s) / scalar(sum(%s))", rate("routewarden_evaluation_errors_total", scope), rate("routewarden_decisions_total", scope)), "{{reason}}"}}},
			{"Findings", "All findings, also those of admitted writes: one write may have several.", "timeseries", "ops", 12, []target{
				{fmt.Sprintf("sum by (rule, severity) (%s)", rate("routewarden_findings_total", scope)), "{{rule}} {{severity}}"}}},
			{"In flight and panics", "Requests that are being answered, and panics while answering, which become errors.", "timeseries", "none", 12, []target{
				{fmt.Sprintf("sum by (webhook) (%s)", ours("controller_runtime_webhook_requests_in_flight{"+scope+"}")), "{{webhook}} in flight"},
				{fmt.Sprintf("sum(%s)", ours("increase(controller_runtime_webhook_panics_total{"+scope+"}[$__rate_interval])")), "panics"}}},
		}},
		{"Seen by the API server (where Prometheus scrapes it)", []panel{
			{"Calls", "Calls of the webhooks a second, and those of them that did not come about.", "timeseries", "ops", 8, []target{
				{fmt.Sprintf("sum by (name) (%s)", rate("apiserver_admission_webhook_request_total", webhook)), "{{name}}"},
				{fmt.Sprintf("sum by (name) (%s)", rate("apiserver_admission_webhook_rejection_count", `error_type="calling_webhook_error", `+webhook)), "{{name}} failed: refused"},
				{fmt.Sprintf("sum by (name) (%s)", rate("apiserver_admission_webhook_fail_open_count", webhook)), "{{name}} failed: went on"}}},
			{"Time of a call", "With the way there and back, 99 in 100 calls are faster.", "timeseries", "s", 8, []target{
				{quantile("0.99", "name", rate("apiserver_admission_webhook_admission_duration_seconds_bucket", webhook)), "{{name}}"}}},
			{"Fallback policy", "Writes that the ValidatingAdmissionPolicy of `routewarden manifests --policy=vap` judged: these do not come to routewarden when they are denied.", "timeseries", "ops", 8, []target{
				{fmt.Sprintf("sum by (enforcement_action) (%s)", rate("apiserver_validating_admission_policy_check_total", `policy="routewarden"`)), "{{enforcement_action}}"}}},
		}},
		{"Grants and copies", []panel{
			{"Managed ReferenceGrants", "made at an admission; restored or repaired by the controller; deleted as no route needs them; revoked by somebody while a route needs them.", "timeseries", "none", 12, []target{
				{fmt.Sprintf("sum by (action) (increase(routewarden_grants_total{%s}[$__rate_interval]))", scope), "{{action}}"},
				{fmt.Sprintf("max(routewarden_grants_withheld{%s})", scope), "withheld now"}}},
			{"Relocated copies", "Copies in the system namespace, under --outside=rewrite.", "timeseries", "none", 12, []target{
				{fmt.Sprintf("sum by (action) (increase(routewarden_relocated_copies_total{%s}[$__rate_interval]))", scope), "{{action}}"}}},
		}},
		{"Routes (by the leader's background scan)", []panel{
			{"Routes by status", "Governed routes by what their Gateways' controllers say. NoStatus: none has looked at them.", "timeseries", "none", 12, []target{
				{fmt.Sprintf("max by (condition, reason) (routewarden_routes{%s}) > 0", scope), "{{condition}} {{reason}}"}}},
			{"Findings of the scan", "Those that are errors or warnings; `routewarden audit` names the routes.", "timeseries", "none", 12, []target{
				{fmt.Sprintf(`max by (check, severity) (routewarden_audit_findings{severity=~"error|warning", %s}) > 0`, scope), "{{check}} {{severity}}"}}},
			{"Scans", "How long the last one took, and how many failed.", "timeseries", "s", 12, []target{
				{fmt.Sprintf("max(routewarden_scan_duration_seconds{%s})", scope), "duration"},
				{fmt.Sprintf("sum(increase(routewarden_scan_errors_total{%s}[$__rate_interval]))", scope), "failed (number)"}}},
		}},
		{"Controllers", []panel{
			{"Queues", "What waits to be reconciled.", "timeseries", "none", 12, []target{
				{fmt.Sprintf("sum by (name) (%s)", ours("workqueue_depth{"+scope+"}")), "{{name}}"}}},
			{"Reconcile errors", "Reconciliations a second that failed and are tried again.", "timeseries", "ops", 12, []target{
				{fmt.Sprintf("sum by (controller) (%s)", ours(rate("controller_runtime_reconcile_errors_total", scope))), "{{controller}}"}}},
			{"Time of a reconciliation", "99 in 100 are faster.", "timeseries", "s", 12, []target{
				{quantile("0.99", "controller", ours(rate("controller_runtime_reconcile_time_seconds_bucket", scope))), "{{controller}}"}}},
			{"Longest running", "How long the longest reconciliation that runs now has been running.", "timeseries", "s", 12, []target{
				{fmt.Sprintf("max by (name) (%s)", ours("workqueue_longest_running_processor_seconds{"+scope+"}")), "{{name}}"}}},
		}},
		{"Process", []panel{
			{"Memory", "Resident memory, and the heap, most of which are the caches of routes, grants, Gateways and namespaces.", "timeseries", "bytes", 8, []target{
				{ours("process_resident_memory_bytes{" + scope + "}"), "{{instance}} resident"},
				{ours("go_memstats_heap_inuse_bytes{" + scope + "}"), "{{instance}} heap"}}},
			{"CPU", "Cores in use.", "timeseries", "none", 8, []target{
				{ours(rate("process_cpu_seconds_total", scope)), "{{instance}}"}}},
			{"Requests to the API server", "By status code. 403: RBAC lacks a rule. 429: the API server is overloaded.", "timeseries", "ops", 8, []target{
				{fmt.Sprintf("sum by (code) (%s)", ours(rate("rest_client_requests_total", scope))), "{{code}}"}}},
			{"Versions", "Which program the replicas run.", "timeseries", "none", 24, []target{
				{fmt.Sprintf("count by (version, go_version) (routewarden_build_info{%s})", scope), "{{version}} {{go_version}}"}}},
		}},
	}
}

// dashboard is the Grafana dashboard (JSON model of Grafana 10 and later).
func dashboard() (string, error) {
	type object = map[string]any
	source := object{"type": "prometheus", "uid": "${datasource}"}
	var panels []object
	id, y := 0, 0
	add := func(p object) {
		id++
		p["id"] = id
		panels = append(panels, p)
	}
	for _, row := range rows() {
		add(object{"type": "row", "title": row.title, "collapsed": false, "gridPos": object{"x": 0, "y": y, "w": 24, "h": 1}, "panels": []object{}})
		x, height := 0, 8
		if row.panels[0].kind == "stat" {
			height = 4
		}
		y++
		for _, p := range row.panels {
			if x+p.width > 24 {
				x, y = 0, y+height
			}
			var targets []object
			for i, t := range p.targets {
				targets = append(targets, object{"refId": string(rune('A' + i)), "datasource": source, "expr": t.expr, "legendFormat": t.legend})
			}
			add(object{
				"type": p.kind, "title": p.title, "description": p.description, "datasource": source, "targets": targets,
				"gridPos":     object{"x": x, "y": y, "w": p.width, "h": height},
				"fieldConfig": object{"defaults": object{"unit": p.unit, "min": 0}, "overrides": []object{}},
			})
			x += p.width
		}
		y += height
	}
	text, err := json.MarshalIndent(object{
		"uid": "routewarden", "title": "Routewarden", "description": "Admissions, ReferenceGrants and relocated routes. Alerts and what to do about them: manifests/observability.",
		"tags": []string{"routewarden", "gateway-api"}, "schemaVersion": 39, "editable": true, "refresh": "30s", "timezone": "",
		"time": object{"from": "now-6h", "to": "now"},
		"templating": object{"list": []object{
			{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
			{
				"name": "namespace", "label": "Namespace", "type": "query", "datasource": source, "refresh": 2, "includeAll": true, "allValue": ".*",
				"query":   object{"refId": "namespace", "query": "label_values(routewarden_build_info, namespace)"},
				"current": object{"text": "All", "value": "$__all"},
			},
		}},
		"panels": panels,
	}, "", "  ")
	return string(text) + "\n", err
}
