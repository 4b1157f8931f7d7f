package trace

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
)

// Explain says what became of the responses to a request. Facts may be nil: then only the responses are explained. The
// traceID is the one that the requests were sent with.
func Explain(request Request, traceID string, responses []Response, facts *Facts) Report {
	seen := slices.ContainsFunc(responses, func(r Response) bool { return seenByPlugin(r.Header) })
	k := know(facts, request, seen)
	report := Report{
		SchemaVersion: SchemaVersion,
		Request: Sent{
			Method: request.Method, URL: request.URL.Redacted(), Model: request.Model, RoutingStrategy: request.strategy(), Count: len(responses),
			UserAgent: cmp.Or(request.Header.Get("User-Agent"), UserAgent(traceID)),
		},
		Answers: []Answer{}, Expected: k.expected, Through: k.through, Refused: k.refused, Near: k.near, NotKnown: k.notKnown,
	}
	if request.Host != request.URL.Host {
		report.Request.Host = request.Host
	}
	if facts != nil {
		report.Source = facts.Cluster.Source
	}
	pods := map[string]int{}
	for _, response := range responses {
		answer := k.answer(request, response)
		if name := answer.pod(); name != "" {
			pods[name]++
		}
		i := slices.IndexFunc(report.Answers, func(other Answer) bool { return other.same(answer) })
		if i < 0 {
			report.Answers = append(report.Answers, answer)
			continue
		}
		known := &report.Answers[i]
		known.Count++
		known.Fastest, known.Slowest = min(known.Fastest, answer.Fastest), max(known.Slowest, answer.Slowest)
	}
	slices.SortStableFunc(report.Answers, func(a, b Answer) int { return cmp.Compare(b.Count, a.Count) })
	for name, count := range pods {
		report.Pods = append(report.Pods, PodCount{Pod: name, Count: count})
	}
	slices.SortFunc(report.Pods, func(a, b PodCount) int { return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Pod, b.Pod)) })
	if len(report.Answers) == 0 {
		report.Verdict = Verdict{Outcome: Unreached, Words: "no request was sent"}
		return report
	}
	worst := slices.MaxFunc(report.Answers, func(a, b Answer) int { return cmp.Compare(a.Outcome.rank(), b.Outcome.rank()) })
	report.Verdict = worst.verdict
	alike := !slices.ContainsFunc(report.Answers, func(a Answer) bool { return a.Outcome != worst.Outcome })
	switch {
	case worst.Outcome == Routed && alike && len(report.Answers) > 1 && k.expected != nil:
		report.Verdict.Words = fmt.Sprintf("all %d requests were answered through %s", len(responses), k.expected.Route)
		if len(report.Pods) > 1 {
			report.Verdict.Words += fmt.Sprintf(", by %d Pods", len(report.Pods))
		}
	case len(responses) > worst.Count:
		if report.Verdict.Outcome == Unreached {
			report.Verdict.Outcome = Stopped // somebody is there, though not for every request
		}
		report.Verdict.Words = fmt.Sprintf("%d of %d requests: %s", worst.Count, len(responses), report.Verdict.Words)
	}
	return report
}

// pod is the name of the answering pod, or "".
func (a Answer) pod() string {
	if len(a.Pods) == 1 {
		return a.Pods[0].Namespace + "/" + a.Pods[0].Name
	}
	return a.TargetPod
}

// unlike is what makes messages of one cause differ: ids, addresses and times.
var unlike = regexp.MustCompile(`[0-9a-fA-F.:-]*[0-9][0-9a-fA-F.:-]*`)

// same reports whether two answers differ in nothing but their ids and times.
func (a Answer) same(b Answer) bool {
	return a.Status == b.Status && a.Failure == b.Failure && a.TargetPod == b.TargetPod && a.RoutingStrategy == b.RoutingStrategy &&
		unlike.ReplaceAllString(a.Message, "#") == unlike.ReplaceAllString(b.Message, "#") && a.Plugin == b.Plugin && slices.Equal(a.Errors, b.Errors)
}

