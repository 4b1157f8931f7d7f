package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/go-logr/logr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/routewarden/routewarden/hack/localcluster"
)

const noopPath = "/validate"

// serveNoop allows everything that it is asked about. It is what a webhook costs that has nothing to do.
func serveNoop(ctx context.Context, certDir, address string) error {
	ctrl.SetLogger(logr.Discard())
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	server := webhook.NewServer(webhook.Options{Host: host, Port: number, CertDir: certDir})
	server.Register(noopPath, &admission.Webhook{Handler: admission.HandlerFunc(
		func(context.Context, admission.Request) admission.Response { return admission.Allowed("") })})
	return server.Start(ctx)
}

// startNoop registers the webhook and starts it in a process of its own. It returns when the API server asks it.
func (b *bench) startNoop(ctx context.Context) (*localcluster.Process, error) {
	ports, err := localcluster.FreePorts(1)
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
	dir := filepath.Join(b.cluster.Dir, "noop")
	certificate, key, err := cert.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700),
		os.WriteFile(filepath.Join(dir, "tls.crt"), certificate, 0o600),
		os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600)); err != nil {
		return nil, err
	}
	_, err = b.clients.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, noopRegistration("https://"+address+noopPath, certificate), metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	// Nobody serves yet, so it is being asked as soon as writes fail.
	if err := b.waitProbe(ctx, nil, func(err error) bool { return err != nil }); err != nil {
		return nil, err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	process, err := localcluster.StartProcess(ctx, localcluster.ProcessOptions{
		Name: "no-op webhook",
		Path: executable,
		Args: []string{"noop", dir, address},
		Log:  filepath.Join(b.cluster.LogDir(), "noop.log"),
	})
	if err != nil {
		return nil, err
	}
	if err := b.waitProbe(ctx, process, func(err error) bool { return err == nil }); err != nil {
		return nil, errors.Join(fmt.Errorf("the no-op webhook does not answer: %w\n%s", err, process.Logs()), process.Stop())
	}
	return process, nil
}

// noopRegistration intercepts what routewarden's does, without matchConditions.
func noopRegistration(url string, ca []byte) *admissionregistrationv1.ValidatingWebhookConfiguration {
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "noop"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name:         "routes.noop.example",
			ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: ca},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
				Rule: admissionregistrationv1.Rule{
					APIGroups: []string{"gateway.networking.k8s.io"}, APIVersions: []string{"v1"}, Resources: []string{"httproutes", "grpcroutes"},
				},
			}},
			FailurePolicy:           new(admissionregistrationv1.Fail),
			SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
			TimeoutSeconds:          new(int32(5)),
			AdmissionReviewVersions: []string{"v1"},
		}},
	}
}
