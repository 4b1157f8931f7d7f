// Routesteward keeps Gateway API routes on a shared Gateway where that Gateway can serve them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	goruntime "runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/manifests"
	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/audit/live"
	"github.com/routesteward/routesteward/policy/audit/output"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/manifest"
	"github.com/routesteward/routesteward/policy/options"
	"github.com/routesteward/routesteward/policy/reference"
	"github.com/routesteward/routesteward/policy/trace"
	"github.com/routesteward/routesteward/policy/unpark"
	"github.com/routesteward/routesteward/webhook"
)

//go:generate go run ./hack/gendocs

// version is set by the linker (-X main.version=v1.2.3).
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// Exit codes of every command.
const (
	exitClean    = 0
	exitFindings = 1
	exitError    = 2
)

// errFindings ends a command that has reported findings and has no more to say.
var errFindings = errors.New("findings")

func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return (&program{environ: environ, serve: webhook.Run}).run(ctx, args, stdin, stdout, stderr)
}

// program is what the commands need from outside.
type program struct {
	environ []string
	serve   func(context.Context, webhook.Options, policy.Config) error
}

func (p *program) run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := rootCommand(p)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	addCompletion(root)
	cmd, err := root.ExecuteContextC(ctx)
	switch err {
	case nil:
		return exitClean
	case errFindings:
		return exitFindings
	}
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "%[1]s: %[2]v\nRun '%[1]s --help' for usage.\n", usage.cmd.CommandPath(), err)
	} else {
		fmt.Fprintf(stderr, "%s: %v\n", cmd.CommandPath(), err)
	}
	return exitError
}

// usageError is a command line that cmd cannot understand.
type usageError struct {
	error
	cmd *cobra.Command
}

func rootCommand(p *program) *cobra.Command {
	root := &cobra.Command{
		Use:           "routesteward",
		Short:         "Keeps routes on a shared Gateway where that Gateway can serve them",
		Long:          "Routesteward decides at admission whether HTTPRoutes and GRPCRoutes on a shared Gateway live in the right namespace and may reach their backends, says why not, and keeps the ReferenceGrants that they need.",
		SilenceErrors: true,
		SilenceUsage:  true,
		// With Args set cobra leaves it to RunE to refuse what is no command, and so to choose the words.
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetHelpFunc(help)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := cmd.Root().Find(args)
			if err != nil {
				return &usageError{err, cmd.Root()}
			}
			if len(rest) > 0 {
				return unknownCommand(target, rest[0])
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
	})
	root.AddCommand(checkCommand(p), auditCommand(p), traceCommand(p), factsCommand(p), unparkCommand(p), serveCommand(p), manifestsCommand(p), configCommand(p), rulesCommand(), versionCommand())
	return root
}

// addCompletion adds cobra's completion command, made to refuse what it does not know. It keeps the stream that root has now.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	completion, _, _ := root.Find([]string{"completion"})
	completion.Args = cobra.ArbitraryArgs
	completion.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	for _, shell := range completion.Commands() {
		shell.Args = atMost(0)
	}
}

func unknownCommand(parent *cobra.Command, word string) error {
	var names []string
	for _, cmd := range parent.Commands() {
		names = append(names, cmd.Name())
	}
	return &usageError{fmt.Errorf("unknown command %q%s", word, didYouMean(options.Nearest(word, names))), parent}
}

func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		if flag := options.Nearest(unknown.GetSpecifiedName(), options.Names(cmd.Flags())); flag != "" {
			err = fmt.Errorf("%w%s", err, didYouMean("--"+flag))
		}
	}
	return &usageError{err, cmd}
}

func didYouMean(name string) string {
	if name == "" {
		return ""
	}
	return "; did you mean " + name + "?"
}

func atMost(count int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > count {
			return &usageError{fmt.Errorf("unexpected argument %q", args[count]), cmd}
		}
		return nil
	}
}

// configuration is everything that flags, environment and file can set.
type configuration struct {
	policy policy.Config
	serve  webhook.Options
	check  check.Settings
	flags  *pflag.FlagSet
	// judges are what of it the command uses.
	judges []options.Validator
}

// settingsGroup is a group of flags, with what they are bound to.
type settingsGroup struct {
	title string
	add   func(*pflag.FlagSet)
	judge options.Validator
}

func newConfiguration() *configuration {
	return &configuration{
		policy: policy.DefaultConfig(), serve: webhook.DefaultOptions(), check: check.DefaultSettings(), flags: newFlagSet(),
	}
}

func (c *configuration) policyGroup() settingsGroup {
	return settingsGroup{policyFlags, func(fs *pflag.FlagSet) { options.AddFlags(fs, &c.policy) }, &c.policy}
}

func (c *configuration) serverGroup() settingsGroup {
	return settingsGroup{serverFlags, c.serve.AddFlags, &c.serve}
}

func (c *configuration) checkGroup() settingsGroup {
	return settingsGroup{checkFlags, c.check.AddFlags, &c.check}
}

