package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/metrics"
)

// factSource makes the facts of one evaluation.
type factSource interface {
	Facts(ctx context.Context) *cluster.Facts
}

// access reports whether somebody may create ReferenceGrants in a namespace.
type access interface {
	mayCreateGrants(ctx context.Context, who authenticationv1.UserInfo, namespace string) (bool, error)
}

// grantMaker makes sure that a grant exists; consent is written into one that it makes.
type grantMaker interface {
	// Exists reports, without asking or writing anything, whether Ensure has nothing to do.
	Exists(ctx context.Context, use policy.GrantUse) bool
	Ensure(ctx context.Context, use policy.GrantUse, consent string) error
}

// validator evaluates what is about to be stored, and makes the grants that it needs before it answers.
type validator struct {
	policy  *policy.Policy
	facts   factSource
	access  access
	grants  grantMaker
	metrics *metrics.Metrics
	log     *slog.Logger
}

// errNoRequest is about a body that decodes, as nearly every object does, and asks nothing.
var errNoRequest = errors.New("the body is not an AdmissionReview with a request")

// parallelGrants bounds the grants that are made at once for one route.
const parallelGrants = 8

// Handle implements admission.Handler.
func (v *validator) Handle(ctx context.Context, req admission.Request) admission.Response {
	dryRun := req.DryRun != nil && *req.DryRun
	operation := policy.Operation(req.Operation)
	preq, err := policyRequest(req)
	if err != nil {
		v.metrics.Failure(metrics.FailedDecode, operation, dryRun)
		v.logFailure(ctx, req, dryRun, err)
		return malformed(req, err)
	}
	decision, reason, err := v.decide(ctx, req, preq)
	if err == nil && decision.Allowed && !dryRun {
		reason, err = metrics.FailedGrant, v.ensure(ctx, req, decision.Grants)
	}
	if err != nil {
		v.metrics.Failure(reason, operation, dryRun)
		v.logFailure(ctx, req, dryRun, err)
		return failed(req, err)
	}
	v.metrics.Decision(decision, operation, dryRun)
	v.logDecision(ctx, req, dryRun, decision)
	return decided(req, preq, decision, dryRun)
}

// decide evaluates a request with all facts.
func (v *validator) decide(ctx context.Context, req admission.Request, preq policy.Request) (decision policy.Decision, reason string, err error) {
	reason, err = v.ask(ctx, req, func(facts policy.Facts) ([]policy.MissingFact, error) {
		decision = v.policy.Evaluate(preq, facts)
		return decision.Missing, nil
	})
	return decision, reason, err
}

// ask evaluates, asks the API server for what the caches cannot know, and evaluates again. The reason belongs to an error.
func (v *validator) ask(ctx context.Context, req admission.Request, evaluate func(policy.Facts) ([]policy.MissingFact, error)) (reason string, err error) {
	facts := v.facts.Facts(ctx)
	missing, err := evaluate(facts)
	if err != nil {
		return metrics.FailedDecode, err
	}
	asked := map[string]bool{}
	for _, m := range missing {
		namespace := m.Fact.Namespace
		if m.Fact.Kind != policy.FactAccess || asked[namespace] {
			continue
		}
		asked[namespace] = true
		may, err := v.access.mayCreateGrants(ctx, req.UserInfo, namespace)
		if err != nil {
			return metrics.FailedAccess, err
		}
		facts.SetAccess(namespace, may)
	}
	if len(asked) > 0 {
		if missing, err = evaluate(facts); err != nil {
			return metrics.FailedDecode, err
		}
	}
	if err := facts.Err(); err != nil {
		return metrics.FailedFacts, err
	}
	if len(missing) > 0 {
		return metrics.FailedFacts, errors.New(missing[0].String())
	}
	return "", nil
}

// ensure returns when every grant that the route needs is there, those that existed included: the reconciler may be
// about to collect one of them. Of those that stored references need it notes which could not be made.
func (v *validator) ensure(ctx context.Context, req admission.Request, uses []policy.GrantUse) error {
	// Nearly all grants exist, and are not worth a goroutine.
	var open []*policy.GrantUse
	for i := range uses {
		if !v.grants.Exists(ctx, uses[i]) {
			open = append(open, &uses[i])
		}
	}
	if len(open) == 0 {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelGrants)
	for _, use := range open {
		group.Go(func() error { return v.ensureOne(ctx, req, use) })
	}
	return group.Wait()
}

