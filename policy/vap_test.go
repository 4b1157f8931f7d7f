package policy_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	admissioncel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

const outsideRule = "route-outside-system-namespace"

// fallback evaluates with the API server's own code by the ValidatingAdmissionPolicy of a policy.
type fallback struct {
	policy              *admissionregistrationv1.ValidatingAdmissionPolicy
	validator           validating.Validator
	validation, message admissioncel.ConditionEvaluator
}

func newFallback(t testing.TB, p *policy.Policy) fallback {
	t.Helper()
	vap, binding, err := p.Fallback()
	require.NoError(t, err)
	require.Equal(t, vap.Name, binding.Spec.PolicyName)
	f := fallback{policy: vap}
	f.compile(t, environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()), environment.StoredExpressions)
	return f
}

func (f *fallback) compile(t testing.TB, env *environment.EnvSet, mode environment.Type) {
	t.Helper()
	spec, optional := f.policy.Spec, admissioncel.OptionalVariableDeclarations{}
	compiler, err := admissioncel.NewCompositedCompiler(env)
	require.NoError(t, err)
	for _, v := range spec.Variables {
		result := compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, optional, mode)
		require.Nil(t, result.Error, "%s: %s", v.Name, v.Expression)
	}
	condition := func(expressions ...admissioncel.ExpressionAccessor) admissioncel.ConditionEvaluator {
		c := compiler.CompileCondition(expressions, optional, mode)
		require.Empty(t, c.CompilationErrors())
		return c
	}
	var match []admissioncel.ExpressionAccessor
	for i := range spec.MatchConditions {
		match = append(match, (*matchconditions.MatchCondition)(&spec.MatchConditions[i]))
	}
	require.Len(t, spec.Validations, 1)
	v := spec.Validations[0]
	f.validation = condition(&validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason})
	f.message = condition(&validating.MessageExpressionCondition{MessageExpression: v.MessageExpression})
	f.validator = validating.NewValidator(f.validation,
		matchconditions.NewMatcher(condition(match...), spec.FailurePolicy, "policy", "validate", f.policy.Name),
		condition(), f.message, spec.FailurePolicy, nil)
}

// refuses returns the message of a refusal, or "". What is never matched is not refused.
func (f fallback) refuses(t testing.TB, req policy.Request) string {
	t.Helper()
	rule := f.policy.Spec.MatchConstraints.ResourceRules[0]
	if !slices.Contains(rule.Resources, resources[req.Kind]) || !slices.Contains(rule.Operations, admissionregistrationv1.OperationType(req.Operation)) {
		return ""
	}
	attr := attributes(req, toUnstructured(req.Object), toUnstructured(req.OldObject))
	result := f.validator.Validate(context.Background(), schema.GroupVersionResource{}, attr, nil, nil, celconfig.RuntimeCELCostBudget, nil)
	for _, d := range result.Decisions {
		require.NotEqual(t, validating.EvalError, d.Evaluation, d.Message)
		if d.Action == validating.ActionDeny {
			require.Equal(t, metav1.StatusReasonForbidden, d.Reason)
			require.NotEmpty(t, d.Message)
			return d.Message
		}
	}
	return ""
}

// found are the findings of the rule that the fallback is made of: those that deny, or all where it only warns.
func found(p *policy.Policy, d policy.Decision) []policy.Finding {
	var findings []policy.Finding
	for _, f := range d.Findings {
		if f.Rule == outsideRule && (f.Severity == policy.SeverityDeny || p.Outside == policy.OutsideWarn) {
			findings = append(findings, f)
		}
	}
	return findings
}

// leftToWebhook reports whether a finding is about what CEL cannot know.
func leftToWebhook(p *policy.Policy, req policy.Request, f policy.Finding) bool {
	route, _ := policy.RouteOf(req.Object)
	wasAnnotated := false
	if old, ok := policy.RouteOf(req.OldObject); ok {
		_, wasAnnotated = old.Meta.Annotations[policy.ParkedAnnotation]
	}
	if strings.HasPrefix(f.Field, "metadata.annotations") {
		return wasAnnotated || p.Outside != policy.OutsideReject
	}
	var i int
	if n, _ := fmt.Sscanf(f.Field, "spec.parentRefs[%d]", &i); n == 1 {
		misdirected := policy.ParentNamespace(&route.ParentRefs[i]) == ""
		return misdirected || wasAnnotated && p.Outside == policy.OutsideReject
	}
	return false
}

