package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

	"github.com/routesteward/routesteward/hack/localcluster"
)

// The supervisor is a detached process that owns everything that `up` starts. It inherits three
// descriptors from the `up` that started it:
const (
	// lockFD is the open lock file. It stays locked for as long as the supervisor lives, however it ends.
	lockFD = 3 + iota
	// lifelineFD is a pipe: one byte hands the cluster over, an end of file before means that `up` is
	// gone and everything must go.
	lifelineFD
	// reportFD is a pipe for what `up` shows, see report.
	reportFD
)

// state is what a running supervisor tells everybody, in state.json.
type state struct {
	ServeFlags []string
	APIServer  string
	WebhookURL string
	MetricsURL string
	HealthURL  string
	// Refused is whether routesteward refused the probe: a route outside the system namespace.
	Refused bool
	// Starts counts how often routesteward was started; Failure says why the last time it did not come up.
	Starts  int
	Failure string
}

// flagsName is the file with the flags that routesteward is to be restarted with, on SIGUSR1 to the supervisor.
const flagsName = "serve-flags.json"

// Messages to `up`: any number of steps, then ready, or a failure up to the end of file.
const (
	reportStep    = "step "
	reportReady   = "ready\n"
	reportFailure = "failure "
)

func (l *local) supervise(serveFlags []string) error {
	inherited := func(fd int, name string) *os.File {
		syscall.CloseOnExec(fd) // the programs started from here must not hold the lock and the pipes open
		return os.NewFile(uintptr(fd), name)
	}
	lock, lifeline, report := inherited(lockFD, "lock"), inherited(lifelineFD, "lifeline"), inherited(reportFD, "report")
	// Whoever waits for the lock sees the folder as it is left.
	defer lock.Close()
	defer report.Close()
	if _, err := fmt.Fprintf(lock, "%d\n", os.Getpid()); err != nil {
		return err
	}

	signals, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithCancelCause(signals)
	defer cancel(nil)
	go func() {
		if n, _ := lifeline.Read(make([]byte, 1)); n == 0 {
			cancel(errors.New("`up` ended before everything was ready"))
		}
	}()

	err := l.run(ctx, serveFlags, func(s state) error {
		content, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(l.path("state.tmp"), content, 0o600); err != nil {
			return err
		}
		if err := os.Rename(l.path("state.tmp"), l.path("state.json")); err != nil {
			return err
		}
		if s.Starts > 1 {
			return nil // whoever followed the report has gone
		}
		_, err = io.WriteString(report, reportReady)
		return err
	}, func(step string) { fmt.Fprintln(report, reportStep+step) })
	err = errors.Join(err, l.clean("logs"))
	if err != nil {
		fmt.Fprint(report, reportFailure+err.Error())
	}
	return err
}

// run starts everything, calls ready, and returns when ctx ends or the control plane does, with
// nothing left running.
func (l *local) run(ctx context.Context, serveFlags []string, ready func(state) error, progress func(string)) (err error) {
	startCtx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("not up within 5 minutes"))
	defer cancel()
	cluster, err := localcluster.Start(startCtx, localcluster.Options{
		Dir:      l.dir,
		Audit:    true,
		Progress: progress,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()

	progress("applying hack/demo/cluster.yaml and manifests/")
	if err := cluster.MustKubectl(startCtx, "apply", "--filename="+filepath.Join(l.root, "hack", "demo", "cluster.yaml")); err != nil {
		return err
	}
	if err := cluster.Install(startCtx); err != nil {
		return err
	}
	if err := l.writeKubeconfig(cluster); err != nil {
		return err
	}
	restarts := make(chan os.Signal, 1)
	signal.Notify(restarts, syscall.SIGUSR1)
	defer signal.Stop(restarts)
	for starts := 1; ; starts++ {
		progress("starting routesteward serve")
		now, stop, err := l.serve(ctx, cluster, serveFlags, progress)
		now.Starts = starts
		if err != nil && starts == 1 {
			return err
		} else if err != nil {
			now.Failure = err.Error()
		}
		if err := ready(now); err != nil {
			return errors.Join(err, stop())
		}
		// A routesteward that ends leaves the cluster as it is: how it behaves then is worth a look.
		select {
		case <-ctx.Done():
			return stop()
		case <-cluster.Done():
			return errors.Join(cluster.Exited(), stop())
		case <-restarts:
		}
		if err := stop(); err != nil {
			return err
		}
		content, err := os.ReadFile(l.path(flagsName))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(content, &serveFlags); err != nil {
			return err
		}
	}
}

// serve starts routesteward, and returns when the API server asks it. The caller calls stop.
func (l *local) serve(ctx context.Context, cluster *localcluster.Cluster, flags []string, progress func(string)) (now state, stop func() error, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("routesteward not up within 3 minutes"))
	defer cancel()
	now = state{ServeFlags: flags, APIServer: cluster.Config.Host}
	server, err := cluster.Serve(ctx, localcluster.ServeOptions{Binary: l.binary, Flags: flags})
	if err != nil {
		return now, func() error { return nil }, err
	}
	now.WebhookURL, now.MetricsURL, now.HealthURL = server.WebhookURL, server.MetricsURL, server.HealthURL
	progress("waiting until an HTTPRoute is intercepted")
	if now.Refused, err = cluster.WaitIntercepted(ctx); err != nil {
		return now, func() error { return nil }, errors.Join(err, server.Stop())
	}
	return now, server.Stop, nil
}

// writeKubeconfig makes one context for each person of the demo.
func (l *local) writeKubeconfig(cluster *localcluster.Cluster) error {
	contexts := map[string]*rest.Config{"admin": cluster.Config}
	for _, user := range []string{"alice", "mona"} {
		var err error
		if contexts[user], err = cluster.ConfigFor(user); err != nil {
			return err
		}
	}
	return localcluster.WriteKubeconfig(l.path("kubeconfig"), "admin", contexts)
}

// clean removes everything from the folder but the lock and what is named.
func (l *local) clean(keep ...string) error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if name := entry.Name(); name != lockName && !slices.Contains(keep, name) {
			errs = append(errs, os.RemoveAll(l.path(name)))
		}
	}
	return errors.Join(errs...)
}

// follow shows what a supervisor reports until it is ready.
func (l *local) follow(report io.Reader) error {
	reader := bufio.NewReader(report)
	for {
		line, err := reader.ReadString('\n')
		if step, ok := strings.CutPrefix(line, reportStep); ok {
			l.out.printf("  %s\n", strings.TrimSpace(step))
			continue
		}
		if line == reportReady {
			return nil
		}
		rest, _ := io.ReadAll(reader)
		if failure, ok := strings.CutPrefix(line+string(rest), reportFailure); ok {
			return errors.New(failure)
		}
		return fmt.Errorf("the supervisor was stopped, see %s (%w)", relative(l.path("logs/supervisor.log")), err)
	}
}
