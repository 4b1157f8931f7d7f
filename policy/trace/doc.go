// Package trace sends a request through a gateway and explains its way: which route should have served it, what stopped it
// or let it past, and which pod answered.
//
// Explain is pure: it reads what came back and what is known of the cluster, and nothing else.
package trace
