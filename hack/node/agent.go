package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/routewarden/routewarden/hack/localcluster"
)

// again is the pause before something is tried again that depends on others.
const again = 200 * time.Millisecond

// agent binds every Pod to the one node and runs it there.
type agent struct {
	clients kubernetes.Interface
	program func(image string) (string, error)
	// self is this program, which Contain turns into that of a container.
	self string
	// dir holds the Pods' files, ca the certificates with which the API server is told.
	dir, logDir string
	informer    cache.SharedIndexInformer

	ctx     context.Context
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	pods    map[types.UID]*pod
	plugged int
}

func startAgent(c *Cluster, program func(string) (string, error)) (*agent, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a := &agent{
		clients: c.Clients, program: program, self: self,
		dir: filepath.Join(c.Dir, "pods"), logDir: c.LogDir(), pods: map[types.UID]*pod{},
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(c.Clients, 0)
	a.informer = factory.Core().V1().Pods().Informer()
	seen := func(object any) {
		if pod, ok := object.(*corev1.Pod); ok {
			a.see(pod)
		}
	}
	if _, err := a.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    seen,
		UpdateFunc: func(_, object any) { seen(object) },
		DeleteFunc: a.gone,
	}); err != nil {
		return nil, err
	}
	a.workers.Go(func() { factory.Start(a.ctx.Done()); <-a.ctx.Done(); factory.Shutdown() })
	return a, nil
}

// stop kills all programs.
func (a *agent) stop() error {
	a.cancel()
	a.workers.Wait()
	return os.RemoveAll(a.dir)
}

// see is called with a Pod whenever it changes.
func (a *agent) see(object *corev1.Pod) {
	if a.ctx.Err() != nil {
		return
	}
	if object.Spec.NodeName == "" {
		if object.DeletionTimestamp == nil {
			a.workers.Go(func() { a.bind(object) })
		}
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pods[object.UID]
	if p == nil {
		a.plugged++
		p = newPod(a, object, a.plugged)
		a.pods[object.UID] = p
		a.workers.Go(func() { p.run() })
	}
	if object.DeletionTimestamp != nil {
		p.terminate(*object.DeletionGracePeriodSeconds)
	}
}

// gone is called when a Pod is no more; normally it was us who have seen to that.
func (a *agent) gone(object any) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pods[object.(*corev1.Pod).UID]; p != nil {
		p.terminate(0)
	}
}

// bind is all that there is of a scheduler.
func (a *agent) bind(pod *corev1.Pod) {
	a.persist(a.ctx, func(ctx context.Context) error {
		err := a.clients.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: Name},
		}, metav1.CreateOptions{})
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return nil // it is bound, or gone
		}
		return err
	})
}

// persist calls until that succeeds or ctx ends: API servers come and go.
func (a *agent) persist(ctx context.Context, call func(context.Context) error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := call(attempt)
		cancel()
		if err == nil || !pause(ctx, again) {
			return
		}
	}
}

// pause reports whether it lasted so long.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (a *agent) forget(p *pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pods, p.object.UID)
}

func (a *agent) container(namespace, name string) (*localcluster.Process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.pods {
		if p.object.Namespace == namespace && p.object.Name == name {
			if process := p.containers[0].running(); process != nil {
				return process, nil
			}
			return nil, errors.New("the container is not running")
		}
	}
	return nil, fmt.Errorf("no Pod %s/%s on the node", namespace, name)
}
