package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what is told about the results.
type report struct {
	title string
	// preface has one paragraph each.
	preface  []string
	sections []section
}

type section struct {
	title, about string
	// pictures are files beside the document.
	pictures []string
	head     []string
	rows     [][]string
}

func newReport(o options, args []string, r *results) report {
	about := strings.Join([]string{
		fmt.Sprintf("Every line is the median of %s of %d routes, created by one process with so many workers.", plural(o.rounds, "round"), o.routes),
		"The contenders take turns, and each round begins with another one.",
		"“Of floor” is the throughput as a part of the floor's in the same round; the floor is no webhook, for judged routes the no-op webhook, and for new grants two plain writes: the ReferenceGrant, then the route.",
		"CPU is in seconds for all routes of a line, the second after the last one included.",
		"MiB is the greatest resident set while a line was measured.",
		"All processes share the machine, so that with several workers the CPU decides.",
	}, " ")
	sections := []section{aims(r, o)}
	for _, s := range o.scenarios {
		sections = append(sections, lines(r, o, s))
	}
	return report{
		title: "What an admission costs",
		preface: []string{
			fmt.Sprintf("Measured with `%s` on %s: %s, %s, Kubernetes %s.",
				strings.Join(append([]string{"go run ./hack/bench"}, args...), " "),
				time.Now().UTC().Format(time.DateOnly), machine(), runtime.Version(), r.kubernetes),
			about,
		},
		sections: append(sections, memory(r, o)),
	}
}

// aims compares routewarden with what it aims at.
func aims(r *results, o options) section {
	s := section{
		title: "Aims",
		about: "Throughput of routewarden as a part of the floor's: the median of the rounds, and their range. “No webhook, twice” shows how far two measurements of the same thing are apart.",
		head:  []string{"Routes", "Workers", "Compared with", "Aim", "Measured", "Range", ""},
	}
	for _, scenario := range o.scenarios {
		for _, workers := range o.workers {
			if slices.Contains(scenario.contenders, again) {
				ratios := r.ratios(cell{scenario.name, workers, again}, cell{scenario.name, workers, noWebhook})
				s.rows = append(s.rows, []string{"no webhook, twice", fmt.Sprint(workers), string(noWebhook), "", percent(median(ratios)), span(ratios), ""})
			}
			ratios := r.ratios(cell{scenario.name, workers, routewarden}, cell{scenario.name, workers, scenario.floor})
			s.rows = append(s.rows, []string{scenario.name, fmt.Sprint(workers), string(scenario.floor),
				"at least " + percent(scenario.atLeast), percent(median(ratios)), span(ratios), met(median(ratios) >= scenario.atLeast)})
			for _, c := range []struct {
				contender
				how string
			}{{readBack, "read as each create returns"}, {routewarden, "order of storage"}} {
				if !scenario.grants() {
					continue
				}
				missing, all := 0, 0
				for _, sample := range r.samples[cell{scenario.name, workers, c.contender}] {
					missing += sample.missing
					all += len(sample.latencies)
				}
				s.rows = append(s.rows, []string{scenario.name, fmt.Sprint(workers), c.how, "no grant missing",
					fmt.Sprintf("%d of %d missing", missing, all), "", met(missing == 0)})
			}
		}
	}
	return s
}

func met(yes bool) string {
	if yes {
		return "met"
	}
	return "not met"
}

// lines are the measurements of one scenario.
func lines(r *results, o options, s scenario) section {
	out := section{
		title: "Routes: " + s.name,
		head: []string{"Workers", "Against", "p50 ms", "p99 ms", "routes/s", "of floor",
			"CPU etcd", "CPU kube-apiserver", "CPU webhook", "CPU client", "MiB etcd", "MiB kube-apiserver", "MiB webhook"},
	}
	for _, workers := range o.workers {
		for _, contender := range s.contenders {
			c := cell{s.name, workers, contender}
			each := func(value func(sample) float64) float64 {
				var values []float64
				for _, sample := range r.samples[c] {
					values = append(values, value(sample))
				}
				return median(values)
			}
			milliseconds := func(part float64) string {
				return fmt.Sprintf("%.2f", each(func(s sample) float64 { return quantile(s.latencies, part).Seconds() * 1000 }))
			}
			ofFloor := percent(median(r.ratios(c, cell{s.name, workers, s.floor})))
			if contender == readBack {
				ofFloor = "" // the reads take time, too
			}
			row := []string{fmt.Sprint(workers), string(contender), milliseconds(0.5), milliseconds(0.99),
				fmt.Sprintf("%.0f", each(sample.throughput)), ofFloor}
			for _, process := range []string{etcd, apiServer, aWebhook, loadClient} {
				row = append(row, known("%.2f", each(func(s sample) float64 { return s.used[process].cpu.Seconds() })))
			}
			for _, process := range []string{etcd, apiServer, aWebhook} {
				row = append(row, known("%.0f", mebibytes(int64(each(func(s sample) float64 { return float64(s.used[process].peak) })))))
			}
			out.rows = append(out.rows, row)
		}
	}
	return out
}

