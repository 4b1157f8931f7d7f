package main

import (
	"fmt"
	"runtime"
	"strings"
	"time"
)

const (
	aimedReady    = 15 * time.Second
	aimedResident = 500 << 20
	// aimedFlat is the most that the large cluster may be above the small one.
	aimedFlat = 1.2
)

func (r scaled) report(o scaleOptions, args []string) report {
	starts, admissions := r.starts(), r.admissionLines()
	starts.pictures, admissions.pictures = beside(o.markdown, o.data, "memory.svg", "start.svg"), beside(o.markdown, o.data, "admission.svg")
	return report{
		title: "Scale",
		preface: []string{
			fmt.Sprintf("Measured with `%s` on %s: %s, %s, Kubernetes %s. API server, etcd, routewarden and the clients share the machine.",
				strings.Join(append([]string{"go run ./hack/bench scale"}, args...), " "), time.Now().UTC().Format(time.DateOnly), machine(), runtime.Version(), r.kubernetes),
			fmt.Sprintf("One cluster grows; another one stays at %d routes, each with an edge, and is measured by turns with it, so that a ratio compares the two in the same minutes. "+
				"Nearly all objects of the large one are put into etcd directly: copies of exactly what the API server has stored of one that was created through it, under other names and UIDs. "+
				"A route has a label and an annotation of Helm's, two matches, and the status that a gateway writes; every fifth refers to a Service of its own in another namespace, which consents. "+
				"kube-apiserver's own comparison of its caches with etcd, which takes a processor for a minute now and then, is switched off. "+
				"routewarden runs as the shipped Deployment does: with its service account, and GOMEMLIMIT=%d MiB.", r.few.Routes, memoryLimit>>20),
		},
		sections: []section{r.aims(), starts, admissions, r.changeLines(), r.audits()},
	}
}

func (s scaledSize) name() string { return fmt.Sprint(s.Routes) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1000) }

// aims compares the largest cluster with what is aimed at.
func (r scaled) aims() section {
	out := section{title: "Aims", head: []string{"In the largest cluster", "Aim", "Measured", ""}}
	s := r.sizes[len(r.sizes)-1]
	out.rows = append(out.rows,
		[]string{"from the start of the process until it is ready", "at most " + seconds(aimedReady) + " s", seconds(s.again.ready) + " s", met(s.again.ready <= aimedReady)},
		[]string{"resident set, at most", "below " + fmt.Sprintf("%.0f MiB", mebibytes(aimedResident)), fmt.Sprintf("%.0f MiB", mebibytes(max(s.again.peak, s.first.peak))), met(max(s.again.peak, s.first.peak) < aimedResident)})
	for kind, admission := range admissions {
		if admission.target == systemNamespace {
			continue
		}
		for _, part := range []float64{0.5, 0.99} {
			ratio := s.ratio(kind, part)
			out.rows = append(out.rows, []string{fmt.Sprintf("%s: p%.0f as a multiple of the small cluster's", admission.name, part*100), fmt.Sprintf("at most %.1f", aimedFlat), fmt.Sprintf("%.2f", ratio), met(ratio <= aimedFlat)})
		}
	}
	for kind, change := range changes {
		ratio := s.changes[kind][1].cpu.Seconds() / s.changes[kind][0].cpu.Seconds()
		out.rows = append(out.rows, []string{change.name + ": CPU of routewarden as a multiple of the small cluster's", "flat", fmt.Sprintf("%.2f", ratio), met(ratio <= aimedFlat)})
	}
	return out
}

// ratio is a quantile of the latencies in the large cluster as a multiple of the small one's: the median of the rounds.
func (s scaledSize) ratio(kind int, part float64) float64 {
	var ratios []float64
	for round, large := range s.admissions[kind][1] {
		ratios = append(ratios, quantile(large.latencies, part).Seconds()/quantile(s.admissions[kind][0][round].latencies, part).Seconds())
	}
	return median(ratios)
}

// latency is the median of the rounds, in milliseconds.
func (s scaledSize) latency(kind, which int, part float64) float64 {
	var all []float64
	for _, l := range s.admissions[kind][which] {
		all = append(all, quantile(l.latencies, part).Seconds()*1000)
	}
	return median(all)
}

