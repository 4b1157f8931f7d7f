// Command run starts a cluster of one node (see hack/node/README.md), runs a command beside it, with KUBECONFIG in its
// environment, and stops the cluster when the command ends:
//
//	go run ./hack/node/run COMMAND [ARGUMENT...]
//
// Pods with the image of routesteward, whatever its tag, run bin/routesteward.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/netns"
	"github.com/routesteward/routesteward/hack/node"
)

func main() {
	node.Contain()
	exit, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		exit = 2
	}
	os.Exit(exit)
}

func run(command []string) (exit int, err error) {
	if len(command) == 0 {
		return 0, errors.New("usage: go run ./hack/node/run COMMAND [ARGUMENT...]")
	}
	if !netns.Isolated() {
		if err := node.Prepare(); err != nil {
			return 0, err
		}
		return netns.Isolate()
	}
	root, err := localcluster.Root()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cluster, err := node.Start(ctx, node.Options{CRDs: []string{}, Program: func(image string) (string, error) {
		if !strings.HasPrefix(image, "ghcr.io/routesteward/routesteward:") {
			return "", fmt.Errorf("there is no image %s", image)
		}
		return filepath.Join(root, "bin", "routesteward"), nil
	}})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	// Ctrl-C is for the command.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(netns.Environ(), "KUBECONFIG="+cluster.Kubeconfig)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}
