// Package e2e tests routesteward against a real kube-apiserver, with real kubectl, as users with real RBAC.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

const (
	system = "aibrix-system"
	// grace is short, so that tests need not wait for it.
	grace = "1s"
	// soon is how long a condition may take on a loaded machine.
	soon = 60 * time.Second
	tick = 25 * time.Millisecond
)

// world is a control plane with a routesteward. People use kubectl there; the tests' own set-up and observations use clients,
// which cost a hundredth of a process.
type world struct {
	*localcluster.Cluster
	// api is the administrator's client, probe that of somebody who may only create grants and HTTPRoutes.
	api, probe client.Client
	server     *localcluster.Server
	// flags are those of the running routesteward, after the ones that all have.
	flags []string
	// kubeconfig is whom routesteward runs as, its service account when empty.
	kubeconfig string
}

// binary is the program under test.
var binary string

func TestMain(m *testing.M) {
	// controller-runtime's clients complain when nobody has decided about their logs.
	ctrl.SetLogger(logr.Discard())
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "routesteward-e2e-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "routesteward")
	if err := build(binary); err != nil {
		fmt.Fprintln(os.Stderr, "building routesteward:", err)
		return 1
	}
	// Each process of the program reports the races that it detects in a file of its own.
	races := filepath.Join(dir, "race")
	if err := os.Setenv("GORACE", "log_path="+races); err != nil {
		panic(err)
	}
	code = m.Run()
	if shared != nil {
		if err := shared.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping:", err)
			code = 1
		}
	}
	reports, err := filepath.Glob(races + ".*")
	if err != nil {
		panic(err)
	}
	for _, report := range reports {
		text, err := os.ReadFile(report)
		fmt.Fprintf(os.Stderr, "routesteward has a data race:\n%s\n", errors.Join(err, errors.New(string(text))))
		code = 1
	}
	return code
}

// build builds the program with the race detector, which needs a C compiler. The tests themselves need no detector.
func build(binary string) error {
	args := []string{"build", "-trimpath", "-o", binary}
	cgo := "CGO_ENABLED=0"
	compiler, err := exec.Command("go", "env", "CC").Output()
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(strings.TrimSpace(string(compiler))); err == nil {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	} else {
		fmt.Fprintln(os.Stderr, "no C compiler: routesteward runs without the race detector")
	}
	build := exec.Command("go", append(args, "github.com/routesteward/routesteward")...)
	build.Env, build.Stderr = append(os.Environ(), cgo), os.Stderr
	return build.Run()
}

type worldOptions struct {
	// crds is a folder; Gateway API's experimental channel when empty.
	crds string
	// controllers are those of kube-controller-manager.
	controllers []string
	// before runs when the control plane is up and routesteward is not yet installed.
	before func(*world) error
	// flags are those of routesteward.
	flags []string
}

func newWorld(ctx context.Context, o worldOptions) (w *world, err error) {
	if o.crds == "" {
		if o.crds, err = localcluster.GatewayAPI(ctx, "experimental"); err != nil {
			return nil, err
		}
	}
	cluster, err := localcluster.Start(ctx, localcluster.Options{CRDs: []string{o.crds}, Controllers: o.controllers, Audit: true})
	if err != nil {
		return nil, err
	}
	w = &world{Cluster: cluster}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop())
		}
	}()
	scheme := policytest.Scheme()
	if err := errors.Join(admissionv1.AddToScheme(scheme), authorizationv1.AddToScheme(scheme), coordinationv1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	if w.api, err = client.New(w.Config, client.Options{Scheme: scheme}); err != nil {
		return nil, err
	}
	if w.probe, err = w.as("probe", "probes"); err != nil {
		return nil, err
	}
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
	return w, w.serve(ctx, o.flags...)
}

// as is a client of somebody, by impersonation.
func (w *world) as(name string, groups ...string) (client.Client, error) {
	config := rest.CopyConfig(w.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: append(groups, "system:authenticated")}
	return w.client(config)
}

func (w *world) client(config *rest.Config) (client.Client, error) {
	return client.New(config, client.Options{Scheme: w.api.Scheme(), Mapper: w.api.RESTMapper()})
}

// ownWorld is a control plane of the test's own. Such tests run in parallel.
func ownWorld(t *testing.T, o worldOptions) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w, err := newWorld(ctx, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.stop()) })
	return w
}

