// Command image writes a container image as an OCI layout, from one layer for each platform, without a container engine and without
// a base: the program is static and needs nothing else. The same input makes the same bytes.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	version := flag.String("version", "", "`VERSION` of the program and tag of the image")
	revision := flag.String("revision", "", "`COMMIT` that it was built from")
	created := flag.Int64("created", 0, "`SECONDS` since 1970 that are the time of the image")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: image [flags] DIR OS/ARCH=LAYER.tar...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() < 2 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(flag.Arg(0), flag.Args()[1:], *version, *revision, time.Unix(*created, 0).UTC()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func write(dir string, layers []string, version, revision string, created time.Time) error {
	labels := map[string]string{
		"org.opencontainers.image.title":       "routesteward",
		"org.opencontainers.image.description": "Keeps routes on a shared Gateway where that Gateway can serve them",
		"org.opencontainers.image.source":      "https://github.com/routesteward/routesteward",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     version,
		"org.opencontainers.image.revision":    revision,
		"org.opencontainers.image.created":     created.Format(time.RFC3339),
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, argument := range layers {
		name, path, _ := strings.Cut(argument, "=")
		platform, err := v1.ParsePlatform(name)
		if err != nil {
			return err
		}
		layer, err := tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return err
		}
		base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
		image, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: created}}})
		if err != nil {
			return err
		}
		config, err := image.ConfigFile()
		if err != nil {
			return err
		}
		config = config.DeepCopy()
		config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
		config.Created = v1.Time{Time: created}
		// Distroless calls this user nonroot. It is a number, so that the kubelet can see that it is not root.
		config.Config = v1.Config{User: "65532:65532", WorkingDir: "/", Entrypoint: []string{"/routesteward"}, Labels: labels}
		if image, err = mutate.ConfigFile(image, config); err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	index = mutate.Annotations(index, labels).(v1.ImageIndex)
	to, err := layout.Write(dir, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	return to.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": version,
		// The name under which containerd imports it, as `kind load image-archive` does.
		"io.containerd.image.name": "ghcr.io/routesteward/routesteward:" + version,
	}))
}
