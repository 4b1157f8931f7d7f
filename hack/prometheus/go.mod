// Prometheus and promtool, with which alerts and dashboard are tested, built from source. go.sum is that of Prometheus.
// Its indirect requirements are not complete, as some of what its service discoveries need is not on the Go module proxy; they are
// left out. Those that are here give it the versions of the other modules.
// To change the version: go mod edit -require=github.com/prometheus/prometheus@VERSION, copy its go.sum, and build with -mod=mod once.
module github.com/routesteward/routesteward/hack/prometheus

go 1.26.7

require github.com/prometheus/prometheus v0.316.0

require (
	github.com/google/gnostic-models v0.7.1 // indirect
	github.com/mdlayher/socket v0.6.1 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	k8s.io/api v0.37.2 // indirect
	k8s.io/apimachinery v0.37.2 // indirect
	k8s.io/client-go v0.37.2 // indirect
)
