package main

import (
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/procfs"
)

type table struct {
	title string
	head  []string
	rows  [][]string
}

// row adds one; a value is shown as it is, a float with two digits.
func (t *table) row(values ...any) {
	cells := make([]string, len(values))
	for i, value := range values {
		if number, ok := value.(float64); ok {
			value = fmt.Sprintf("%.2f", number)
		}
		cells[i] = fmt.Sprint(value)
	}
	t.rows = append(t.rows, cells)
}

// write writes a section of hack/BENCHMARKS.md.
func write(out io.Writer, m measurement, args []string, tables []table) error {
	var text strings.Builder
	fmt.Fprintf(&text, "## %s\n\n%s\n\n%s, commit %s, %s, %s: `go run ./hack/bench %s`\n",
		m.title, m.about, time.Now().UTC().Format(time.DateOnly), commit(), machine(), runtime.Version(), strings.Join(args, " "))
	for _, t := range tables {
		if t.title != "" {
			fmt.Fprintf(&text, "\n### %s\n", t.title)
		}
		fmt.Fprintf(&text, "\n| %s |\n|%s\n", strings.Join(t.head, " | "), strings.Repeat("---|", len(t.head)))
		for _, row := range t.rows {
			fmt.Fprintf(&text, "| %s |\n", strings.Join(row, " | "))
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// machine describes what the measurements ran on.
func machine() string {
	model := ""
	if proc, err := procfs.NewDefaultFS(); err == nil {
		if cpus, err := proc.CPUInfo(); err == nil && len(cpus) > 0 {
			model = cpus[0].ModelName + ", "
		}
	}
	return fmt.Sprintf("%d cores, %s%s/%s", runtime.NumCPU(), model, runtime.GOOS, runtime.GOARCH)
}

// median of none is 0, and of an even number the mean of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// medianOf is the median of a value of each.
func medianOf[T any](all []T, value func(T) float64) float64 {
	var values []float64
	for _, one := range all {
		values = append(values, value(one))
	}
	return median(values)
}

// ratios compare a value in each round with that of the floor in the same round.
func ratios[T any](all, floor []T, value func(T) float64) (ratios []float64) {
	for i := range all {
		ratios = append(ratios, value(all[i])/value(floor[i]))
	}
	return ratios
}

// quantile is the smallest value, in milliseconds, that at least such a part of the values does not exceed.
func quantile(durations []time.Duration, part float64) float64 {
	if len(durations) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(durations))
	rank := int(part * float64(len(sorted)))
	if float64(rank) < part*float64(len(sorted)) {
		rank++
	}
	return milliseconds(sorted[max(rank, 1)-1])
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }

func percent(ratio float64) string { return fmt.Sprintf("%.0f %%", ratio*100) }

// spread is the range of ratios.
func spread(ratios []float64) string {
	if len(ratios) == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f–%.0f %%", slices.Min(ratios)*100, slices.Max(ratios)*100)
}

func mebibytes(bytes int64) string { return fmt.Sprintf("%.0f", float64(bytes)/(1<<20)) }

// usage is what a process has used so far; zero where that is not known.
type usage struct {
	cpu time.Duration
	// peak is the greatest resident set, in bytes.
	peak int64
}

func readUsage(pid int) (u usage) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return u
	}
	if stat, err := process.Stat(); err == nil {
		u.cpu = time.Duration(stat.CPUTime() * float64(time.Second))
	}
	if status, err := process.NewStatus(); err == nil {
		u.peak = int64(status.VmHWM)
	}
	return u
}
