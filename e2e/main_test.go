// Package e2e tests routewarden against a real kube-apiserver, with real kubectl, as users with real RBAC.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/routewarden/routewarden/hack/localcluster"
)

const (
	system = "aibrix-system"
	// grace is short, so that tests need not wait for it.
	grace = "1s"
	// soon is how long a condition may take on a loaded machine.
	soon = 60 * time.Second
	tick = 100 * time.Millisecond
)

// shared is the world of the tests that do not need one of their own.
var shared *world

// world is a control plane with a routewarden.
type world struct {
	*localcluster.Cluster
	server *localcluster.Server
	flags  []string
	// kubeconfig is whom routewarden runs as, its service account when empty.
	kubeconfig string
}

// binary is the program under test, with the race detector where the tests have it.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "routewarden-e2e-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "routewarden")
		args := []string{"build", "-o", binary}
		if raceEnabled {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "github.com/routewarden/routewarden")...)
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building routewarden:", err)
			return 1
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		shared, err = newWorld(ctx, worldOptions{channel: "experimental"})
		if err != nil {
			fmt.Fprintln(os.Stderr, "starting the control plane:", err)
			return 1
		}
		code := m.Run()
		stop := shared.stop
		if rewritingStarted.Load() {
			stop = func() error {
				w, err := rewriting()
				if err != nil {
					return shared.stop()
				}
				return errors.Join(w.stop(), shared.stop())
			}
		}
		if err := stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping:", err)
			code = 1
		}
		return code
	}())
}

type worldOptions struct {
	// channel of the Gateway API CRDs; crds takes its place.
	channel string
	crds    []string
	flags   []string
	// before runs when the control plane is up and routewarden is not yet installed.
	before func(*world) error
	// installed runs when routewarden is installed and not yet started.
	installed func(*world) error
}

func newWorld(ctx context.Context, o worldOptions) (w *world, err error) {
	if o.crds == nil {
		dir, err := localcluster.GatewayAPI(ctx, o.channel)
		if err != nil {
			return nil, err
		}
		o.crds = []string{dir}
	}
	cluster, err := localcluster.Start(ctx, localcluster.Options{CRDs: o.crds, Controllers: localcluster.DefaultControllers, Audit: true})
	if err != nil {
		return nil, err
	}
	w = &world{Cluster: cluster, flags: append([]string{"--grant-grace=" + grace, "--exempt-groups=system:masters"}, o.flags...)}
	defer func() {
		if err != nil {
			_ = w.stop()
		}
	}()
	if err := w.adminApply(ctx, namespaceYAML(system)+"---\n"+gatewayYAML+"---\n"+probeRBAC); err != nil {
		return nil, err
	}
	if o.before != nil {
		if err := o.before(w); err != nil {
			return nil, err
		}
	}
	if err := w.Install(ctx); err != nil {
		return nil, err
	}
	if o.installed != nil {
		if err := o.installed(w); err != nil {
			return nil, err
		}
	}
	return w, w.serve(ctx)
}

// serve starts routewarden and waits until the API server asks it.
func (w *world) serve(ctx context.Context, flags ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*soon)
	defer cancel()
	server, err := w.Serve(ctx, localcluster.ServeOptions{Binary: binary, Kubeconfig: w.kubeconfig, Flags: append(w.flags, flags...)})
	if err != nil {
		return err
	}
	w.server = server
	return w.intercepted(ctx)
}

// intercepted waits until routewarden, under this very server's registration, refuses a forged managed grant, as it does
// under every policy, of somebody who is not exempt.
func (w *world) intercepted(ctx context.Context) error {
	return waitFor(ctx, func() error {
		url, err := w.adminTry(ctx, "get", "validatingwebhookconfiguration", "routewarden", "-o", "jsonpath={.webhooks[0].clientConfig.url}")
		if err != nil {
			return err
		}
		if !strings.HasPrefix(url, w.server.WebhookURL) {
			return fmt.Errorf("the registration names %q, not %q", url, w.server.WebhookURL)
		}
		_, stderr, _ := w.Kubectl(ctx, w.Kubeconfig, strings.Replace(foreignGrant("default", "probe", system, "x"), "metadata:\n", "metadata:\n  labels: {app.kubernetes.io/managed-by: routewarden}\n", 1),
			"create", "--as=probe", "--as-group=probes", "--dry-run=server", "-f", "-")
		if !strings.Contains(stderr, "denied the request") {
			return fmt.Errorf("not intercepted yet: %s", stderr)
		}
		return nil
	})
}

