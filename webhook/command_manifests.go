package webhook

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/manifests"
	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/cli/command"
	"github.com/routesteward/routesteward/policy/settings"
)

// ManifestsCommand is the command manifests.
func ManifestsCommand(p *command.Program) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "manifests",
		Short: "Print what to apply: the installation, or a policy for when it is down",
		Long: "Manifests prints what installs routesteward, for kubectl apply -f -. It has the default settings; to install it with others, use the chart.\n\n" +
			"With --policy=vap it prints a ValidatingAdmissionPolicy with its binding instead, compiled from the policy flags. The API server itself then refuses routes on a Gateway " +
			"of the system namespace that live elsewhere, also while routesteward is down, and when its webhook configurations are deleted. " +
			"What depends on the cluster's state is left to routesteward. After a change of the flags, print and apply it again.\n\n" + command.LayersHelp,
		Example: "  routesteward manifests | kubectl apply -f -\n" +
			"  routesteward manifests --policy=vap --exempt-groups=platform | kubectl apply -f -",
		Args: command.AtMost(0),
	}
	certificates := command.NewChoice("embedded", "embedded", "cert-manager")
	cmd.Flags().Var(certificates, "certs", "whose serving certificates the installation uses")
	fallback := command.NewChoice("", "vap")
	cmd.Flags().Var(fallback, "policy", "print a ValidatingAdmissionPolicy (vap) and not the installation")
	config, server := policy.DefaultConfig(), DefaultOptions()
	group := ServerGroup(&server).Only("namespace")
	group.Title = command.PolicyFlags
	bound := p.Bind(cmd, command.PolicyGroup(&config), group)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if fallback.String() == "" {
			if set := slices.IndexFunc(settings.Names(bound.FlagSet), cmd.Flags().Changed); set >= 0 {
				return command.Usage(cmd, fmt.Errorf("--%s is for --policy=vap; the installation has the default settings, and the chart changes them", settings.Names(bound.FlagSet)[set]))
			}
			return command.Write(cmd, map[string]string{"embedded": manifests.Install, "cert-manager": manifests.InstallCertManager}[certificates.String()], nil)
		}
		if cmd.Flags().Changed("certs") {
			return command.Usage(cmd, errors.New("--certs is for the installation, not for --policy"))
		}
		resolved, err := bound.Resolve()
		if err != nil {
			return err
		}
		config.Self = "system:serviceaccount:" + server.Namespace + ":routesteward"
		text, err := fallbackManifest(config, resolved, p.Build().Version)
		return command.Write(cmd, text, err)
	}
	return cmd
}

// fallbackManifest is the ValidatingAdmissionPolicy of a policy and its binding, with what it was made from.
func fallbackManifest(config policy.Config, resolved settings.Settings, version string) (string, error) {
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
		"# Printed by `routesteward manifests --policy=vap` (%s) under", config.SystemNamespace, version)
	changed := 0
	for _, setting := range resolved {
		if setting.Flag != settings.ConfigFlag && !reflect.DeepEqual(setting.Value, setting.Default) {
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
