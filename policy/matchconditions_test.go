package policy_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	schemacel "k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	admissioncel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

// crd is what the API server makes of one version of a CustomResourceDefinition.
type crd struct {
	structural *structuralschema.Structural
	schema     schemavalidation.SchemaValidator
	// rules compiles the schema's CEL rules, once.
	rules func() *schemacel.Validator
}

// crds are Gateway API's own, of the experimental channel, because it has every field that the engine reads.
func crds(t testing.TB) map[policy.Kind]crd {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	require.NoError(t, err)
	all := map[policy.Kind]crd{}
	for kind, resource := range resources {
		data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config/crd/experimental/gateway.networking.k8s.io_"+resource+".yaml"))
		require.NoError(t, err)
		var definition apiextensionsv1.CustomResourceDefinition
		require.NoError(t, yaml.UnmarshalStrict(data, &definition))
		for _, version := range definition.Spec.Versions {
			if version.Name != gwv1.GroupVersion.Version {
				continue
			}
			var internal apiextensions.CustomResourceValidation
			require.NoError(t, apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(version.Schema, &internal, nil))
			c := crd{}
			c.structural, err = structuralschema.NewStructural(internal.OpenAPIV3Schema)
			require.NoError(t, err)
			c.schema, _, err = schemavalidation.NewSchemaValidator(internal.OpenAPIV3Schema)
			require.NoError(t, err)
			c.rules = sync.OnceValue(func() *schemacel.Validator {
				return schemacel.NewValidator(c.structural, true, celconfig.PerCallLimit)
			})
			all[kind] = c
		}
	}
	require.Len(t, all, len(resources))
	return all
}

var resources = map[policy.Kind]string{
	policy.HTTPRoute: "httproutes", policy.GRPCRoute: "grpcroutes", policy.Gateway: "gateways", policy.ReferenceGrant: "referencegrants",
}

// validate fills in the defaults of an object, as the API server does before admission, and validates it.
func (c crd) validate(object map[string]any) field.ErrorList {
	defaulting.Default(object, c.structural)
	errs := schemavalidation.ValidateCustomResource(nil, object, c.schema)
	if len(errs) > 0 {
		return errs
	}
	errs, _ = c.rules().Validate(context.Background(), nil, c.structural, object, nil, celconfig.RuntimeCELCostBudget)
	return errs
}

func toUnstructured(obj runtime.Object) *unstructured.Unstructured {
	if obj == nil {
		return nil
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		panic(err)
	}
	delete(content, "status") // a subresource: the API server ignores it here
	return &unstructured.Unstructured{Object: content}
}

func TestRandomObjectsAreValid(t *testing.T) {
	schemas := crds(t)
	forEach(t, 60, func(s *policytest.Source) {
		object := s.Object()
		for _, object := range []client.Object{object, s.Changed(object)} {
			kind := policy.Kind(object.GetObjectKind().GroupVersionKind().Kind)
			require.Empty(t, schemas[kind].validate(toUnstructured(object).Object))
		}
		for _, object := range policytest.Objects(s.Facts(s.Edge(), s.Edge()), policytest.User) {
			if crd, ok := schemas[policy.Kind(object.GetObjectKind().GroupVersionKind().Kind)]; ok {
				require.Empty(t, crd.validate(toUnstructured(object).Object))
			}
		}
	})
	require.Empty(t, schemas[policy.HTTPRoute].validate(toUnstructured(policytest.Wide(16, 16, 16, "team-a")).Object))
}

// apiServer evaluates with the API server's own code whether it would call the webhook.
type apiServer struct {
	compiler admissioncel.ConditionCompiler
}

func newAPIServer() apiServer {
	return apiServer{admissioncel.NewConditionCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))}
}

func (a apiServer) matcher(p *policy.Policy, kind policy.Kind) matchconditions.Matcher {
	return a.compile(p.MatchConditions(kind))
}

func (a apiServer) compile(conditions []admissionregistrationv1.MatchCondition) matchconditions.Matcher {
	fail := admissionregistrationv1.Fail
	return webhook.NewValidatingWebhookAccessor("", "routesteward", &admissionregistrationv1.ValidatingWebhook{
		Name: "test.routesteward.dev", FailurePolicy: &fail, MatchConditions: conditions,
	}).GetCompiledMatcher(a.compiler)
}

