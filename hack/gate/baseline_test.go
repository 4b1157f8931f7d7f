package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCompare(t *testing.T) {
	before := baseline{goVersion: "go1.0", cpu: "avx", counts: map[string]int{
		"allocations  a": 100, "allocations  b": 0, "instructions a": 100_000, "instructions b": 50_000,
	}}
	for name, tt := range map[string]struct {
		change func(*baseline)
		ok     bool
		report string
	}{
		"nothing": {func(*baseline) {}, true, "4 of 4 counts are as they were.\n"},
		"within the tolerance": {func(b *baseline) { b.counts["allocations  a"], b.counts["instructions a"] = 102, 105_000 }, true,
			"Old     New     Ratio  What            \n100000  105000  1.050  instructions a  \n100     102     1.020  allocations  a  \n2 of 4 counts are as they were.\n"},
		"an allocation too many": {func(b *baseline) { b.counts["allocations  a"] = 103 }, false, "100  103  1.030  allocations  a  REGRESSION\n"},
		"where there was none":   {func(b *baseline) { b.counts["allocations  b"] = 1 }, false, "0    1    1.000  allocations  b  REGRESSION\n"},
		"too many instructions":  {func(b *baseline) { b.counts["instructions b"] = 52_501 }, false, "50000  52501  1.050  instructions b  REGRESSION\n"},
		"fewer": {func(b *baseline) { b.counts["allocations  a"] = 50 }, true,
			"3 of 4 counts are as they were.\nSome cost less than before; so that they stay so: Renew the baseline with `make gate UPDATE=1`, and look at its diff.\n"},
		"new":  {func(b *baseline) { b.counts["allocations  c"] = 1 }, true, "Only in the baseline, or not in it: allocations  c\n"},
		"gone": {func(b *baseline) { delete(b.counts, "allocations  b") }, true, "Only in the baseline, or not in it: allocations  b\n"},
		"another Go": {func(b *baseline) { b.goVersion = "go1.1" }, true,
			"WARNING: nothing is compared: the baseline was measured with go1.0, and this is go1.1. Renew the baseline with `make gate UPDATE=1`, and look at its diff.\n"},
		"another processor": {func(b *baseline) { b.cpu, b.counts["instructions a"] = "avx2", 1 }, true,
			"WARNING: instructions are not compared, allocations only: the baseline is of a processor with \"avx\", and this one has \"avx2\".\n2 of 2 counts are as they were.\n"},
		"no Valgrind": {func(b *baseline) {
			b.cpu = ""
			delete(b.counts, "instructions a")
			delete(b.counts, "instructions b")
		}, true, "2 of 2 counts are as they were.\n"},
	} {
		t.Run(name, func(t *testing.T) {
			now, err := parse(before.String())
			require.NoError(t, err)
			require.Equal(t, before, now)
			tt.change(&now)
			report, ok := compare(before, now)
			require.Equal(t, tt.ok, ok, report)
			require.Contains(t, report, tt.report)
		})
	}
}

func TestParseFails(t *testing.T) {
	for text, message := range map[string]string{
		"":                    "holds no baseline",
		"go: go1.0\nmany a\n": `"many a" is no count`,
		"go: go1.0\n 1\n":     `" 1" is no count`,
		"# go: go1.0\n 1 a\n": "holds no baseline",
	} {
		_, err := parse(text)
		require.EqualError(t, err, message)
	}
}