// bind adds groups of flags to cmd.
func (c *configuration) bind(cmd *cobra.Command, groups ...settingsGroup) {
	for _, group := range groups {
		fs := newFlagSet()
		group.add(fs)
		fs.VisitAll(func(flag *pflag.Flag) {
			if flag.Name != options.ConfigFlag {
				flag.Annotations = map[string][]string{groupAnnotation: {group.title}}
			}
		})
		c.flags.AddFlagSet(fs)
		c.judges = append(c.judges, group.judge)
	}
	options.Tolerate(c.flags)
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(c.flags)
	c.flags.VisitAll(func(flag *pflag.Flag) {
		if values := options.Values(flag); values != nil {
			// The error means that the flag is missing or has one already: neither, here.
			_ = cmd.RegisterFlagCompletionFunc(flag.Name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
		}
	})
}

func (c *configuration) resolve(environ []string) (options.Settings, error) {
	return options.Resolve(c.flags, knownSettings(), environ, c.judges...)
}

// knownSettings are the settings of all commands, so that one file and one environment can serve them all.
func knownSettings() []string {
	var names []string
	c := newConfiguration()
	for _, group := range []settingsGroup{c.policyGroup(), c.serverGroup(), c.checkGroup()} {
		fs := newFlagSet()
		group.add(fs)
		for _, name := range options.Names(fs) {
			if !slices.Contains(names, name) { // --kubeconfig is one setting of two commands
				names = append(names, name)
			}
		}
	}
	return names
}

func newFlagSet() *pflag.FlagSet {
	fs := pflag.NewFlagSet("routesteward", pflag.ContinueOnError)
	fs.SortFlags = false
	return fs
}

func serveCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the admission webhook, keep ReferenceGrants and relocated routes",
		Long: "Serve answers admission requests for routes, Gateways and ReferenceGrants, keeps managed ReferenceGrants as long as a route needs them and relocated copies as long as " +
			"their sources are parked, and looks at the routes' status now and then.\n\n" + layersHelp,
		Args: atMost(0),
	}
	c := newConfiguration()
	c.bind(cmd, c.policyGroup(), c.serverGroup())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, err := c.resolve(p.environ)
		if err != nil {
			return err
		}
		logger := c.serve.Logger(cmd.ErrOrStderr())
		c.serve.Version = currentBuild().Version
		logger.Info("starting", "version", c.serve.Version, "settings", settings)
		for _, setting := range settings {
			if len(setting.Shadows) > 0 {
				logger.Info("a setting shadows another", "flag", "--"+setting.Flag, "value", setting.Value,
					"source", setting.Source.String(), "shadows", setting.ShadowText())
			}
		}
		return p.serve(logr.NewContext(cmd.Context(), logr.FromSlogHandler(logger.Handler())), c.serve, c.policy)
	}
	return cmd
}

func manifestsCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "manifests",
		Short: "Print what to apply: the installation, or a policy for when it is down",
		Long: "Manifests prints what installs routesteward, for kubectl apply -f -. It has the default settings; to install it with others, use the chart.\n\n" +
			"With --policy=vap it prints a ValidatingAdmissionPolicy with its binding instead, compiled from the policy flags. The API server itself then refuses routes on a Gateway " +
			"of the system namespace that live elsewhere, also while routesteward is down, and when its webhook configurations are deleted. " +
			"What only the cluster's state can tell is left to routesteward. After a change of the flags, print and apply it again.\n\n" + layersHelp,
		Example: "  routesteward manifests | kubectl apply -f -\n" +
			"  routesteward manifests --policy=vap --exempt-groups=platform | kubectl apply -f -",
		Args: atMost(0),
	}
	certificates := &choice{value: "embedded", allowed: []string{"embedded", "cert-manager"}}
	cmd.Flags().Var(certificates, "certs", "whose serving certificates the installation uses")
	fallback := &choice{allowed: []string{"vap"}}
	cmd.Flags().Var(fallback, "policy", "print a ValidatingAdmissionPolicy (vap) and not the installation")
	c := newConfiguration()
	c.bind(cmd, c.policyGroup(), settingsGroup{policyFlags, func(fs *pflag.FlagSet) {
		every := newFlagSet()
		c.serve.AddFlags(every)
		fs.AddFlag(every.Lookup("namespace"))
	}, &c.serve})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if fallback.value == "" {
			if set := slices.IndexFunc(options.Names(c.flags), cmd.Flags().Changed); set >= 0 {
				return &usageError{fmt.Errorf("--%s is for --policy=vap; the installation has the default settings, and the chart changes them", options.Names(c.flags)[set]), cmd}
			}
			return write(cmd, map[string]string{"embedded": manifests.Install, "cert-manager": manifests.InstallCertManager}[certificates.value], nil)
		}
		if cmd.Flags().Changed("certs") {
			return &usageError{errors.New("--certs is for the installation, not for --policy"), cmd}
		}
		settings, err := c.resolve(p.environ)
		if err != nil {
			return err
		}
		c.policy.Self = "system:serviceaccount:" + c.serve.Namespace + ":routesteward"
		text, err := fallbackManifest(c.policy, settings)
		return write(cmd, text, err)
	}
	return cmd
}