// compiled is the same as matcher, and reports what evaluation costs.
func (a apiServer) compiled(p *policy.Policy, kind policy.Kind, mode environment.Type) admissioncel.ConditionEvaluator {
	var expressions []admissioncel.ExpressionAccessor
	for _, condition := range p.MatchConditions(kind) {
		expressions = append(expressions, (*matchconditions.MatchCondition)(&condition))
	}
	return a.compiler.CompileCondition(expressions, admissioncel.OptionalVariableDeclarations{HasAuthorizer: true}, mode)
}

func attributes(req policy.Request, object, old *unstructured.Unstructured) *admission.VersionedAttributes {
	gvk := gwv1.SchemeGroupVersion.WithKind(string(req.Kind))
	gvr := schema.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: resources[req.Kind]}
	v := &admission.VersionedAttributes{VersionedKind: gvk}
	// A nil *Unstructured must not become an interface that is not nil.
	var newObject, oldObject runtime.Object
	if object != nil {
		newObject = object
		v.VersionedObject = admission.NewLazyObject(newObject)
	}
	if old != nil {
		oldObject = old
		v.VersionedOldObject = admission.NewLazyObject(oldObject)
	}
	var options runtime.Object = &metav1.CreateOptions{}
	if req.Operation == policy.Update {
		options = &metav1.UpdateOptions{}
	}
	v.Attributes = admission.NewAttributesRecord(newObject, oldObject, gvk, req.Namespace, object.GetName(), gvr, "",
		admission.Operation(req.Operation), options, false, &user.DefaultInfo{Name: req.User.Name, Groups: req.User.Groups})
	return v
}

// called reports whether the API server calls the webhook for a write. Whether defaults are filled in must not matter.
func called(t testing.TB, matcher matchconditions.Matcher, req policy.Request, schemas map[policy.Kind]crd) bool {
	t.Helper()
	var results []bool
	for _, defaults := range []bool{false, true} {
		object, old := toUnstructured(req.Object), toUnstructured(req.OldObject)
		if defaults {
			defaulting.Default(object.Object, schemas[req.Kind].structural)
			if old != nil {
				defaulting.Default(old.Object, schemas[req.Kind].structural)
			}
		}
		result := matcher.Match(context.Background(), attributes(req, object, old), nil, nil)
		require.NoError(t, result.Error)
		results = append(results, result.Matches)
	}
	require.Equal(t, results[0], results[1], "with and without the API's defaults")
	return results[0]
}

// requireNothingToDecide is what a skipped write must be.
func requireNothingToDecide(t testing.TB, p *policy.Policy, req policy.Request, facts policy.Facts) {
	t.Helper()
	d := p.Evaluate(req, facts)
	require.True(t, d.Allowed, "not called, and: %s", d.Denial(req))
	require.Empty(t, d.Findings, "not called")
	require.Empty(t, d.Missing, "not called")
	require.Empty(t, d.Grants, "not called")
}

