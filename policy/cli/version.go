package cli

import (
	"github.com/spf13/cobra"

	"github.com/routesteward/routesteward/policy/cli/command"
	"github.com/routesteward/routesteward/policy/reference"
)

// Version is the command version.
func Version(p *command.Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  command.AtMost(0),
	}
	output := command.Output(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		built := p.Build()
		if output.String() == "json" {
			text, err := reference.JSON(built)
			return command.Write(cmd, text, err)
		}
		return command.Write(cmd, built.String()+"\n", nil)
	}
	return cmd
}