func TestFallbackIsTheEngine(t *testing.T) {
	counts := map[string]int{}
	evaluate := func(t *testing.T, p *policy.Policy, f fallback, s *policytest.Source, req policy.Request, facts policy.Snapshot) {
		t.Helper()
		message := f.refuses(t, req)
		all := []policy.Snapshot{facts, {}}
		for range 4 {
			all = append(all, s.Facts(edges(p, req)...))
		}
		for i, facts := range all {
			d := p.Evaluate(req, facts)
			findings := found(p, d)
			if message == "" {
				for _, finding := range findings {
					require.True(t, leftToWebhook(p, req, finding), "not refused: %s", finding)
				}
				if i == 0 && len(findings) > 0 {
					counts["left to the webhook"]++
				}
				continue
			}
			if len(d.Missing) == 0 {
				require.NotEmpty(t, findings, "refused, and the engine does not: %s", message)
			}
			require.True(t, p.Outside == policy.OutsideWarn || !d.Allowed, message)
			others := slices.ContainsFunc(d.Findings, func(f policy.Finding) bool { return !slices.Contains(findings, f) })
			simple := !others && !slices.ContainsFunc(findings, func(f policy.Finding) bool {
				return leftToWebhook(p, req, f) || f.Field == "metadata.annotations["+policy.ParkedAnnotation+"]"
			})
			if d.Allowed || len(d.Missing) > 0 || !simple || len(findings) > 5 {
				continue
			}
			require.Equal(t, strings.ReplaceAll(d.Denial(req), "\n", " "), message)
			counts["same words"]++
		}
		if message == "" {
			counts["passed"]++
		} else {
			counts["refused"]++
		}
	}

	t.Run("golden cases", func(t *testing.T) {
		cases, err := policytest.Load("testdata/cases")
		require.NoError(t, err)
		fallbacks := map[string]fallback{}
		for _, c := range cases {
			if c.Config.Outside == policy.OutsideAllow {
				continue
			}
			p, key := newPolicy(t, c.Config), fmt.Sprint(c.Config)
			if _, compiled := fallbacks[key]; !compiled {
				fallbacks[key] = newFallback(t, p)
			}
			evaluate(t, p, fallbacks[key], policytest.NewSource(policytest.FirstSeed()), c.Request, c.Facts())
		}
		t.Log(counts)
		require.Greater(t, counts["refused"], 10)
		require.Greater(t, counts["same words"], 10)
	})
	clear(counts)
	t.Run("random", func(t *testing.T) {
		// Compiling costs more than evaluating, so each policy evaluates many writes.
		forEach(t, 40, func(s *policytest.Source) {
			config := s.Config()
			if config.Outside == policy.OutsideAllow {
				config.Outside = policy.OutsideReject
			}
			p := newPolicy(t, config)
			f := newFallback(t, p)
			for range 80 {
				req := s.Request()
				evaluate(t, p, f, s, req, s.Facts(edges(p, req)...))
			}
		})
		t.Log(counts)
		few := 50
		if testing.Short() {
			few = 5
		}
		require.Greater(t, counts["refused"], few)
		require.Greater(t, counts["passed"], 4*few)
		require.Greater(t, counts["same words"], few)
		require.NotZero(t, counts["left to the webhook"])
	})
}

// The oldest API server that has ValidatingAdmissionPolicies must take it, too.
func TestFallbackCompilesInKubernetes130(t *testing.T) {
	config := policy.DefaultConfig()
	for _, config.Outside = range []policy.OutsideMode{policy.OutsideReject, policy.OutsideRewrite, policy.OutsideWarn} {
		for _, config.Scope = range []policy.Scope{policy.ScopeGoverned, policy.ScopeAll} {
			f := newFallback(t, newPolicy(t, config))
			f.compile(t, environment.MustBaseEnvSet(version.MajorMinor(1, 30)), environment.NewExpressions)
		}
	}
}

func TestFallbackActions(t *testing.T) {
	config := policy.DefaultConfig()
	for outside, want := range map[policy.OutsideMode][]admissionregistrationv1.ValidationAction{
		policy.OutsideReject:  {admissionregistrationv1.Deny},
		policy.OutsideRewrite: {admissionregistrationv1.Deny},
		policy.OutsideWarn:    {admissionregistrationv1.Warn, admissionregistrationv1.Audit},
	} {
		config.Outside = outside
		_, binding, err := newPolicy(t, config).Fallback()
		require.NoError(t, err)
		require.Equal(t, want, binding.Spec.ValidationActions)
	}
	config.Outside = policy.OutsideAllow
	_, _, err := newPolicy(t, config).Fallback()
	require.EqualError(t, err, `--outside=allow admits every route outside namespace "aibrix-system", so a ValidatingAdmissionPolicy would have nothing to refuse`)
}

