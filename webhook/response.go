package webhook

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/routesteward/routesteward/policy"
)

// The keys of audit annotations. The API server puts the webhook's name and a slash before them.
const (
	auditVerdict = "verdict"
	auditRules   = "rules"
	auditGrants  = "grants"
)

// decided answers with a decision that was reached.
func decided(req admission.Request, preq policy.Request, d policy.Decision, dryRun bool) admission.Response {
	resp := admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{
		Allowed:          d.Allowed,
		Warnings:         d.Warnings(dryRun),
		AuditAnnotations: auditAnnotations(d),
	}}
	if d.Allowed {
		resp.Result = &metav1.Status{Code: http.StatusOK}
		return resp
	}
	resp.Result = &metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusForbidden,
		Reason:  metav1.StatusReasonForbidden,
		Message: d.Denial(preq) + reference(req),
	}
	return resp
}

// failed answers that the request could not be evaluated. It is a 500 and never an allow, also never a 403, which would
// blame the requester.
func failed(req admission.Request, err error) admission.Response {
	resp := admission.Errored(http.StatusInternalServerError, fmt.Errorf("routesteward could not decide: %w%s", err, reference(req)))
	resp.Result.Status = metav1.StatusFailure
	resp.Result.Reason = metav1.StatusReasonInternalError
	return resp
}

// malformed answers a request that no API server sends.
func malformed(req admission.Request, err error) admission.Response {
	resp := admission.Errored(http.StatusBadRequest, fmt.Errorf("not an admission request for routesteward: %w%s", err, reference(req)))
	resp.Result.Status = metav1.StatusFailure
	resp.Result.Reason = metav1.StatusReasonBadRequest
	if errors.Is(err, errTooLarge) {
		resp.Result.Code, resp.Result.Reason = http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge
	}
	return resp
}

// reference is the last line of a message. It lets the log line be found by what people see on their screens.
func reference(req admission.Request) string {
	if req.UID == "" {
		return ""
	}
	return fmt.Sprintf("\n(routesteward request %s)", req.UID)
}

func auditAnnotations(d policy.Decision) map[string]string {
	annotations := map[string]string{auditVerdict: d.Verdict()}
	if d.Exempt != "" {
		annotations[auditVerdict] = "exempt " + d.Exempt
	}
	if rules := ruleIDs(d); len(rules) > 0 {
		annotations[auditRules] = strings.Join(rules, ",")
	}
	if grants := grantNames(d); len(grants) > 0 {
		annotations[auditGrants] = strings.Join(grants, ",")
	}
	return annotations
}

// ruleIDs are the rules that found something, each once.
func ruleIDs(d policy.Decision) []string {
	var ids []string
	for _, f := range d.Findings {
		// Findings come in the order of the rules.
		if len(ids) == 0 || ids[len(ids)-1] != f.Rule {
			ids = append(ids, f.Rule)
		}
	}
	return ids
}

// grantNames are the managed grants that were made, or in a dry run would be.
func grantNames(d policy.Decision) []string {
	var names []string
	for _, g := range d.Grants {
		if !g.Exists && g.NotMade == "" {
			names = append(names, g.Edge.Namespace+"/"+g.Name)
		}
	}
	return names
}
