package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// baseline is what things cost.
type baseline struct {
	// goVersion and cpu are what the counts depend on, apart from our own program; cpu counts for instructions alone, and is
	// empty where none were counted.
	goVersion, cpu string
	// counts by "allocations  scenario" and "instructions scenario".
	counts map[string]int
}

const header = `# What things cost, written by "make gate UPDATE=1" and compared by "make gate".
`

// String is the baseline as its file holds it.
func (b baseline) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%sgo: %s\ncpu: %s\n", header, b.goVersion, b.cpu)
	for _, name := range slices.Sorted(maps.Keys(b.counts)) {
		fmt.Fprintf(&out, "%12d %s\n", b.counts[name], name)
	}
	return out.String()
}

func parse(text string) (baseline, error) {
	b := baseline{counts: map[string]int{}}
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		line := scanner.Text()
		if version, ok := strings.CutPrefix(line, "go: "); ok {
			b.goVersion = version
			continue
		}
		if cpu, ok := strings.CutPrefix(line, "cpu: "); ok {
			b.cpu = cpu
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		number, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		count, err := strconv.Atoi(number)
		if err != nil || name == "" {
			return b, fmt.Errorf("%q is no count", line)
		}
		b.counts[name] = count
	}
	if b.goVersion == "" || len(b.counts) == 0 {
		return b, errors.New("holds no baseline")
	}
	return b, scanner.Err()
}

const renew = "Renew the baseline with `make gate UPDATE=1`, and look at its diff.\n"

// more says whether a count is a regression.
func more(name string, old, now int) bool {
	limit := moreAllocations
	if strings.HasPrefix(name, "instructions ") {
		limit = moreInstructions
	}
	return float64(now) > float64(old)*limit
}

// compare tells what changed, and whether that is all right.
func compare(before, now baseline) (report string, ok bool) {
	if before.goVersion != now.goVersion {
		return fmt.Sprintf("WARNING: nothing is compared: the baseline was measured with %s, and this is %s. %s", before.goVersion, now.goVersion, renew), true
	}
	var out strings.Builder
	compared := func(name string) bool { return !strings.HasPrefix(name, "instructions ") || before.cpu == now.cpu }
	if now.cpu != "" && before.cpu != now.cpu {
		fmt.Fprintf(&out, "WARNING: instructions are not compared, allocations only: the baseline is of a processor with %q, and this one has %q.\n", before.cpu, now.cpu)
	}
	type change struct {
		name      string
		old, new  int
		ratio     float64
		regressed bool
	}
	var changes []change
	var missing []string
	same := 0
	for _, name := range slices.Sorted(maps.Keys(now.counts)) {
		if !compared(name) {
			continue
		}
		old, found := before.counts[name]
		c := change{name: name, old: old, new: now.counts[name]}
		switch {
		case !found:
			missing = append(missing, name)
			continue
		case c.old == c.new:
			same++
			continue
		}
		c.ratio = float64(c.new) / float64(max(c.old, 1))
		c.regressed = more(name, c.old, c.new)
		changes = append(changes, c)
	}
	for _, name := range slices.Sorted(maps.Keys(before.counts)) {
		if _, found := now.counts[name]; !found && compared(name) {
			missing = append(missing, name)
		}
	}
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(b.ratio, a.ratio) })
	regressions := 0
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for i, c := range changes {
		if i == 0 {
			fmt.Fprintf(table, "Old\tNew\tRatio\tWhat\t\n")
		}
		verdict := ""
		if c.regressed {
			regressions++
			verdict = "REGRESSION"
		}
		fmt.Fprintf(table, "%d\t%d\t%.3f\t%s\t%s\n", c.old, c.new, c.ratio, c.name, verdict)
	}
	_ = table.Flush() // a strings.Builder takes everything
	fmt.Fprintf(&out, "%d of %d counts are as they were.\n", same, same+len(changes)+len(missing))
	for _, name := range missing {
		fmt.Fprintf(&out, "Only in the baseline, or not in it: %s\n", name)
	}
	switch {
	case regressions > 0:
		fmt.Fprintf(&out, "%d cost more than before. Find out why: `go run ./hack/bench handler` and `go run ./hack/bench check` measure, "+
			"`go test -run '^$' -bench Handler -memprofile mem.out ./webhook` shows where. If it is worth it: %s", regressions, renew)
	case len(missing) > 0:
		out.WriteString(renew)
	case slices.ContainsFunc(changes, func(c change) bool { return c.ratio < 0.95 }):
		out.WriteString("Some cost less than before; so that they stay so: " + renew)
	}
	return out.String(), regressions == 0
}
