package command

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Choice is a flag's value out of a fixed set; the first one is the default.
type Choice struct {
	value   string
	allowed []string
}

// NewChoice is a choice among allowed; value, the default, may be none of them.
func NewChoice(value string, allowed ...string) *Choice { return &Choice{value, allowed} }

// Set implements pflag.Value.
func (c *Choice) Set(text string) error {
	if !slices.Contains(c.allowed, text) {
		return fmt.Errorf("want one of %s", strings.Join(c.allowed, ", "))
	}
	c.value = text
	return nil
}

// String implements pflag.Value.
func (c *Choice) String() string { return c.value }

// Type implements pflag.Value.
func (c *Choice) Type() string { return "string" }

// Values are all allowed values, for completion.
func (c *Choice) Values() []string { return c.allowed }

// Output adds the flag --output; the first format is the default.
func Output(cmd *cobra.Command, formats ...string) *Choice {
	output := NewChoice(formats[0], formats...)
	cmd.Flags().VarP(output, "output", "o", "format of the output")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return output
}

// Color adds the flag --color.
func Color(cmd *cobra.Command) *Choice {
	c := NewChoice("auto", "auto", "always", "never")
	cmd.Flags().Var(c, "color", "when text has colors; auto: on a terminal, unless NO_COLOR is set")
	_ = cmd.RegisterFlagCompletionFunc("color", cobra.FixedCompletions(c.allowed, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// WantsColor reports whether the output of cmd has colors.
func (p *Program) WantsColor(color *Choice, cmd *cobra.Command) bool {
	return color.value == "always" || color.value == "auto" && IsTerminal(cmd.OutOrStdout()) && !isSet(p.Environ, "NO_COLOR")
}

// Write prints a rendered text, unless rendering it failed.
func Write(cmd *cobra.Command, text string, err error) error {
	if err == nil {
		_, err = io.WriteString(cmd.OutOrStdout(), text)
	}
	return err
}

// IsTerminal reports whether a stream is a terminal.
func IsTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// isSet reports whether a variable is there and not empty.
func isSet(environ []string, name string) bool {
	for _, entry := range environ {
		if len(entry) > len(name)+1 && entry[:len(name)+1] == name+"=" {
			return true
		}
	}
	return false
}
