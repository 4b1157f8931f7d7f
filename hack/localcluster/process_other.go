//go:build unix && !linux

package localcluster

import "syscall"

// processAttributes put a child into a process group of its own, so that a terminal's Ctrl-C reaches
// it through Stop only.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
