// Package audit says of a cluster why routes on the shared Gateway do or do not work. It is pure: what it knows is given to
// it, by the command from a live cluster or a snapshot, by the background scan of the server from the API.
package audit
