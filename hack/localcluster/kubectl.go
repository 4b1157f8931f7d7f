package localcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kubectl runs the real kubectl with a kubeconfig file and returns what it printed and its exit code.
// -1 means that it did not run to its end; stderr then ends with the reason.
func (c *Cluster) Kubectl(ctx context.Context, kubeconfig, stdin string, args ...string) (stdout, stderr string, exit int) {
	cmd := c.KubectlCommand(ctx, kubeconfig, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exitError *exec.ExitError
	if err != nil && (!errors.As(err, &exitError) || exitError.ExitCode() < 0) {
		return out.String(), errOut.String() + err.Error(), -1
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// MustKubectl runs kubectl as the administrator; exit codes other than 0 are an error with its output.
func (c *Cluster) MustKubectl(ctx context.Context, args ...string) error {
	stdout, stderr, exit := c.Kubectl(ctx, c.Kubeconfig, "", args...)
	if exit != 0 {
		return fmt.Errorf("kubectl %s: exit %d\n%s%s", args[0], exit, stdout, stderr)
	}
	return nil
}

// KubectlCommand is kubectl for callers that need more, such as an editor in the environment. It
// reads and writes nothing in the user's home.
func (c *Cluster) KubectlCommand(ctx context.Context, kubeconfig string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.binary("kubectl"), args...)
	cmd.Env = append(os.Environ(),
		"KUBECONFIG="+kubeconfig,
		"KUBECACHEDIR="+filepath.Join(c.Dir, "kubectl-cache"),
		"KUBERC=off",
	)
	return cmd
}
