package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// controlPlane is what happens to the API server and to etcd.
func controlPlane() []fault {
	return []fault{
		{name: "kube-apiserver restarted", do: restartAPIServer},
		{name: "etcd suspended", do: suspendEtcd},
		{name: "etcd killed, restarted on its data", do: killEtcd},
		{name: "etcd's disk full", needsDisk: true, do: fillDisk},
		{name: "etcd's quota reached", longOnly: true, do: alarm},
	}
}

func restartAPIServer(ctx context.Context, s *scene) error {
	began := time.Now()
	if err := s.Restart(ctx, "kube-apiserver", pick(time.Second, 10*time.Second)); err != nil {
		return err
	}
	s.hit("away for %.1f s", time.Since(began).Seconds())
	return nil
}

func suspendEtcd(ctx context.Context, s *scene) error {
	etcd := s.Process("etcd")
	began := time.Now()
	etcd.Signal(syscall.SIGSTOP)
	// On other days for longer than the grace: what was admitted before is stored after it.
	err := pause(ctx, pick(grace()+2*time.Second, 20*time.Second))
	etcd.Signal(syscall.SIGCONT)
	s.hit("SIGSTOP, and SIGCONT after %.0f s", time.Since(began).Seconds())
	return err
}

func killEtcd(ctx context.Context, s *scene) error {
	for range pick(1, 3) {
		etcd := s.Process("etcd")
		etcd.Signal(syscall.SIGKILL)
		<-etcd.Done()
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		if err := s.Restart(ctx, "etcd", 0); err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	s.hit("SIGKILL, %d times", pick(1, 3))
	return nil
}

// fillDisk fills the disk with etcd's data and keeps it full for a while. That ends etcd when it needs room, which is tried with large
// objects, and again whenever it is started, as a kubelet does it.
func fillDisk(ctx context.Context, s *scene) error {
	free, err := s.ballast()
	if err != nil {
		return err
	}
	began, ended := time.Now(), 0
	for ended == 0 || time.Since(began) < pick(4*time.Second, 20*time.Second) {
		select {
		case <-s.Process("etcd").Done():
			ended++
			starting, cancel := context.WithTimeout(ctx, 5*time.Second)
			err := s.Restart(starting, "etcd", 0)
			cancel()
			if err == nil {
				continue
			}
			if err := pause(ctx, restartDelay); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		default:
			large := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: closed, GenerateName: "large-"},
				Data: map[string]string{"zeros": strings.Repeat("0", 1<<20-1<<12)}}
			writing, cancel := context.WithTimeout(ctx, 2*time.Second)
			_ = s.admin.Create(writing, large)
			cancel()
		}
	}
	s.hit("ENOSPC for %.0f s, which ended etcd %d times", time.Since(began).Seconds(), ended)
	if err := free(); err != nil {
		return err
	}
	if err := s.Restart(ctx, "etcd", time.Second); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		return s.admin.DeleteAllOf(ctx, &corev1.ConfigMap{}, client.InNamespace(closed))
	})
}

// alarm raises the alarm of etcd that a reached --quota-backend-bytes raises: it takes no more writes.
func alarm(ctx context.Context, s *scene) error {
	raise := func(action string) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Etcd+"/v3/maintenance/alarm", bytes.NewBufferString(`{"action": "`+action+`", "memberID": "0", "alarm": "NOSPACE"}`))
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		content, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("etcd's alarm: %s: %s", response.Status, content)
		}
		return err
	}
	if err := raise("ACTIVATE"); err != nil {
		return err
	}
	err := pause(ctx, pick(3*time.Second, 20*time.Second))
	s.hit("the alarm NOSPACE for %.0f s", pick(3*time.Second, 20*time.Second).Seconds())
	return errors.Join(err, raise("DEACTIVATE"))
}