// The dearest routes that Gateway API accepts: every list at its longest, every name at its longest and to be cleaned.
func TestFallbackStaysWithinTheBudget(t *testing.T) {
	config := policy.DefaultConfig()
	config.SystemNamespace = strings.Repeat("s", 63)
	for i := range 50 {
		config.ExemptUsers = append(config.ExemptUsers, fmt.Sprintf("user-%d", i))
		config.ExemptGroups = append(config.ExemptGroups, fmt.Sprintf("group-%d", i))
	}
	for _, scope := range []policy.Scope{policy.ScopeGoverned, policy.ScopeAll} {
		config.Scope = scope
		f := newFallback(t, newPolicy(t, config))
		for name, gateway := range map[string]string{"plain": strings.Repeat("g", 253), "unprintable": strings.Repeat("\u202e", 253)} {
			for _, parents := range []int{0, 16, 32} {
				route := policytest.Wide(16, 16, 16, "team-a")
				route.Namespace, route.Name, route.Spec.ParentRefs = "team-a", strings.Repeat("r", 253), nil
				for i := range route.Spec.Rules {
					route.Spec.Rules[i].Filters = route.Spec.Rules[i].BackendRefs[0].Filters
				}
				for i := range parents {
					route.Spec.ParentRefs = append(route.Spec.ParentRefs, gwv1.ParentReference{
						Name: gwv1.ObjectName(gateway), Namespace: new(gwv1.Namespace(config.SystemNamespace)), SectionName: new(gwv1.SectionName(fmt.Sprint(i))),
					})
				}
				old := route.DeepCopy()
				for i := range old.Spec.ParentRefs {
					old.Spec.ParentRefs[i].Name += "x"
				}
				req := policy.Request{
					Operation: policy.Update, Kind: policy.HTTPRoute, Namespace: "team-a", Object: route, OldObject: old,
					User: policy.User{Name: "jane", Groups: strings.Fields(strings.Repeat("group ", 100))},
				}
				message := f.refuses(t, req)
				require.Equal(t, len(route.Spec.ParentRefs) > 0, message != "")
				attr := attributes(req, toUnstructured(route), toUnstructured(old))
				request := admissioncel.CreateAdmissionRequest(attr.Attributes, metav1.GroupVersionResource(attr.GetResource()), metav1.GroupVersionKind(attr.VersionedKind))
				remaining := int64(celconfig.RuntimeCELCostBudget)
				for what, evaluator := range map[string]admissioncel.ConditionEvaluator{"verdict": f.validation, "message": f.message} {
					if what == "message" && message == "" {
						continue
					}
					results, left, err := evaluator.ForInput(context.Background(), attr, request, admissioncel.OptionalVariableBindings{}, nil, remaining)
					require.NoError(t, err)
					require.NoError(t, results[0].Error, what)
					t.Logf("--scope=%s, %d parentRefs with %s names: the %s costs %d of %d", scope, len(route.Spec.ParentRefs), name, what, remaining-left, celconfig.PerCallLimit)
					require.Less(t, remaining-left, int64(celconfig.PerCallLimit))
				}
			}
		}
	}
}

func TestFallbackCleansNames(t *testing.T) {
	f := newFallback(t, newPolicy(t, policy.DefaultConfig()))
	route := &gwv1.HTTPRoute{TypeMeta: metav1.TypeMeta{Kind: "HTTPRoute", APIVersion: gwv1.GroupVersion.String()}}
	route.Namespace, route.Name = "team-a", "r"
	for _, name := range []string{"two\nlines", "モデル \"x\"", "\u202e\x1b[2J"} {
		route.Spec.ParentRefs = append(route.Spec.ParentRefs, gwv1.ParentReference{Name: gwv1.ObjectName(name), Namespace: new(gwv1.Namespace("aibrix-system"))})
	}
	req := policy.Request{Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: "team-a", Object: route}
	want := newPolicy(t, policy.DefaultConfig()).Evaluate(req, policy.Snapshot{}).Denial(req)
	require.Contains(t, want, "two\ufffdlines")
	require.Equal(t, strings.ReplaceAll(want, "\n", " "), f.refuses(t, req))

	for range 4 {
		route.Spec.ParentRefs = append(route.Spec.ParentRefs, route.Spec.ParentRefs[1])
	}
	require.Contains(t, f.refuses(t, req), ` has 7 problems: - `)
	require.True(t, strings.HasSuffix(f.refuses(t, req), ` - and 2 more`))
}

