//go:build unix && !linux

package gateways

import "fmt"

// Isolated reports whether Isolate has started this process.
func Isolated() bool { return false }

// Isolate returns ErrNotIsolated: the namespaces are Linux's.
func Isolate(...string) (exit int, err error) {
	return 0, fmt.Errorf("%w: they are Linux's", ErrNotIsolated)
}

func furnish() error { return ErrNotIsolated }

func bind(_, _ string) error { return ErrNotIsolated }

func unbind(string) error { return ErrNotIsolated }
