package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/routesteward/routesteward/hack/localcluster"
)

// errUnmet is a step of the story that did not come out as it should.
var errUnmet = errors.New("the demo failed")

// demo tells the story with real commands and checks what each of them shows. It leaves the cluster up.
func (l *local) demo(ctx context.Context, serveFlags []string) error {
	story := &story{local: l, ctx: ctx}
	story.tellOffline()
	if story.err != nil {
		return fmt.Errorf("%w: %w", errUnmet, story.err)
	}
	l.out.printf("\n%s\n", l.out.faint("The same on a real API server, as soon as its programs are here:"))
	if err := l.programs(ctx); err != nil {
		return err
	}
	// Grants of deleted routes are kept for 30 s by default; nobody wants to watch that.
	state, err := l.up(ctx, serveFlags, []string{"--grant-grace=2s"})
	if err != nil {
		return err
	}
	// What an interrupted demo has left, or somebody's own trials.
	story.quietly("--context=admin", "apply", "-f", "hack/demo/cluster.yaml")
	story.quietly("--context=admin", "delete", "httproute", "--ignore-not-found", "--namespace=team-a", "llama-router", "relocated-router")
	story.quietly("--context=admin", "delete", "httproute", "--ignore-not-found", "--namespace=aibrix-system", "llama-router", "mistral-router", "prototype-router")
	story.tell()
	if story.err == nil {
		state, story.err = l.restart(ctx, append(slices.Clone(state.ServeFlags), "--outside=rewrite"))
		l.out.printf("\n%s\n", l.out.faint("routesteward was restarted with --outside=rewrite"))
		story.tellOfRelocation()
		flags := state.ServeFlags
		var err error
		if state, err = l.restart(ctx, flags[:max(0, len(flags)-1)]); story.err == nil {
			story.err = err
		}
	}
	if story.err != nil {
		return fmt.Errorf("%w: %w\nThe cluster still runs (flags: %s); its logs are in %s",
			errUnmet, story.err, strings.Join(state.ServeFlags, " "), relative(l.path("logs")))
	}
	l.out.printf(`
%s Everything still runs; go on by hand:

  export KUBECONFIG=%s
  export PATH=%s:$PATH

  %s
  kubectl --context=alice apply -f hack/demo/consented.yaml
  kubectl --context=mona -n models delete referencegrants --all
  kubectl --context=mona -n models get referencegrants

  %s
  kubectl --context=admin label namespace models --overwrite routesteward.dev/grants=deny
  kubectl --context=alice apply -f hack/demo/planned.yaml

  %s
  tail %s
  curl -s %s | grep ^routesteward

make down stops everything. No controllers run here: a deleted namespace stays, and a Deployment has no Pods.
`, l.out.bold("That was the story."), l.path("kubeconfig"), filepath.Join(l.root, "bin", "controlplane"),
		l.out.faint("# A deleted grant comes back while its namespace consents by label."),
		l.out.faint("# A veto beats every consent."),
		l.out.faint("# Each decision is one line of the log, and counted."),
		relative(l.path("logs/routesteward.log")), state.MetricsURL)
	return nil
}

// story runs commands until one does not do what it should; later steps are then skipped.
type story struct {
	*local
	ctx      context.Context
	err      error
	chapters int
}

// programs downloads or builds what the cluster runs, unless that was done before.
func (l *local) programs(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, filepath.Join(l.root, "hack", "programs"), localcluster.Programs...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// A whole group, so that an interrupted build leaves no compiler behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	if err := cmd.Run(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("hack/programs: %w", err))
	}
	return nil
}

// tellOffline is the chapter that needs no cluster.
func (s *story) tellOffline() {
	s.chapter("Before anything is applied: check refuses a route next to its model, and repairs it")
	s.show("outside.yaml")
	s.routesteward("check", "-f", "hack/demo/outside.yaml").
		refused("exit code 1, and the line in the file", "outside.yaml", "refused", "fix:")
	s.routesteward("check", "-f", "hack/demo/outside.yaml", "--fix", "--dry-run").
		refused("exit code 1 again, and what --fix would change", "+  namespace: aibrix-system", "+      namespace: team-a")
	fixed := relative(s.path("fixed.yaml"))
	if s.err == nil {
		s.err = os.MkdirAll(s.dir, 0o755)
	}
	s.run("cp", []string{"hack/demo/outside.yaml", fixed}).succeeds("")
	s.routesteward("check", "-f", fixed, "--fix").
		succeeds("a copy of the file is repaired", "fixed")
	s.routesteward("check", "-f", fixed).
		succeeds("and passes: a pipeline can hold people to this", "2 objects in 1 file checked")
}