// What random routes rarely are.
func TestFallbackAndAnnotations(t *testing.T) {
	const parked = `[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"aibrix-eg","namespace":"aibrix-system"}]`
	plain, none := map[string]string{}, []gwv1.ParentReference(nil)
	with := func(value string) map[string]string { return map[string]string{policy.ParkedAnnotation: value} }
	elsewhere := []gwv1.ParentReference{{Name: "theirs", Namespace: new(gwv1.Namespace("infra"))}}
	direct := []gwv1.ParentReference{{Name: "aibrix-eg", Namespace: new(gwv1.Namespace("aibrix-system"))}}
	for name, tc := range map[string]struct {
		outside     policy.OutsideMode
		scope       policy.Scope
		annotations map[string]string
		parents     []gwv1.ParentReference
		// before is nil at a create.
		before        map[string]string
		parentsBefore []gwv1.ParentReference
		refused       bool
		// undecided: the engine refuses it, and the policy cannot know.
		undecided bool
	}{
		"reject: made with the annotation":                   {annotations: with(parked), refused: true},
		"reject: made with a broken annotation":              {annotations: with("nonsense"), refused: true},
		"reject: made with an empty annotation":              {annotations: with(""), refused: true},
		"reject: annotated later":                            {annotations: with(parked), before: plain, refused: true},
		"reject: annotated later with something broken":      {annotations: with("nonsense"), before: plain, refused: true},
		"reject: annotated later with nothing":               {annotations: with(""), before: plain},
		"reject: still annotated":                            {annotations: with(parked), before: with(parked)},
		"reject: annotated otherwise":                        {annotations: with("nonsense"), before: with(parked), undecided: true},
		"reject: unparked":                                   {annotations: plain, parents: direct, before: with(parked)},
		"reject: on a Gateway that the annotation had not":   {annotations: plain, parents: direct, before: with(strings.ReplaceAll(parked, "aibrix-eg", "other")), undecided: true},
		"rewrite: made with the annotation":                  {outside: policy.OutsideRewrite, annotations: with(parked)},
		"rewrite: made with a broken annotation":             {outside: policy.OutsideRewrite, annotations: with("nonsense"), undecided: true},
		"rewrite: the applied manifest was not parked again": {outside: policy.OutsideRewrite, annotations: with(parked), parents: direct, before: with(parked), refused: true},
		"rewrite: stored before":                             {outside: policy.OutsideRewrite, annotations: plain, parents: direct, before: plain, parentsBefore: direct},
		"warn: stored before":                                {outside: policy.OutsideWarn, annotations: plain, parents: direct, before: plain, parentsBefore: direct, refused: true},
		"warn, all: stored before":                           {outside: policy.OutsideWarn, scope: policy.ScopeAll, annotations: plain, parents: elsewhere, before: plain, parentsBefore: elsewhere, refused: true},
		"reject, all: stored before":                         {scope: policy.ScopeAll, annotations: plain, parents: elsewhere, before: plain, parentsBefore: elsewhere},
		"rewrite, all: parked":                               {outside: policy.OutsideRewrite, scope: policy.ScopeAll, annotations: with(parked)},
		"rewrite, all: parked, and on another Gateway":       {outside: policy.OutsideRewrite, scope: policy.ScopeAll, annotations: with(parked), parents: elsewhere, refused: true},
		"rewrite, all: neither parked nor on a Gateway":      {outside: policy.OutsideRewrite, scope: policy.ScopeAll, annotations: plain, parents: none, refused: true},
		"reject, all: annotated and elsewhere is one matter": {scope: policy.ScopeAll, annotations: with(parked), parents: elsewhere, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			config := policy.DefaultConfig()
			if tc.outside != "" {
				config.Outside = tc.outside
			}
			if tc.scope != "" {
				config.Scope = tc.scope
			}
			p := newPolicy(t, config)
			route := func(annotations map[string]string, parents []gwv1.ParentReference) *gwv1.HTTPRoute {
				r := &gwv1.HTTPRoute{TypeMeta: metav1.TypeMeta{Kind: "HTTPRoute", APIVersion: gwv1.GroupVersion.String()}}
				r.Namespace, r.Name, r.Annotations, r.Spec.ParentRefs = "team-a", "r", annotations, parents
				return r
			}
			req := policy.Request{Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: "team-a", Object: route(tc.annotations, tc.parents)}
			if tc.before != nil {
				req.Operation, req.OldObject = policy.Update, route(tc.before, tc.parentsBefore)
			}
			message := newFallback(t, p).refuses(t, req)
			require.Equal(t, tc.refused, message != "", message)
			require.Equal(t, tc.refused || tc.undecided, len(found(p, p.Evaluate(req, policy.Snapshot{}))) > 0)
			if tc.refused {
				require.Contains(t, message, "has 1 problem: ")
			}
		})
	}
}

