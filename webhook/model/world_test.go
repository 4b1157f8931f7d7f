package model

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook"
	"github.com/routesteward/routesteward/webhook/cluster"
	"github.com/routesteward/routesteward/webhook/grants"
	"github.com/routesteward/routesteward/webhook/metrics"
	"github.com/routesteward/routesteward/webhook/relocate"
)

// tick is the model's unit of time. It is long, so that the time which a step really takes does not count.
const tick = 1000 * time.Hour

// world is one cluster with routesteward in it, whose state can be set to any other. It is for one goroutine.
type world struct {
	scenario   *scenario
	s          *state
	ctx        context.Context
	policy     *policy.Policy
	transforms map[kind]func(any) (any, error)
	indexes    []index
	fault      fault
	// ordersRoutes is true where it matters which of two routes is older.
	ordersRoutes bool

	// mu guards what follows while routesteward acts: an admission makes several grants at once.
	mu               sync.Mutex
	validate, mutate http.Handler
	grants           *grants.Reconciler
	relocate         *relocate.Reconciler
	watches          []watch

	// Of the step that is being made: what the acting replica's caches show, whether routesteward acts, what has changed, and
	// what should not have happened.
	shown  snapshot
	acting bool
	// reconciling is true where it is a reconciler that acts.
	reconciling bool
	changes     []change
	violations  []string
	// asking is the requester of the admission that is being decided.
	asking *asking
	// renewed are the edges whose managed grants routesteward deleted in this step.
	renewed edgeSet
	// interrupted is called before the call to the API server whose number, from 1, is interruptAt.
	interrupted func()
	interruptAt int
	calls       int
	told        []string
	// excused is true where this step may change where the reconcilers come to rest.
	excused bool
	// disturbed is true where people took something away in the midst of the step.
	disturbed bool
	tracing   bool
}

type watch struct {
	cluster.Watch
	kind       kind
	reconciler int
}

// silent drops Events.
type silent struct{}

func (silent) Eventf(runtime.Object, runtime.Object, string, string, string, string, ...any) {}

func newWorld(sc *scenario) (*world, error) {
	config := policy.DefaultConfig()
	config.Kinds = []policy.Kind{policy.HTTPRoute}
	config.Outside, config.Grants, config.GrantConsent = sc.outside, sc.grants, sc.consent
	config.Self = "routesteward"
	pol, err := policy.New(config)
	if err != nil {
		return nil, err
	}
	m, err := metrics.New(prometheus.NewRegistry())
	if err != nil {
		return nil, err
	}
	served := cluster.Served{ReferenceGrants: "v1"}
	w := &world{scenario: sc, ctx: logr.NewContext(context.Background(), logr.Discard()), policy: pol, transforms: transformsOf(served),
		fault: sc.fault, ordersRoutes: sc.outside == policy.OutsideRewrite}
	reader, err := cluster.NewReader(w.ctx, &caches{w: w}, served, pol)
	if err != nil {
		return nil, err
	}
	grace := time.Duration(sc.ticks) * tick
	api := &server{w: w}
	maker := &grants.Maker{Writer: api, Live: api, Caches: reader, Grace: grace, Metrics: m}
	w.validate, w.mutate = webhook.Webhooks{
		Policy: pol, Caches: reader, MayCreateGrants: w.mayCreateGrants, Grants: maker, Metrics: m, Log: slog.New(slog.DiscardHandler),
	}.Handlers()
	w.grants = &grants.Reconciler{Policy: pol, Writer: api, Live: api, Caches: reader, Events: silent{}, Metrics: m, Grace: grace}
	if sc.fault.hasty {
		w.grants.Grace = 0
	}
	w.grants.Recall(nil)
	w.relocate = &relocate.Reconciler{Policy: pol, Kind: policy.HTTPRoute, Writer: api, Live: api, Caches: reader, Events: silent{}, Metrics: m}
	for reconciler, watches := range [][]cluster.Watch{w.grants.Watches(), w.relocate.Watches()} {
		if reconciler == ofRelocations && sc.outside != policy.OutsideRewrite {
			continue // nothing is ever parked
		}
		for _, one := range watches {
			kind, ok := kindOf(one.Object)
			if !ok {
				return nil, fmt.Errorf("%T is watched, and the model has none", one.Object)
			}
			w.watches = append(w.watches, watch{one, kind, reconciler})
		}
	}
	return w, w.begin()
}

// begin sets the state to the scenario's first one.
func (w *world) begin() error {
	w.s = &state{}
	w.forget()
	for _, name := range []string{system, teamA, models} {
		namespace := cluster.NewNamespace()
		namespace.SetName(name)
		if _, err := w.create(namespace); err != nil {
			return err
		}
	}
	gateway := cluster.NewGateway()
	gateway.SetNamespace(system)
	gateway.SetName(sharedGateway)
	if _, err := w.create(gateway); err != nil {
		return err
	}
	w.peopleActed()
	w.finish()
	return nil
}

