package cluster

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// Facts answers the policy's questions from the caches, for one evaluation. A question that could not be answered is
// unknown to the policy; Err has the reason.
type Facts struct {
	ctx    context.Context
	reader *Reader
	access map[string]policy.Answer
	// foreign has what was listed already: many references of one route lead to the same namespace.
	foreign map[string][]*gwv1.ReferenceGrant
	err     error
}

var _ policy.Facts = (*Facts)(nil)

// Facts are for one evaluation; they are not safe for concurrent use.
func (r *Reader) Facts(ctx context.Context) *Facts { return &Facts{ctx: ctx, reader: r} }

// Err is the first error met while answering.
func (f *Facts) Err() error { return f.err }

// found sorts a read's outcome: found, not there, or unknown because of an error, which is kept.
func (f *Facts) found(err error) policy.Answer {
	switch {
	case err == nil:
		return policy.Yes
	case apierrors.IsNotFound(err):
		return policy.No
	}
	if f.err == nil {
		f.err = err
	}
	return policy.Unknown
}

// Namespace implements policy.Facts.
func (f *Facts) Namespace(name string) policy.NamespaceFacts {
	key := types.NamespacedName{Name: name}
	obj, ok := f.reader.cached(namespaceKind, key)
	namespace, _ := obj.(*metav1.PartialObjectMetadata)
	switch {
	case !ok:
		namespace = NewNamespace()
		if exists := f.found(f.reader.Get(f.ctx, key, namespace)); exists != policy.Yes {
			return policy.NamespaceFacts{Exists: exists}
		}
	case namespace == nil:
		return policy.NamespaceFacts{Exists: policy.No}
	}
	return policy.NamespaceFacts{
		Exists:      policy.Yes,
		Terminating: namespace.DeletionTimestamp != nil,
		Grants:      namespace.Labels[policy.GrantsLabel],
	}
}

// GatewayExists implements policy.Facts.
func (f *Facts) GatewayExists(namespace, name string) policy.Answer {
	key := types.NamespacedName{Namespace: namespace, Name: name}
	if obj, ok := f.reader.cached(policy.Gateway, key); ok {
		return policy.AnswerOf(obj != nil)
	}
	return f.found(f.reader.Get(f.ctx, key, NewGateway()))
}

// ManagedGrant implements policy.Facts.
func (f *Facts) ManagedGrant(namespace, name string) (*gwv1.ReferenceGrant, bool) {
	grant, err := f.reader.Grant(f.ctx, types.NamespacedName{Namespace: namespace, Name: name})
	if f.found(err) != policy.Yes {
		return nil, false
	}
	if grant == nil || !policy.IsManaged(grant) {
		return nil, true
	}
	return grant, true
}

// ForeignGrants implements policy.Facts.
func (f *Facts) ForeignGrants(namespace, _ string) ([]*gwv1.ReferenceGrant, bool) {
	if grants, listed := f.foreign[namespace]; listed {
		return grants, true
	}
	grants, err := f.reader.foreignGrants(f.ctx, namespace)
	if f.found(err) != policy.Yes {
		return nil, false
	}
	if f.foreign == nil {
		f.foreign = map[string][]*gwv1.ReferenceGrant{}
	}
	f.foreign[namespace] = grants
	return grants, true
}

// MayHoldMoreGrants implements policy.Facts.
func (f *Facts) MayHoldMoreGrants(string) bool { return false }

// Holders implements policy.Facts.
func (f *Facts) Holders(kind policy.Kind, name string) ([]string, bool) {
	obj := NewRoute(kind)
	key := types.NamespacedName{Namespace: f.reader.policy.SystemNamespace, Name: name}
	switch f.found(f.reader.Get(f.ctx, key, obj)) {
	case policy.Unknown:
		return nil, false
	case policy.Yes:
		route, _ := policy.RouteOf(obj)
		_, source, _ := f.reader.policy.Holder(route)
		return []string{source}, true
	}
	sources, err := f.reader.Sources(f.ctx, kind, name)
	if f.found(err) != policy.Yes {
		return nil, false
	}
	var holders []string
	for _, obj := range sources {
		if route, _ := policy.RouteOf(obj); f.reader.policy.Relocates(route) {
			_, source, _ := f.reader.policy.Holder(route)
			holders = append(holders, source)
		}
	}
	return holders, true
}

// MayCreateGrants implements policy.Facts: what SetAccess said, otherwise unknown.
func (f *Facts) MayCreateGrants(namespace string) policy.Answer { return f.access[namespace] }

// SetAccess records the answer of an access review.
func (f *Facts) SetAccess(namespace string, may bool) {
	if f.access == nil {
		f.access = map[string]policy.Answer{}
	}
	f.access[namespace] = policy.AnswerOf(may)
}
