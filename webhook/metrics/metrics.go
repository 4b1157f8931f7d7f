// Package metrics has the program's own metrics, served beside controller-runtime's.
//
// A metric is one row (counter, gauge) and the function that changes it, next to each other in this file. The registration, the
// series that exist from the start, METRICS.md and the check of the dashboard and the alerts derive from the row.
package metrics

import (
	"crypto/x509"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
)

// Metric is the row of one metric.
type Metric struct {
	Name, Type, Help string
	Labels           []Label
	// When is when and where the series exist; empty: in every replica, from the start.
	When string
}

// Label is a label of a metric with its possible values; none where they are not known beforehand. Known values are a
// closed set, so the number of series is bounded.
type Label struct {
	Name   string
	Values []string
}

var declared []*Metric

func declare(metric Metric) *Metric {
	declared = append(declared, &metric)
	return &metric
}

func counter(name, help string, labels ...Label) *Metric {
	return declare(Metric{Name: name, Type: "counter", Help: help, Labels: labels})
}

// gauge is a counter that also goes down.
func gauge(when, name, help string, labels ...Label) *Metric {
	return declare(Metric{Name: name, Type: "gauge", Help: help, Labels: labels, When: when})
}

// Own are the program's own metrics, in the order of the reference.
func Own() []Metric {
	own := make([]Metric, len(declared))
	for i, metric := range declared {
		own[i] = *metric
	}
	return own
}

// series are the combinations of the labels' values; none where a label's values are not known.
func (m *Metric) series() [][]string {
	all := [][]string{nil}
	for _, label := range m.Labels {
		var longer [][]string
		for _, values := range all {
			for _, value := range label.Values {
				longer = append(longer, append(slices.Clip(values), value))
			}
		}
		all = longer
	}
	return all
}

// Metrics has the values of the metrics. It is safe for concurrent use.
type Metrics struct {
	counters     map[*Metric]*prometheus.CounterVec
	gauges       map[*Metric]*prometheus.GaugeVec
	certificates atomic.Pointer[func() (serving, authority *x509.Certificate)]
}

