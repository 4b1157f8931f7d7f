package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/routesteward/routesteward/policy/reference"
	"github.com/routesteward/routesteward/policy/settings"
)

// Titles of groups of flags.
const (
	groupAnnotation = "routesteward.dev/group"
	PolicyFlags     = "Policy"
	ServerFlags     = "Server"
	CheckFlags      = "Facts and statements"
	ClusterFlags    = "Cluster"
	otherFlags      = "Flags"

	// LayersHelp explains where a setting comes from.
	LayersHelp = "Each setting comes from its flag, else from an environment variable (" + settings.EnvironmentPrefix + "OUTSIDE for --outside), else from the file that --config names, else it has its default."
)

func help(cmd *cobra.Command, _ []string) {
	var text strings.Builder
	description := cmd.Long
	if description == "" {
		description = cmd.Short + "."
	}
	// Only our own texts are paragraphs; those of cobra's completion command are laid out already.
	if !strings.Contains(description, "\n\n\t") {
		description = reference.Paragraphs(description)
	}
	fmt.Fprintf(&text, "%s\n\nUsage:\n  %s\n", strings.TrimSpace(description), usageLine(cmd))
	if cmd.Example != "" {
		fmt.Fprintf(&text, "\nExamples:\n%s\n", cmd.Example)
	}
	if cmd.HasAvailableSubCommands() {
		text.WriteString("\nCommands:\n")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() || sub.Name() == "help" {
				fmt.Fprintf(&text, "  %-12s %s\n", sub.Name(), sub.Short)
			}
		}
	}
	for _, title := range []string{otherFlags, ClusterFlags, CheckFlags, PolicyFlags, ServerFlags} {
		group := NewFlagSet()
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			if of := flag.Annotations[groupAnnotation]; slices.Equal(of, []string{title}) || (of == nil && title == otherFlags) {
				group.AddFlag(flag)
			}
		})
		if group.HasAvailableFlags() {
			fmt.Fprintf(&text, "\n%s:\n%s", title, reference.FlagsText(group))
		}
	}
	fmt.Fprint(cmd.OutOrStdout(), text.String())
}

func usageLine(cmd *cobra.Command) string {
	if cmd.HasAvailableSubCommands() {
		return cmd.CommandPath() + " COMMAND [flags]"
	}
	return cmd.UseLine()
}
