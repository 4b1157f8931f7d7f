package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// containmentEnv is the containment as JSON.
const containmentEnv = "NODE_CONTAINMENT"

// Contain must be called first by every program that calls Start: the agent starts the program again for each container, and
// then Contain does not return.
func Contain() {
	if content, found := os.LookupEnv(containmentEnv); found {
		fmt.Fprintln(os.Stderr, "the container cannot be started:", contain([]byte(content)))
		os.Exit(128)
	}
}

// contain becomes the container's program. It returns only with an error.
func contain(content []byte) error {
	// Some of what follows is a thread's, and execve(2) keeps that of the thread that calls it.
	runtime.LockOSThread()
	var c containment
	if err := json.Unmarshal(content, &c); err != nil {
		return err
	}
	program := "/" + filepath.Base(c.Program)
	if err := c.makeRoot(program); err != nil {
		return err
	}
	if err := errors.Join(unix.Unshare(unix.CLONE_NEWUTS), unix.Sethostname([]byte(c.Hostname))); err != nil {
		return fmt.Errorf("set the hostname: %w", err)
	}
	if err := unix.Chroot(c.Root); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := c.renounce(); err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", program, syscall.Exec(program, append([]string{program}, c.Args...), c.Env))
}

// makeRoot mounts what the container sees. The mount namespace is its own.
func (c *containment) makeRoot(program string) error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := mountTmpfs(c.Root); err != nil {
		return err
	}
	mounts := maps.Clone(c.Mounts)
	mounts[program] = c.Program
	for path, source := range mounts {
		at := filepath.Join(c.Root, path)
		if err := errors.Join(bind(source, at), readOnly(at)); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	// A mount of a separate process namespace would be more, but there is none.
	for _, path := range []string{"/proc", "/dev/null"} {
		if err := bind(path, filepath.Join(c.Root, path)); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	if c.ReadOnly {
		return readOnly(c.Root)
	}
	return os.Chmod(c.Root, 0o755)
}

func mountTmpfs(at string) error {
	return unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=64m")
}

func bind(source, at string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
		err = os.WriteFile(at, nil, 0o755)
	}
	if err != nil {
		return err
	}
	return unix.Mount(source, at, "", unix.MS_BIND|unix.MS_REC, "")
}

// readOnly keeps the other restrictions of a mount, which a user namespace may not lift.
func readOnly(at string) error {
	var is unix.Statfs_t
	if err := unix.Statfs(at, &is); err != nil {
		return err
	}
	flags := uintptr(is.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
	return unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, "")
}

// renounce gives up what the container may not have. In a user namespace of one user there is nobody else to become.
func (c *containment) renounce() error {
	if c.DropAll {
		for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("drop capability %d: %w", capability, err)
			}
		}
	}
	if c.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no new privileges: %w", err)
		}
	}
	if !InUserNamespace() {
		if err := errors.Join(syscall.Setgroups([]int{c.GID}), syscall.Setgid(c.GID), syscall.Setuid(c.UID)); err != nil {
			return fmt.Errorf("become user %d: %w", c.UID, err)
		}
	}
	// A change of user clears it.
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

// InUserNamespace reports whether this process's user is the only one that it can become, so that containers run as that user.
func InUserNamespace() bool {
	content, err := os.ReadFile("/proc/self/uid_map")
	var inside, outside, size int64
	_, scanErr := fmt.Sscan(string(content), &inside, &outside, &size)
	return err != nil || scanErr != nil || size == 1
}
