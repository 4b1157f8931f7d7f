package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// state is what is stored at one moment, held against what must be.
type state struct {
	// routes and grants count what there is.
	routes, grants int
	// Each is empty when all is well. violations are routes that must not be there, missing needed grants and copies, surplus
	// grants and copies that nothing needs or that permit too much, lost routes that were admitted and are not there, touched
	// objects of other people.
	violations, missing, surplus, lost, touched []string
}

func (s *state) err() error {
	var errs []error
	for name, found := range map[string][]string{
		"admitted violations": s.violations, "missing": s.missing, "surplus": s.surplus, "lost": s.lost, "foreign objects touched": s.touched,
	} {
		if len(found) > 0 {
			errs = append(errs, fmt.Errorf("%d %s: %s", len(found), name, strings.Join(found[:min(3, len(found))], "; ")))
		}
	}
	return errors.Join(errs...)
}

// look reads everything and evaluates it with the engine.
func (w *world) look(ctx context.Context, t *testing.T) (*state, error) {
	routes := &unstructured.UnstructuredList{}
	routes.SetGroupVersionKind(gwv1.SchemeGroupVersion.WithKind("HTTPRouteList"))
	var grants gwv1.ReferenceGrantList
	var namespaces corev1.NamespaceList
	var gateways gwv1.GatewayList
	if err := errors.Join(w.admin.List(ctx, routes), w.admin.List(ctx, &grants), w.admin.List(ctx, &namespaces), w.admin.List(ctx, &gateways)); err != nil {
		return nil, err
	}
	s := &state{routes: len(routes.Items), grants: len(grants.Items)}
	pol := w.policy(t)
	facts := policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{}, Gateways: map[string]bool{}, Grants: map[string][]*gwv1.ReferenceGrant{},
		Holder: map[policy.HeldName][]string{}, Writers: map[string]bool{},
	}
	for i := range grants.Items {
		facts.Grants[grants.Items[i].Namespace] = append(facts.Grants[grants.Items[i].Namespace], &grants.Items[i])
	}
	for _, namespace := range namespaces.Items {
		facts.Namespaces[namespace.Name] = policy.NamespaceFacts{Exists: policy.Yes, Terminating: namespace.DeletionTimestamp != nil, Grants: namespace.Labels[policy.GrantsLabel]}
	}
	for _, gateway := range gateways.Items {
		facts.Gateways[gateway.Namespace+"/"+gateway.Name] = true
	}
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()

	there := map[client.ObjectKey]bool{}
	needed := map[string]policy.Edge{}
	sources, copies := map[string]*unstructured.Unstructured{}, map[string]*unstructured.Unstructured{}
	for i := range routes.Items {
		obj := &routes.Items[i]
		key := client.ObjectKeyFromObject(obj)
		typed := &gwv1.HTTPRoute{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, typed); err != nil {
			return nil, err
		}
		r, _ := policy.RouteOf(typed)
		if pol.IsCopy(r) {
			copies[obj.GetName()] = obj
			continue
		}
		k := w.ledger.kinds[key]
		if k == nil {
			if !slices.ContainsFunc(w.foreign, func(f *unstructured.Unstructured) bool { return f.GetUID() == obj.GetUID() }) {
				s.violations = append(s.violations, fmt.Sprintf("%s is there, and nobody asked for it", key))
			}
			continue
		}
		there[key] = true
		if pol.IsParked(r) {
			sources[pol.CopyName(key.Namespace, key.Name)] = obj
		}
		by := w.ledger.by[key]
		asked := facts
		asked.Writers = map[string]bool{owned: by == ownerName}
		decision := pol.Evaluate(policy.Request{
			Operation: policy.Create, Kind: policy.HTTPRoute, Namespace: key.Namespace,
			User: policy.User{Name: by, Groups: []string{"tenants", "system:authenticated"}}, Object: typed,
		}, asked)
		if !decision.Allowed && !k.fickle {
			s.violations = append(s.violations, fmt.Sprintf("%s, which %s: %s", key, k.name, decision.Denial(policy.Request{Kind: policy.HTTPRoute, Namespace: key.Namespace, Object: typed})))
		}
		if pol.Governs(r, facts) != policy.Yes {
			continue
		}
		for _, edge := range pol.Edges(r) {
			needed[edge.Namespace+"/"+edge.GrantName()] = edge
			switch decision := pol.EvaluateEdge(edge, facts, false); {
			case decision.Outcome == policy.Recorded || decision.Outcome == policy.Permitted:
			case k.losable && (decision.Outcome == policy.Vetoed || decision.Outcome == policy.Refused):
			default:
				s.missing = append(s.missing, fmt.Sprintf("the grant %s of %s, which %s: %s", edge.GrantName(), key, k.name, edge))
			}
		}
	}
	for key := range w.ledger.sure {
		if !there[key] {
			s.lost = append(s.lost, key.String())
		}
	}
	for i := range grants.Items {
		grant := &grants.Items[i]
		edge, isNeeded := needed[grant.Namespace+"/"+grant.Name]
		switch {
		case !policy.IsManaged(grant):
		case !isNeeded:
			s.surplus = append(s.surplus, fmt.Sprintf("the grant %s/%s: %s", grant.Namespace, grant.Name, grant.Annotations[policy.EdgeAnnotation]))
		case !policy.Records(grant, edge):
			s.surplus = append(s.surplus, fmt.Sprintf("the grant %s/%s is not that of its edge", grant.Namespace, grant.Name))
		case facts.Namespaces[grant.Namespace].Grants == policy.GrantsDeny:
			s.surplus = append(s.surplus, fmt.Sprintf("the grant %s/%s is there in spite of a veto", grant.Namespace, grant.Name))
		}
	}
	for name, source := range sources {
		desired, err := pol.Copy(source, func(edge policy.Edge) bool {
			outcome := pol.EvaluateEdge(edge, facts, false).Outcome
			return outcome == policy.Refused || outcome == policy.Vetoed
		})
		if err != nil {
			return nil, err
		}
		if there := copies[name]; there == nil || !policy.InSync(there, desired) {
			s.missing = append(s.missing, fmt.Sprintf("the copy of %s/%s as it must be", source.GetNamespace(), source.GetName()))
		}
	}
	for name := range copies {
		if sources[name] == nil {
			s.surplus = append(s.surplus, "the copy "+name)
		}
	}
	if err := w.audit.read(); err != nil {
		return nil, err
	}
	s.touched = slices.Clone(w.audit.touched)
	for _, want := range w.foreign {
		have := &unstructured.Unstructured{}
		have.SetGroupVersionKind(want.GroupVersionKind())
		if err := w.admin.Get(ctx, client.ObjectKeyFromObject(want), have); client.IgnoreNotFound(err) != nil {
			return nil, err
		} else if err != nil || !equality.Semantic.DeepEqual(want.Object, have.Object) {
			s.touched = append(s.touched, fmt.Sprintf("%s %s/%s", want.GetKind(), want.GetNamespace(), want.GetName()))
		}
	}
	return s, nil
}