// forget drops what belongs to the last step.
func (w *world) forget() {
	w.changes, w.violations, w.told = nil, nil, nil
	w.acting, w.asking, w.renewed, w.disturbed, w.excused = false, nil, 0, false, false
	w.interrupted, w.calls = nil, 0
}

// set makes s the state, which must not be used any more elsewhere, and begins a step.
func (w *world) set(s state) {
	w.s = &s
	w.forget()
}

func (w *world) violated(format string, args ...any) {
	w.violations = append(w.violations, fmt.Sprintf(format, args...))
}

func (w *world) note(format string, args ...any) {
	if w.tracing {
		w.told = append(w.told, fmt.Sprintf(format, args...))
	}
}

// called counts the calls of routesteward to the API server, and lets others act in between.
func (w *world) called(what string) {
	w.mu.Lock()
	w.note("routesteward %s", what)
	w.calls++
	interrupt := w.interrupted
	if interrupt == nil || w.calls != w.interruptAt {
		w.mu.Unlock()
		return
	}
	w.interrupted = nil
	w.mu.Unlock()
	shown, acting, asking := w.shown, w.acting, w.asking
	w.acting, w.asking = false, nil
	interrupt()
	w.shown, w.acting, w.asking = shown, acting, asking
}

// shows is what the caches of a replica show.
func (w *world) shows(replica int) snapshot {
	if v := &w.s.views[replica]; v.stale() {
		return v.objects
	}
	return w.s.objects
}

// finish ends a step: the caches that follow show what has changed, and the leader's reconcilers hear of it.
func (w *world) finish() {
	w.acting = false
	for i := range w.s.views {
		v := &w.s.views[i]
		if !v.stale() {
			continue
		}
		for k := range kinds {
			if !v.behind[k] {
				v.objects = v.objects.mixed(k, w.s.objects)
			}
		}
		for _, c := range w.changes {
			if v.behind[c.kind()] {
				v.missed = append(v.missed[:len(v.missed):len(v.missed)], c)
			}
		}
	}
	heard := w.changes
	w.changes = nil
	heard = slices.DeleteFunc(heard, func(c change) bool {
		return w.s.views[leader].behind[c.kind()] || w.fault.deaf && c.after == nil && c.kind() == aRoute
	})
	w.hear(heard)
}

func (c change) kind() kind {
	if c.after != nil {
		return c.after.kind
	}
	return c.before.kind
}

// hear tells the leader's reconcilers of changes in its caches, as informers do.
func (w *world) hear(changes []change) {
	if len(changes) == 0 {
		return
	}
	w.shown = w.shows(leader)
	w.recall()
	for _, c := range changes {
		for i := range w.watches {
			if one := &w.watches[i]; one.kind == c.kind() {
				w.tell(one, c, &hearing{w: w, reconciler: one.reconciler})
			}
		}
	}
	w.remember()
}

func (w *world) tell(one *watch, c change, q *hearing) {
	object := func(e *entry) client.Object {
		obj := e.cached.DeepCopyObject().(client.Object)
		obj.SetCreationTimestamp(w.created(e))
		return obj
	}
	switch {
	case c.before == nil:
		if e := (event.CreateEvent{Object: object(c.after)}); one.Predicate.Create(e) {
			one.Handler.Create(w.ctx, e, q)
		}
	case c.after == nil:
		if e := (event.DeleteEvent{Object: object(c.before)}); one.Predicate.Delete(e) {
			one.Handler.Delete(w.ctx, e, q)
		}
	default:
		if e := (event.UpdateEvent{ObjectOld: object(c.before), ObjectNew: object(c.after)}); one.Predicate.Update(e) {
			one.Handler.Update(w.ctx, e, q)
		}
	}
}

// hearing is the queue that event handlers write into.
type hearing struct {
	workqueue.TypedRateLimitingInterface[ctrl.Request]
	w          *world
	reconciler int
}

func (h *hearing) Add(req ctrl.Request) {
	h.w.s.queue = withItem(h.w.s.queue, item{h.reconciler, req.NamespacedName})
}

// recall gives the grants' reconciler the memory of the state, and remember takes it back.
func (w *world) recall() {
	m := grants.Memory{}
	for _, n := range w.s.memory {
		remembered := grants.Remembered{State: n.state}
		if n.state == grants.Unneeded {
			remembered.Since = time.Now().Add(-time.Duration(w.s.clock-n.since)*tick - tick/8)
		}
		m[n.name] = remembered
	}
	w.grants.Recall(m)
}

