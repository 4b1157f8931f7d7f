// Prometheus and promtool, with which alerts and dashboard are tested, built from source. go.sum is that of Prometheus.
// Without indirect requirements, as some of what its service discoveries need is not on the Go module proxy; they are left out.
// To change the version: go mod edit -require=github.com/prometheus/prometheus@VERSION, copy its go.sum, and build with -mod=mod once.
module github.com/routewarden/routewarden/hack/prometheus

go 1.26.7

require github.com/prometheus/prometheus v0.316.0