func memory(r *results, o options) section {
	return section{
		title: "Memory of routewarden at rest",
		head:  []string{"Cluster", "MiB resident"},
		rows: [][]string{
			{"empty", known("%.0f", mebibytes(r.idle))},
			{fmt.Sprintf("%d routes, each with a managed grant", o.routes), known("%.0f", mebibytes(r.holding))},
		},
	}
}

// ratios are the throughputs of a as parts of those of b, of the same rounds.
func (r *results) ratios(a, b cell) []float64 {
	var ratios []float64
	for i, sample := range r.samples[a] {
		ratios = append(ratios, sample.throughput()/r.samples[b][i].throughput())
	}
	return ratios
}

// median of none is 0, and of an even number the mean of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// quantile is the smallest value that at least such a part of the ascending values does not exceed.
func quantile(sorted []time.Duration, part float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(part * float64(len(sorted)))
	if float64(rank) < part*float64(len(sorted)) {
		rank++
	}
	return sorted[max(rank, 1)-1]
}

func percent(ratio float64) string { return fmt.Sprintf("%.0f %%", ratio*100) }

func span(ratios []float64) string {
	if len(ratios) < 2 {
		return ""
	}
	return fmt.Sprintf("%.0f–%.0f %%", slices.Min(ratios)*100, slices.Max(ratios)*100)
}

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// known leaves out what was not measured.
func known(format string, value float64) string {
	if value == 0 {
		return "–"
	}
	return fmt.Sprintf(format, value)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// machine describes what the measurements ran on.
func machine() string {
	parts := []string{plural(runtime.NumCPU(), "core")}
	if content, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(content)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				parts = append(parts, strings.TrimLeft(strings.TrimSpace(name), ": \t"))
				break
			}
		}
	}
	return strings.Join(append(parts, runtime.GOOS+"/"+runtime.GOARCH), ", ")
}

func (r report) text() string {
	var out strings.Builder
	fmt.Fprintln(&out, r.title)
	for _, paragraph := range r.preface {
		fmt.Fprintf(&out, "\n%s\n", wrap(strings.ReplaceAll(paragraph, "`", ""), 120))
	}
	for _, s := range r.sections {
		fmt.Fprintf(&out, "\n%s\n\n", s.title)
		if s.about != "" {
			fmt.Fprintf(&out, "%s\n\n", wrap(s.about, 120))
		}
		table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		for _, row := range append([][]string{s.head}, s.rows...) {
			fmt.Fprintln(table, strings.Join(row, "\t"))
		}
		_ = table.Flush() // a strings.Builder takes everything
	}
	return out.String()
}

func (r report) markdown() string {
	var out strings.Builder
	fmt.Fprintf(&out, "# %s\n", r.title)
	for _, paragraph := range r.preface {
		fmt.Fprintf(&out, "\n%s\n", wrap(paragraph, 120))
	}
	for _, s := range r.sections {
		fmt.Fprintf(&out, "\n## %s\n\n", s.title)
		if s.about != "" {
			fmt.Fprintf(&out, "%s\n\n", wrap(s.about, 120))
		}
		for _, picture := range s.pictures {
			fmt.Fprintf(&out, "![%s](%s)\n\n", s.title, picture)
		}
		for i, row := range append([][]string{s.head}, s.rows...) {
			fmt.Fprintf(&out, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				fmt.Fprintf(&out, "|%s\n", strings.Repeat("---|", len(row)))
			}
		}
	}
	return out.String()
}

// wrap breaks a paragraph into lines of at most so many characters, if its words allow it.
func wrap(paragraph string, width int) string {
	var out strings.Builder
	column := 0
	for word := range strings.FieldsSeq(paragraph) {
		length := len([]rune(word))
		switch {
		case column == 0:
		case column+1+length > width:
			out.WriteByte('\n')
			column = 0
		default:
			out.WriteByte(' ')
			column++
		}
		out.WriteString(word)
		column += length
	}
	return out.String()
}

// beside are pictures that hack/plot draws from data, as a document names them.
func beside(document, data string, pictures ...string) []string {
	if document == "" || data == "" {
		return nil
	}
	dir, err := filepath.Rel(filepath.Dir(document), filepath.Dir(data))
	if err != nil {
		return nil
	}
	for i := range pictures {
		pictures[i] = filepath.ToSlash(filepath.Join(dir, pictures[i]))
	}
	return pictures
}
