package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	admissionmetrics "sigs.k8s.io/controller-runtime/pkg/webhook/admission/metrics"

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
	// MayCreateGrants says whether somebody may create ReferenceGrants in a namespace.
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
	m := &mutator{v}
	return finishing(&handler{v, v.answer}), finishing(&handler{v, m.answer})
}

type accessFunc func(context.Context, authenticationv1.UserInfo, string) (bool, error)

func (f accessFunc) mayCreateGrants(ctx context.Context, who authenticationv1.UserInfo, namespace string) (bool, error) {
	return f(ctx, who, namespace)
}

// handler is what admission.Webhook is, for AdmissionReviews of v1 alone: it reads a body once, into memory that is used
// again, copies no object and prepares no logger, none of which a decision needs.
type handler struct {
	*validator
	// decide answers the AdmissionReview in a body, which is not kept; a request that cannot be read is an error.
	decide func(ctx context.Context, body []byte, req *admission.Request) (admission.Response, error)
}

// maxReview bounds the body of an AdmissionReview: two objects of what the API server accepts, 3 MiB each, and the rest.
const maxReview = 7 << 20

// maxKept bounds the buffers that are kept for the next requests; few routes need more.
const maxKept = 64 << 10

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// ServeHTTP implements http.Handler. Every answer is an AdmissionReview with the HTTP status 200, as the API server wants
// it: what went wrong is in it.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	growStack(0)
	buffer := buffers.Get().(*bytes.Buffer)
	defer func() {
		if buffer.Cap() <= maxKept {
			buffer.Reset()
			buffers.Put(buffer)
		}
	}()
	response := h.respond(r, buffer)
	body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: reviewType, Response: &response.AdmissionResponse})
	if err != nil { // it has nothing that cannot be marshalled
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // whoever asked may be gone, and nobody else can be told
}

// growStack gives a new goroutine the stack that an admission takes at once, while there is little on it to be moved. A server
// of HTTP/2 has one goroutine for each request, whose stack would be doubled, and moved, four times on its way into a route:
// that takes more than 16 KiB, with the JSON decoder's recursion.
//
//go:noinline
func growStack(i int) byte {
	var frame [20 << 10]byte
	return frame[i]
}

// respond reads a request and has it answered. A panic is an error.
func (h *handler) respond(r *http.Request, buffer *bytes.Buffer) (response admission.Response) {
	// The request, as far as it was read.
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
	err := readBody(r, buffer)
	if err == nil {
		response, err = h.decide(r.Context(), buffer.Bytes(), &req)
	}
	if err != nil {
		h.metrics.Failure(metrics.FailedDecode, "", false)
		h.log.LogAttrs(r.Context(), slog.LevelError, "no admission request", failure(err))
		response = malformed(req, err)
	}
	return response
}

var errTooLarge = fmt.Errorf("request entity is too large; limit is %d bytes", maxReview)

func readBody(r *http.Request, buffer *bytes.Buffer) error {
	if _, err := buffer.ReadFrom(io.LimitReader(r.Body, maxReview)); err != nil {
		return err
	}
	switch {
	case buffer.Len() == 0:
		return errors.New("request body is empty")
	case buffer.Len() == maxReview:
		return errTooLarge
	}
	if contentType := r.Header.Get("Content-Type"); contentType != "application/json" {
		return fmt.Errorf("contentType=%s, expected application/json", contentType)
	}
	return nil
}

// fullRequest reads a request whose objects are in the body's memory, and not decoded yet.
func fullRequest(body []byte) (admission.Request, error) {
	review, err := decodeReview[uncopied](body)
	if err != nil {
		return admission.Request{}, fmt.Errorf("the body is not an AdmissionReview: %w", err)
	}
	req, err := review.request()
	req.Object.Raw, req.OldObject.Raw = review.Request.Object, review.Request.OldObject
	return req, err
}

func (v *validator) answer(ctx context.Context, body []byte, req *admission.Request) (response admission.Response, err error) {
	var preq policy.Request
	var trimmed bool
	if *req, preq, trimmed = trimmedRequest(body); trimmed {
		return v.judge(ctx, *req, preq), nil
	}
	if *req, err = fullRequest(body); err != nil {
		return response, err
	}
	return v.Handle(ctx, *req), nil
}

func (m *mutator) answer(ctx context.Context, body []byte, req *admission.Request) (response admission.Response, err error) {
	if *req, err = fullRequest(body); err != nil {
		return response, err
	}
	return m.Handle(ctx, *req), nil
}