// fallbackManifest is the ValidatingAdmissionPolicy of a policy and its binding, with what it was made from.
func fallbackManifest(config policy.Config, settings options.Settings) (string, error) {
	pol, err := policy.New(config)
	if err != nil {
		return "", err
	}
	vap, binding, err := pol.Fallback()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "# The API server itself keeps routes on Gateways of namespace %q in that namespace, also while routesteward is down.\n"+
		"# Printed by `routesteward manifests --policy=vap` (%s) under", config.SystemNamespace, currentBuild().Version)
	changed := 0
	for _, setting := range settings {
		if setting.Flag != options.ConfigFlag && !reflect.DeepEqual(setting.Value, setting.Default) {
			// Quoted, as a line break would end the comment.
			fmt.Fprintf(&text, "\n#   --%s=%q", setting.Flag, setting.ValueText())
			changed++
		}
	}
	if changed == 0 {
		text.WriteString(" the default settings")
	}
	text.WriteString("\n# Print and apply it again after a change of these.\n")
	for _, object := range []runtime.Object{vap, binding} {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			return "", err
		}
		delete(content, "status")
		document, err := yaml.Marshal(content)
		if err != nil {
			return "", err
		}
		text.WriteString("---\n" + string(document))
	}
	return text.String(), nil
}

func configCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show each setting's value, where it comes from and what it shadows",
		Long:  "Config takes the flags of serve and shows what they come to. Every fault is reported, and the exit code is 2 when there is one. The output yaml is a file for --config.\n\n" + layersHelp,
		Args:  atMost(0),
	}
	c := newConfiguration()
	c.bind(cmd, c.policyGroup(), c.serverGroup())
	output := outputFlag(cmd, "text", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, invalid := c.resolve(p.environ)
		var text string
		var err error
		switch output.value {
		case "json":
			shown := struct {
				Settings options.Settings `json:"settings"`
				Errors   []string         `json:"errors,omitempty"`
			}{Settings: settings}
			var faults *options.InvalidError
			if errors.As(invalid, &faults) {
				shown.Errors = faults.Faults
			}
			text, err = reference.JSON(shown)
		case "yaml":
			text, err = settings.YAML()
		default:
			text = settings.Text()
		}
		return errors.Join(write(cmd, text, err), invalid)
	}
	return cmd
}

func rulesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules [ID]",
		Short: "List the rules, or explain one",
		Long:  "Rules lists what routesteward looks at. With a rule's ID, as messages, logs and metrics name it, it explains the rule: why it is there, what to do about a finding, a good and a bad example.",
		Args:  atMost(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return ruleIDs(reference.Rules()), cobra.ShellCompDirectiveNoFileComp
		},
	}
	output := outputFlag(cmd, "text", "json", "markdown")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		rules := reference.Rules()
		if len(args) == 0 {
			switch output.value {
			case "json":
				text, err := reference.JSON(rules)
				return write(cmd, text, err)
			case "markdown":
				return write(cmd, reference.RulesMarkdown(rules), nil)
			default:
				return write(cmd, reference.RulesText(rules), nil)
			}
		}
		i := slices.IndexFunc(rules, func(rule reference.Rule) bool { return rule.ID == args[0] })
		if i < 0 {
			return &usageError{fmt.Errorf("unknown rule %q; the rules are:\n  %s", args[0], strings.Join(ruleIDs(rules), "\n  ")), cmd}
		}
		switch output.value {
		case "json":
			text, err := reference.JSON(rules[i])
			return write(cmd, text, err)
		case "markdown":
			return write(cmd, rules[i].Markdown(), nil)
		default:
			return write(cmd, rules[i].Text(), nil)
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

func versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  atMost(0),
	}
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		built := currentBuild()
		if output.value == "json" {
			text, err := reference.JSON(built)
			return write(cmd, text, err)
		}
		return write(cmd, built.String()+"\n", nil)
	}
	return cmd
}

