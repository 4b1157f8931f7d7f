package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster/clustertest"
	"github.com/routesteward/routesteward/webhook/metrics"
)

// writers may create ReferenceGrants in some namespaces.
type writers struct {
	namespaces map[string]bool
	err        error
	asked      []string
}

func (w *writers) mayCreateGrants(_ context.Context, who authenticationv1.UserInfo, namespace string) (bool, error) {
	w.asked = append(w.asked, who.Username+" in "+namespace)
	return w.namespaces[namespace], w.err
}

// made records the grants that an admission asked for; fail is the outcome of each.
type made struct {
	mu     sync.Mutex
	grants []string
	fail   func(namespace string) error
}

func (m *made) Exists(context.Context, policy.GrantUse) bool { return false }

func (m *made) Ensure(_ context.Context, use policy.GrantUse, consent string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.grants = append(m.grants, fmt.Sprintf("%s (%s)", use.Edge, consent))
	if m.fail == nil {
		return nil
	}
	return m.fail(use.Edge.Namespace)
}

// admissions are a validator with everything around it.
type admissions struct {
	*testing.T
	validator *validator
	caches    *clustertest.Caches
	access    *writers
	grants    *made
	registry  *prometheus.Registry
	log       *bytes.Buffer
}

func newAdmissions(t *testing.T, change func(*policy.Config), objects ...client.Object) *admissions {
	t.Helper()
	config := policy.DefaultConfig()
	config.GatewayClasses = []string{"aibrix-eg"}
	if change != nil {
		change(&config)
	}
	pol, err := policy.New(config)
	require.NoError(t, err)
	a := &admissions{T: t, access: &writers{}, grants: &made{}, registry: prometheus.NewRegistry(), log: &bytes.Buffer{}}
	m, err := metrics.New(a.registry)
	require.NoError(t, err)
	a.caches = clustertest.NewCaches(t, clustertest.NewServer(t, "v1", objects...), pol)
	a.validator = &validator{
		policy: pol, facts: a.caches.Reader, access: a.access, grants: a.grants, metrics: m,
		log: Options{LogFormat: LogJSON, LogLevel: LogInfo}.Logger(a.log),
	}
	return a
}

// counted has the series of decisions and errors that are not zero.
func (a *admissions) counted() []string {
	a.Helper()
	families, err := a.registry.Gather()
	require.NoError(a, err)
	var found []string
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if metric.GetCounter().GetValue() == 0 || family.GetName() == "routesteward_findings_total" {
				continue
			}
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			found = append(found, strings.Join(labels, " "))
		}
	}
	return found
}

const routeInside = `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
	"metadata": {"namespace": "aibrix-system", "name": "llama-router"},
	"spec": {"parentRefs": [{"name": "aibrix-eg"}], "rules": [{"backendRefs": [{"name": "llama", "namespace": "models", "port": 8000}]}]}}`

// request asks for the creation of an HTTPRoute in the system namespace that refers to models/llama.
func request(change ...func(*admission.Request)) admission.Request {
	req := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		UID:       "0e6f5d2a",
		Kind:      metav1.GroupVersionKind{Group: gwv1.GroupName, Version: "v1", Kind: "HTTPRoute"},
		Namespace: "aibrix-system", Name: "llama-router", Operation: admissionv1.Create,
		UserInfo: authenticationv1.UserInfo{Username: "alice", Groups: []string{"devs"}},
		Object:   runtime.RawExtension{Raw: []byte(routeInside)},
	}}
	for _, c := range change {
		c(&req)
	}
	return req
}

func inNamespace(namespace string) func(*admission.Request) {
	return func(r *admission.Request) { r.Namespace = namespace }
}

func dryRun(r *admission.Request) { r.DryRun = new(true) }

func object(raw string) func(*admission.Request) {
	return func(r *admission.Request) { r.Object.Raw = []byte(raw) }
}

func ns(name, grants string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{policy.GrantsLabel: grants}}}
}

var llamaEdge = policy.Edge{Origin: "aibrix-system", FromKind: "HTTPRoute", FromNamespace: "aibrix-system", Namespace: "models", Kind: "Service", Name: "llama"}

