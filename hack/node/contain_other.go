//go:build unix && !linux

package node

import "github.com/routewarden/routewarden/hack/netns"

const containmentEnv = "NODE_CONTAINMENT"

// Contain does nothing: containers are Linux's.
func Contain() {}

func mountTmpfs(string) error { return netns.ErrForbidden }
