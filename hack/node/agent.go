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

	"github.com/routesteward/routesteward/hack/localcluster"
)

// again is the pause before something is tried again that depends on others.
const again = 200 * time.Millisecond

// agent binds every Pod to the one node and runs it there.
type agent struct {
	clients kubernetes.Interface
	program func(image string) (string, error)
	// dir holds the Pods' files, logs what their programs print.
	dir, logs string

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	pods   map[types.UID]*pod
	number int // of Pods so far
}

func startAgent(c *Cluster, program func(string) (string, error)) (*agent, error) {
	a := &agent{clients: c.Clients, program: program, dir: filepath.Join(c.Dir, "pods"), logs: c.LogDir(), pods: map[types.UID]*pod{}}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(c.Clients, 0)
	seen := func(object any) {
		if pod, ok := object.(*corev1.Pod); ok {
			a.see(pod)
		}
	}
	if _, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: seen, UpdateFunc: func(_, object any) { seen(object) }, DeleteFunc: a.gone,
	}); err != nil {
		return nil, err
	}
	a.work.Go(func() { factory.Start(a.ctx.Done()); <-a.ctx.Done(); factory.Shutdown() })
	return a, nil
}

// stop kills all programs.
func (a *agent) stop() error {
	a.cancel()
	a.work.Wait()
	return os.RemoveAll(a.dir)
}

// see is called with a Pod whenever it changes.
func (a *agent) see(object *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pods[object.UID]
	switch {
	case a.ctx.Err() != nil:
	case object.Spec.NodeName == "":
		a.work.Go(func() { a.bind(object) })
	case p == nil:
		a.number++
		p = newPod(a, object, a.number)
		a.pods[object.UID] = p
		a.work.Go(func() {
			p.run()
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.pods, object.UID)
		})
	}
	if p != nil && object.DeletionTimestamp != nil {
		p.terminate()
	}
}

// gone is called when a Pod was removed; normally the agent itself has removed it.
func (a *agent) gone(object any) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pods[object.(*corev1.Pod).UID]; p != nil {
		p.kill()
	}
}

// bind takes the place of a scheduler.
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

// pause reports whether it lasted that long.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// Container is the running program of a Pod.
func (c *Cluster) Container(namespace, name string) (*localcluster.Process, error) {
	c.agent.mu.Lock()
	defer c.agent.mu.Unlock()
	for _, p := range c.agent.pods {
		if p.object.Namespace == namespace && p.object.Name == name {
			if process := p.process.Load(); process != nil {
				return process, nil
			}
			return nil, errors.New("the container is not running")
		}
	}
	return nil, fmt.Errorf("no Pod %s/%s on the node", namespace, name)
}
