// Package install tests what people install: the files of manifests/, verbatim, in a cluster with Services, Deployments and
// Pods. See README.md for which cluster that is.
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

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/netns"
	"github.com/routesteward/routesteward/hack/node"
)

const (
	system = "aibrix-system"
	own    = "routesteward-system"
	// soon is how long a condition may take on a loaded machine.
	soon = 2 * time.Minute
	tick = 100 * time.Millisecond
)

// programEnv names the program under test to the isolated process.
const programEnv = "INSTALL_TEST_PROGRAM"

var (
	// shared is the cluster of all tests, one after the other; missing is why there is none.
	shared  *cluster
	missing error
	// crds is the folder with the CRDs that the project compiles against; crds12 has Gateway API 1.2's.
	crds, crds12, certManagerCRDs string
)

func TestMain(m *testing.M) {
	node.Contain()
	exit, err := 0, folders()
	switch {
	case err != nil:
	case netns.Isolated():
		exit, err = onNode(m)
	case os.Getenv("KUBECONFIG") != "":
		exit, err = anywhere(m)
	default:
		exit, err = outside(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		exit = 1
	}
	os.Exit(exit)
}

// folders downloads what isolated tests find in the module cache.
func folders() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var errs [3]error
	crds, errs[0] = localcluster.GatewayAPI(ctx, "standard")
	crds12, errs[1] = localcluster.GatewayAPI12(ctx, "standard")
	certManagerCRDs, errs[2] = localcluster.CertManagerCRDs(ctx)
	return errors.Join(errs[:]...)
}

// outside builds what is tested and runs the tests in namespaces of their own.
func outside(m *testing.M) (exit int, err error) {
	if err := node.Prepare(); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "routesteward-install-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "routesteward")
	// As in the image: static, and so without the race detector.
	build := exec.Command("go", "build", "-o", program, "github.com/routesteward/routesteward")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return 0, fmt.Errorf("building routesteward: %w", err)
	}
	exit, err = netns.Isolate(programEnv + "=" + program)
	if errors.Is(err, netns.ErrForbidden) && os.Getenv("CI") != "true" {
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED, no installation was tested: %v\n*** Needed are user namespaces (see unshare -Urn) or root. With CI=true this fails.\n\n", err)
		missing = err
		return m.Run(), nil
	}
	return exit, err
}

// onNode runs the tests in a cluster of hack/node.
func onNode(m *testing.M) (exit int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	started, err := node.Start(ctx, node.Options{Program: program, CRDs: []string{}, Audit: true})
	if err != nil {
		return 0, err
	}
	shared = &cluster{kubeconfig: started.Kubeconfig, config: started.Config, dir: started.Dir, node: started}
	exit = m.Run()
	return exit, errors.Join(started.Exited(), started.Stop())
}

// program is what runs in place of an image, whatever its tag.
func program(image string) (string, error) {
	if !strings.HasPrefix(image, "ghcr.io/routesteward/routesteward:") {
		return "", fmt.Errorf("there is no image %s", image)
	}
	return os.Getenv(programEnv), nil
}

// anywhere runs the tests in the cluster that KUBECONFIG names, if nobody else uses it.
func anywhere(m *testing.M) (exit int, err error) {
	dir, err := os.MkdirTemp("", "routesteward-install-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	var name string
	if shared, name, err = connect(dir); err != nil {
		return 0, err
	}
	fmt.Fprintf(os.Stderr, "KUBECONFIG selects %s. These tests install and remove webhooks, CRDs and namespaces there.\n", name)
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	if err := shared.used(ctx); err != nil {
		return 0, fmt.Errorf(`REFUSED, nothing was changed: %w
The tests need a cluster that nobody else uses. For one of kind's: kind create cluster --name=routesteward --kubeconfig=kind.kubeconfig,
then KUBECONFIG=$PWD/kind.kubeconfig (see e2e/install/README.md). For a node on this machine: unset KUBECONFIG`, err)
	}
	return m.Run(), nil
}
