package policy

import (
	"cmp"
	"path"
)

// HeldName is the name of a relocated copy.
type HeldName struct {
	Kind Kind
	Name string
}

// Holder says which relocated copy's name a stored route holds: its own where it is in the system namespace, its copy's
// where it is parked. The source is the "namespace/name" of the source, or empty for a route of the system namespace that
// is no copy.
func (p *Policy) Holder(route Route) (held HeldName, source string, holds bool) {
	switch {
	case p.IsCopy(route):
		return HeldName{route.Kind, route.Meta.Name}, cmp.Or(route.Meta.Annotations[SourceAnnotation], "?"), true
	case route.Namespace == p.SystemNamespace:
		return HeldName{route.Kind, route.Meta.Name}, "", true
	case p.Relocates(route) && route.Meta.Name != "":
		return HeldName{route.Kind, p.CopyName(route.Namespace, route.Meta.Name)}, route.Namespace + "/" + route.Meta.Name, true
	}
	return HeldName{}, "", false
}

// Holders sorts stored routes by the names of relocated copies that they hold, as Facts.Holders answers: a route in the
// system namespace comes before the sources that are parked for its name.
func (p *Policy) Holders(routes []Route) map[HeldName][]string {
	holders := map[HeldName][]string{}
	there := map[HeldName]bool{}
	for _, route := range routes {
		held, source, holds := p.Holder(route)
		switch inside := route.Namespace == p.SystemNamespace; {
		case !holds || !inside && there[held]:
		case inside:
			there[held], holders[held] = true, []string{source}
		default:
			holders[held] = append(holders[held], source)
		}
	}
	return holders
}

// reserved reports whether no copy may have the name.
func (p *Policy) reserved(name string) (pattern string, reserved bool) {
	for _, pattern := range p.ReservedNames {
		if matches, err := path.Match(pattern, name); err == nil && matches {
			return pattern, true
		}
	}
	return "", false
}