func TestAnswers(t *testing.T) {
	grant := "models/" + llamaEdge.GrantName()
	mayRefer := `HTTPRoutes in "aibrix-system" may refer to Service "llama" in "models"`
	refused := func(message string) *metav1.Status {
		return &metav1.Status{Status: "Failure", Code: http.StatusForbidden, Reason: "Forbidden", Message: message}
	}
	ok := &metav1.Status{Code: http.StatusOK}
	noConsent := `spec.rules[0].backendRefs[0]: Service models/llama: namespace "models" has not consented to references from HTTPRoutes in "aibrix-system"; ` +
		`to fix: ask its owner to consent, with a ReferenceGrant or with: kubectl label namespace models routesteward.dev/grants=allow [cross-namespace-reference]`

	for name, tt := range map[string]struct {
		policy  func(*policy.Config)
		objects []client.Object
		writer  bool
		request admission.Request
		want    admissionv1.AdmissionResponse
		grants  []string
		counted []string
	}{
		"denied": {
			objects: []client.Object{ns("models", "")},
			request: request(),
			want: admissionv1.AdmissionResponse{
				Result:           refused("HTTPRoute \"llama-router\" in namespace \"aibrix-system\" has 1 problem:\n- " + noConsent + "\n(routesteward request 0e6f5d2a)"),
				AuditAnnotations: map[string]string{"verdict": "deny", "rules": "cross-namespace-reference"},
			},
			counted: []string{"dry_run=false operation=CREATE rule=cross-namespace-reference verdict=deny"},
		},
		"denied for two rules": {
			objects: []client.Object{ns("models", "")},
			request: request(inNamespace("team-a"), object(strings.Replace(routeInside, `{"name": "aibrix-eg"}`, `{"name": "aibrix-eg", "namespace": "aibrix-system"}`, 1))),
			want: admissionv1.AdmissionResponse{
				Result: refused("HTTPRoute \"llama-router\" in namespace \"team-a\" has 2 problems:\n" +
					"- spec.parentRefs[0]: Gateway aibrix-system/aibrix-eg: takes routes from namespace \"aibrix-system\" only, and this route is in \"team-a\"; " +
					"to fix: set metadata.namespace: aibrix-system [route-outside-system-namespace]\n" +
					"- " + strings.ReplaceAll(noConsent, `HTTPRoutes in "aibrix-system"`, `HTTPRoutes in "team-a"`) + "\n(routesteward request 0e6f5d2a)"),
				AuditAnnotations: map[string]string{"verdict": "deny", "rules": "route-outside-system-namespace,cross-namespace-reference"},
			},
			counted: []string{"dry_run=false operation=CREATE rule=route-outside-system-namespace verdict=deny"},
		},
		"nothing to say": {
			request: request(object(`{"metadata": {"name": "llama-router"}, "spec": {}}`)),
			want:    admissionv1.AdmissionResponse{Allowed: true, Result: ok, AuditAnnotations: map[string]string{"verdict": "allow"}},
			counted: []string{"dry_run=false operation=CREATE rule=none verdict=allow"},
		},
		"standing consent": {
			objects: []client.Object{ns("models", "allow")},
			request: request(),
			want: admissionv1.AdmissionResponse{
				Allowed: true, Result: ok, Warnings: []string{"created ReferenceGrant " + grant + ": " + mayRefer},
				AuditAnnotations: map[string]string{"verdict": "allow", "grants": grant},
			},
			grants:  []string{mayRefer + " (this namespace has the label routesteward.dev/grants=allow)"},
			counted: []string{"dry_run=false operation=CREATE rule=none verdict=allow"},
		},
		"consent by the requester": {
			objects: []client.Object{ns("models", "")}, writer: true,
			request: request(),
			want: admissionv1.AdmissionResponse{
				Allowed: true, Result: ok, Warnings: []string{"created ReferenceGrant " + grant + ": " + mayRefer},
				AuditAnnotations: map[string]string{"verdict": "allow", "grants": grant},
			},
			grants:  []string{mayRefer + ` (given at admission by "alice", who may create ReferenceGrants here)`},
			counted: []string{"dry_run=false operation=CREATE rule=none verdict=allow"},
		},
		"dry run": {
			objects: []client.Object{ns("models", "")}, writer: true,
			request: request(dryRun),
			want: admissionv1.AdmissionResponse{
				Allowed: true, Result: ok, Warnings: []string{"would create ReferenceGrant " + grant + ": " + mayRefer},
				AuditAnnotations: map[string]string{"verdict": "allow", "grants": grant},
			},
			counted: []string{"dry_run=true operation=CREATE rule=none verdict=allow"},
		},
		"a grant that is there is made sure of, and not announced": {
			objects: []client.Object{ns("models", ""), llamaEdge.Grant("")},
			request: request(),
			want:    admissionv1.AdmissionResponse{Allowed: true, Result: ok, AuditAnnotations: map[string]string{"verdict": "allow"}},
			grants:  []string{mayRefer + " (this ReferenceGrant records it)"},
			counted: []string{"dry_run=false operation=CREATE rule=none verdict=allow"},
		},
		"warned": {
			policy:  func(c *policy.Config) { c.Outside, c.Grants = policy.OutsideWarn, policy.GrantsOff },
			request: request(inNamespace("team-a"), object(`{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}]}}`)),
			want: admissionv1.AdmissionResponse{
				Allowed: true, Result: ok,
				Warnings: []string{`Set metadata.namespace: aibrix-system [route-outside-system-namespace] spec.parentRefs[0]: Gateway aibrix-system/aibrix-eg: ` +
					`takes routes from namespace "aibrix-system" only, and this route is in "team-a"`},
				AuditAnnotations: map[string]string{"verdict": "warn", "rules": "route-outside-system-namespace"},
			},
			counted: []string{"dry_run=false operation=CREATE rule=route-outside-system-namespace verdict=warn"},
		},
		"only counted": {
			policy:  func(c *policy.Config) { c.Outside, c.Grants = policy.OutsideAllow, policy.GrantsOff },
			request: request(inNamespace("team-a"), object(`{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "aibrix-eg", "namespace": "aibrix-system"}]}}`)),
			want: admissionv1.AdmissionResponse{
				Allowed: true, Result: ok, AuditAnnotations: map[string]string{"verdict": "audit", "rules": "route-outside-system-namespace"},
			},
			counted: []string{"dry_run=false operation=CREATE rule=route-outside-system-namespace verdict=audit"},
		},
		"unchanged by an update": {
			objects: []client.Object{ns("models", "")}, writer: true,
			request: request(func(r *admission.Request) { r.Operation, r.OldObject = admissionv1.Update, r.Object }),
			want: admissionv1.AdmissionResponse{
				Allowed: true, Result: ok,
				Warnings: []string{`Ask its owner to consent, with a ReferenceGrant or with: kubectl label namespace models routesteward.dev/grants=allow ` +
					`[cross-namespace-reference, admitted as unchanged] spec.rules[0].backendRefs[0]: Service models/llama: namespace "models" has not cons…`},
				AuditAnnotations: map[string]string{"verdict": "warn", "rules": "cross-namespace-reference"},
			},
			counted: []string{"dry_run=false operation=UPDATE rule=cross-namespace-reference verdict=warn"},
		},
		"exempt": {
			policy:  func(c *policy.Config) { c.ExemptUsers = []string{"alice"} },
			request: request(),
			want:    admissionv1.AdmissionResponse{Allowed: true, Result: ok, AuditAnnotations: map[string]string{"verdict": "exempt user"}},
			counted: []string{"dry_run=false operation=CREATE rule=none verdict=allow"},
		},
		"deletion": {
			request: request(func(r *admission.Request) {
				r.Operation, r.Object, r.OldObject = admissionv1.Delete, runtime.RawExtension{}, r.Object
			}),
			want:    admissionv1.AdmissionResponse{Allowed: true, Result: ok, AuditAnnotations: map[string]string{"verdict": "exempt deleting"}},
			counted: []string{"dry_run=false operation=CREATE rule=none verdict=allow"},
		},
		"an object of v1beta1": {
			objects: []client.Object{ns("models", "deny")},
			request: request(func(r *admission.Request) { r.Kind.Version = "v1beta1" }, object(strings.Replace(routeInside, "k8s.io/v1", "k8s.io/v1beta1", 1))),
			want: admissionv1.AdmissionResponse{
				Result: refused("HTTPRoute \"llama-router\" in namespace \"aibrix-system\" has 1 problem:\n" +
					"- spec.rules[0].backendRefs[0]: Service models/llama: namespace \"models\" refuses references from other namespaces (label routesteward.dev/grants=deny); " +
					"to fix: use a backend in another namespace, or ask the owner of \"models\" to remove the label [target-namespace-refuses-grants]\n(routesteward request 0e6f5d2a)"),
				AuditAnnotations: map[string]string{"verdict": "deny", "rules": "target-namespace-refuses-grants"},
			},
			counted: []string{"dry_run=false operation=CREATE rule=target-namespace-refuses-grants verdict=deny"},
		},
		"the request's namespace, not the object's": {
			objects: []client.Object{ns("models", "")},
			request: request(inNamespace("models")),
			want:    admissionv1.AdmissionResponse{Allowed: true, Result: ok, AuditAnnotations: map[string]string{"verdict": "allow"}},
			counted: []string{"dry_run=false operation=CREATE rule=none verdict=allow"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAdmissions(t, tt.policy, tt.objects...)
			a.access.namespaces = map[string]bool{"models": tt.writer}
			require.Equal(t, admission.Response{AdmissionResponse: tt.want}, a.validator.Handle(t.Context(), tt.request))
			require.Equal(t, tt.grants, a.grants.grants)
			require.Equal(t, tt.counted, a.counted())
		})
	}
}

