package ha

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// kind is what a route asks for. Its name is the first word of the route's.
type kind struct {
	name, namespace, target string
	grant                   string // where it needs a new ReferenceGrant; empty: it is to be denied
}

var kinds = []kind{
	{name: "refused", namespace: system, target: "closed"},                  // a reference without consent
	{name: "granted", namespace: system, target: "models", grant: "models"}, // a reference that needs a new grant
	{name: "moved", namespace: team, target: team, grant: team},             // a route that is relocated, and needs a new grant for that
}

func kindOf(route *gwv1.HTTPRoute) kind {
	return kinds[slices.IndexFunc(kinds, func(k kind) bool { return strings.HasPrefix(route.Name, k.name+"-") })]
}

// Fault is a creation that failed because of routesteward.
type Fault struct {
	Began, Ended time.Time
	Err          error
}

// attempt is a creation.
type attempt struct {
	Fault
	kind  kind
	route *gwv1.HTTPRoute
}

// next makes a route with a name that no other has, which is also that of its backend.
func (s *scene) next(k kind) *attempt {
	s.number++
	route := &gwv1.HTTPRoute{}
	route.Namespace, route.Name = k.namespace, fmt.Sprintf("%s-%d", k.name, s.number)
	route.Spec.ParentRefs = []gwv1.ParentReference{{Namespace: new(gwv1.Namespace(system)), Name: "aibrix-eg"}}
	var backend gwv1.HTTPBackendRef
	backend.Name, backend.Port = gwv1.ObjectName(route.Name), new(gwv1.PortNumber(8000))
	if k.target != k.namespace {
		backend.Namespace = new(gwv1.Namespace(k.target))
	}
	route.Spec.Rules = []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{backend}}}
	return &attempt{kind: k, route: route}
}

func (a *attempt) create(ctx context.Context, tenant client.Client, options ...client.CreateOption) {
	a.Began = time.Now()
	a.Err = tenant.Create(ctx, a.route, options...)
	a.Ended = time.Now()
}

type outcome int

const (
	admitted outcome = iota
	denied
	failed // routesteward did not answer, could not decide, or decided wrongly
	outage // the API server did not answer, or not because of routesteward
)

// outcome is what a creation's error shows. With change a route outside may be denied, too.
func (a *attempt) outcome(change bool) outcome {
	mayBeDenied := a.kind.grant == "" || change && a.kind.namespace == team
	switch message := fmt.Sprint(a.Err); {
	case a.Err == nil && a.kind.grant != "":
		return admitted
	case apierrors.IsForbidden(a.Err) && strings.Contains(message, "denied the request") && mayBeDenied:
		return denied
	case a.Err == nil, strings.Contains(message, "failed calling webhook"), strings.Contains(message, "admission webhook"):
		return failed
	}
	return outage
}

func (a *attempt) fault() Fault {
	err := a.Err
	if err == nil {
		err = errors.New("was admitted")
	}
	return Fault{a.Began, a.Ended, fmt.Errorf("%s/%s: %w", a.route.Namespace, a.route.Name, err)}
}

// verify looks at what the creations have left: each stored route has its grant already, and each relocated one soon its copy.
func (s *scene) verify(ctx context.Context, attempts []*attempt) error {
	var routes gwv1.HTTPRouteList
	if err := s.admin.List(ctx, &routes); err != nil {
		return err
	}
	there := map[client.ObjectKey]bool{}
	for i := range routes.Items {
		there[client.ObjectKeyFromObject(&routes.Items[i])] = true
	}
	for _, a := range attempts {
		if a.Err == nil && !there[client.ObjectKeyFromObject(a.route)] {
			return fmt.Errorf("route %s was admitted and is not there", a.route.Name)
		}
	}
	if err := s.grantsAre(ctx, false); err != nil {
		return err
	}
	return eventually(ctx, func() error { return s.copiesAre(ctx) })
}

// remove waits until only the grants that the routes need are there, deletes the routes, and verifies that everything goes.
func (s *scene) remove(ctx context.Context) error {
	if err := eventually(ctx, func() error { return s.grantsAre(ctx, true) }); err != nil {
		return err
	}
	var routes gwv1.HTTPRouteList
	if err := s.admin.List(ctx, &routes); err != nil {
		return err
	}
	for i := range routes.Items {
		// A copy goes with its source.
		if route := &routes.Items[i]; route.Namespace == kindOf(route).namespace {
			if err := s.admin.Delete(ctx, route); err != nil {
				return err
			}
		}
	}
	return eventually(ctx, func() error { return errors.Join(s.grantsAre(ctx, true), s.copiesAre(ctx)) })
}

// grantsAre compares the grants with what the stored routes need; unless exactly, there may be more.
func (s *scene) grantsAre(ctx context.Context, exactly bool) error {
	var routes gwv1.HTTPRouteList
	var grants gwv1.ReferenceGrantList
	if err := errors.Join(s.admin.List(ctx, &routes), s.admin.List(ctx, &grants)); err != nil {
		return err
	}
	missing := map[string]bool{}
	for i := range routes.Items {
		k := kindOf(&routes.Items[i])
		if k.grant == "" {
			return fmt.Errorf("route %s is there, without consent", routes.Items[i].Name)
		}
		missing[k.grant+"/"+routes.Items[i].Name] = true
	}
	surplus := 0
	for _, grant := range grants.Items {
		if len(grant.Spec.To) != 1 || grant.Spec.To[0].Name == nil {
			return fmt.Errorf("ReferenceGrant %s/%s does not name one Service", grant.Namespace, grant.Name)
		}
		target := grant.Namespace + "/" + string(*grant.Spec.To[0].Name)
		if !missing[target] {
			surplus++
		}
		delete(missing, target)
	}
	if len(missing) > 0 || exactly && surplus > 0 {
		return fmt.Errorf("%d ReferenceGrants are not needed, missing are those to %v", surplus, slices.Collect(maps.Keys(missing)))
	}
	return nil
}

// copiesAre compares the relocated copies with their sources.
func (s *scene) copiesAre(ctx context.Context) error {
	var sources, routes gwv1.HTTPRouteList
	if err := errors.Join(s.admin.List(ctx, &sources, client.InNamespace(team)), s.admin.List(ctx, &routes, client.InNamespace(system))); err != nil {
		return err
	}
	copies := map[string]gwv1.HTTPRouteSpec{}
	for i := range routes.Items {
		if kindOf(&routes.Items[i]).namespace == team {
			copies[routes.Items[i].Name] = routes.Items[i].Spec
		}
	}
	for _, source := range sources.Items {
		copied, found := copies[source.Name]
		if !found || len(source.Spec.ParentRefs) != 0 {
			return fmt.Errorf("route %s has no copy or is not parked", source.Name)
		}
		want := source.Spec
		want.ParentRefs = copied.ParentRefs
		want.Rules[0].BackendRefs[0].Namespace = new(gwv1.Namespace(team))
		if len(copied.ParentRefs) != 1 || copied.ParentRefs[0].Name != "aibrix-eg" || !equality.Semantic.DeepEqual(want, copied) {
			return fmt.Errorf("the copy of route %s differs from it", source.Name)
		}
		delete(copies, source.Name)
	}
	if len(copies) > 0 {
		return fmt.Errorf("copies without a source: %v", slices.Collect(maps.Keys(copies)))
	}
	return nil
}