func (w *world) remember() {
	var notes []noted
	for name, remembered := range w.grants.Memory() {
		since := w.s.clock
		if remembered.State == grants.Unneeded {
			since -= int(time.Since(remembered.Since) / tick)
		}
		notes = append(notes, noted{name, remembered.State, since})
	}
	w.s.memory = sorted(notes)
}

func sorted(notes []noted) []noted {
	slices.SortFunc(notes, func(a, b noted) int { return compareItems(item{name: a.name}, item{name: b.name}) })
	return notes
}

// reconcile lets the leader look at one key of its queue.
func (w *world) reconcile(i item) string {
	w.s.queue = withoutItem(w.s.queue, i)
	w.shown = w.shows(leader)
	w.acting, w.reconciling = true, true
	var result ctrl.Result
	var err error
	if i.reconciler == ofGrants {
		w.recall()
		result, err = w.grants.Reconcile(w.ctx, ctrl.Request{NamespacedName: i.name})
		w.remember()
	} else {
		result, err = w.relocate.Reconcile(w.ctx, ctrl.Request{NamespacedName: i.name})
	}
	w.acting, w.reconciling = false, false
	switch {
	case err != nil:
		w.s.queue = withItem(w.s.queue, i)
		return "error: " + err.Error()
	case result.RequeueAfter > 0:
		w.s.later = withItem(w.s.later, i)
		return "will look again later"
	}
	return "done"
}

// asking is who asks for the write that is being decided.
type asking struct {
	user *user
	// wants are the edges that he asks for; made those for which a grant was made.
	wants, made edgeSet
}

func (w *world) mayCreateGrants(_ context.Context, who authenticationv1.UserInfo, namespace string) (bool, error) {
	for _, u := range w.scenario.users {
		if u.name == who.Username {
			return u.writesGrants[namespace], nil
		}
	}
	return false, fmt.Errorf("nobody is called %q", who.Username)
}

// entryDraft is a write that somebody asks for; before is what it replaces.
type entryDraft struct {
	user   *user
	obj    client.Object
	before *entry
	// digest is of the object as it would be stored.
	digest uint64
}

func (d *entryDraft) String() string {
	kind, _ := kindOf(d.obj)
	return key{kind, d.obj.GetNamespace(), d.obj.GetName()}.String()
}

// draft is what somebody would have stored: a new object, or the stored one with another spec and other labels.
func (w *world) draft(u *user, obj client.Object) *entryDraft {
	kind, _ := kindOf(obj)
	d := &entryDraft{user: u, obj: obj, before: w.s.objects.get(key{kind, obj.GetNamespace(), obj.GetName()})}
	if d.before == nil {
		annotations := obj.GetAnnotations()
		maps.DeleteFunc(annotations, func(_, value string) bool { return value == "" })
		obj.SetAnnotations(annotations)
		return d
	}
	after := d.before.stored.DeepCopyObject().(client.Object)
	after.SetLabels(obj.GetLabels())
	switch o := obj.(type) {
	case *gwv1.HTTPRoute:
		after.(*gwv1.HTTPRoute).Spec = o.Spec
	case *gwv1.ReferenceGrant:
		after.(*gwv1.ReferenceGrant).Spec = o.Spec
	}
	annotations := maps.Clone(after.GetAnnotations())
	for name, value := range obj.GetAnnotations() {
		if annotations == nil {
			annotations = map[string]string{}
		}
		if annotations[name] = value; value == "" {
			delete(annotations, name)
		}
	}
	after.SetAnnotations(annotations)
	d.obj = after
	return d
}

// ask has a webhook answer a request as the API server sends it.
func (w *world) ask(handler http.Handler, req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	review := admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"}, Request: req,
	}
	body, err := json.Marshal(review)
	if err != nil {
		panic(err)
	}
	call := httptest.NewRequestWithContext(w.ctx, http.MethodPost, "/", bytes.NewReader(body))
	call.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, call)
	var answered admissionv1.AdmissionReview
	if err := json.Unmarshal(answer.Body.Bytes(), &answered); err != nil {
		panic(err)
	}
	return answered.Response
}

func (d *entryDraft) request() (*admissionv1.AdmissionRequest, error) {
	kind, _ := kindOf(d.obj)
	raw, err := json.Marshal(d.obj)
	if err != nil {
		return nil, err
	}
	req := &admissionv1.AdmissionRequest{
		UID: "1", Operation: admissionv1.Create, Kind: metav1.GroupVersionKind{Group: gwv1.GroupName, Version: "v1", Kind: kind.String()},
		Namespace: d.obj.GetNamespace(), Name: d.obj.GetName(), UserInfo: authenticationv1.UserInfo{Username: d.user.name},
		Object: runtime.RawExtension{Raw: raw},
	}
	if d.before != nil {
		req.Operation = admissionv1.Update
		req.OldObject.Raw, err = json.Marshal(d.before.stored)
	}
	return req, err
}