func errored(code int32, reason metav1.StatusReason, message string) admission.Response {
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{
		Result: &metav1.Status{Status: "Failure", Code: code, Reason: reason, Message: message},
	}}
}

func TestMalformedRequests(t *testing.T) {
	for name, tt := range map[string]struct {
		request admission.Request
		want    string
	}{
		"no request": {admission.Request{}, "the body is not an AdmissionReview with a request"},
		"subresource": {
			request(func(r *admission.Request) { r.SubResource = "status" }),
			`subresource "status" is not evaluated; the webhook configuration must not name it`,
		},
		"connect": {request(func(r *admission.Request) { r.Operation = admissionv1.Connect }), `operation "CONNECT" is not evaluated`},
		"no kind": {request(func(r *admission.Request) { r.Kind = metav1.GroupVersionKind{} }), `kind "" of group "" is not evaluated`},
		"other kind": {
			request(func(r *admission.Request) { r.Kind.Kind = "TCPRoute" }),
			`kind "TCPRoute" of group "gateway.networking.k8s.io" is not evaluated`,
		},
		"other group": {
			request(func(r *admission.Request) { r.Kind.Group = "example.com" }),
			`kind "HTTPRoute" of group "example.com" is not evaluated`,
		},
		"no object":    {request(object("")), "request.object is missing"},
		"no oldObject": {request(func(r *admission.Request) { r.Operation = admissionv1.Update }), "request.oldObject is missing"},
		"truncated":    {request(object(routeInside[:50])), "request.object is not a HTTPRoute: unexpected end of JSON input"},
		"oldObject truncated": {
			request(func(r *admission.Request) {
				r.Operation, r.OldObject.Raw = admissionv1.Update, []byte(`{"spec":`)
			}),
			"request.oldObject is not a HTTPRoute: unexpected end of JSON input",
		},
		"not an object": {request(object(`[]`)), "request.object is not a HTTPRoute: json: cannot unmarshal array into Go value of type v1.HTTPRoute"},
		"wrong type": {
			request(object(`{"spec": {"rules": [{"backendRefs": [{"port": "http"}]}]}}`)),
			"request.object is not a HTTPRoute: json: cannot unmarshal string into Go struct field HTTPBackendRef.spec.rules.backendRefs.BackendRef.BackendObjectReference.port of type int32",
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAdmissions(t, nil)
			message := "not an admission request for routesteward: " + tt.want
			if tt.request.UID != "" {
				message += "\n(routesteward request 0e6f5d2a)"
			}
			require.Equal(t, errored(http.StatusBadRequest, "BadRequest", message), a.validator.Handle(t.Context(), tt.request))
			require.Len(t, a.counted(), 2)
			require.Contains(t, a.counted(), "reason=decode")
		})
	}
}

