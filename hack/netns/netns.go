// Package netns runs a program in network and mount namespaces of its own, where every port is free, whatever it mounts is
// seen by nobody else, and there is no way out.
package netns

import "errors"

// ErrForbidden says that this machine lets nobody, or not this user, make namespaces.
var ErrForbidden = errors.New("cannot make namespaces for network and mounts")
