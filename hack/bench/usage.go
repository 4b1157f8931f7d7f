package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has used, as Linux tells in /proc. All is zero where that is not known.
type usage struct {
	cpu time.Duration
	// resident and peak are bytes of memory; the peak is since the last resetPeak.
	resident, peak int64
}

func readUsage(pid int) usage {
	var u usage
	// The name before the last parenthesis may hold anything.
	if _, fields, ok := cutLast(readProc(pid, "stat"), ") "); ok {
		const userTime, systemTime, tick = 14 - 3, 15 - 3, 10 * time.Millisecond // proc_pid_stat(5)
		if f := strings.Fields(fields); len(f) > systemTime {
			for _, ticks := range []string{f[userTime], f[systemTime]} {
				n, _ := strconv.ParseInt(ticks, 10, 64)
				u.cpu += time.Duration(n) * tick
			}
		}
	}
	for line := range strings.Lines(readProc(pid, "status")) {
		var kilobytes int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kilobytes); n == 1 {
			u.resident = kilobytes << 10
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); n == 1 {
			u.peak = kilobytes << 10
		}
	}
	return u
}

// resetPeak makes the peak begin anew (proc_pid_clear_refs(5)).
func resetPeak(pid int) { _ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0) }

// child is the process id of our child of that name, or 0.
func child(name string) int {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		before, after, _ := cutLast(readProc(pid, "stat"), ") ")
		// What follows the name is the state, then the parent.
		if fields := strings.Fields(after); strings.HasSuffix(before, "("+name) && len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			return pid
		}
	}
	return 0
}

func readProc(pid int, file string) string {
	content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	return string(content)
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