// shared is the world of the tests that need none of their own, which run one after the other.
var shared *world

// serving returns the shared world without routes and grants, with a routesteward that has these flags.
func serving(t *testing.T, flags ...string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if shared == nil {
		w, err := newWorld(ctx, worldOptions{flags: flags})
		require.NoError(t, err)
		shared = w
		return w
	}
	shared.empty(t)
	if !shared.running() || !slices.Equal(shared.flags, flags) {
		shared.restart(t, flags...)
	}
	return shared
}

// empty removes all routes and grants, and what was changed about the system namespace. A copy comes back until its source
// is seen to be gone.
func (w *world) empty(t *testing.T) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		for _, gvk := range []schema.GroupVersionKind{
			gwv1.SchemeGroupVersion.WithKind("HTTPRoute"), gwv1.SchemeGroupVersion.WithKind("GRPCRoute"), grantKind,
		} {
			list := &metav1.PartialObjectMetadataList{}
			list.SetGroupVersionKind(gvk)
			assert.NoError(c, w.api.List(t.Context(), list))
			for i := range list.Items {
				assert.NoError(c, client.IgnoreNotFound(w.api.Delete(t.Context(), &list.Items[i])))
			}
			assert.Empty(c, list.Items)
		}
	}, soon, tick)
	w.label(t, system, "")
	require.NoError(t, w.adminApply(t.Context(), gatewayYAML))
}

func (w *world) running() bool {
	if w.server == nil {
		return false
	}
	select {
	case <-w.server.Done():
		return false
	default:
		return true
	}
}

// serve starts routesteward and waits until the API server asks it.
func (w *world) serve(ctx context.Context, flags ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*soon)
	defer cancel()
	w.flags = flags
	server, err := w.Serve(ctx, localcluster.ServeOptions{
		Binary: binary, Kubeconfig: w.kubeconfig, Flags: append([]string{"--grant-grace=" + grace, "--exempt-groups=system:masters"}, flags...),
	})
	if err != nil {
		return err
	}
	w.server = server
	return w.intercepted(ctx)
}

// quit stops routesteward, which must end in order.
func (w *world) quit() error {
	if w.server == nil {
		return nil
	}
	defer func() { w.server = nil }()
	return errors.Join(w.server.Stop(), w.server.Err())
}

func (w *world) quits(t *testing.T) {
	t.Helper()
	require.NoError(t, w.quit())
}

// crashes kills routesteward. Its lease would keep the next one waiting until it expires, 15 seconds later.
func (w *world) crashes(t *testing.T) {
	t.Helper()
	w.server.Signal(syscall.SIGKILL)
	<-w.server.Done()
	w.server = nil
	require.NoError(t, w.api.Delete(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "routesteward-system", Name: "routesteward"}}))
}

func (w *world) restart(t *testing.T, flags ...string) {
	t.Helper()
	if w.running() {
		w.quits(t)
	}
	require.NoError(t, w.serve(t.Context(), flags...))
}

// intercepted waits until routesteward, under this very server's registration, refuses a forged managed grant, as it does
// under every policy, of somebody who is not exempt.
func (w *world) intercepted(ctx context.Context) error {
	forged, err := objects(managed(foreignGrant("default", "probe", system, "x")))
	if err != nil {
		return err
	}
	return waitFor(ctx, func() error {
		registration := &admissionv1.ValidatingWebhookConfiguration{}
		if err := w.api.Get(ctx, types.NamespacedName{Name: "routesteward"}, registration); err != nil {
			return err
		}
		if url := registration.Webhooks[0].ClientConfig.URL; url == nil || !strings.HasPrefix(*url, w.server.WebhookURL) {
			return fmt.Errorf("the registration does not name %q", w.server.WebhookURL)
		}
		if err := w.probe.Create(ctx, forged[0].DeepCopy(), client.DryRunAll); err == nil || !strings.Contains(err.Error(), "denied the request") {
			return fmt.Errorf("not intercepted yet: %v", err)
		}
		return nil
	})
}

func (w *world) stop() error {
	return errors.Join(w.quit(), w.Stop())
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

// objects decodes YAML documents.
func objects(yaml string) ([]*unstructured.Unstructured, error) {
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(yaml), 4096)
	var all []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if len(object.Object) > 0 {
			all = append(all, object)
		}
	}
}

