// Package metrics has the program's own metrics, served beside controller-runtime's.
package metrics

import (
	"crypto/x509"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
)

// Doc describes one metric for the generated reference.
type Doc struct {
	Name, Type, Help string
	Labels           []Label
	// When says when and where the series exist; empty: in every replica, from the start.
	When string
}

// Label is a label of a metric with its possible values; none where they are not known beforehand.
type Label struct {
	Name   string
	Values []string
}

// The values of labels. Every label has a closed set of values, so the number of series is bounded.
var (
	verdicts      = []string{"allow", "audit", "warn", "deny", "error"}
	operations    = []string{string(policy.Create), string(policy.Update)}
	dryRuns       = []string{"false", "true"}
	severities    = []string{string(policy.SeverityAudit), string(policy.SeverityWarn), string(policy.SeverityDeny)}
	actions       = []string{GrantMade, GrantRestored, GrantRepaired, GrantDeleted, GrantRevoked}
	copies        = []string{CopyMade, CopyUpdated, CopyDeleted}
	failures      = []string{FailedDecode, FailedFacts, FailedAccess, FailedGrant}
	levels        = []string{string(audit.SeverityError), string(audit.SeverityWarning), string(audit.SeverityInfo)}
	registrations = []string{"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"}
	conditions    = []string{string(gwv1.RouteConditionAccepted), string(gwv1.RouteConditionResolvedRefs)}
	// reasons are those that Gateway API defines for these conditions, and ours for what is none of them.
	reasons = []string{
		string(gwv1.RouteReasonAccepted), string(gwv1.RouteReasonNotAllowedByListeners), string(gwv1.RouteReasonNoMatchingListenerHostname),
		string(gwv1.RouteReasonNoMatchingParent), string(gwv1.RouteReasonUnsupportedValue), string(gwv1.RouteReasonPending),
		string(gwv1.RouteReasonIncompatibleFilters), string(gwv1.RouteReasonResolvedRefs), string(gwv1.RouteReasonRefNotPermitted),
		string(gwv1.RouteReasonInvalidKind), string(gwv1.RouteReasonBackendNotFound), string(gwv1.RouteReasonUnsupportedProtocol),
		ReasonOther, ReasonNoStatus,
	}
)

// Reasons of a route's condition that Gateway API does not define.
const (
	// ReasonOther is every reason of a controller's own.
	ReasonOther = "Other"
	// ReasonNoStatus: no controller has written the condition.
	ReasonNoStatus = "NoStatus"
)

// What happens to managed grants.
const (
	// GrantMade at an admission.
	GrantMade = "made"
	// GrantRestored by the reconciler, under standing consent.
	GrantRestored = "restored"
	// GrantRepaired by the reconciler, after somebody changed it.
	GrantRepaired = "repaired"
	// GrantDeleted because no route needs it any more.
	GrantDeleted = "deleted"
	// GrantRevoked by somebody who deleted it, or by a veto, while a route needs it.
	GrantRevoked = "revoked"
)

const (
	certificateServing   = "serving"
	certificateAuthority = "authority"
)

// afterScan is when the series of the background scan exist.
const afterScan = "Only in the replica that scans, from its first scan on (`--scan-interval`)."

// What happens to relocated copies.
const (
	CopyMade    = "made"
	CopyUpdated = "updated"
	CopyDeleted = "deleted"
)

// Why a request could not be evaluated.
const (
	// FailedDecode: the object is not what its kind says.
	FailedDecode = "decode"
	// FailedFacts: the caches could not answer.
	FailedFacts = "facts"
	// FailedAccess: the access review failed.
	FailedAccess = "access"
	// FailedGrant: a ReferenceGrant could not be made.
	FailedGrant = "grant"
)

// noRule is the rule of a decision without findings.
const noRule = "none"

func ruleIDs() []string {
	var ids []string
	for _, rule := range policy.Rules() {
		ids = append(ids, rule.ID)
	}
	return ids
}

func checkIDs() []string {
	var ids []string
	for _, check := range audit.Checks() {
		ids = append(ids, check.ID)
	}
	return ids
}

type counter struct {
	*prometheus.CounterVec
	doc Doc
}

func newCounter(name, help string, labels ...Label) counter {
	var names []string
	for _, label := range labels {
		names = append(names, label.Name)
	}
	c := counter{
		prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, names),
		Doc{Name: name, Type: "counter", Help: help, Labels: labels},
	}
	// Every series exists from the start, so that rates and alerts see the first event.
	c.create(nil, labels)
	return c
}

func (c counter) create(values []string, rest []Label) {
	if len(rest) == 0 {
		c.WithLabelValues(values...)
		return
	}
	for _, value := range rest[0].Values {
		c.create(append(values[:len(values):len(values)], value), rest[1:])
	}
}

// gauge is a counter that also goes down.
type gauge struct {
	*prometheus.GaugeVec
	doc Doc
}

func newGauge(when, name, help string, labels ...Label) gauge {
	var names []string
	for _, label := range labels {
		names = append(names, label.Name)
	}
	return gauge{
		prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, names),
		Doc{Name: name, Type: "gauge", Help: help, Labels: labels, When: when},
	}
}

