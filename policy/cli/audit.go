package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/audit/live"
	"github.com/routesteward/routesteward/policy/audit/output"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/cli/command"
	"github.com/routesteward/routesteward/policy/settings"
)

// Audit is the command audit.
func Audit(p *command.Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit [NAMESPACE|NAMESPACE/NAME]...",
		Short: "Explain why the routes in a cluster do or do not work",
		Long: "Audit reads a live cluster through kubeconfig, or what `routesteward facts` has written, and explains every route on a shared Gateway, or meant for one: which listeners take it, " +
			"what permits its references to other namespaces, what its status means, which route takes its requests, and whom a fault affects where AIBrix's gateway plugin is there. " +
			"With arguments it shows everything about these routes. It only reads.\n\n" +
			"The exit code is 0 when no error was found, 1 when one was (with --strict: or a warning), and 2 when the cluster could not be read.\n\n" + command.LayersHelp,
		Example: "  routesteward audit\n" +
			"  routesteward audit aibrix-system/llama-router\n" +
			"  routesteward audit --facts=facts.yaml -o html > audit.html",
	}
	var formats []string
	for _, format := range output.Formats() {
		formats = append(formats, string(format))
	}
	format := command.Output(cmd, formats...)
	color := command.Color(cmd)
	var details, watch bool
	var limit int
	interval := 10 * time.Second
	cmd.Flags().BoolVar(&details, "details", false, "with -o text: show everything about every route, also where nothing was found")
	cmd.Flags().IntVar(&limit, "limit", 50, "with -o text: how many `OBJECTS` to list with everything found, the worst first; 0: all")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "look again every --interval, until interrupted")
	cmd.Flags().DurationVar(&interval, "interval", interval, "`TIME` between two looks of --watch; at least 1s")
	config, checks := policy.DefaultConfig(), check.DefaultSettings()
	bound := p.Bind(cmd, clusterGroup(&checks), command.PolicyGroup(&config))

	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case interval < time.Second:
			return command.Usage(cmd, errors.New("--interval must be at least 1s"))
		case watch && output.Format(format.String()) != output.FormatText:
			return command.Usage(cmd, errors.New("--watch goes with -o text only"))
		}
		if _, err := bound.Resolve(); err != nil {
			return err
		}
		look, err := auditor(config, checks)
		if err != nil {
			return err
		}
		stdout := cmd.OutOrStdout()
		o := output.Options{Color: p.WantsColor(color, cmd), Details: details || len(args) > 0, Limit: limit, Version: p.Build().Version}
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
			if err := output.Write(stdout, report, output.Format(format.String()), o); err != nil {
				return err
			}
			if report.Failed(checks.Strict) {
				return command.ErrFindings
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

// clusterGroup are the flags of commands that look at a cluster or a snapshot of it; the settings are those of check.
func clusterGroup(checks *check.Settings) command.Group {
	return command.Group{Title: command.ClusterFlags, Validator: checks, Add: func(fs *pflag.FlagSet) {
		settings.ListVar(fs, &checks.Facts, "facts",
			"`PATHS` of files or directories that hold all there is in the cluster, as `routesteward facts` writes it; without, the cluster is read, and nothing is written")
		checks.AddClusterFlags(fs)
		fs.BoolVar(&checks.Strict, "strict", checks.Strict, "fail also on warnings")
	}}
}

// auditor is what looks at the cluster or snapshot that the settings name.
func auditor(config policy.Config, checks check.Settings) (func(context.Context) (audit.Report, error), error) {
	read, err := reader(checks)
	if err != nil {
		return nil, err
	}
	engine, err := policy.New(config)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (audit.Report, error) {
		cluster, err := read(ctx)
		if err != nil {
			return audit.Report{}, err
		}
		return audit.Run(engine, cluster), nil
	}, nil
}

// reader reads the snapshot that the settings name, or else the cluster.
func reader(checks check.Settings) (func(context.Context) (*audit.Cluster, error), error) {
	if len(checks.Facts) > 0 {
		return func(ctx context.Context) (*audit.Cluster, error) {
			cluster, problems, err := check.ReadSnapshot(ctx, checks.Facts)
			if err == nil {
				err = unchecked(check.Report{Problems: problems})
			}
			return cluster, err
		}, nil
	}
	cluster, err := live.Connect(checks.Kubeconfig, checks.Context)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (*audit.Cluster, error) { return cluster.Read(ctx, live.Everything()) }, nil
}

// repeat calls look every interval until the context ends, and returns what the last one that could look returned. That the
// cluster cannot be read for a while is reported and no reason to stop, unless it never could.
func repeat(ctx context.Context, interval time.Duration, stderr io.Writer, look func() error) error {
	last := look()
	if last != nil && last != command.ErrFindings {
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
		case err == nil, err == command.ErrFindings:
			last = err
		case ctx.Err() == nil:
			fmt.Fprintln(stderr, err)
		}
	}
}

// separate clears a terminal, and draws a line in what is no terminal.
func separate(stdout io.Writer) {
	if command.IsTerminal(stdout) {
		fmt.Fprint(stdout, "\x1b[2J\x1b[H")
		return
	}
	fmt.Fprintf(stdout, "--- %s ---\n", time.Now().UTC().Format(time.RFC3339))
}