func TestMatchConditionsAreSound(t *testing.T) {
	schemas, server := crds(t), newAPIServer()
	var writes, calls, plain int
	evaluate := func(p *policy.Policy, matcher matchconditions.Matcher, s *policytest.Source, req policy.Request, facts policy.Snapshot) {
		writes++
		if called(t, matcher, req, schemas) {
			calls++
			if d := p.Evaluate(req, facts); d.Allowed && len(d.Findings) == 0 && len(d.Grants) == 0 {
				plain++
			}
			return
		}
		requireNothingToDecide(t, p, req, facts)
		requireNothingToDecide(t, p, req, policy.Snapshot{})
		for range 4 {
			requireNothingToDecide(t, p, req, s.Facts(edges(p, req)...))
		}
	}

	t.Run("golden cases", func(t *testing.T) {
		cases, err := policytest.Load("testdata/cases")
		require.NoError(t, err)
		for _, c := range cases {
			p := newPolicy(t, c.Config)
			evaluate(p, server.matcher(p, c.Request.Kind), policytest.NewSource(policytest.FirstSeed()), c.Request, c.Facts())
		}
		t.Logf("of %d writes %d are skipped; of %d called ones %d were plain allows", writes, writes-calls, calls, plain)
		require.Greater(t, calls, len(cases)/2)
	})
	writes, calls, plain = 0, 0, 0
	t.Run("random", func(t *testing.T) {
		// Compiling costs more than matching, so each policy evaluates many writes.
		forEach(t, 135, func(s *policytest.Source) {
			p := newPolicy(t, s.Config())
			matchers := map[policy.Kind]matchconditions.Matcher{}
			for range 40 {
				req := s.Request()
				if req.Operation == policy.Delete {
					continue // not registered for
				}
				if matchers[req.Kind] == nil {
					matchers[req.Kind] = server.matcher(p, req.Kind)
				}
				evaluate(p, matchers[req.Kind], s, req, s.Facts(edges(p, req)...))
			}
		})
		t.Logf("of %d writes %d are skipped; of %d called ones %d were plain allows", writes, writes-calls, calls, plain)
		if !testing.Short() {
			require.GreaterOrEqual(t, writes, 5000)
		}
		require.NotZero(t, writes-calls)
	})
}

// A write for which a rule alone would not be called is one in which it finds nothing.
func TestWhenOfEachRuleIsSound(t *testing.T) {
	schemas, server := crds(t), newAPIServer()
	calls, skips := map[string]int{}, map[string]int{}
	forEach(t, 60, func(s *policytest.Source) {
		p := newPolicy(t, s.Config())
		type key struct {
			rule string
			kind policy.Kind
		}
		matchers := map[key]matchconditions.Matcher{}
		for range 20 {
			req := s.Request()
			if req.Operation == policy.Delete {
				continue
			}
			facts := s.Facts(edges(p, req)...)
			decision := p.Evaluate(req, facts)
			if decision.Exempt != "" {
				continue
			}
			found := map[string]bool{}
			for _, f := range decision.Findings {
				found[f.Rule] = true
			}
			for _, m := range decision.Missing {
				found[m.Rule] = true
			}
			for _, g := range decision.Grants {
				found[g.Rule()] = true
			}
			for _, rule := range policy.Rules() {
				k := key{rule.ID, req.Kind}
				if matchers[k] == nil {
					matchers[k] = server.compile([]admissionregistrationv1.MatchCondition{{
						Name: rule.ID, Expression: rule.When(p, req.Kind).Expression(p.SystemNamespace),
					}})
				}
				if called(t, matchers[k], req, schemas) {
					calls[rule.ID]++
					continue
				}
				skips[rule.ID]++
				require.False(t, found[rule.ID], "%s is not asked", rule.ID)
			}
		}
	})
	for _, rule := range policy.Rules() {
		require.NotZero(t, calls[rule.ID], rule.ID)
		require.NotZero(t, skips[rule.ID], rule.ID)
	}
}

// A rule that states nothing is always asked.
func TestRuleWithoutWhen(t *testing.T) {
	for _, kind := range append(policy.RouteKinds(), policy.Gateway, policy.ReferenceGrant) {
		when := policy.Rule{}.When(plain, kind)
		require.Equal(t, `request.namespace == "aibrix-system" ? ((true)) : ((true))`, when.Expression("aibrix-system"))
	}
}

// A write that the mutating webhook is not called for is one that it would leave as it is.
func TestMutatingConditionsAreSound(t *testing.T) {
	schemas, server := crds(t), newAPIServer()
	skipped, changed := 0, 0
	forEach(t, 100, func(s *policytest.Source) {
		config := s.Config()
		config.Outside = policy.OutsideRewrite
		p := newPolicy(t, config)
		matcher := server.compile(p.MutatingConditions())
		for range 40 {
			req := s.Request()
			if _, isRoute := policy.RouteOf(req.Object); !isRoute || req.Operation == policy.Delete {
				continue
			}
			m, err := p.Mutate(req, s.Facts(edges(p, req)...))
			require.NoError(t, err)
			switch {
			case !called(t, matcher, req, schemas):
				require.True(t, m.Nothing(), "not called")
				skipped++
			case !m.Nothing():
				changed++
			}
		}
	})
	require.NotZero(t, skipped)
	require.NotZero(t, changed)
}

