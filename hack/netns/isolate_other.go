//go:build unix && !linux

package netns

import "fmt"

// Isolate returns ErrForbidden: the namespaces are Linux's.
func Isolate(...string) (exit int, err error) {
	return 0, fmt.Errorf("%w: they are Linux's", ErrForbidden)
}

// Furnish returns ErrForbidden.
func Furnish() error { return ErrForbidden }
