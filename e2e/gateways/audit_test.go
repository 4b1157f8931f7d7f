package gateways

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/hack/gateways"
	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/trace"
)

// traefikGateway is whose requests are traced: Envoy Gateway's has no data plane here.
const traefikGateway = system + "/" + gateways.Traefik

// reader is somebody who looks for the cause of a broken route: he may list what manifests/audit says, and write nothing.
type reader struct {
	t          *testing.T
	kubeconfig string
}

// result is what a command did.
type result struct {
	stdout, stderr string
	exit           int
}

// in is the reader in a subtest.
func (r *reader) in(t *testing.T) *reader { return &reader{t, r.kubeconfig} }

// reader makes a user and waits until he may read.
func (w *world) reader(t *testing.T) *reader {
	t.Helper()
	root, err := localcluster.Root()
	require.NoError(t, err)
	require.NoError(t, w.MustKubectl(t.Context(), "apply", "-f", filepath.Join(root, "manifests", "audit")))
	name := named("reader")
	for _, role := range []string{"routesteward-audit", "routesteward-audit-backends", "routesteward-audit-plugin"} {
		require.NoError(t, w.MustKubectl(t.Context(), "create", "clusterrolebinding", name+"-"+role, "--clusterrole="+role, "--user="+name))
	}
	kubeconfig, err := w.KubeconfigFor(name)
	require.NoError(t, err)
	r := &reader{t: t, kubeconfig: kubeconfig}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		got := r.routesteward("audit", "-o", "json")
		require.Less(c, got.exit, 2, got.stderr)
		require.NotContains(c, got.stdout, "you may not list")
	}, soon, tick)
	return r
}

// routesteward runs the program.
func (r *reader) routesteward(args ...string) result {
	r.t.Helper()
	return r.reads("", args...)
}

// reads runs the program with a standard input.
func (r *reader) reads(stdin string, args ...string) result {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), soon)
	defer cancel()
	command := exec.CommandContext(ctx, os.Getenv(binaryEnv), append(args, "--kubeconfig="+r.kubeconfig)...)
	command.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(r.t, err)
	}
	return result{stdout.String(), stderr.String(), command.ProcessState.ExitCode()}
}

// shows is what a command shows to people; it fails the test unless the exit code is as wanted.
func (r *reader) shows(exit int, args ...string) string {
	r.t.Helper()
	got := r.routesteward(args...)
	require.Equal(r.t, exit, got.exit, "%s%s", got.stdout, got.stderr)
	return got.stdout
}

// audits has everything about a route, NAMESPACE/NAME.
func (r *reader) audits(exit int, route string, flags ...string) audit.Report {
	r.t.Helper()
	var report audit.Report
	require.NoError(r.t, json.Unmarshal([]byte(r.shows(exit, append([]string{"audit", route, "-o", "json"}, flags...)...)), &report))
	return report
}

// traces sends a request for a model, and says what became of it.
func (r *reader) traces(exit int, url, model string, flags ...string) trace.Report {
	r.t.Helper()
	args := append([]string{"trace", "--url=" + url, "--model=" + model, "-o", "json"}, flags...)
	if url == gateways.URL {
		args = append(args, "-H", "model: "+model) // as AIBrix's plugin passes it on
	} else {
		args = append(args, "--gateway="+traefikGateway) // the stand-in has no Gateway's address
	}
	var report trace.Report
	require.NoError(r.t, json.Unmarshal([]byte(r.shows(exit, args...)), &report))
	return report
}

// finds is the one finding about an object that is an error.
func finds(t *testing.T, r audit.Report, object audit.Ref) audit.Finding {
	t.Helper()
	var errs []audit.Finding
	for _, f := range r.Findings {
		if f.Object == object && f.Severity == audit.SeverityError {
			errs = append(errs, f)
		}
	}
	require.Len(t, errs, 1, "%v", r.Findings)
	return errs[0]
}

// stopped requires that a trace says where a request stopped, and why in the words of a finding.
func stopped(t *testing.T, r trace.Report, where string, cause audit.Finding) {
	t.Helper()
	require.Equal(t, trace.Stopped, r.Verdict.Outcome, r.Verdict.Words)
	require.Equal(t, where, r.Verdict.Where)
	require.Len(t, r.Verdict.Because, 1, "one cause")
	require.Contains(t, r.Verdict.Because[0], cause.Problem)
	require.Equal(t, []string{cause.Next, cause.Command}, []string{r.Verdict.Next, r.Verdict.Command})
}

