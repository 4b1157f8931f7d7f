package unpark

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/cli/command"
	"github.com/routesteward/routesteward/policy/settings"
)

// Command is the command unpark.
func Command(p *command.Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unpark ROUTE... | --all [-n NAMESPACE | -A] | -f FILE",
		Short: "Give parked routes their parentRefs back",
		Long: "Unpark gives routes that --outside=rewrite has parked their parentRefs back, with your rights, and waits until routesteward has removed their relocated copies. " +
			"A ROUTE is KIND/NAME; without KIND it is an HTTPRoute. It is for leaving --outside=rewrite and for uninstalling routesteward: first set --outside of routesteward to another mode. " +
			"The shared Gateway does not serve an unparked route, as it takes routes from its own namespace only.\n\n" +
			"The exit code is 0 when nothing is left to do, 1 when a route is still parked or a copy is still there, and 2 when that is not known.\n\n" + command.LayersHelp,
		Example: "  routesteward unpark httproute/llama-router -n team-a\n" +
			"  routesteward unpark --all -A --dry-run\n" +
			"  kubectl get httproute llama-router -n team-a -o yaml | routesteward unpark -f -",
	}
	var o Options
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
	output := command.Output(cmd, "text", "json")
	var kubeconfig, context string
	settings.ClusterVar(flags, &kubeconfig, &context)
	config := policy.DefaultConfig()
	bound := p.Bind(cmd, command.PolicyGroup(&config).Only(settings.ConfigFlag, "system-namespace"))

	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case file != "" && (len(args) > 0 || slices.ContainsFunc([]string{"all", "all-namespaces", "namespace", "dry-run", "delete-copies", "output"}, cmd.Flags().Changed)):
			return command.Usage(cmd, errors.New("-f writes a manifest and asks no cluster: it takes neither routes nor what is about them"))
		case file == "" && all == (len(args) > 0):
			return command.Usage(cmd, errors.New("name routes, or give --all"))
		case allNamespaces && (!all || o.Namespace != ""):
			return command.Usage(cmd, errors.New("--all-namespaces is a part of --all, without --namespace"))
		}
		for _, arg := range args {
			name, err := ParseName(arg)
			if err != nil {
				return command.Usage(cmd, err)
			}
			if !slices.Contains(o.Names, name) {
				o.Names = append(o.Names, name)
			}
		}
		_, err := bound.Resolve()
		if err == nil {
			o.Policy, err = policy.New(config)
		}
		if err != nil {
			return err
		}
		if file != "" {
			return unparkFile(cmd, o.Policy, file)
		}
		client, namespace, err := Connect(kubeconfig, context, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		if o.Namespace == "" && !allNamespaces {
			o.Namespace = namespace
		}
		report, err := Run(cmd.Context(), client, o)
		var written error
		if output.String() == "json" {
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
			return command.ErrFindings
		}
		return nil
	}
	return cmd
}

func unparkFile(cmd *cobra.Command, engine *policy.Policy, file string) error {
	from := cmd.InOrStdin()
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return err
		}
		defer opened.Close()
		from = opened
	}
	if _, err := Manifests(engine, from, cmd.OutOrStdout()); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
