// Package install tests what people install: the files of manifests/, verbatim, in a cluster with Services, Deployments and
// Pods. See hack/node/README.md for what is real in it.
package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/routewarden/routewarden/hack/localcluster"
	"github.com/routewarden/routewarden/hack/netns"
	"github.com/routewarden/routewarden/hack/node"
)

const (
	system = "aibrix-system"
	own    = "routewarden-system"
	// soon is how long a condition may take on a loaded machine.
	soon = 2 * time.Minute
	tick = 100 * time.Millisecond
)

// binariesEnv names the folder with the programs under test to the isolated process.
const binariesEnv = "INSTALL_TEST_BINARIES"

var (
	// missing is why there can be no cluster.
	missing error
	// crds is the folder with the CRDs that the project compiles against; crds12 has Gateway API 1.2's.
	crds, crds12, certManagerCRDs string
)

func TestMain(m *testing.M) {
	node.Contain()
	if netns.Isolated() {
		os.Exit(inside(m))
	}
	os.Exit(outside(m))
}

// outside builds what is tested and runs the tests in namespaces of their own, where nothing can be downloaded.
func outside(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := prepare(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "routewarden-install-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	for _, version := range []string{"old", "new"} {
		// As in the image: static, and so without the race detector.
		build := exec.CommandContext(ctx, "go", "build", "-ldflags=-X main.version="+version, "-o", filepath.Join(dir, version), "github.com/routewarden/routewarden")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building routewarden:", err)
			return 1
		}
	}
	exit, err := netns.Isolate(binariesEnv + "=" + dir)
	switch {
	case errors.Is(err, netns.ErrForbidden) && os.Getenv("CI") != "true":
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED, no installation was tested: %v\n*** Needed are user namespaces (see unshare -Urn) or root. With CI=true this fails.\n\n", err)
		missing = err
		return m.Run()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return exit
}

// prepare downloads what inside finds in the module cache.
func prepare(ctx context.Context) error {
	if err := node.Prepare(); err != nil {
		return err
	}
	return folders(ctx)
}

func folders(ctx context.Context) (err error) {
	if crds, err = localcluster.GatewayAPI(ctx, "standard"); err != nil {
		return err
	}
	if crds12, err = localcluster.GatewayAPI12(ctx, "standard"); err != nil {
		return err
	}
	certManagerCRDs, err = localcluster.CertManagerCRDs(ctx)
	return err
}

func inside(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := folders(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// program is what runs in place of an image: the old routewarden for the tag "old", else the new one.
func program(image string) (string, error) {
	name, tag, _ := strings.Cut(image, ":")
	if name != "ghcr.io/routewarden/routewarden" {
		return "", fmt.Errorf("there is no image %s", image)
	}
	version := "new"
	if tag == "old" {
		version = tag
	}
	return filepath.Join(os.Getenv(binariesEnv), version), nil
}
