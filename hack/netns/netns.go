// Package netns runs a program in network and mount namespaces of its own, where every port is free, whatever it mounts is
// seen by nobody else, and there is no way out.
package netns

import (
	"errors"
	"os"
	"slices"
	"strings"
)

// ErrForbidden says that this machine lets nobody, or not this user, make namespaces.
var ErrForbidden = errors.New("cannot make namespaces for network and mounts")

// isolatedEnv is set where Isolate has started this process.
const isolatedEnv = "NETNS_ISOLATED"

// Isolated reports whether Isolate has started this process.
func Isolated() bool { return os.Getenv(isolatedEnv) != "" }

// Environ is this process's environment for a program that may isolate itself again.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, isolatedEnv+"=") })
}