func httpRoute(namespace, name string) audit.Ref {
	return audit.Ref{Kind: "HTTPRoute", Namespace: namespace, Name: name}
}

func (w *world) allSay(t *testing.T, h *history, last conditions) {
	t.Helper()
	for _, controller := range controllers {
		h.of(t, controller, last)
	}
}

const confirmed = "; the gateway says so too (ResolvedRefs=False, RefNotPermitted)"

func TestCausesWithoutRoutesteward(t *testing.T) {
	w := theWorld(t)
	w.withoutRoutesteward(t)
	r := w.reader(t)
	models := w.namespace(t, "models", "")

	t.Run("a reference without a grant", func(t *testing.T) {
		r := r.in(t)
		model, _ := w.model(t, models, "llama-0")
		crossing := route(model, models)
		history := w.watches(t, crossing)
		w.applies(t, crossing)
		w.allSay(t, history, notPermitted)
		w.answers(t, model, http.StatusInternalServerError)

		report := r.audits(1, system+"/"+crossing.Name)
		cause := finds(t, report, httpRoute(system, crossing.Name))
		require.Equal(t, "reference-not-permitted", cause.Check)
		require.Equal(t, "spec.rules[0].backendRefs[0]", cause.Field)
		require.Equal(t, `no ReferenceGrant in namespace "`+models+`" permits it to HTTPRoutes in "aibrix-system", and the namespace has not consented to routes of "aibrix-system"`+confirmed, cause.Problem)
		require.Contains(t, cause.Next, "kubectl label namespace "+models+" routesteward.dev/grants=allow")
		require.Equal(t, "kubectl get referencegrants -n "+models, cause.Command)
		for _, parent := range report.Routes[0].Parents {
			said := map[string]bool{}
			for _, status := range parent.Status {
				require.False(t, said[status.Controller], "%s is told twice", status.Controller)
				said[status.Controller] = true
			}
		}

		traced := r.traces(1, gateways.URL, model)
		stopped(t, traced, "gateway", cause)
		require.Equal(t, []any{httpRoute(system, crossing.Name), "spec.rules[0].matches[1]"}, []any{traced.Expected.Route, traced.Expected.Field})
		require.Equal(t, gateways.Traefik, traced.Expected.Gateway.Name, "told by its address")
		require.Contains(t, traced.Verdict.Words, "500 Internal Server Error")

		// Whoever does as he is told gets there.
		require.NoError(t, w.Client.Create(t.Context(), gateways.Grant(models, "by-hand", model)))
		w.allSay(t, history, works)
		w.answers(t, model, http.StatusOK)
		require.Equal(t, trace.Routed, r.traces(0, gateways.URL, model).Verdict.Outcome)
	})

	t.Run("a route outside", func(t *testing.T) {
		r := r.in(t)
		model, _ := w.model(t, models, "beside-0")
		outside := gateways.Route(models, model+"-router", model, client.ObjectKey{Name: model})
		w.applies(t, outside)
		w.refusedByBoth(t, outside)
		w.answers(t, model, http.StatusNotFound)

		text := r.shows(1, "audit", models+"/"+outside.Name)
		require.Contains(t, text, `Gateway aibrix-system/aibrix-eg: takes routes from namespace "aibrix-system" only, and this route is in "`+models+`"; the gateway says so too (Accepted=False, NotAllowedByListeners)`)
		report := r.audits(1, models+"/"+outside.Name)
		i := slices.IndexFunc(report.Findings, func(f audit.Finding) bool { return f.Value == "Gateway "+traefikGateway })
		require.GreaterOrEqual(t, i, 0, "%v", report.Findings)
		cause := report.Findings[i]
		require.Equal(t, "route-outside-system-namespace", cause.Check)

		traced := r.traces(1, gateways.URL, model)
		stopped(t, traced, "gateway", cause)
		require.Len(t, traced.Refused, 1)
		require.Contains(t, traced.Refused[0].Why, "NotAllowedByListeners")
		require.Contains(t, traced.Verdict.Words, "404 Not Found: no route that it accepts matches the request")

		// The next command shows what must change.
		manifest, stderr, exit := w.Kubectl(t.Context(), w.Kubeconfig, "", "get", "httproute", outside.Name, "-n", models, "-o", "yaml")
		require.Zero(t, exit, stderr)
		require.Equal(t, "kubectl get httproute "+outside.Name+" -n "+models+" -o yaml | routesteward check -f - --fix --dry-run --cluster", cause.Command)
		fix := r.reads(manifest, "check", "-f", "-", "--fix", "--dry-run", "--cluster")
		require.Equal(t, 1, fix.exit, "something would change: %s", fix.stderr)
		require.Regexp(t, `(?m)^\+  namespace: aibrix-system$`, fix.stdout)
		require.Regexp(t, `(?m)^\+ +namespace: `+models+`$`, fix.stdout)
	})
}

