// Routesteward keeps Gateway API routes on a shared Gateway where that Gateway can serve them.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/cli"
	"github.com/routesteward/routesteward/policy/cli/command"
	"github.com/routesteward/routesteward/webhook"
	"github.com/routesteward/routesteward/webhook/relocate/unpark"
)

//go:generate go run ./hack/gendocs

// version is set by the linker (-X main.version=v1.2.3).
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := newProgram(environ)
	return p.Run(ctx, rootCommand(p, webhook.Run), args, stdin, stdout, stderr)
}

func newProgram(environ []string) *command.Program {
	return &command.Program{Environ: environ, Version: version, Settings: command.Names(settingsGroups()...)}
}

// settingsGroups are the settings of all commands.
func settingsGroups() []command.Group {
	config, server, checks := policy.DefaultConfig(), webhook.DefaultOptions(), check.DefaultSettings()
	return []command.Group{command.PolicyGroup(&config), webhook.ServerGroup(&server), cli.CheckGroup(&checks)}
}

func rootCommand(p *command.Program, serve func(context.Context, webhook.Options, policy.Config) error) *cobra.Command {
	root := &cobra.Command{
		Use:   "routesteward",
		Short: "Keeps routes on a shared Gateway where that Gateway can serve them",
		Long:  "Routesteward decides at admission whether HTTPRoutes and GRPCRoutes on a shared Gateway live in the right namespace and may reach their backends, says why not, and keeps the ReferenceGrants that they need.",
	}
	root.AddCommand(cli.Check(p), cli.Audit(p), cli.Trace(p), cli.Facts(), unpark.Command(p), webhook.ServeCommand(p, serve),
		webhook.ManifestsCommand(p), webhook.ConfigCommand(p), cli.Rules(), cli.Version(p))
	return root
}
