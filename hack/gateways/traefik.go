package gateways

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/routesteward/routesteward/hack/localcluster"
)

func (w *World) startTraefik(ctx context.Context) (err error) {
	const health = "127.0.0.1:8082"
	address := strings.TrimPrefix(URL, "http://")
	w.traefik, err = localcluster.StartProcess(ctx, localcluster.ProcessOptions{
		Path: binary(w.root, "traefik"),
		Args: []string{
			"--providers.kubernetesgateway=true",
			"--providers.kubernetesgateway.statusaddress.ip=" + address,
			"--providers.providersthrottleduration=" + w.throttle.String(),
			"--entrypoints.web.address=" + address + ":80",
			"--ping=true", "--ping.entrypoint=health", "--entrypoints.health.address=" + health,
			"--log.nocolor=true",
			"--global.checknewversion=false",
			"--global.sendanonymoususage=false",
		},
		Env:   []string{"KUBECONFIG=" + w.Kubeconfig},
		Log:   filepath.Join(w.LogDir(), "traefik.log"),
		Ready: localcluster.HTTPReady(nil, "http://"+health+"/ping"),
	})
	return err
}