func (r scaled) starts() section {
	out := section{
		title: "Start, memory and full resync",
		about: "Seconds count from the start of the process: until /readyz answers 200, and until the reconcilers have looked at everything and have nothing left to do. " +
			"The first start of each size finds the grants of the edges missing that the cluster has grown by, and makes them; each of them is two writes, as an Event tells it. Those that follow find all in order; up to 20,000 routes they scan, too, and tell of at most 100 that were changed since a gateway wrote their status. " +
			fmt.Sprintf("Of %d of them the one of the median time is told first. ", repeatedStarts) +
			"MiB is routewarden's greatest resident set, that of the last start including everything that was measured until it ended; at rest is ten seconds after it had settled.",
		head: []string{"Routes", "Namespaces", "Edges", "Ready s", "Settled s", "Requests", "Writes", "CPU s", "CPU s kube-apiserver", "MiB at rest", "MiB at most",
			"Grants missing", "Ready s", "Settled s", "Writes", "MiB at most"},
	}
	for _, s := range r.sizes {
		out.rows = append(out.rows, []string{s.name(), fmt.Sprint(s.Namespaces), fmt.Sprint(s.Edges),
			seconds(s.again.ready), seconds(s.again.settled), fmt.Sprint(s.again.requests), fmt.Sprint(s.again.writes), seconds(s.again.cpu), seconds(s.again.apiServer),
			fmt.Sprintf("%.0f", mebibytes(s.resting)), fmt.Sprintf("%.0f", mebibytes(s.again.peak)),
			fmt.Sprint(s.missing), seconds(s.first.ready), seconds(s.first.settled), fmt.Sprint(s.first.writes), fmt.Sprintf("%.0f", mebibytes(s.first.peak))})
	}
	return out
}

func (r scaled) admissionLines() section {
	out := section{
		title: "Admissions",
		about: "Milliseconds of a create by one client, which creates one route here and one there: the median of the rounds. What needs no decision shows how much slower the API server itself is in a large cluster.",
		head:  []string{"Routes", "New route", "p50 small", "p50 large", "times", "p99 small", "p99 large", "times"},
	}
	for _, s := range r.sizes {
		for kind, admission := range admissions {
			row := []string{s.name(), admission.name}
			for _, part := range []float64{0.5, 0.99} {
				row = append(row, fmt.Sprintf("%.2f", s.latency(kind, 0, part)), fmt.Sprintf("%.2f", s.latency(kind, 1, part)), fmt.Sprintf("%.2f", s.ratio(kind, part)))
			}
			out.rows = append(out.rows, row)
		}
	}
	return out
}

func (r scaled) changeLines() section {
	out := section{
		title: "One change",
		about: "What routewarden uses for one change of an object, in milliseconds of CPU and requests to the API server, less what it uses meanwhile anyway. When the garbage of a large cache is collected, in one turn or another, makes the times differ from run to run by a third; `make gate` counts instructions of the same changes, which are as many in a cluster 20 times as large.",
		head:  []string{"Routes", "Change", "CPU ms small", "CPU ms large", "times", "Requests small", "Requests large"},
	}
	for _, s := range r.sizes {
		for kind, change := range changes {
			small, large := s.changes[kind][0], s.changes[kind][1]
			out.rows = append(out.rows, []string{s.name(), change.name, milliseconds(small.cpu), milliseconds(large.cpu), fmt.Sprintf("%.2f", large.cpu.Seconds()/small.cpu.Seconds()),
				fmt.Sprintf("%.1f", max(0, small.requests)), fmt.Sprintf("%.1f", max(0, large.requests))})
		}
	}
	return out
}

func (r scaled) audits() section {
	out := section{
		title: "`routewarden audit -o json` of everything",
		head:  []string{"Routes", "Seconds", "CPU s", "MiB at most"},
	}
	for _, s := range r.sizes {
		out.rows = append(out.rows, []string{s.name(), seconds(s.audit.took), seconds(s.audit.cpu), fmt.Sprintf("%.0f", mebibytes(s.audit.peak))})
	}
	return out
}

func (r scaled) csv() string {
	var out strings.Builder
	out.WriteString("routes,ready_seconds,settled_seconds,resting_mebibytes,peak_mebibytes,judged_p50_small,judged_p50_large,judged_p99_small,judged_p99_large,granted_p50_small,granted_p50_large,granted_p99_small,granted_p99_large\n")
	for _, s := range r.sizes {
		fmt.Fprintf(&out, "%d,%.2f,%.2f,%.1f,%.1f", s.Routes, s.again.ready.Seconds(), s.again.settled.Seconds(), mebibytes(s.resting), mebibytes(max(s.again.peak, s.first.peak)))
		for _, kind := range []int{1, 2} {
			for _, part := range []float64{0.5, 0.99} {
				fmt.Fprintf(&out, ",%.3f,%.3f", s.latency(kind, 0, part), s.latency(kind, 1, part))
			}
		}
		out.WriteByte('\n')
	}
	return out.String()
}
