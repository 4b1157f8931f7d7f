package node

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/routewarden/routewarden/hack/localcluster"
)

// containment is what Contain needs to turn a process into that of a container.
type containment struct {
	// Root is an empty folder, which is to become the container's "/".
	Root string
	// Program appears as /name of itself.
	Program  string
	Args     []string
	Env      []string
	Hostname string
	Mounts   []containmentMount
	// UID and GID are those of the image's user where the Pod names none.
	UID, GID int
	// ReadOnly makes "/" read-only, NoNewPrivileges is that of prctl(2), DropAll takes all capabilities away.
	ReadOnly, NoNewPrivileges, DropAll bool
}

type containmentMount struct {
	Source, Path string
	ReadOnly     bool
}

// imageUser is the user of images without one of their own, as distroless has it.
const imageUser = 65532

// start starts the container's program in the Pod's network.
func (c *container) start(ctx context.Context) (*localcluster.Process, error) {
	p := c.pod
	program, err := p.agent.program(c.spec.Image)
	if err != nil {
		return nil, err
	}
	environment, err := c.environment(ctx)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(p.dir, "containers", c.spec.Name)
	inside := containment{
		Root: filepath.Join(dir, "root"), Program: program, Args: c.spec.Args, Env: environment, Hostname: p.object.Name, UID: imageUser, GID: imageUser,
	}
	for _, mount := range c.spec.VolumeMounts {
		if mount.SubPath != "" || mount.SubPathExpr != "" {
			return nil, fmt.Errorf("subPath is not supported here")
		}
		writable := slices.ContainsFunc(p.object.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name && v.EmptyDir != nil })
		inside.Mounts = append(inside.Mounts, containmentMount{p.volume(mount.Name), mount.MountPath, mount.ReadOnly || !writable})
	}
	if pod := p.object.Spec.SecurityContext; pod != nil {
		setID(&inside.UID, pod.RunAsUser)
		setID(&inside.GID, pod.RunAsGroup)
	}
	if own := c.spec.SecurityContext; own != nil {
		setID(&inside.UID, own.RunAsUser)
		setID(&inside.GID, own.RunAsGroup)
		inside.ReadOnly = own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem
		inside.NoNewPrivileges = own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation
		inside.DropAll = own.Capabilities != nil && slices.Contains(own.Capabilities.Drop, "ALL")
	}
	if err := os.MkdirAll(inside.Root, 0o755); err != nil {
		return nil, err
	}
	content, err := json.Marshal(inside)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "containment.json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return nil, err
	}
	return localcluster.StartProcess(ctx, localcluster.ProcessOptions{
		Name: p.object.Name + "/" + c.spec.Name,
		// It makes a mount namespace, too, and becomes this program, which becomes the container's.
		Path: "ip",
		Args: []string{"netns", "exec", p.network, p.agent.self},
		Env:  []string{containmentEnv + "=" + file},
		Log:  filepath.Join(p.agent.logDir, fmt.Sprintf("%s_%s_%s_%d.log", p.object.Namespace, p.object.Name, c.spec.Name, c.restarts)),
	})
}

func setID(id *int, wanted *int64) {
	if wanted != nil {
		*id = int(*wanted)
	}
}

// terminate asks the program to end, and kills it after the grace.
func (c *container) terminate(process *localcluster.Process, grace time.Duration) {
	process.Signal(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(c.pod.agent.ctx, grace)
	defer cancel()
	select {
	case <-process.Done():
		return
	case <-ctx.Done():
	case <-c.pod.kill:
	}
	process.Signal(syscall.SIGKILL)
	<-process.Done()
}

// status is what a kubelet reports of a container.
func (c *container) status() corev1.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := corev1.ContainerStatus{
		Name: c.spec.Name, Image: c.spec.Image, ImageID: c.spec.Image, RestartCount: c.restarts, Ready: c.ready, Started: new(c.started),
		ContainerID: fmt.Sprintf("process://%s-%s-%d", c.pod.object.UID, c.spec.Name, c.restarts),
	}
	if c.last != nil {
		s.LastTerminationState.Terminated = c.last
	}
	switch {
	case c.process != nil:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: c.since}
	case c.failure != "":
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "RunContainerError", Message: c.failure}
	case c.last != nil && c.pod.alive.Err() != nil:
		s.State.Terminated = c.last
	case c.last != nil:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}
	default:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	}
	return s
}

func equalStatus(a, b *corev1.PodStatus) bool { return equality.Semantic.DeepEqual(a, b) }

// probe runs the probes until ctx ends. A failed liveness or startup probe closes unhealthy.
func (c *container) probe(ctx context.Context, unhealthy chan<- struct{}) {
	fail := sync.OnceFunc(func() { close(unhealthy) })
	if c.spec.StartupProbe != nil {
		var started atomic.Bool
		startup, done := context.WithCancel(ctx)
		defer done()
		c.check(startup, c.spec.StartupProbe, func(ok bool) {
			if ok {
				started.Store(true)
				done()
			} else {
				fail()
			}
		})
		if !started.Load() {
			return
		}
	}
	c.set(func() { c.started = true })
	var probes sync.WaitGroup
	if c.spec.LivenessProbe != nil {
		probes.Go(func() {
			c.check(ctx, c.spec.LivenessProbe, func(ok bool) {
				if !ok {
					fail()
				}
			})
		})
	}
	if c.spec.ReadinessProbe == nil {
		c.set(func() { c.ready = true })
	} else {
		probes.Go(func() { c.check(ctx, c.spec.ReadinessProbe, func(ok bool) { c.set(func() { c.ready = ok }) }) })
	}
	probes.Wait()
}

func (c *container) set(change func()) {
	c.mu.Lock()
	change()
	c.mu.Unlock()
	c.pod.change()
}

// check probes until ctx ends and tells each outcome that reaches its threshold.
func (c *container) check(ctx context.Context, probe *corev1.Probe, outcome func(ok bool)) {
	client := &http.Client{
		Timeout:   time.Duration(probe.TimeoutSeconds) * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	if !pause(ctx, time.Duration(probe.InitialDelaySeconds)*time.Second) {
		return
	}
	var last bool
	var times int32
	for {
		ok := c.answers(ctx, client, probe)
		if ctx.Err() != nil {
			return
		}
		if times++; ok != last {
			last, times = ok, 1
		}
		if ok && times >= probe.SuccessThreshold || !ok && times >= probe.FailureThreshold {
			outcome(ok)
		}
		if !pause(ctx, time.Duration(probe.PeriodSeconds)*time.Second) {
			return
		}
	}
}

func (c *container) answers(ctx context.Context, client *http.Client, probe *corev1.Probe) bool {
	get := probe.HTTPGet
	if get == nil {
		return false // others are not supported here
	}
	port := get.Port.IntValue()
	if get.Port.Type == intstr.String {
		for _, p := range c.spec.Ports {
			if p.Name == get.Port.StrVal {
				port = int(p.ContainerPort)
			}
		}
	}
	scheme := map[corev1.URIScheme]string{corev1.URISchemeHTTP: "http", corev1.URISchemeHTTPS: "https"}[get.Scheme]
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s:%d%s", scheme, c.pod.address, port, get.Path), nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode >= 200 && response.StatusCode < 400
}
