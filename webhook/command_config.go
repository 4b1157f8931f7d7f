package webhook

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/cli/command"
	docs "github.com/routesteward/routesteward/policy/reference"
	"github.com/routesteward/routesteward/policy/settings"
)

// ConfigCommand is the command config.
func ConfigCommand(p *command.Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show each setting's value, where it comes from and what it shadows",
		Long:  "Config takes the flags of serve and shows what they come to. Every fault is reported, and the exit code is 2 when there is one. The output yaml is a file for --config.\n\n" + command.LayersHelp,
		Args:  command.AtMost(0),
	}
	config, server := policy.DefaultConfig(), DefaultOptions()
	bound := p.Bind(cmd, command.PolicyGroup(&config), ServerGroup(&server))
	output := command.Output(cmd, "text", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		resolved, invalid := bound.Resolve()
		var text string
		var err error
		switch output.String() {
		case "json":
			shown := struct {
				Settings settings.Settings `json:"settings"`
				Errors   []string          `json:"errors,omitempty"`
			}{Settings: resolved}
			var faults *settings.InvalidError
			if errors.As(invalid, &faults) {
				shown.Errors = faults.Faults
			}
			text, err = docs.JSON(shown)
		case "yaml":
			text, err = resolved.YAML()
		default:
			text = resolved.Text()
		}
		return errors.Join(command.Write(cmd, text, err), invalid)
	}
	return cmd
}