func (k *knowledge) answer(request Request, response Response) Answer {
	a := Answer{
		Count: 1, Status: response.Status, Fastest: response.Elapsed.Milliseconds(), Slowest: response.Elapsed.Milliseconds(),
		IDs:    IDs{Sent: response.ID, Gateway: policy.Printable(response.Header.Get(headerXRequestID)), Plugin: policy.Printable(response.Header.Get(headerRequestID))},
		Plugin: seenByPlugin(response.Header), Errors: pluginErrors(response.Header),
		RoutingStrategy: policy.Printable(response.Header.Get(headerRoutingStrategy)), TargetPod: policy.Printable(response.Header.Get(headerTargetPod)),
	}
	a.Pods = k.pods(response.Header.Get(headerTargetPod))
	if len(a.Pods) == 0 {
		a.Pods = k.pods(response.Header.Get(headerTargetPodIP))
	}
	if response.Err != nil {
		a.Status, a.Failure = 0, policy.Printable(reason(response.Err))
	}
	if a.Status >= 400 {
		a.Message = message(response)
	}
	a.verdict = k.evaluate(request, response, a)
	a.Outcome = a.verdict.Outcome
	return a
}

// evaluate is the verdict about one answer.
func (k *knowledge) evaluate(request Request, response Response, a Answer) Verdict {
	switch {
	case response.Err != nil && !response.Sent && response.Status == 0:
		return Verdict{Outcome: Unreached, Words: "nobody took the request at " + request.URL.Host + ": " + a.Failure,
			Next: "look up the gateway's address", Command: k.addressCommand()}
	case response.Err != nil:
		return k.stopped("", "the request was taken, and no whole answer came: "+a.Failure, Verdict{
			Next: "look into the gateway's log for the request", Command: k.logCommand(a)})
	case len(a.Errors) > 0:
		return k.stoppedByPlugin(request, a)
	}
	bypassed, how := k.bypassed(request, a)
	ok := a.Status >= 200 && a.Status < 400
	switch {
	case bypassed && ok:
		v := Verdict{Outcome: Bypassed, Words: "answered, past the HTTPRoute: " + how}
		if because := k.causes(); len(because) > 0 {
			v.Because = because
			v.Words += "; a request that goes through the HTTPRoute would fail"
			v.Next, v.Command = k.next()
		} else {
			v.Next = "to see the way through the HTTPRoute, send the request without a routing strategy"
			if request.strategy() == "" {
				v.Next = "to see the way through the HTTPRoute, take away what names the routing strategy: the variable ROUTING_ALGORITHM of the gateway plugin, or the profile of the model's Pods"
			}
		}
		return v
	case bypassed:
		return k.stopped("backend", fmt.Sprintf("past the HTTPRoute (%s), and the Pod answered %s", how, statusText(a.Status)), Verdict{
			Next: "look into the Pod's log", Command: podLog(a)})
	case ok:
		return k.served(request, a)
	}
	return k.failed(a)
}

// bypassed reports whether AIBrix's gateway plugin chose the pod itself, and how that is known.
func (k *knowledge) bypassed(request Request, a Answer) (bool, string) {
	switch {
	case a.RoutingStrategy != "" && request.strategy() != "":
		return true, fmt.Sprintf("the request asks for routing strategy %q", request.strategy())
	case a.RoutingStrategy != "":
		why := "the request names none, so it comes from ROUTING_ALGORITHM or from the profile of the model's Pods"
		if p := k.report.Plugin; p != nil && p.AlgorithmKnown && p.Algorithm == a.RoutingStrategy {
			why = "ROUTING_ALGORITHM of the gateway plugin, for requests that name none"
		}
		return true, fmt.Sprintf("routing strategy %q (%s)", a.RoutingStrategy, why)
	case a.Plugin && isAddress(a.TargetPod):
		return true, "the gateway plugin names a Pod's address in target-pod, as it does only where it chose the Pod itself"
	case a.Plugin && request.strategy() != "":
		return true, fmt.Sprintf("the request asks for routing strategy %q, and the gateway plugin took it", request.strategy())
	case a.Plugin && k.report.Plugin != nil && k.report.Plugin.AlgorithmKnown && k.report.Plugin.Algorithm != "":
		return true, fmt.Sprintf("ROUTING_ALGORITHM of the gateway plugin is %q", k.report.Plugin.Algorithm)
	}
	return false, ""
}

