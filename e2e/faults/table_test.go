package faults

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// result is what a fault did.
type result struct {
	fault string
	// hits is what it has hit, in words; lasted until its cause was gone.
	hits   string
	lasted time.Duration
	// counts are of creations and updates, deleted of deletions.
	counts   [outcomes]int
	examples [outcomes][]string
	deleted  int
	// wrong are verdicts that were not right, at any time.
	wrong []string
	// longest is how long the slowest request took.
	longest time.Duration
	// recovered is how long it took until every kind of route was evaluated rightly again; settled how long until everything that is
	// stored was as it must be, from the end of the traffic.
	recovered, settled time.Duration
	// restarts of routesteward, the killed ones included.
	restarts int
	state    *state
	reports  []string
}

// problems are why the test fails.
func (r *result) problems() (found []string) {
	found = append(found, r.wrong...)
	if r.hits == "" {
		found = append(found, "nothing was hit")
	}
	if err := r.state.err(); err != nil {
		found = append(found, err.Error())
	}
	return append(found, r.reports...)
}

var head = []string{
	"Fault", "What it hit", "Lasted", "Requests", "Admitted", "Refused", "While consent changed", "No answer from routesteward", "routesteward could not decide",
	"Failed: API server", "Longest answer", "Deleted", "Restarts", "All decisions right after",
	"Violations admitted", "Legal refused", "Grants missing", "Grants surplus", "Foreign objects touched",
}

func (r *result) row() []string {
	requests := 0
	for _, n := range r.counts {
		requests += n
	}
	count := func(o outcome) string { return fmt.Sprint(r.counts[o]) }
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
	return []string{
		r.fault, r.hits, seconds(r.lasted), fmt.Sprint(requests), count(admitted), count(refused), count(either), count(unanswered), count(undecided),
		count(failed), seconds(r.longest), fmt.Sprint(r.deleted), fmt.Sprint(r.restarts), seconds(r.recovered),
		fmt.Sprint(r.counts[wronglyAdmitted] + len(r.state.violations)), count(wronglyRefused),
		fmt.Sprint(len(r.state.missing)), fmt.Sprint(len(r.state.surplus)), fmt.Sprint(len(r.state.touched)),
	}
}

// words tells a result, one value a line, with examples of what went wrong.
func (r *result) words() string {
	var out strings.Builder
	for i, value := range r.row() {
		fmt.Fprintf(&out, "\n    %s: %s", head[i], value)
	}
	fmt.Fprintf(&out, "\n    stored: %d routes, %d grants; settled after %s", r.state.routes, r.state.grants, r.settled.Round(time.Millisecond))
	for _, examples := range r.examples {
		for _, example := range examples {
			fmt.Fprintf(&out, "\n    for example %s", example)
		}
	}
	return out.String()
}

func text(results []*result) string {
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, strings.Join(head, "\t"))
	for _, r := range results {
		fmt.Fprintln(table, strings.Join(r.row(), "\t"))
	}
	_ = table.Flush() // a strings.Builder takes everything
	return out.String()
}

// document is a section of hack/BENCHMARKS.md.
func document(results []*result) string {
	commit, _ := exec.Command("git", "describe", "--always", "--dirty").Output()
	var out strings.Builder
	fmt.Fprintf(&out, "## Faults under load\n\n%d routes a second, with a grace of %s for grants. What is checked after each fault, and how the faults are made: "+
		"[e2e/faults](../e2e/faults/main_test.go).\n\n%s, commit %s, %d cores, %s/%s, %s: `make faults`\n",
		*rate, grace(), time.Now().UTC().Format(time.DateOnly), strings.TrimSpace(string(commit)), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	for _, part := range []struct {
		title   string
		columns []int
	}{
		{"What must be zero after each fault", []int{0, 3, 14, 15, 16, 17, 18, 13}},
		{"What became of the requests", []int{0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}},
	} {
		fmt.Fprintf(&out, "\n### %s\n\n", part.title)
		for i, row := range append([][]string{head}, rows(results)...) {
			cells := make([]string, len(part.columns))
			for j, column := range part.columns {
				cells[j] = row[column]
			}
			fmt.Fprintf(&out, "| %s |\n", strings.Join(cells, " | "))
			if i == 0 {
				fmt.Fprintf(&out, "|%s\n", strings.Repeat("---|", len(part.columns)))
			}
		}
	}
	return out.String()
}

func rows(results []*result) (rows [][]string) {
	for _, r := range results {
		rows = append(rows, r.row())
	}
	return rows
}
