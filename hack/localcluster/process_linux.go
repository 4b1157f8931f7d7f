package localcluster

import "syscall"

// processAttributes put a child into a process group of its own, so that a terminal's Ctrl-C reaches
// it through Stop only, and let the kernel kill it when its parent is gone.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
