package faults

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/routesteward/routesteward/hack/localcluster"
)

const (
	// restartDelay is what a kubelet takes to notice that a process has ended, at most.
	restartDelay = time.Second
	// probeEvery is how late everybody knows whether a replica is ready: kube-proxy writes once a second at most.
	probeEvery = 500 * time.Millisecond
)

// probing asks for readiness and leadership; a suspended process does not answer.
var probing = &http.Client{Timeout: time.Second}

// replica is a routesteward that is started again when it ends, as a kubelet does it.
type replica struct {
	w      *world
	number int

	mu     sync.Mutex
	server *localcluster.Server
	starts int
	cancel context.CancelFunc
	done   sync.WaitGroup

	ready, leading atomic.Bool
}

func (r *replica) start(kubeconfig string, flags []string) {
	ctx, cancel := context.WithCancel(context.Background())
	r.mu.Lock()
	r.cancel = cancel
	r.mu.Unlock()
	r.done.Go(func() {
		for ctx.Err() == nil {
			r.run(ctx, kubeconfig, flags)
			_ = pause(ctx, restartDelay)
		}
	})
	r.done.Go(func() {
		for ctx.Err() == nil {
			r.probe()
			_ = pause(ctx, probeEvery)
		}
	})
}

// run returns when the process has ended.
func (r *replica) run(ctx context.Context, kubeconfig string, flags []string) {
	server, err := r.w.Serve(ctx, localcluster.ServeOptions{
		Binary: r.w.binary, Name: fmt.Sprintf("routesteward-%d-%03d", r.number, r.started()), Kubeconfig: kubeconfig, Flags: flags,
		Unready: true,
		// Reports end the process, with a code of their own.
		Env: []string{"GORACE=halt_on_error=1"},
	})
	if err != nil {
		r.w.t.Logf("replica %d does not start: %v", r.number, err)
		return
	}
	r.mu.Lock()
	r.server = server
	r.starts++
	r.mu.Unlock()
	select {
	case <-server.Done():
	case <-ctx.Done():
		server.Signal(syscall.SIGCONT)
		if err := server.Stop(); err != nil {
			r.w.t.Error(err)
		}
	}
	r.ready.Store(false)
	r.leading.Store(false)
}

func (r *replica) stop() {
	r.mu.Lock()
	cancel := r.cancel
	r.cancel = nil
	r.mu.Unlock()
	if cancel != nil {
		cancel()
		r.done.Wait()
	}
}

func (r *replica) running() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cancel != nil
}

func (r *replica) started() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starts
}

func (r *replica) process() *localcluster.Server {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.server
}

// kill is kill -9; it returns when the process is gone.
func (r *replica) kill() {
	server := r.process()
	server.Signal(syscall.SIGKILL)
	<-server.Done()
}

// back returns when the replica has been started again, so many times in all, and is ready.
func (r *replica) back(ctx context.Context, starts int) error {
	return eventually(ctx, func() error {
		if r.started() < starts || !r.isReady() {
			return fmt.Errorf("replica %d is not back", r.number)
		}
		return nil
	})
}

func (r *replica) isReady() bool { return r.ready.Load() }

func (r *replica) leads() bool { return r.leading.Load() }

// address is where the process serves admissions.
func (r *replica) address() string {
	if server := r.process(); server != nil {
		return strings.TrimPrefix(server.WebhookURL, "https://")
	}
	return ""
}

func (r *replica) probe() {
	server := r.process()
	if server == nil {
		return
	}
	ready := false
	if response, err := probing.Get(server.HealthURL); err == nil {
		ready = response.StatusCode == http.StatusOK
		response.Body.Close()
	}
	leads := false
	if response, err := probing.Get(server.MetricsURL); err == nil {
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			leads = leads || strings.HasPrefix(lines.Text(), "leader_election_master_status{") && strings.HasSuffix(lines.Text(), " 1")
		}
		response.Body.Close()
	}
	r.ready.Store(ready)
	r.leading.Store(leads)
}

// reports are what the logs of all replicas tell of races and panics.
func (w *world) reports() (found []string) {
	files, _ := filepath.Glob(filepath.Join(w.LogDir(), "routesteward-*.log"))
	slices.Sort(files)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			found = append(found, err.Error())
		}
		for _, sign := range []string{"WARNING: DATA RACE", "panic"} {
			if _, after, is := strings.Cut(string(content), sign); is {
				found = append(found, fmt.Sprintf("%s: %s%s", filepath.Base(file), sign, after[:min(len(after), 2000)]))
			}
		}
	}
	return found
}
