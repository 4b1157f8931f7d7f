package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

const outsideRule = "route-outside-system-namespace"

// fallbackRoutes are as many random writes under each policy.
const fallbackRoutes = 120

// TestFallbackPolicy takes away routesteward, then its registration, and expects that the ValidatingAdmissionPolicy refuses
// what the engine refuses without knowing the cluster.
func TestFallbackPolicy(t *testing.T) {
	t.Parallel()
	w := ownWorld(t, worldOptions{})
	w.adminApplies(t, goldenRBAC)
	team, models := w.namespace(t, "team", ""), w.namespace(t, "models", "allow")
	jane := w.user(t).writesRoutes(team, system)
	print := exec.CommandContext(t.Context(), binary, "manifests", "--policy=vap", "--exempt-groups=system:masters")
	manifest, err := print.Output()
	require.NoError(t, err)

	direct := route(team, "direct", "llama")
	misdirected := strings.Replace(direct, "    namespace: "+system+"\n", "", 1)
	const denied = `ValidatingAdmissionPolicy 'routesteward' with binding 'routesteward' denied request: `
	says := func(kind, name string) string {
		return denied + fmt.Sprintf(`%s "%s" in namespace "%s" has 1 problem: - spec.parentRefs[0]: Gateway aibrix-system/aibrix-eg: takes routes from namespace "aibrix-system" only, and this route is in "%s"; `+
			`to fix: set metadata.namespace: aibrix-system and add namespace: %s to each backendRef that names none [route-outside-system-namespace]`, kind, name, team, team, team)
	}
	require.NotContains(t, jane.refused(direct, "create", "-f", "-"), "ValidatingAdmissionPolicy")
	jane.succeeds(route(system, "before", models+"/llama"), "create", "-f", "-")

	t.Run("beside routesteward", func(t *testing.T) {
		jane := jane.in(t)
		w.adminApplies(t, string(manifest))
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			assert.Contains(c, jane.kubectl(direct, "create", "-f", "-").stderr, says("HTTPRoute", "direct"))
		}, soon, tick)
		require.Contains(t, jane.refused(misdirected, "create", "-f", "-"), "there is no such Gateway", "routesteward decides what only the cluster shows")
		jane.succeeds("", "label", "httproute", "before", "-n", system, "a=b")
	})
	t.Run("routesteward is down", func(t *testing.T) {
		jane := jane.in(t)
		w.quits(t)
		r := jane.kubectl(direct, "create", "-f", "-")
		require.Equal(t, 1, r.exit)
		require.Contains(t, r.stderr, "Error from server (Forbidden)")
		require.Contains(t, r.stderr, says("HTTPRoute", "direct"))
		require.Contains(t, jane.kubectl(misdirected, "create", "-f", "-").stderr, `failed calling webhook "routes.routesteward.dev"`)
	})
	t.Run("after break-glass", func(t *testing.T) {
		jane := jane.in(t)
		w.admin(t, "delete", "validatingwebhookconfiguration,mutatingwebhookconfiguration", "routesteward")
		jane.succeeds(misdirected, "create", "-f", "-") // nobody evaluates it any more
		jane.succeeds("", "delete", "httproute", "direct", "-n", team)
		r := jane.kubectl(direct, "create", "-f", "-")
		require.Contains(t, r.stderr, says("HTTPRoute", "direct"))
		require.Contains(t, jane.kubectl(strings.Replace(direct, "gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1", 1), "create", "-f", "-").stderr, says("HTTPRoute", "direct"))
		require.Contains(t, jane.kubectl(strings.Replace(direct, "kind: HTTPRoute", "kind: GRPCRoute", 1), "create", "-f", "-").stderr, says("GRPCRoute", "direct"))
		r = jane.kubectl(strings.Replace(direct, "name: direct", "generateName: direct-", 1), "create", "-f", "-")
		require.Contains(t, r.stderr, says("HTTPRoute", "direct-*"))
		jane.succeeds(route(system, "inside", models+"/llama"), "create", "-f", "-")

		// What was there before stays operable, and gets no worse.
		w.adminApplies(t, direct)
		jane.succeeds("", "label", "httproute", "direct", "-n", team, "a=b")
		r = jane.kubectl("", "patch", "httproute", "direct", "-n", team, "--type=json",
			`-p=[{"op": "add", "path": "/spec/parentRefs/-", "value": {"name": "second", "namespace": "aibrix-system"}}]`)
		require.Contains(t, r.stderr, denied+`HTTPRoute "direct" in namespace "`+team+`" has 1 problem: - spec.parentRefs[1]: Gateway aibrix-system/second: `)
		r = jane.kubectl("", "annotate", "httproute", "direct", "-n", team, policy.ParkedAnnotation+`=[{"name":"aibrix-eg","namespace":"aibrix-system"}]`)
		require.Contains(t, r.stderr, "asks for a relocation, and no routes are relocated here (--outside=reject)")
		w.admin(t, "patch", "httproute", "direct", "-n", team, "--type=merge", `-p={"metadata": {"finalizers": ["example.com/wait"]}}`)
		jane.succeeds("", "delete", "httproute", "direct", "-n", team, "--wait=false")
		jane.succeeds("", "patch", "httproute", "direct", "-n", team, "--type=merge", `-p={"metadata": {"finalizers": null}}`)
	})
	t.Run("the engine's verdicts", func(t *testing.T) {
		w.admin(t, "delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "routesteward")
		testFallbackVerdicts(t, w)
	})
}

