// Package release tests what a release is made of: the image, the bills of materials, the archives, and the checks before it.
package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const version = "v0.0.0-test"

// script runs a script of this folder and returns what it printed and its exit code.
func script(t *testing.T, env []string, name string, args ...string) (string, int) {
	t.Helper()
	return command(t, env, "", "./"+name, args...)
}

func command(t *testing.T, env []string, dir, name string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append([]string{"VERSION=" + version}, env...)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err, string(out))
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../bin/release", name))
	require.NoError(t, err)
	require.FileExists(t, path, "run `make release-tools`")
	return path
}

type descriptor struct {
	MediaType, Digest string
	Platform          struct{ OS, Architecture string }
	Annotations       map[string]string
}

func TestImage(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
	for _, out := range []string{first, second} {
		text, exit := script(t, nil, "image.sh", out)
		require.Zero(t, exit, text)
	}
	require.Equal(t, sums(t, first), sums(t, second), "two builds of the same commit are the same bytes")

	var top, index struct{ Manifests []descriptor }
	read(t, filepath.Join(first, "oci", "index.json"), &top)
	require.Len(t, top.Manifests, 1)
	require.Equal(t, version, top.Manifests[0].Annotations["org.opencontainers.image.ref.name"])
	require.Equal(t, "ghcr.io/routesteward/routesteward:"+version, top.Manifests[0].Annotations["io.containerd.image.name"])
	blob(t, first, top.Manifests[0].Digest, &index)
	var platforms []string
	for _, manifest := range index.Manifests {
		platform := manifest.Platform.OS + "/" + manifest.Platform.Architecture
		platforms = append(platforms, platform)
		t.Run(platform, func(t *testing.T) { checkImage(t, first, manifest) })
	}
	require.Equal(t, []string{"linux/amd64", "linux/arm64"}, platforms)
}

func checkImage(t *testing.T, dir string, manifest descriptor) {
	var image struct {
		MediaType string
		Config    descriptor
		Layers    []descriptor
	}
	blob(t, dir, manifest.Digest, &image)
	require.Equal(t, "application/vnd.oci.image.manifest.v1+json", image.MediaType)
	var config struct {
		OS, Architecture, Created string
		Config                    struct {
			User, WorkingDir string
			Entrypoint, Cmd  []string
			Env              []string
			Labels           map[string]string
		}
	}
	blob(t, dir, image.Config.Digest, &config)
	require.Equal(t, manifest.Platform.Architecture, config.Architecture)
	require.Equal(t, "linux", config.OS)
	require.Equal(t, "65532:65532", config.Config.User)
	require.Equal(t, []string{"/routesteward"}, config.Config.Entrypoint)
	require.Empty(t, config.Config.Cmd)
	require.Empty(t, config.Config.Env)
	require.Equal(t, version, config.Config.Labels["org.opencontainers.image.version"])
	require.Equal(t, config.Created, config.Config.Labels["org.opencontainers.image.created"])
	require.Equal(t, dockerfileLabels(t), keys(config.Config.Labels), "as in the Dockerfile")

	files := map[string][]byte{}
	for _, layer := range image.Layers {
		content, err := os.ReadFile(blobPath(dir, layer.Digest))
		require.NoError(t, err)
		require.Equal(t, layer.Digest, fmt.Sprintf("sha256:%x", sha256.Sum256(content)))
		for header, data := range untar(t, content) {
			require.Zero(t, header.Uid, header.Name)
			require.Zero(t, header.Mode&0o7022, "%s: nobody may write it, and it is no setuid program", header.Name)
			if header.Typeflag == tar.TypeReg {
				files[strings.TrimPrefix(header.Name, "./")] = data
			}
		}
	}
	program := files["routesteward"]
	checkLicenses(t, files, "licenses/third_party/", program)
	require.Equal(t, []string{"licenses/LICENSE", "routesteward"}, keys(files), "nothing else is in it")

	binary, err := elf.NewFile(bytes.NewReader(program))
	require.NoError(t, err)
	require.Equal(t, map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[config.Architecture], binary.Machine)
	for _, segment := range binary.Progs {
		require.NotContains(t, []elf.ProgType{elf.PT_INTERP, elf.PT_DYNAMIC}, segment.Type, "it is static")
	}
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	require.NotContains(t, string(program), root, "it does not contain the paths where it was built")
	if config.Architecture == runtime.GOARCH && runtime.GOOS == "linux" {
		path := filepath.Join(t.TempDir(), "routesteward")
		require.NoError(t, os.WriteFile(path, program, 0o755))
		text, exit := command(t, nil, "", path, "version")
		require.Zero(t, exit, text)
		require.True(t, strings.HasPrefix(text, "routesteward "+version+" "), text)
	}
	checkBill(t, filepath.Join(dir, "routesteward-linux-"+config.Architecture+".cdx.json"), program)
}

