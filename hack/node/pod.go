package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/routesteward/routesteward/hack/localcluster"
)

// pod runs one Pod, whose one container is a program that is started again and again until the Pod ends.
type pod struct {
	*agent
	object  *corev1.Pod // as it was first seen; its specification never changes
	spec    *corev1.Container
	address string
	network string // name of its network namespace and of its device on the bridge
	dir     string
	process atomic.Pointer[localcluster.Process] // nil while none runs

	// alive ends when the Pod is being deleted, present when there is no grace left.
	alive, present  context.Context
	terminate, kill context.CancelFunc

	mu      sync.Mutex
	status  corev1.ContainerStatus
	changed chan struct{} // holds a value when the status has to be written
}

func newPod(a *agent, object *corev1.Pod, number int) *pod {
	p := &pod{
		agent: a, object: object, spec: &object.Spec.Containers[0], changed: make(chan struct{}, 1),
		// Numbers are not used again, so that no late packet finds another Pod.
		address: fmt.Sprintf("10.244.%d.%d", (number+1)/256, (number+1)%256),
		network: fmt.Sprintf("pod-%d", number),
		dir:     filepath.Join(a.dir, string(object.UID)),
		status: corev1.ContainerStatus{
			Name: object.Spec.Containers[0].Name, Image: object.Spec.Containers[0].Image, ImageID: object.Spec.Containers[0].Image,
			State: waiting("ContainerCreating", ""),
		},
	}
	p.present, p.kill = context.WithCancel(a.ctx)
	p.alive, p.terminate = context.WithCancel(p.present)
	return p
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func (p *pod) run() {
	writing, stop := context.WithCancel(p.ctx)
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			p.persist(writing, p.writeStatus)
			select {
			case <-writing.Done():
				return
			case <-p.changed:
			}
		}
	})
	for p.alive.Err() == nil {
		process, err := p.start(p.alive)
		if err != nil {
			p.set(func(s *corev1.ContainerStatus) { s.State = waiting("CreateContainerError", err.Error()) })
			pause(p.alive, again)
			continue
		}
		p.watch(process)
		// A kubelet's first pause is 10 s.
		pause(p.alive, min(time.Second<<min(p.status.RestartCount-1, 10), time.Minute))
	}
	stop()
	writer.Wait()
	_ = ip(context.WithoutCancel(p.ctx), "netns del "+p.network)
	_ = os.RemoveAll(p.dir)
	p.persist(p.ctx, func(ctx context.Context) error {
		err := p.clients.CoreV1().Pods(p.object.Namespace).Delete(ctx, p.object.Name,
			metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), Preconditions: &metav1.Preconditions{UID: &p.object.UID}})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	})
}

// watch probes a program until it ends, by itself or because its Pod ends.
func (p *pod) watch(process *localcluster.Process) {
	p.process.Store(process)
	p.set(func(s *corev1.ContainerStatus) {
		s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
		s.Started, s.Ready = new(true), p.spec.ReadinessProbe == nil
	})
	probing, stop := context.WithCancel(p.ctx)
	var probes sync.WaitGroup
	probes.Go(func() { p.probe(probing) })
	select {
	case <-process.Done():
	case <-p.alive.Done():
		process.Signal(syscall.SIGTERM)
		// Probes go on: what is terminating may still be ready.
		select {
		case <-process.Done():
		case <-p.present.Done():
		case <-time.After(time.Duration(*p.object.Spec.TerminationGracePeriodSeconds) * time.Second):
		}
		process.Signal(syscall.SIGKILL)
	}
	err := process.Err()
	stop()
	probes.Wait()
	p.process.Store(nil)
	p.set(func(s *corev1.ContainerStatus) {
		s.State = waiting("CrashLoopBackOff", fmt.Sprintf("ended: %v", err))
		s.RestartCount++
		s.Started, s.Ready = new(false), false
	})
}

// probe runs the readiness probe until ctx ends.
func (p *pod) probe(ctx context.Context) {
	probe := p.spec.ReadinessProbe
	if probe == nil {
		return
	}
	get := localcluster.HTTPReady(&http.Client{
		Timeout: time.Duration(probe.TimeoutSeconds) * time.Second, Transport: &http.Transport{DisableKeepAlives: true},
	}, fmt.Sprintf("http://%s:%d%s", p.address, p.port(probe.HTTPGet.Port), probe.HTTPGet.Path))
	for failures := int32(0); ; {
		err := get(ctx)
		if failures++; err == nil {
			failures = 0
		}
		period := probe.PeriodSeconds
		p.set(func(s *corev1.ContainerStatus) {
			if s.Ready = err == nil || s.Ready && failures < probe.FailureThreshold; !s.Ready {
				period = 1 // as the startup probe that a kubelet waits for
			}
		})
		if !pause(ctx, time.Duration(period)*time.Second) {
			return
		}
	}
}

func (p *pod) port(port intstr.IntOrString) int {
	for _, named := range p.spec.Ports {
		if port.Type == intstr.String && named.Name == port.StrVal {
			return int(named.ContainerPort)
		}
	}
	return port.IntValue()
}

// set changes the container's status and has it written.
func (p *pod) set(change func(*corev1.ContainerStatus)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := *p.status.DeepCopy()
	if change(&p.status); reflect.DeepEqual(before, p.status) {
		return
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// writeStatus writes what a kubelet would report.
func (p *pod) writeStatus(ctx context.Context) error {
	pods := p.clients.CoreV1().Pods(p.object.Namespace)
	current, err := pods.Get(ctx, p.object.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && current.UID != p.object.UID:
		return nil
	case err != nil:
		return err
	}
	p.mu.Lock()
	container := *p.status.DeepCopy()
	p.mu.Unlock()
	now := metav1.Now()
	current.Status = corev1.PodStatus{
		Phase: corev1.PodPending, QOSClass: current.Status.QOSClass, ContainerStatuses: []corev1.ContainerStatus{container},
		HostIP: Address, HostIPs: []corev1.HostIP{{IP: Address}}, PodIP: p.address, PodIPs: []corev1.PodIP{{IP: p.address}}, StartTime: &p.object.CreationTimestamp,
	}
	if container.State.Running != nil || container.RestartCount > 0 {
		current.Status.Phase = corev1.PodRunning
	}
	for kind, is := range map[corev1.PodConditionType]bool{
		corev1.PodScheduled: true, corev1.PodInitialized: true, corev1.ContainersReady: container.Ready, corev1.PodReady: container.Ready,
	} {
		condition := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, LastTransitionTime: now}
		if is {
			condition.Status = corev1.ConditionTrue
		}
		current.Status.Conditions = append(current.Status.Conditions, condition)
	}
	_, err = pods.UpdateStatus(ctx, current, metav1.UpdateOptions{})
	return err
}

// supported refuses what a Pod may ask for and would not get.
func supported(pod *corev1.Pod) error {
	spec, c := pod.Spec, pod.Spec.Containers[0]
	switch {
	case len(spec.InitContainers) > 0 || len(spec.Containers) > 1:
		return errors.New("only one container is supported here")
	case spec.HostNetwork || spec.HostPID || spec.HostIPC || spec.RestartPolicy != corev1.RestartPolicyAlways:
		return errors.New("the host's namespaces and other restart policies are not supported here")
	case len(c.Command) > 0 || len(c.EnvFrom) > 0 || c.Lifecycle != nil || c.ReadinessProbe != nil && c.ReadinessProbe.HTTPGet == nil:
		return errors.New("command, envFrom, lifecycle and other probes than httpGet are not supported here")
	}
	return nil
}