func TestDecode(t *testing.T) {
	for kind, want := range map[string]runtime.Object{
		"HTTPRoute": &gwv1.HTTPRoute{}, "GRPCRoute": &gwv1.GRPCRoute{}, "Gateway": &gwv1.Gateway{}, "ReferenceGrant": &gwv1.ReferenceGrant{},
	} {
		for _, version := range []string{"v1", "v1beta1"} {
			got, err := policyRequest(request(object(`{}`), func(r *admission.Request) { r.Kind.Kind, r.Kind.Version = kind, version }))
			require.NoError(t, err)
			require.Equal(t, want, got.Object)
			require.Nil(t, got.OldObject)
			require.Equal(t, policy.User{Name: "alice", Groups: []string{"devs"}}, got.User)
		}
	}
	// The API server reads field names with their case, and drops those that it does not know.
	got, err := policyRequest(request(object(`{"Spec": {"parentRefs": [{"name": "a"}]}, "spec": {"ParentRefs": [{"name": "b"}], "hostnames": ["c"], "unknown": 1}}`)))
	require.NoError(t, err)
	require.Equal(t, &gwv1.HTTPRoute{Spec: gwv1.HTTPRouteSpec{Hostnames: []gwv1.Hostname{"c"}}}, got.Object)
}

// Whatever goes wrong is a 500: neither an allow nor the requester's fault.
func TestFailures(t *testing.T) {
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		policy  func(*policy.Config)
		objects []client.Object
		setUp   func(*admissions)
		want    string
		reason  string
	}{
		"access review": {
			objects: []client.Object{ns("models", "")},
			setUp: func(a *admissions) {
				// An answer beside an error counts for nothing.
				a.access.namespaces, a.access.err = map[string]bool{"models": true}, broken
			},
			want: "broken", reason: "access",
		},
		"caches": {setUp: func(a *admissions) { a.caches.Fail(broken) }, want: "broken", reason: "facts"},
		"grant": {
			objects: []client.Object{ns("models", "allow")},
			setUp:   func(a *admissions) { a.grants.fail = func(string) error { return broken } },
			want:    "broken", reason: "grant",
		},
		"panic while a grant is made": {
			objects: []client.Object{ns("models", "allow")},
			setUp:   func(a *admissions) { a.grants.fail = func(string) error { panic("at the disco") } },
			want:    "panic: at the disco", reason: "grant",
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAdmissions(t, tt.policy, tt.objects...)
			tt.setUp(a)
			want := errored(http.StatusInternalServerError, "InternalError", "routesteward could not decide: "+tt.want+"\n(routesteward request 0e6f5d2a)")
			require.Equal(t, want, a.validator.Handle(t.Context(), request()))
			require.ElementsMatch(t, []string{"dry_run=false operation=CREATE rule=none verdict=error", "reason=" + tt.reason}, a.counted())
		})
	}
}

