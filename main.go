// Routewarden keeps Gateway API routes on a shared Gateway where that Gateway can serve them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/policy/audit/live"
	"github.com/routewarden/routewarden/policy/check"
	"github.com/routewarden/routewarden/policy/options"
	"github.com/routewarden/routewarden/policy/reference"
	"github.com/routewarden/routewarden/webhook"
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
		Use:           "routewarden",
		Short:         "Keeps routes on a shared Gateway where that Gateway can serve them",
		Long:          "Routewarden decides at admission whether HTTPRoutes and GRPCRoutes on a shared Gateway live in the right namespace and may reach their backends, says why not, and keeps the ReferenceGrants that they need.",
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
	root.AddCommand(checkCommand(p), factsCommand(p), serveCommand(p), configCommand(p), rulesCommand(), versionCommand())
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
	fs := pflag.NewFlagSet("routewarden", pflag.ContinueOnError)
	fs.SortFlags = false
	return fs
}

func serveCommand(p *program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the admission webhook and keep the ReferenceGrants",
		Long:  "Serve answers admission requests for routes, Gateways and ReferenceGrants, and keeps managed ReferenceGrants as long as a route needs them.\n\n" + layersHelp,
		Args:  atMost(0),
	}
	c := newConfiguration()
	c.bind(cmd, c.policyGroup(), c.serverGroup())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, err := c.resolve(p.environ)
		if err != nil {
			return err
		}
		logger := c.serve.Logger(cmd.ErrOrStderr())
		logger.Info("starting", "version", currentBuild().Version, "settings", settings)
		for _, setting := range settings {
			if len(setting.Shadows) > 0 {
				logger.Info("a setting shadows another", "flag", "--"+setting.Flag, "value", setting.Value,
					"source", setting.Source.String(), "shadows", setting.ShadowText())
			}
		}
		return p.serve(logr.NewContext(cmd.Context(), logger), c.serve, c.policy)
	}
	return cmd
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
		Long:  "Rules lists what routewarden looks at. With a rule's ID, as messages, logs and metrics name it, it explains the rule: why it is there, what to do about a finding, a good and a bad example.",
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
	text := "routewarden " + b.Version
	if b.Commit != "" {
		text += " (" + b.Commit + ")"
	}
	return text + " " + b.GoVersion + " " + b.Platform
}

// currentBuild prefers what the linker was told to what the Go toolchain recorded.
func currentBuild() build {
	b := build{Version: version, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
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
	groupAnnotation = "routewarden.dev/group"
	policyFlags     = "Policy"
	serverFlags     = "Server"
	checkFlags      = "Facts and statements"
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
	for _, title := range []string{otherFlags, checkFlags, policyFlags, serverFlags} {
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
		Example: "  helm template . | routewarden check\n" +
			"  kustomize build overlays/prod | routewarden check --facts=facts.yaml --strict\n" +
			"  routewarden check -f manifests --recursive -o sarif > routewarden.sarif",
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
	colour := &choice{value: "auto", allowed: []string{"auto", "always", "never"}}
	cmd.Flags().Var(colour, "color", "when text has colours; auto: on a terminal, unless NO_COLOR is set")
	_ = cmd.RegisterFlagCompletionFunc("color", cobra.FixedCompletions(colour.allowed, cobra.ShellCompDirectiveNoFileComp))
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
		coloured := colour.value == "always" ||
			colour.value == "auto" && isTerminal(cmd.OutOrStdout()) && !isSet(p.environ, "NO_COLOR")
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
			if file.Name != check.StdinName {
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
