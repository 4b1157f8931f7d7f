package policy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/policytest"
)

// forEach runs a property on n random cases. A failure shows the seed with which the failing case is the first one.
func forEach(t *testing.T, n int, property func(s *policytest.Source)) {
	t.Helper()
	if testing.Short() {
		n = max(1, n/5)
	}
	for i := range n {
		caseSeed := policytest.FirstSeed() + uint64(i)
		func() {
			done := false
			defer func() {
				if !done {
					t.Logf("to repeat: SEED=%d go test ./policy -run '^%s$'", caseSeed, t.Name())
				}
			}()
			property(policytest.NewSource(caseSeed))
			done = true
		}()
	}
}

func newPolicy(t testing.TB, c policy.Config) *policy.Policy {
	t.Helper()
	p, err := policy.New(c)
	require.NoError(t, err)
	return p
}

// scene is one random evaluation.
func scene(t testing.TB, s *policytest.Source) (*policy.Policy, policy.Request, policy.Snapshot) {
	t.Helper()
	p, req := newPolicy(t, s.Config()), s.Request()
	facts := s.Facts(edges(p, req)...)
	if s.Chance(2) { // as the API server does, unless the mutating webhook is skipped
		m, err := p.Mutate(req, facts)
		require.NoError(t, err)
		require.Empty(t, m.Missing)
		req = m.Request
	}
	return p, req, facts
}

// plain is the default policy.
var plain, _ = policy.New(policy.DefaultConfig())

// edges are those of both objects of a request.
func edges(p *policy.Policy, req policy.Request) []policy.Edge {
	var all []policy.Edge
	for _, object := range []runtime.Object{req.Object, req.OldObject} {
		if route, ok := policy.RouteOf(object); ok {
			all = append(all, p.Edges(route)...)
			if p.Outside == policy.OutsideRewrite {
				if relocation, err := p.Relocate(toUnstructured(object), policy.Snapshot{}); err == nil {
					all = append(all, relocation.Edges...)
				}
			}
		}
	}
	return all
}

func copyRequest(req policy.Request) policy.Request {
	req.User.Groups = slices.Clone(req.User.Groups)
	if req.Object != nil {
		req.Object = req.Object.DeepCopyObject()
	}
	if req.OldObject != nil {
		req.OldObject = req.OldObject.DeepCopyObject()
	}
	return req
}

func copyFacts(facts policy.Snapshot) policy.Snapshot {
	out := policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{}, Gateways: map[string]bool{},
		Grants: map[string][]*gwv1.ReferenceGrant{}, Writers: map[string]bool{}, Holder: maps.Clone(facts.Holder),
	}
	for name, namespace := range facts.Namespaces {
		out.Namespaces[name] = namespace
	}
	for name, exists := range facts.Gateways {
		out.Gateways[name] = exists
	}
	for namespace, grants := range facts.Grants {
		for _, grant := range grants {
			out.Grants[namespace] = append(out.Grants[namespace], grant.DeepCopy())
		}
	}
	for namespace, may := range facts.Writers {
		out.Writers[namespace] = may
	}
	return out
}

func TestZeroDecisionDenies(t *testing.T) {
	require.False(t, policy.Decision{}.Allowed)
	require.Equal(t, policy.Refused, policy.EdgeDecision{}.Outcome)
	require.Equal(t, policy.Unknown, policy.NamespaceFacts{}.Exists)
}

func TestEvaluateIsDeterministicAndChangesNothing(t *testing.T) {
	forEach(t, 3000, func(s *policytest.Source) {
		p, req, facts := scene(t, s)
		reqBefore, factsBefore := copyRequest(req), copyFacts(facts)
		first := p.Evaluate(req, facts)
		require.Equal(t, first, p.Evaluate(req, facts), "the same input again")
		require.Equal(t, first, p.Evaluate(reqBefore, factsBefore), "a copy of the input")
		first.Denial(req)
		first.Warnings(true)
		for _, use := range first.Grants {
			use.Edge.Grant(string(use.Consent)).Labels["theirs"] = "changed"
		}
		require.Equal(t, reqBefore, req)
		require.Equal(t, factsBefore, facts)
	})
}

