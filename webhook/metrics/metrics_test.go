package metrics_test

import (
	"crypto/x509"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
	"github.com/routesteward/routesteward/webhook/metrics"
)

func newMetrics(t *testing.T) (*metrics.Metrics, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	m, err := metrics.New(registry)
	require.NoError(t, err)
	return m, registry
}

// series are all series with their values.
func series(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	all := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			value := metric.GetCounter().GetValue()
			if gauge := metric.GetGauge(); gauge != nil {
				value = gauge.GetValue()
			}
			all[strings.TrimPrefix(family.GetName(), "routesteward_")+"{"+strings.Join(labels, ",")+"}"] = value
		}
	}
	return all
}

// changed are the series that are not zero.
func changed(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	all := series(t, registry)
	maps.DeleteFunc(all, func(_ string, value float64) bool { return value == 0 })
	return all
}

func TestEverySeriesExistsFromTheStart(t *testing.T) {
	_, registry := newMetrics(t)
	before := series(t, registry)
	want := 0
	for _, metric := range metrics.Own() {
		require.NotEmpty(t, metric.Help)
		if metric.When != "" {
			continue
		}
		combinations := 1 // none of build_info, whose labels are not known beforehand
		for _, label := range metric.Labels {
			combinations *= len(label.Values)
		}
		want += combinations
	}
	require.Len(t, before, want)
	require.Less(t, len(before), 200)
	require.Empty(t, changed(t, registry))
	require.Contains(t, before, "decisions_total{dry_run=true,operation=UPDATE,rule=managed-object-changed,verdict=deny}")
	require.Contains(t, before, "decisions_total{dry_run=false,operation=CREATE,rule=none,verdict=error}")
	require.Contains(t, before, "findings_total{rule=cross-namespace-reference,severity=warn}")
	require.Contains(t, before, "grants_total{action=revoked}")
	require.Contains(t, before, "evaluation_errors_total{reason=access}")
	require.Contains(t, before, "grants_withheld{}")
}

// Whatever is decided, no series is added.
func TestCardinalityIsBounded(t *testing.T) {
	m, registry := newMetrics(t)
	before := slices.Sorted(maps.Keys(series(t, registry)))
	source := policytest.NewSource(1)
	verdicts := map[string]int{}
	for range 2000 {
		pol, err := policy.New(source.Config())
		require.NoError(t, err)
		req := source.Request()
		decision := pol.Evaluate(req, source.Facts())
		verdicts[decision.Verdict()]++
		m.Decision(decision, req.Operation, source.Chance(2))
	}
	require.Len(t, verdicts, 4, "%v", verdicts)
	for _, operation := range []policy.Operation{policy.Create, policy.Update, policy.Delete, "CONNECT", ""} {
		m.Failure(metrics.FailedDecode, operation, false)
		m.Decision(policy.Decision{Allowed: true}, operation, false)
	}
	require.Equal(t, before, slices.Sorted(maps.Keys(series(t, registry))))
}

