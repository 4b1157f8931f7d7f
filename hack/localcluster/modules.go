package localcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Root is the checkout: the closest folder upwards from the working directory that holds the
// project's go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(content), "module github.com/routesteward/routesteward\n") {
			return dir, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside a checkout of routesteward")
		}
		dir = parent
	}
}

// GatewayAPI is the folder with the CRDs of the Gateway API version that the project compiles
// against. channel is "standard" or "experimental".
func GatewayAPI(ctx context.Context, channel string) (string, error) {
	return gatewayAPI(ctx, ".", channel)
}

// GatewayAPI12 is the same for Gateway API 1.2, which serves ReferenceGrant as v1beta1 only. Its
// CRDs cannot be installed over newer ones.
func GatewayAPI12(ctx context.Context, channel string) (string, error) {
	return gatewayAPI(ctx, "hack/gateway-api-1.2", channel)
}

func gatewayAPI(ctx context.Context, dir, channel string) (string, error) {
	module, err := moduleDir(ctx, dir, "sigs.k8s.io/gateway-api")
	return filepath.Join(module, "config", "crd", channel), err
}

// EnvoyGatewayCRDs is the folder with Envoy Gateway's own CRDs, in the version that hack/gateways builds.
func EnvoyGatewayCRDs(ctx context.Context) (string, error) {
	module, err := moduleDir(ctx, "hack/gateways/envoy-gateway", "github.com/envoyproxy/gateway")
	return filepath.Join(module, "charts", "gateway-helm", "charts", "crds", "crds", "generated"), err
}

// CertManagerCRDs is the folder with cert-manager's CRDs, in the version that hack/certmanager builds.
func CertManagerCRDs(ctx context.Context) (string, error) {
	module, err := moduleDir(ctx, "hack/certmanager", "github.com/cert-manager/cert-manager")
	return filepath.Join(module, "deploy", "crds"), err
}

// moduleDir asks the go command for the folder of a module that the one in dir requires. It downloads
// the module when needed and verifies it against the go.sum in dir.
func moduleDir(ctx context.Context, dir, module string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir = filepath.Join(root, dir)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, runErr := cmd.Output()
	var downloaded struct{ Dir, Error string }
	if err := json.Unmarshal(out, &downloaded); err != nil || downloaded.Dir == "" {
		return "", fmt.Errorf("find module %s with %q in %s: %w", module, cmd.String(), cmd.Dir,
			errors.Join(runErr, errors.New(downloaded.Error+stderr.String())))
	}
	return downloaded.Dir, nil
}