// isAddress reports whether a text is an IP address, with or without a port.
func isAddress(text string) bool {
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	return net.ParseIP(text) != nil
}

// served is the verdict about an answer without an error that no routing strategy explains.
func (k *knowledge) served(request Request, a Answer) Verdict {
	e := k.expected
	switch {
	case e == nil && !k.decided && a.Plugin:
		return Verdict{Outcome: Answered, Words: "answered, and through an HTTPRoute: the gateway plugin names no routing strategy in its answer"}
	case e == nil && !k.decided:
		return Verdict{Outcome: Answered, Words: "answered; the answer alone does not show which way it took"}
	case e == nil:
		v := Verdict{Outcome: Unexpected, Words: "answered, though no route of the Gateway should serve it", Because: k.causes(),
			Next: "look whether the URL belongs to this Gateway", Command: k.addressCommand()}
		return v
	case len(a.Pods) > 0:
		i := slices.IndexFunc(a.Pods, e.serves)
		if i < 0 {
			return Verdict{Outcome: Unexpected, Words: fmt.Sprintf("answered by Pod %s, which is no endpoint of what %s refers to", a.pod(), e.Route),
				Because: k.causes(), Next: "look which route leads there", Command: "routesteward audit"}
		}
		return Verdict{Outcome: Routed, Words: fmt.Sprintf("answered through %s by Pod %s", e.Route, a.pod())}
	}
	if because := k.causes(); len(because) > 0 {
		v := Verdict{Outcome: Unexpected, Because: because,
			Words: fmt.Sprintf("answered, though %s should not work", e.Route)}
		v.Next, v.Command = k.next()
		if a.Plugin {
			v.Because = append(v.Because, fmt.Sprintf("it may be that the plugin still believes an older status, or that a profile of the model's Pods (annotation %s) names a routing strategy", profileAnnotation))
		}
		return v
	}
	words := fmt.Sprintf("answered, through %s as far as can be seen", e.Route)
	if a.TargetPod == "" {
		words += ": the answer does not say which Pod it comes from"
	} else {
		words += fmt.Sprintf(": no EndpointSlice that could be read has Pod %s", a.TargetPod)
	}
	return Verdict{Outcome: Routed, Words: words}
}

