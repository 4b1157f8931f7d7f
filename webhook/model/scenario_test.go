package model

import (
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

// scenario is one configuration of routesteward, and what can happen in it.
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
	// depth of the search, and of the one that takes minutes.
	depth, deep int
	fault       fault
}

var (
	llama = service{models, "llama"}
	qwen  = service{models, "qwen"}
	own   = service{teamA, "llama"}
)

func scenarios() []*scenario {
	return []*scenario{
		rejecting("reject", policy.GrantsInject, policy.ConsentRequester),
		rejecting("reject, consent of namespaces only", policy.GrantsInject, policy.ConsentNamespace),
		rejecting("reject, grants required", policy.GrantsRequire, policy.ConsentRequester),
		stale(),
		interleaved(),
		rewriting("rewrite", policy.ConsentRequester),
		rewriting("rewrite, consent of namespaces only", policy.ConsentNamespace),
		staleRewriting(),
	}
}

func inSystem(name string, to ...service) manifest {
	return manifest{namespace: system, name: name, parent: sharedGateway, to: to}
}

// rejecting is --outside=reject with caches that follow at once: routes of the system namespace, two Services, and whatever their
// namespace's owner says about them.
func rejecting(name string, grants policy.GrantsMode, consent policy.ConsentMode) *scenario {
	sc := &scenario{
		name: name, outside: policy.OutsideReject, grants: grants, consent: consent,
		services: []service{llama, qwen}, users: []*user{tenantA, tenantB}, ticks: 2, depth: 5, deep: 6,
	}
	for _, u := range sc.users {
		sc.add(apply(u, leader, inSystem("r1", llama)), apply(u, leader, inSystem("r1", llama, qwen)), apply(u, leader, inSystem("r1")))
	}
	sc.add(
		apply(tenantA, leader, inSystem("r2", llama)),
		apply(tenantA, leader, manifest{namespace: teamA, name: "r1", parent: sharedGateway, to: []service{llama}}),
		remove("tenant a", inSystem("r1").key()), remove("tenant a", inSystem("r2").key()),
		revoke("tenant b", edge{system, llama}), revoke("tenant b", edge{system, qwen}),
		pass(), restart(),
	)
	sc.add(life(models)...)
	sc.add(labels("tenant b", models)...)
	sc.add(owns("tenant b", ownGrant("mine", models, system, "llama"))...)
	sc.add(owns("tenant b", ownGrant("every", models, teamA, ""))...)
	sc.add(owns("tenant b", ownGrant(grantName(edge{system, llama}), models, teamA, "llama"))...)
	sc.add(forgeries(tenantB, edge{system, llama})...)
	return sc
}

// stale has replicas whose caches fall behind, all of them or a part, and change their roles.
func stale() *scenario {
	sc := &scenario{
		name: "stale caches", outside: policy.OutsideReject, grants: policy.GrantsInject, consent: policy.ConsentRequester,
		services: []service{llama}, users: []*user{tenantA, tenantB}, ticks: 4, lag: 1, depth: 5, deep: 6,
	}
	for replica := range replicas {
		sc.add(apply(tenantA, replica, inSystem("r1", llama)), apply(tenantB, replica, inSystem("r1", llama)), fallBehind(replica))
		for _, k := range []kind{aNamespace, aGrant, aRoute} {
			sc.add(catchUp(replica, k))
		}
	}
	sc.add(
		remove("tenant a", inSystem("r1").key()),
		revoke("tenant b", edge{system, llama}),
		pass(), restart(), succeed(),
	)
	sc.add(life(models)...)
	sc.add(labels("tenant b", models)...)
	sc.add(owns("tenant b", ownGrant("mine", models, system, "llama"))...)
	return sc
}

// interleaved has admissions that are stored by another step, or never, and others that act in the midst of what routesteward does.
func interleaved() *scenario {
	sc := &scenario{
		name: "interleaved", outside: policy.OutsideReject, grants: policy.GrantsInject, consent: policy.ConsentRequester,
		services: []service{llama}, users: []*user{tenantA, tenantB}, ticks: 4, lag: 1, depth: 5, deep: 5,
	}
	r1, llamaEdge := inSystem("r1", llama), edge{system, llama}
	sc.add(complete(), abandon(), pass(), remove("tenant a", r1.key()), revoke("tenant b", llamaEdge))
	sc.add(labels("tenant b", models)...)
	sc.add(owns("tenant b", ownGrant("mine", models, system, "llama"))...)
	interruptions := append([]action{
		remove("tenant a", r1.key()), revoke("tenant b", llamaEdge), deleteNamespace(models), vanish(models),
		look(item{ofGrants, namespacedName(models, grantName(llamaEdge))}),
		apply(tenantB, other, inSystem("r2", llama)),
	}, labels("tenant b", models)...)
	interruptions = append(interruptions, owns("tenant b", ownGrant("mine", models, system, "llama"))...)
	for _, a := range []action{
		begin(tenantA, leader, r1), begin(tenantB, leader, r1), begin(tenantB, other, inSystem("r2", llama)),
		look(item{ofGrants, namespacedName(models, grantName(llamaEdge))}),
	} {
		if !a.system {
			sc.add(a)
		}
		for n := 1; n <= 3; n++ {
			for _, what := range interruptions {
				sc.add(between(a, n, what))
			}
		}
	}
	return sc
}

func (sc *scenario) add(actions ...action) { sc.actions = append(sc.actions, actions...) }

func life(namespace string) []action {
	return []action{deleteNamespace(namespace), vanish(namespace), createNamespace(namespace)}
}

func labels(who, namespace string) []action {
	return []action{relabel(who, namespace, policy.GrantsAllow), relabel(who, namespace, policy.GrantsDeny), relabel(who, namespace, "")}
}