// refusedByBoth waits until both gateways say that no listener takes a route.
func (w *world) refusedByBoth(t *testing.T, route *gwv1.HTTPRoute) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var stored gwv1.HTTPRoute
		require.NoError(c, w.Client.Get(t.Context(), client.ObjectKeyFromObject(route), &stored))
		for controller, gateway := range ownGateway {
			require.True(c, slices.ContainsFunc(stored.Status.Parents, func(s gwv1.RouteParentStatus) bool {
				return s.ControllerName == controller && s.ParentRef.Name == gateway && meta.IsStatusConditionFalse(s.Conditions, string(gwv1.RouteConditionAccepted))
			}))
		}
	}, soon, tick)
}

func TestAuditAndTraceOfAGoodRouteAndOfRevokedConsent(t *testing.T) {
	w := theWorld(t)
	r := w.reader(t)
	models := w.namespace(t, "models", "allow")
	model, pods := w.model(t, models, "llama-0", "llama-1")
	crossing := route(model, models)
	key, ref := system+"/"+crossing.Name, httpRoute(system, crossing.Name)
	history := w.watches(t, crossing)
	w.applies(t, crossing)
	w.answers(t, model, http.StatusOK)
	w.allSay(t, history, works)

	report := r.audits(0, key)
	require.Empty(t, report.Summary.Findings[audit.SeverityError])
	require.Equal(t, []any{1, 1}, []any{report.Summary.Routes, report.Summary.Healthy})
	require.Equal(t, []string{models + "/" + w.grants(t, t.Context(), models)[0]}, report.Routes[0].References[0].Grants)
	require.Equal(t, []int{2, 0}, []int{report.Backends[0].Ready, report.Backends[0].NotReady})

	traced := r.traces(0, gateways.URL, model)
	require.Equal(t, trace.Routed, traced.Verdict.Outcome, traced.Verdict.Words)
	require.Len(t, traced.Answers, 1)
	pod := traced.Answers[0].TargetPod
	require.Equal(t, []trace.Pod{{Namespace: models, Name: pod, Services: []string{model}}}, traced.Answers[0].Pods)
	require.Equal(t, "answered through HTTPRoute "+key+" by Pod "+models+"/"+pod, traced.Verdict.Words)

	const requests = 12
	traced = r.traces(0, gateways.URL, model, "-n", fmt.Sprint(requests))
	require.Equal(t, fmt.Sprintf("all %d requests were answered through HTTPRoute %s, by 2 Pods", requests, key), traced.Verdict.Words)
	answered := 0
	var names []string
	for _, p := range traced.Pods {
		names, answered = append(names, p.Pod), answered+p.Count
	}
	require.Equal(t, requests, answered)
	require.ElementsMatch(t, []string{models + "/" + pods[0].Name, models + "/" + pods[1].Name}, names)

	// A request that names the model in its body only misses the route by one thing.
	text := r.shows(1, "trace", "--url="+gateways.URL, "--model="+model)
	require.Contains(t, text, "HTTPRoute "+key+" matches but for one thing: header model")

	t.Run("by a veto", func(t *testing.T) {
		r := r.in(t)
		w.consents(t, models, "deny")
		w.answers(t, model, http.StatusInternalServerError)
		w.allSay(t, history, notPermitted)
		report := r.audits(1, key)
		cause := finds(t, report, ref)
		require.Equal(t, "reference-vetoed", cause.Check)
		require.Equal(t, `namespace "`+models+`" refuses references from other namespaces (label routesteward.dev/grants=deny)`+confirmed, cause.Problem)
		for _, f := range report.Findings {
			require.NotContains(t, f.Next, "routesteward.dev/grants=allow", "nobody is told to ask past a veto: %s", f.Message)
		}
		stopped(t, r.traces(1, gateways.URL, model), "gateway", cause)
	})

	t.Run("by deleting the grant", func(t *testing.T) {
		r := r.in(t)
		w.consents(t, models, "allow")
		w.answers(t, model, http.StatusOK)
		w.allSay(t, history, works)
		w.consents(t, models, "")
		w.consentIsGone(t, models)
		for _, name := range w.grants(t, t.Context(), models) {
			require.NoError(t, w.Client.Delete(t.Context(), &gwv1.ReferenceGrant{ObjectMeta: metav1.ObjectMeta{Namespace: models, Name: name}}))
		}
		w.answers(t, model, http.StatusInternalServerError)
		w.allSay(t, history, notPermitted)
		cause := finds(t, r.audits(1, key), ref)
		require.Equal(t, "reference-not-permitted", cause.Check)
		require.Contains(t, cause.Problem, `no ReferenceGrant in namespace "`+models+`" permits it`)
		stopped(t, r.traces(1, gateways.URL, model), "gateway", cause)
	})
}