// stoppedByPlugin is the verdict about an answer of the plugin itself.
func (k *knowledge) stoppedByPlugin(request Request, a Answer) Verdict {
	first := a.Errors[0]
	is := func(name string) bool {
		return slices.ContainsFunc(a.Errors, func(e PluginError) bool { return strings.EqualFold(e.Header, name) })
	}
	v := Verdict{Next: "look into the gateway plugin's log for the request", Command: k.logCommand(a)}
	strategy := request.strategy()
	if p := k.report.Plugin; strategy == "" && p != nil && p.AlgorithmKnown {
		strategy = p.Algorithm
	}
	switch {
	case is(errorNoBackends):
		v.Next, v.Command = "look whether the model has ready Pods with the label", modelPods(request.Model)
		if request.Model == "" {
			v.Command = "kubectl get pods -A -l model.aibrix.ai/name"
		}
		return k.stoppedWithout("gateway plugin", "the gateway plugin knows no ready Pod of the model; it asks no HTTPRoute before that", v)
	case is(errorRouting) && strategy != "":
		v.Next, v.Command = "look whether the model has ready Pods", modelPods(request.Model)
		return k.stoppedWithout("gateway plugin", fmt.Sprintf("the gateway plugin could choose no Pod by routing strategy %q", strategy), v)
	case is(errorRouting):
		name := cmp.Or(request.Model, "MODEL") + "-router"
		v.Next, v.Command = "look at the HTTPRoute that the plugin looks up", fmt.Sprintf("kubectl describe httproute %s -n %s", quote(name), k.systemNamespace())
		words := fmt.Sprintf("the gateway plugin refuses, because the status of HTTPRoute %s/%s is not good", k.systemNamespace(), name)
		switch {
		case !k.decided:
			words += " or there is no such route"
		case !slices.ContainsFunc(k.Cluster.Routes, func(r policy.Object) bool {
			_, isHTTP := r.(*gwv1.HTTPRoute)
			return isHTTP && r.GetNamespace() == k.systemNamespace() && r.GetName() == name
		}):
			words = fmt.Sprintf("the gateway plugin refuses, because there is no HTTPRoute %s/%s, and it looks for no other", k.systemNamespace(), name)
			v.Next, v.Command = "make that route: look which routes name the model", "kubectl get httproutes -A"
		}
		return k.stopped("gateway plugin", words, v)
	}
	return k.stoppedWithout("gateway plugin", first.Words, v)
}

// failed is the verdict about an error status that came by way of the route, or should have.
func (k *knowledge) failed(a Answer) Verdict {
	e := k.expected
	status := statusText(a.Status)
	v := Verdict{Next: "look at every route of the Gateway", Command: "routesteward audit"}
	switch {
	case a.Status == http.StatusNotFound && k.decided && e == nil:
		if len(k.near) > 0 {
			v.Next = fmt.Sprintf("correct the request or the route: %s matches but for one thing: %s", k.near[0].Route, k.near[0].Why)
			v.Command = fmt.Sprintf("kubectl describe %s %s -n %s", strings.ToLower(k.near[0].Route.Kind), k.near[0].Route.Name, k.near[0].Route.Namespace)
		}
		return k.stopped("gateway", "the gateway answered "+status+": no route that it accepts matches the request", v)
	case a.Status == http.StatusNotFound && e != nil:
		if k.broken() {
			return k.stopped("gateway", fmt.Sprintf("the gateway answered %s: it does not serve %s", status, e.Route), v)
		}
		v.Next, v.Command = "look whether the backend knows the path", e.backendCommand()
		return k.stopped("backend", fmt.Sprintf("%s, though %s matches: most likely the backend answered it, which does not know the path", status, e.Route), v)
	case a.Status == http.StatusNotFound:
		return k.stopped("", status+": the gateway has no route for the request, or the backend does not know the path", v)
	case a.Status == http.StatusInternalServerError && e != nil && k.broken():
		return k.stopped("gateway", fmt.Sprintf("the gateway answered %s, as it must for a backend that %s may not use or that is not there", status, e.Route), v)
	case a.Status == http.StatusInternalServerError && e == nil:
		return k.stopped("", status+": a gateway answers this for a backend that a route may not use (RefNotPermitted) or that is not there; it may also come from the backend", v)
	case a.Status == http.StatusServiceUnavailable && e != nil:
		if k.broken() {
			return k.stopped("gateway", fmt.Sprintf("the gateway answered %s: it has no backend that it could use for %s", status, e.Route), v)
		}
		v.Next, v.Command = "look at the endpoints", e.endpointsCommand()
		return k.stopped("gateway", fmt.Sprintf("%s: the gateway reaches no ready endpoint of %s", status, e.backends()), v)
	case a.Status == http.StatusServiceUnavailable:
		return k.stopped("", status+": the gateway has no ready endpoint for the request, or no backend that it could use", v)
	case a.Status == http.StatusBadGateway || a.Status == http.StatusGatewayTimeout:
		words := status + ": the backend did not answer the gateway, or not in time"
		if e != nil {
			v.Next, v.Command = "look at the backend", e.backendCommand()
		}
		return k.stopped("backend", words, v)
	case a.Status >= 500:
		if a.Plugin || a.TargetPod != "" || e != nil {
			v.Next, v.Command = "look into the backend's log", podLog(a)
			if v.Command == "" && e != nil {
				v.Command = e.backendCommand()
			}
			return k.stopped("backend", status+": most likely the backend's own answer", v)
		}
		return k.stopped("", status, v)
	}
	// 4xx is about what was sent: who answered it is the only thing a route could have to do with it.
	v = Verdict{Next: "correct the request: the way of the request is not at fault"}
	return k.stoppedWithout("", status+": the request was refused for what it is", v)
}