// adminApply applies as the administrator (system:masters, exempt), as `kubectl apply --server-side --force-conflicts` does.
func (w *world) adminApply(ctx context.Context, yaml string) error {
	all, err := objects(yaml)
	if err != nil {
		return err
	}
	for _, object := range all {
		if err := w.api.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("kubectl"), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply %s %s/%s: %w", object.GetKind(), object.GetNamespace(), object.GetName(), err)
		}
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

// user is somebody with a client certificate of their own.
type user struct {
	w          *world
	t          *testing.T
	name       string
	kubeconfig string
}

const tenants = "tenants"

var unique atomic.Int64

// named makes a name that no other test has.
func named(prefix string) string { return fmt.Sprintf("%s-%d", prefix, unique.Add(1)) }

func (w *world) user(t *testing.T) *user {
	t.Helper()
	name := named("jane")
	kubeconfig, err := w.KubeconfigFor(name, tenants)
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
	return u.mayIn(namespace, rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: []string{gwv1.GroupName}, Resources: resources})
}

func (u *user) mayIn(namespace string, rule rbacv1.PolicyRule) *user {
	u.t.Helper()
	meta := metav1.ObjectMeta{Namespace: namespace, Name: named("may")}
	require.NoError(u.t, u.w.api.Create(u.t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{rule}}))
	require.NoError(u.t, u.w.api.Create(u.t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: u.name}},
	}))
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				resource, subresource, _ := strings.Cut(resource, "/")
				require.EventuallyWithT(u.t, func(c *assert.CollectT) {
					review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
						User: u.name, Groups: []string{tenants, "system:authenticated"},
						ResourceAttributes: &authorizationv1.ResourceAttributes{
							Namespace: namespace, Verb: verb, Group: group, Resource: resource, Subresource: subresource,
						},
					}}
					assert.NoError(c, u.w.api.Create(u.t.Context(), review))
					assert.True(c, review.Status.Allowed, "%s %s", verb, resource)
				}, soon, tick)
			}
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

// succeeds runs kubectl until it exits with 0: what the administrator changed a moment ago may not be in routesteward's
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

// refused runs kubectl and expects routesteward to refuse; it returns routesteward's words.
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

var requestLine = regexp.MustCompile(`\n?\(routesteward request [0-9a-f-]+\)`)

// namespace makes a namespace of the test's own, with the label routesteward.dev/grants when consent is not empty.
func (w *world) namespace(t *testing.T, prefix, consent string) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: named(prefix)}}
	if consent != "" {
		namespace.Labels = map[string]string{policy.GrantsLabel: consent}
	}
	require.NoError(t, w.api.Create(t.Context(), namespace))
	return namespace.Name
}

func (w *world) label(t *testing.T, namespace, consent string) {
	t.Helper()
	value := "null"
	if consent != "" {
		value = `"` + consent + `"`
	}
	require.NoError(t, w.api.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"labels": {"`+policy.GrantsLabel+`": `+value+`}}}`))))
}

// grantKind is the version of ReferenceGrant that every version of Gateway API serves.
var grantKind = schema.GroupVersionKind{Group: gwv1.GroupName, Version: "v1beta1", Kind: "ReferenceGrant"}

// grants names the ReferenceGrants in a namespace, as the API server has them now.
func (w *world) grants(t *testing.T, namespace string) []string {
	t.Helper()
	names, err := w.listGrants(t.Context(), namespace)
	require.NoError(t, err)
	return names
}

func (w *world) listGrants(ctx context.Context, namespace string) (names []string, err error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(grantKind)
	err = w.api.List(ctx, list, client.InNamespace(namespace))
	for _, grant := range list.Items {
		names = append(names, grant.Name)
	}
	return names, err
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
	var notes []string
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		notes = nil
		var events corev1.EventList
		assert.NoError(c, w.api.List(t.Context(), &events, client.InNamespace(namespace), client.MatchingFields{"involvedObject.name": route, "reason": reason}))
		for _, event := range events.Items {
			notes = append(notes, event.Message)
		}
		assert.NotEmpty(c, notes)
	}, soon, tick)
	return strings.Join(notes, " ")
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

// probeRBAC lets probes write grants anywhere, so that only routesteward can refuse them.
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

// managed gives a grant's manifest the label of routesteward's own.
func managed(manifest string) string {
	return strings.Replace(manifest, "metadata:\n", "metadata:\n  labels: {app.kubernetes.io/managed-by: routesteward}\n", 1)
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
