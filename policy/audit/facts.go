package audit

import (
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// facts answers the policy's questions. Everything of its kinds is known: without them there is no audit.
type facts struct {
	policy.Snapshot
	labels  map[string]map[string]string      // by namespace
	managed map[string]*gwv1.ReferenceGrant   // by namespace/name
	foreign map[string][]*gwv1.ReferenceGrant // by namespace
}

func (c *Cluster) facts() *facts {
	f := &facts{
		Snapshot: policy.Snapshot{Namespaces: map[string]policy.NamespaceFacts{}, Gateways: map[string]bool{}},
		labels:   map[string]map[string]string{}, managed: map[string]*gwv1.ReferenceGrant{}, foreign: map[string][]*gwv1.ReferenceGrant{},
	}
	for _, o := range c.Namespaces {
		f.Namespaces[o.Name] = policy.NamespaceFacts{Exists: policy.Yes, Terminating: o.DeletionTimestamp != nil, Grants: o.Labels[policy.GrantsLabel]}
		f.labels[o.Name] = o.Labels
	}
	for _, o := range c.Gateways {
		f.Gateways[o.Namespace+"/"+o.Name] = true
	}
	for _, o := range c.Grants {
		if policy.IsManaged(o) {
			f.managed[o.Namespace+"/"+o.Name] = o
		} else {
			f.foreign[o.Namespace] = append(f.foreign[o.Namespace], o)
		}
	}
	return f
}

// ManagedGrant implements policy.Facts without going through all grants of the namespace.
func (f *facts) ManagedGrant(namespace, name string) (*gwv1.ReferenceGrant, bool) {
	return f.managed[namespace+"/"+name], true
}

// ForeignGrants implements policy.Facts.
func (f *facts) ForeignGrants(namespace, _ string) ([]*gwv1.ReferenceGrant, bool) {
	return f.foreign[namespace], true
}