func TestPanicIsAnError(t *testing.T) {
	a := newAdmissions(t, nil)
	a.validator.policy = nil
	body := bytes.NewBufferString(review(routeInside))
	r := httptest.NewRequest(http.MethodPost, validatePath, body)
	r.Header.Set("Content-Type", "application/json")
	response := (&handler{a.validator, a.validator.Handle}).respond(r)
	require.False(t, response.Allowed)
	require.Equal(t, types.UID("0e6f5d2a"), response.UID)
	require.EqualValues(t, http.StatusInternalServerError, response.Result.Code)
	require.Contains(t, response.Result.Message, "panic: ")
}

func TestAccessIsAskedOnceForANamespace(t *testing.T) {
	raw := `{"spec": {"parentRefs": [{"name": "aibrix-eg"}], "rules": [{"backendRefs": [
		{"name": "a", "namespace": "one"}, {"name": "b", "namespace": "one"}, {"name": "c", "namespace": "two"}, {"name": "d", "namespace": "standing"}]}]}}`
	a := newAdmissions(t, nil, ns("one", ""), ns("two", ""), ns("standing", "allow"))
	a.access.namespaces = map[string]bool{"one": true, "two": true}
	require.True(t, a.validator.Handle(t.Context(), request(object(raw))).Allowed)
	require.Equal(t, []string{"alice in one", "alice in two"}, a.access.asked)
	require.Len(t, a.grants.grants, 4)

	// One no refuses the route, and nothing is made.
	a = newAdmissions(t, nil, ns("one", ""), ns("two", ""), ns("standing", "allow"))
	a.access.namespaces = map[string]bool{"one": true}
	require.False(t, a.validator.Handle(t.Context(), request(object(raw))).Allowed)
	require.Empty(t, a.grants.grants)

	// One grant that cannot be made refuses it too.
	a = newAdmissions(t, nil, ns("one", "allow"), ns("two", "allow"), ns("standing", "allow"))
	a.grants.fail = func(namespace string) error {
		if namespace == "two" {
			return errors.New("broken")
		}
		return nil
	}
	response := a.validator.Handle(t.Context(), request(object(raw)))
	require.False(t, response.Allowed)
	require.EqualValues(t, http.StatusInternalServerError, response.Result.Code)
}