// Metrics are the program's own metrics.
type Metrics struct {
	decisions, findings, grants, copies, errors counter
	withheld                                    prometheus.Gauge
	withheldDoc                                 Doc

	scanRoutes, scanFindings, scanTime, scanSeconds gauge
	scanErrors                                      counter
	scanInterval                                    gauge
	inStep, build                                   gauge
	certificates                                    *validity
}

// New registers the metrics.
func New(registry prometheus.Registerer) (*Metrics, error) {
	const withheldName, withheldHelp = "routesteward_grants_withheld", "Managed ReferenceGrants that a governed route needs and that are not there, for want of consent."
	m := &Metrics{
		decisions: newCounter("routesteward_decisions_total", "Admission decisions. The rule is that of the first finding of the greatest severity.",
			Label{"verdict", verdicts}, Label{"rule", append([]string{noRule}, ruleIDs()...)}, Label{"operation", operations}, Label{"dry_run", dryRuns}),
		findings: newCounter("routesteward_findings_total", "Findings of admission decisions, of which one decision may have several.",
			Label{"rule", ruleIDs()}, Label{"severity", severities}),
		grants: newCounter("routesteward_grants_total", "What happened to managed ReferenceGrants.",
			Label{"action", actions}),
		copies: newCounter("routesteward_relocated_copies_total", "What was done to relocated copies of routes.",
			Label{"action", copies}),
		errors: newCounter("routesteward_evaluation_errors_total", "Requests that could not be evaluated and were answered with an error.",
			Label{"reason", failures}),
		withheld:    prometheus.NewGauge(prometheus.GaugeOpts{Name: withheldName, Help: withheldHelp}),
		withheldDoc: Doc{Name: withheldName, Type: "gauge", Help: withheldHelp},
		scanRoutes: newGauge(afterScan, "routesteward_routes", "Governed routes by what their status says, as the background scan found them; a route with several parentRefs counts once for each reason that it has.",
			Label{"condition", conditions}, Label{"reason", reasons}),
		scanFindings: newGauge(afterScan, "routesteward_audit_findings", "Findings of the background scan.",
			Label{"check", checkIDs()}, Label{"severity", levels}),
		scanTime:    newGauge(afterScan, "routesteward_scan_timestamp_seconds", "When the last background scan that succeeded ended, in Unix time."),
		scanSeconds: newGauge(afterScan, "routesteward_scan_duration_seconds", "How long the last background scan that succeeded took."),
		scanErrors:  newCounter("routesteward_scan_errors_total", "Background scans that could not read the cluster."),
		scanInterval: newGauge("Where there are background scans.", "routesteward_scan_interval_seconds",
			"The time between two background scans (`--scan-interval`)."),
		inStep: newGauge("In the elected replica; none where `--webhook-configuration` is empty.",
			"routesteward_registration_in_step", "1 where a webhook configuration holds what the flags and the certificates ask for, 0 where it does not, or does not exist and should: then nothing is judged.",
			Label{"kind", registrations}),
		build: newGauge("", "routesteward_build_info", "Always 1; the labels say which program this is.",
			Label{"version", nil}, Label{"go_version", nil}),
		certificates: newValidity(),
	}
	for _, collector := range []prometheus.Collector{m.decisions, m.findings, m.grants, m.copies, m.errors, m.withheld,
		m.scanRoutes, m.scanFindings, m.scanTime, m.scanSeconds, m.scanErrors, m.scanInterval, m.inStep, m.build, m.certificates} {
		if err := registry.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Docs describes every metric, for the generated reference.
func (m *Metrics) Docs() []Doc {
	return append([]Doc{m.decisions.doc, m.findings.doc, m.grants.doc, m.copies.doc, m.errors.doc, m.withheldDoc,
		m.scanRoutes.doc, m.scanFindings.doc, m.scanTime.doc, m.scanSeconds.doc, m.scanErrors.doc, m.scanInterval.doc,
		m.inStep.doc, m.build.doc}, m.certificates.docs...)
}

// Used are the metrics of controller-runtime, on the same endpoint, that the dashboard and the alerts use as well.
func Used() []Doc {
	controllers := Label{"controller", []string{"grants", "relocate-httproute", "relocate-grpcroute", "registration"}}
	queue := Label{"name", controllers.Values}
	const when = "A controller of the elected replica has them when it has something to do for the first time; `registration` runs in every replica."
	return []Doc{
		{Name: "controller_runtime_webhook_latency_seconds", Type: "histogram", Help: "How long admission requests took.",
			Labels: []Label{{"webhook", []string{"/validate", "/mutate"}}}},
		{Name: "controller_runtime_webhook_requests_in_flight", Type: "gauge", Help: "Admission requests that are being answered.",
			Labels: []Label{{"webhook", []string{"/validate", "/mutate"}}}},
		{Name: "controller_runtime_webhook_panics_total", Type: "counter", Help: "Panics while an admission request was answered, which is then an error."},
		{Name: "controller_runtime_reconcile_errors_total", Type: "counter", Help: "Reconciliations that failed and are tried again.", When: when,
			Labels: []Label{controllers}},
		{Name: "controller_runtime_reconcile_time_seconds", Type: "histogram", Help: "How long reconciliations took.", When: when,
			Labels: []Label{controllers}},
		{Name: "workqueue_depth", Type: "gauge", Help: "What waits to be reconciled.", When: when, Labels: []Label{queue}},
		{Name: "workqueue_longest_running_processor_seconds", Type: "gauge", Help: "How long the longest reconciliation that runs now has been running.",
			When: when, Labels: []Label{queue}},
		{Name: "leader_election_master_status", Type: "gauge", Help: "1 in the elected replica, 0 in the others.", When: "With `--leader-elect`.",
			Labels: []Label{{"name", []string{"routesteward"}}}},
		{Name: "rest_client_requests_total", Type: "counter", Help: "Requests to the API server, by method and status code."},
	}
}

// Decision counts a decision and its findings.
func (m *Metrics) Decision(d policy.Decision, operation policy.Operation, dryRun bool) {
	if operation != policy.Update {
		operation = policy.Create
	}
	rule, verdict := noRule, d.Verdict()
	for _, f := range d.Findings {
		m.findings.WithLabelValues(f.Rule, string(f.Severity)).Inc()
		if rule == noRule && string(f.Severity) == verdict {
			rule = f.Rule
		}
	}
	m.decisions.WithLabelValues(verdict, rule, string(operation), strconv.FormatBool(dryRun)).Inc()
}

// Failure counts a request that could not be evaluated, for one of the reasons above.
func (m *Metrics) Failure(reason string, operation policy.Operation, dryRun bool) {
	if operation != policy.Update {
		operation = policy.Create
	}
	m.errors.WithLabelValues(reason).Inc()
	m.decisions.WithLabelValues("error", noRule, string(operation), strconv.FormatBool(dryRun)).Inc()
}

// Grant counts what happened to a managed grant.
func (m *Metrics) Grant(action string) { m.grants.WithLabelValues(action).Inc() }

// Withheld sets how many needed grants are not there for want of consent.
func (m *Metrics) Withheld(n int) { m.withheld.Set(float64(n)) }

// Copy counts what was done to a relocated copy.
func (m *Metrics) Copy(action string) { m.copies.WithLabelValues(action).Inc() }

// Scan sets what a background scan found and how long it took. The gauges exist from the first scan on, and only in the
// replica that scans: elsewhere a zero would say that all is well.
func (m *Metrics) Scan(report audit.Report, ended time.Time, took time.Duration) {
	routes := map[[2]string]int{}
	for _, route := range report.Routes {
		counted := map[[2]string]bool{}
		for _, parent := range route.Parents {
			for _, key := range reasonsOf(parent) {
				if !counted[key] {
					counted[key] = true
					routes[key]++
				}
			}
		}
	}
	for _, condition := range conditions {
		for _, reason := range reasons {
			m.scanRoutes.WithLabelValues(condition, reason).Set(float64(routes[[2]string{condition, reason}]))
		}
	}
	findings := map[[2]string]int{}
	for _, f := range report.Findings {
		findings[[2]string{f.Check, string(f.Severity)}]++
	}
	for _, id := range checkIDs() {
		for _, level := range levels {
			m.scanFindings.WithLabelValues(id, level).Set(float64(findings[[2]string{id, level}]))
		}
	}
	m.scanTime.WithLabelValues().Set(float64(ended.Unix()))
	m.scanSeconds.WithLabelValues().Set(took.Seconds())
}

// ScanEvery sets the time between two background scans.
func (m *Metrics) ScanEvery(interval time.Duration) {
	m.scanInterval.WithLabelValues().Set(interval.Seconds())
}

// Registration sets whether the webhook configuration of a kind is in step.
func (m *Metrics) Registration(kind string, inStep bool) {
	value := 0.0
	if inStep {
		value = 1
	}
	m.inStep.WithLabelValues(kind).Set(value)
}

// Build says which program this is; once is enough.
func (m *Metrics) Build(version string) {
	m.build.WithLabelValues(version, runtime.Version()).Set(1)
}

// Certificates sets what tells the serving certificate and the authority behind it, nil where there is none. It is asked
// whenever the metrics are read.
func (m *Metrics) Certificates(source func() (serving, authority *x509.Certificate)) {
	m.certificates.source.Store(&source)
}

// ScanFailed counts a background scan that could not read the cluster.
func (m *Metrics) ScanFailed() { m.scanErrors.WithLabelValues().Inc() }

// reasonsOf are the pairs of condition and reason that the controllers of a parentRef wrote.
func reasonsOf(parent audit.Parent) [][2]string {
	var found [][2]string
	for _, condition := range conditions {
		written := false
		for _, status := range parent.Status {
			for _, c := range status.Conditions {
				if c.Type != condition {
					continue
				}
				written = true
				reason := c.Reason
				if !slices.Contains(reasons, reason) {
					reason = ReasonOther
				}
				found = append(found, [2]string{condition, reason})
			}
		}
		if !written {
			found = append(found, [2]string{condition, ReasonNoStatus})
		}
	}
	return found
}