// The API server refuses a registration whose conditions do not compile, have no valid name, or are too many.
func TestMatchConditionsCanBeRegistered(t *testing.T) {
	server := newAPIServer()
	forEach(t, 50, func(s *policytest.Source) {
		p := newPolicy(t, s.Config())
		for kind := range resources {
			require.Empty(t, server.compiled(p, kind, environment.NewExpressions).CompilationErrors())
			seen := map[string]bool{}
			for _, condition := range p.MatchConditions(kind) {
				require.Regexp(t, `^[a-z]+(-[a-z]+)*$`, condition.Name)
				require.False(t, seen[condition.Name])
				seen[condition.Name] = true
			}
			require.LessOrEqual(t, len(seen), 64)
		}
	})
}

// The writes that must cost nothing.
func TestMatchConditionsSkip(t *testing.T) {
	route := func(namespace, spec string) string {
		return "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: " + namespace + "}\nspec: " + spec + "\n"
	}
	const (
		local  = `{parentRefs: [{name: aibrix-eg}], rules: [{backendRefs: [{name: llama, port: 80}]}]}`
		named  = `{parentRefs: [{name: aibrix-eg}], rules: [{backendRefs: [{name: llama, namespace: aibrix-system, port: 80}]}]}`
		cross  = `{parentRefs: [{name: aibrix-eg}], rules: [{backendRefs: [{name: llama, namespace: team-a, port: 80}]}]}`
		other  = `{parentRefs: [{name: shared, namespace: infra}], rules: [{backendRefs: [{name: llama, namespace: team-a, port: 80}]}]}`
		mesh   = `{parentRefs: [{name: llama, kind: Service, group: ""}]}`
		unsaid = `{parentRefs: [{name: mine}]}`
	)
	const odd = "o'brien \\ \"ops\"\t\x7f é 🛂"
	const self = "system:serviceaccount:routesteward-system:routesteward"
	for name, tc := range map[string]struct {
		config func(*policy.Config)
		user   policy.User
		object string
		called bool
	}{
		"a kind that is not evaluated": {
			config: func(c *policy.Config) { c.Kinds = []policy.Kind{policy.GRPCRoute} }, object: route("team-a", local),
		},
		"in the system namespace, local references":              {object: route("aibrix-system", local)},
		"in the system namespace, local references named":        {object: route("aibrix-system", named)},
		"in the system namespace, no rules":                      {object: route("aibrix-system", `{}`)},
		"in the system namespace, cross-namespace reference":     {object: route("aibrix-system", cross), called: true},
		"in the system namespace, references not evaluated":      {object: route("aibrix-system", cross), config: func(c *policy.Config) { c.Grants = policy.GrantsOff }},
		"elsewhere, on the Gateway of another namespace":         {object: route("team-a", other)},
		"elsewhere, on a Service":                                {object: route("team-a", mesh)},
		"elsewhere, no parents":                                  {object: route("team-a", `{}`)},
		"elsewhere, on a Gateway without namespace":              {object: route("team-a", unsaid), called: true},
		"elsewhere, no parents, every route governed":            {object: route("team-a", `{}`), called: true, config: func(c *policy.Config) { c.Scope = policy.ScopeAll }},
		"own service account":                                    {object: route("aibrix-system", cross), user: policy.User{Name: self}},
		"an exempt user":                                         {object: route("aibrix-system", cross), user: policy.User{Name: odd}},
		"an exempt group":                                        {object: route("aibrix-system", cross), user: policy.User{Name: "jane", Groups: []string{"devs", "break-glass"}}},
		"an exempt namespace":                                    {object: route("kube-system", unsaid)},
		"a Gateway of a listed class outside":                    {object: gateway("team-a", "aibrix-eg"), called: true},
		"a Gateway of a listed class in the system namespace":    {object: gateway("aibrix-system", "aibrix-eg")},
		"a Gateway of another class":                             {object: gateway("team-a", "other")},
		"a ReferenceGrant of somebody's own":                     {object: grant("helm")},
		"a ReferenceGrant that claims to be managed":             {object: grant("routesteward"), called: true},
		"a ReferenceGrant made by routesteward":                  {object: grant("routesteward"), user: policy.User{Name: self}},
		"a GRPCRoute without spec, as Gateway API 1.2 allows it": {object: "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: r, namespace: team-a}\n"},
		"a GRPCRoute without spec in the system namespace":       {object: "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: r, namespace: aibrix-system}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.user.Name == "" {
				tc.user.Name = "jane"
			}
			config := policy.DefaultConfig()
			config.Self, config.GatewayClasses = self, []string{"aibrix-eg"}
			config.ExemptUsers, config.ExemptGroups, config.ExemptNamespaces = []string{odd}, []string{"break-glass"}, []string{"kube-system"}
			if tc.config != nil {
				tc.config(&config)
			}
			// Read as the API server holds it, without the fields that Go's types would add.
			object := &unstructured.Unstructured{}
			require.NoError(t, yaml.UnmarshalStrict([]byte(tc.object), &object.Object))
			req := policy.Request{
				Operation: policy.Create, Kind: policy.Kind(object.GetKind()), Namespace: object.GetNamespace(), User: tc.user,
			}
			result := newAPIServer().matcher(newPolicy(t, config), req.Kind).Match(context.Background(), attributes(req, object, nil), nil, nil)
			require.NoError(t, result.Error)
			require.Equal(t, tc.called, result.Matches)
		})
	}
}