// Everything that is not CEL.
func TestFallbackObjects(t *testing.T) {
	config := policy.DefaultConfig()
	config.Kinds, config.ExemptGroups = []policy.Kind{policy.GRPCRoute, policy.HTTPRoute}, []string{"system:masters"}
	vap, binding, err := newPolicy(t, config).Fallback()
	require.NoError(t, err)
	labels := map[string]string{"app.kubernetes.io/name": "routesteward"}
	require.Equal(t, &admissionregistrationv1.ValidatingAdmissionPolicyBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "ValidatingAdmissionPolicyBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: "routesteward", Labels: labels},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "routesteward", ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		},
	}, binding)

	spec := &vap.Spec
	var names []string
	for _, condition := range spec.MatchConditions {
		names = append(names, condition.Name)
	}
	require.Equal(t, []string{"not-being-deleted", "not-in-an-exempt-group", "outside-the-system-namespace"}, names)
	names = nil
	for _, variable := range spec.Variables {
		names = append(names, variable.Name)
	}
	require.Equal(t, []string{"parentRefs", "annotated", "wasAnnotated", "direct", "parked", "anywhere", "problems", "name", "fix", "names", "findings"}, names)
	require.Len(t, spec.Validations, 1)
	spec.MatchConditions, spec.Variables, spec.Validations[0].MessageExpression = nil, nil, ""
	require.Equal(t, &admissionregistrationv1.ValidatingAdmissionPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "ValidatingAdmissionPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: "routesteward", Labels: labels},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: new(admissionregistrationv1.Fail),
			MatchConstraints: &admissionregistrationv1.MatchResources{
				MatchPolicy: new(admissionregistrationv1.Equivalent),
				ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{"CREATE", "UPDATE"},
					Rule: admissionregistrationv1.Rule{
						APIGroups: []string{"gateway.networking.k8s.io"}, APIVersions: []string{"v1"}, Resources: []string{"httproutes", "grpcroutes"},
						Scope: new(admissionregistrationv1.NamespacedScope),
					},
				}}},
			},
			Validations: []admissionregistrationv1.Validation{{
				Expression: "variables.problems == 0",
				Message: `spec.parentRefs: Gateways in aibrix-system: take routes from namespace "aibrix-system" only; ` +
					`to fix: set metadata.namespace: aibrix-system [route-outside-system-namespace]`,
				Reason: new(metav1.StatusReasonForbidden),
			}},
		},
	}, vap)

	config.Kinds = []policy.Kind{policy.GRPCRoute}
	vap, _, err = newPolicy(t, config).Fallback()
	require.NoError(t, err)
	require.Equal(t, []string{"grpcroutes"}, vap.Spec.MatchConstraints.ResourceRules[0].Resources)
}

func TestFallbackRefusesTheAnnotation(t *testing.T) {
	route := &gwv1.HTTPRoute{TypeMeta: metav1.TypeMeta{Kind: "HTTPRoute", APIVersion: gwv1.GroupVersion.String()}}
	route.Namespace, route.Name, route.Annotations = "team-a", "r", map[string]string{policy.ParkedAnnotation: parkedOnce}
	req := policy.Request{Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: "team-a", Object: route}
	require.Equal(t, `HTTPRoute "r" in namespace "team-a" has 1 problem: - metadata.annotations[routesteward.dev/parked-parent-refs]: parked parentRefs: `+
		`asks for a relocation, and no routes are relocated here (--outside=reject); to fix: remove the annotation, set metadata.namespace: aibrix-system `+
		`[route-outside-system-namespace]`, newFallback(t, plain).refuses(t, req))
}
