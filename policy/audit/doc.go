// Package audit explains why routes on the shared Gateway of a cluster work or do not work. It is pure: the caller gives it a
// Cluster. The command reads one from a live cluster or a snapshot, the background scan of the server from the API.
package audit
