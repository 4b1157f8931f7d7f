package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/policy/check"
)

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
		Short: "Write what check has to know of a cluster, for --facts",
		Long: "Facts reads the Namespaces, Gateways, ReferenceGrants and routes of a cluster and writes of each what the policy reads: names, routewarden's labels, " +
			"what routes refer to. Nothing else of the cluster is in it, and nothing is written to the cluster.",
		Args: atMost(0),
	}
	output := outputFlag(cmd, "yaml", "json")
	settings := check.DefaultSettings()
	settings.AddClusterFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cluster, err := check.Connect(settings.Kubeconfig, settings.Context)
		if err != nil {
			return err
		}
		return check.WriteSnapshot(cmd.Context(), cmd.OutOrStdout(), cluster, output.value == "json")
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
