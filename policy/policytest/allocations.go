package policytest

import (
	"runtime/debug"
	"testing"
)

// AllocatesAtMost fails the test when a call of run allocates more often than so many times.
func AllocatesAtMost(t *testing.T, most float64, run func()) {
	t.Helper()
	if got := AllocationsPerRun(t, 20, run); got > most {
		t.Errorf("allocates %.0f times, want at most %.0f", got, most)
	}
}

// AllocationsPerRun is how often a call of run allocates, on average. Under the race detector the test is skipped: counts differ there.
func AllocationsPerRun(t *testing.T, runs int, run func()) float64 {
	t.Helper()
	if raced {
		t.Skip("the race detector changes how often code allocates")
	}
	run()                                            // what is made once
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which empties pools
	got := testing.AllocsPerRun(runs, run)
	t.Logf("allocates %.0f times", got)
	return got
}
