package metrics

import (
	"crypto/x509"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// validity collects when certificates begin and expire. It asks when it is read, since they change on their own.
type validity struct {
	notBefore, notAfter *prometheus.Desc
	docs                []Doc
	source              atomic.Pointer[func() (serving, authority *x509.Certificate)]
}

func newValidity() *validity {
	v := &validity{}
	which := Label{"certificate", []string{certificateServing, certificateAuthority}}
	describe := func(name, help string) *prometheus.Desc {
		v.docs = append(v.docs, Doc{Name: name, Type: "gauge", Help: help, Labels: []Label{which},
			When: "Once there is a certificate; the authority with `--certs=embedded`, and with `--certs=files` where there is a ca.crt."})
		return prometheus.NewDesc(name, help, []string{which.Name}, nil)
	}
	v.notAfter = describe("routesteward_certificate_not_after_timestamp_seconds",
		"When the served certificate, and the authority that signed it, expire, in Unix time.")
	v.notBefore = describe("routesteward_certificate_not_before_timestamp_seconds",
		"When their validity began, in Unix time. With `--certs=embedded` they are renewed when two thirds of it have passed.")
	return v
}

// Describe implements prometheus.Collector.
func (v *validity) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- v.notAfter
	descriptions <- v.notBefore
}

// Collect implements prometheus.Collector.
func (v *validity) Collect(collected chan<- prometheus.Metric) {
	source := v.source.Load()
	if source == nil {
		return
	}
	serving, authority := (*source)()
	for name, c := range map[string]*x509.Certificate{certificateServing: serving, certificateAuthority: authority} {
		if c != nil {
			collected <- prometheus.MustNewConstMetric(v.notAfter, prometheus.GaugeValue, float64(c.NotAfter.Unix()), name)
			collected <- prometheus.MustNewConstMetric(v.notBefore, prometheus.GaugeValue, float64(c.NotBefore.Unix()), name)
		}
	}
}