func (w *world) stop() error {
	if w.server != nil {
		if err := w.server.Stop(); err != nil {
			return err
		}
	}
	return w.Stop()
}

func waitFor(ctx context.Context, condition func() error) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		err := condition()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %v", ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

// adminApply applies as the administrator (system:masters, exempt).
func (w *world) adminApply(ctx context.Context, yaml string) error {
	_, stderr, exit := w.Kubectl(ctx, w.Kubeconfig, yaml, "apply", "-f", "-")
	if exit != 0 {
		return fmt.Errorf("kubectl apply: %s", stderr)
	}
	return nil
}

func (w *world) adminTry(ctx context.Context, args ...string) (string, error) {
	stdout, stderr, exit := w.Kubectl(ctx, w.Kubeconfig, "", args...)
	if exit != 0 {
		return stdout, fmt.Errorf("kubectl %s: %s", strings.Join(args, " "), stderr)
	}
	return stdout, nil
}

// user is somebody with a client certificate of his own.
type user struct {
	w          *world
	t          *testing.T
	name       string
	kubeconfig string
}

var unique atomic.Int64

// named makes a name that no other test has.
func named(prefix string) string { return fmt.Sprintf("%s-%d", prefix, unique.Add(1)) }

func (w *world) user(t *testing.T) *user {
	t.Helper()
	name := named("jane")
	kubeconfig, err := w.KubeconfigFor(name, "tenants")
	require.NoError(t, err)
	return &user{w: w, t: t, name: name, kubeconfig: kubeconfig}
}

// admin runs kubectl as the administrator and fails the test when kubectl does.
func (w *world) admin(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.adminTry(t.Context(), args...)
	require.NoError(t, err)
	return strings.TrimSpace(out)
}

func (w *world) adminApplies(t *testing.T, yaml string) {
	t.Helper()
	require.NoError(t, w.adminApply(t.Context(), yaml))
}

// may gives the user verbs on resources of Gateway API in a namespace, and waits until they are in force.
func (u *user) may(namespace string, verbs string, resources ...string) *user {
	u.t.Helper()
	name := named("may")
	for i, resource := range resources {
		// kubectl wants the group between the resource and the subresource.
		name, subresource, found := strings.Cut(resource, "/")
		resources[i] = name + ".gateway.networking.k8s.io"
		if found {
			resources[i] += "/" + subresource
		}
	}
	u.w.admin(u.t, "create", "role", name, "-n", namespace, "--verb="+verbs, "--resource="+strings.Join(resources, ","))
	u.w.admin(u.t, "create", "rolebinding", name, "-n", namespace, "--role="+name, "--user="+u.name)
	for _, resource := range resources {
		for _, verb := range strings.Split(verbs, ",") {
			require.EventuallyWithT(u.t, func(c *assert.CollectT) {
				args := []string{"auth", "can-i", verb, resource, "-n", namespace}
				if name, subresource, found := strings.Cut(resource, "/"); found {
					args[3] = name
					args = append(args, "--subresource="+subresource)
				}
				out, _, _ := u.w.Kubectl(u.t.Context(), u.kubeconfig, "", args...)
				assert.Equal(c, "yes", strings.TrimSpace(out))
			}, soon, tick)
		}
	}
	return u
}

// writesRoutes lets the user write routes in the namespaces and nothing else.
func (u *user) writesRoutes(namespaces ...string) *user {
	u.t.Helper()
	for _, namespace := range namespaces {
		u.may(namespace, "get,list,create,update,patch,delete", "httproutes", "grpcroutes")
	}
	return u
}

// result is what kubectl did.
type result struct {
	stdout, stderr string
	exit           int
}

func (u *user) kubectl(stdin string, args ...string) result {
	u.t.Helper()
	stdout, stderr, exit := u.w.Kubectl(u.t.Context(), u.kubeconfig, stdin, args...)
	return result{stdout, stderr, exit}
}

// succeeds runs kubectl until it exits with 0: what the administrator changed a moment ago may not be in routewarden's
// caches yet, and a refused write changes nothing.
func (u *user) succeeds(stdin string, args ...string) result {
	u.t.Helper()
	var r result
	require.EventuallyWithT(u.t, func(c *assert.CollectT) {
		r = u.kubectl(stdin, args...)
		assert.Equal(c, 0, r.exit, r.stderr)
	}, soon, tick)
	return r
}

