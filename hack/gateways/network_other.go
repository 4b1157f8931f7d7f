//go:build unix && !linux

package gateways

import "github.com/routesteward/routesteward/hack/netns"

func furnish() error { return netns.ErrForbidden }

func bind(_, _ string) error { return netns.ErrForbidden }

func unbind(string) error { return netns.ErrForbidden }
