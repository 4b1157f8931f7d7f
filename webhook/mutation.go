package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/metrics"
)

// mutator parks routes that are relocated. What it may not or cannot park the validator evaluates as it is.
type mutator struct{ *validator }

// Handle implements admission.Handler.
func (m *mutator) Handle(ctx context.Context, req admission.Request) admission.Response {
	dryRun := req.DryRun != nil && *req.DryRun
	operation := policy.Operation(req.Operation)
	fail := func(reason string, err error, answer func(admission.Request, error) admission.Response) admission.Response {
		m.metrics.Failure(reason, operation, dryRun)
		m.logFailure(ctx, req, dryRun, err)
		return answer(req, err)
	}
	preq, err := policyRequest(req)
	if err != nil {
		return fail(metrics.FailedDecode, err, malformed)
	}
	var mutation policy.Mutation
	reason, err := m.ask(ctx, req, func(facts policy.Facts) ([]policy.MissingFact, error) {
		var err error
		mutation, err = m.policy.Mutate(preq, facts)
		return mutation.Missing, err
	})
	if err != nil {
		return fail(reason, err, failed)
	}
	patch, err := parkingPatch(req.Object.Raw, mutation.Parking)
	if err != nil {
		return fail(metrics.FailedDecode, err, failed)
	}
	if patch == nil {
		return admission.Allowed("")
	}
	m.log.LogAttrs(ctx, slog.LevelInfo, "parked", about(req, dryRun, slog.Any("out", mutation.Out), slog.Bool("withdrawn", mutation.Withdrawn))...)
	patchType := admissionv1.PatchTypeJSONPatch
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{
		Allowed: true, Patch: patch, PatchType: &patchType, Result: &metav1.Status{Code: http.StatusOK},
	}}
}

// operation is one operation of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// parkingPatch is the JSON patch that parks a route; nil where nothing changes. It touches nothing but parentRefs and
// the one annotation, so that what we do not know survives.
func parkingPatch(raw []byte, parking policy.Parking) ([]byte, error) {
	if parking.Nothing() {
		return nil, nil
	}
	var before struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
		Spec struct {
			ParentRefs []json.RawMessage `json:"parentRefs"`
		} `json:"spec"`
	}
	var content map[string]any
	if err := utiljson.Unmarshal(raw, &before); err != nil {
		return nil, err
	}
	if err := utiljson.Unmarshal(raw, &content); err != nil {
		return nil, err
	}
	if err := parking.Apply(content); err != nil {
		return nil, err
	}
	annotations, _ := content["metadata"].(map[string]any)["annotations"].(map[string]any)
	path := "/metadata/annotations/" + strings.ReplaceAll(policy.ParkedAnnotation, "/", "~1")
	var patch []operation
	switch {
	case parking.Withdrawn:
		patch = append(patch, operation{Op: "remove", Path: path})
	case before.Metadata.Annotations == nil:
		patch = append(patch, operation{Op: "add", Path: "/metadata/annotations", Value: annotations})
	default:
		patch = append(patch, operation{Op: "add", Path: path, Value: annotations[policy.ParkedAnnotation]})
	}
	if len(parking.Out) > 0 && len(parking.Out) == len(before.Spec.ParentRefs) {
		patch = append(patch, operation{Op: "remove", Path: "/spec/parentRefs"})
	} else {
		// From the end, so that the indexes hold.
		for _, i := range slices.Backward(parking.Out) {
			patch = append(patch, operation{Op: "remove", Path: fmt.Sprintf("/spec/parentRefs/%d", i)})
		}
	}
	return json.Marshal(patch)
}
