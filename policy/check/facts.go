package check

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/manifest"
)

// objectKey names one object in a cluster.
type objectKey struct {
	kind            policy.Kind
	namespace, name string
}

// facts answer the policy's questions from the input and, where there is one, from a snapshot that holds all there is in
// the cluster. They are not changed once they are complete.
type facts struct {
	// known holds both. The managed grants in it are the snapshot's: admission refuses those of the input.
	known policy.Snapshot
	// grants has those of known by what they are asked for, once they are: a namespace may have thousands.
	grants func() map[string]*grantIndex
	// stored are the evaluated objects of the snapshot; nil without one: then what is not known is unknown, not absent.
	stored map[objectKey]client.Object
	// holders are of the snapshot's routes (policy.Policy.Holders). claims are the sources of the input, or "" for a route that
	// is written into the system namespace, which come first for a name that nobody holds.
	holders   map[policy.HeldName][]string
	claims    map[policy.HeldName]string
	consented sets.Set[string]
	access    func(namespace string) policy.Answer
}

var _ policy.Facts = (*facts)(nil)

func newFacts(o Options) *facts {
	f := &facts{
		known: policy.Snapshot{
			Namespaces: map[string]policy.NamespaceFacts{}, Gateways: map[string]bool{}, Grants: map[string][]*gwv1.ReferenceGrant{},
		},
		claims:    map[policy.HeldName]string{},
		consented: sets.New(o.AsConsented...),
		access:    o.Access,
	}
	f.grants = sync.OnceValue(f.indexGrants)
	return f
}

// grantIndex has the ReferenceGrants of one namespace.
type grantIndex struct {
	managed map[string]*gwv1.ReferenceGrant
	// foreign by the names in spec.to, "" where an entry has none.
	foreign map[string][]*gwv1.ReferenceGrant
}

func (f *facts) indexGrants() map[string]*grantIndex {
	all := map[string]*grantIndex{}
	for namespace, grants := range f.known.Grants {
		index := &grantIndex{map[string]*gwv1.ReferenceGrant{}, map[string][]*gwv1.ReferenceGrant{}}
		all[namespace] = index
		for _, grant := range grants {
			if policy.IsManaged(grant) {
				if _, found := index.managed[grant.Name]; !found {
					index.managed[grant.Name] = grant
				}
				continue
			}
			for _, to := range grant.Spec.To {
				name := ""
				if to.Name != nil {
					name = string(*to.Name)
				}
				index.foreign[name] = append(index.foreign[name], grant)
			}
		}
	}
	return all
}

// partial says that what is not known may exist all the same.
func (f *facts) partial() bool { return f.stored == nil }

// keepStored adds an object of the snapshot.
func (f *facts) keepStored(object manifest.Object) {
	namespace, name := object.GetNamespace(), object.GetName()
	switch o := object.Object.(type) {
	case *corev1.Namespace:
		f.known.Namespaces[name] = policy.NamespaceFacts{
			Exists: policy.Yes, Terminating: o.DeletionTimestamp != nil, Grants: o.Labels[policy.GrantsLabel],
		}
		return
	case *gwv1.Gateway:
		f.known.Gateways[namespace+"/"+name] = true
	case *gwv1.ReferenceGrant:
		f.known.Grants[namespace] = append(f.known.Grants[namespace], o)
	}
	// Who applied what is not in a snapshot either.
	object.SetManagedFields(nil)
	delete(object.GetAnnotations(), corev1.LastAppliedConfigAnnotation)
	f.stored[objectKey{object.Kind, namespace, name}] = object.Object
}

// keepHolders says who holds which name of a relocated copy, once all of the snapshot is known.
func (f *facts) keepHolders(p *policy.Policy) {
	var routes []policy.Route
	for _, object := range f.stored {
		if route, ok := policy.RouteOf(object); ok {
			routes = append(routes, route)
		}
	}
	slices.SortFunc(routes, func(a, b policy.Route) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Meta.Name, b.Meta.Name))
	})
	f.holders = p.Holders(routes)
}

// claim gives a route of the input the name that it will hold, unless an earlier one has it: what is applied first holds
// it, and the other one is refused.
func (f *facts) claim(p *policy.Policy, request policy.Request) error {
	m, err := p.Mutate(request, asked{f, request})
	if err != nil {
		return err
	}
	route, _ := policy.RouteOf(m.Request.Object)
	held, source, holds := p.Holder(route)
	if parked, _ := p.Parked(route); !holds || held.Name == "" || p.IsCopy(route) || source != "" && parked == nil {
		return nil
	}
	if _, claimed := f.claims[held]; !claimed {
		f.claims[held] = source
	}
	return nil
}

// keep adds an object of the input, as if it were applied. It comes after the snapshot's.
func (f *facts) keep(object manifest.Object) {
	namespace, name := object.GetNamespace(), object.GetName()
	switch o := object.Object.(type) {
	case *corev1.Namespace:
		facts := f.known.Namespaces[name]
		facts.Exists = policy.Yes
		// Applying a manifest leaves the labels alone that it does not have.
		if label, ok := o.Labels[policy.GrantsLabel]; ok {
			facts.Grants = label
		}
		f.known.Namespaces[name] = facts
	case *gwv1.Gateway:
		f.known.Gateways[namespace+"/"+name] = true
	case *gwv1.ReferenceGrant:
		if policy.IsManaged(o) {
			return
		}
		grants := slices.DeleteFunc(f.known.Grants[namespace], func(stored *gwv1.ReferenceGrant) bool {
			return stored.Name == name && name != "" && !policy.IsManaged(stored)
		})
		f.known.Grants[namespace] = append(grants, o)
	}
}

