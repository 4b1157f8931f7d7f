package gateways

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/routesteward/routesteward/hack/localcluster"
)

const (
	envoyGatewayNamespace = "envoy-gateway-system"
	envoyGatewayProgram   = "envoy-gateway"
	envoyGatewayAddress   = "127.0.0.1:18000"
)

const envoyGatewayConfig = `apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway:
  controllerName: ` + EnvoyGatewayController + `
provider:
  type: Kubernetes
  kubernetes:
    leaderElection: {disable: true}
    # It would watch Pods of proxies, and there are none.
    proxyTopologyInjector: {disabled: true}
`

// startEnvoyGateway runs it in a root of its own, because it insists on /certs.
func (w *World) startEnvoyGateway(ctx context.Context) error {
	root := filepath.Join(w.Dir, "envoy-gateway")
	for _, dir := range []string{"certs", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			return err
		}
	}
	kubeconfig, err := os.ReadFile(w.Kubeconfig)
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"kubeconfig": kubeconfig, "config.yaml": []byte(envoyGatewayConfig)} {
		if err := os.WriteFile(filepath.Join(root, name), content, 0o600); err != nil {
			return err
		}
	}
	program := filepath.Join(root, envoyGatewayProgram)
	if err := bind(binary(w.root, envoyGatewayProgram), program); err != nil {
		return err
	}
	w.bound = program
	start := func(name string, ready func(context.Context) error, args ...string) (*localcluster.Process, error) {
		return localcluster.StartProcess(ctx, localcluster.ProcessOptions{
			Name:   name,
			Path:   "/" + envoyGatewayProgram,
			Args:   args,
			Chroot: root,
			Env:    []string{"KUBECONFIG=/kubeconfig", "ENVOY_GATEWAY_NAMESPACE=" + envoyGatewayNamespace, "TMPDIR=/tmp"},
			Log:    filepath.Join(w.LogDir(), name+".log"),
			Ready:  ready,
		})
	}

	certgen, err := start("envoy-gateway-certgen", nil, "certgen", "--disable-topology-injector")
	if err == nil {
		err = certgen.Err()
	}
	if err != nil {
		return fmt.Errorf("make Envoy Gateway's certificates: %w, see %s", err, w.LogDir())
	}
	if err := w.writeSecret(ctx, "envoy-gateway", filepath.Join(root, "certs")); err != nil {
		return err
	}
	w.envoyGateway, err = start("envoy-gateway", localcluster.HTTPReady(nil, "http://127.0.0.1:8081/readyz"), "server", "--config-path=/config.yaml")
	return err
}

// writeSecret writes each key of a Secret of Envoy Gateway to a file.
func (w *World) writeSecret(ctx context.Context, name, dir string) error {
	var secret corev1.Secret
	if err := w.Client.Get(ctx, client.ObjectKey{Namespace: envoyGatewayNamespace, Name: name}, &secret); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for key, content := range secret.Data {
		if err := os.WriteFile(filepath.Join(dir, key), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// XDS is what Envoy Gateway tells the proxies of its Gateway.
type XDS struct {
	// Routes by name, such as "httproute/NAMESPACE/NAME/rule/0/match/0/*".
	Routes map[string]XDSRoute
	// Endpoints has the addresses of each cluster, HOST:PORT.
	Endpoints map[string][]string
}

// XDSRoute either answers by itself, with a status such as 500, or leads to clusters.
type XDSRoute struct {
	DirectResponse int
	Clusters       []string
}

// XDS asks Envoy Gateway, as a proxy with a certificate of the Secret "envoy".
func (w *World) XDS(ctx context.Context) (*XDS, error) {
	dir := filepath.Join(w.Dir, "envoy")
	if err := w.writeSecret(ctx, "envoy", dir); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary(w.root, "xds"), envoyGatewayAddress, System+"/"+EnvoyGateway, dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	xds := &XDS{}
	return xds, json.Unmarshal(stdout.Bytes(), xds)
}
