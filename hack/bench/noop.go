package main

import (
	"context"
	"errors"
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

	"github.com/routesteward/routesteward/hack/localcluster"
)

// serveNoop allows everything but the probe, as a webhook of controller-runtime. It is what a webhook costs that has nothing to do.
func serveNoop(ctx context.Context, certDir, port string) error {
	ctrl.SetLogger(logr.Discard())
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	server := webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: number, CertDir: certDir})
	server.Register("/validate", &admission.Webhook{Handler: admission.HandlerFunc(func(_ context.Context, r admission.Request) admission.Response {
		if r.Name == probe.name {
			return admission.Denied("the probe")
		}
		return admission.Allowed("")
	})})
	return server.Start(ctx)
}

// startNoop runs serveNoop in a process of its own, registers it, and returns when the API server calls it.
func (b *bench) startNoop(ctx context.Context) (*localcluster.Process, error) {
	dir := filepath.Join(b.Dir, "noop")
	certificate, key, err := cert.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700),
		os.WriteFile(filepath.Join(dir, "tls.crt"), certificate, 0o600), os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600)); err != nil {
		return nil, err
	}
	ports, err := localcluster.FreePorts(1)
	if err != nil {
		return nil, err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(ports[0])
	process, err := localcluster.StartProcess(ctx, localcluster.ProcessOptions{
		Name: "no-op webhook", Path: executable, Args: []string{"noop", dir, port}, Log: filepath.Join(b.LogDir(), "noop.log"),
	})
	if err != nil {
		return nil, err
	}
	// It intercepts what routesteward's does, without matchConditions.
	_, err = b.clients.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "noop"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name:         "routes.noop.example",
			ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: new("https://" + net.JoinHostPort("127.0.0.1", port) + "/validate"), CABundle: certificate},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
				Rule: admissionregistrationv1.Rule{
					APIGroups: []string{"gateway.networking.k8s.io"}, APIVersions: []string{"v1"}, Resources: []string{"httproutes", "grpcroutes"},
				},
			}},
			FailurePolicy:           new(admissionregistrationv1.Fail),
			SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	if err = errors.Join(err, b.waitProbe(ctx, true)); err != nil {
		return nil, errors.Join(err, process.Stop())
	}
	return process, nil
}
