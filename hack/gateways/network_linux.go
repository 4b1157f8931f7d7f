package gateways

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/routesteward/routesteward/hack/netns"
)

// furnish makes the network of an isolated process, in which 10.244.0.0/16 are addresses of this host.
func furnish() error {
	if err := netns.Furnish(); err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
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