// One broken route, two symptoms, one cause.
func TestTraceTellsABypassFromARoute(t *testing.T) {
	w := theWorld(t)
	w.startPlugin(t, "")
	r := w.reader(t)
	models := w.namespace(t, "models", "")
	model, pods := w.model(t, models, "llama-0")
	broken := route(model, models)
	history := w.watches(t, broken)
	w.breaks(t, broken)
	w.allSay(t, history, notPermitted)
	cause := finds(t, r.audits(1, system+"/"+broken.Name), httpRoute(system, broken.Name))

	without := r.traces(1, pluginURL, model)
	stopped(t, without, "gateway plugin", cause)
	require.Equal(t, http.StatusServiceUnavailable, without.Answers[0].Status)
	require.Equal(t, "the gateway plugin refuses, because the status of HTTPRoute "+system+"/"+broken.Name+" is not good", without.Verdict.Words)

	with := r.traces(1, pluginURL, model, "--routing-strategy=least-request")
	require.Equal(t, trace.Bypassed, with.Verdict.Outcome)
	require.Equal(t, http.StatusOK, with.Answers[0].Status)
	require.Equal(t, []trace.Pod{{Namespace: models, Name: pods[0].Name, Services: []string{model}}}, with.Answers[0].Pods)
	require.Equal(t, `answered, past the HTTPRoute: the request asks for routing strategy "least-request"; a request that goes through the HTTPRoute would fail`, with.Verdict.Words)
	require.Equal(t, without.Verdict.Because, with.Verdict.Because, "one cause")
	require.Equal(t, without.Verdict.Command, with.Verdict.Command)

	w.consents(t, models, "allow")
	w.allSay(t, history, works)
	w.answers(t, model, http.StatusOK)
	require.Equal(t, trace.Routed, r.traces(0, pluginURL, model).Verdict.Outcome)
}

