package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/routesteward/routesteward/hack/localcluster"
)

// lockName is the file whose lock means that a cluster lives in its folder; it holds the supervisor's
// process id.
const lockName = "lock"

// up returns when a cluster runs, with the one that ran before if there is one. defaults are flags for
// a new one that serveFlags may override.
func (l *local) up(ctx context.Context, serveFlags, defaults []string) (state, error) {
	withDefaults := slices.Concat(defaults, serveFlags)
	if _, err := os.Stat(l.binary); err != nil {
		return state{}, fmt.Errorf("routesteward is not built, run `make build`: %w", err)
	}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return state{}, err
	}
	lock, err := l.lock(ctx)
	if err != nil {
		return state{}, err
	}
	if lock == nil {
		l.out.printf("It runs already.\n")
		s, err := l.running(ctx)
		if err == nil && len(serveFlags) > 0 && !slices.Equal(serveFlags, s.ServeFlags) && !slices.Equal(withDefaults, s.ServeFlags) {
			l.out.printf("Its flags stay as they are; `make down` first to start it with others.\n")
		}
		return s, err
	}
	defer lock.Close() // the supervisor has inherited it

	started := time.Now()
	l.out.printf("%s\n", l.out.bold("Starting a local cluster with routesteward in "+relative(l.dir)))
	if err := l.clean(); err != nil {
		return state{}, err
	}
	if err := l.startSupervisor(ctx, lock, withDefaults); err != nil {
		return state{}, err
	}
	l.out.printf("  up in %d s\n", int(time.Since(started).Seconds()))
	return l.read()
}

// lock takes the folder. It returns nil when a cluster runs there, and waits for one that is starting
// or stopping.
func (l *local) lock(ctx context.Context) (*os.File, error) {
	file, err := os.OpenFile(l.path(lockName), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	said := false
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return file, file.Truncate(0)
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
		}
		if _, err := l.read(); err == nil {
			return nil, file.Close()
		}
		if !said {
			l.out.printf("Waiting for another make up or make down…\n")
			said = true
		}
		if err := pause(ctx); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
}

// startSupervisor returns when everything is ready and the supervisor stands on its own. Otherwise,
// also when this process is killed, the supervisor stops what it has started.
func (l *local) startSupervisor(ctx context.Context, lock *os.File, serveFlags []string) error {
	lifeline, hold, err := os.Pipe()
	if err != nil {
		return err
	}
	defer hold.Close()
	report, reporter, err := os.Pipe()
	if err != nil {
		return err
	}
	defer report.Close()
	if err := os.MkdirAll(l.path("logs"), 0o755); err != nil {
		return err
	}
	log, err := os.Create(l.path("logs/supervisor.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	supervisor := exec.Command(executable, append([]string{"-dir", l.dir, "-routesteward", l.binary, "supervise"}, serveFlags...)...)
	supervisor.Stdout, supervisor.Stderr = log, log
	supervisor.ExtraFiles = []*os.File{lock, lifeline, reporter} // lockFD, lifelineFD, reportFD
	supervisor.SysProcAttr = &syscall.SysProcAttr{Setsid: true}  // no Ctrl-C from this terminal
	err = supervisor.Start()
	lifeline.Close()
	reporter.Close()
	if err != nil {
		return err
	}
	abandon := context.AfterFunc(ctx, func() {
		l.out.printf("  stopping again\n")
		hold.Close()
	})
	err = l.follow(report)
	if !abandon() || err != nil {
		hold.Close()
		_, _ = io.Copy(io.Discard, report) // until the supervisor has ended
		return errors.Join(ctx.Err(), err)
	}
	_, err = hold.Write([]byte{1})
	return err
}

// restart restarts routesteward in the running cluster with other flags, and returns when it is asked.
func (l *local) restart(ctx context.Context, flags []string) (state, error) {
	before, err := l.read()
	if err != nil {
		return state{}, err
	}
	content, err := json.Marshal(flags)
	if err != nil {
		return state{}, err
	}
	if err := os.WriteFile(l.path(flagsName), content, 0o600); err != nil {
		return state{}, err
	}
	lock, err := os.ReadFile(l.path(lockName))
	if err != nil {
		return state{}, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(lock)))
	if err != nil {
		return state{}, fmt.Errorf("%s: %w", relative(l.path(lockName)), err)
	}
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		return state{}, fmt.Errorf("restart routesteward (supervisor %d): %w", pid, err)
	}
	for {
		if now, err := l.read(); err == nil && now.Starts > before.Starts {
			if now.Failure != "" {
				return now, errors.New(now.Failure)
			}
			return now, nil
		}
		if err := syscall.Kill(pid, 0); err != nil {
			return state{}, fmt.Errorf("the supervisor has ended, see %s", relative(l.path("logs/supervisor.log")))
		}
		if err := pause(ctx); err != nil {
			return state{}, err
		}
	}
}