func TestLogLines(t *testing.T) {
	lines := func(a *admissions) []map[string]any {
		var found []map[string]any
		for line := range strings.Lines(a.log.String()) {
			var fields map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &fields))
			found = append(found, fields)
		}
		return found
	}
	a := newAdmissions(t, nil, ns("models", "allow"))
	a.validator.Handle(t.Context(), request(dryRun))
	decided := lines(a)
	require.Len(t, decided, 1)
	for field, want := range map[string]any{
		"msg": "decided", "uid": "0e6f5d2a", "user": "alice", "operation": "CREATE", "kind": "HTTPRoute", "namespace": "aibrix-system",
		"name": "llama-router", "dryRun": true, "verdict": "allow", "exempt": "", "grants": []any{"models/" + llamaEdge.GrantName()},
	} {
		require.Equal(t, want, decided[0][field], field)
	}

	a = newAdmissions(t, nil)
	a.validator.Handle(t.Context(), request(object("")))
	failed := lines(a)
	require.Len(t, failed, 1)
	require.Equal(t, "could not decide", failed[0]["msg"])
	require.Equal(t, "0e6f5d2a", failed[0]["uid"])
}

// Found by webhook/model: an update that leaves a reference as it was must not depend on whether its lost grant can be made again.
func TestAnUnchangedReferenceIsNoReasonToRefuse(t *testing.T) {
	stored := `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"namespace": "aibrix-system", "name": "llama-router"},
		"spec": {"parentRefs": [{"name": "aibrix-eg"}], "rules": [{"backendRefs": [{"name": "llama", "namespace": "models"}%s]}]}}`
	other := `, {"name": "qwen", "namespace": "models"}`
	for name, tt := range map[string]struct {
		now     string
		allowed bool
	}{
		"unchanged": {fmt.Sprintf(stored, ""), true},
		"added":     {fmt.Sprintf(stored, other), false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAdmissions(t, nil, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "models", Labels: map[string]string{policy.GrantsLabel: "allow"}}})
			a.grants.fail = func(string) error { return errors.New("the name is taken") }
			response := a.validator.Handle(t.Context(), request(object(tt.now), func(req *admission.Request) {
				req.Operation = admissionv1.Update
				req.OldObject.Raw = []byte(fmt.Sprintf(stored, ""))
			}))
			require.Equal(t, tt.allowed, response.Allowed)
			if tt.allowed {
				require.Equal(t, []string{"nothing permits what this update leaves as it was: the name is taken"}, response.Warnings)
				require.Equal(t, map[string]string{"verdict": "allow"}, response.AuditAnnotations)
			}
		})
	}
}
