package check

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	k8syaml "sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

// Whatever the input, policy and facts: what is fixed is denied no more, what is not has a reason, nothing else changes,
// and fixing twice is fixing once.
func TestFixRandomInput(t *testing.T) {
	dir := t.TempDir()
	for i := range 400 {
		seed := policytest.FirstSeed() + uint64(i)
		t.Run(fmt.Sprintf("SEED=%d", seed), func(t *testing.T) {
			s := policytest.NewSource(seed)
			var config policy.Config
			o := optionsFor(t, nil, func(c *policy.Config) { *c = s.Config(); config = *c })
			o.User = s.User()
			var objects []client.Object
			for range 1 + s.IntN(4) {
				objects = append(objects, s.Object())
			}
			cluster := manifests(t, policytest.Objects(s.Facts(), o.User.Name))
			if s.Chance(2) {
				o.Facts = []string{writeFile(t, filepath.Join(dir, "facts", "facts.yaml"), strings.Join(cluster, "---\n"))}
			} else {
				cluster = cluster[:s.IntN(len(cluster)+1)]
			}
			documents := append(manifests(t, objects), cluster...)
			s.Shuffle(len(documents), func(i, j int) { documents[i], documents[j] = documents[j], documents[i] })
			text := strings.Join(documents, "---\n")
			path := writeFile(t, filepath.Join(dir, "input.yaml"), text)
			o.Files = []string{path}

			fixes, err := Fix(context.Background(), o)
			require.NoError(t, err)
			require.Empty(t, fixes.Report.Problems)
			require.NoError(t, fixes.Write(nil))
			fixed, err := os.ReadFile(path)
			require.NoError(t, err)

			report, err := Run(context.Background(), o)
			require.NoError(t, err)
			require.Empty(t, report.Problems, "%s", fixed)
			reasons := map[string]string{}
			for _, u := range fixes.Unfixed {
				reasons[fmt.Sprintf("%s %s/%s", u.Kind, u.Namespace, u.Name)] = u.Reason
			}
			for _, result := range report.Results {
				for _, finding := range result.Findings {
					object := fmt.Sprintf("%s %s/%s", result.Kind, result.Namespace, result.Name)
					require.True(t, finding.Severity != SeverityDeny || reasons[object] != "", "%s is neither fixed nor is there a reason\n%s\n%s", object, finding.Message, text)
				}
			}
			for _, grant := range addedGrants(t, text, string(fixed)) {
				require.NotContains(t, grant.Labels, policy.ManagedByLabel)
				require.Len(t, grant.Spec.From, 1)
				require.Len(t, grant.Spec.To, 1)
				require.NotNil(t, grant.Spec.To[0].Name)
				require.NotEqual(t, policy.GrantsDeny, label(t, documents, grant.Namespace), "a namespace that vetoes gets no grant")
			}
			onlyLinesAdded(t, text, string(fixed), config.SystemNamespace)

			again, err := Fix(context.Background(), o)
			require.NoError(t, err)
			require.Empty(t, again.Files, "the second time")
		})
	}
}

// manifests are objects as people write them; RoleBindings are left out.
func manifests(t *testing.T, objects []client.Object) []string {
	t.Helper()
	var texts []string
	for _, object := range objects {
		if _, ok := object.(*rbacv1.RoleBinding); ok {
			continue
		}
		if object.GetObjectKind().GroupVersionKind().Kind == "" {
			object.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
		}
		text, err := k8syaml.Marshal(object)
		require.NoError(t, err)
		texts = append(texts, strings.ReplaceAll(string(text), "status:\n  parents: null\n", ""))
	}
	return texts
}

// addedGrants are the ReferenceGrants that the second text has more of.
func addedGrants(t *testing.T, before, after string) []*gwv1.ReferenceGrant {
	t.Helper()
	var added []*gwv1.ReferenceGrant
	for _, text := range strings.Split(after, "---\n") {
		if strings.Contains(before, text) || !strings.Contains(text, "v1beta1\nkind: ReferenceGrant\n") {
			continue
		}
		grant := &gwv1.ReferenceGrant{}
		require.NoError(t, k8syaml.UnmarshalStrict([]byte(text), grant))
		added = append(added, grant)
	}
	return added
}

// label is what the input says about a namespace's grants.
func label(t *testing.T, documents []string, namespace string) string {
	t.Helper()
	for _, text := range documents {
		var object metav1.PartialObjectMetadata
		require.NoError(t, k8syaml.Unmarshal([]byte(text), &object))
		if object.Kind == "Namespace" && object.Name == namespace {
			return object.Labels[policy.GrantsLabel]
		}
	}
	return ""
}

// onlyLinesAdded requires that the lines of before stand in after in their order, but for names and namespaces that were
// replaced, and for parentRefs that are parked no more.
func onlyLinesAdded(t *testing.T, before, after, system string) {
	t.Helper()
	rest := unparkedLines(after)
	for _, line := range unparkedLines(before) {
		for {
			require.NotEmpty(t, rest, "lost: %s", line)
			next := rest[0]
			rest = rest[1:]
			name, named := strings.CutPrefix(line, "  name: ")
			if next == line || strings.HasPrefix(line, "  namespace: ") && next == "  namespace: "+system ||
				named && strings.HasPrefix(next, "  name: ") && strings.HasSuffix(next, "."+name) {
				break
			}
		}
	}
}