func gateway(namespace, class string) string {
	return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: %s}\nspec: {gatewayClassName: %s}\n", namespace, class)
}

func grant(manager string) string {
	return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: team-a, labels: {app.kubernetes.io/managed-by: %s}}\n", manager)
}

// The API server gives up on conditions that cost too much, and failurePolicy Fail then refuses the write.
func TestMatchConditionsStayWithinTheBudget(t *testing.T) {
	config := policy.DefaultConfig()
	config.SystemNamespace = strings.Repeat("s", 63)
	config.Self = "system:serviceaccount:routesteward-system:routesteward"
	for i := range 50 {
		config.ExemptUsers = append(config.ExemptUsers, fmt.Sprintf("user-%d", i))
		config.ExemptGroups = append(config.ExemptGroups, fmt.Sprintf("group-%d", i))
	}
	p := newPolicy(t, config)
	evaluator := newAPIServer().compiled(p, policy.HTTPRoute, environment.StoredExpressions)
	for _, namespace := range []string{config.SystemNamespace, "team-a"} {
		// References that name their own namespace are the dearest: none of them ends the search.
		route := policytest.Wide(16, 16, 16, namespace)
		route.Namespace = namespace
		for i := range route.Spec.Rules {
			route.Spec.Rules[i].Filters = route.Spec.Rules[i].BackendRefs[0].Filters
		}
		for i := range 31 {
			route.Spec.ParentRefs = append(route.Spec.ParentRefs, gwv1.ParentReference{
				Name: gwv1.ObjectName(fmt.Sprint(i)), Namespace: new(gwv1.Namespace(strings.Repeat("s", 62))),
			})
		}
		req := policy.Request{
			Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: namespace,
			User: policy.User{Name: "jane", Groups: strings.Fields(strings.Repeat("group ", 100))},
		}
		attr := attributes(req, toUnstructured(route), nil)
		results, remaining, err := evaluator.ForInput(context.Background(), attr,
			admissioncel.CreateAdmissionRequest(attr.Attributes, metav1.GroupVersionResource(attr.GetResource()), metav1.GroupVersionKind(attr.VersionedKind)),
			admissioncel.OptionalVariableBindings{}, nil, celconfig.RuntimeCELCostBudgetMatchConditions)
		require.NoError(t, err)
		for _, result := range results {
			require.NoError(t, result.Error)
		}
		spent := celconfig.RuntimeCELCostBudgetMatchConditions - remaining
		t.Logf("in %.10s… a route of 16×16×16 costs %d of %d", namespace, spent, int64(celconfig.RuntimeCELCostBudgetMatchConditions))
		require.Positive(t, spent)
		require.Less(t, spent, int64(celconfig.PerCallLimit)/2)
	}
}