func (s *story) tell() {
	s.chapter("A route next to its model, outside aibrix-system, is refused")
	s.show("outside.yaml")
	s.kubectl("--context=alice", "apply", "-f", "hack/demo/outside.yaml").
		refused("the message says where the route belongs", "denied the request", "aibrix-system", "to fix:")

	s.chapter("A route to a namespace whose owner consents is accepted, and its ReferenceGrant is in place")
	s.kubectl("--context=admin", "get", "namespaces", "team-a", "models", "research", "-L", "routesteward.dev/grants").
		succeeds("the owner of models consents, the others have said nothing", "allow")
	s.show("consented.yaml")
	s.kubectl("--context=alice", "apply", "-f", "hack/demo/consented.yaml").
		succeeds("accepted", "llama-router created")
	s.kubectl("--context=mona", "-n", "models", "get", "referencegrants", "-o", "yaml").
		succeeds("the grant is there, for this Service only", "app.kubernetes.io/managed-by: routesteward", "namespace: aibrix-system", "name: llama")
	grant := s.quietly("--context=mona", "-n", "models", "get", "referencegrants",
		"-o", `jsonpath={.items[?(@.spec.to[0].name=="llama")].metadata.name}`)
	grants := s.quietly("--context=mona", "-n", "models", "get", "referencegrants", "-o", "name")

	s.chapter("A route to a namespace whose owner has not consented is refused")
	s.show("refused.yaml")
	s.kubectl("--context=alice", "apply", "-f", "hack/demo/refused.yaml").
		refused("the message says whom to ask for what", "denied the request", `namespace "research" has not consented`, "to fix:")

	s.chapter("A dry run says what would be made, and changes nothing")
	s.show("planned.yaml")
	s.kubectl("--context=alice", "apply", "--dry-run=server", "-f", "hack/demo/planned.yaml").
		succeeds("the plan is a warning", "would create ReferenceGrant models/", "mistral-router created (server dry run)")
	s.kubectl("--context=mona", "-n", "models", "get", "referencegrants", "-o", "name").
		succeeds("no grant was added", grants).
		lacks("mistral")
	s.kubectl("--context=alice", "-n", "aibrix-system", "get", "httproutes", "-o", "name").
		succeeds("no route was added", "llama-router").
		lacks("mistral-router")

	s.chapter("The grant goes when the route goes")
	s.kubectl("--context=alice", "-n", "aibrix-system", "delete", "httproute", "llama-router").
		succeeds("deleted", "deleted")
	s.kubectl("--context=mona", "-n", "models", "wait", "--for=delete", "--timeout=90s", "referencegrant/"+grant).
		succeeds("the grant is gone")
	s.kubectl("--context=mona", "-n", "models", "get", "referencegrants").
		succeeds("and models is as it was").
		lacks(grant)
}

func (s *story) tellOfRelocation() {
	s.chapter("With --outside=rewrite a route next to its model is relocated into aibrix-system")
	s.show("relocated.yaml")
	s.kubectl("--context=alice", "apply", "-f", "hack/demo/relocated.yaml").
		succeeds("accepted, and the answer says what serves it", "relocated: HTTPRoute aibrix-system/relocated-router serves this route", "relocated-router created")
	s.kubectl("--context=admin", "-n", "aibrix-system", "wait", "--for=create", "--timeout=60s", "httproute/relocated-router").
		succeeds("its copy is in aibrix-system")
	s.kubectl("--context=alice", "-n", "aibrix-system", "get", "httproute", "relocated-router", "-o", "yaml").
		succeeds("the same rules, with the namespace of each backend written out", "routesteward.dev/source: team-a/relocated-router", "name: llama", "namespace: team-a")
	s.kubectl("--context=alice", "apply", "-f", "hack/demo/relocated.yaml").
		succeeds("applied again: nothing is announced, as nothing changes", "relocated-router").
		lacks("Warning")
	s.kubectl("--context=alice", "diff", "-f", "hack/demo/relocated.yaml").
		succeeds("and a diff shows nothing").
		lacks("parentRefs")
	s.kubectl("--context=alice", "-n", "aibrix-system", "label", "httproute", "relocated-router", "mine=yes").
		refused("the copy is changed at its source only", "is the relocated copy of team-a/relocated-router")
	s.kubectl("--context=alice", "-n", "team-a", "delete", "httproute", "relocated-router").
		succeeds("deleted", "deleted")
	s.kubectl("--context=admin", "-n", "aibrix-system", "wait", "--for=delete", "--timeout=60s", "httproute/relocated-router").
		succeeds("the copy goes with its source")
}

