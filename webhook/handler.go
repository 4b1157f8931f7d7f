package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	admissionmetrics "sigs.k8s.io/controller-runtime/pkg/webhook/admission/metrics"
	kjson "sigs.k8s.io/json"

	"github.com/routewarden/routewarden/policy"
	"github.com/routewarden/routewarden/webhook/cluster"
	"github.com/routewarden/routewarden/webhook/grants"
	"github.com/routewarden/routewarden/webhook/metrics"
)

// Webhooks are the admission webhooks with everything that they decide by.
type Webhooks struct {
	Policy *policy.Policy
	// Caches have the facts.
	Caches *cluster.Reader
	// MayCreateGrants says whether somebody may create ReferenceGrants in a namespace.
	MayCreateGrants func(ctx context.Context, who authenticationv1.UserInfo, namespace string) (bool, error)
	// Grants makes the grants of admitted routes.
	Grants  *grants.Maker
	Metrics *metrics.Metrics
	Log     logr.Logger
}

// Register serves AdmissionReviews (admission.k8s.io/v1): the validating webhook at /validate, the mutating one at /mutate.
func (w Webhooks) Register(server ctrlwebhook.Server) {
	register(server, &validator{
		policy: w.Policy, facts: w.Caches, access: accessFunc(w.MayCreateGrants), grants: w.Grants, metrics: w.Metrics, log: w.Log,
	})
}

func register(server ctrlwebhook.Server, v *validator) {
	server.Register(validatePath, finishing(&handler{v, v}))
	server.Register(mutatePath, finishing(&handler{&mutator{v}, v}))
}

type accessFunc func(context.Context, authenticationv1.UserInfo, string) (bool, error)

func (f accessFunc) mayCreateGrants(ctx context.Context, who authenticationv1.UserInfo, namespace string) (bool, error) {
	return f(ctx, who, namespace)
}

// handler is what admission.Webhook is, for AdmissionReviews of v1 alone: it reads a body once, into memory that is used
// again, copies no object and prepares no logger, none of which a decision needs.
type handler struct {
	admission.Handler
	// validator counts and logs what is no request.
	validator *validator
}

// maxReview bounds the body of an AdmissionReview: two objects of what the API server accepts, 3 MiB each, and the rest.
const maxReview = 7 << 20

// maxKept bounds the buffers that are kept for the next requests; few routes need more.
const maxKept = 64 << 10

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// ServeHTTP implements http.Handler. Every answer is an AdmissionReview with the HTTP status 200, as the API server wants
// it: what went wrong is in it.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	buffer := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buffer.Cap() <= maxKept {
			buffer.Reset()
			buffers.Put(buffer)
		}
	}()
	var response admission.Response
	req, err := read(r, buffer)
	if err != nil {
		h.validator.metrics.Failure(metrics.FailedDecode, "", false)
		h.validator.log.Error(err, "no admission request")
		response = malformed(req, err)
	} else {
		response = h.answer(r.Context(), req)
	}
	body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: reviewType, Response: &response.AdmissionResponse})
	if err != nil { // it has nothing that cannot be marshalled
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // whoever asked may be gone, and nobody else can be told
}

// answer asks the webhook, whose panic is an error.
func (h *handler) answer(ctx context.Context, req admission.Request) (response admission.Response) {
	defer func() {
		if p := recover(); p != nil {
			admissionmetrics.WebhookPanics.WithLabelValues().Inc()
			for _, handle := range utilruntime.PanicHandlers {
				handle(ctx, p)
			}
			response = admission.Errored(http.StatusInternalServerError, fmt.Errorf("panic: %v [recovered]", p))
		}
		response.UID = req.UID
	}()
	return h.Handle(ctx, req)
}

var reviewType = metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"}

// admissionReview is what is read of an AdmissionReview.
type admissionReview struct {
	metav1.TypeMeta `json:",inline"`
	Request         struct {
		UID         types.UID                 `json:"uid"`
		Kind        metav1.GroupVersionKind   `json:"kind"`
		SubResource string                    `json:"subResource"`
		Name        string                    `json:"name"`
		Namespace   string                    `json:"namespace"`
		Operation   admissionv1.Operation     `json:"operation"`
		UserInfo    authenticationv1.UserInfo `json:"userInfo"`
		Object      uncopied                  `json:"object"`
		OldObject   uncopied                  `json:"oldObject"`
		DryRun      *bool                     `json:"dryRun"`
	} `json:"request"`
}

// uncopied is JSON that is not decoded yet, in the memory of the body that it came with.
type uncopied []byte

// UnmarshalJSON implements json.Unmarshaler.
func (u *uncopied) UnmarshalJSON(raw []byte) error {
	if string(raw) != "null" {
		*u = raw
	}
	return nil
}

var errTooLarge = fmt.Errorf("request entity is too large; limit is %d bytes", maxReview)

// read reads the request of an AdmissionReview, whose objects are in the buffer's memory.
func read(r *http.Request, buffer *bytes.Buffer) (admission.Request, error) {
	var req admission.Request
	if _, err := buffer.ReadFrom(io.LimitReader(r.Body, maxReview)); err != nil {
		return req, err
	}
	switch {
	case buffer.Len() == 0:
		return req, errors.New("request body is empty")
	case buffer.Len() == maxReview:
		return req, errTooLarge
	}
	if contentType := r.Header.Get("Content-Type"); contentType != "application/json" {
		return req, fmt.Errorf("contentType=%s, expected application/json", contentType)
	}
	var got admissionReview
	// Case matters as it does to the API server.
	if err := kjson.UnmarshalCaseSensitivePreserveInts(buffer.Bytes(), &got); err != nil {
		return req, fmt.Errorf("the body is not an AdmissionReview: %w", err)
	}
	if got.TypeMeta != reviewType || got.Request.UID == "" {
		return req, errNoRequest
	}
	req.AdmissionRequest = admissionv1.AdmissionRequest{
		UID: got.Request.UID, Kind: got.Request.Kind, SubResource: got.Request.SubResource,
		Name: got.Request.Name, Namespace: got.Request.Namespace, Operation: got.Request.Operation,
		UserInfo: got.Request.UserInfo, DryRun: got.Request.DryRun,
		Object: runtime.RawExtension{Raw: got.Request.Object}, OldObject: runtime.RawExtension{Raw: got.Request.OldObject},
	}
	return req, nil
}
