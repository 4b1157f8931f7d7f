package webhook

import (
	"context"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/cli/command"
)

// ServerGroup are the flags of the server.
func ServerGroup(options *Options) command.Group {
	return command.Group{Title: command.ServerFlags, Add: options.AddFlags, Validator: options}
}

// ServeCommand is the command serve, which calls run with what it was given.
func ServeCommand(p *command.Program, run func(context.Context, Options, policy.Config) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the admission webhook, keep ReferenceGrants and relocated routes",
		Long: "Serve answers admission requests for routes, Gateways and ReferenceGrants, keeps managed ReferenceGrants as long as a route needs them and relocated copies as long as " +
			"their sources are parked, and looks at the routes' status now and then.\n\n" + command.LayersHelp,
		Args: command.AtMost(0),
	}
	config, options := policy.DefaultConfig(), DefaultOptions()
	bound := p.Bind(cmd, command.PolicyGroup(&config), ServerGroup(&options))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, err := bound.Resolve()
		if err != nil {
			return err
		}
		logger := options.Logger(cmd.ErrOrStderr())
		options.Version = p.Build().Version
		logger.Info("starting", "version", options.Version, "settings", settings)
		for _, setting := range settings {
			if len(setting.Shadows) > 0 {
				logger.Info("a setting shadows another", "flag", "--"+setting.Flag, "value", setting.Value,
					"source", setting.Source.String(), "shadows", setting.ShadowText())
			}
		}
		return run(logr.NewContext(cmd.Context(), logr.FromSlogHandler(logger.Handler())), options, config)
	}
	return cmd
}
