// Command local runs the local cluster behind make up, make down and make demo.
//
//	local [flags] up [SERVE FLAGS]   start it and return when routesteward decides
//	local [flags] demo [SERVE FLAGS] start it unless it runs, then tell the story
//	local [flags] down               stop it
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/routesteward/routesteward/hack/localcluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil:
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "interrupted")
		os.Exit(130)
	case errors.Is(err, errUnmet):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "local:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, args []string) error {
	root, err := localcluster.Root()
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("local", flag.ContinueOnError)
	dir := flags.String("dir", filepath.Join(root, "bin", "demo"), "folder for all data and logs")
	binary := flags.String("routesteward", filepath.Join(root, "bin", "routesteward"), "the program to serve with")
	if err := flags.Parse(args); err != nil {
		return err
	}
	absolute, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	local := &local{root: root, dir: absolute, binary: *binary, out: newTerminal(os.Stdout)}
	command, serveFlags := flags.Arg(0), flags.Args()
	if len(serveFlags) > 0 {
		serveFlags = serveFlags[1:]
	}
	switch command {
	case "up":
		state, err := local.up(ctx, serveFlags, nil)
		if err == nil {
			local.describe(state)
		}
		return err
	case "demo":
		return local.demo(ctx, serveFlags)
	case "down":
		return local.down(ctx)
	case "supervise": // internal: up starts it detached
		return local.supervise(serveFlags)
	default:
		return fmt.Errorf("unknown command %q: want up, demo or down", command)
	}
}

// local is the one local cluster of a folder.
type local struct {
	root, dir, binary string
	out               *terminal
}

func (l *local) path(name string) string { return filepath.Join(l.dir, name) }

// relative is a path as a person in the current folder would type it.
func relative(path string) string {
	if dir, err := os.Getwd(); err == nil {
		if short, err := filepath.Rel(dir, path); err == nil && len(short) < len(path) {
			return short
		}
	}
	return path
}