// claimedCopy is the relocated copy of an earlier source of the input, where a route is written in its place, or nil.
func (f *facts) claimedCopy(p *policy.Policy, object manifest.Object) client.Object {
	source := f.claims[policy.HeldName{Kind: object.Kind, Name: object.GetName()}]
	route, isRoute := policy.RouteOf(object.Object)
	if source == "" || !isRoute || route.Namespace != p.SystemNamespace || p.IsCopy(route) {
		return nil
	}
	there := policy.NewObject(object.Kind)
	there.SetNamespace(object.GetNamespace())
	there.SetName(object.GetName())
	there.SetLabels(map[string]string{policy.ManagedByLabel: policy.ManagedBy})
	there.SetAnnotations(map[string]string{policy.SourceAnnotation: source})
	return there
}

// Namespace implements policy.Facts.
func (f *facts) Namespace(name string) policy.NamespaceFacts {
	facts := f.known.Namespace(name)
	if f.partial() && facts.Exists == policy.No {
		facts = policy.NamespaceFacts{}
	}
	if f.consented.Has(name) && facts.Grants != policy.GrantsDeny {
		facts.Grants = policy.GrantsAllow
		if facts.Exists == policy.Unknown {
			facts.Exists = policy.Yes
		}
	}
	return facts
}

// GatewayExists implements policy.Facts.
func (f *facts) GatewayExists(namespace, name string) policy.Answer {
	answer := f.known.GatewayExists(namespace, name)
	if f.partial() && answer == policy.No {
		return policy.Unknown
	}
	return answer
}

// ManagedGrant implements policy.Facts.
func (f *facts) ManagedGrant(namespace, name string) (*gwv1.ReferenceGrant, bool) {
	if index := f.grants()[namespace]; index != nil {
		return index.managed[name], true
	}
	return nil, true
}

// ForeignGrants implements policy.Facts.
func (f *facts) ForeignGrants(namespace, target string) ([]*gwv1.ReferenceGrant, bool) {
	if target == "" {
		return f.known.ForeignGrants(namespace, target)
	}
	index := f.grants()[namespace]
	if index == nil {
		return nil, true
	}
	return slices.Concat(index.foreign[target], index.foreign[""]), true
}

// MayHoldMoreGrants implements policy.Facts.
func (f *facts) MayHoldMoreGrants(string) bool { return f.partial() }

// Holders implements policy.Facts.
func (f *facts) Holders(kind policy.Kind, name string) ([]string, bool) {
	held := policy.HeldName{Kind: kind, Name: name}
	if sources := f.holders[held]; len(sources) > 0 {
		return sources, true
	}
	if source, claimed := f.claims[held]; claimed {
		return []string{source}, !f.partial()
	}
	return nil, !f.partial()
}

// asked are the facts about one request.
type asked struct {
	*facts
	request policy.Request
}

// Holders implements policy.Facts. Somebody else in the input who has the name is reason enough to refuse it; whether it is
// free for who has it there only a whole cluster shows.
func (a asked) Holders(kind policy.Kind, name string) ([]string, bool) {
	sources, known := a.facts.Holders(kind, name)
	route, _ := policy.RouteOf(a.request.Object)
	own := a.request.Namespace + "/" + route.Meta.Name
	return sources, known || len(sources) > 0 && !slices.Contains(sources, own)
}

// MayCreateGrants implements policy.Facts.
func (f *facts) MayCreateGrants(namespace string) policy.Answer {
	if f.access == nil {
		return policy.Unknown
	}
	return f.access(namespace)
}

// readSnapshot reads everything that the options name as all there is in the cluster; false where they name nothing.
func (f *facts) readSnapshot(ctx context.Context, o Options) ([]Problem, error) {
	if len(o.Facts) == 0 && o.Cluster == nil {
		return nil, nil
	}
	f.stored = map[objectKey]client.Object{}
	defer func() { f.keepHolders(o.Policy) }()
	if o.Cluster != nil {
		if err := o.Cluster.ReadFacts(ctx, f.keepStored); err != nil {
			return nil, err
		}
	}
	if len(o.Facts) == 0 {
		return nil, nil
	}
	in := manifest.Open(o.Facts, true, nil)
	problems := in.Problems
	for i, file := range in.Files {
		for document, problem := range file.Documents(i) {
			switch {
			case ctx.Err() != nil:
				return nil, errors.Join(ctx.Err(), in.Close())
			case problem != nil:
				problems = append(problems, *problem)
			default:
				// A cluster may be newer than we are: fields that we do not know are no fault of its snapshot.
				objects, wrong := document.Objects(allTypes, false)
				problems = append(problems, wrong...)
				for _, object := range objects {
					f.keepStored(object)
				}
			}
		}
	}
	return problems, in.Close()
}
