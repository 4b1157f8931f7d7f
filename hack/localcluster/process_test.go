package localcluster_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/hack/localcluster"
)

type assertion = assert.CollectT

func shell(t *testing.T, script string) localcluster.ProcessOptions {
	t.Helper()
	return localcluster.ProcessOptions{Path: "/bin/sh", Args: []string{"-c", script}, Log: filepath.Join(t.TempDir(), "log")}
}

func TestProcessThatExitsBeforeItIsReady(t *testing.T) {
	options := shell(t, "echo cannot open the door >&2; exit 3")
	options.Ready = func(context.Context) error { return errors.New("never") }
	_, err := localcluster.StartProcess(t.Context(), options)
	require.ErrorContains(t, err, "sh exited before it was ready (exit status 3)")
	require.ErrorContains(t, err, "cannot open the door")
}

func TestProcessThatIsNotReadyInTimeIsStopped(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	options := shell(t, "exec sleep 1000")
	options.Ready = func(context.Context) error { return errors.New("door is closed") }
	_, err := localcluster.StartProcess(ctx, options)
	require.ErrorContains(t, err, "sh is not ready (context deadline exceeded): door is closed")
	require.Empty(t, children(t, os.Getpid()))
}

func TestProcessThatIgnoresSIGTERMIsKilled(t *testing.T) {
	options := shell(t, `trap "" TERM; echo ready; while :; do read -r line || :; done`)
	options.StopTimeout = 100 * time.Millisecond
	options.Ready = logged(options.Log, "ready")
	process, err := localcluster.StartProcess(t.Context(), options)
	require.NoError(t, err)
	require.EqualError(t, process.Stop(), "sh was still running 100ms after SIGTERM and was killed")
	require.EqualError(t, process.Err(), "signal: killed")
	require.NoError(t, process.Stop(), "a second time")
}

// logged is ready when the log has the text.
func logged(log, text string) func(context.Context) error {
	return func(context.Context) error {
		content, err := os.ReadFile(log)
		if err == nil && !strings.Contains(string(content), text) {
			err = errors.New("not logged yet")
		}
		return err
	}
}

// parentEnv makes the test binary start a process, print its id and wait.
const parentEnv = "LOCALCLUSTER_TEST_PARENT"

func TestMain(m *testing.M) {
	if log := os.Getenv(parentEnv); log != "" {
		process, err := localcluster.StartProcess(context.Background(), localcluster.ProcessOptions{Path: "/bin/sleep", Args: []string{"1000"}, Log: log})
		if err != nil {
			panic(err)
		}
		fmt.Println(process.PID())
		select {}
	}
	os.Exit(m.Run())
}

func TestProcessDiesWithAKilledParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux's parent-death signal")
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+filepath.Join(t.TempDir(), "log"))
	stdout, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	require.True(t, runs(child))

	require.NoError(t, parent.Process.Kill())
	require.Error(t, parent.Wait())
	require.Eventually(t, func() bool { return !runs(child) }, 10*time.Second, 10*time.Millisecond)
}

// runs is false for a zombie that nobody has collected yet.
func runs(pid int) bool {
	_, state, err := parentAndState(pid)
	return err == nil && state != "Z"
}

// children are the ids of the live child processes of pid.
func children(t *testing.T, pid int) []int {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	var found []int
	for _, dir := range dirs {
		child, err := strconv.Atoi(filepath.Base(dir))
		require.NoError(t, err)
		// A process that ends meanwhile has no files any more.
		if parent, state, err := parentAndState(child); err == nil && parent == pid && state != "Z" {
			found = append(found, child)
		}
	}
	return found
}

func parentAndState(pid int) (parent int, state string, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", err
	}
	// "pid (name) state ppid …", where the name may hold anything.
	_, rest, _ := strings.Cut(string(stat), ") ")
	_, err = fmt.Sscan(rest, &state, &parent)
	return parent, state, err
}
