package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	authorizationfake "k8s.io/client-go/kubernetes/typed/authorization/v1/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
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
	return newAccessReviewer(clients.AuthorizationV1().SubjectAccessReviews())
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

// scripted is an API server whose n-th answer to an access review, from 1, is what answer returns. It works in a bubble of
// synctest.
func scripted(answer func(n int) (authorizationv1.SubjectAccessReviewStatus, error)) (reviewer *accessReviewer, calls *int) {
	calls = new(int)
	fake := &clienttesting.Fake{}
	fake.AddReactor("create", "subjectaccessreviews", func(clienttesting.Action) (bool, runtime.Object, error) {
		*calls++
		status, err := answer(*calls)
		return true, &authorizationv1.SubjectAccessReview{Status: status}, err
	})
	return newAccessReviewer((&authorizationfake.FakeAuthorizationV1{Fake: fake}).SubjectAccessReviews()), calls
}

var (
	yes       = authorizationv1.SubjectAccessReviewStatus{Allowed: true}
	noOpinion = authorizationv1.SubjectAccessReviewStatus{}
	denied    = authorizationv1.SubjectAccessReviewStatus{Denied: true}
)

func TestAccessReviewAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		answer authorizationv1.SubjectAccessReviewStatus
		want   bool
		kept   time.Duration
	}{
		"allowed":        {answer: yes, want: true, kept: accessAllowTTL},
		"no opinion":     {answer: noOpinion, kept: accessDenyTTL},
		"denied":         {answer: denied, kept: accessDenyTTL},
		"both":           {answer: authorizationv1.SubjectAccessReviewStatus{Allowed: true, Denied: true}, kept: accessDenyTTL},
		"not evaluated":  {answer: authorizationv1.SubjectAccessReviewStatus{EvaluationError: "no role"}, kept: accessDenyTTL},
		"partly allowed": {answer: authorizationv1.SubjectAccessReviewStatus{Allowed: true, EvaluationError: "no role"}, want: true, kept: accessAllowTTL},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reviewer, calls := scripted(func(int) (authorizationv1.SubjectAccessReviewStatus, error) { return test.answer, nil })
				ask := func(wantCalls int) {
					may, err := reviewer.mayCreateGrants(t.Context(), authenticationv1.UserInfo{Username: "alice"}, "models")
					require.NoError(t, err)
					require.Equal(t, test.want, may)
					require.Equal(t, wantCalls, *calls)
				}
				ask(1)
				<-time.After(test.kept)
				ask(1)
				<-time.After(1)
				ask(2)
			})
		})
	}
}

func TestAccessReviewRetries(t *testing.T) {
	resource := schema.GroupResource{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"}
	internal := apierrors.NewInternalError(errors.New("etcd is away"))
	forbidden := apierrors.NewForbidden(resource, "", errors.New("no reviews"))
	for name, test := range map[string]struct {
		errs  []error // of the first calls; the next one is answered with yes
		calls int
		err   error
	}{
		"internal error":              {errs: []error{internal}, calls: 2},
		"server timeout":              {errs: []error{apierrors.NewServerTimeout(resource, "create", 1)}, calls: 2},
		"gateway timeout":             {errs: []error{apierrors.NewTimeoutError("slow", 0)}, calls: 2},
		"too many requests":           {errs: []error{apierrors.NewTooManyRequestsError("busy")}, calls: 2},
		"connection reset":            {errs: []error{fmt.Errorf("read: %w", os.NewSyscallError("read", syscall.ECONNRESET))}, calls: 2},
		"connection lost":             {errs: []error{errors.New("http2: client connection lost")}, calls: 2},
		"twice":                       {errs: []error{internal, internal}, calls: 3},
		"three attempts at most":      {errs: []error{internal, internal, internal}, calls: 3, err: internal},
		"forbidden is final":          {errs: []error{forbidden}, calls: 1, err: forbidden},
		"final after one that is not": {errs: []error{internal, forbidden}, calls: 2, err: forbidden},
		"other errors are final":      {errs: []error{errors.New("x509: no")}, calls: 1, err: errors.New("x509: no")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reviewer, calls := scripted(func(n int) (authorizationv1.SubjectAccessReviewStatus, error) {
					if n <= len(test.errs) {
						return yes, test.errs[n-1]
					}
					return yes, nil
				})
				alice := authenticationv1.UserInfo{Username: "alice"}
				may, err := reviewer.mayCreateGrants(t.Context(), alice, "models")
				require.Equal(t, test.calls, *calls)
				if test.err == nil {
					require.NoError(t, err)
					require.True(t, may)
					return
				}
				require.EqualError(t, err, `access review of "alice" in namespace "models": `+test.err.Error())
				require.False(t, may)

				may, err = reviewer.mayCreateGrants(t.Context(), alice, "models")
				require.NoError(t, err, "an error is not kept")
				require.True(t, may)
			})
		})
	}
}

func TestAccessReviewEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := apierrors.NewInternalError(errors.New("etcd is away"))
		reviewer, calls := scripted(func(int) (authorizationv1.SubjectAccessReviewStatus, error) { return yes, failure })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		begin := time.Now()
		may, err := reviewer.mayCreateGrants(ctx, authenticationv1.UserInfo{Username: "alice"}, "models")
		require.ErrorIs(t, err, failure)
		require.False(t, may)
		require.Equal(t, 1, *calls)
		require.Equal(t, 50*time.Millisecond, time.Since(begin))

		may, err = reviewer.mayCreateGrants(ctx, authenticationv1.UserInfo{Username: "alice"}, "models")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.False(t, may)
		require.Equal(t, 1, *calls, "nobody waits for the answer")
	})
}

// An answer must never serve for another question, however the requester's names are chosen.
func TestAccessReviewQuestionsDiffer(t *testing.T) {
	type question struct {
		who       authenticationv1.UserInfo
		namespace string
	}
	extra := func(pairs ...string) map[string]authenticationv1.ExtraValue {
		values := map[string]authenticationv1.ExtraValue{}
		for i := 0; i < len(pairs); i += 2 {
			values[pairs[i]] = append(values[pairs[i]], pairs[i+1])
		}
		return values
	}
	many := strings.Repeat("a", 1<<20)
	questions := []question{
		{authenticationv1.UserInfo{}, ""},
		{authenticationv1.UserInfo{}, "a"},
		{authenticationv1.UserInfo{Username: "a"}, ""},
		{authenticationv1.UserInfo{UID: "a"}, ""},
		{authenticationv1.UserInfo{Groups: []string{"a"}}, ""},
		{authenticationv1.UserInfo{Groups: []string{""}}, ""},
		{authenticationv1.UserInfo{Groups: []string{"", ""}}, ""},
		{authenticationv1.UserInfo{Username: "a", UID: "b"}, ""},
		{authenticationv1.UserInfo{Username: "ab"}, ""},
		{authenticationv1.UserInfo{Username: "a", Groups: []string{"b"}}, ""},
		{authenticationv1.UserInfo{Groups: []string{"a", "b"}}, ""},
		{authenticationv1.UserInfo{Groups: []string{"b", "a"}}, ""},
		{authenticationv1.UserInfo{Groups: []string{"a,b"}}, ""},
		{authenticationv1.UserInfo{Groups: []string{`a","b`}}, ""},
		{authenticationv1.UserInfo{Groups: []string{"a\x00b"}}, ""},
		{authenticationv1.UserInfo{Groups: []string{"a\x1a\x01b"}}, ""},
		{authenticationv1.UserInfo{Groups: []string{"ab"}}, ""},
		{authenticationv1.UserInfo{Username: "\xfe"}, ""},
		{authenticationv1.UserInfo{Username: "\xff"}, ""},
		{authenticationv1.UserInfo{Username: "\ufffd"}, ""},
		{authenticationv1.UserInfo{Extra: extra("k", "a")}, ""},
		{authenticationv1.UserInfo{Extra: extra("k", "a", "k", "b")}, ""},
		{authenticationv1.UserInfo{Extra: extra("k", "a", "l", "b")}, ""},
		{authenticationv1.UserInfo{Extra: extra("k", "b", "l", "a")}, ""},
		{authenticationv1.UserInfo{Extra: extra("k", "a,b")}, ""},
		{authenticationv1.UserInfo{Extra: extra("ka", "b")}, ""},
		{authenticationv1.UserInfo{Extra: extra("k", many)}, ""},
		{authenticationv1.UserInfo{Extra: extra("k", many+"a")}, ""},
		{authenticationv1.UserInfo{Username: many}, ""},
	}
	synctest.Test(t, func(t *testing.T) {
		reviewer, calls := scripted(func(n int) (authorizationv1.SubjectAccessReviewStatus, error) {
			return authorizationv1.SubjectAccessReviewStatus{Allowed: n%2 == 0}, nil
		})
		for round := range 2 {
			for i, q := range questions {
				may, err := reviewer.mayCreateGrants(t.Context(), q.who, q.namespace)
				require.NoError(t, err)
				require.Equal(t, i%2 == 1, may, "round %d, question %d", round, i)
			}
			require.Len(t, questions, *calls)
		}
		for _, key := range reviewer.answers.Keys() {
			require.Len(t, key, 32, "the memory for an answer is independent of the question's size")
		}
	})
}

func TestAccessReviewMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reviewer, calls := scripted(func(int) (authorizationv1.SubjectAccessReviewStatus, error) { return yes, nil })
		ask := func(namespace int) {
			_, err := reviewer.mayCreateGrants(t.Context(), authenticationv1.UserInfo{Username: "alice"}, fmt.Sprint(namespace))
			require.NoError(t, err)
		}
		for namespace := range maxAccessAnswers {
			ask(namespace)
		}
		ask(0)
		require.Equal(t, maxAccessAnswers, *calls)
		ask(maxAccessAnswers)
		require.Len(t, reviewer.answers.Keys(), maxAccessAnswers)
		ask(0)
		require.Equal(t, maxAccessAnswers+1, *calls, "the least recently used one makes room")
	})
}
