package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/routewarden/routewarden/hack/localcluster"
)

// pod runs one Pod. Its containers are started when its network and volumes are there, and its status is written whenever
// something in it changes.
type pod struct {
	agent      *agent
	object     *corev1.Pod // as it was first seen; its specification never changes
	address    string
	network    string // name of its network namespace
	device     string
	dir        string
	containers []*container
	changed    chan struct{} // holds a value when the status has to be written

	// alive ends when the Pod shall.
	alive context.Context
	end   context.CancelFunc
	mu    sync.Mutex
	grace time.Duration // valid once alive has ended
	kill  chan struct{} // closed when there is no grace left
	// waiting is why no container has been started yet.
	waiting string
}

func newPod(a *agent, object *corev1.Pod, number int) *pod {
	p := &pod{
		agent: a, object: object, changed: make(chan struct{}, 1), kill: make(chan struct{}),
		// Numbers are never used again, so that no late packet finds another Pod.
		address: fmt.Sprintf("10.244.%d.%d", (number+1)/256, (number+1)%256),
		network: fmt.Sprintf("pod-%d", number),
		device:  fmt.Sprintf("veth%d", number),
		dir:     filepath.Join(a.dir, string(object.UID)),
	}
	p.alive, p.end = context.WithCancel(a.ctx)
	for i := range object.Spec.Containers {
		p.containers = append(p.containers, &container{pod: p, spec: &object.Spec.Containers[i]})
	}
	return p
}

// terminate begins the end of the Pod, or hastens it.
func (p *pod) terminate(seconds int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alive.Err() == nil {
		p.grace = time.Duration(seconds) * time.Second
		p.end()
	}
	if seconds == 0 {
		select {
		case <-p.kill:
		default:
			close(p.kill)
		}
	}
}

// change has the status written.
func (p *pod) change() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *pod) run() {
	defer p.agent.forget(p)
	ctx := p.agent.ctx
	told, stopTelling := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() {
		for {
			select {
			case <-told.Done():
				return
			case <-p.changed:
				p.agent.persist(told, p.writeStatus)
			}
		}
	})
	p.change()
	p.agent.persist(p.alive, func(ctx context.Context) error {
		err := p.prepare(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.waiting = ""
		if err != nil {
			p.waiting = err.Error()
			p.change()
		}
		return err
	})
	var running sync.WaitGroup
	running.Go(p.refresh)
	for _, c := range p.containers {
		running.Go(c.run)
	}
	running.Wait()
	stopTelling()
	telling.Wait()
	_ = unplug(context.WithoutCancel(ctx), p.network)
	_ = os.RemoveAll(p.dir)
	p.agent.persist(ctx, func(ctx context.Context) error {
		now := int64(0)
		err := p.agent.clients.CoreV1().Pods(p.object.Namespace).Delete(ctx, p.object.Name,
			metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &p.object.UID}})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	})
}

// prepare makes the network and the volumes; it may be called again.
func (p *pod) prepare(ctx context.Context) error {
	if err := supported(p.object); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join("/run/netns", p.network)); err != nil {
		if err := plug(ctx, p.network, p.device, p.address); err != nil {
			return err
		}
	}
	return p.writeVolumes(ctx)
}

// supported names the first thing in a Pod that is not done here and would be missed.
func supported(pod *corev1.Pod) error {
	switch spec := pod.Spec; {
	case len(spec.InitContainers) > 0:
		return fmt.Errorf("init containers are not supported here")
	case spec.HostNetwork, spec.HostPID, spec.HostIPC:
		return fmt.Errorf("the host's namespaces are not supported here")
	case spec.RestartPolicy != corev1.RestartPolicyAlways:
		return fmt.Errorf("restartPolicy %s is not supported here", spec.RestartPolicy)
	case slices.ContainsFunc(spec.Containers, func(c corev1.Container) bool { return len(c.Command) > 0 || len(c.EnvFrom) > 0 || c.Lifecycle != nil }):
		return fmt.Errorf("command, envFrom and lifecycle are not supported here")
	}
	return nil
}