// requireSound holds a decision against everything that its type promises.
func requireSound(t testing.TB, p *policy.Policy, req policy.Request, d policy.Decision) {
	t.Helper()
	rule := 0
	for _, f := range d.Findings {
		at := slices.IndexFunc(policy.Rules(), func(r policy.Rule) bool { return r.ID == f.Rule })
		require.GreaterOrEqual(t, at, rule, "findings are in the order of the rules")
		rule = at
		require.Contains(t, []policy.Severity{policy.SeverityDeny, policy.SeverityWarn, policy.SeverityAudit}, f.Severity)
		require.NotEmpty(t, f.Field)
		require.NotEmpty(t, f.Problem)
		require.NotEmpty(t, f.Fix)
		require.NotContains(t, f.String(), "\n")
		if f.Unchanged {
			require.Equal(t, policy.SeverityWarn, f.Severity)
			require.NotNil(t, req.OldObject)
		}
	}
	for _, m := range d.Missing {
		require.NotContains(t, m.String(), "\n")
	}

	require.Equal(t, len(d.Denied()) == 0 && len(d.Missing) == 0, d.Allowed)
	lines := strings.Split(d.Denial(req), "\n")
	switch denied := len(d.Denied()); {
	case denied == 0:
		require.Equal(t, []string{""}, lines)
	case denied <= 20:
		require.Len(t, lines, 1+denied)
	default:
		require.Len(t, lines, 22)
		require.Equal(t, fmt.Sprintf("- and %d more", denied-20), lines[21])
	}
	require.True(t, utf8.ValidString(d.Denial(req)))
	if !d.Allowed {
		require.Contains(t, []string{"deny", "undecided"}, d.Verdict())
		require.Nil(t, d.Grants)
		require.Empty(t, d.Warnings(true))
		return
	}
	require.Contains(t, []string{"allow", "warn", "audit"}, d.Verdict())
	if d.Exempt != "" {
		require.Equal(t, policy.Decision{Allowed: true, Exempt: d.Exempt}, d)
	}

	announced := 0
	if d.Relocated != nil && d.Relocated.New {
		announced = 1
	}
	made := 0
	seen := map[string]bool{}
	for _, use := range d.Grants {
		if !use.Exists {
			made++
		}
		require.NotEmpty(t, use.Consent)
		grant := use.Edge.Grant(string(use.Consent))
		require.False(t, seen[grant.Namespace+"/"+grant.Name], "each grant once")
		seen[grant.Namespace+"/"+grant.Name] = true
		from := req.Namespace
		if d.Relocated != nil {
			from = p.SystemNamespace
		} else {
			require.NotEqual(t, req.Namespace, grant.Namespace)
		}
		require.Equal(t, map[string]string{policy.ManagedByLabel: policy.ManagedBy, policy.OriginLabel: req.Namespace}, grant.Labels)
		require.Empty(t, validation.IsDNS1123Label(grant.Name))
		require.Equal(t, []gwv1.ReferenceGrantFrom{{
			Group: gwv1.GroupName, Kind: gwv1.Kind(req.Kind), Namespace: gwv1.Namespace(from)}}, grant.Spec.From)
		require.Len(t, grant.Spec.To, 1)
		if p.GrantScope == policy.GrantScopeService {
			require.NotNil(t, grant.Spec.To[0].Name)
			require.NotEmpty(t, *grant.Spec.To[0].Name)
		} else {
			require.Nil(t, grant.Spec.To[0].Name)
		}
		require.True(t, policy.Records(grant, use.Edge))
	}
	for _, dryRun := range []bool{false, true} {
		warnings := d.Warnings(dryRun)
		require.Len(t, warnings, len(d.Warned())+announced+made)
		for _, warning := range warnings {
			require.Less(t, len(warning), policy.MaxWarning)
			_, err := utilnet.NewWarningHeader(299, "", warning)
			require.NoError(t, err, "the API server drops this warning: %q", warning)
		}
	}
}

func TestDecisionsAreSound(t *testing.T) {
	verdicts := map[string]int{}
	made := 0
	forEach(t, 5000, func(s *policytest.Source) {
		p, req, facts := scene(t, s)
		d := p.Evaluate(req, facts)
		requireSound(t, p, req, d)
		require.Empty(t, d.Missing, "everything is known")
		verdicts[d.Verdict()]++
		made += len(d.Grants)
	})
	t.Logf("verdicts: %v, grants: %d", verdicts, made)
	for _, verdict := range []string{"allow", "warn", "audit", "deny"} {
		require.NotZero(t, verdicts[verdict], "the random cases miss the verdict %s", verdict)
	}
	require.NotZero(t, made)
}

