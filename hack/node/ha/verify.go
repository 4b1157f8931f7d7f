package ha

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// verify looks at what the creations have left: each stored route has its grant already, and each relocated one soon its
// copy.
func (s *scene) verify(ctx context.Context, attempts []attempt) error {
	var all gwv1.HTTPRouteList
	if err := s.admin.List(ctx, &all); err != nil {
		return err
	}
	there := map[client.ObjectKey]bool{}
	for i := range all.Items {
		there[client.ObjectKeyFromObject(&all.Items[i])] = true
	}
	for i := range attempts {
		a := &attempts[i]
		// A creation that failed for its client may have been stored.
		switch stored := there[client.ObjectKeyFromObject(a.route)]; {
		case stored && a.kind == refused:
			return fmt.Errorf("route %s is there, without consent", a.route.Name)
		case stored:
			s.stored[a.route.Name] = a.kind
		case a.err == nil:
			return fmt.Errorf("route %s was admitted and is not there", a.route.Name)
		}
	}
	if err := s.grantsAre(ctx, true); err != nil {
		return err
	}
	return eventually(ctx, func() error { return s.copiesAre(ctx) })
}

// remove waits until nothing but what the routes need is there, deletes them, and sees that all of it goes.
func (s *scene) remove(ctx context.Context) error {
	if err := eventually(ctx, func() error { return s.grantsAre(ctx, false) }); err != nil {
		return err
	}
	for name, k := range s.stored {
		route := &gwv1.HTTPRoute{}
		route.Namespace, route.Name = system, name
		if k == moved {
			route.Namespace = team // its copy goes with it
		}
		if err := s.admin.Delete(ctx, route); err != nil {
			return err
		}
	}
	clear(s.stored)
	return eventually(ctx, func() error { return errors.Join(s.grantsAre(ctx, false), s.copiesAre(ctx)) })
}

// grantsAre compares the grants with what the routes need; with atLeast there may be more.
func (s *scene) grantsAre(ctx context.Context, atLeast bool) error {
	var grants gwv1.ReferenceGrantList
	if err := s.admin.List(ctx, &grants); err != nil {
		return err
	}
	found := map[string]bool{}
	surplus := 0
	for _, grant := range grants.Items {
		if len(grant.Spec.To) != 1 || grant.Spec.To[0].Name == nil {
			return fmt.Errorf("ReferenceGrant %s/%s does not name one Service", grant.Namespace, grant.Name)
		}
		name := string(*grant.Spec.To[0].Name)
		k, needed := s.stored[name]
		if !needed || grant.Namespace != map[kind]string{granted: models, moved: team}[k] {
			surplus++
			continue
		}
		found[name] = true
	}
	for name := range s.stored {
		if !found[name] {
			return fmt.Errorf("route %s has no ReferenceGrant", name)
		}
	}
	if surplus > 0 && !atLeast {
		return fmt.Errorf("%d ReferenceGrants are not needed", surplus)
	}
	return nil
}

// copiesAre compares the relocated copies with their sources.
func (s *scene) copiesAre(ctx context.Context) error {
	var sources, routes gwv1.HTTPRouteList
	if err := errors.Join(s.admin.List(ctx, &sources, client.InNamespace(team)), s.admin.List(ctx, &routes, client.InNamespace(system))); err != nil {
		return err
	}
	byName := map[string]*gwv1.HTTPRoute{}
	for i := range routes.Items {
		byName[routes.Items[i].Name] = &routes.Items[i]
	}
	for i := range sources.Items {
		source := &sources.Items[i]
		copied := byName[source.Name]
		if copied == nil {
			return fmt.Errorf("route %s has no copy", source.Name)
		}
		want := source.Spec.DeepCopy()
		if len(want.ParentRefs) != 0 {
			return fmt.Errorf("route %s is not parked", source.Name)
		}
		want.ParentRefs = copied.Spec.ParentRefs
		for i := range want.Rules[0].BackendRefs {
			want.Rules[0].BackendRefs[i].Namespace = new(gwv1.Namespace(team))
		}
		if len(copied.Spec.ParentRefs) != 1 || copied.Spec.ParentRefs[0].Name != "aibrix-eg" || !equality.Semantic.DeepEqual(*want, copied.Spec) {
			return fmt.Errorf("the copy of route %s differs from it", source.Name)
		}
	}
	for name := range byName {
		if _, expected := s.stored[name]; !expected {
			return fmt.Errorf("route %s/%s should not be there", system, name)
		}
	}
	return nil
}

// servedBy returns nil when every replica serves with a certificate of the authority.
func (s *scene) servedBy(ctx context.Context, authority []byte) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return errors.New("the Secret holds no certificate")
	}
	var pods corev1.PodList
	if err := s.admin.List(ctx, &pods, client.InNamespace(own)); err != nil {
		return err
	}
	for _, pod := range pods.Items {
		dialer := &tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "routewarden." + own + ".svc"}}
		dialing, cancel := context.WithTimeout(ctx, 5*time.Second)
		connection, err := dialer.DialContext(dialing, "tcp", pod.Status.PodIP+":9443")
		cancel()
		if err != nil {
			return err
		}
		connection.Close()
	}
	return nil
}

// sum adds up the values of a metric on a page in Prometheus's text format.
func sum(page io.Reader, name string) (int, error) {
	total := 0.0
	lines := bufio.NewScanner(page)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, name+"{") {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return 0, err
		}
		total += value
	}
	return int(total), lines.Err()
}

// Table has a row for each result, below its head.
func Table(results []*Result) (head []string, rows [][]string) {
	head = []string{"Event", "Created", "Admitted", "Denied as right", "Failed: API server or etcd", "Failed: routewarden", "of these, after the endpoint was gone", "Endpoint gone after", "Longest answer"}
	for _, r := range results {
		gone, late := "–", "–"
		if r.Event.Kill {
			gone, late = milliseconds(r.Dropped.Sub(r.Killed)), fmt.Sprint(len(r.Late()))
		}
		rows = append(rows, []string{r.Event.Name, fmt.Sprint(r.Tried), fmt.Sprint(r.Admitted), fmt.Sprint(r.Denied), fmt.Sprint(r.Outage),
			fmt.Sprint(len(r.Faults)), late, gone, milliseconds(r.Longest)})
	}
	return head, rows
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// Words tells a result in a line, with the faults' messages below.
func (r *Result) Words() string {
	var out strings.Builder
	head, rows := Table([]*Result{r})
	for i, name := range head[1:] {
		fmt.Fprintf(&out, ", %s %s", name, rows[0][i+1])
	}
	for _, f := range r.Faults[:min(len(r.Faults), 5)] {
		fmt.Fprintf(&out, "\n    %s to %s: %v", f.Began.Format("15:04:05.000"), f.Ended.Format("15:04:05.000"), f.Err)
	}
	if r.Event.Kill {
		fmt.Fprintf(&out, "\n    killed %s, endpoint gone %s", r.Killed.Format("15:04:05.000"), r.Dropped.Format("15:04:05.000"))
	}
	return r.Event.Name + out.String()
}
