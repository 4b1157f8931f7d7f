package cli

import (
	"github.com/spf13/cobra"

	"github.com/routesteward/routesteward/policy/audit/live"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/cli/command"
)

// Facts is the command facts.
func Facts() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "facts",
		Short: "Write what check, audit and trace have to know of a cluster, for --facts",
		Long: "Facts reads the Namespaces, Gateways, ReferenceGrants and routes of a cluster, the Services and EndpointSlices of namespaces that routes refer to, " +
			"and of AIBrix's gateway plugin the variables that change routing. Of each it writes what is evaluated: no other labels and annotations, no headers that a filter sets, no Secrets. " +
			"What may not be read of the last three is noted in the file. Nothing is written to the cluster.",
		Args: command.AtMost(0),
	}
	output := command.Output(cmd, "yaml", "json")
	settings := check.DefaultSettings()
	settings.AddClusterFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cluster, err := live.Connect(settings.Kubeconfig, settings.Context)
		if err != nil {
			return err
		}
		read, err := cluster.Read(cmd.Context(), live.Everything())
		if err != nil {
			return err
		}
		return check.WriteSnapshot(cmd.OutOrStdout(), read, output.String() == "json")
	}
	return cmd
}