// checkLicenses finds the license of each module that is linked into the program, and of the standard library, under a folder,
// and takes that folder out of the files.
func checkLicenses(t *testing.T, files map[string][]byte, folder string, program []byte) {
	t.Helper()
	licenses := map[string][]byte{}
	for name, content := range files {
		if path, found := strings.CutPrefix(name, folder); found {
			licenses[path] = content
			delete(files, name)
		}
	}
	info, err := buildinfo.Read(bytes.NewReader(program))
	require.NoError(t, err)
	for _, module := range append([]*debug.Module{{Path: "std"}}, info.Deps...) {
		require.True(t, slices.ContainsFunc(keys(licenses), func(name string) bool {
			return strings.HasPrefix(name, module.Path+"/") && len(licenses[name]) > 0
		}), "the license of %s is missing", module.Path)
	}
	require.Contains(t, string(licenses["sigs.k8s.io/controller-runtime/LICENSE"]), "Apache License")
}

// checkBill compares a bill of materials with what the Go toolchain has recorded in the program.
func checkBill(t *testing.T, path string, program []byte) {
	t.Helper()
	var bill struct {
		BOMFormat string
		Metadata  struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version string }
	}
	read(t, path, &bill)
	require.Equal(t, "CycloneDX", bill.BOMFormat)
	require.Equal(t, "github.com/routesteward/routesteward", bill.Metadata.Component.Name)
	require.Equal(t, version, bill.Metadata.Component.Version)
	info, err := buildinfo.Read(bytes.NewReader(program))
	require.NoError(t, err)
	want := []string{"std " + info.GoVersion}
	for _, module := range info.Deps {
		require.Nil(t, module.Replace)
		want = append(want, module.Path+" "+module.Version)
	}
	var listed []string
	for _, component := range bill.Components {
		listed = append(listed, component.Name+" "+component.Version)
	}
	require.ElementsMatch(t, want, listed)
}

// TestDockerfile: what needs a container engine to be built is at least the same as what does not.
func TestDockerfile(t *testing.T) {
	content, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	_, final, found := strings.Cut(string(content), "\nFROM ${BASE}\n")
	require.True(t, found)
	for _, line := range []string{"USER 65532:65532", `ENTRYPOINT ["/routesteward"]`, "WORKDIR /", "COPY --from=build /routesteward /routesteward", "COPY --from=build /licenses /licenses"} {
		require.Contains(t, final, "\n"+line+"\n")
	}
	require.NotContains(t, final, "RUN ", "there is no shell")
	require.Contains(t, string(content), `CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags="-s -w -X main.version=$VERSION"`)
}

