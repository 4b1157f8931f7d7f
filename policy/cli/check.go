// Package cli has the commands that need no webhook, one in a file.
package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/cli/command"
	"github.com/routesteward/routesteward/policy/manifest"
)

// Check is the command check.
func Check(p *command.Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [-f FILE|DIR|-]... [FILE|DIR|-]...",
		Short: "Show what admission would say about manifests, without a cluster",
		Long: "Check reads YAML and JSON manifests, the standard input where no file is named, and shows what admission would say about each route, Gateway and ReferenceGrant, with file, line and column. " +
			"What it has to know of the cluster it takes from the manifests themselves, from --facts or from --cluster; what none of them has is reported as decided at admission.\n\n" +
			"The exit code is 0 when nothing would be refused, 1 when something would, and 2 when part of the input could not be read.\n\n" + command.LayersHelp,
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
	output := command.Output(cmd, formats...)
	color := command.Color(cmd)
	var baseline string
	var fix, dryRun bool
	cmd.Flags().StringVar(&baseline, "baseline", "", "`FILE` that -o json has written earlier: only what it does not have fails the check")
	cmd.Flags().BoolVar(&fix, "fix", false, "change the files so that they pass, where that can be done; the standard input is written to the standard output")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "with --fix: print what would change, as a patch, and change nothing")
	config, settings := policy.DefaultConfig(), check.DefaultSettings()
	bound := p.Bind(cmd, CheckGroup(&settings), command.PolicyGroup(&config))

	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case dryRun && !fix:
			return command.Usage(cmd, errors.New("--dry-run is a part of --fix"))
		case fix && (baseline != "" || cmd.Flags().Changed("output")):
			return command.Usage(cmd, errors.New("--fix writes manifests, or a patch with --dry-run: it takes neither --output nor --baseline"))
		}
		if files = append(files, args...); len(files) == 0 {
			if command.IsTerminal(cmd.InOrStdin()) {
				return command.Usage(cmd, errors.New("nothing to check: name files with -f, or pipe manifests in"))
			}
			files = []string{"-"}
		}
		if _, err := bound.Resolve(); err != nil {
			return err
		}
		o, err := checkOptions(config, settings)
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
		o.Progress = progress.report
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
		colored := p.WantsColor(color, cmd)
		if err := report.Write(cmd.OutOrStdout(), check.Format(output.String()), check.WriteOptions{Color: colored, Version: p.Build().Version}); err != nil {
			return err
		}
		if err := unchecked(report); err != nil {
			return err
		}
		if report.Summary.Failed {
			return command.ErrFindings
		}
		return nil
	}
	return cmd
}

// CheckGroup are the flags of check about facts and statements.
func CheckGroup(settings *check.Settings) command.Group {
	return command.Group{Title: command.CheckFlags, Add: settings.AddFlags, Validator: settings}
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
		if err := command.Write(cmd, fixes.Diff(), nil); err != nil {
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
		return command.ErrFindings
	}
	return nil
}

// checkOptions are what the settings come to.
func checkOptions(config policy.Config, settings check.Settings) (check.Options, error) {
	engine, err := policy.New(config)
	if err != nil {
		return check.Options{}, err
	}
	o := check.Options{
		Policy: engine, Facts: settings.Facts, User: policy.User{Name: settings.As, Groups: settings.AsGroups},
		AsConsented: settings.AsConsented, DefaultNamespace: settings.DefaultNamespace, Strict: settings.Strict, Advice: settings.Advice,
	}
	if settings.Cluster {
		if o.Cluster, err = check.Connect(settings.Kubeconfig, settings.Context); err != nil {
			return check.Options{}, err
		}
	}
	return o, nil
}

// progress is a line on a terminal that shows how far a long check has come.
type progress struct {
	terminal io.Writer // nil: nobody looks
	next     time.Time
	shown    bool
}

func newProgress(stderr io.Writer) *progress {
	p := &progress{next: time.Now().Add(time.Second)}
	if command.IsTerminal(stderr) {
		p.terminal = stderr
	}
	return p
}

func (p *progress) report(read, evaluated int) {
	// Asking for the time costs more than a small document.
	if p.terminal == nil || (read+evaluated)%64 != 0 || time.Now().Before(p.next) {
		return
	}
	p.next, p.shown = time.Now().Add(100*time.Millisecond), true
	fmt.Fprintf(p.terminal, "\r%d documents read, %d evaluated", read, evaluated)
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.terminal, "\r\x1b[K")
	}
}