// writeStatus writes what a kubelet would report.
func (p *pod) writeStatus(ctx context.Context) error {
	pods := p.agent.clients.CoreV1().Pods(p.object.Namespace)
	current, err := pods.Get(ctx, p.object.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && current.UID != p.object.UID:
		return nil
	case err != nil:
		return err
	}
	status := &current.Status
	before := status.DeepCopy()
	status.HostIP, status.HostIPs = Address, []corev1.HostIP{{IP: Address}}
	status.PodIP, status.PodIPs = p.address, []corev1.PodIP{{IP: p.address}}
	if status.StartTime == nil {
		now := metav1.Now()
		status.StartTime = &now
	}
	status.Phase, status.ContainerStatuses = corev1.PodPending, nil
	ready := true
	p.mu.Lock()
	waiting := p.waiting
	p.mu.Unlock()
	for _, c := range p.containers {
		s := c.status()
		if waiting != "" {
			s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating", Message: waiting}}
		}
		status.ContainerStatuses = append(status.ContainerStatuses, s)
		ready = ready && s.Ready
		if s.State.Waiting == nil || s.RestartCount > 0 {
			status.Phase = corev1.PodRunning
		}
	}
	for kind, isTrue := range map[corev1.PodConditionType]bool{
		corev1.PodScheduled: true, corev1.PodInitialized: true, corev1.PodReadyToStartContainers: waiting == "",
		corev1.ContainersReady: ready, corev1.PodReady: ready,
	} {
		setCondition(status, kind, isTrue, current.Generation)
	}
	if equalStatus(before, status) {
		return nil
	}
	_, err = pods.UpdateStatus(ctx, current, metav1.UpdateOptions{})
	return err
}

func setCondition(status *corev1.PodStatus, kind corev1.PodConditionType, isTrue bool, generation int64) {
	want := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now(), ObservedGeneration: generation}
	if isTrue {
		want.Status = corev1.ConditionTrue
	}
	i := slices.IndexFunc(status.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
	switch {
	case i < 0:
		status.Conditions = append(status.Conditions, want)
	case status.Conditions[i].Status != want.Status:
		status.Conditions[i] = want
	}
}

// container runs a program again and again until its Pod ends.
type container struct {
	pod  *pod
	spec *corev1.Container

	mu       sync.Mutex
	process  *localcluster.Process // nil while none runs
	since    metav1.Time
	last     *corev1.ContainerStateTerminated
	failure  string // why none could be started
	restarts int32
	// started is false until the startup probe has succeeded.
	started, ready bool
}

func (c *container) running() *localcluster.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.process
}

// backOff is the pause before a container is started again; a kubelet's first one is 10 s.
func backOff(restarts int32) time.Duration {
	return min(time.Second<<min(restarts, 10), 5*time.Minute)
}

func (c *container) run() {
	ctx := c.pod.alive
	for ctx.Err() == nil {
		process, err := c.start(ctx)
		c.mu.Lock()
		c.failure, c.process, c.since = "", process, metav1.Now()
		c.started, c.ready = false, false
		if err != nil {
			c.failure = err.Error()
		}
		c.mu.Unlock()
		c.pod.change()
		if err == nil {
			c.watch(process)
		}
		if ctx.Err() != nil {
			return
		}
		wait := backOff(c.restarts)
		c.mu.Lock()
		c.restarts++
		c.mu.Unlock()
		pause(ctx, wait)
	}
}

// watch probes a program until it ends, of itself, for failing its liveness probe, or because its Pod ends.
func (c *container) watch(process *localcluster.Process) {
	probing, stop := context.WithCancel(c.pod.agent.ctx)
	var probes sync.WaitGroup
	unhealthy := make(chan struct{})
	probes.Go(func() { c.probe(probing, unhealthy) })
	select {
	case <-process.Done():
	case <-unhealthy:
		c.terminate(process, time.Duration(*c.pod.object.Spec.TerminationGracePeriodSeconds)*time.Second)
	case <-c.pod.alive.Done():
		c.pod.mu.Lock()
		grace := c.pod.grace
		c.pod.mu.Unlock()
		// Probes go on: what is terminating may still be ready, and is told apart by that.
		c.terminate(process, grace)
	}
	stop()
	probes.Wait()
	now := metav1.Now()
	c.mu.Lock()
	c.process, c.started, c.ready = nil, false, false
	c.last = &corev1.ContainerStateTerminated{StartedAt: c.since, FinishedAt: now, Reason: "Completed"}
	if err := process.Err(); err != nil {
		c.last.Reason, c.last.Message, c.last.ExitCode = "Error", err.Error(), 1
	}
	c.mu.Unlock()
	c.pod.change()
}
