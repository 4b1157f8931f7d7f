package localcluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// ProcessOptions describe a program to run.
type ProcessOptions struct {
	// Name is what errors call the process; the base name of Path when empty.
	Name string
	// Path is the program, Args its arguments without the program's name.
	Path string
	Args []string
	// Env is added to this process's environment.
	Env []string
	// Chroot is the folder that the program sees as "/"; Path is one in there, Log is not. Needs the
	// right to, as root has and as a user has in a user namespace of his own.
	Chroot string
	// Log is the file that receives stdout and stderr; it is truncated. Required.
	Log string
	// Ready is called every 100 ms until it returns nil; nil means ready as soon as it runs.
	Ready func(context.Context) error
	// StopTimeout is how long Stop waits after SIGTERM until it kills; 20 s when zero.
	StopTimeout time.Duration
}

// Process is a running program. On Linux it dies with the process that started it, even when that
// one is killed.
type Process struct {
	name        string
	log         string
	options     ProcessOptions
	stopTimeout time.Duration
	process     *os.Process
	done        chan struct{}
	err         error // valid once done is closed
}

// StartProcess runs a program and returns when it is ready. When it exits before, or ctx ends first,
// nothing is left running and the error ends with the last lines of the log. The process outlives ctx.
func StartProcess(ctx context.Context, options ProcessOptions) (*Process, error) {
	if options.Name == "" {
		options.Name = filepath.Base(options.Path)
	}
	if options.StopTimeout == 0 {
		options.StopTimeout = 20 * time.Second
	}
	if err := os.MkdirAll(filepath.Dir(options.Log), 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(options.Log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own descriptor

	cmd := exec.Command(options.Path, options.Args...)
	cmd.Env = append(os.Environ(), options.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = processAttributes()
	if options.Chroot != "" {
		cmd.SysProcAttr.Chroot, cmd.Dir = options.Chroot, "/"
	}

	p := &Process{name: options.Name, log: options.Log, options: options, stopTimeout: options.StopTimeout, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the parent-death signal when the thread that forked ends, not the
		// process: keep this goroutine on its thread for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		p.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	if err := p.waitReady(ctx, options.Ready); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

func (p *Process) waitReady(ctx context.Context, ready func(context.Context) error) error {
	if ready == nil {
		return nil
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s exited before it was ready (%s)%s", p.name, p.exit(), p.tail())
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return context.Cause(ctx) // somebody gave up, which says nothing about the process
			}
			return fmt.Errorf("%s is not ready (%w): %w%s", p.name, context.Cause(ctx), err, p.tail())
		case <-ticker.C:
		}
	}
}

// Stop ends the process: SIGTERM first, SIGKILL after StopTimeout, which is an error. It returns when
// the process is gone; one that has ended already is no error.
func (p *Process) Stop() error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(p.stopTimeout):
		p.Signal(syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("%s was still running %s after SIGTERM and was killed", p.name, p.stopTimeout)
	}
}

// Signal sends a signal, to nobody when the process has ended.
func (p *Process) Signal(signal os.Signal) { _ = p.process.Signal(signal) }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the process ended: nil for exit status 0. It waits for the end.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// PID is the process id, which may belong to another process once Done is closed.
func (p *Process) PID() int { return p.process.Pid }

// LogPath is the file with the process's stdout and stderr.
func (p *Process) LogPath() string { return p.log }

// Logs is what the process has written to stdout and stderr so far.
func (p *Process) Logs() string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(content)
}

func (p *Process) exit() string {
	if err := p.Err(); err != nil {
		return err.Error()
	}
	return "exit status 0"
}

func (p *Process) tail() string {
	const lines = 20
	all := strings.Split(strings.TrimSpace(p.Logs()), "\n")
	return fmt.Sprintf("\nend of %s:\n%s", p.log, strings.Join(all[max(0, len(all)-lines):], "\n"))
}

// HTTPReady returns a Ready function: a GET of url must answer 200. client nil means the default one.
func HTTPReady(client *http.Client, url string) func(context.Context) error {
	if client == nil {
		client = http.DefaultClient
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", url, response.Status)
		}
		return nil
	}
}
