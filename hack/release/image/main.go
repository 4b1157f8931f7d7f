// Command image writes a container image as an OCI layout, without a container engine and without a base: the program is static
// and needs nothing beside it. The same input makes the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is who distroless calls nonroot. It is a number, so that the kubelet can tell that it is not root.
const user = "65532:65532"

type options struct {
	output, version, revision string
	created                   time.Time
	// programs are by platform, such as linux/arm64; files are by their path in the image, beside the program.
	programs, files map[string]string
}

func main() {
	o := options{programs: map[string]string{}, files: map[string]string{}}
	flags := flag.NewFlagSet("image", flag.ExitOnError)
	flags.StringVar(&o.output, "output", "", "`DIR`ectory of the OCI layout, which must not exist")
	flags.StringVar(&o.version, "version", "", "`VERSION` of the program and tag of the image")
	flags.StringVar(&o.revision, "revision", "", "`COMMIT` that it was built from")
	created := flags.Int64("created", 0, "`SECONDS` since 1970 that are the time of everything in the image")
	flags.Func("program", "`PLATFORM=FILE`, such as linux/amd64=routewarden; may be repeated", into(o.programs))
	flags.Func("file", "`PATH=FILE` that is added under that path; may be repeated", into(o.files))
	_ = flags.Parse(os.Args[1:])
	o.created = time.Unix(*created, 0).UTC()
	if err := write(o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func into(pairs map[string]string) func(string) error {
	return func(pair string) error {
		key, value, found := strings.Cut(pair, "=")
		if !found || key == "" || value == "" {
			return errors.New("want KEY=FILE")
		}
		pairs[key] = value
		return nil
	}
}

func write(o options) error {
	if o.output == "" || o.version == "" || len(o.programs) == 0 {
		return errors.New("--output, --version and at least one --program are needed")
	}
	if _, err := os.Stat(o.output); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s exists already", o.output)
	}
	labels := map[string]string{
		"org.opencontainers.image.title":       "routewarden",
		"org.opencontainers.image.description": "Keeps routes on a shared Gateway where that Gateway can serve them",
		"org.opencontainers.image.source":      "https://github.com/routewarden/routewarden",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     o.version,
		"org.opencontainers.image.revision":    o.revision,
		"org.opencontainers.image.created":     o.created.Format(time.RFC3339),
	}
	files, err := layer(o.files, 0o444, o.created)
	if err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range sorted(o.programs) {
		program, err := layer(map[string]string{"/routewarden": o.programs[platform]}, 0o555, o.created)
		if err != nil {
			return err
		}
		image, described, err := image(platform, labels, o.created, files, program)
		if err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: described}})
	}
	index = mutate.Annotations(index, labels).(v1.ImageIndex)
	to, err := layout.Write(o.output, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	return to.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": o.version}))
}

func image(platform string, labels map[string]string, created time.Time, layers ...v1.Layer) (v1.Image, *v1.Platform, error) {
	described, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	var adds []mutate.Addendum
	for _, layer := range layers {
		adds = append(adds, mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{Created: v1.Time{Time: created}}})
	}
	filled, err := mutate.Append(base, adds...)
	if err != nil {
		return nil, nil, err
	}
	config, err := filled.ConfigFile()
	if err != nil {
		return nil, nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = described.OS, described.Architecture, described.Variant
	config.Created = v1.Time{Time: created}
	config.Config = v1.Config{User: user, WorkingDir: "/", Entrypoint: []string{"/routewarden"}, Labels: labels}
	configured, err := mutate.ConfigFile(filled, config)
	return configured, described, err
}

// layer holds the files under their paths, and the folders that these need, all of root's.
func layer(files map[string]string, mode int64, created time.Time) (v1.Layer, error) {
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	entry := func(name string, kind byte, mode, size int64) error {
		return archive.WriteHeader(&tar.Header{Name: strings.TrimPrefix(name, "/"), Typeflag: kind, Mode: mode, Size: size, ModTime: created, Format: tar.FormatPAX})
	}
	folders := map[string]bool{"/": true}
	for _, name := range sorted(files) {
		if !path.IsAbs(name) {
			return nil, fmt.Errorf("%q is not an absolute path", name)
		}
		if folder := path.Dir(name); !folders[folder] {
			folders[folder] = true
			if err := entry(folder+"/", tar.TypeDir, 0o755, 0); err != nil {
				return nil, err
			}
		}
		data, err := os.ReadFile(files[name])
		if err != nil {
			return nil, err
		}
		if err := entry(name, tar.TypeReg, mode, int64(len(data))); err != nil {
			return nil, err
		}
		if _, err := archive.Write(data); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}

func sorted(pairs map[string]string) []string {
	var keys []string
	for key := range pairs {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
