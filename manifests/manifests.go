// Package manifests embeds the files that install routesteward with `kubectl apply`. They are rendered from the chart.
package manifests

import (
	_ "embed"
	"regexp"
	"slices"
	"strings"
)

var (
	// Install is install.yaml: certificates of routesteward's own (--certs=embedded).
	//go:embed install.yaml
	Install string
	// InstallCertManager is install-cert-manager.yaml: certificates of cert-manager's (--certs=cert-manager).
	//go:embed install-cert-manager.yaml
	InstallCertManager string
)

var kindLine = regexp.MustCompile(`(?m)^kind: (\S+)$`)

// Pick returns the objects of these kinds in a file, in its order and with its comments; empty when it has none.
func Pick(file string, kinds ...string) string {
	var picked strings.Builder
	for _, object := range strings.Split(file, "\n---\n") {
		if kind := kindLine.FindStringSubmatch(object); kind != nil && slices.Contains(kinds, kind[1]) {
			picked.WriteString("---\n" + strings.TrimSuffix(object, "\n") + "\n")
		}
	}
	return picked.String()
}
