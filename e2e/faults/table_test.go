package faults

import (
	"fmt"
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
	// recovered is how long it took until every kind of route was judged rightly again; settled how long until everything that is
	// stored was as it must be, from the end of the traffic.
	recovered, settled time.Duration
	// restarts of routewarden, the killed ones included.
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
	"Fault", "What it hit", "Lasted", "Requests", "Admitted", "Refused as right", "While consent changed", "No answer from routewarden", "routewarden could not decide",
	"Failed: API server", "Longest answer", "Deleted", "Restarts", "All verdicts right again after",
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

// document is the table as Markdown, in parts that fit a page, with what is to be known about it.
func document(results []*result) string {
	var out strings.Builder
	out.WriteString(fmt.Sprintf(preface, time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), *rate, grace()))
	for _, part := range []struct {
		title   string
		columns []int
	}{
		{"What must be zero, after each fault", []int{0, 3, 14, 15, 16, 17, 18, 13}},
		{"What became of the requests during each", []int{0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}},
		{"What each hit", []int{0, 1}},
	} {
		fmt.Fprintf(&out, "\n## %s\n\n", part.title)
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

const preface = `# Creating routes while everything around them fails

Measured with ` + "`make faults`" + ` on %s: %d cores, %s/%s, %s. ` + "`make test`" + ` has most of the faults, for seconds each.

Real processes: etcd on a disk of its own, kube-apiserver, and two replicas of routewarden behind a proxy that stands for
their Service; a replica that ends is started again after a second, as a kubelet does it. Four tenants and the owner of a
namespace, with the rights that RBAC gives them and no others, create %d routes a second: in the system namespace and
outside it, to Services that need a new ReferenceGrant, share one, are permitted by somebody else's, are consented to by
who asks, or are not consented to at all. Every fifth time they also update a stored route, so that its grant is needed
no more, or try to lead it to where nobody consents; every third time they delete one. The grace of grants is %s.

A request during a fault may fail with an error, never with a wrong verdict. After each fault, routes of every kind are
created until all verdicts are right again, and from then on none may be wrong. Then everything that is stored is read:

- Every route is judged by the engine, with its author's rights. One that it would deny is a violation that was admitted.
- Every reference that needs a ReferenceGrant has it, also where only its author consented, so that nobody would make it
  again; relocated routes have their copies.
- No managed grant is there that no route needs, none permits more than its reference, none defies a veto.
- Ten objects of other people are byte by byte as they were (ReferenceGrants as AIBrix writes them and one that is named
  like ours, a Gateway, a route, a Service, a Secret, a Lease, a webhook configuration, a Namespace), and the API server's
  audit log has no write of routewarden's to anything that is not its own.
- What was admitted is there, and no replica's log tells of a panic.

How the faults are made: a proxy between each replica and the API server holds a request for a grant before or after it
is made, so that the replica is killed at exactly that moment; the one in place of the Service holds an answer until the
replica that gave it is dead. The same proxies hold back watches, cut them, and answer 429 and 409. etcd's disk is a small file
system that is filled up. A program believes in another time only where the machine does, so both replicas, with
certificates of short lives, are suspended until these have expired, which to them is a jump of the clock; and an
authority that expired a year ago is put into the Secret and the webhook configuration.

“No answer from routewarden” are requests for which the API server's call failed; “routewarden could not decide” those
that it answered with a 500, because the API server or etcd did not answer it. “While consent changed” are those whose
verdict depends on whether caches knew already. All processes share the machine, and where it is busy with other work,
more requests fail by their time-outs.
`