// Once the grants of the plan exist, the same request is allowed and asks for nothing more, whoever repeats it.
func TestPlannedGrantsSettleTheRequest(t *testing.T) {
	planned := 0
	forEach(t, 5000, func(s *policytest.Source) {
		p, req, facts := scene(t, s)
		d := p.Evaluate(req, facts)
		if len(d.Grants) == 0 {
			return
		}
		for _, use := range d.Grants {
			if use.Exists {
				continue
			}
			planned++
			grant := use.Edge.Grant(string(use.Consent))
			facts.Grants[grant.Namespace] = append(slices.DeleteFunc(facts.Grants[grant.Namespace], func(g *gwv1.ReferenceGrant) bool {
				return g.Name == grant.Name
			}), grant)
		}
		settled := func(d policy.Decision) {
			require.True(t, d.Allowed)
			for _, use := range d.Grants {
				require.True(t, use.Exists, "still to be made: %s", use.Edge)
			}
		}
		again := p.Evaluate(req, facts)
		settled(again)
		// A grant of every name is used by all references to the namespace once it exists, so the order may be another.
		require.ElementsMatch(t, edgesOf(d.Grants), edgesOf(again.Grants))

		stored := req
		stored.Operation, stored.OldObject, stored.User = policy.Update, req.Object.DeepCopyObject(), s.User()
		facts.Writers = map[string]bool{}
		settled(p.Evaluate(stored, facts))
	})
	require.NotZero(t, planned)
}

func edgesOf(uses []policy.GrantUse) []policy.Edge {
	var out []policy.Edge
	for _, use := range uses {
		out = append(out, use.Edge)
	}
	return out
}

// Every grant of the plan is needed: without it a reference of the route is not permitted, or a requester's consent to the
// origin of a relocated route is not recorded.
func TestPlannedGrantsAreNeeded(t *testing.T) {
	planned := 0
	forEach(t, 5000, func(s *policytest.Source) {
		p, req, facts := scene(t, s)
		for _, use := range p.Evaluate(req, facts).Grants {
			if use.Exists {
				continue
			}
			planned++
			require.True(t, slices.ContainsFunc(edges(p, policy.Request{Object: req.Object}), func(e policy.Edge) bool {
				permitted := slices.ContainsFunc(facts.Grants[e.Namespace], func(g *gwv1.ReferenceGrant) bool {
					return !policy.IsManaged(g) && policy.Permits(g, e, e.FromNamespace)
				})
				return p.Granted(e) == use.Edge && (!permitted || e.Origin != e.FromNamespace && !use.Consent.Standing())
			}), "%s is permitted already or not referred to", use.Edge)
		}
	})
	require.NotZero(t, planned)
}

func TestUpdateThatChangesNothingIsAllowed(t *testing.T) {
	unchanged := 0
	forEach(t, 5000, func(s *policytest.Source) {
		p, req, facts := scene(t, s)
		if req.Object == nil {
			return
		}
		req.Operation, req.OldObject = policy.Update, req.Object.DeepCopyObject()
		route, isRoute := policy.RouteOf(req.Object)
		if s.Chance(2) && req.Kind != policy.ReferenceGrant && !(isRoute && p.IsCopy(route)) {
			req.Object.(client.Object).SetLabels(map[string]string{"example.org/touched": "yes"})
		}
		d := p.Evaluate(req, facts)
		require.True(t, d.Allowed, "%s", d.Denial(req))
		for _, f := range d.Findings {
			if f.Unchanged {
				unchanged++
			}
		}
	})
	require.NotZero(t, unchanged)
}

// masked answers what is hidden from other facts, or not at all where there are none.
type masked struct {
	policy.Facts
	hidden map[string]bool
	other  policy.Facts
}

func (m masked) facts(key string) policy.Facts {
	switch {
	case !m.hidden[key]:
		return m.Facts
	case m.other != nil:
		return m.other
	default:
		return policy.Snapshot{}
	}
}

func (m masked) Namespace(name string) policy.NamespaceFacts {
	return m.facts("namespace " + name).Namespace(name)
}

func (m masked) GatewayExists(namespace, name string) policy.Answer {
	return m.facts("gateway "+namespace+"/"+name).GatewayExists(namespace, name)
}

func (m masked) ManagedGrant(namespace, name string) (*gwv1.ReferenceGrant, bool) {
	return m.facts("managed "+namespace).ManagedGrant(namespace, name)
}

