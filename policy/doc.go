// Package policy decides about routes: which are governed, what they refer to in
// other namespaces, who consented to that, and which ReferenceGrants they need.
//
// It is pure: Evaluate is a total, deterministic function of a request and facts.
// There is no client, context, clock or logger here, and inputs are never changed.
// The webhook fills Facts from its caches and `routesteward check` from files, so both
// reach the same decision in the same words; the reconcilers use the same functions
// for edges and grants.
package policy
