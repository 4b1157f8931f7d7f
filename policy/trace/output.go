package trace

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
)

// WriteJSON writes the report as one JSON object.
func (r Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// Colors of a terminal, as SGR parameters.
const (
	bold   = "1"
	faint  = "2"
	red    = "1;31"
	green  = "32"
	yellow = "33"
)

type text struct {
	bytes.Buffer
	color bool
}

func (t *text) paint(color, words string) string {
	if !t.color {
		return words
	}
	return "\x1b[" + color + "m" + words + "\x1b[0m"
}

// maxAnswers bounds the different answers that are shown.
const maxAnswers = 10

// line writes a line with a label in front of it.
func (t *text) line(label, words string) {
	fmt.Fprintf(t, "  %s %s\n", t.paint(faint, fmt.Sprintf("%-10s", label)), words)
}

// more writes a line that belongs to the one before it.
func (t *text) more(words string) { fmt.Fprintf(t, "             %s\n", words) }

// WriteText writes the report for people.
func (r Report) WriteText(w io.Writer, color bool) error {
	t := &text{color: color}
	fmt.Fprintln(t, t.paint(bold, r.Request.Method+" "+policy.Printable(r.Request.URL)))
	if r.Request.Host != "" {
		t.line("host", policy.Printable(r.Request.Host))
	}
	if r.Request.Model != "" {
		t.line("model", policy.Printable(r.Request.Model))
	}
	if r.Request.RoutingStrategy != "" {
		t.line("strategy", policy.Printable(r.Request.RoutingStrategy))
	}
	t.line("user-agent", policy.Printable(r.Request.UserAgent))
	for i, answer := range r.Answers {
		if i == maxAnswers {
			fmt.Fprintf(t, "\n  and %d other answers: -o json has all\n", len(r.Answers)-i)
			break
		}
		t.answer(answer, r.Request.Count)
	}
	if len(r.Pods) > 0 && r.Request.Count > 1 {
		t.distribution(r)
	}
	if r.Source != "" && (r.Expected != nil || len(r.NotKnown) == 0) {
		fmt.Fprintf(t, "\n%s %s\n", t.paint(bold, "Expected way"), t.paint(faint, "by Gateway API's precedence, from "+r.Source))
		t.expected(r)
	}
	for _, words := range r.NotKnown {
		fmt.Fprintf(t, "\n%s %s\n", t.paint(yellow, "not known"), words)
	}
	t.verdict(r.Verdict)
	_, err := w.Write(t.Bytes())
	return err
}

func (t *text) answer(a Answer, of int) {
	words, color := statusText(a.Status), green
	if a.Status == 0 {
		words = "no answer: " + a.Failure
	}
	if a.Status == 0 || a.Status >= 400 {
		color = red
	}
	took := fmt.Sprintf("in %d ms", a.Fastest)
	if a.Fastest != a.Slowest {
		took = fmt.Sprintf("in %d to %d ms", a.Fastest, a.Slowest)
	}
	if of > 1 {
		took = fmt.Sprintf("%d of %d, %s", a.Count, of, took)
	}
	fmt.Fprintln(t)
	t.line("answer", t.paint(color, words)+"  "+t.paint(faint, took))
	if a.Message != "" {
		t.more(a.Message)
	}
	for _, e := range a.Errors {
		t.line("plugin", fmt.Sprintf("%s: %s", e.Header, e.Value))
		t.more(e.Words)
	}
	if a.RoutingStrategy != "" {
		t.line("strategy", a.RoutingStrategy)
	}
	if a.TargetPod != "" {
		t.line("target-pod", a.TargetPod)
		for _, pod := range a.Pods {
			services := "an endpoint of no Service"
			if len(pod.Services) > 0 {
				services = "Service " + strings.Join(pod.Services, ", ")
			}
			t.more(fmt.Sprintf("Pod %s/%s, %s in namespace %s", pod.Namespace, pod.Name, services, pod.Namespace))
		}
	}
	ids := "x-request-id " + a.IDs.Sent
	if a.IDs.Gateway != "" && a.IDs.Gateway != a.IDs.Sent {
		ids += ", replaced by the gateway with " + a.IDs.Gateway
	}
	t.line("ids", ids)
	if a.IDs.Plugin != "" {
		t.more("request-id " + a.IDs.Plugin + " (the gateway plugin's log)")
	}
}

func (t *text) distribution(r Report) {
	fmt.Fprintf(t, "\n%s\n", t.paint(bold, "Pods"))
	width := 0
	for _, pod := range r.Pods {
		width = max(width, len(pod.Pod))
	}
	rest := r.Request.Count
	for _, pod := range r.Pods {
		rest -= pod.Count
		t.share(width, pod.Pod, pod.Count, r.Request.Count)
	}
	if rest > 0 {
		t.share(width, "not shown", rest, r.Request.Count)
	}
}

// share draws how many of all requests one pod answered.
func (t *text) share(width int, name string, count, of int) {
	const full = 30
	bar := strings.Repeat("█", max(1, count*full/of))
	fmt.Fprintf(t, "  %-*s  %4d  %3d%%  %s\n", width, name, count, count*100/of, t.paint(faint, bar))
}

func (t *text) expected(r Report) {
	if r.Through != nil {
		t.line("first", fmt.Sprintf("%s, which hands the request to AIBrix's gateway plugin", r.Through.Route))
	}
	e := r.Expected
	if e == nil {
		t.line("route", t.paint(red, "none matches that the Gateway accepts"))
		t.candidates("refused", r.Refused)
		t.candidates("near", r.Near)
		return
	}
	t.line("gateway", fmt.Sprintf("%s/%s, listener %s", e.Gateway.Namespace, e.Gateway.Name, e.Listener))
	t.line("route", fmt.Sprintf("%s, %s", e.Route, e.Field))
	t.more(e.Match)
	if e.Origin != "" {
		t.more("a relocated copy of a route in namespace " + e.Origin)
	}
	for _, parent := range e.Parents {
		if len(parent.Status) == 0 {
			t.line("status", t.paint(yellow, "no gateway controller has written any"))
		}
		for _, status := range parent.Status {
			for _, c := range status.Conditions {
				good := c.Status == "True" && c.Type != "PartiallyInvalid" || c.Status == "False" && c.Type == "PartiallyInvalid"
				words := t.paint(map[bool]string{true: green, false: red}[good], c.Type+"="+c.Status)
				if c.Reason != "" && c.Reason != c.Type {
					words += " " + policy.Printable(c.Reason)
				}
				if c.Stale {
					words += ", about an older generation"
				}
				if c.Words != "" {
					words += ": " + c.Words
				}
				t.line("status", words)
			}
		}
	}
	if len(e.References) == 0 {
		t.line("backend", "none")
	}
	for _, ref := range e.References {
		words := ref.Backend.String()
		if ref.Port != 0 {
			words += fmt.Sprintf(":%d", ref.Port)
		}
		t.line("backend", words)
		if ref.Cross {
			t.more(grantWords(ref))
		}
		for _, backend := range e.Backends {
			if backend.Ref == ref.Backend {
				t.more(endpointWords(backend))
			}
		}
	}
	t.candidates("unsure", e.Unsure)
	t.candidates("else", e.RunnersUp)
	t.candidates("refused", r.Refused)
}

// maxCandidates bounds the routes that are listed.
const maxCandidates = 5

func (t *text) candidates(label string, candidates []Candidate) {
	for i, c := range candidates {
		if i == maxCandidates {
			t.more(fmt.Sprintf("and %d more", len(candidates)-i))
			return
		}
		t.line(label, fmt.Sprintf("%s, %s: %s", c.Route, c.Field, c.Match))
		if c.Why != "" {
			t.more(c.Why)
		}
	}
}

func grantWords(ref audit.Reference) string {
	switch {
	case ref.Withheld && ref.Outcome == "vetoed":
		return "withheld from the copy: the namespace is labeled routesteward.dev/grants=deny"
	case ref.Withheld:
		return "withheld from the copy: the namespace has not consented to routes of its origin"
	case len(ref.Grants) > 0:
		return "permitted by ReferenceGrant " + strings.Join(ref.Grants, ", ")
	case ref.Outcome == "grantable":
		return "not permitted yet: there is consent (" + ref.Consent + "), and no ReferenceGrant"
	case ref.Outcome == "vetoed":
		return "refused: the namespace is labeled routesteward.dev/grants=deny"
	case ref.Outcome == "refused":
		return "not permitted: no ReferenceGrant, and no consent"
	case ref.Outcome == "":
		return "in another namespace; whether it is permitted was not evaluated"
	}
	return ref.Outcome
}

func endpointWords(b audit.Backend) string {
	switch {
	case b.Exists == policy.No:
		return "does not exist"
	case b.Exists != policy.Yes && b.Note != "":
		return b.Note
	case b.Exists != policy.Yes || b.Kind != "Service":
		return "its endpoints are not known"
	case b.NotReady > 0:
		return fmt.Sprintf("%d ready endpoints, %d not ready", b.Ready, b.NotReady)
	case b.Ready == 1:
		return "1 ready endpoint"
	}
	return fmt.Sprintf("%d ready endpoints", b.Ready)
}

func (t *text) verdict(v Verdict) {
	color := red
	switch v.Outcome {
	case Routed, Answered:
		color = green
	case Bypassed:
		color = yellow
	}
	where := ""
	if v.Where != "" {
		where = " at the " + v.Where
	}
	fmt.Fprintf(t, "\n%s %s\n", t.paint(color, strings.ToUpper(string(v.Outcome))+where+":"), v.Words)
	for _, because := range v.Because {
		fmt.Fprintf(t, "  because %s\n", policy.Printable(because))
	}
	if v.Next != "" {
		fmt.Fprintf(t, "  next: %s\n", policy.Printable(v.Next))
	}
	if v.Command != "" {
		fmt.Fprintf(t, "    %s\n", t.paint(bold, "$ "+policy.Printable(v.Command)))
	}
}