// in is the user in a subtest.
func (u *user) in(t *testing.T) *user {
	return &user{w: u.w, t: t, name: u.name, kubeconfig: u.kubeconfig}
}

// fallbackTest writes as a user, in dry runs, under one ValidatingAdmissionPolicy after the other.
type fallbackTest struct {
	clients         kubernetes.Interface
	admin           client.Client
	requester, ops  client.Client
	warned, opsSaid *warnings
	installed       string
	counts          map[string]int
}

func testFallbackVerdicts(t *testing.T, w *world) {
	t.Logf("repeat with: SEED=%d go test ./e2e -run TestFallbackPolicy", policytest.FirstSeed())
	w.admin(t, "create", "clusterrolebinding", "operator", "--clusterrole=golden-requester", "--user=operator")
	f := &fallbackTest{counts: map[string]int{}}
	var err error
	f.clients, err = kubernetes.NewForConfig(w.Config)
	require.NoError(t, err)
	f.admin = w.api
	as := func(name string, groups ...string) (client.Client, *warnings) {
		config, err := w.ConfigFor(name, groups...)
		require.NoError(t, err)
		config = rest.CopyConfig(config)
		config.QPS = -1
		warned := &warnings{}
		config.WarningHandlerWithContext = warned
		c, err := w.client(config)
		require.NoError(t, err)
		return c, warned
	}
	f.requester, f.warned = as(policytest.User, policytest.Group)
	f.ops, f.opsSaid = as("operator")
	cases, err := policytest.Load("../policy/testdata/cases")
	require.NoError(t, err)
	byPolicy := map[string][]policytest.Case{}
	var order []string
	namespaces := append([]string{"operator"}, policytest.Namespaces...)
	for _, c := range cases {
		if _, isRoute := policy.RouteOf(c.Request.Object); !isRoute || c.Config.Outside == policy.OutsideAllow || c.Object.GetDeletionTimestamp() != nil {
			continue
		}
		// Only these settings make a difference to the policy.
		key := fmt.Sprint(c.Config.SystemNamespace, c.Config.Scope, c.Config.Kinds, c.Config.Outside, c.Config.ExemptNamespaces, c.Config.ExemptUsers, c.Config.ExemptGroups)
		if byPolicy[key] == nil {
			order = append(order, key)
		}
		byPolicy[key] = append(byPolicy[key], c)
		namespaces = append(namespaces, c.Request.Namespace)
	}
	slices.Sort(namespaces)
	for _, namespace := range slices.Compact(namespaces) {
		require.NoError(t, w.adminApply(t.Context(), namespaceYAML(namespace)))
	}
	for _, key := range order {
		pol := f.install(t, byPolicy[key][0].Config)
		for _, c := range byPolicy[key] {
			t.Run(c.Name, func(t *testing.T) { f.decide(t, pol, c.Request, c.Facts()) })
		}
	}
	t.Logf("golden cases under %d policies: %v", len(order), f.counts)
	require.Greater(t, f.counts["denied"], 10)
	require.Greater(t, f.counts["allowed"], 10)

	source := policytest.NewSource(policytest.FirstSeed())
	for _, outside := range []policy.OutsideMode{policy.OutsideReject, policy.OutsideRewrite, policy.OutsideWarn} {
		for _, scope := range []policy.Scope{policy.ScopeGoverned, policy.ScopeAll} {
			config := policy.DefaultConfig()
			config.Outside, config.Scope = outside, scope
			clear(f.counts)
			pol := f.install(t, config)
			for range fallbackRoutes {
				object := source.Route()
				if route, ok := object.(*gwv1.HTTPRoute); ok && source.Chance(3) {
					route.Spec.ParentRefs = append(route.Spec.ParentRefs, gwv1.ParentReference{Name: "added", Namespace: new(gwv1.Namespace(system))})
				}
				request := policy.Request{
					Operation: policy.Create, Kind: policy.Kind(object.GetObjectKind().GroupVersionKind().Kind), Namespace: object.GetNamespace(),
					User: policy.User{Name: policytest.User, Groups: []string{policytest.Group}}, Object: object,
				}
				if source.Chance(3) {
					request.Operation, request.OldObject = policy.Update, source.Changed(object)
				}
				f.decide(t, pol, request, source.Facts())
			}
			t.Logf("%d random routes, --outside=%s --scope=%s: %v", fallbackRoutes, outside, scope, f.counts)
			require.Greater(t, f.counts["denied"]+f.counts["warned"], 10)
			require.Greater(t, f.counts["allowed"], 10)
		}
	}
}