type build struct {
	Version string `json:"version"`
	// Commit is empty when the program was not built from a checkout.
	Commit    string `json:"commit,omitempty"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
}

func (b build) String() string {
	text := "routesteward " + b.Version
	if b.Commit != "" {
		text += " (" + b.Commit + ")"
	}
	return text + " " + b.GoVersion + " " + b.Platform
}

// currentBuild prefers what the linker was told to what the Go toolchain recorded.
func currentBuild() build {
	b := build{Version: version, GoVersion: goruntime.Version(), Platform: goruntime.GOOS + "/" + goruntime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				b.Commit = setting.Value
			}
		}
		if b.Version == "" {
			b.Version = info.Main.Version
		}
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "devel"
	}
	return b
}

// choice is a flag's value out of a fixed set; the first one is the default.
type choice struct {
	value   string
	allowed []string
}

func (c *choice) Set(text string) error {
	if !slices.Contains(c.allowed, text) {
		return fmt.Errorf("want one of %s", strings.Join(c.allowed, ", "))
	}
	c.value = text
	return nil
}

func (c *choice) String() string   { return c.value }
func (c *choice) Type() string     { return "string" }
func (c *choice) Values() []string { return c.allowed }

func outputFlag(cmd *cobra.Command, formats ...string) *choice {
	output := &choice{value: formats[0], allowed: formats}
	cmd.Flags().VarP(output, "output", "o", "format of the output")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return output
}

// write prints a rendered text, unless rendering it failed.
func write(cmd *cobra.Command, text string, err error) error {
	if err == nil {
		_, err = io.WriteString(cmd.OutOrStdout(), text)
	}
	return err
}

const (
	groupAnnotation = "routesteward.dev/group"
	policyFlags     = "Policy"
	serverFlags     = "Server"
	checkFlags      = "Facts and statements"
	auditFlags      = "Cluster"
	otherFlags      = "Flags"

	layersHelp = "Each setting comes from its flag, else from an environment variable (" + options.EnvironmentPrefix + "OUTSIDE for --outside), else from the file that --config names, else it has its default."
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
	for _, title := range []string{otherFlags, auditFlags, checkFlags, policyFlags, serverFlags} {
		group := newFlagSet()
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

func checkCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [-f FILE|DIR|-]... [FILE|DIR|-]...",
		Short: "Say of manifests what admission would say, without a cluster",
		Long: "Check reads YAML and JSON manifests, the standard input where no file is named, and says of each route, Gateway and ReferenceGrant what admission would say, with file, line and column. " +
			"What it has to know of the cluster it takes from the manifests themselves, from --facts or from --cluster; what is known to none of them is reported as decided at admission.\n\n" +
			"The exit code is 0 when nothing would be refused, 1 when something would, and 2 when part of the input could not be read.\n\n" + layersHelp,
		Example: "  helm template . | routesteward check\n" +
			"  kustomize build overlays/prod | routesteward check --facts=facts.yaml --strict\n" +
			"  routesteward check -f manifests --recursive -o sarif > routesteward.sarif",
	}
	var files []string
	var recursive bool
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "`FILE` or directory to check, - for the standard input; may be repeated, and arguments are files too")
	cmd.Flags().Lookup("filename").DefValue = "" // not []
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "also read the folders of directories")
	var formats []string
	for _, format := range check.Formats() {
		formats = append(formats, string(format))
	}
	output := outputFlag(cmd, formats...)
	colour := colourFlag(cmd)
	var baseline string
	var fix, dryRun bool
	cmd.Flags().StringVar(&baseline, "baseline", "", "`FILE` that -o json has written earlier: only what it does not have fails the check")
	cmd.Flags().BoolVar(&fix, "fix", false, "change the files so that they pass, where that can be done; the standard input is written to the standard output")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "with --fix: print what would change, as a patch, and change nothing")
	c := newConfiguration()
	c.bind(cmd, c.checkGroup(), c.policyGroup())

	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case dryRun && !fix:
			return &usageError{errors.New("--dry-run is a part of --fix"), cmd}
		case fix && (baseline != "" || cmd.Flags().Changed("output")):
			return &usageError{errors.New("--fix writes manifests, or a patch with --dry-run: it takes neither --output nor --baseline"), cmd}
		}
		if files = append(files, args...); len(files) == 0 {
			if isTerminal(cmd.InOrStdin()) {
				return &usageError{errors.New("nothing to check: name files with -f, or pipe manifests in"), cmd}
			}
			files = []string{"-"}
		}
		o, err := c.checkOptions(p.environ)
		if err != nil {
			return err
		}
		o.Files, o.Recursive, o.Stdin = files, recursive, cmd.InOrStdin()
		var before check.Report
		if baseline != "" {
			if before, err = check.ReadBaseline(baseline); err != nil {
				return err
			}
		}
		progress := newProgress(cmd.ErrOrStderr())
		o.Progress = progress.tell
		if fix {
			fixes, err := check.Fix(cmd.Context(), o)
			progress.clear()
			if err != nil {
				return err
			}
			return writeFixes(cmd, fixes, dryRun)
		}
		report, err := check.Run(cmd.Context(), o)
		progress.clear()
		if err != nil {
			return err
		}
		if baseline != "" {
			report.Compare(before)
		}
		coloured := wantsColour(colour, cmd, p.environ)
		if err := report.Write(cmd.OutOrStdout(), check.Format(output.value), check.WriteOptions{Color: coloured, Version: currentBuild().Version}); err != nil {
			return err
		}
		if err := unchecked(report); err != nil {
			return err
		}
		if report.Summary.Failed {
			return errFindings
		}
		return nil
	}
	return cmd
}

// unchecked is the error of a report with problems.
func unchecked(report check.Report) error {
	switch len(report.Problems) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("not everything could be checked: %s", report.Problems[0])
	default:
		return fmt.Errorf("not everything could be checked: %d problems, the first is %s", len(report.Problems), report.Problems[0])
	}
}

// writeFixes writes the manifests as they should be, or what would change, and says what needs a person.
func writeFixes(cmd *cobra.Command, fixes check.Fixes, dryRun bool) error {
	stderr := cmd.ErrOrStderr()
	for _, problem := range fixes.Report.Problems {
		fmt.Fprintln(stderr, problem)
	}
	for _, unfixed := range fixes.Unfixed {
		fmt.Fprintln(stderr, unfixed)
	}
	if dryRun {
		if err := write(cmd, fixes.Diff(), nil); err != nil {
			return err
		}
	} else {
		if err := fixes.Write(cmd.OutOrStdout()); err != nil {
			return err
		}
		for _, file := range fixes.Files {
			if file.Name != manifest.StdinName {
				fmt.Fprintf(stderr, "%s: fixed\n", file.Name)
			}
		}
	}
	if err := unchecked(fixes.Report); err != nil {
		return err
	}
	if slices.ContainsFunc(fixes.Unfixed, func(u check.Unfixed) bool { return u.Fails }) || dryRun && fixes.Diff() != "" {
		return errFindings
	}
	return nil
}

// checkOptions are what the settings come to.
func (c *configuration) checkOptions(environ []string) (check.Options, error) {
	if _, err := c.resolve(environ); err != nil {
		return check.Options{}, err
	}
	judge, err := policy.New(c.policy)
	if err != nil {
		return check.Options{}, err
	}
	o := check.Options{
		Policy: judge, Facts: c.check.Facts, User: policy.User{Name: c.check.As, Groups: c.check.AsGroups},
		AsConsented: c.check.AsConsented, DefaultNamespace: c.check.DefaultNamespace, Strict: c.check.Strict, Advice: c.check.Advice,
	}
	if c.check.Cluster {
		if o.Cluster, err = check.Connect(c.check.Kubeconfig, c.check.Context); err != nil {
			return check.Options{}, err
		}
	}
	return o, nil
}

func factsCommand(*program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "facts",
		Short: "Write what check, audit and trace have to know of a cluster, for --facts",
		Long: "Facts reads the Namespaces, Gateways, ReferenceGrants and routes of a cluster, the Services and EndpointSlices of namespaces that routes refer to, " +
			"and of AIBrix's gateway plugin the variables that change routing. Of each it writes what is judged: no other labels and annotations, no headers that a filter sets, no Secrets. " +
			"What may not be read of the last three is noted in the file. Nothing is written to the cluster.",
		Args: atMost(0),
	}
	output := outputFlag(cmd, "yaml", "json")
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
		return check.WriteSnapshot(cmd.OutOrStdout(), read, output.value == "json")
	}
	return cmd
}

func unparkCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unpark ROUTE... | --all [-n NAMESPACE | -A] | -f FILE",
		Short: "Give parked routes their parentRefs back",
		Long: "Unpark gives routes that --outside=rewrite has parked their parentRefs back, with your rights, and waits until routesteward has removed their relocated copies. " +
			"A ROUTE is KIND/NAME; without KIND it is an HTTPRoute. It is for leaving --outside=rewrite and for uninstalling routesteward: first tell that to relocate no more. " +
			"The shared Gateway does not serve an unparked route, as it takes routes from its own namespace only.\n\n" +
			"The exit code is 0 when nothing is left to do, 1 when a route is still parked or a copy is still there, and 2 when that could not be told.\n\n" + layersHelp,
		Example: "  routesteward unpark httproute/llama-router -n team-a\n" +
			"  routesteward unpark --all -A --dry-run\n" +
			"  kubectl get httproute llama-router -n team-a -o yaml | routesteward unpark -f -",
	}
	var o unpark.Options
	var all, allNamespaces bool
	var file string
	flags := cmd.Flags()
	flags.BoolVar(&all, "all", false, "every parked route of the namespace")
	flags.StringVarP(&o.Namespace, "namespace", "n", "", "`NAMESPACE` of the routes; empty: that of the kubeconfig's context")
	flags.BoolVarP(&allNamespaces, "all-namespaces", "A", false, "with --all: of every namespace")
	flags.StringVarP(&file, "filename", "f", "", "`FILE` whose parked routes are written to the standard output as they should be, - for the standard input; no cluster is asked")
	flags.BoolVar(&o.DryRun, "dry-run", false, "ask the API server what would become of it, and change nothing")
	flags.BoolVar(&o.DeleteCopies, "delete-copies", false, "delete the relocated copies too, where routesteward does not run any more")
	flags.DurationVar(&o.Timeout, "timeout", 30*time.Second, "how long the copies are waited for")
	output := outputFlag(cmd, "text", "json")
	cluster := check.DefaultSettings()
	cluster.AddClusterFlags(flags)
	c := newConfiguration()
	c.bind(cmd, settingsGroup{policyFlags, func(fs *pflag.FlagSet) {
		every := newFlagSet()
		options.AddFlags(every, &c.policy)
		fs.AddFlag(every.Lookup(options.ConfigFlag))
		fs.AddFlag(every.Lookup("system-namespace"))
	}, &c.policy})

	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case file != "" && (len(args) > 0 || slices.ContainsFunc([]string{"all", "all-namespaces", "namespace", "dry-run", "delete-copies", "output"}, cmd.Flags().Changed)):
			return &usageError{errors.New("-f writes a manifest and asks no cluster: it takes neither routes nor what is about them"), cmd}
		case file == "" && all == (len(args) > 0):
			return &usageError{errors.New("name routes, or give --all"), cmd}
		case allNamespaces && (!all || o.Namespace != ""):
			return &usageError{errors.New("--all-namespaces is a part of --all, without --namespace"), cmd}
		}
		for _, arg := range args {
			name, err := unpark.ParseName(arg)
			if err != nil {
				return &usageError{err, cmd}
			}
			if !slices.Contains(o.Names, name) {
				o.Names = append(o.Names, name)
			}
		}
		_, err := c.resolve(p.environ)
		if err == nil {
			o.Policy, err = policy.New(c.policy)
		}
		if err != nil {
			return err
		}
		if file != "" {
			return unparkFile(cmd, o.Policy, file)
		}
		client, namespace, err := unpark.Connect(cluster.Kubeconfig, cluster.Context, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		if o.Namespace == "" && !allNamespaces {
			o.Namespace = namespace
		}
		report, err := unpark.Run(cmd.Context(), client, o)
		var written error
		if output.value == "json" {
			written = report.WriteJSON(cmd.OutOrStdout())
		} else {
			written = report.WriteText(cmd.OutOrStdout())
		}
		switch {
		case err != nil || written != nil:
			return errors.Join(err, written)
		case report.Failed():
			return errors.New("not every route could be unparked")
		case !report.Complete():
			return errFindings
		}
		return nil
	}
	return cmd
}

func traceCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace --url URL [--model MODEL]",
		Short: "Send a request through the gateway and say which way it took",
		Long: "Trace sends a real request and explains its answer: the status, AIBrix's headers, the pod behind target-pod, and by what is known of the cluster which route should have served it, " +
			"its status, its backends and the ReferenceGrants that permit them. The verdict is routed, bypassed (AIBrix's gateway plugin chose a Pod by a routing strategy, past the HTTPRoute), unexpected, or stopped and where.\n\n" +
			"What is known of the cluster comes from --facts, else from the cluster of the kubeconfig, of which nothing is changed. Without either, only the answer is explained. " +
			"The cluster is asked before the request is sent.\n\n" +
			"The exit code is 0 when every request was answered 2xx or 3xx through the expected route, 1 when one was not, and 2 when nobody took the request.\n\n" + layersHelp,
		Example: "  routesteward trace --url http://10.0.0.1 --model llama\n" +
			"  routesteward trace --url http://10.0.0.1 --model llama --routing-strategy least-request -n 20\n" +
			"  routesteward trace --url https://models.example.com/v1/models -H 'Authorization: Bearer x' --facts=facts.yaml -o json",
		Args: atMost(0),
	}
	var asked trace.Asked
	var sender trace.Sender
	var count int
	var data, gateway string
	var facts []string
	var cluster bool
	fs := cmd.Flags()
	fs.StringVar(&asked.URL, "url", "", "`URL` of the gateway and the path to ask for; http:// where it names no scheme, and with --model "+trace.DefaultPath+" where it names no path")
	fs.StringVar(&asked.Model, "model", "", "send a small body that names this `MODEL`")
	fs.StringVar(&asked.RoutingStrategy, "routing-strategy", "", "`NAME` to send in AIBrix's header routing-strategy, such as least-request")
	fs.StringArrayVarP(&asked.Headers, "header", "H", nil, "`HEADER` to send, as 'Name: value'; may be repeated")
	fs.StringVarP(&data, "data", "d", "", "`BODY` to send; @FILE reads it from a file, @- from the standard input")
	fs.StringVarP(&asked.Method, "request", "X", "", "`METHOD`; empty: POST with a body, else GET")
	fs.IntVarP(&count, "count", "n", 1, "send so many `REQUESTS`, one after the other, and tell how they spread over pods")
	fs.DurationVar(&sender.Timeout, "timeout", 30*time.Second, "how long to wait for each answer; 0: for ever")
	fs.BoolVarP(&sender.Insecure, "insecure", "k", false, "accept any certificate")
	fs.StringVar(&sender.CAFile, "cacert", "", "`FILE` with the certificates of the authorities to trust, instead of the system's")
	fs.StringVar(&gateway, "gateway", "", "`NAMESPACE/NAME` of the Gateway that the URL belongs to; empty: that of the system namespace which has the URL's address, or the only one there")
	options.ListVar(fs, &facts, "facts", "`PATHS` of files or directories that hold all there is in the cluster, as `routesteward facts` writes it; read instead of the cluster")
	fs.BoolVar(&cluster, "cluster", true, "read the cluster of the kubeconfig, where there is one; =false: explain the answer alone")
	settings := check.DefaultSettings()
	settings.AddClusterFlags(fs)
	fs.Lookup("header").DefValue = "" // not []
	output := outputFlag(cmd, "text", "json")
	colour := colourFlag(cmd)
	c := newConfiguration()
	c.bind(cmd, c.policyGroup())

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if count < 1 {
			return &usageError{fmt.Errorf("--count: %d is less than 1", count), cmd}
		}
		if fs.Changed("data") {
			body, err := readData(data, cmd.InOrStdin())
			if err != nil {
				return err
			}
			asked.Data = body
		}
		request, err := trace.NewRequest(asked)
		if err != nil {
			return &usageError{err, cmd}
		}
		if _, err := c.resolve(p.environ); err != nil {
			return err
		}
		known := &trace.Facts{Gateway: gateway}
		if known.Policy, err = policy.New(c.policy); err != nil {
			return err
		}
		unread := ""
		switch {
		case len(facts) > 0:
			var problems []check.Problem
			if known.Cluster, problems, err = check.ReadSnapshot(cmd.Context(), facts); err != nil {
				return err
			}
			if len(problems) > 0 {
				return fmt.Errorf("--facts: %s", problems[0])
			}
		case cluster:
			ctx, cancel := context.WithTimeout(cmd.Context(), clusterTimeout)
			known.Cluster, err = readCluster(ctx, settings.Kubeconfig, settings.Context)
			cancel()
			asked := fs.Changed("kubeconfig") || fs.Changed("context") || fs.Changed("cluster") || fs.Changed("gateway")
			if err != nil && (asked || cmd.Context().Err() != nil) {
				return err
			}
			if err != nil {
				known, unread = nil, fmt.Sprintf("The cluster could not be read: %v.", err)
			}
		default:
			known = nil
		}
		id := trace.NewID()
		responses, err := sender.Send(cmd.Context(), request, id, count)
		if err != nil {
			return err
		}
		report := trace.Explain(request, id, responses, known)
		if unread != "" {
			report.NotKnown = append([]string{unread}, report.NotKnown...)
		}
		if output.value == "json" {
			err = report.WriteJSON(cmd.OutOrStdout())
		} else {
			err = report.WriteText(cmd.OutOrStdout(), wantsColour(colour, cmd, p.environ))
		}
		switch {
		case err != nil:
			return err
		case report.Verdict.Outcome == trace.Unreached:
			return errors.New(report.Verdict.Words)
		case report.Failed():
			return errFindings
		}
		return nil
	}
	return cmd
}

func unparkFile(cmd *cobra.Command, judge *policy.Policy, file string) error {
	from := cmd.InOrStdin()
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return err
		}
		defer opened.Close()
		from = opened
	}
	if _, err := unpark.Manifests(judge, from, cmd.OutOrStdout()); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// clusterTimeout bounds the reading of a cluster that nobody has named: the answer can be explained without it.
const clusterTimeout = 30 * time.Second

func readCluster(ctx context.Context, kubeconfig, context string) (*audit.Cluster, error) {
	cluster, err := live.Connect(kubeconfig, context)
	if err != nil {
		return nil, err
	}
	return cluster.Read(ctx, live.Everything())
}

// readData is a body as curl's --data has it.
func readData(data string, stdin io.Reader) ([]byte, error) {
	name, isFile := strings.CutPrefix(data, "@")
	switch {
	case !isFile:
		return []byte(data), nil
	case name == "-":
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

func wantsColour(colour *choice, cmd *cobra.Command, environ []string) bool {
	return colour.value == "always" || colour.value == "auto" && isTerminal(cmd.OutOrStdout()) && !isSet(environ, "NO_COLOR")
}

// auditGroup are the flags of commands that look at a cluster or a snapshot of it; the settings are those of check.
func (c *configuration) auditGroup() settingsGroup {
	return settingsGroup{auditFlags, func(fs *pflag.FlagSet) {
		options.ListVar(fs, &c.check.Facts, "facts",
			"`PATHS` of files or directories that hold all there is in the cluster, as `routesteward facts` writes it; without, the cluster is read, and nothing is written")
		c.check.AddClusterFlags(fs)
		fs.BoolVar(&c.check.Strict, "strict", c.check.Strict, "fail also on warnings")
	}, &c.check}
}

func auditCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit [NAMESPACE|NAMESPACE/NAME]...",
		Short: "Say of the routes in a cluster why they do or do not work",
		Long: "Audit reads a live cluster through kubeconfig, or what `routesteward facts` has written, and says of every route on a shared Gateway, or meant for one, which listeners take it, " +
			"what permits its references to other namespaces, what its status means, which route takes its requests, and whom a fault affects where AIBrix's gateway plugin is there. " +
			"With arguments it tells everything about these routes. It only reads.\n\n" +
			"The exit code is 0 when no error was found, 1 when one was (with --strict: or a warning), and 2 when the cluster could not be read.\n\n" + layersHelp,
		Example: "  routesteward audit\n" +
			"  routesteward audit aibrix-system/llama-router\n" +
			"  routesteward audit --facts=facts.yaml -o html > audit.html",
	}
	var formats []string
	for _, format := range output.Formats() {
		formats = append(formats, string(format))
	}
	format := outputFlag(cmd, formats...)
	colour := colourFlag(cmd)
	var details, watch bool
	var limit int
	interval := 10 * time.Second
	cmd.Flags().BoolVar(&details, "details", false, "with -o text: tell everything about every route, also where nothing was found")
	cmd.Flags().IntVar(&limit, "limit", 50, "with -o text: about how many `OBJECTS` everything found is told, the worst first; 0: all")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "look again every --interval, until interrupted")
	cmd.Flags().DurationVar(&interval, "interval", interval, "`TIME` between two looks of --watch; at least 1s")
	c := newConfiguration()
	c.bind(cmd, c.auditGroup(), c.policyGroup())

	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case interval < time.Second:
			return &usageError{errors.New("--interval must be at least 1s"), cmd}
		case watch && output.Format(format.value) != output.FormatText:
			return &usageError{errors.New("--watch goes with -o text only"), cmd}
		}
		look, err := c.auditor(p.environ)
		if err != nil {
			return err
		}
		stdout := cmd.OutOrStdout()
		o := output.Options{Color: wantsColour(colour, cmd, p.environ), Details: details || len(args) > 0, Limit: limit, Version: currentBuild().Version}
		again := func() error {
			report, err := look(cmd.Context())
			if err == nil && len(args) > 0 {
				report, err = report.Only(args)
			}
			if err != nil {
				return err
			}
			if watch {
				separate(stdout)
			}
			if err := output.Write(stdout, report, output.Format(format.value), o); err != nil {
				return err
			}
			if report.Failed(c.check.Strict) {
				return errFindings
			}
			return nil
		}
		if !watch {
			return again()
		}
		return repeat(cmd.Context(), interval, cmd.ErrOrStderr(), again)
	}
	return cmd
}

// auditor is what looks at the cluster or snapshot that the settings name.
func (c *configuration) auditor(environ []string) (func(context.Context) (audit.Report, error), error) {
	read, err := c.reader(environ)
	if err != nil {
		return nil, err
	}
	judge, err := policy.New(c.policy)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (audit.Report, error) {
		cluster, err := read(ctx)
		if err != nil {
			return audit.Report{}, err
		}
		return audit.Run(judge, cluster), nil
	}, nil
}

// reader reads the snapshot that the settings name, or else the cluster.
func (c *configuration) reader(environ []string) (func(context.Context) (*audit.Cluster, error), error) {
	if _, err := c.resolve(environ); err != nil {
		return nil, err
	}
	if len(c.check.Facts) > 0 {
		return func(ctx context.Context) (*audit.Cluster, error) {
			cluster, problems, err := check.ReadSnapshot(ctx, c.check.Facts)
			if err == nil {
				err = unchecked(check.Report{Problems: problems})
			}
			return cluster, err
		}, nil
	}
	cluster, err := live.Connect(c.check.Kubeconfig, c.check.Context)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (*audit.Cluster, error) { return cluster.Read(ctx, live.Everything()) }, nil
}

// repeat calls look every interval until the context ends, and returns what the last one that could look returned. That the
// cluster cannot be read for a while is told and no reason to stop, unless it never could.
func repeat(ctx context.Context, interval time.Duration, stderr io.Writer, look func() error) error {
	last := look()
	if last != nil && last != errFindings {
		return last
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return last
		case <-ticker.C:
		}
		switch err := look(); {
		case err == nil, err == errFindings:
			last = err
		case ctx.Err() == nil:
			fmt.Fprintln(stderr, err)
		}
	}
}

// separate clears a terminal, and draws a line in what is no terminal.
func separate(stdout io.Writer) {
	if isTerminal(stdout) {
		fmt.Fprint(stdout, "\x1b[2J\x1b[H")
		return
	}
	fmt.Fprintf(stdout, "--- %s ---\n", time.Now().UTC().Format(time.RFC3339))
}

func colourFlag(cmd *cobra.Command) *choice {
	c := &choice{value: "auto", allowed: []string{"auto", "always", "never"}}
	cmd.Flags().Var(c, "color", "when text has colours; auto: on a terminal, unless NO_COLOR is set")
	_ = cmd.RegisterFlagCompletionFunc("color", cobra.FixedCompletions(c.allowed, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// isSet says whether a variable is there and not empty.
func isSet(environ []string, name string) bool {
	for _, entry := range environ {
		if len(entry) > len(name)+1 && entry[:len(name)+1] == name+"=" {
			return true
		}
	}
	return false
}

// progress is a line on a terminal that tells how far a long check has come.
type progress struct {
	terminal io.Writer // nil: nobody looks
	next     time.Time
	shown    bool
}

func newProgress(stderr io.Writer) *progress {
	p := &progress{next: time.Now().Add(time.Second)}
	if isTerminal(stderr) {
		p.terminal = stderr
	}
	return p
}

func (p *progress) tell(read, judged int) {
	// Asking for the time costs more than a small document.
	if p.terminal == nil || (read+judged)%64 != 0 || time.Now().Before(p.next) {
		return
	}
	p.next, p.shown = time.Now().Add(100*time.Millisecond), true
	fmt.Fprintf(p.terminal, "\r%d documents read, %d judged", read, judged)
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.terminal, "\r\x1b[K")
	}
}
