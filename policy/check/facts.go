package check

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/policy"
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
	// stored are the judged objects of the snapshot; nil without one: then what is not known is unknown, not absent.
	stored    map[objectKey]client.Object
	consented sets.Set[string]
	access    func(namespace string) policy.Answer
}

var _ policy.Facts = (*facts)(nil)

func newFacts(o Options) *facts {
	return &facts{
		known: policy.Snapshot{
			Namespaces: map[string]policy.NamespaceFacts{}, Gateways: map[string]bool{}, Grants: map[string][]*gwv1.ReferenceGrant{},
		},
		consented: sets.New(o.AsConsented...),
		access:    o.Access,
	}
}

// partial says that what is not known may exist all the same.
func (f *facts) partial() bool { return f.stored == nil }

// keepStored adds an object of the snapshot.
func (f *facts) keepStored(object Object) {
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
	f.stored[objectKey{object.Kind, namespace, name}] = object.Object
}

// keep adds an object of the input, as if it were applied. It comes after the snapshot's.
func (f *facts) keep(object Object) {
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
	return f.known.ManagedGrant(namespace, name)
}

// ForeignGrants implements policy.Facts. Partial facts answer with the grants that they have: one more could only permit
// more, so what these permit is permitted; what they do not is turned into a missing fact by undecide.
func (f *facts) ForeignGrants(namespace string) ([]*gwv1.ReferenceGrant, bool) {
	return f.known.ForeignGrants(namespace)
}

// MayCreateGrants implements policy.Facts.
func (f *facts) MayCreateGrants(namespace string) policy.Answer {
	if f.access == nil {
		return policy.Unknown
	}
	return f.access(namespace)
}

// undecide takes back the refusals that a ReferenceGrant could lift which partial facts do not hold.
func (f *facts) undecide(d policy.Decision, route policy.Route) policy.Decision {
	if !f.partial() {
		return d
	}
	namespaces := map[string]string{}
	for ref := range route.References() {
		namespaces[ref.Path()] = ref.Namespace
	}
	d.Findings = slices.DeleteFunc(slices.Clone(d.Findings), func(finding policy.Finding) bool {
		namespace, found := namespaces[finding.Field]
		if finding.Rule != grantRule || !found {
			return false
		}
		d.Missing = append(d.Missing, policy.MissingFact{
			Rule: finding.Rule, Field: finding.Field, Value: finding.Value,
			Fact: policy.Fact{Kind: policy.FactGrants, Namespace: namespace},
		})
		return true
	})
	return d
}

// grantRule is the rule whose findings more ReferenceGrants can lift.
const grantRule = "cross-namespace-reference"

// readSnapshot reads everything that the options name as all there is in the cluster; false where they name nothing.
func (f *facts) readSnapshot(ctx context.Context, o Options) ([]Problem, error) {
	if len(o.Facts) == 0 && o.Cluster == nil {
		return nil, nil
	}
	f.stored = map[objectKey]client.Object{}
	if o.Cluster != nil {
		if err := o.Cluster.ReadFacts(ctx, f.keepStored); err != nil {
			return nil, err
		}
	}
	if len(o.Facts) == 0 {
		return nil, nil
	}
	in := OpenInput(o.Facts, true, nil)
	problems := in.Problems
	for i, file := range in.Files {
		for document, problem := range file.Documents(i) {
			switch {
			case ctx.Err() != nil:
				return nil, errors.Join(ctx.Err(), in.Close())
			case problem != nil:
				problems = append(problems, *problem)
			case document.MayHold(ourKinds):
				// A cluster may be newer than we are: fields that we do not know are no fault of its snapshot.
				objects, wrong := document.objects(false, ourKinds)
				problems = append(problems, wrong...)
				for _, object := range objects {
					f.keepStored(object)
				}
			}
		}
	}
	return problems, in.Close()
}