// settled waits until what is stored is as it must be, and returns what it is when that has happened, or the time is over. What may
// never be, not even for a moment, ends the wait at once.
func (w *world) settled(ctx context.Context, t *testing.T) (s *state, took time.Duration, err error) {
	began := time.Now()
	last := eventually(ctx, func() error {
		s, err = w.look(ctx, t)
		if err != nil {
			return err
		}
		if len(s.violations)+len(s.lost)+len(s.touched) > 0 {
			return nil
		}
		return s.err()
	})
	if s == nil || err != nil {
		return nil, 0, errors.Join(err, last)
	}
	return s, time.Since(began), nil
}

// leavesNothing deletes all routes and waits until the grants and copies are gone.
func (w *world) leavesNothing(t *testing.T) {
	w.serve(t, w.settings)
	w.ledger.mu.Lock()
	clear(w.ledger.sure)
	w.ledger.mu.Unlock()
	// Hundreds of them may take longer than a request of this client may.
	require.NoError(t, eventually(t.Context(), func() error {
		return w.admin.DeleteAllOf(t.Context(), &gwv1.HTTPRoute{}, client.InNamespace(system))
	}))
	require.NoError(t, w.deleteTeams(t.Context()))
	s, _, err := w.settled(t.Context(), t)
	require.NoError(t, err)
	require.NoError(t, s.err())
	require.Equal(t, 1, s.routes, "somebody else's")
}

