package model

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// fault breaks routesteward, by what it is shown or what it stands on. The zero value breaks nothing.
type fault struct {
	// ignoresVeto: the label that refuses is not seen.
	ignoresVeto bool
	// ignoresOrigin: a grant of the namespace's owner is taken to be for whoever asks.
	ignoresOrigin bool
	// confusesOrigins: a managed grant is taken to record the consent to every origin.
	confusesOrigins bool
	// healsAlways: the reconcilers take every namespace to consent.
	healsAlways bool
	// deletesBlindly: deletions have no preconditions.
	deletesBlindly bool
	// hasty: what no route needs is deleted at once.
	hasty bool
	// deaf: that routes are deleted is not heard.
	deaf bool
}

func (f fault) relabel(w *world, obj client.Object) {
	namespace, ok := obj.(*metav1.PartialObjectMetadata)
	switch {
	case !ok || namespace.Kind != "Namespace":
	case f.ignoresVeto && namespace.Labels[policy.GrantsLabel] == policy.GrantsDeny:
		namespace.Labels = nil
	case f.healsAlways && w.reconciling:
		namespace.Labels = map[string]string{policy.GrantsLabel: policy.GrantsAllow}
	}
}

func (f fault) widen(grant *gwv1.ReferenceGrant) {
	if !f.ignoresOrigin || policy.IsManaged(grant) {
		return
	}
	from := grant.Spec.From[0]
	grant.Spec.From = nil
	for _, origin := range origins {
		from.Namespace = gwv1.Namespace(origin)
		grant.Spec.From = append(grant.Spec.From, from)
	}
}

func (f fault) mistaken(w *world, name client.ObjectKey, obj client.Object) bool {
	grant, ok := obj.(*gwv1.ReferenceGrant)
	if !ok || !f.confusesOrigins || w.reconciling {
		return false
	}
	for e := range w.each {
		if e.to.namespace != name.Namespace || grantName(e) != name.Name {
			continue
		}
		for _, origin := range origins {
			if there := w.shown.get(key{aGrant, name.Namespace, grantName(edge{origin, e.to})}); there != nil && there.ours {
				*grant = *policyEdge(e).Grant("")
				grant.CreationTimestamp = metav1.Now()
				return true
			}
		}
	}
	return false
}

// collecting has the few actions around a grant that nobody needs any more.
func collecting() *scenario {
	sc := &scenario{
		name: "collecting", outside: policy.OutsideReject, grants: policy.GrantsInject, consent: policy.ConsentRequester,
		services: []service{llama}, users: []*user{tenantB}, ticks: 2,
	}
	r1 := inSystem("r1", llama)
	again := apply(tenantB, other, r1)
	sc.add(
		begin(tenantB, leader, r1), complete(), abandon(), pass(),
		between(look(item{ofGrants, namespacedName(models, grantName(edge{system, llama}))}), 1, again),
	)
	return sc
}

// neighbors has two teams that refer to the same Service.
func neighbors() *scenario {
	sc := &scenario{
		name: "neighbors", outside: policy.OutsideRewrite, grants: policy.GrantsInject, consent: policy.ConsentRequester,
		services: []service{own, llama}, users: []*user{tenantA, tenantB}, ticks: 2,
	}
	sc.add(apply(tenantB, leader, outside(models, "r1", llama)), apply(tenantA, leader, outside(teamA, "r2", llama)))
	sc.add(owns("tenant b", ownGrant("mine", models, system, "llama"))...)
	return sc
}

// TestTeeth breaks routesteward in ways that the model must notice.
func TestTeeth(t *testing.T) {
	reject := func() *scenario { return rejecting("reject", policy.GrantsInject, policy.ConsentRequester) }
	for name, tt := range map[string]struct {
		fault    fault
		scenario func() *scenario
		depth    int
	}{
		"a veto is ignored":                         {fault{ignoresVeto: true}, reject, 2},
		"the origin is ignored":                     {fault{ignoresOrigin: true}, neighbors, 2},
		"a grant is counted for another origin":     {fault{confusesOrigins: true}, neighbors, 2},
		"a revoked grant is made again":             {fault{healsAlways: true}, reject, 3},
		"grants are deleted without a precondition": {fault{deletesBlindly: true}, collecting, 7},
		"no grace is kept":                          {fault{hasty: true}, interleaved, 2},
		"deletions are not heard":                   {fault{deaf: true}, reject, 3},
	} {
		t.Run(name, func(t *testing.T) {
			sc := tt.scenario()
			require.Empty(t, run(t, sc, tt.depth, 1).violations)
			sc = tt.scenario()
			sc.fault = tt.fault
			s := run(t, sc, tt.depth, 1)
			require.NotEmpty(t, s.violations, "nothing was noticed: %s", s)
			t.Logf("%s\n%s", s, s.failure())
		})
	}
}
