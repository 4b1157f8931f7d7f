package webhook

import (
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster"
)

// admissionReview is what is read of an AdmissionReview (admission.k8s.io/v1), whose objects are O.
type admissionReview[O any] struct {
	metav1.TypeMeta `json:",inline"`
	Request         struct {
		UID         types.UID                 `json:"uid"`
		Kind        metav1.GroupVersionKind   `json:"kind"`
		SubResource string                    `json:"subResource"`
		Name        string                    `json:"name"`
		Namespace   string                    `json:"namespace"`
		Operation   admissionv1.Operation     `json:"operation"`
		UserInfo    authenticationv1.UserInfo `json:"userInfo"`
		Object      O                         `json:"object"`
		OldObject   O                         `json:"oldObject"`
		DryRun      *bool                     `json:"dryRun"`
	} `json:"request"`
}

// decodeReview decodes an AdmissionReview. Case matters as it does to the API server.
func decodeReview[O any](body []byte) (review admissionReview[O], err error) {
	err = kjson.UnmarshalCaseSensitivePreserveInts(body, &review)
	return review, err
}

// request is the request without its objects.
func (r *admissionReview[O]) request() (admission.Request, error) {
	in := &r.Request
	if r.TypeMeta != reviewType || in.UID == "" {
		return admission.Request{}, errNoRequest
	}
	return admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		UID: in.UID, Kind: in.Kind, SubResource: in.SubResource, Name: in.Name, Namespace: in.Namespace,
		Operation: in.Operation, UserInfo: in.UserInfo, DryRun: in.DryRun,
	}}, nil
}

var reviewType = metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"}

// uncopied is JSON that is not decoded yet, in the memory of the body that it came with.
type uncopied []byte

// UnmarshalJSON implements json.Unmarshaler.
func (u *uncopied) UnmarshalJSON(raw []byte) error {
	if string(raw) != "null" {
		*u = raw
	}
	return nil
}

// trimmedRoute is what the engine reads of a route of either kind: a third of what decoding all of it takes.
type trimmedRoute struct {
	Metadata struct {
		Name              string        `json:"name"`
		GenerateName      string        `json:"generateName"`
		Namespace         string        `json:"namespace"`
		Labels            cluster.Texts `json:"labels"`
		Annotations       cluster.Texts `json:"annotations"`
		DeletionTimestamp *metav1.Time  `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		ParentRefs []gwv1.ParentReference `json:"parentRefs"`
		Rules      []struct {
			BackendRefs []struct {
				gwv1.BackendObjectReference `json:",inline"`
				Filters                     []trimmedFilter `json:"filters"`
			} `json:"backendRefs"`
			Filters []trimmedFilter `json:"filters"`
		} `json:"rules"`
	} `json:"spec"`
}

type trimmedFilter struct {
	RequestMirror *gwv1.HTTPRequestMirrorFilter `json:"requestMirror"`
	ExternalAuth  *gwv1.HTTPExternalAuthFilter  `json:"externalAuth"`
	ExtensionRef  *gwv1.LocalObjectReference    `json:"extensionRef"`
}

// trimmedRequest decodes a request about a route in one go, for the rules alone. It is false for everything else, also for
// what is not as it should be, and for relocated copies, all of which is compared: those are decoded in full.
func trimmedRequest(body []byte) (admission.Request, policy.Request, bool) {
	review, err := decodeReview[*trimmedRoute](body)
	if err != nil {
		return admission.Request{}, policy.Request{}, false
	}
	in := &review.Request
	req, err := review.request()
	kind := policy.Kind(in.Kind.Kind)
	update := in.Operation == admissionv1.Update
	if err != nil || in.SubResource != "" || in.Operation != admissionv1.Create && !update ||
		in.Kind.Group != gwv1.GroupName || kind != policy.HTTPRoute && kind != policy.GRPCRoute ||
		!in.Object.trimmable() || update && !in.OldObject.trimmable() {
		return req, policy.Request{}, false
	}
	preq := requestOf(req)
	preq.Object = in.Object.route(kind)
	if update {
		preq.OldObject = in.OldObject.route(kind)
	}
	return req, preq, true
}

func (t *trimmedRoute) trimmable() bool {
	return t != nil && t.Metadata.Labels[policy.ManagedByLabel] != policy.ManagedBy
}

// route is a route of the kind that has what was read; they share memory.
func (t *trimmedRoute) route(kind policy.Kind) runtime.Object {
	meta := metav1.ObjectMeta{
		Name: t.Metadata.Name, GenerateName: t.Metadata.GenerateName, Namespace: t.Metadata.Namespace,
		Labels: t.Metadata.Labels, Annotations: t.Metadata.Annotations, DeletionTimestamp: t.Metadata.DeletionTimestamp,
	}
	parents := gwv1.CommonRouteSpec{ParentRefs: t.Spec.ParentRefs}
	if kind == policy.GRPCRoute {
		route := &gwv1.GRPCRoute{ObjectMeta: meta, Spec: gwv1.GRPCRouteSpec{CommonRouteSpec: parents}}
		route.Spec.Rules = make([]gwv1.GRPCRouteRule, len(t.Spec.Rules))
		for i, rule := range t.Spec.Rules {
			route.Spec.Rules[i] = gwv1.GRPCRouteRule{
				BackendRefs: make([]gwv1.GRPCBackendRef, len(rule.BackendRefs)),
				Filters:     grpcFilters(rule.Filters),
			}
			for j, backend := range rule.BackendRefs {
				route.Spec.Rules[i].BackendRefs[j] = gwv1.GRPCBackendRef{
					BackendRef: gwv1.BackendRef{BackendObjectReference: backend.BackendObjectReference},
					Filters:    grpcFilters(backend.Filters),
				}
			}
		}
		return route
	}
	route := &gwv1.HTTPRoute{ObjectMeta: meta, Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: parents}}
	route.Spec.Rules = make([]gwv1.HTTPRouteRule, len(t.Spec.Rules))
	for i, rule := range t.Spec.Rules {
		route.Spec.Rules[i] = gwv1.HTTPRouteRule{
			BackendRefs: make([]gwv1.HTTPBackendRef, len(rule.BackendRefs)),
			Filters:     httpFilters(rule.Filters),
		}
		for j, backend := range rule.BackendRefs {
			route.Spec.Rules[i].BackendRefs[j] = gwv1.HTTPBackendRef{
				BackendRef: gwv1.BackendRef{BackendObjectReference: backend.BackendObjectReference},
				Filters:    httpFilters(backend.Filters),
			}
		}
	}
	return route
}

func httpFilters(trimmed []trimmedFilter) []gwv1.HTTPRouteFilter {
	filters := make([]gwv1.HTTPRouteFilter, len(trimmed))
	for i, f := range trimmed {
		filters[i] = gwv1.HTTPRouteFilter{RequestMirror: f.RequestMirror, ExternalAuth: f.ExternalAuth, ExtensionRef: f.ExtensionRef}
	}
	return filters
}

func grpcFilters(trimmed []trimmedFilter) []gwv1.GRPCRouteFilter {
	filters := make([]gwv1.GRPCRouteFilter, len(trimmed))
	for i, f := range trimmed {
		filters[i] = gwv1.GRPCRouteFilter{RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef}
	}
	return filters
}