// deleteTeams deletes the routes in the team's namespace, which only relocation lets in.
func (w *world) deleteTeams(ctx context.Context) error {
	var routes gwv1.HTTPRouteList
	if err := w.admin.List(ctx, &routes, client.InNamespace(team)); err != nil {
		return err
	}
	for i := range routes.Items {
		key := client.ObjectKeyFromObject(&routes.Items[i])
		w.ledger.mu.Lock()
		ours := w.ledger.kinds[key] != nil
		delete(w.ledger.sure, key)
		w.ledger.mu.Unlock()
		if ours {
			if err := w.admin.Delete(ctx, &routes.Items[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// auditLog follows what the API server notes of routesteward's writes.
type auditLog struct {
	path   string
	offset int64
	// touched are writes that were of nothing of routesteward's.
	touched []string
}

// history is what the log says of the objects that the words name, for who has to find out what became of them.
func (l *auditLog) history(words string) string {
	content, err := os.ReadFile(l.path)
	if err != nil {
		return err.Error()
	}
	var out strings.Builder
	for line := range strings.Lines(string(content)) {
		var event struct {
			Verb                     string
			User                     struct{ Username string }
			ObjectRef                struct{ Resource, Namespace, Name string }
			ResponseStatus           struct{ Code int }
			RequestReceivedTimestamp string
			StageTimestamp           string
		}
		if json.Unmarshal([]byte(line), &event) != nil || !slices.Contains([]string{"httproutes", "referencegrants"}, event.ObjectRef.Resource) || !strings.Contains(words, event.ObjectRef.Name) {
			continue
		}
		fmt.Fprintf(&out, "%s to %s: %s %s %s/%s by %s: %d\n", event.RequestReceivedTimestamp, event.StageTimestamp, event.Verb,
			event.ObjectRef.Resource, event.ObjectRef.Namespace, event.ObjectRef.Name, event.User.Username, event.ResponseStatus.Code)
	}
	return out.String()
}

// read reads on.
func (l *auditLog) read() error {
	file, err := os.Open(l.path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Seek(l.offset, io.SeekStart); err != nil {
		return err
	}
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // the rest of a line comes later
		}
		if err != nil {
			return err
		}
		l.offset += int64(len(line))
		var event struct {
			Verb           string
			User           struct{ Username string }
			ObjectRef      struct{ Resource, Subresource, Namespace, Name string }
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		if event.User.Username != "system:serviceaccount:"+own+":routesteward" || event.ResponseStatus.Code >= 300 || slices.Contains([]string{"get", "list", "watch"}, event.Verb) {
			continue
		}
		ref := event.ObjectRef
		what := event.Verb + " " + ref.Resource
		ours := false
		switch what {
		case "create referencegrants", "delete referencegrants":
			// A lookalike that is somebody else's is among the foreign objects.
			ours = strings.HasPrefix(ref.Name, "routesteward-")
		case "create leases", "update leases":
			ours = ref.Namespace == own && ref.Name == "routesteward"
		case "create secrets", "update secrets":
			ours = ref.Namespace == own && ref.Name == "routesteward-ca"
		case "update validatingwebhookconfigurations", "update mutatingwebhookconfigurations":
			ours = ref.Name == "routesteward"
		case "create events", "patch events", "create subjectaccessreviews", "create selfsubjectreviews":
			ours = true
		case "create httproutes", "update httproutes", "delete httproutes":
			ours = ref.Namespace == system && ref.Subresource == "" || ref.Namespace == team && ref.Subresource == "status"
		}
		if !ours {
			l.touched = append(l.touched, fmt.Sprintf("routesteward: %s %s/%s", what, ref.Namespace, ref.Name))
		}
	}
}
