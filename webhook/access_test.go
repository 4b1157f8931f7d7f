package webhook

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// reviewed is an API server that answers access reviews.
func reviewed(t *testing.T, answer func(authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error)) *accessReviewer {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || r.URL.Path != "/apis/authorization.k8s.io/v1/subjectaccessreviews" {
			http.Error(w, "no access review", http.StatusBadRequest)
			return
		}
		status, err := answer(review.Spec)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		review.APIVersion, review.Kind, review.Status = "authorization.k8s.io/v1", "SubjectAccessReview", status
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	clients, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	require.NoError(t, err)
	reviewer, err := newAccessReviewer(clients.AuthorizationV1())
	require.NoError(t, err)
	return reviewer
}

func TestAccessReview(t *testing.T) {
	alice := authenticationv1.UserInfo{
		Username: "alice", UID: "u1", Groups: []string{"devs", "system:authenticated"},
		Extra: map[string]authenticationv1.ExtraValue{"example.com/scope": {"a", "b"}},
	}
	var calls atomic.Int32
	var asked authorizationv1.SubjectAccessReviewSpec
	reviewer := reviewed(t, func(spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
		calls.Add(1)
		asked = spec
		return authorizationv1.SubjectAccessReviewStatus{Allowed: spec.ResourceAttributes.Namespace == "models"}, nil
	})

	may, err := reviewer.mayCreateGrants(t.Context(), alice, "models")
	require.NoError(t, err)
	require.True(t, may)
	require.Equal(t, authorizationv1.SubjectAccessReviewSpec{
		User: "alice", UID: "u1", Groups: []string{"devs", "system:authenticated"},
		Extra: map[string]authorizationv1.ExtraValue{"example.com/scope": {"a", "b"}},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: "models", Verb: "create", Group: "gateway.networking.k8s.io", Version: "*", Resource: "referencegrants",
		},
	}, asked)

	_, err = reviewer.mayCreateGrants(t.Context(), alice, "models")
	require.NoError(t, err)
	require.EqualValues(t, 1, calls.Load(), "an answer is kept for a while")

	may, err = reviewer.mayCreateGrants(t.Context(), alice, "other")
	require.NoError(t, err)
	require.False(t, may)

	// Every part of who somebody is counts.
	for _, change := range []func(*authenticationv1.UserInfo){
		func(u *authenticationv1.UserInfo) { u.Username = "bob" },
		func(u *authenticationv1.UserInfo) { u.UID = "u2" },
		func(u *authenticationv1.UserInfo) { u.Groups = []string{"devs"} },
		func(u *authenticationv1.UserInfo) { u.Extra = nil },
	} {
		before, who := calls.Load(), alice
		change(&who)
		_, err := reviewer.mayCreateGrants(t.Context(), who, "models")
		require.NoError(t, err)
		require.Equal(t, before+1, calls.Load())
	}
}

func TestAccessReviewError(t *testing.T) {
	reviewer := reviewed(t, func(authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
		return authorizationv1.SubjectAccessReviewStatus{Allowed: true}, errors.New("no reviews today")
	})
	may, err := reviewer.mayCreateGrants(t.Context(), authenticationv1.UserInfo{Username: "alice"}, "models")
	require.ErrorContains(t, err, `access review of "alice" in namespace "models": `)
	require.ErrorContains(t, err, "no reviews today")
	require.False(t, may)
}