// stopped is a verdict with the causes that are known; their next step comes before the one of the symptom.
func (k *knowledge) stopped(where, words string, v Verdict) Verdict {
	v = k.stoppedWithout(where, words, v)
	if v.Because = k.causes(); len(v.Because) > 0 {
		if next, command := k.next(); next != "" {
			v.Next, v.Command = next, command
		}
	}
	return v
}

func (k *knowledge) stoppedWithout(where, words string, v Verdict) Verdict {
	v.Outcome, v.Where, v.Words = Stopped, where, words
	return v
}

// errorsOfRoutes are the audit's errors about the expected route, or where no route serves the request about those that match
// it and are refused; those about the Gateway of the request come before those about others.
func (k *knowledge) errorsOfRoutes() []audit.Finding {
	var errs []audit.Finding
	if k.expected != nil {
		for _, finding := range k.expected.Findings {
			if finding.Severity == audit.SeverityError {
				errs = append(errs, finding)
			}
		}
	} else {
		for _, refused := range k.refused {
			for _, finding := range k.report.Findings {
				if finding.Object == refused.Route && finding.Severity == audit.SeverityError {
					errs = append(errs, finding)
				}
			}
		}
	}
	other := func(f audit.Finding) int {
		if slices.ContainsFunc(f.Related, func(ref audit.Ref) bool { return ref.Kind == k.gateway.Kind }) && !slices.Contains(f.Related, k.gateway) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(errs, func(a, b audit.Finding) int { return cmp.Compare(other(a), other(b)) })
	return errs
}

// broken reports whether anything is known to be wrong with the expected route.
func (k *knowledge) broken() bool { return len(k.errorsOfRoutes()) > 0 }

// causes say what is wrong with the routes that should serve the request.
func (k *knowledge) causes() []string {
	var because []string
	add := func(text string) {
		if !slices.Contains(because, text) {
			because = append(because, text)
		}
	}
	shown := map[string]bool{}
	for _, finding := range k.errorsOfRoutes() {
		// What is wrong with a route on one Gateway is most often wrong on its other one too.
		parent := strings.HasPrefix(finding.Field, "spec.parentRefs[") || strings.HasPrefix(finding.Field, "status.parents[")
		key := fmt.Sprint(finding.Object, finding.Problem)
		if parent && shown[key] {
			continue
		}
		shown[key] = shown[key] || parent
		at := fmt.Sprintf("%s %s", finding.Object, finding.Field)
		if finding.Value != "" {
			at += ": " + finding.Value
		}
		add(at + ": " + finding.Problem)
	}
	if k.expected == nil {
		for _, refused := range k.refused {
			if !slices.ContainsFunc(because, func(text string) bool { return strings.HasPrefix(text, refused.Route.String()+" ") }) {
				add(fmt.Sprintf("%s %s matches, and is not accepted: %s", refused.Route, refused.Field, refused.Why))
			}
		}
	}
	return because
}

func (k *knowledge) next() (next, command string) {
	for _, finding := range k.errorsOfRoutes() {
		return finding.Next, finding.Command
	}
	return "", ""
}

// systemNamespace is where AIBrix's plugin looks for routes.
func (k *knowledge) systemNamespace() string {
	if k.Policy == nil {
		return policy.DefaultConfig().SystemNamespace
	}
	return k.Policy.SystemNamespace
}

func (k *knowledge) addressCommand() string { return "kubectl get gateways -n " + k.systemNamespace() }

// logCommand finds the request in the log of AIBrix's gateway plugin, or in the gateway's access log.
func (k *knowledge) logCommand(a Answer) string {
	namespace, name := k.systemNamespace(), "aibrix-gateway-plugins"
	if p := k.report.Plugin; p != nil {
		namespace, name = p.Namespace, p.Name
	}
	if a.IDs.Plugin != "" {
		return fmt.Sprintf("kubectl logs -n %s deployment/%s --tail=-1 | grep %s", namespace, name, quote(a.IDs.Plugin))
	}
	if a.Plugin {
		return fmt.Sprintf("kubectl logs -n %s deployment/%s --since=5m", namespace, name)
	}
	gateway := "aibrix-eg"
	if k.expected != nil {
		gateway = k.expected.Gateway.Name
	}
	return fmt.Sprintf("kubectl logs -n envoy-gateway-system -l gateway.envoyproxy.io/owning-gateway-name=%s -c envoy --tail=-1 | grep %s",
		gateway, quote(cmp.Or(a.IDs.Gateway, a.IDs.Sent)))
}

func podLog(a Answer) string {
	if len(a.Pods) != 1 {
		return ""
	}
	return fmt.Sprintf("kubectl logs -n %s %s", a.Pods[0].Namespace, a.Pods[0].Name)
}

func (e *Expected) backends() string {
	var names []string
	for _, ref := range e.References {
		if name := ref.Backend.String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "its backends: the rule has none"
	}
	return strings.Join(names, ", ")
}

func (e *Expected) backendCommand() string {
	if len(e.References) == 0 {
		return fmt.Sprintf("kubectl describe %s %s -n %s", strings.ToLower(e.Route.Kind), e.Route.Name, e.Route.Namespace)
	}
	b := e.References[0].Backend
	return fmt.Sprintf("kubectl describe %s %s -n %s", strings.ToLower(b.Kind), quote(b.Name), b.Namespace)
}

func (e *Expected) endpointsCommand() string {
	for _, ref := range e.References {
		if ref.Backend.Kind == "Service" && ref.Backend.Group == "" {
			return fmt.Sprintf("kubectl get endpointslices -n %s -l %s", ref.Backend.Namespace, quote("kubernetes.io/service-name="+ref.Backend.Name))
		}
	}
	return e.backendCommand()
}

func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return fmt.Sprintf("%d %s", status, text)
	}
	return fmt.Sprint(status)
}

// message is what the body of an error says: the text of an error in the form of the OpenAI API, else its first line.
func message(response Response) string {
	var structured struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
		Detail  string          `json:"detail"`
	}
	text := ""
	if json.Unmarshal(response.Body, &structured) == nil {
		var inner struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(structured.Error, &inner) == nil {
			text = inner.Message
		} else {
			_ = json.Unmarshal(structured.Error, &text) // a text, or nothing to show
		}
		text = cmp.Or(text, structured.Message, structured.Detail)
	}
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	if text == "" && kind != "text/html" {
		text, _, _ = strings.Cut(strings.TrimSpace(string(response.Body)), "\n")
	}
	return shorten(policy.Printable(strings.TrimSpace(text)))
}

// maxMessage is how many characters of a message are shown.
const maxMessage = 300

func shorten(text string) string {
	if utf8.RuneCountInString(text) > maxMessage {
		return string([]rune(text)[:maxMessage-1]) + "…"
	}
	return text
}

// reason is an error without the method and URL that net/http puts before it.
func reason(err error) string {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "timeout"
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	return err.Error()
}

// quote makes a text one word of a shell.
func quote(text string) string {
	plain := text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=@%+,", r))
	})
	if plain {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
