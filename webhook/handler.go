package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	admissionmetrics "sigs.k8s.io/controller-runtime/pkg/webhook/admission/metrics"
	kjson "sigs.k8s.io/json"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/grants"
	"github.com/routesteward/routesteward/webhook/metrics"
)

// Webhooks are the admission webhooks with everything that they decide by.
type Webhooks struct {
	Policy *policy.Policy
	// Caches have the facts.
	Caches *cluster.Reader
	// MayCreateGrants reports whether somebody may create ReferenceGrants in a namespace.
	MayCreateGrants func(ctx context.Context, who authenticationv1.UserInfo, namespace string) (bool, error)
	// Grants makes the grants of admitted routes.
	Grants  *grants.Maker
	Metrics *metrics.Metrics
	Log     *slog.Logger
}

// Register serves AdmissionReviews (admission.k8s.io/v1): the validating webhook at /validate, the mutating one at /mutate.
func (w Webhooks) Register(server ctrlwebhook.Server) {
	validate, mutate := w.Handlers()
	server.Register(validatePath, validate)
	server.Register(mutatePath, mutate)
}

// Handlers answer AdmissionReviews, whatever serves them. They are safe for concurrent use.
func (w Webhooks) Handlers() (validate, mutate http.Handler) {
	v := &validator{
		policy: w.Policy, facts: w.Caches, access: accessFunc(w.MayCreateGrants), grants: w.Grants, metrics: w.Metrics, log: w.Log,
	}
	return v.handlers()
}

func (v *validator) handlers() (validate, mutate http.Handler) {
	return finishing(&handler{v, v.Handle}), finishing(&handler{v, (&mutator{v}).Handle})
}

type accessFunc func(context.Context, authenticationv1.UserInfo, string) (bool, error)

func (f accessFunc) mayCreateGrants(ctx context.Context, who authenticationv1.UserInfo, namespace string) (bool, error) {
	return f(ctx, who, namespace)
}

// handler is what admission.Webhook is, for AdmissionReviews of v1 alone, and counts requests that cannot be read.
type handler struct {
	*validator
	answer func(context.Context, admission.Request) admission.Response
}

// maxReview bounds the body of an AdmissionReview: two objects of what the API server accepts, 3 MiB each, and the rest.
const maxReview = 7 << 20

var reviewType = metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"}

// ServeHTTP implements http.Handler. Every answer is an AdmissionReview with the HTTP status 200, as the API server wants
// it: what went wrong is in it.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	response := h.respond(r)
	body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: reviewType, Response: &response.AdmissionResponse})
	if err != nil { // it has nothing that cannot be marshalled
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the caller may be gone
}

// respond reads a request and answers it. A panic is an error.
func (h *handler) respond(r *http.Request) (response admission.Response) {
	var req admission.Request
	defer func() {
		if p := recover(); p != nil {
			admissionmetrics.WebhookPanics.WithLabelValues().Inc()
			for _, handle := range utilruntime.PanicHandlers {
				handle(r.Context(), p)
			}
			response = admission.Errored(http.StatusInternalServerError, fmt.Errorf("panic: %v [recovered]", p))
		}
		response.UID = req.UID
	}()
	req, err := readRequest(r)
	if err != nil {
		h.metrics.Failure(metrics.FailedDecode, "", false)
		h.log.LogAttrs(r.Context(), slog.LevelError, "no admission request", failure(err))
		return malformed(req, err)
	}
	return h.answer(r.Context(), req)
}

var errTooLarge = fmt.Errorf("request entity is too large; limit is %d bytes", maxReview)

func readRequest(r *http.Request) (admission.Request, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxReview))
	switch contentType := r.Header.Get("Content-Type"); {
	case err != nil:
		return admission.Request{}, err
	case len(body) == 0:
		return admission.Request{}, errors.New("request body is empty")
	case len(body) == maxReview:
		return admission.Request{}, errTooLarge
	case contentType != "application/json":
		return admission.Request{}, fmt.Errorf("contentType=%s, expected application/json", contentType)
	}
	var review admissionv1.AdmissionReview
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &review); err != nil {
		return admission.Request{}, fmt.Errorf("the body is not an AdmissionReview: %w", err)
	}
	if review.TypeMeta != reviewType || review.Request == nil || review.Request.UID == "" {
		return admission.Request{}, errNoRequest
	}
	return admission.Request{AdmissionRequest: *review.Request}, nil
}