// forgeries are what somebody who may write ReferenceGrants might do to get a consent recorded that nobody gave, or to keep one.
func forgeries(u *user, e edge) []action {
	k := key{aGrant, e.to.namespace, grantName(e)}
	managed := func(w *world) bool { there := w.s.objects.get(k); return there != nil && there.ours }
	return []action{
		forge(u, leader, "forges the managed grant of "+e.to.String(), func(w *world) bool { return !w.has(k) && alive(w.s.objects, e.to.namespace) },
			func(*world) *gwv1.ReferenceGrant { return policyEdge(e).Grant("forged") }),
		forge(u, leader, "widens the managed grant of "+e.to.String(), managed, func(*world) *gwv1.ReferenceGrant {
			grant := policyEdge(e).Grant("forged")
			grant.Spec.To[0].Name = nil
			return grant
		}),
		forge(u, leader, "takes the label from the managed grant of "+e.to.String(), managed, func(*world) *gwv1.ReferenceGrant {
			grant := policyEdge(e).Grant("forged")
			grant.Labels = nil
			return grant
		}),
		forge(u, leader, "labels the own grant as managed", func(w *world) bool { return w.has(key{aGrant, e.to.namespace, "mine"}) }, func(w *world) *gwv1.ReferenceGrant {
			grant := w.s.objects.get(key{aGrant, e.to.namespace, "mine"}).grant().DeepCopy()
			grant.Labels = map[string]string{policy.ManagedByLabel: policy.ManagedBy, policy.OriginLabel: system}
			return grant
		}),
	}
}

func outside(namespace, name string, to ...service) manifest {
	return manifest{namespace: namespace, name: name, parent: sharedGateway, to: to}
}

// rewriting is --outside=rewrite: routes beside their Services, whose copies go by the same name.
func rewriting(name string, consent policy.ConsentMode) *scenario {
	sc := &scenario{
		name: name, outside: policy.OutsideRewrite, grants: policy.GrantsInject, consent: consent,
		services: []service{own, llama}, users: []*user{tenantA, tenantB, platform}, ticks: 2, depth: 5, deep: 5,
	}
	orphan := outside(teamA, "r1", llama)
	orphan.parent = ""
	byHand := orphan
	byHand.parkedByHand = true
	unparked := orphan
	unparked.unparked = true
	copied := key{aRoute, system, "r1"}
	isCopy := func(w *world) bool { there := w.s.objects.get(copied); return there != nil && there.ours }
	forged := inSystem("r1", llama)
	forged.labels = map[string]string{policy.ManagedByLabel: policy.ManagedBy, policy.OriginLabel: models}
	sc.add(
		apply(tenantA, leader, outside(teamA, "r1", llama)), apply(tenantA, leader, outside(teamA, "r1", own)),
		apply(tenantA, leader, outside(teamA, "r1", own, llama)), apply(tenantA, leader, orphan),
		apply(tenantA, leader, byHand), apply(tenantA, leader, unparked), applySkipped(tenantA, outside(teamA, "r1", own)),
		apply(tenantB, leader, outside(models, "r1", llama)), apply(tenantB, leader, outside(models, "r1", own)),
		apply(platform, leader, outside(teamA, "r1", llama)), apply(platform, leader, inSystem("r1", llama)), apply(tenantA, leader, forged),
		remove("tenant a", key{aRoute, teamA, "r1"}), remove("tenant b", key{aRoute, models, "r1"}), remove("the platform", copied),
		revoke("tenant a", edge{teamA, own}), revoke("tenant b", edge{teamA, llama}),
		pass(), restart(),
	)
	for i := range sc.actions {
		// To write a stored copy is another thing than to forge one.
		if a := &sc.actions[i]; a.label == apply(tenantA, leader, forged).label {
			a.enabled = func(w *world) bool { return isCopy(w) || !w.has(copied) }
		}
	}
	sc.add(life(models)...)
	sc.add(labels("tenant b", models)...)
	sc.add(owns("tenant b", ownGrant("mine", models, system, "llama"))...)
	sc.add(owns("tenant b", ownGrant("friends", models, teamA, "llama"))...)
	return sc
}

// staleRewriting is --outside=rewrite with caches that fall behind, and others who act in the midst of what the reconcilers do.
func staleRewriting() *scenario {
	sc := &scenario{
		name: "rewrite, stale caches", outside: policy.OutsideRewrite, grants: policy.GrantsInject, consent: policy.ConsentRequester,
		services: []service{own, llama}, users: []*user{tenantA, tenantB, platform}, ticks: 4, lag: 1, depth: 5, deep: 5,
	}
	for replica := range replicas {
		sc.add(apply(tenantA, replica, outside(teamA, "r1", llama)), apply(platform, replica, outside(teamA, "r1", llama)),
			apply(tenantB, replica, outside(models, "r1", llama)), fallBehind(replica))
		for _, k := range []kind{aNamespace, aGrant, aRoute} {
			sc.add(catchUp(replica, k))
		}
	}
	sc.add(
		apply(tenantA, leader, outside(teamA, "r1", own)),
		remove("tenant a", key{aRoute, teamA, "r1"}), remove("tenant b", key{aRoute, models, "r1"}), remove("the platform", key{aRoute, system, "r1"}),
		revoke("tenant b", edge{teamA, llama}),
		pass(), restart(), succeed(),
	)
	sc.add(labels("tenant b", models)...)
	sc.add(owns("tenant b", ownGrant("mine", models, system, "llama"))...)
	sc.add(owns("tenant b", ownGrant("friends", models, teamA, "llama"))...)
	return sc
}
