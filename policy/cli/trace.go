package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/audit/live"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/cli/command"
	"github.com/routesteward/routesteward/policy/settings"
	"github.com/routesteward/routesteward/policy/trace"
)

// Trace is the command trace.
func Trace(p *command.Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace --url URL [--model MODEL]",
		Short: "Send a request through the gateway and show which way it took",
		Long: "Trace sends a real request and explains its answer: the status, AIBrix's headers, the pod behind target-pod, and from what is known of the cluster, which route should have served it, " +
			"its status, its backends and the ReferenceGrants that permit them. The verdict is routed, bypassed (AIBrix's gateway plugin chose a Pod by a routing strategy, past the HTTPRoute), unexpected, or stopped and where.\n\n" +
			"What is known of the cluster comes from --facts, else from the cluster of the kubeconfig, which is only read. Without either, only the answer is explained. " +
			"The cluster is asked before the request is sent.\n\n" +
			"The exit code is 0 when every request was answered 2xx or 3xx through the expected route, 1 when one was not, and 2 when nobody took the request.\n\n" + command.LayersHelp,
		Example: "  routesteward trace --url http://10.0.0.1 --model llama\n" +
			"  routesteward trace --url http://10.0.0.1 --model llama --routing-strategy least-request -n 20\n" +
			"  routesteward trace --url https://models.example.com/v1/models -H 'Authorization: Bearer x' --facts=facts.yaml -o json",
		Args: command.AtMost(0),
	}
	t := &tracing{program: p, config: policy.DefaultConfig(), settings: check.DefaultSettings()}
	t.addFlags(cmd)
	cmd.RunE = t.run
	return cmd
}

// tracing is what the flags of trace set.
type tracing struct {
	program       *command.Program
	asked         trace.Asked
	sender        trace.Sender
	count         int
	data, gateway string
	facts         []string
	cluster       bool
	settings      check.Settings
	config        policy.Config
	bound         *command.Settings
	output, color *command.Choice
}

func (t *tracing) addFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&t.asked.URL, "url", "", "`URL` of the gateway and the path to ask for; http:// where it names no scheme, and with --model "+trace.DefaultPath+" where it names no path")
	fs.StringVar(&t.asked.Model, "model", "", "send a small body that names this `MODEL`")
	fs.StringVar(&t.asked.RoutingStrategy, "routing-strategy", "", "`NAME` to send in AIBrix's header routing-strategy, such as least-request")
	fs.StringArrayVarP(&t.asked.Headers, "header", "H", nil, "`HEADER` to send, as 'Name: value'; may be repeated")
	fs.StringVarP(&t.data, "data", "d", "", "`BODY` to send; @FILE reads it from a file, @- from the standard input")
	fs.StringVarP(&t.asked.Method, "request", "X", "", "`METHOD`; empty: POST with a body, else GET")
	fs.IntVarP(&t.count, "count", "n", 1, "send so many `REQUESTS`, one after the other, and show how they spread over pods")
	fs.DurationVar(&t.sender.Timeout, "timeout", 30*time.Second, "how long to wait for each answer; 0: for ever")
	fs.BoolVarP(&t.sender.Insecure, "insecure", "k", false, "accept any certificate")
	fs.StringVar(&t.sender.CAFile, "cacert", "", "`FILE` with the certificates of the authorities to trust, instead of the system's")
	fs.StringVar(&t.gateway, "gateway", "", "`NAMESPACE/NAME` of the Gateway that the URL belongs to; empty: that of the system namespace which has the URL's address, or the only one there")
	settings.ListVar(fs, &t.facts, "facts", "`PATHS` of files or directories that hold all there is in the cluster, as `routesteward facts` writes it; read instead of the cluster")
	fs.BoolVar(&t.cluster, "cluster", true, "read the cluster of the kubeconfig, where there is one; =false: explain the answer alone")
	t.settings.AddClusterFlags(fs)
	fs.Lookup("header").DefValue = "" // not []
	t.output = command.Output(cmd, "text", "json")
	t.color = command.Color(cmd)
	t.bound = t.program.Bind(cmd, command.PolicyGroup(&t.config))
}

func (t *tracing) run(cmd *cobra.Command, _ []string) error {
	if t.count < 1 {
		return command.Usage(cmd, fmt.Errorf("--count: %d is less than 1", t.count))
	}
	if cmd.Flags().Changed("data") {
		body, err := readData(t.data, cmd.InOrStdin())
		if err != nil {
			return err
		}
		t.asked.Data = body
	}
	request, err := trace.NewRequest(t.asked)
	if err != nil {
		return command.Usage(cmd, err)
	}
	if _, err := t.bound.Resolve(); err != nil {
		return err
	}
	known, unread, err := t.known(cmd)
	if err != nil {
		return err
	}
	id := trace.NewID()
	responses, err := t.sender.Send(cmd.Context(), request, id, t.count)
	if err != nil {
		return err
	}
	report := trace.Explain(request, id, responses, known)
	if unread != "" {
		report.NotKnown = append([]string{unread}, report.NotKnown...)
	}
	if t.output.String() == "json" {
		err = report.WriteJSON(cmd.OutOrStdout())
	} else {
		err = report.WriteText(cmd.OutOrStdout(), t.program.WantsColor(t.color, cmd))
	}
	switch {
	case err != nil:
		return err
	case report.Verdict.Outcome == trace.Unreached:
		return errors.New(report.Verdict.Words)
	case report.Failed():
		return command.ErrFindings
	}
	return nil
}

// known is what is known of the cluster; nil where nothing is, with the reason if that was not asked for.
func (t *tracing) known(cmd *cobra.Command) (known *trace.Facts, unread string, err error) {
	engine, err := policy.New(t.config)
	if err != nil {
		return nil, "", err
	}
	known = &trace.Facts{Gateway: t.gateway, Policy: engine}
	switch {
	case len(t.facts) > 0:
		var problems []check.Problem
		if known.Cluster, problems, err = check.ReadSnapshot(cmd.Context(), t.facts); err != nil {
			return nil, "", err
		}
		if len(problems) > 0 {
			return nil, "", fmt.Errorf("--facts: %s", problems[0])
		}
		return known, "", nil
	case !t.cluster:
		return nil, "", nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), clusterTimeout)
	defer cancel()
	known.Cluster, err = readCluster(ctx, t.settings.Kubeconfig, t.settings.Context)
	required := slices.ContainsFunc([]string{"kubeconfig", "context", "cluster", "gateway"}, cmd.Flags().Changed)
	switch {
	case err == nil:
		return known, "", nil
	case required || cmd.Context().Err() != nil:
		return nil, "", err
	}
	return nil, fmt.Sprintf("The cluster could not be read: %v.", err), nil
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