// install puts the policy's fallback in the place of the one before, and waits until it is in force.
func (f *fallbackTest) install(t *testing.T, config policy.Config) *policy.Policy {
	t.Helper()
	config.ExemptGroups = append(slices.Clone(config.ExemptGroups), "system:masters") // who stores what is updated
	pol, err := policy.New(config)
	require.NoError(t, err)
	vap, binding, err := pol.Fallback()
	require.NoError(t, err)
	api := f.clients.AdmissionregistrationV1()
	if f.installed != "" {
		require.NoError(t, api.ValidatingAdmissionPolicyBindings().Delete(t.Context(), f.installed, metav1.DeleteOptions{}))
		require.NoError(t, api.ValidatingAdmissionPolicies().Delete(t.Context(), f.installed, metav1.DeleteOptions{}))
	}
	// A name of its own shows whose refusal it is.
	f.installed = named("fallback")
	vap.Name, binding.Name, binding.Spec.PolicyName = f.installed, f.installed, f.installed
	_, err = api.ValidatingAdmissionPolicies().Create(t.Context(), vap, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = api.ValidatingAdmissionPolicyBindings().Create(t.Context(), binding, metav1.CreateOptions{})
	require.NoError(t, err)
	probe := &gwv1.HTTPRoute{}
	probe.Namespace, probe.Name = "operator", "probe"
	probe.Spec.ParentRefs = []gwv1.ParentReference{{Name: "g", Namespace: new(gwv1.Namespace(config.SystemNamespace))}}
	require.Eventually(t, func() bool {
		message, err := written(t.Context(), f.ops, f.opsSaid, probe.DeepCopy(), nil)
		require.NoError(t, err)
		return strings.Contains(message, "ValidatingAdmissionPolicy '"+f.installed+"'") && strings.Count(message, "ValidatingAdmissionPolicy") == 1
	}, soon, tick)
	return pol
}

// written is what a ValidatingAdmissionPolicy said of a write in a dry run; an error is another one's.
func written(ctx context.Context, c client.Client, warned *warnings, object, old client.Object) (string, error) {
	warned.take()
	var err error
	if old == nil {
		err = c.Create(ctx, object, client.DryRunAll)
	} else {
		err = c.Update(ctx, object, client.DryRunAll)
	}
	var said []string
	for _, warning := range warned.take() {
		if strings.Contains(warning, "ValidatingAdmissionPolicy") {
			said = append(said, warning)
		}
	}
	if err != nil && strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
		return err.Error(), nil
	}
	return strings.Join(said, "\n"), err
}

func (f *fallbackTest) decide(t *testing.T, pol *policy.Policy, req policy.Request, facts policy.Snapshot) {
	t.Helper()
	object := req.Object.DeepCopyObject().(client.Object)
	var old client.Object
	wasAnnotated := false
	if req.OldObject != nil {
		old = req.OldObject.DeepCopyObject().(client.Object)
		_, wasAnnotated = old.GetAnnotations()[policy.ParkedAnnotation]
		for _, o := range []client.Object{old, object} {
			o.SetResourceVersion("")
			o.SetUID("")
		}
		stored := old.DeepCopyObject().(client.Object)
		require.NoError(t, f.admin.Create(t.Context(), stored))
		defer func() { require.NoError(t, f.admin.Delete(context.Background(), stored)) }()
		object.SetName(stored.GetName())
		object.SetResourceVersion(stored.GetResourceVersion())
	}
	said, err := written(t.Context(), f.requester, f.warned, object, old)
	require.NoError(t, err)

	// Without facts the engine finds what needs none; of that, the policy must find what does not depend on an annotation's value.
	evaluated := req
	evaluated.Object = object
	var findings, must []policy.Finding
	for _, finding := range pol.Evaluate(evaluated, policy.Snapshot{}).Findings {
		if finding.Rule != outsideRule || finding.Severity != policy.SeverityDeny && pol.Outside != policy.OutsideWarn {
			continue
		}
		findings = append(findings, finding)
		annotation := strings.HasPrefix(finding.Field, "metadata.annotations")
		if wasAnnotated && pol.Outside == policy.OutsideReject || annotation && pol.Outside != policy.OutsideReject {
			f.counts["left to the webhook"]++
			continue
		}
		must = append(must, finding)
	}
	require.True(t, said != "" || len(must) == 0, "%v", must)
	require.True(t, said == "" || len(findings) > 0, said)
	switch {
	case said == "":
		f.counts["allowed"]++
		return
	case pol.Outside == policy.OutsideWarn:
		f.counts["warned"]++
	default:
		f.counts["denied"]++
	}
	require.Contains(t, said, "ValidatingAdmissionPolicy '"+f.installed+"'")
	require.Contains(t, said, "["+outsideRule+"]")
	for _, finding := range must {
		if strings.HasPrefix(finding.Field, "spec.parentRefs") && len(must) <= 5 {
			require.Contains(t, said, " - "+finding.String())
		}
	}
	// Whatever there is in the cluster.
	require.True(t, slices.ContainsFunc(pol.Evaluate(evaluated, facts).Findings, func(f policy.Finding) bool {
		return f.Rule == outsideRule && (f.Severity == policy.SeverityDeny || pol.Outside == policy.OutsideWarn)
	}), said)
}