func (m masked) ForeignGrants(namespace, target string) ([]*gwv1.ReferenceGrant, bool) {
	return m.facts("foreign "+namespace).ForeignGrants(namespace, target)
}

func (m masked) MayCreateGrants(namespace string) policy.Answer {
	return m.facts("access " + namespace).MayCreateGrants(namespace)
}

func (m masked) Holders(kind policy.Kind, name string) ([]string, bool) {
	return m.facts("holders").Holders(kind, name)
}

func mask(s *policytest.Source, facts policy.Facts) masked {
	m := masked{Facts: facts, hidden: map[string]bool{"holders": s.Chance(4)}}
	for _, namespace := range policytest.Namespaces {
		for _, key := range []string{"namespace ", "managed ", "foreign ", "access "} {
			m.hidden[key+namespace] = s.Chance(4)
		}
		for _, gateway := range policytest.Gateways {
			m.hidden["gateway "+namespace+"/"+gateway] = s.Chance(4)
		}
	}
	return m
}

// What is decided while facts are missing is decided the same way whatever they turn out to be.
func TestMissingFactsNeverDecide(t *testing.T) {
	decided, denied, undecided := 0, 0, 0
	forEach(t, 3000, func(s *policytest.Source) {
		p, req, facts := scene(t, s)
		partial := mask(s, facts)
		d := p.Evaluate(req, partial)
		requireSound(t, p, req, d)
		for range 8 {
			completion := partial
			completion.other = s.Facts(edges(p, req)...)
			complete := p.Evaluate(req, completion)
			require.Empty(t, complete.Missing)
			if len(d.Missing) == 0 {
				require.Equal(t, d, complete)
			} else if len(d.Denied()) > 0 {
				require.False(t, complete.Allowed)
			}
		}
		switch {
		case len(d.Missing) == 0:
			decided++
		case len(d.Denied()) > 0:
			denied++
		default:
			undecided++
		}
	})
	require.NotZero(t, decided)
	require.NotZero(t, denied)
	require.NotZero(t, undecided)
}

// A qualified route names every namespace and means what it meant.
func TestQualify(t *testing.T) {
	implicit, written := 0, 0
	forEach(t, 200, func(s *policytest.Source) {
		object := s.Route()
		before, _ := policy.RouteOf(object.DeepCopyObject())
		policy.Qualify(object, before.Namespace)
		after, _ := policy.RouteOf(object)
		want := slices.Collect(before.References())
		for i := range want {
			if want[i].Implicit {
				implicit++
				want[i].Implicit = false
			} else {
				written++
			}
		}
		require.Equal(t, want, slices.Collect(after.References()))
	})
	require.NotZero(t, implicit)
	require.NotZero(t, written)
}

func TestLongWarningsAreCutBetweenCharacters(t *testing.T) {
	for pad := range 4 {
		value := strings.Repeat("x", pad) + strings.Repeat("モ", 200)
		for _, warning := range []string{
			policy.Finding{Rule: "rule", Fix: "fix it", Field: "spec", Value: value, Problem: "is wrong"}.Warning(),
			policy.GrantUse{Edge: policy.Edge{Namespace: "team-a", Name: value}}.Warning(true),
		} {
			require.True(t, utf8.ValidString(warning), "%q", warning)
			require.Less(t, len(warning), policy.MaxWarning)
			require.Greater(t, len(warning), policy.MaxWarning-len("モ")-1)
			require.True(t, strings.HasSuffix(warning, "…"))
		}
	}
}

func TestGrantNames(t *testing.T) {
	named := map[string]policy.Edge{}
	forEach(t, 4000, func(s *policytest.Source) {
		for _, edge := range []policy.Edge{s.Edge(), s.Edge()} {
			if s.Chance(8) {
				edge.Name = ""
			}
			if s.Chance(8) {
				edge.Name = strings.Repeat("x", 1+s.IntN(253))
			}
			name := edge.GrantName()
			require.Equal(t, name, edge.GrantName())
			require.Empty(t, validation.IsDNS1123Label(name))
			if other, taken := named[name]; taken {
				require.Equal(t, other, edge, "two edges have the name %s", name)
			}
			named[name] = edge
			require.True(t, policy.Records(edge.Grant("anything"), edge))
		}
	})
	require.Greater(t, len(named), 500)
}