// New registers the metrics.
func New(registry prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{counters: map[*Metric]*prometheus.CounterVec{}, gauges: map[*Metric]*prometheus.GaugeVec{}}
	for _, metric := range declared {
		var names []string
		for _, label := range metric.Labels {
			names = append(names, label.Name)
		}
		begin := func(labels ...string) { m.set(metric, 0, labels...) }
		if metric.Type == "counter" {
			m.counters[metric] = prometheus.NewCounterVec(prometheus.CounterOpts{Name: metric.Name, Help: metric.Help}, names)
			begin = func(labels ...string) { m.counters[metric].WithLabelValues(labels...) }
		} else {
			m.gauges[metric] = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: metric.Name, Help: metric.Help}, names)
		}
		// Rates and alerts miss the first event of a series that begins with it.
		for _, labels := range metric.series() {
			if metric.When == "" {
				begin(labels...)
			}
		}
	}
	return m, registry.Register(m)
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(descriptions chan<- *prometheus.Desc) {
	for _, vec := range m.counters {
		vec.Describe(descriptions)
	}
	for _, vec := range m.gauges {
		vec.Describe(descriptions)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(collected chan<- prometheus.Metric) {
	m.readCertificates()
	for _, vec := range m.counters {
		vec.Collect(collected)
	}
	for _, vec := range m.gauges {
		vec.Collect(collected)
	}
}

func (m *Metrics) count(metric *Metric, labels ...string) {
	m.counters[metric].WithLabelValues(labels...).Inc()
}

func (m *Metrics) set(metric *Metric, value float64, labels ...string) {
	m.gauges[metric].WithLabelValues(labels...).Set(value)
}

// noRule is the rule of a decision without findings.
const noRule = "none"

var decisions = counter("routesteward_decisions_total", "Admission decisions. The rule is that of the first finding of the greatest severity.",
	Label{"verdict", []string{"allow", "audit", "warn", "deny", "error"}}, Label{"rule", append([]string{noRule}, ruleIDs()...)},
	Label{"operation", []string{string(policy.Create), string(policy.Update)}}, Label{"dry_run", []string{"false", "true"}})

var findings = counter("routesteward_findings_total", "Findings of admission decisions, of which one decision may have several.",
	Label{"rule", ruleIDs()}, Label{"severity", []string{string(policy.SeverityAudit), string(policy.SeverityWarn), string(policy.SeverityDeny)}})

// Decision counts a decision and its findings.
func (m *Metrics) Decision(d policy.Decision, operation policy.Operation, dryRun bool) {
	rule, verdict := noRule, d.Verdict()
	for _, f := range d.Findings {
		m.count(findings, f.Rule, string(f.Severity))
		if rule == noRule && string(f.Severity) == verdict {
			rule = f.Rule
		}
	}
	m.decision(verdict, rule, operation, dryRun)
}

func (m *Metrics) decision(verdict, rule string, operation policy.Operation, dryRun bool) {
	if operation != policy.Update {
		operation = policy.Create
	}
	m.count(decisions, verdict, rule, string(operation), strconv.FormatBool(dryRun))
}

// What happens to managed grants.
const (
	// GrantMade at an admission.
	GrantMade = "made"
	// GrantRestored by the reconciler, under the consent of the namespace.
	GrantRestored = "restored"
	// GrantRepaired by the reconciler, after somebody changed it.
	GrantRepaired = "repaired"
	// GrantDeleted because no route needs it any more.
	GrantDeleted = "deleted"
	// GrantRevoked by somebody who deleted it, or by a veto, while a route needs it.
	GrantRevoked = "revoked"
)

var grants = counter("routesteward_grants_total", "What happened to managed ReferenceGrants.",
	Label{"action", []string{GrantMade, GrantRestored, GrantRepaired, GrantDeleted, GrantRevoked}})

// Grant counts what happened to a managed grant.
func (m *Metrics) Grant(action string) { m.count(grants, action) }

// What happens to relocated copies.
const (
	CopyMade    = "made"
	CopyUpdated = "updated"
	CopyDeleted = "deleted"
)

var copies = counter("routesteward_relocated_copies_total", "What was done to relocated copies of routes.",
	Label{"action", []string{CopyMade, CopyUpdated, CopyDeleted}})

// Copy counts what was done to a relocated copy.
func (m *Metrics) Copy(action string) { m.count(copies, action) }

// Why a request could not be evaluated.
const (
	// FailedDecode: the object is not one of its kind.
	FailedDecode = "decode"
	// FailedFacts: the caches could not answer.
	FailedFacts = "facts"
	// FailedAccess: the access review failed.
	FailedAccess = "access"
	// FailedGrant: a ReferenceGrant could not be made.
	FailedGrant = "grant"
)

var failures = counter("routesteward_evaluation_errors_total", "Requests that could not be evaluated and were answered with an error.",
	Label{"reason", []string{FailedDecode, FailedFacts, FailedAccess, FailedGrant}})

// Failure counts a request that could not be evaluated, for one of the reasons above.
func (m *Metrics) Failure(reason string, operation policy.Operation, dryRun bool) {
	m.count(failures, reason)
	m.decision("error", noRule, operation, dryRun)
}

var withheld = gauge("", "routesteward_grants_withheld", "Managed ReferenceGrants that a governed route needs and that are not there, for want of consent.")

// Withheld sets how many needed grants are not there for want of consent.
func (m *Metrics) Withheld(n int) { m.set(withheld, float64(n)) }

// afterScan is when the series of the background scan exist: elsewhere a zero would mean that all is well.
const afterScan = "Only in the replica that scans, from its first scan on (`--scan-interval`)."

// Reasons of a route's condition that Gateway API does not define.
const (
	// ReasonOther is every reason of a controller's own.
	ReasonOther = "Other"
	// ReasonNoStatus: no controller has written the condition.
	ReasonNoStatus = "NoStatus"
)

var (
	conditions = []string{string(gwv1.RouteConditionAccepted), string(gwv1.RouteConditionResolvedRefs)}
	// reasons are those that Gateway API defines for these conditions, and two of our own for the rest.
	reasons = []string{
		string(gwv1.RouteReasonAccepted), string(gwv1.RouteReasonNotAllowedByListeners), string(gwv1.RouteReasonNoMatchingListenerHostname),
		string(gwv1.RouteReasonNoMatchingParent), string(gwv1.RouteReasonUnsupportedValue), string(gwv1.RouteReasonPending),
		string(gwv1.RouteReasonIncompatibleFilters), string(gwv1.RouteReasonResolvedRefs), string(gwv1.RouteReasonRefNotPermitted),
		string(gwv1.RouteReasonInvalidKind), string(gwv1.RouteReasonBackendNotFound), string(gwv1.RouteReasonUnsupportedProtocol),
		ReasonOther, ReasonNoStatus,
	}
)

var routes = gauge(afterScan, "routesteward_routes",
	"Governed routes by what their status says, as the background scan found them; a route with several parentRefs counts once for each reason that it has.",
	Label{"condition", conditions}, Label{"reason", reasons})

var scanFindings = gauge(afterScan, "routesteward_audit_findings", "Findings of the background scan.",
	Label{"check", checkIDs()}, Label{"severity", []string{string(audit.SeverityError), string(audit.SeverityWarning), string(audit.SeverityInfo)}})

var scanTime = gauge(afterScan, "routesteward_scan_timestamp_seconds", "When the last background scan that succeeded ended, in Unix time.")

var scanSeconds = gauge(afterScan, "routesteward_scan_duration_seconds", "How long the last background scan that succeeded took.")

// Scan sets what a background scan found and how long it took.
func (m *Metrics) Scan(report audit.Report, ended time.Time, took time.Duration) {
	counts := map[[2]string]float64{}
	for _, route := range report.Routes {
		counted := map[[2]string]bool{}
		for _, parent := range route.Parents {
			for _, key := range reasonsOf(parent) {
				if !counted[key] {
					counted[key] = true
					counts[key]++
				}
			}
		}
	}
	for _, labels := range routes.series() {
		m.set(routes, counts[[2]string(labels)], labels...)
	}
	clear(counts)
	for _, f := range report.Findings {
		counts[[2]string{f.Check, string(f.Severity)}]++
	}
	for _, labels := range scanFindings.series() {
		m.set(scanFindings, counts[[2]string(labels)], labels...)
	}
	m.set(scanTime, float64(ended.Unix()))
	m.set(scanSeconds, took.Seconds())
}

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

var scanErrors = counter("routesteward_scan_errors_total", "Background scans that could not read the cluster.")

// ScanFailed counts a background scan that could not read the cluster.
func (m *Metrics) ScanFailed() { m.count(scanErrors) }

var scanInterval = gauge("Where there are background scans.", "routesteward_scan_interval_seconds",
	"The time between two background scans (`--scan-interval`).")

// ScanEvery sets the time between two background scans.
func (m *Metrics) ScanEvery(interval time.Duration) { m.set(scanInterval, interval.Seconds()) }

var inStep = gauge("In the elected replica; none where `--webhook-configuration` is empty.", "routesteward_registration_in_step",
	"1 where a webhook configuration holds what the flags and the certificates ask for, 0 where it does not, or does not exist and should: then nothing is evaluated.",
	Label{"kind", []string{"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"}})

// Registration sets whether the webhook configuration of a kind is in step.
func (m *Metrics) Registration(kind string, isInStep bool) {
	value := 0.0
	if isInStep {
		value = 1
	}
	m.set(inStep, value, kind)
}

var build = gauge("", "routesteward_build_info", "Always 1; the labels say which program this is.",
	Label{"version", nil}, Label{"go_version", nil})

// Build says which program this is; once is enough.
func (m *Metrics) Build(version string) { m.set(build, 1, version, runtime.Version()) }

const onceCertified = "Once there is a certificate; the authority with `--certs=embedded`, and with `--certs=files` where there is a ca.crt."

var certificateLabel = Label{"certificate", []string{"serving", "authority"}}

var notAfter = gauge(onceCertified, "routesteward_certificate_not_after_timestamp_seconds", "When the served certificate, and the authority that signed it, expire, in Unix time.", certificateLabel)

var notBefore = gauge(onceCertified, "routesteward_certificate_not_before_timestamp_seconds", "When their validity began, in Unix time. With `--certs=embedded` they are renewed when two thirds of it have passed.", certificateLabel)

// Certificates sets where the serving certificate and the authority behind it come from, nil where there is none. They
// change on their own, so the source is called whenever the metrics are read.
func (m *Metrics) Certificates(source func() (serving, authority *x509.Certificate)) {
	m.certificates.Store(&source)
}

func (m *Metrics) readCertificates() {
	source := m.certificates.Load()
	if source == nil {
		return
	}
	serving, authority := (*source)()
	for i, certificate := range []*x509.Certificate{serving, authority} {
		name := certificateLabel.Values[i]
		if certificate == nil {
			m.gauges[notAfter].DeleteLabelValues(name)
			m.gauges[notBefore].DeleteLabelValues(name)
			continue
		}
		m.set(notAfter, float64(certificate.NotAfter.Unix()), name)
		m.set(notBefore, float64(certificate.NotBefore.Unix()), name)
	}
}

// Used are the metrics of controller-runtime, on the same endpoint, that the dashboard and the alerts use as well.
func Used() []Metric {
	names := []string{"grants"}
	for _, kind := range policy.RouteKinds() {
		names = append(names, "relocate-"+strings.ToLower(string(kind)))
	}
	names = append(names, "registration")
	controllers, queues := []Label{{"controller", names}}, []Label{{"name", names}}
	webhooks := []Label{{"webhook", []string{"/validate", "/mutate"}}}
	const when = "A controller of the elected replica has them when it has something to do for the first time; `registration` runs in every replica."
	return []Metric{
		{Name: "controller_runtime_webhook_latency_seconds", Type: "histogram", Help: "How long admission requests took.", Labels: webhooks},
		{Name: "controller_runtime_webhook_requests_in_flight", Type: "gauge", Help: "Admission requests that are being answered.", Labels: webhooks},
		{Name: "controller_runtime_webhook_panics_total", Type: "counter", Help: "Panics while an admission request was answered, which is then an error."},
		{Name: "controller_runtime_reconcile_errors_total", Type: "counter", Help: "Reconciliations that failed and are tried again.", When: when, Labels: controllers},
		{Name: "controller_runtime_reconcile_time_seconds", Type: "histogram", Help: "How long reconciliations took.", When: when, Labels: controllers},
		{Name: "workqueue_depth", Type: "gauge", Help: "What waits to be reconciled.", When: when, Labels: queues},
		{Name: "workqueue_longest_running_processor_seconds", Type: "gauge", Help: "How long the longest reconciliation that runs now has been running.", When: when, Labels: queues},
		{Name: "leader_election_master_status", Type: "gauge", Help: "1 in the elected replica, 0 in the others.", When: "With `--leader-elect`.",
			Labels: []Label{{"name", []string{"routesteward"}}}},
		{Name: "rest_client_requests_total", Type: "counter", Help: "Requests to the API server, by method and status code.",
			Labels: []Label{{"code", nil}, {"method", nil}}},
	}
}

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
