package gateways

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

// isolatedEnv tells the program that it runs in namespaces of its own.
const isolatedEnv = "GATEWAYS_ISOLATED"

// Isolated reports whether Isolate has started this process.
func Isolated() bool { return os.Getenv(isolatedEnv) != "" }

// Isolate runs this program again, with the same arguments and env added, in network and mount
// namespaces of its own, and returns its exit code. In there 10.244.0.0/16 and 127.0.0.0/8 are
// addresses of this host, every port is free, and there is no way out. Everything that the program
// starts with localcluster.StartProcess ends with it, and it ends with this process. Without root the
// namespaces are a user's; where that is forbidden the error is ErrNotIsolated.
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
	return 0, fmt.Errorf("%w: %w", ErrNotIsolated, errors.Join(errs...))
}

// furnish makes the network of an isolated process.
func furnish() error {
	// Mounts of ours must not appear outside.
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
	// An address of the loopback device makes its whole network local.
	if err := setAddress(socket, unix.SIOCSIFADDR, []byte{10, 244, 0, 1}); err != nil {
		return err
	}
	return setAddress(socket, unix.SIOCSIFNETMASK, []byte{255, 255, 0, 0})
}

func setAddress(socket int, request uint, address []byte) error {
	alias, err := unix.NewIfreq("lo:pods")
	if err != nil {
		return err
	}
	if err := alias.SetInet4Addr(address); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(socket, request, alias); err != nil {
		return fmt.Errorf("give lo the Pods' network: %w", err)
	}
	return nil
}

// bind makes a file appear at another path as well, for this process and those that it starts.
func bind(file, at string) error {
	target, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if err := target.Close(); err != nil {
		return err
	}
	if err := unix.Mount(file, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", file, at, err)
	}
	return nil
}

// unbind undoes bind, so that the file can be removed.
func unbind(at string) error { return unix.Unmount(at, unix.MNT_DETACH) }
