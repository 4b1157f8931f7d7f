package unpark

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
)

const (
	team   = "team-a"
	system = "aibrix-system"
)

// outside is a route as people write it.
func outside(kind policy.Kind, namespace, name string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	text := fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: %s, metadata: {name: %s, namespace: %s, uid: %s-%s-%s, annotations: {mine: stays}},
		spec: {parentRefs: [{name: aibrix-eg, namespace: aibrix-system, port: 80}], rules: [{backendRefs: [{name: llama, port: 8000}]}]}}`,
		kind, name, namespace, kind, namespace, name)
	content, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = object.UnmarshalJSON(content)
	}
	if err != nil {
		panic(err)
	}
	return object
}

// relocated are a parked route and its copy.
func relocated(t testing.TB, kind policy.Kind, namespace, name string) (source, copied *unstructured.Unstructured) {
	t.Helper()
	relocation, err := newPolicy(t).Relocate(outside(kind, namespace, name), policy.Snapshot{})
	require.NoError(t, err)
	relocation.Copy.SetUID("copy-of-" + relocation.Source.GetUID())
	return relocation.Source, relocation.Copy
}

func newPolicy(t testing.TB) *policy.Policy {
	t.Helper()
	p, err := policy.New(policy.DefaultConfig())
	require.NoError(t, err)
	return p
}

func fakeCluster(t testing.TB, functions interceptor.Funcs, objects ...*unstructured.Unstructured) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	require.NoError(t, gwv1.Install(scheme))
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{gwv1.SchemeGroupVersion})
	for _, kind := range policy.RouteKinds() {
		mapper.Add(gwv1.SchemeGroupVersion.WithKind(string(kind)), meta.RESTScopeNamespace)
	}
	builder := fake.NewClientBuilder().WithScheme(scheme).WithRESTMapper(mapper).WithInterceptorFuncs(functions)
	for _, object := range objects {
		builder.WithObjects(object.DeepCopy())
	}
	return builder.Build()
}

func text(t *testing.T, r Report) string {
	t.Helper()
	var out strings.Builder
	require.NoError(t, r.WriteText(&out))
	return out.String()
}

func TestUnpark(t *testing.T) {
	source, copied := relocated(t, policy.HTTPRoute, team, "llama")
	grpc, grpcCopy := relocated(t, policy.GRPCRoute, team, "qwen")
	other, othersCopy := relocated(t, policy.HTTPRoute, "team-b", "phi")
	never := outside(policy.HTTPRoute, team, "never")
	broken := source.DeepCopy()
	broken.SetName("broken")
	broken.SetAnnotations(map[string]string{policy.ParkedAnnotation: "nonsense"})
	lookalike := outside(policy.HTTPRoute, system, "lookalike")
	lookalike.SetAnnotations(map[string]string{policy.SourceAnnotation: "team-a/llama"})
	forged := copied.DeepCopy()
	forged.SetLabels(map[string]string{policy.OriginLabel: team})
	forged.SetName("forged")
	cluster := []*unstructured.Unstructured{source, copied, grpc, grpcCopy, other, othersCopy, never, broken, lookalike, forged}

	// routesteward removes the copy of a route that is not parked any more.
	removes := func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.UpdateOption) error {
		if err := c.Update(ctx, object, options...); err != nil {
			return err
		}
		if len(options) > 0 { // a dry run
			return nil
		}
		gone := copied.DeepCopy()
		gone.SetGroupVersionKind(object.GetObjectKind().GroupVersionKind())
		gone.SetName(object.GetName())
		return c.Delete(ctx, gone)
	}
	names := func(texts ...string) (names []Name) {
		for _, text := range texts {
			name, err := ParseName(text)
			require.NoError(t, err)
			names = append(names, name)
		}
		return names
	}
	for name, test := range map[string]struct {
		options   Options
		functions interceptor.Funcs
		want      string
		// unparked and gone are the names of the routes that have their parentRefs, and of copies that are not there any more.
		unparked, gone []string
		complete       bool
	}{
		"one route": {
			options: Options{Names: names("HTTPRoute/llama"), Namespace: team}, functions: interceptor.Funcs{Update: removes},
			want:     "HTTPRoute team-a/llama: unparked: on Gateway aibrix-system/aibrix-eg again\nHTTPRoute aibrix-system/llama: removed, as the copy of team-a/llama\n",
			unparked: []string{"llama"}, gone: []string{"llama"}, complete: true,
		},
		"without routesteward": {
			options: Options{Names: names("llama"), Namespace: team},
			want: "HTTPRoute team-a/llama: unparked: on Gateway aibrix-system/aibrix-eg again\n" +
				"HTTPRoute aibrix-system/llama: the copy of team-a/llama is still there and serves requests\n" +
				"  to fix: kubectl delete httproute -n aibrix-system llama (or --delete-copies), unless routesteward runs and is about to\n",
			unparked: []string{"llama"},
		},
		"without routesteward, copies too": {
			options:  Options{Names: names("llama", "grpcroutes/qwen"), Namespace: team, DeleteCopies: true, Timeout: time.Minute},
			want:     "HTTPRoute team-a/llama: unparked: on Gateway aibrix-system/aibrix-eg again\nGRPCRoute team-a/qwen: unparked: on Gateway aibrix-system/aibrix-eg again\nHTTPRoute aibrix-system/llama: removed, as the copy of team-a/llama\nGRPCRoute aibrix-system/qwen: removed, as the copy of team-a/qwen\n",
			unparked: []string{"llama", "qwen"}, gone: []string{"llama", "qwen"}, complete: true,
		},
		"a dry run": {
			options:  Options{Names: names("llama"), Namespace: team, DryRun: true, DeleteCopies: true},
			want:     "HTTPRoute team-a/llama: would be unparked: on Gateway aibrix-system/aibrix-eg again\nHTTPRoute aibrix-system/llama: would be removed, as the copy of team-a/llama\n",
			complete: true,
		},
		"a namespace": {
			options: Options{Namespace: team, DeleteCopies: true, Timeout: time.Minute},
			want: "HTTPRoute team-a/broken: refused: annotation routesteward.dev/parked-parent-refs is not a JSON list of parentRefs\n" +
				"  to fix: write its parentRefs into spec.parentRefs and remove the annotation: kubectl edit httproute -n team-a broken\n" +
				"HTTPRoute team-a/llama: unparked: on Gateway aibrix-system/aibrix-eg again\nGRPCRoute team-a/qwen: unparked: on Gateway aibrix-system/aibrix-eg again\n" +
				"HTTPRoute aibrix-system/llama: removed, as the copy of team-a/llama\nGRPCRoute aibrix-system/qwen: removed, as the copy of team-a/qwen\n",
			unparked: []string{"llama", "qwen"}, gone: []string{"llama", "qwen"},
		},
		"everywhere": {
			options:  Options{DryRun: true},
			want:     "HTTPRoute team-a/broken: refused: ",
			unparked: nil,
		},
		"not parked":    {options: Options{Names: names("never"), Namespace: team}, want: "HTTPRoute team-a/never: is not parked\n", complete: true},
		"nothing":       {options: Options{Namespace: "team-c"}, want: "no route is parked\n", complete: true},
		"no such route": {options: Options{Names: names("absent"), Namespace: team}, want: `HTTPRoute team-a/absent: failed: httproutes.gateway.networking.k8s.io "absent" not found` + "\n"},
		"relocated again": {
			options: Options{Names: names("llama"), Namespace: team, DeleteCopies: true},
			functions: interceptor.Funcs{Update: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.UpdateOption) error {
				object.(*unstructured.Unstructured).Object["spec"] = source.DeepCopy().Object["spec"]
				object.SetAnnotations(source.GetAnnotations())
				return c.Update(ctx, object, options...)
			}},
			want: "HTTPRoute team-a/llama: refused: it was parked again at once, as routes are relocated here (--outside=rewrite)\n" +
				"  to fix: set --outside=reject (or warn) for routesteward first; or, to uninstall it, kubectl delete mutatingwebhookconfiguration,validatingwebhookconfiguration routesteward\n",
		},
		"refused by routesteward": {
			options: Options{Names: names("llama"), Namespace: team, DeleteCopies: true},
			functions: interceptor.Funcs{Update: func(context.Context, client.WithWatch, client.Object, ...client.UpdateOption) error {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "httproutes"}, "llama", errors.New("it was not relocated [route-outside-system-namespace]"))
			}},
			want: `HTTPRoute team-a/llama: refused: httproutes "llama" is forbidden: it was not relocated [route-outside-system-namespace]` + "\n  to fix: set --outside=reject",
		},
		"not allowed": {
			options: Options{Names: names("llama"), Namespace: team, DeleteCopies: true},
			functions: interceptor.Funcs{Update: func(context.Context, client.WithWatch, client.Object, ...client.UpdateOption) error {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "httproutes"}, "llama", errors.New("you may not"))
			}},
			want: `HTTPRoute team-a/llama: failed: httproutes "llama" is forbidden: you may not` + "\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := fakeCluster(t, test.functions, cluster...)
			test.options.Policy = newPolicy(t)
			report, err := Run(t.Context(), c, test.options)
			require.NoError(t, err)
			require.Contains(t, text(t, report), test.want)
			if name != "everywhere" && !strings.HasSuffix(test.want, "reject") {
				require.Equal(t, test.want, text(t, report))
			}
			require.Equal(t, test.complete, report.Complete())

			for _, before := range cluster {
				now := &unstructured.Unstructured{}
				now.SetGroupVersionKind(before.GroupVersionKind())
				err := c.Get(t.Context(), client.ObjectKeyFromObject(before), now)
				isCopy := before.GetLabels()[policy.ManagedByLabel] == policy.ManagedBy
				if isCopy && contains(test.gone, before.GetName()) {
					require.True(t, apierrors.IsNotFound(err), "%v", err)
					continue
				}
				require.NoError(t, err, before.GetName())
				if !isCopy && contains(test.unparked, before.GetName()) {
					want := outside(policy.Kind(before.GetKind()), before.GetNamespace(), before.GetName())
					require.Equal(t, want.Object["spec"], now.Object["spec"])
					require.Equal(t, want.GetAnnotations(), now.GetAnnotations())
					continue
				}
				require.Equal(t, before.Object["spec"], now.Object["spec"], before.GetName())
				require.Equal(t, before.GetAnnotations(), now.GetAnnotations())
			}
		})
	}
}

func contains(names []string, name string) bool {
	for _, other := range names {
		if other == name {
			return true
		}
	}
	return false
}

func TestConflictsAreTriedAgain(t *testing.T) {
	source, _ := relocated(t, policy.HTTPRoute, team, "llama")
	updates := 0
	c := fakeCluster(t, interceptor.Funcs{Update: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.UpdateOption) error {
		if updates++; updates == 1 { // somebody else is faster
			faster := source.DeepCopy()
			if err := c.Get(ctx, client.ObjectKeyFromObject(faster), faster); err != nil {
				return err
			}
			faster.SetLabels(map[string]string{"theirs": "stays"})
			if err := c.Update(ctx, faster); err != nil {
				return err
			}
		}
		return c.Update(ctx, object, options...)
	}}, source)
	report, err := Run(t.Context(), c, Options{Policy: newPolicy(t), Names: []Name{{policy.HTTPRoute, "llama"}}, Namespace: team})
	require.NoError(t, err)
	require.Equal(t, 2, updates)
	require.True(t, report.Complete())
	now := source.DeepCopy()
	require.NoError(t, c.Get(t.Context(), client.ObjectKeyFromObject(source), now))
	require.Equal(t, map[string]string{"theirs": "stays"}, now.GetLabels())
	require.NotContains(t, now.GetAnnotations(), policy.ParkedAnnotation)
}

// TestCopiesThatNobodyMaySee: the routes are unparked all the same, and it is said that the rest is not known.
func TestCopiesThatNobodyMaySee(t *testing.T) {
	source, copied := relocated(t, policy.HTTPRoute, team, "llama")
	c := fakeCluster(t, interceptor.Funcs{List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
		return errors.New("you may not")
	}}, source, copied)
	report, err := Run(t.Context(), c, Options{Policy: newPolicy(t), Names: []Name{{policy.HTTPRoute, "llama"}}, Namespace: team})
	require.EqualError(t, err, "what became of the relocated copies is not known: cannot list HTTPRoutes: you may not")
	require.Equal(t, Unparked, report.Routes[0].State)
}

func TestInterrupted(t *testing.T) {
	source, copied := relocated(t, policy.HTTPRoute, team, "llama")
	ctx, cancel := context.WithCancel(t.Context())
	c := fakeCluster(t, interceptor.Funcs{Update: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.UpdateOption) error {
		defer cancel()
		return c.Update(ctx, object, options...)
	}}, source, copied)
	_, err := Run(ctx, c, Options{Policy: newPolicy(t), Names: []Name{{policy.HTTPRoute, "llama"}}, Namespace: team, Timeout: time.Hour})
	require.ErrorIs(t, err, context.Canceled)
}

func TestParseName(t *testing.T) {
	for text, want := range map[string]Name{
		"llama": {policy.HTTPRoute, "llama"}, "httproute/llama": {policy.HTTPRoute, "llama"}, "HTTPRoutes/llama": {policy.HTTPRoute, "llama"},
		"GRPCRoute/qwen": {policy.GRPCRoute, "qwen"}, "grpcroutes.gateway.networking.k8s.io/qwen": {policy.GRPCRoute, "qwen"},
	} {
		name, err := ParseName(text)
		require.NoError(t, err)
		require.Equal(t, want, name)
	}
	for _, text := range []string{"", "httproute/", "tlsroute/x", "team-a/x", "httproute/a/b"} {
		_, err := ParseName(text)
		require.EqualError(t, err, fmt.Sprintf("%q names no route; want KIND/NAME, where KIND is one of HTTPRoute, GRPCRoute", text))
	}
}

func TestJSON(t *testing.T) {
	source, copied := relocated(t, policy.HTTPRoute, team, "llama")
	report, err := Run(t.Context(), fakeCluster(t, interceptor.Funcs{}, source, copied), Options{Policy: newPolicy(t), Namespace: team})
	require.NoError(t, err)
	var out strings.Builder
	require.NoError(t, report.WriteJSON(&out))
	require.JSONEq(t, `{"dryRun": false,
		"routes": [{"kind": "HTTPRoute", "namespace": "team-a", "name": "llama", "state": "unparked", "parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system", "port": 80}]}],
		"copies": [{"kind": "HTTPRoute", "namespace": "aibrix-system", "name": "llama", "source": "team-a/llama", "state": "remains", "fix": "kubectl delete httproute -n aibrix-system llama"}]}`, out.String())
}

func TestManifests(t *testing.T) {
	const stored = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: "{}"
    routesteward.dev/parked-parent-refs: '[{"name":"aibrix-eg","namespace":"aibrix-system","port":80}]'
  creationTimestamp: "2026-01-01T00:00:00Z"
  generation: 2
  name: llama
  namespace: team-a
  resourceVersion: "1"
  uid: x
spec:
  rules:
  - backendRefs:
    - name: llama
      port: 8000
status:
  parents: []
`
	const unparked = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llama
  namespace: team-a