// admit asks a replica about a write as the API server does: the mutating webhook first where there is one. It returns the
// promises that the admission makes, and why it was refused, or "".
func (w *world) admit(replica int, d *entryDraft, skipMutation bool) (edgeSet, string) {
	w.shown = w.shows(replica)
	fresh := !w.s.views[replica].stale()
	req, err := d.request()
	if err != nil {
		panic(err)
	}
	if _, isRoute := d.obj.(*gwv1.HTTPRoute); isRoute && w.policy.Outside == policy.OutsideRewrite && !skipMutation {
		w.acting = true
		resp := w.ask(w.mutate, req)
		w.acting = false
		if resp.Allowed && resp.Patch != nil {
			if req.Object.Raw, err = patched(req.Object.Raw, resp.Patch); err != nil {
				panic(err)
			}
			mutated := &gwv1.HTTPRoute{}
			if err := json.Unmarshal(req.Object.Raw, mutated); err != nil {
				panic(err)
			}
			d.obj = mutated
			w.note("the mutating webhook changes it: %s", resp.Patch)
		} else if !resp.Allowed {
			w.note("the mutating webhook fails, which is ignored: %s", resp.Result.Message)
		}
	}
	d.digest = digest(d.obj)
	a := &asking{user: d.user}
	var before, after edgeSet
	if route, ok := d.obj.(*gwv1.HTTPRoute); ok {
		after = w.edgesOf(route)
		if d.before != nil {
			before = w.edgesOf(d.before.route())
		}
		a.wants = after &^ before
	}
	expected := w.expected(d, fresh)
	w.asking, w.acting = a, true
	shown := w.shown
	resp := w.ask(w.validate, req)
	w.asking, w.acting = nil, false
	// Who asks for what he could have permitted himself consents, unless the namespace refuses.
	w.s.ever |= a.made
	if resp.Allowed {
		// A replica knows of a veto, as of everything, when its caches do.
		w.s.ever |= a.wants & (w.permissible(d.user, shown) | w.standing(shown))
	}
	if w.disturbed {
		expected = ""
	}
	served := w.served(w.s.objects)
	switch {
	case resp.Allowed && expected == "denied":
		w.violated("%s was admitted for %s, and should have been denied", d, d.user.name)
	case !resp.Allowed && expected == "admitted":
		w.violated("%s was denied to %s, and should have been admitted: %s", d, d.user.name, resp.Result.Message)
	case resp.Allowed && expected == "admitted" && a.wants&^served != 0:
		w.violated("%s was admitted, and nothing permits: %s", d, w.describe(a.wants&^served))
	}
	if !resp.Allowed {
		if resp.Result.Code != http.StatusForbidden {
			return 0, "error: " + first(resp.Result.Message)
		}
		return 0, "denied: " + first(resp.Result.Message)
	}
	return after & served, ""
}

func first(message string) string {
	line, rest, _ := strings.Cut(message, "\n")
	if next, _, _ := strings.Cut(rest, "\n"); next != "" {
		line += " " + strings.TrimSpace(next)
	}
	return line
}

// commit stores a write that was admitted.
func (w *world) commit(d *entryDraft, promises edgeSet) string {
	obj := d.obj.DeepCopyObject().(client.Object)
	var err error
	if d.before == nil {
		_, err = w.create(obj)
	} else {
		_, err = w.update(obj, strconv.Itoa(d.before.version))
	}
	if err != nil {
		return "not stored: " + err.Error()
	}
	w.s.promised |= promises
	return "stored"
}

// patched applies a JSON patch of the operations that the mutating webhook uses.
func patched(raw, patch []byte) ([]byte, error) {
	var content any
	var operations []struct {
		Op, Path string
		Value    any
	}
	if err := json.Unmarshal(raw, &content); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(patch, &operations); err != nil {
		return nil, err
	}
	for _, op := range operations {
		steps := strings.Split(op.Path, "/")[1:]
		last := strings.ReplaceAll(steps[len(steps)-1], "~1", "/")
		at := content
		for _, step := range steps[:len(steps)-1] {
			at = at.(map[string]any)[step]
		}
		switch at := at.(type) {
		case map[string]any:
			if op.Op == "remove" {
				delete(at, last)
			} else {
				at[last] = op.Value
			}
		case []any:
			index, err := strconv.Atoi(last)
			if err != nil || op.Op != "remove" {
				return nil, fmt.Errorf("patch operation %v", op)
			}
			parent := content
			for _, step := range steps[:len(steps)-2] {
				parent = parent.(map[string]any)[step]
			}
			parent.(map[string]any)[steps[len(steps)-2]] = slices.Delete(at, index, index+1)
		default:
			return nil, fmt.Errorf("patch operation %v", op)
		}
	}
	return json.Marshal(content)
}