func (s *story) chapter(title string) {
	s.chapters++
	if s.err == nil {
		s.out.printf("\n%s\n", s.out.bold(fmt.Sprintf("%d. %s", s.chapters, title)))
	}
}

// show prints a manifest of the story.
func (s *story) show(name string) {
	if s.err != nil {
		return
	}
	content, err := os.ReadFile(filepath.Join(s.root, "hack", "demo", name))
	if err != nil {
		s.err = err
		return
	}
	s.out.printf("\n  %s\n%s", s.out.bold("$ cat hack/demo/"+name), s.out.faint(indent(string(content))))
}

func (s *story) kubectl(args ...string) *result { return s.run("kubectl", args) }

func (s *story) routesteward(args ...string) *result { return s.run("routesteward", args) }

// run echoes a command, runs it and prints its output.
func (s *story) run(program string, args []string) *result {
	r := &result{story: s, command: program + " " + strings.Join(args, " ")}
	if s.err != nil {
		return r
	}
	s.out.printf("\n  %s\n", s.out.bold("$ "+r.command))
	r.output, r.err = s.execute(program, args)
	s.out.printf("%s", indent(r.output))
	return r
}

// quietly runs a command that is no part of the story and returns its output.
func (s *story) quietly(args ...string) string {
	if s.err != nil {
		return ""
	}
	output, err := s.execute("kubectl", args)
	if err != nil {
		s.err = fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return output
}

// execute returns stdout and stderr as a terminal would show them.
func (s *story) execute(program string, args []string) (string, error) {
	switch program {
	case "routesteward":
		program = s.binary
	case "kubectl":
		program = filepath.Join(s.root, "bin", "controlplane", program)
	}
	cmd := exec.CommandContext(s.ctx, program, args...)
	cmd.Dir = s.root
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.path("kubeconfig"), "KUBECACHEDIR="+s.path("kubectl-cache"), "KUBERC=off")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	return output.String(), errors.Join(s.ctx.Err(), err)
}

// result is what a command of the story did.
type result struct {
	*story
	command string
	output  string
	err     error
}

// succeeds claims that the command exited with 0 and printed all of want.
func (r *result) succeeds(claim string, want ...string) *result {
	return r.check(claim, r.err == nil, want)
}

// refused claims that the command exited with another code and printed all of want.
func (r *result) refused(claim string, want ...string) *result {
	var exit *exec.ExitError
	return r.check(claim, errors.As(r.err, &exit), want)
}

func (r *result) check(claim string, exit bool, want []string) *result {
	var faults []string
	if !exit {
		faults = append(faults, fmt.Sprintf("it ended with %v", r.err))
	}
	for _, text := range want {
		if !strings.Contains(r.output, text) {
			faults = append(faults, fmt.Sprintf("%q was expected in its output", text))
		}
	}
	r.evaluate(claim, faults)
	return r
}

// lacks requires that the output does not hold text.
func (r *result) lacks(text string) {
	if r.story.err == nil && strings.Contains(r.output, text) {
		r.evaluate("", []string{fmt.Sprintf("%q was not expected in its output", text)})
	}
}

func (r *result) evaluate(claim string, faults []string) {
	switch {
	case r.story.err != nil:
	case len(faults) == 0 && claim == "":
	case len(faults) == 0:
		r.out.printf("  %s %s\n", r.out.green("✓"), claim)
	default:
		r.out.printf("  %s %s\n", r.out.red("✗"), strings.Join(faults, "; "))
		r.story.err = errors.Join(r.ctx.Err(), fmt.Errorf("%s: %s", r.command, strings.Join(faults, "; ")))
	}
}
