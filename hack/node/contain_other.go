//go:build unix && !linux

package node

import "github.com/routesteward/routesteward/hack/netns"

const containmentEnv = "NODE_CONTAINMENT"

// Contain does nothing: containers are Linux's.
func Contain() {}

func mountTmpfs(string) error { return netns.ErrForbidden }

// InUserNamespace reports false.
func InUserNamespace() bool { return false }