spec:
  parentRefs:
  - name: aibrix-eg
    namespace: aibrix-system
    port: 80
  rules:
  - backendRefs:
    - name: llama
      port: 8000
`
	indent := func(text string) string {
		return strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ") + "\n"
	}
	const foreign = "# mine\na:   [1]\n"
	for name, test := range map[string]struct {
		in, want string
		count    int
	}{
		"a route":        {stored, unparked, 1},
		"among others":   {foreign + "---\n" + stored + "---\n" + foreign, foreign + "---\n" + unparked + "---\n" + foreign, 1},
		"a List":         {"apiVersion: v1\nitems:\n- " + indent(stored) + "kind: List\n", "apiVersion: v1\nitems:\n- " + indent(unparked) + "kind: List\n", 1},
		"not parked":     {unparked, unparked, 0},
		"no route":       {"kind: ConfigMap\nmetadata: {annotations: {routesteward.dev/parked-parent-refs: x}}\n", "kind: ConfigMap\nmetadata: {annotations: {routesteward.dev/parked-parent-refs: x}}\n", 0},
		"another's copy": {strings.Replace(stored, "team-a", system, 1), strings.Replace(stored, "team-a", system, 1), 0},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			count, err := Manifests(newPolicy(t), strings.NewReader(test.in), &out)
			require.NoError(t, err)
			require.Equal(t, test.count, count)
			require.Equal(t, test.want, out.String())
		})
	}
	_, err := Manifests(newPolicy(t), strings.NewReader(foreign+"---\n"+strings.Replace(stored, "'[{", "'[", 1)), &strings.Builder{})
	require.EqualError(t, err, "document 2: HTTPRoute team-a/llama: annotation routesteward.dev/parked-parent-refs is not a JSON list of parentRefs")
}
