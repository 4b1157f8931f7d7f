package audit

import (
	"fmt"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// grant is a ReferenceGrant: what the report shows, and what only the checks read.
type grant struct {
	*Grant
	object *gwv1.ReferenceGrant
	// names are, for each entry of spec.to, what is referred to through it.
	names []map[string]bool
}

func (a *auditor) addGrant(o *gwv1.ReferenceGrant) {
	g := &grant{object: o, names: make([]map[string]bool, len(o.Spec.To)), Grant: &Grant{
		Ref: refOf(policy.ReferenceGrant, o.Namespace, o.Name), Owner: OwnerOther, Permits: []string{}, State: StateOK,
	}}
	switch {
	case policy.IsManaged(o):
		g.Owner = OwnerSelf
	case o.Name == aibrixGrantName(a.system(), o.Namespace):
		g.Owner = OwnerAIBrix
	}
	for _, from := range o.Spec.From {
		for _, to := range o.Spec.To {
			g.Permits = append(g.Permits, fmt.Sprintf("%ss in %s may refer to %s", from.Kind, from.Namespace, targetWords(to)))
		}
	}
	a.grants = append(a.grants, g)
	a.states[g.Ref] = &g.State
	names := map[string]bool{}
	for _, to := range o.Spec.To {
		if to.Name == nil {
			a.wide[o.Namespace] = append(a.wide[o.Namespace], g)
			return
		}
		names[string(*to.Name)] = true
	}
	for name := range names {
		key := o.Namespace + "/" + name
		a.byName[key] = append(a.byName[key], g)
	}
}

// permits are the grants by which a gateway lets an edge pass: it knows nothing of consent.
func (a *auditor) permits(edge policy.Edge) []*grant {
	var found []*grant
	for _, candidates := range [][]*grant{a.byName[edge.Namespace+"/"+edge.Name], a.wide[edge.Namespace]} {
		for _, g := range candidates {
			if policy.Permits(g.object, edge, edge.FromNamespace) {
				found = append(found, g)
			}
		}
	}
	slices.SortFunc(found, func(x, y *grant) int { return strings.Compare(x.Name, y.Name) })
	return found
}

// countUses notes what a route, audited or not, uses of the grants.
func (a *auditor) countUses(route policy.Route) {
	for ref := range route.References() {
		edge, cross := policy.EdgeOf(route, ref)
		if !cross {
			continue
		}
		for _, g := range a.permits(edge) {
			g.Uses++
			for i, to := range g.object.Spec.To {
				if string(to.Group) == edge.Group && string(to.Kind) == edge.Kind && to.Name == nil {
					if g.names[i] == nil {
						g.names[i] = map[string]bool{}
					}
					g.names[i][edge.Name] = true
				}
			}
		}
	}
}