func TestArchives(t *testing.T) {
	text, exit := command(t, nil, "../..", "bash", "-c", `. hack/release/common.sh && echo "${platforms[@]}"`)
	require.Zero(t, exit, text)
	require.Equal(t, "linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64\n", text)

	// linux/arm64 is what the image has too, so that nothing is compiled for this test.
	out := filepath.Join(t.TempDir(), "dist")
	text, exit = script(t, nil, "archives.sh", out, "linux/amd64", "linux/arm64")
	require.Zero(t, exit, text)
	var names []string
	for _, arch := range []string{"amd64", "arm64"} {
		name := "routesteward_0.0.0-test_linux_" + arch + ".tar.gz"
		names = append(names, name, name+".cdx.json")
		archive, err := os.ReadFile(filepath.Join(out, name))
		require.NoError(t, err)
		files := map[string][]byte{}
		for header, data := range untar(t, archive) {
			require.Zero(t, header.Uid)
			if header.Typeflag == tar.TypeReg {
				files[strings.TrimPrefix(header.Name, "./")] = data
			}
		}
		checkLicenses(t, files, "third_party/", files["routesteward"])
		require.Equal(t, []string{"LICENSE", "README.md", "routesteward"}, keys(files))
		checkBill(t, filepath.Join(out, name+".cdx.json"), files["routesteward"])
	}
	checksums, err := os.ReadFile(filepath.Join(out, "checksums.txt"))
	require.NoError(t, err)
	var want strings.Builder
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(out, name))
		require.NoError(t, err)
		fmt.Fprintf(&want, "%x  %s\n", sha256.Sum256(content), name)
	}
	require.Equal(t, want.String(), string(checksums))
}

func TestLicenses(t *testing.T) {
	table, exit := script(t, nil, "licenses.sh", "table")
	require.Zero(t, exit, table)
	committed, err := os.ReadFile("LICENSES.md")
	require.NoError(t, err)
	require.Equal(t, string(committed), table, "run `make generate`")

	mit, err := os.ReadFile(filepath.Join(moduleDir(t, "../..", "github.com/stretchr/testify"), "LICENSE"))
	require.NoError(t, err)
	gpl, err := os.ReadFile(filepath.Join(moduleDir(t, "tools", "github.com/google/licenseclassifier/v2"), "assets/License/GPL-3.0/license.txt"))
	require.NoError(t, err)
	for name, test := range map[string]struct{ license, want string }{
		"allowed":  {license: string(mit)},
		"copyleft": {license: string(gpl), want: "Not allowed license 'GPL-3.0' found for library 'example.com/library'"},
		"unknown":  {license: "You may use this on Sundays.\n", want: "Did not find license for library 'example.com/library'"},
		"none":     {want: "Did not find license for library 'example.com/library'"},
		"partly":   {license: string(mit) + string(gpl), want: "Not allowed license 'GPL-3.0' found for library 'example.com/library'"},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{
				"go.mod":             "module example.com/program\ngo 1.26\nrequire example.com/library v1.0.0\nreplace example.com/library => ./library\n",
				"main.go":            "package main\nimport _ \"example.com/library\"\nfunc main() {}\n",
				"library/go.mod":     "module example.com/library\ngo 1.26\n",
				"library/library.go": "package library\n",
			}
			if test.license != "" {
				files["library/LICENSE"] = test.license
			}
			out := filepath.Join(t.TempDir(), "licenses")
			text, exit := script(t, nil, "licenses.sh", "save", "linux", out, folder(t, files))
			if test.want == "" {
				require.Zero(t, exit, text)
				saved, err := os.ReadFile(filepath.Join(out, "example.com/library/LICENSE"))
				require.NoError(t, err)
				require.Equal(t, test.license, string(saved))
				return
			}
			require.Equal(t, 1, exit, text)
			require.Contains(t, text, test.want)
			require.NoDirExists(t, out)
		})
	}
}