func TestAuditTraceAndScanOfRelocatedRoutes(t *testing.T) {
	w := theWorld(t)
	r := w.reader(t)

	t.Run("one from before is relocated by the next command", func(t *testing.T) {
		r := r.in(t)
		team := w.namespace(t, "team", "")
		model, _ := w.model(t, team, "llama-0")
		outside := gateways.Route(team, model+"-router", model, client.ObjectKey{Name: model})
		w.breaks(t, outside)
		w.refusedByBoth(t, outside)
		w.servesWith(t, "--outside=rewrite")
		report := r.audits(1, team+"/"+outside.Name, "--outside=rewrite")
		show, replace, _ := strings.Cut(report.Findings[0].Command, " | ")
		require.Equal(t, []string{"kubectl get httproute " + outside.Name + " -n " + team + " -o yaml", "kubectl replace -f -"}, []string{show, replace})
		tenant, err := w.KubeconfigFor("tenant")
		require.NoError(t, err)
		manifest, stderr, exit := w.Kubectl(t.Context(), tenant, "", strings.Fields(show)[1:]...)
		require.Zero(t, exit, stderr)
		_, stderr, exit = w.Kubectl(t.Context(), tenant, manifest, strings.Fields(replace)[1:]...)
		require.Zero(t, exit, stderr)
		w.answers(t, model, http.StatusOK)
	})

	w.servesWith(t, "--outside=rewrite", "--scan-interval=1s")
	team, other := w.namespace(t, "team", ""), w.namespace(t, "models", "allow")
	model, pods := w.model(t, team, "llama-0")
	shared, _ := w.model(t, other, "shared-0")
	source := gateways.Route(team, model+"-router", model, client.ObjectKey{Name: model}, client.ObjectKey{Namespace: other, Name: shared})
	key, copied := team+"/"+source.Name, httpRoute(system, source.Name)
	ofSource, ofCopy := w.watches(t, source), w.watches(t, &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: source.Name}})
	w.applies(t, source)
	w.answers(t, model, http.StatusOK)
	for _, controller := range controllers {
		ofCopy.of(t, controller, works)
		ofSource.of(t, mirrored+controller, works)
	}

	// Whichever of the two somebody asks about, both are told.
	for _, selector := range []string{key, system + "/" + source.Name} {
		report := r.audits(0, selector)
		require.Equal(t, []any{2, 2}, []any{report.Summary.Routes, report.Summary.Healthy}, selector)
		for _, f := range report.Findings {
			require.Equal(t, "gateway-not-programmed", f.Check, "Envoy Gateway has no address here, and nothing else is found: %s", f.Message)
		}
		require.Contains(t, report.Edges, audit.Edge{Kind: audit.EdgeCopies, From: httpRoute(team, source.Name), To: copied, State: audit.StateOK})
	}
	text := r.shows(0, "audit", key)
	require.Contains(t, text, "HTTPRoute "+key+"  ok, parked: its copy in aibrix-system serves for it")
	require.Contains(t, text, "HTTPRoute "+copied.Namespace+"/"+copied.Name+"  ok, relocated from "+team)
	require.Contains(t, text, "status of traefik.io/gateway-controller: Accepted=True, Accepted: of its copy: the gateway has taken the route")
	require.Equal(t, team, r.traces(0, gateways.URL, model).Expected.Origin)

	// The veto takes one of two backends out of the copy.
	withheldFrom := func(namespace string) audit.Finding {
		t.Helper()
		for _, controller := range controllers {
			ofCopy.of(t, controller, conditions{"Accepted": "True/Accepted", "ResolvedRefs": "False/InvalidKind"})
			ofSource.of(t, mirrored+controller, notPermitted)
		}
		var cause audit.Finding
		for _, selector := range []string{key, system + "/" + source.Name} {
			report := r.audits(1, selector)
			require.Equal(t, []any{2, 0}, []any{report.Summary.Routes, report.Summary.Healthy}, selector)
			cause = finds(t, report, copied)
			require.Equal(t, "reference-withheld", cause.Check)
			for _, f := range report.Findings {
				require.NotContains(t, []string{"copy-differs-from-source", "status-unresolved-references"}, f.Check, f.Message)
			}
		}
		require.Equal(t, `withheld from the copy, as namespace "`+namespace+`" refuses references from other namespaces, and the copy's is one (label routesteward.dev/grants=deny); the gateway says so too (ResolvedRefs=False, InvalidKind)`, cause.Problem)
		return cause
	}
	w.consents(t, other, "deny")
	cause := withheldFrom(other)
	require.Equal(t, []string{"spec.rules[0].backendRefs[1]", "Service " + other + "/" + shared}, []string{cause.Field, cause.Value})
	text = r.shows(1, "audit", key)
	require.Contains(t, text, "HTTPRoute "+key+"  broken, parked")
	require.Contains(t, text, "ResolvedRefs=False, RefNotPermitted: routesteward says: Withheld, as their namespaces do not consent to this route: Service "+other+"/"+shared)
	require.Contains(t, text, "withheld from the copy: the namespace refuses it")

	w.answersBoth(t, model, http.StatusOK, http.StatusInternalServerError)
	// Half of the requests fail, and the report says so.
	half := r.traces(1, gateways.URL, model, "-n", "8")
	stopped(t, half, "gateway", cause)
	require.Regexp(t, `^[1-7] of 8 requests: the gateway answered 500 Internal Server Error`, half.Verdict.Words)
	require.Equal(t, team+"/"+pods[0].Name, half.Pods[0].Pod)

	w.consents(t, other, "allow")
	for _, controller := range controllers {
		ofSource.of(t, mirrored+controller, works)
	}
	w.consents(t, team, "deny")
	cause = withheldFrom(team)
	require.Equal(t, "Service "+team+"/"+model, cause.Value)

	// The background scan tells the same without anybody asking.
	// Events of one reason about one route are counted up, and keep the words of the first, which was about one of the two.
	w.scanTells(t, copied, "ReferenceWithheld", "refuses references from other namespaces, and the copy's is one (label routesteward.dev/grants=deny)")
	w.metric(t, `routesteward_audit_findings{check="reference-withheld",severity="error"} 1`)
	w.metric(t, `routesteward_routes{condition="ResolvedRefs",reason="InvalidKind"} 1`)
	w.metric(t, `routesteward_routes{condition="ResolvedRefs",reason="RefNotPermitted"} 1`)
	w.metric(t, `routesteward_scan_errors_total 0`)
}

