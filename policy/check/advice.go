package check

import (
	"fmt"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Advice is one thing that is looked at in ReferenceGrants that people wrote. It refuses nothing, here or at admission.
type Advice struct {
	// ID is kebab-case and stable for ever, as that of a rule.
	ID string
	// Summary is one sentence; Rationale says why it is looked at.
	Summary, Rationale string
}

var (
	grantPermitsNothing = Advice{
		ID:      "grant-permits-nothing",
		Summary: "A ReferenceGrant should permit something that a route needs.",
		Rationale: "A grant that nothing needs today lets somebody in tomorrow without asking anybody. Often its from.namespace, or a " +
			"name in it, has a spelling mistake, and the route that should stand on it is refused.",
	}
	grantForWholeNamespace = Advice{
		ID:      "grant-for-whole-namespace",
		Summary: "A ReferenceGrant should name what may be referred to where that is one object.",
		Rationale: "Without to.name a grant permits every object of the kind in the namespace, those included that are added later and " +
			"were never meant for others.",
	}
)

// Advices are all of them.
func Advices() []Advice { return []Advice{grantPermitsNothing, grantForWholeNamespace} }

// advisedGrant is a ReferenceGrant of the input with what the routes use of it.
type advisedGrant struct {
	placed
	grant *gwv1.ReferenceGrant
	used  bool
	// names are, for each entry of spec.to, what is referred to through it.
	names []map[string]bool
}

// prepareAdvice takes the grants that people wrote, and counts what the routes of the snapshot use of them.
func (c *checker) prepareAdvice(found []placed) {
	c.advised = map[string][]*advisedGrant{}
	for _, object := range found {
		if grant := foreignGrant(object.Object); grant != nil {
			c.advised[grant.Namespace] = append(c.advised[grant.Namespace],
				&advisedGrant{placed: object, grant: grant, names: make([]map[string]bool, len(grant.Spec.To))})
		}
	}
	for _, stored := range c.facts.stored {
		if route, ok := policy.RouteOf(stored); ok {
			c.countUses(route)
		}
	}
}

// countUses notes what a route, governed or not, uses of the grants.
func (c *checker) countUses(route policy.Route) {
	if len(c.advised) == 0 {
		return
	}
	for _, edge := range c.options.Policy.Edges(route) {
		for _, advised := range c.advised[edge.Namespace] {
			// A relocated route has the consent of a grant to its origin too.
			if !policy.Permits(advised.grant, edge, edge.FromNamespace) && !policy.Permits(advised.grant, edge, edge.Origin) {
				continue
			}
			c.mutex.Lock()
			advised.use(edge)
			c.mutex.Unlock()
		}
	}
}

func (a *advisedGrant) use(edge policy.Edge) {
	a.used = true
	for i, to := range a.grant.Spec.To {
		if string(to.Group) == edge.Group && string(to.Kind) == edge.Kind && to.Name == nil {
			if a.names[i] == nil {
				a.names[i] = map[string]bool{}
			}
			a.names[i][edge.Name] = true
		}
	}
}

// advise reports what the routes do not need.
func (c *checker) advise() {
	for _, grants := range c.advised {
		for _, advised := range grants {
			findings := advised.findings()
			if len(findings) == 0 {
				continue
			}
			where := advised.document.Locate()
			result := newResult(where, advised.Object)
			for _, finding := range findings {
				finding.Severity = SeverityAdvice
				finding.Message = policy.Printable(fmt.Sprintf("%s: %s: %s; to fix: %s [%s]", finding.Field, finding.Value, finding.Problem, finding.Fix, finding.Rule))
				result.add(where, finding)
			}
			c.ordered = append(c.ordered, orderedResult{advised.document.Source, result})
		}
	}
}

func (a *advisedGrant) findings() []Finding {
	// What other kinds need, such as a Gateway a Secret, or a TLSRoute a Service, is not read here.
	if slices.ContainsFunc(a.grant.Spec.From, func(from gwv1.ReferenceGrantFrom) bool {
		return from.Group != gwv1.GroupName || !slices.Contains(policy.RouteKinds(), policy.Kind(from.Kind))
	}) {
		return nil
	}
	if !a.used {
		return []Finding{{
			Rule: grantPermitsNothing.ID, Field: "spec", Value: "ReferenceGrant " + a.grant.Namespace + "/" + a.grant.Name,
			Problem: "permits nothing that a route here refers to",
			Fix:     "correct the names in it, or remove it if the routes that need it are not kept elsewhere",
		}}
	}
	var findings []Finding
	for i, to := range a.grant.Spec.To {
		if to.Name != nil || len(a.names[i]) != 1 {
			continue
		}
		for name := range a.names[i] {
			findings = append(findings, Finding{
				Rule: grantForWholeNamespace.ID, Field: fmt.Sprintf("spec.to[%d]", i), Value: fmt.Sprintf("every %s", to.Kind),
				Problem: fmt.Sprintf("permits every %s in namespace %q, and the routes here refer to %q alone", to.Kind, a.grant.Namespace, name),
				Fix:     fmt.Sprintf("add name: %s", name),
			})
		}
	}
	return findings
}
