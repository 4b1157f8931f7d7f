// Package scan audits all routes from time to time, so that a status that went bad is noticed without anybody asking.
package scan

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/audit/live"
	"github.com/routesteward/routesteward/webhook/metrics"
)

const (
	// maxEvents bounds the Events of one scan; what is left over is reported by the next ones.
	maxEvents = 100
	// maxRoutes is of how many routes of a kind a scan is too large to be done beside admissions: for each it takes about 13 KiB
	// while it runs, and more with many matches, of the 512 MiB that the shipped Deployment has.
	maxRoutes = 20_000
	// maxNote is the longest note of an Event in bytes (events.k8s.io/v1 Event.note).
	maxNote = 1024
)

// Reader reads the cluster; *live.Cluster is one.
type Reader interface {
	Read(context.Context, live.Options) (*audit.Cluster, error)
}

// Scanner audits all routes, sets metrics, and writes an Event on a route for each problem that the scan before did not
// find. It reads what its service account may list anyway, past the caches, which hold no status: five lists in pages for
// each scan. Backends and AIBrix's plugin are not looked at, so that no right is needed for them; a backend that is gone
// the gateway itself reports in the status. A cluster with more than 20,000 routes of a kind is not scanned, which counts as a
// scan that failed: it would take more memory than the shipped Deployment has.
type Scanner struct {
	Policy  *policy.Policy
	Cluster Reader
	// Interval is the time between the beginnings of two scans. A scan that takes longer delays the next one.
	Interval time.Duration
	Events   events.EventRecorder
	Metrics  *metrics.Metrics
	Log      logr.Logger

	// reported are the fingerprints of the problems that Events were written about. Lost at a restart: then they are reported again,
	// which counts the Event up.
	reported map[string]bool
}

// Start implements manager.Runnable: it scans until ctx ends.
func (s *Scanner) Start(ctx context.Context) error {
	ticker := time.NewTicker(s.Interval)
	defer ticker.Stop()
	for {
		s.Scan(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: one replica scans.
func (s *Scanner) NeedLeaderElection() bool { return true }

// Scan scans once. A cluster that cannot be read is logged and counted.
func (s *Scanner) Scan(ctx context.Context) {
	began := time.Now()
	cluster, err := s.Cluster.Read(ctx, live.Options{MaxRoutes: maxRoutes})
	if err != nil {
		if ctx.Err() == nil {
			if tooMany := (*live.TooManyError)(nil); errors.As(err, &tooMany) {
				err = fmt.Errorf("%w: set --scan-interval=0, and run `routesteward audit` from time to time", err)
			}
			s.Metrics.ScanFailed()
			s.Log.Error(err, "the background scan could not read the cluster")
		}
		return
	}
	report := audit.Run(s.Policy, cluster)
	ended := time.Now()
	s.Metrics.Scan(report, ended, ended.Sub(began))
	written := s.report(report, objects(cluster))
	s.Log.V(1).Info("scanned", "routes", report.Summary.Routes, "inOrder", report.Summary.Healthy, "findings", report.Summary.Findings, "events", written, "took", ended.Sub(began).String())
}

// objects are the routes of a cluster by their name in a report.
func objects(cluster *audit.Cluster) map[audit.Ref]client.Object {
	all := map[audit.Ref]client.Object{}
	for _, o := range cluster.Routes {
		route, _ := policy.RouteOf(o)
		all[audit.Ref{Kind: string(route.Kind), Namespace: route.Namespace, Name: route.Meta.Name}] = o
	}
	return all
}

// report writes Events about problems of routes that were not reported yet, and returns how many.
func (s *Scanner) report(report audit.Report, routes map[audit.Ref]client.Object) int {
	reported, written := map[string]bool{}, 0
	for _, f := range report.Findings {
		object := routes[f.Object]
		switch {
		case object == nil || f.Severity == audit.SeverityInfo:
			continue
		case s.reported[f.Fingerprint]:
			reported[f.Fingerprint] = true
		case written < maxEvents:
			s.Events.Eventf(object, nil, corev1.EventTypeWarning, Reason(f.Check), "Audit", "%s", Note(f))
			reported[f.Fingerprint] = true
			written++
		}
	}
	s.reported = reported
	return written
}

// Reason is the reason of the Events about a check's findings: route-shadowed becomes RouteShadowed.
func Reason(check string) string {
	var reason strings.Builder
	for word := range strings.SplitSeq(check, "-") {
		reason.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return reason.String()
}

// Note is the text of an Event about a finding. Everybody who may read the route may read it, so it shows nothing of what exists in
// other namespaces.
func Note(f audit.Finding) string {
	f = f.Public()
	value := ""
	if f.Value != "" {
		value = f.Value + ": "
	}
	return policy.Cut(fmt.Sprintf("%s: %s%s; to do: %s [%s]", f.Field, value, f.Problem, f.Next, f.Check), maxNote)
}