// answersBoth waits until requests for a model have got each of two statuses since it was called.
func (w *world) answersBoth(t *testing.T, model string, statuses ...int) {
	t.Helper()
	seen := map[int]bool{}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		answer, err := w.ask(t.Context(), model)
		require.NoError(c, err)
		seen[answer.Status] = true
		for _, status := range statuses {
			require.True(c, seen[status], "%d", status)
		}
	}, soon, tick)
}

// The scan names what routesteward cannot repair.
func TestScanTellsBrokenStatuses(t *testing.T) {
	w := theWorld(t)
	w.servesWith(t, "--scan-interval=1s")
	models, vetoed := w.namespace(t, "models", ""), w.namespace(t, "vetoed", "deny")
	model, _ := w.model(t, models, "llama-0")
	refused, _ := w.model(t, vetoed, "refused-0")
	beside, _ := w.model(t, models, "beside-0")
	silent, denied := route(model, models), route(refused, vetoed)
	outside := gateways.Route(models, beside+"-router", beside, client.ObjectKey{Name: beside})
	first, second := w.watches(t, silent), w.watches(t, denied)
	for _, broken := range []*gwv1.HTTPRoute{silent, denied, outside} {
		w.breaks(t, broken)
	}
	w.allSay(t, first, notPermitted)
	w.allSay(t, second, notPermitted)
	w.refusedByBoth(t, outside)

	w.scanTells(t, httpRoute(system, silent.Name), "ReferenceNotPermitted", "its namespace has not consented, so that no ReferenceGrant permits it")
	w.scanTells(t, httpRoute(system, denied.Name), "ReferenceVetoed", "its namespace refuses references from other namespaces (label routesteward.dev/grants=deny)")
	w.scanTells(t, httpRoute(models, outside.Name), "RouteOutsideSystemNamespace", `takes routes from namespace "aibrix-system" only, and this route is in "`+models+`"`)
	for _, check := range []string{"reference-not-permitted", "reference-vetoed"} {
		w.metric(t, `routesteward_audit_findings{check="`+check+`",severity="error"} 1`)
	}
	w.metric(t, `routesteward_audit_findings{check="route-outside-system-namespace",severity="error"} 2`)
	w.metric(t, `routesteward_routes{condition="Accepted",reason="NotAllowedByListeners"} 1`)
	w.metric(t, `routesteward_routes{condition="ResolvedRefs",reason="RefNotPermitted"} 2`)
	w.metric(t, `routesteward_scan_errors_total 0`)
}

// scanTells waits for an Event of the background scan about a route.
func (w *world) scanTells(t *testing.T, about audit.Ref, reason, words string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var list corev1.EventList
		require.NoError(c, w.Client.List(t.Context(), &list, client.InNamespace(about.Namespace)))
		require.True(c, slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == about.Name && e.Reason == reason && e.Type == "Warning" && strings.Contains(e.Message, words)
		}), "no Event %s: %s", reason, words)
	}, soon, tick)
}

// metric waits for a line of routesteward's metrics.
func (w *world) metric(t *testing.T, line string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		metrics, err := w.get(t.Context(), w.server.MetricsURL)
		require.NoError(c, err)
		require.Contains(c, metrics.Body, "\n"+line+"\n")
	}, soon, tick)
}