// TestVulnerabilities shows that the check finds what is called, and only that.
func TestVulnerabilities(t *testing.T) {
	tool(t, "govulncheck")
	program := folder(t, map[string]string{
		"go.mod":  "module example.com/program\ngo 1.26\n",
		"main.go": "package main\nimport \"strings\"\nfunc main() { println(strings.Repeat(\"a\", 2)) }\n",
	})
	for name, test := range map[string]struct {
		env  []string
		exit int
		want string
	}{
		"called":     {env: []string{"GOVULNDB=" + database(t, "Repeat")}, exit: 1, want: "GO-2026-99999"},
		"not called": {env: []string{"GOVULNDB=" + database(t, "ToTitleSpecial")}, want: "No vulnerabilities found"},
		// Nobody listens on the port.
		"unreachable":              {env: []string{"GOVULNDB=", "HTTPS_PROXY=http://127.0.0.1:1"}, want: "!! NOT CHECKED for known vulnerabilities"},
		"unreachable where needed": {env: []string{"GOVULNDB=", "HTTPS_PROXY=http://127.0.0.1:1", "REQUIRE_VULNDB=1"}, exit: 2, want: "!! NOT CHECKED for known vulnerabilities"},
		"no such mirror":           {env: []string{"GOVULNDB=http://127.0.0.1:1"}, exit: 2, want: "vulndb"},
		"broken":                   {env: []string{"GOVULNDB=file://" + filepath.ToSlash(folder(t, map[string]string{"index/db.json": "{"}))}, exit: 2, want: "vulndb"},
	} {
		t.Run(name, func(t *testing.T) {
			text, exit := script(t, test.env, "vuln.sh", program)
			require.Equal(t, test.exit, exit, text)
			require.Contains(t, text, test.want)
		})
	}
}

// database is a vulnerability database that knows one vulnerable function of the package strings.
func database(t *testing.T, function string) string {
	t.Helper()
	const modified = `"modified": "2026-01-01T00:00:00Z"`
	return "file://" + filepath.ToSlash(folder(t, map[string]string{
		"index/db.json":      `{` + modified + `}`,
		"index/modules.json": `[{"path": "stdlib", "vulns": [{"id": "GO-2026-99999", ` + modified + `}]}]`,
		"index/vulns.json":   `[{"id": "GO-2026-99999", ` + modified + `}]`,
		"ID/GO-2026-99999.json": `{"schema_version": "1.3.1", "id": "GO-2026-99999", "published": "2026-01-01T00:00:00Z", ` + modified + `, "summary": "made up", "details": "made up",
			"affected": [{"package": {"name": "stdlib", "ecosystem": "Go"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}],
				"ecosystem_specific": {"imports": [{"path": "strings", "symbols": ["` + function + `"]}]}}],
			"database_specific": {"url": "https://example.com/GO-2026-99999"}}`,
	}))
}

// folder makes files in a new folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	return dir
}

func moduleDir(t *testing.T, dir, module string) string {
	t.Helper()
	out, err := exec.Command("go", "-C", dir, "list", "-m", "-f={{.Dir}}", module).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

var label = regexp.MustCompile(`(org\.opencontainers\.image\.[a-z]+)="`)

func dockerfileLabels(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	var labels []string
	for _, match := range label.FindAllStringSubmatch(string(content), -1) {
		labels = append(labels, match[1])
	}
	slices.Sort(labels)
	return labels
}

func keys[V any](m map[string]V) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func untar(t *testing.T, compressed []byte) map[*tar.Header][]byte {
	t.Helper()
	content, err := gzip.NewReader(bytes.NewReader(compressed))
	require.NoError(t, err)
	entries := map[*tar.Header][]byte{}
	for reader := tar.NewReader(content); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		require.NoError(t, err)
		if entries[header], err = io.ReadAll(reader); err != nil {
			require.NoError(t, err)
		}
	}
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(content, into))
}

func blobPath(dir, digest string) string {
	return filepath.Join(dir, "oci", "blobs", filepath.FromSlash(strings.Replace(digest, ":", "/", 1)))
}

func blob(t *testing.T, dir, digest string, into any) {
	t.Helper()
	read(t, blobPath(dir, digest), into)
}

// sums are the checksums of all files in a folder.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		sum := sha256.Sum256(content)
		found[strings.TrimPrefix(path, dir)] = hex.EncodeToString(sum[:])
		return err
	}))
	return found
}
