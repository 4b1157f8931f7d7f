package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Isolate runs this program again, with the same arguments and env added, in network and mount
// namespaces of its own, and returns its exit code. Everything that the program starts with
// localcluster.StartProcess ends with it, and it ends with this process. Without root the namespaces
// are a user's; where that is forbidden the error is ErrForbidden.
func Isolate(env ...string) (exit int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	// The parent-death signal is sent when the thread that forked ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A terminal sends Ctrl-C to both, and the inner one tidies up.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	const apart = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS
	var errs []error
	for _, flags := range []uintptr{apart, apart | syscall.CLONE_NEWUSER} {
		cmd := exec.Command(self, os.Args[1:]...)
		cmd.Env = append(append(os.Environ(), isolatedEnv+"=1"), env...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
		if flags&syscall.CLONE_NEWUSER != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		if err := cmd.Start(); err != nil {
			errs = append(errs, err)
			continue
		}
		ended := make(chan struct{})
		go func() {
			for {
				select {
				case s := <-signals:
					if s == syscall.SIGTERM {
						_ = cmd.Process.Signal(s)
					}
				case <-ended:
					return
				}
			}
		}()
		err := cmd.Wait()
		close(ended)
		var exitError *exec.ExitError
		if err != nil && !errors.As(err, &exitError) {
			return 0, err
		}
		if code := cmd.ProcessState.ExitCode(); code >= 0 {
			return code, nil
		}
		return 0, err // a signal
	}
	return 0, fmt.Errorf("%w: %w", ErrForbidden, errors.Join(errs...))
}

// Furnish makes the loopback device of an isolated process usable, and keeps its mounts from appearing outside.
func Furnish() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	up, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	up.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, up); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