func TestDecision(t *testing.T) {
	finding := func(rule string, severity policy.Severity) policy.Finding {
		return policy.Finding{Rule: rule, Severity: severity}
	}
	const outside, cross = "route-outside-system-namespace", "cross-namespace-reference"
	for name, tt := range map[string]struct {
		findings  []policy.Finding
		operation policy.Operation
		dryRun    bool
		want      map[string]float64
	}{
		"allow": {
			operation: policy.Create,
			want:      map[string]float64{"decisions_total{dry_run=false,operation=CREATE,rule=none,verdict=allow}": 1},
		},
		"the rule that denies comes before one that warns": {
			findings:  []policy.Finding{finding(outside, policy.SeverityWarn), finding(cross, policy.SeverityDeny), finding(cross, policy.SeverityDeny)},
			operation: policy.Update, dryRun: true,
			want: map[string]float64{
				"decisions_total{dry_run=true,operation=UPDATE,rule=cross-namespace-reference,verdict=deny}": 1,
				"findings_total{rule=route-outside-system-namespace,severity=warn}":                          1,
				"findings_total{rule=cross-namespace-reference,severity=deny}":                               2,
			},
		},
		"the first of equals": {
			findings:  []policy.Finding{finding(outside, policy.SeverityWarn), finding(cross, policy.SeverityWarn)},
			operation: policy.Create,
			want: map[string]float64{
				"decisions_total{dry_run=false,operation=CREATE,rule=route-outside-system-namespace,verdict=warn}": 1,
				"findings_total{rule=route-outside-system-namespace,severity=warn}":                                1,
				"findings_total{rule=cross-namespace-reference,severity=warn}":                                     1,
			},
		},
		"audit": {
			findings:  []policy.Finding{finding(outside, policy.SeverityAudit)},
			operation: policy.Delete,
			want: map[string]float64{
				"decisions_total{dry_run=false,operation=CREATE,rule=route-outside-system-namespace,verdict=audit}": 1,
				"findings_total{rule=route-outside-system-namespace,severity=audit}":                                1,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, registry := newMetrics(t)
			m.Decision(policy.Decision{Findings: tt.findings}, tt.operation, tt.dryRun)
			require.Equal(t, tt.want, changed(t, registry))
		})
	}
}

func TestOtherCounts(t *testing.T) {
	m, registry := newMetrics(t)
	m.Failure(metrics.FailedGrant, policy.Update, true)
	m.Grant(metrics.GrantMade)
	m.Grant(metrics.GrantMade)
	m.Withheld(3)
	require.Equal(t, map[string]float64{
		"decisions_total{dry_run=true,operation=UPDATE,rule=none,verdict=error}": 1,
		"evaluation_errors_total{reason=grant}":                                  1,
		"grants_total{action=made}":                                              2,
		"grants_withheld{}":                                                      3,
	}, changed(t, registry))
	m.Withheld(0)
	require.NotContains(t, changed(t, registry), "grants_withheld{}")
}

func TestRegistrationAndBuild(t *testing.T) {
	m, registry := newMetrics(t)
	m.Registration("ValidatingWebhookConfiguration", true)
	m.Registration("MutatingWebhookConfiguration", false)
	m.ScanEvery(5 * time.Minute)
	m.Build("v1.2.3")
	all := series(t, registry)
	require.Equal(t, 1.0, all["registration_in_step{kind=ValidatingWebhookConfiguration}"])
	require.Contains(t, all, "registration_in_step{kind=MutatingWebhookConfiguration}")
	require.Zero(t, all["registration_in_step{kind=MutatingWebhookConfiguration}"])
	require.Equal(t, 300.0, all["scan_interval_seconds{}"])
	require.Equal(t, 1.0, all["build_info{go_version="+runtime.Version()+",version=v1.2.3}"])
	m.Registration("ValidatingWebhookConfiguration", false)
	require.NotContains(t, changed(t, registry), "registration_in_step{kind=ValidatingWebhookConfiguration}")
}

func TestCertificates(t *testing.T) {
	m, registry := newMetrics(t)
	serving := &x509.Certificate{NotBefore: time.Unix(100, 0), NotAfter: time.Unix(200, 0)}
	var authority *x509.Certificate
	m.Certificates(func() (*x509.Certificate, *x509.Certificate) { return serving, authority })
	require.Equal(t, map[string]float64{
		"certificate_not_before_timestamp_seconds{certificate=serving}": 100,
		"certificate_not_after_timestamp_seconds{certificate=serving}":  200,
	}, changed(t, registry))

	serving, authority = &x509.Certificate{NotAfter: time.Unix(300, 0)}, &x509.Certificate{NotAfter: time.Unix(900, 0)}
	now := changed(t, registry)
	require.Equal(t, 300.0, now["certificate_not_after_timestamp_seconds{certificate=serving}"])
	require.Equal(t, 900.0, now["certificate_not_after_timestamp_seconds{certificate=authority}"])
}

func TestNewTwice(t *testing.T) {
	_, registry := newMetrics(t)
	_, err := metrics.New(registry)
	require.Error(t, err)
}
