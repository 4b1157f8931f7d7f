package webhook

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// How long the answers of access reviews are kept. A yes is asked for again and again in a burst of routes. A no is
// kept just long enough for a burst of retries: whoever was given the right a moment ago tries at once.
const (
	accessAllowTTL = 10 * time.Second
	accessDenyTTL  = time.Second
)

// maxAccessAnswers bounds the memory for answers, about 2 MB. The least recently used one makes room.
const maxAccessAnswers = 8192

// accessBackoff is how often and when a review is asked for that fails for reasons which may pass.
var accessBackoff = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 3}

// accessReviewer asks whether somebody may create ReferenceGrants in a namespace, by SubjectAccessReview
// (authorization.k8s.io/v1).
type accessReviewer struct {
	reviews authorizationclient.SubjectAccessReviewInterface
	// answers are kept by the hash of the question: a requester may belong to any number of groups.
	answers *cache.LRUExpireCache
}

func newAccessReviewer(reviews authorizationclient.SubjectAccessReviewInterface) *accessReviewer {
	return &accessReviewer{reviews, cache.NewLRUExpireCache(maxAccessAnswers)}
}

func (a *accessReviewer) mayCreateGrants(ctx context.Context, who authenticationv1.UserInfo, namespace string) (bool, error) {
	extra := make(map[string]authorizationv1.ExtraValue, len(who.Extra))
	for key, values := range who.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	allowed, err := a.allowed(ctx, authorizationv1.SubjectAccessReviewSpec{
		User: who.Username, UID: who.UID, Groups: who.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: "create", Namespace: namespace, Group: gwv1.GroupName, Version: "*", Resource: "referencegrants",
		},
	})
	if err != nil {
		return false, fmt.Errorf("access review of %q in namespace %q: %w", who.Username, namespace, err)
	}
	return allowed, nil
}

// allowed asks the API server unless its last answer to the same question is still valid. An error is never kept.
func (a *accessReviewer) allowed(ctx context.Context, question authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	// Protobuf keeps apart what differs: it sorts maps, and writes the length of each list and text before it.
	encoded, err := question.Marshal()
	if err != nil {
		return false, err
	}
	key := sha256.Sum256(encoded)
	if allowed, known := a.answers.Get(key); known {
		return allowed.(bool), nil
	}
	allowed, err := a.ask(ctx, question)
	if err != nil {
		return false, err
	}
	ttl := accessDenyTTL
	if allowed {
		ttl = accessAllowTTL
	}
	a.answers.Add(key, allowed, ttl)
	return allowed, nil
}

// ask returns the last error where the API server does not answer before ctx ends or the attempts are used up.
func (a *accessReviewer) ask(ctx context.Context, question authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	var review *authorizationv1.SubjectAccessReview
	var failure error
	err := wait.ExponentialBackoffWithContext(ctx, accessBackoff, func(ctx context.Context) (bool, error) {
		review, failure = a.reviews.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: question}, metav1.CreateOptions{})
		if mayPass(failure) {
			return false, nil
		}
		return failure == nil, failure
	})
	switch {
	case failure != nil:
		return false, failure
	case err != nil: // ctx ended before the first attempt
		return false, err
	}
	// Neither allowed nor denied is no opinion, which is a no as well.
	return review.Status.Allowed && !review.Status.Denied, nil
}

// mayPass reports whether a request that failed may succeed when it is repeated.
func mayPass(err error) bool {
	_, delay := apierrors.SuggestsClientDelay(err)
	return delay || apierrors.IsInternalError(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) ||
		utilnet.IsConnectionReset(err) || utilnet.IsHTTP2ConnectionLost(err)
}
