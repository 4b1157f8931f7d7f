package webhook

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/random"
)

// What is decoded for the rules alone is decided as what is decoded in full.
func TestTrimmedRoutesAreDecidedAlike(t *testing.T) {
	trimmed := 0
	for seed := range uint64(3000) {
		s := random.New(seed)
		pol, err := policy.New(s.Config())
		require.NoError(t, err)
		asked := s.Request()
		var edges []policy.Edge
		if route, ok := policy.RouteOf(asked.Object); ok {
			edges = pol.Edges(route)
		}
		facts := s.Facts(edges...)
		body := bodyOf(t, asked)

		full, err := fullRequest(body)
		require.NoError(t, err)
		want, err := policyRequest(full)
		require.NoError(t, err)
		req, got, ok := trimmedRequest(body)
		if !ok {
			continue
		}
		trimmed++
		full.Object, full.OldObject = runtime.RawExtension{}, runtime.RawExtension{}
		require.Equal(t, full, req)
		decision := pol.Evaluate(want, facts)
		require.Equal(t, decision, pol.Evaluate(got, facts), "seed %d", seed)
		require.Equal(t, decision.Denial(want), decision.Denial(got), "seed %d", seed)
	}
	require.Greater(t, trimmed, 1000)
}

func bodyOf(t *testing.T, asked policy.Request) []byte {
	raw := func(object runtime.Object) runtime.RawExtension {
		if object == nil {
			return runtime.RawExtension{}
		}
		content, err := json.Marshal(object)
		require.NoError(t, err)
		return runtime.RawExtension{Raw: content}
	}
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: reviewType,
		Request: &admissionv1.AdmissionRequest{
			UID: "0e6f5d2a", Kind: metav1.GroupVersionKind{Group: gwv1.GroupName, Version: "v1", Kind: string(asked.Kind)},
			Name: "r", Namespace: asked.Namespace, Operation: admissionv1.Operation(asked.Operation),
			UserInfo: authenticationv1.UserInfo{Username: asked.User.Name, Groups: asked.User.Groups},
			Object:   raw(asked.Object), OldObject: raw(asked.OldObject), DryRun: new(true),
		},
	})
	require.NoError(t, err)
	return body
}

// What is not as an API server sends it is left to the decoder of everything, whose errors tell what is wrong; so are
// objects all of which is compared.
func TestNotTrimmed(t *testing.T) {
	good := review(routeInside)
	_, _, ok := trimmedRequest([]byte(good))
	require.True(t, ok)
	for name, body := range map[string]string{
		"other version":    strings.Replace(good, "admission.k8s.io/v1", "admission.k8s.io/v1beta1", 1),
		"other case":       strings.Replace(good, `"request"`, `"Request"`, 1),
		"no object":        review("null"),
		"no old object":    strings.Replace(good, "CREATE", "UPDATE", 1),
		"deletion":         strings.Replace(good, "CREATE", "DELETE", 1),
		"subresource":      strings.Replace(good, `"operation"`, `"subResource": "status", "operation"`, 1),
		"other kind":       strings.Replace(good, `"kind": "HTTPRoute"}`, `"kind": "Gateway"}`, 1),
		"other group":      strings.Replace(good, `"group": "gateway.networking.k8s.io"`, `"group": "example.com"`, 1),
		"wrong type":       review(`{"spec": {"rules": [{"backendRefs": [{"port": "http"}]}]}}`),
		"truncated":        good[:len(good)-1],
		"a relocated copy": review(`{"metadata": {"labels": {"app.kubernetes.io/managed-by": "routesteward"}}}`),
		"copy before": strings.Replace(strings.Replace(good, "CREATE", "UPDATE", 1), `"object"`,
			`"oldObject": {"metadata": {"labels": {"app.kubernetes.io/managed-by": "routesteward"}}}, "object"`, 1),
	} {
		_, _, ok := trimmedRequest([]byte(body))
		require.False(t, ok, name)
	}
	// Names in another case are other names, as to the API server.
	_, preq, ok := trimmedRequest([]byte(review(`{"Metadata": {"name": "a"}, "metadata": {"Name": "b"}, "spec": {"ParentRefs": [{"name": "c"}], "parentRefs": [{"name": "d", "Namespace": "e"}]}}`)))
	require.True(t, ok)
	require.Equal(t, &gwv1.HTTPRoute{Spec: gwv1.HTTPRouteSpec{
		CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: "d"}}}, Rules: []gwv1.HTTPRouteRule{},
	}}, preq.Object)
}
