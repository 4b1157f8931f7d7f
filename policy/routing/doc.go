// Package routing says by the rules of Gateway API which listeners accept a route, which route and rule a request
// goes to, and which matches compete for the same requests.
//
// It is pure and reads specifications only: what a gateway made of them is in the routes' status. What it cannot
// know (the labels of a namespace, the dialect of a regular expression) is policy.Unknown, never guessed. ListenerSets
// are not read.
package routing
