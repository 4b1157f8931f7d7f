// Package build builds routesteward for the tests that run it.
package build

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"syscall"

	"github.com/routesteward/routesteward/hack/localcluster"
)

const module = "github.com/routesteward/routesteward"

// Program builds a main package of this module, "" for routesteward itself, into bin/test and returns the program's path. A program
// that is up to date is not linked again, so all tests of a run share one.
func Program(pkg string) (string, error) {
	root, err := localcluster.Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "bin", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Tests of several packages run at the same time.
	lock, err := os.Create(filepath.Join(dir, ".lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	pkg = path.Join(module, pkg)
	binary := filepath.Join(dir, path.Base(pkg))
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return binary, nil
}
