package command

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/settings"
)

// Group is a group of flags that also have an environment variable and a key of the configuration file.
type Group struct {
	Title string
	// Add adds the flags, which are bound to the settings that Validator validates.
	Add       func(*pflag.FlagSet)
	Validator settings.Validator
}

// PolicyGroup are the flags of the policy.
func PolicyGroup(config *policy.Config) Group {
	return Group{PolicyFlags, func(fs *pflag.FlagSet) { settings.AddFlags(fs, config) }, config}
}

// Only is the group with some of its flags.
func (g Group) Only(names ...string) Group {
	add := g.Add
	g.Add = func(fs *pflag.FlagSet) {
		every := NewFlagSet()
		add(every)
		for _, name := range names {
			fs.AddFlag(every.Lookup(name))
		}
	}
	return g
}

// Names are the names of the settings of all groups, each once.
func Names(groups ...Group) []string {
	var names []string
	for _, group := range groups {
		fs := NewFlagSet()
		group.Add(fs)
		for _, name := range settings.Names(fs) {
			if !slices.Contains(names, name) { // --kubeconfig is one setting of two commands
				names = append(names, name)
			}
		}
	}
	return names
}

// Settings are the settings of one command.
type Settings struct {
	*pflag.FlagSet
	program    *Program
	validators []settings.Validator
}

// Bind adds groups of flags to cmd.
func (p *Program) Bind(cmd *cobra.Command, groups ...Group) *Settings {
	s := &Settings{FlagSet: NewFlagSet(), program: p}
	for _, group := range groups {
		fs := NewFlagSet()
		group.Add(fs)
		fs.VisitAll(func(flag *pflag.Flag) {
			if flag.Name != settings.ConfigFlag {
				flag.Annotations = map[string][]string{groupAnnotation: {group.Title}}
			}
		})
		s.AddFlagSet(fs)
		s.validators = append(s.validators, group.Validator)
	}
	settings.Tolerate(s.FlagSet)
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(s.FlagSet)
	s.VisitAll(func(flag *pflag.Flag) {
		if values := settings.Values(flag); values != nil {
			// The error means that the flag is missing or has one already: neither, here.
			_ = cmd.RegisterFlagCompletionFunc(flag.Name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
		}
	})
	return s
}

// Resolve sets every setting from the strongest layer that has it. An error lists every fault.
func (s *Settings) Resolve() (settings.Settings, error) {
	return settings.Resolve(s.FlagSet, s.program.Settings, s.program.Environ, s.validators...)
}

// NewFlagSet is an empty set that keeps the order of its flags.
func NewFlagSet() *pflag.FlagSet {
	fs := pflag.NewFlagSet("routesteward", pflag.ContinueOnError)
	fs.SortFlags = false
	return fs
}