func (v *validator) ensureOne(ctx context.Context, req admission.Request, use *policy.GrantUse) (err error) {
	// The handler recovers panics of its own goroutine only; in another one they would end the process.
	defer func() {
		if p := recover(); p != nil {
			for _, handle := range utilruntime.PanicHandlers {
				handle(ctx, p)
			}
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	consent := string(use.Consent)
	if use.Consent == policy.ConsentByRequester {
		consent = fmt.Sprintf("given at admission by %q, who may create ReferenceGrants here", req.UserInfo.Username)
	}
	err = v.grants.Ensure(ctx, *use, consent)
	if err != nil && use.Unchanged {
		v.log.LogAttrs(ctx, slog.LevelError, "a ReferenceGrant that a stored route needs could not be created", about(req, false, failure(err))...)
		use.NotMade, err = err.Error(), nil
	}
	return err
}

func (v *validator) logDecision(ctx context.Context, req admission.Request, dryRun bool, d policy.Decision) {
	if !v.log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	findings := make([]string, len(d.Findings))
	for i, f := range d.Findings {
		findings[i] = f.String()
	}
	v.log.LogAttrs(ctx, slog.LevelInfo, "decided", about(req, dryRun,
		slog.String("verdict", d.Verdict()), slog.String("exempt", d.Exempt),
		slog.Any("rules", ruleIDs(d)), slog.Any("findings", findings), slog.Any("grants", grantNames(d)))...)
}

func (v *validator) logFailure(ctx context.Context, req admission.Request, dryRun bool, err error) {
	v.log.LogAttrs(ctx, slog.LevelError, "could not decide", about(req, dryRun, failure(err))...)
}

// failure is the attribute of an error, under the key that all other logs have it.
func failure(err error) slog.Attr { return slog.String("err", err.Error()) }

// about names a request in logs, with more attributes; its uid is in the message that the requester sees.
func about(req admission.Request, dryRun bool, more ...slog.Attr) []slog.Attr {
	return append([]slog.Attr{
		slog.String("uid", string(req.UID)), slog.String("user", req.UserInfo.Username),
		slog.String("operation", string(req.Operation)), slog.String("kind", req.Kind.Kind),
		slog.String("namespace", req.Namespace), slog.String("name", req.Name), slog.Bool("dryRun", dryRun),
	}, more...)
}

// policyRequest decodes an admission request. Only what the webhook is registered for decodes.
func policyRequest(req admission.Request) (policy.Request, error) {
	preq := policy.Request{
		Operation: policy.Operation(req.Operation),
		Kind:      policy.Kind(req.Kind.Kind),
		Namespace: req.Namespace,
		User:      policy.User{Name: req.UserInfo.Username, Groups: req.UserInfo.Groups},
	}
	if req.UID == "" {
		return preq, errNoRequest
	}
	if req.SubResource != "" {
		return preq, fmt.Errorf("subresource %q is not evaluated; the webhook configuration must not name it", req.SubResource)
	}
	switch req.Operation {
	case admissionv1.Create, admissionv1.Update:
	case admissionv1.Delete:
		return preq, nil
	default:
		return preq, fmt.Errorf("operation %q is not evaluated", req.Operation)
	}
	var err error
	if preq.Object, err = decode(req, "object", req.Object.Raw); err != nil {
		return preq, err
	}
	if req.Operation == admissionv1.Update {
		preq.OldObject, err = decode(req, "oldObject", req.OldObject.Raw)
	}
	return preq, err
}

func decode(req admission.Request, field string, raw []byte) (runtime.Object, error) {
	var obj policy.Object
	if req.Kind.Group == gwv1.GroupName {
		obj = policy.NewObject(policy.Kind(req.Kind.Kind))
	}
	if obj == nil {
		return nil, fmt.Errorf("kind %q of group %q is not evaluated", req.Kind.Kind, req.Kind.Group)
	}
	if len(raw) == 0 {
		return nil, fmt.Errorf("request.%s is missing", field)
	}
	// Case matters as it does to the API server: what it would not read, we must not either.
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, obj); err != nil {
		return nil, fmt.Errorf("request.%s is not a %s: %w", field, req.Kind.Kind, err)
	}
	return obj, nil
}
