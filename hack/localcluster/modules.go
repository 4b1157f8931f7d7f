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
		if err == nil && strings.HasPrefix(string(content), "module github.com/routewarden/routewarden\n") {
			return dir, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside a checkout of routewarden")
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

// gatewayAPI asks the go command, which downloads the module when needed and verifies it against
// the go.sum of the module in dir.
func gatewayAPI(ctx context.Context, dir, channel string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", "sigs.k8s.io/gateway-api")
	cmd.Dir = filepath.Join(root, dir)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, runErr := cmd.Output()
	var module struct{ Dir, Error string }
	if err := json.Unmarshal(out, &module); err != nil || module.Dir == "" {
		return "", fmt.Errorf("find Gateway API's module with %q in %s: %w", cmd.String(), cmd.Dir,
			errors.Join(runErr, errors.New(module.Error+stderr.String())))
	}
	return filepath.Join(module.Dir, "config", "crd", channel), nil
}
