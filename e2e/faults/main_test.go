// Package faults breaks what routesteward depends on, and routesteward itself, while people create routes: real processes of
// etcd on a disk of its own, kube-apiserver, and two replicas behind a proxy that stands for their Service. A replica that ends is
// started again after a second, as by a kubelet. Four tenants and the owner of a namespace, with the rights that RBAC gives them, create
// routes in the system namespace and outside it, to Services that need a new ReferenceGrant, share one, are permitted by somebody
// else's, are consented to by the requester, or are not consented to at all. Every fifth time they also update a stored route, and
// every third time they delete one.
//
// A request during a fault may fail with an error, but its decision may never be wrong. After each fault, routes of every kind are created
// until all decisions are right, and from then on none may be wrong. Then everything that is stored is read:
//
//   - The engine evaluates every route with its author's rights. One that it would deny is a violation that was admitted.
//   - Every reference that needs a ReferenceGrant has it, also where only its author consented; relocated routes have their copies.
//   - No managed grant is there that no route needs, none permits more than its reference, none defies a veto.
//   - Ten objects of others are byte by byte as they were, and the API server's audit log has no write of routesteward's to anything
//     that it does not manage.
//   - What was admitted is there, and no replica's log has a panic.
//
// A proxy between each replica and the API server holds a request for a grant before or after it is made, so that the replica is killed
// at exactly that moment; the one in place of the Service holds an answer until the replica that gave it is dead. The same proxies
// hold back watches, cut them, and answer 429 and 409. etcd's disk is a small file system that is filled up. The clock jumps by
// suspending both replicas until their certificates of short lives have expired.
package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/netns"
)

var (
	long     = flag.Bool("faults.long", false, "every fault, for as long as `make faults` has it")
	rate     = flag.Int("faults.rate", 30, "routes that are created a second")
	markdown = flag.String("faults.markdown", "", "also write the tables of hack/BENCHMARKS.md to this file")
)

const (
	// binaryEnv and crdsEnv tell the isolated process what was built and found outside.
	binaryEnv = "FAULTS_TEST_BINARY"
	crdsEnv   = "FAULTS_TEST_CRDS"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard()) // each answer that was cut off
	flag.Parse()
	if netns.Isolated() {
		if err := netns.Furnish(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	os.Exit(outside(m))
}

// outside builds what is tested and runs the tests in namespaces of their own, so that a disk can be mounted that may be filled.
// Where that is forbidden they run here, without the fault that needs the disk, but not in CI, where each is to be seen.
func outside(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	crds, err := localcluster.GatewayAPI(ctx, "standard")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "routesteward-faults-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "routesteward")
	args := []string{"build", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.CommandContext(ctx, "go", append(args, "github.com/routesteward/routesteward")...)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building routesteward:", err)
		return 1
	}
	exit, err := netns.Isolate(binaryEnv+"="+binary, crdsEnv+"="+crds)
	switch {
	case errors.Is(err, netns.ErrForbidden) && os.Getenv("CI") != "true":
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED, no disk will be full: %v\n*** Needed are user namespaces (see unshare -Urn) or root. With CI=true this fails.\n\n", err)
		os.Setenv(binaryEnv, binary)
		os.Setenv(crdsEnv, crds)
		return m.Run()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return exit
}

// TestFaults makes each fault happen under load. One that is not about the control plane leaves it as it was, so all share one.
func TestFaults(t *testing.T) {
	w := newWorld(t)
	var results []*result
	for _, f := range faults() {
		if f.longOnly && !*long {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			if f.needsDisk && !w.disk {
				t.Skip("nothing can be mounted here")
			}
			r := w.happen(t, f)
			results = append(results, r)
			t.Log(r.words())
			if len(r.problems()) > 0 {
				t.Logf("what the API server noted of them:\n%s", w.audit.history(strings.Join(r.problems(), "\n")))
			}
			require.Empty(t, r.problems())
		})
	}
	t.Run("nothing is left when all routes are deleted", w.leavesNothing)
	t.Logf("\n%s", text(results))
	if *markdown != "" {
		require.NoError(t, os.WriteFile(*markdown, []byte(document(results)), 0o644))
	}
}

// mount puts a file system of so many MiB in memory at a folder, which is unmounted with the isolated process.
func mount(dir string, mebibytes int) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mebibytes))
}