// refused runs kubectl and expects routewarden to refuse; it returns routewarden's words.
func (u *user) refused(stdin string, args ...string) string {
	u.t.Helper()
	var message string
	require.EventuallyWithT(u.t, func(c *assert.CollectT) {
		r := u.kubectl(stdin, args...)
		assert.NotEqual(c, 0, r.exit, r.stdout)
		_, words, found := strings.Cut(r.stderr, "denied the request: ")
		assert.True(c, found, r.stderr)
		message = requestLine.ReplaceAllString(words, "")
	}, soon, tick)
	return strings.TrimSpace(message)
}

var requestLine = regexp.MustCompile(`\n?\(routewarden request [0-9a-f-]+\)`)

// namespace makes a namespace of the test's own, with the label routewarden.dev/grants when consent is not empty.
func (w *world) namespace(t *testing.T, prefix, consent string) string {
	t.Helper()
	name := named(prefix)
	w.admin(t, "create", "namespace", name)
	if consent != "" {
		w.label(t, name, consent)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		_, _ = w.adminTry(ctx, "delete", "namespace", name, "--ignore-not-found", "--wait=false")
	})
	return name
}

func (w *world) label(t *testing.T, namespace, consent string) {
	t.Helper()
	label := "routewarden.dev/grants=" + consent
	if consent == "" {
		label = "routewarden.dev/grants-"
	}
	w.admin(t, "label", "namespace", namespace, "--overwrite", label)
}

// grants names the ReferenceGrants in a namespace, as the API server has them now.
func (w *world) grants(t *testing.T, namespace string) []string {
	t.Helper()
	names, err := w.listGrants(t.Context(), namespace)
	require.NoError(t, err)
	return names
}

func (w *world) listGrants(ctx context.Context, namespace string) ([]string, error) {
	out, err := w.adminTry(ctx, "get", "referencegrants.gateway.networking.k8s.io", "-n", namespace, "-o", "jsonpath={.items[*].metadata.name}")
	return strings.Fields(out), err
}

// grantsBecome waits until the namespace has that many ReferenceGrants.
func (w *world) grantsBecome(t *testing.T, namespace string, n int) []string {
	t.Helper()
	var names []string
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var err error
		names, err = w.listGrants(t.Context(), namespace)
		assert.NoError(c, err)
		assert.Len(c, names, n)
	}, soon, tick)
	return names
}

// eventBecomes waits for an Event of that reason on a route.
func (w *world) eventBecomes(t *testing.T, namespace, route, reason string) string {
	t.Helper()
	var note string
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var err error
		note, err = w.adminTry(t.Context(), "get", "events", "-n", namespace, "--field-selector=involvedObject.name="+route+",reason="+reason, "-o", "jsonpath={.items[*].message}")
		assert.NoError(c, err)
		assert.NotEmpty(c, note)
	}, soon, tick)
	return note
}

func namespaceYAML(name string) string {
	return "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + name + "\n"
}

const gatewayYAML = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: aibrix-eg
  namespace: aibrix-system
spec:
  gatewayClassName: aibrix-eg
  listeners:
  - name: http
    port: 80
    protocol: HTTP
`

// probeRBAC lets probes write grants anywhere, so that only routewarden can refuse them.
const probeRBAC = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: probes
rules:
- apiGroups: [gateway.networking.k8s.io]
  resources: [referencegrants, httproutes]
  verbs: [create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: probes
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: probes
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: probes
`

// route writes an HTTPRoute to the system namespace's Gateway with one backendRef for each "namespace/name" or "name".
func route(namespace, name string, backends ...string) string {
	s := fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: %s
  namespace: %s
spec:
  parentRefs:
  - name: aibrix-eg
    namespace: aibrix-system
  rules:
  - backendRefs:
`, name, namespace)
	for _, backend := range backends {
		in, service, found := strings.Cut(backend, "/")
		if !found {
			in, service = "", backend
		}
		s += "    - name: " + service + "\n      port: 8000\n"
		if in != "" {
			s += "      namespace: " + in + "\n"
		}
	}
	return s
}

func foreignGrant(namespace, name, from, service string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata:
  name: %s
  namespace: %s
spec:
  from:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    namespace: %s
  to:
  - group: ""
    kind: Service
    name: %s
`, name, namespace, from, service)
}
