// Package command is what the commands of the program have in common: exit codes, usage errors, help, settings, output.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/routesteward/routesteward/policy/settings"
)

// Exit codes of every command.
const (
	ExitClean    = 0
	ExitFindings = 1
	ExitError    = 2
)

// ErrFindings ends a command that has reported findings and has no more to say.
var ErrFindings = errors.New("findings")

// Program is what the commands need from outside.
type Program struct {
	Environ []string
	// Version is what the linker was given; empty: what the Go toolchain recorded.
	Version string
	// Settings are the names of the settings of all commands, so that one file and one environment serve them all.
	Settings []string
}

// Run runs the command that the arguments name, and returns the exit code.
func (p *Program) Run(ctx context.Context, root *cobra.Command, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	Complete(root)
	cmd, err := root.ExecuteContextC(ctx)
	switch err {
	case nil:
		return ExitClean
	case ErrFindings:
		return ExitFindings
	}
	var usage *UsageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "%[1]s: %[2]v\nRun '%[1]s --help' for usage.\n", usage.cmd.CommandPath(), err)
	} else {
		fmt.Fprintf(stderr, "%s: %v\n", cmd.CommandPath(), err)
	}
	return ExitError
}

// Complete adds to a root command what every program has: help, completion, and words for usage errors. The completion keeps
// the stream that root has now.
func Complete(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	// With Args set cobra leaves it to RunE to refuse what is no command, and so to choose the words.
	root.Args = cobra.ArbitraryArgs
	root.RunE = subcommand
	root.SetHelpFunc(help)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(helpCommand())
	addCompletion(root)
}

// UsageError is a command line that a command cannot understand.
type UsageError struct {
	error
	cmd *cobra.Command
}

// Usage is the error of a command line that cmd cannot understand.
func Usage(cmd *cobra.Command, err error) error { return &UsageError{err, cmd} }

func subcommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return cmd.Help()
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := cmd.Root().Find(args)
			if err != nil {
				return &UsageError{err, cmd.Root()}
			}
			if len(rest) > 0 {
				return unknownCommand(target, rest[0])
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
	}
}

// addCompletion adds cobra's completion command, made to refuse what it does not know.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	completion, _, _ := root.Find([]string{"completion"})
	completion.Args = cobra.ArbitraryArgs
	completion.RunE = subcommand
	for _, shell := range completion.Commands() {
		shell.Args = AtMost(0)
	}
}

func unknownCommand(parent *cobra.Command, word string) error {
	var names []string
	for _, cmd := range parent.Commands() {
		names = append(names, cmd.Name())
	}
	return &UsageError{fmt.Errorf("unknown command %q%s", word, didYouMean(settings.Nearest(word, names))), parent}
}

func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		if flag := settings.Nearest(unknown.GetSpecifiedName(), settings.Names(cmd.Flags())); flag != "" {
			err = fmt.Errorf("%w%s", err, didYouMean("--"+flag))
		}
	}
	return &UsageError{err, cmd}
}

func didYouMean(name string) string {
	if name == "" {
		return ""
	}
	return "; did you mean " + name + "?"
}

// AtMost refuses more arguments than count.
func AtMost(count int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > count {
			return &UsageError{fmt.Errorf("unexpected argument %q", args[count]), cmd}
		}
		return nil
	}
}