// unparkedLines are the lines of a text without the annotation of parked parentRefs, and without annotations that hold
// nothing else.
func unparkedLines(text string) []string {
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool {
		return strings.HasPrefix(line, "    "+policy.ParkedAnnotation+":")
	})
	var kept []string
	for i, line := range lines {
		if line != "  annotations:" || i+1 < len(lines) && strings.HasPrefix(lines[i+1], "    ") {
			kept = append(kept, line)
		}
	}
	return kept
}

// TestFixedIsTheCopy: what --fix makes of a route that is relocated is what its copy would be.
func TestFixedIsTheCopy(t *testing.T) {
	dir := t.TempDir()
	moved, unparked, renamed := 0, 0, 0
	for i := range 300 {
		seed := policytest.FirstSeed() + uint64(i)
		t.Run(fmt.Sprintf("SEED=%d", seed), func(t *testing.T) {
			s := policytest.NewSource(seed)
			config := s.Config()
			config.Outside, config.Scope, config.Kinds = policy.OutsideRewrite, policy.ScopeGoverned, policy.RouteKinds()
			config.ExemptNamespaces, config.ExemptUsers, config.ExemptGroups = nil, nil, nil
			config.RelocatedName = policytest.OneOf(s, policy.RelocatedNameQualified, policy.RelocatedNameSame)
			o := optionsFor(t, nil, func(c *policy.Config) { *c = config })
			o.AsConsented = policytest.Namespaces
			facts := s.Facts()
			for _, name := range policytest.Namespaces { // so that more of them can be moved
				facts.Namespaces[name] = policy.NamespaceFacts{Exists: policy.Yes}
			}
			var object client.Object
			for relocated := false; !relocated; {
				object = s.Route()
				object.SetLabels(nil)
				m, err := o.Policy.Mutate(policy.Request{
					Operation: policy.Create, Kind: policy.Kind(object.GetObjectKind().GroupVersionKind().Kind), Namespace: object.GetNamespace(), Object: object,
				}, facts)
				require.NoError(t, err)
				relocated = len(m.Out) > 0
			}
			source, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
			require.NoError(t, err)
			if relocation, err := o.Policy.Relocate(&unstructured.Unstructured{Object: source}, facts); err == nil && s.Chance(2) {
				source = relocation.Source.Object // as it is parked
				object = policy.NewObject(policy.Kind(relocation.Source.GetKind()))
				require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(source, object))
			}
			o.Facts = []string{writeFile(t, filepath.Join(dir, "facts", "facts.yaml"), strings.Join(manifests(t, policytest.Objects(facts, "")), "---\n"))}
			path := writeFile(t, filepath.Join(dir, "input.yaml"), manifests(t, []client.Object{object})[0])
			o.Files = []string{path}
			fixes, err := Fix(context.Background(), o)
			require.NoError(t, err)
			if len(fixes.Files) == 0 {
				return
			}
			documents := strings.Split(string(fixes.Files[0].After), "---\n")
			fixed := &unstructured.Unstructured{}
			require.NoError(t, k8syaml.Unmarshal([]byte(documents[len(documents)-1]), &fixed.Object))
			relocation, err := o.Policy.Relocate(&unstructured.Unstructured{Object: source}, facts)
			require.NoError(t, err)
			moved++
			if relocation.Source.GetAnnotations()[policy.ParkedAnnotation] == object.GetAnnotations()[policy.ParkedAnnotation] {
				unparked++
			}
			if object.GetName() != fixed.GetName() {
				renamed++
			}
			require.Equal(t, relocation.Copy.GetName(), fixed.GetName())
			require.Equal(t, relocation.Copy.GetNamespace(), fixed.GetNamespace())
			require.NotContains(t, fixed.GetAnnotations(), policy.ParkedAnnotation)
			require.Equal(t, spec(t, relocation.Copy), spec(t, fixed))
		})
	}
	t.Logf("%d moved, %d of them parked before, %d renamed", moved, unparked, renamed)
	require.NotZero(t, moved)
	require.NotZero(t, unparked)
	require.NotZero(t, renamed)
}

// spec is a route's spec as JSON, with the group and kind of its parentRefs written out.
func spec(t *testing.T, route *unstructured.Unstructured) string {
	t.Helper()
	refs, _, err := unstructured.NestedSlice(route.Object, "spec", "parentRefs")
	require.NoError(t, err)
	for _, ref := range refs {
		ref := ref.(map[string]any)
		ref["group"], ref["kind"] = gwv1.GroupName, string(policy.Gateway)
	}
	content, _, err := unstructured.NestedMap(route.Object, "spec")
	require.NoError(t, err)
	content["parentRefs"] = refs
	text, err := json.Marshal(content)
	require.NoError(t, err)
	return string(text)
}
