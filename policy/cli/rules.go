package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/routesteward/routesteward/policy/cli/command"
	"github.com/routesteward/routesteward/policy/reference"
)

// Rules is the command rules.
func Rules() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules [ID]",
		Short: "List the rules, or explain one",
		Long:  "Rules lists what routesteward looks at. With a rule's ID, as messages, logs and metrics name it, it explains the rule: why it is there, what to do about a finding, a good and a bad example.",
		Args:  command.AtMost(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return ruleIDs(reference.Rules()), cobra.ShellCompDirectiveNoFileComp
		},
	}
	output := command.Output(cmd, "text", "json", "markdown")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		rules := reference.Rules()
		if len(args) == 0 {
			switch output.String() {
			case "json":
				text, err := reference.JSON(rules)
				return command.Write(cmd, text, err)
			case "markdown":
				return command.Write(cmd, reference.RulesMarkdown(rules), nil)
			default:
				return command.Write(cmd, reference.RulesText(rules), nil)
			}
		}
		i := slices.IndexFunc(rules, func(rule reference.Rule) bool { return rule.ID == args[0] })
		if i < 0 {
			return command.Usage(cmd, fmt.Errorf("unknown rule %q; the rules are:\n  %s", args[0], strings.Join(ruleIDs(rules), "\n  ")))
		}
		switch output.String() {
		case "json":
			text, err := reference.JSON(rules[i])
			return command.Write(cmd, text, err)
		case "markdown":
			return command.Write(cmd, rules[i].Markdown(), nil)
		default:
			return command.Write(cmd, rules[i].Text(), nil)
		}
	}
	return cmd
}

func ruleIDs(rules []reference.Rule) []string {
	ids := make([]string, len(rules))
	for i, rule := range rules {
		ids[i] = rule.ID
	}
	return ids
}