// down stops what runs and returns when it is gone.
func (l *local) down(ctx context.Context) error {
	file, err := os.Open(l.path(lockName))
	if errors.Is(err, os.ErrNotExist) {
		l.out.printf("Nothing runs.\n")
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()

	signal, asked := syscall.SIGTERM, time.Time{}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		// The one who holds the lock has written its id, or is about to.
		content, err := os.ReadFile(l.path(lockName))
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
		if err == nil && asked.IsZero() {
			l.out.printf("Stopping the local cluster\n")
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("stop the supervisor (process %d): %w", pid, err)
			}
			asked = time.Now()
		}
		if signal == syscall.SIGTERM && !asked.IsZero() && time.Since(asked) > 90*time.Second {
			signal, asked = syscall.SIGKILL, time.Time{}
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	if err := l.clean("logs"); err != nil {
		return err
	}
	if asked.IsZero() {
		l.out.printf("Nothing runs.\n")
	} else {
		l.out.printf("Stopped; the logs are still in %s.\n", relative(l.path("logs")))
	}
	return nil
}

// running is the state of a cluster that was up when lock looked. It is an error if routesteward in it
// has ended.
func (l *local) running(ctx context.Context) (state, error) {
	s, err := l.read()
	if err != nil {
		return state{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := localcluster.HTTPReady(nil, s.HealthURL)(ctx); err != nil {
		return state{}, fmt.Errorf("but routesteward is not ready: %w\nIts log is %s; `make down up` starts everything afresh",
			err, relative(l.path("logs/routesteward.log")))
	}
	return s, nil
}

func (l *local) read() (state, error) {
	content, err := os.ReadFile(l.path("state.json"))
	if err != nil {
		return state{}, err
	}
	var s state
	return s, json.Unmarshal(content, &s)
}

func (l *local) describe(s state) {
	row := func(name, format string, args ...any) {
		l.out.printf("  %s  %s\n", l.out.bold(fmt.Sprintf("%-11s", name)), fmt.Sprintf(format, args...))
	}
	l.out.printf("\n")
	row("API server", "%s, a real kube-apiserver with etcd", s.APIServer)
	row("routesteward", "%s, as its own service account with the RBAC of manifests/", s.WebhookURL)
	if len(s.ServeFlags) > 0 {
		row("", "flags: %s", strings.Join(s.ServeFlags, " "))
	}
	if s.Refused {
		row("", "an HTTPRoute outside aibrix-system was refused just now, in a dry run")
	} else {
		row("", "with these flags, an HTTPRoute outside aibrix-system is not refused")
	}
	row("metrics", "%s", s.MetricsURL)
	row("ready", "%s", s.HealthURL)
	row("logs", "%s", relative(l.path("logs")))
	row("people", "admin; alice, who writes routes in aibrix-system and team-a; mona, who owns models")
	l.out.printf(`
Use it:
  export KUBECONFIG=%s
  export PATH=%s:$PATH
  kubectl --context=alice apply -f hack/demo/outside.yaml

make demo tells the story; make down stops everything.
`, l.path("kubeconfig"), filepath.Join(l.root, "bin", "controlplane"))
}

// pause is the wait between two looks at what another process does.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(100 * time.Millisecond):
		return nil
	}
}
