package model

import (
	"github.com/routewarden/routewarden/policy"
)

// scenario is one configuration of routewarden, and what can happen in it.
type scenario struct {
	name     string
	outside  policy.OutsideMode
	grants   policy.GrantsMode
	consent  policy.ConsentMode
	services []service
	users    []*user
	// ticks are the parts of the grace; lag is after how many of them nothing is pending and no cache behind any more.
	ticks, lag int
	actions    []action
	// interruptions are what may happen in the midst of the actions whose calls are interrupted.
	interruptions []action
	depth, deep   int
	fault         fault
}

// fault breaks routewarden, or what it stands on, so that the model must find a counterexample.
type fault struct {
	deletesBlindly bool
}

var (
	llama = service{models, "llama"}
	qwen  = service{models, "qwen"}
	own   = service{teamA, "llama"}
)

func scenarios() []*scenario {
	var all []*scenario
	for _, mode := range []struct {
		name    string
		grants  policy.GrantsMode
		consent policy.ConsentMode
	}{
		{"reject", policy.GrantsInject, policy.ConsentRequester},
	} {
		all = append(all, rejecting(mode.name, mode.grants, mode.consent))
	}
	return all
}

func rejecting(name string, grants policy.GrantsMode, consent policy.ConsentMode) *scenario {
	sc := &scenario{
		name: name, outside: policy.OutsideReject, grants: grants, consent: consent,
		services: []service{llama, qwen}, users: []*user{tenantA, tenantB, platform}, ticks: 2, lag: 0, depth: 5, deep: 7,
	}
	r1 := func(to ...service) manifest { return manifest{namespace: system, name: "r1", parent: sharedGateway, to: to} }
	r2 := manifest{namespace: system, name: "r2", parent: sharedGateway, to: []service{llama}}
	for _, u := range []*user{tenantA, tenantB} {
		sc.actions = append(sc.actions, apply(u, leader, r1(llama)), apply(u, leader, r1(llama, qwen)), apply(u, leader, r1()))
	}
	sc.actions = append(sc.actions,
		apply(tenantA, leader, r2),
		apply(tenantA, leader, manifest{namespace: teamA, name: "r1", parent: sharedGateway, to: []service{llama}}),
		remove("tenant a", r1().key()), remove("tenant a", r2.key()),
		revoke("tenant b", edge{system, llama}), revoke("tenant b", edge{system, qwen}),
	)
	sc.actions = append(sc.actions, life(models)...)
	sc.actions = append(sc.actions, owns("tenant b", ownGrant("mine", models, system, "llama"))...)
	sc.actions = append(sc.actions, owns("tenant b", ownGrant("every", models, teamA, ""))...)
	sc.actions = append(sc.actions, owns("tenant b", ownGrant(grantName(edge{system, llama}), models, teamA, "llama"))...)
	sc.actions = append(sc.actions,
		relabel("tenant b", models, policy.GrantsAllow), relabel("tenant b", models, policy.GrantsDeny), relabel("tenant b", models, ""),
		pass(), restart(),
	)
	return sc
}

func life(namespace string) []action {
	return []action{deleteNamespace(namespace), vanish(namespace), createNamespace(namespace)}
}
