package webhook

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// How long the answers of access reviews are kept. A yes is asked for again and again in a burst of routes. A no is
// kept just long enough for a burst of retries: whoever was given the right a moment ago tries at once.
const (
	accessAllowTTL = 10 * time.Second
	accessDenyTTL  = time.Second
)

// accessReviewer asks whether somebody may create ReferenceGrants in a namespace, by SubjectAccessReview
// (authorization.k8s.io/v1).
type accessReviewer struct {
	authorizer authorizer.UnconditionalAuthorizer
}

func newAccessReviewer(client authorizationclient.AuthorizationV1Interface) (*accessReviewer, error) {
	delegating, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client,
		AllowCacheTTL:             accessAllowTTL,
		DenyCacheTTL:              accessDenyTTL,
		WebhookRetryBackoff:       &wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 3},
	}.New()
	if err != nil {
		return nil, err
	}
	return &accessReviewer{delegating}, nil
}

func (a *accessReviewer) mayCreateGrants(ctx context.Context, who authenticationv1.UserInfo, namespace string) (bool, error) {
	extra := make(map[string][]string, len(who.Extra))
	for key, values := range who.Extra {
		extra[key] = values
	}
	decision, _, err := a.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User:            &user.DefaultInfo{Name: who.Username, UID: who.UID, Groups: who.Groups, Extra: extra},
		Verb:            "create",
		Namespace:       namespace,
		APIGroup:        gwv1.GroupName,
		APIVersion:      "*",
		Resource:        "referencegrants",
		ResourceRequest: true,
	})
	if err != nil {
		return false, fmt.Errorf("access review of %q in namespace %q: %w", who.Username, namespace, err)
	}
	return decision == authorizer.DecisionAllow, nil
}
