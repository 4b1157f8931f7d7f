// Package hack tests where hack/programs takes programs from.
package hack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// folder holds a program for each name, which prints its version and origin.
func folder(t *testing.T, version, origin string, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), program(version, origin), 0o755))
	}
	return dir
}

func program(version, origin string) []byte {
	return fmt.Appendf(nil, "#!/bin/sh\necho 'Client Version: %s'\necho '%s'\n", version, origin)
}

// checkout is a copy of what hack/programs reads, with an empty bin.
func checkout(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "hack"), 0o755))
	out, err := exec.Command("cp", "-r", "programs", "gobuild.sh", "flags", "controlplane", "setup-envtest", filepath.Join(root, "hack")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return root
}

// get runs hack/programs of a checkout.
func get(t *testing.T, root string, env []string, names ...string) (output string, exit int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "hack", "programs"), names...)
	cmd.Env = os.Environ()
	for _, name := range []string{"KUBEBUILDER_ASSETS", "PREBUILT", "ENVTEST_INDEX"} {
		cmd.Env = append(cmd.Env, name+"=")
	}
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if !errors.As(err, &failed) {
		require.NoError(t, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// says runs a program that was put into bin.
func says(t *testing.T, root, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "controlplane", name), args...).CombinedOutput()
	require.NoError(t, err)
	return string(out)
}

// index serves an index of setup-envtest with one archive.
func index(t *testing.T, version string, intact bool) *httptest.Server {
	t.Helper()
	var archive bytes.Buffer
	compressed := gzip.NewWriter(&archive)
	files := tar.NewWriter(compressed)
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		content := program(version, "downloaded")
		require.NoError(t, files.WriteHeader(&tar.Header{Name: "controller-tools/envtest/" + name, Mode: 0o755, Size: int64(len(content))}))
		_, err := files.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, files.Close())
	require.NoError(t, compressed.Close())
	sum := fmt.Sprintf("%x", sha512.Sum512(archive.Bytes()))
	if !intact {
		archive.Write([]byte("more"))
	}
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("/index.yaml", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "releases:\n  %[1]s:\n    envtest-%[1]s-%s-%s.tar.gz:\n      hash: %s\n      selfLink: %s/archive\n", version, runtime.GOOS, runtime.GOARCH, sum, server.URL)
	})
	mux.HandleFunc("/archive", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(archive.Bytes()) })
	return server
}

func TestPrograms(t *testing.T) {
	assets := folder(t, "v1.37.0", "asset", "etcd", "kube-apiserver", "kubectl")
	fits := folder(t, "v1.36.4", "on PATH", "kubectl")
	tooOld := folder(t, "v1.35.0", "on PATH", "kubectl")
	good, wrongSum, wrongVersion := index(t, "v1.37.1", true), index(t, "v1.37.1", false), index(t, "v1.36.0", true)
	path := func(dir string) string { return "PATH=" + dir + string(filepath.ListSeparator) + os.Getenv("PATH") }

	// A closed port, and one where nobody ever answers.
	closed := httptest.NewServer(nil)
	closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { silent.Close() })

	tests := map[string]struct {
		env     []string
		names   []string
		exit    int
		want    []string
		version map[string]string
	}{
		"KUBEBUILDER_ASSETS comes first": {
			env:     []string{"KUBEBUILDER_ASSETS=" + assets, path(fits), "ENVTEST_INDEX=" + good.URL + "/index.yaml"},
			names:   []string{"etcd", "kube-apiserver", "kubectl"},
			want:    []string{"etcd, kube-apiserver, kubectl: from KUBEBUILDER_ASSETS (" + assets + ")"},
			version: map[string]string{"kube-apiserver": "asset", "kubectl": "asset"},
		},
		"then a kubectl on PATH that fits": {
			env:     []string{path(fits), "ENVTEST_INDEX=" + good.URL + "/index.yaml"},
			names:   []string{"kube-apiserver", "kubectl"},
			want:    []string{"kubectl: v1.36.4 from PATH (" + fits + ")", "kube-apiserver: v1.37.1 from setup-envtest, its checksum verified ("},
			version: map[string]string{"kubectl": "on PATH", "kube-apiserver": "downloaded"},
		},
		"but not one that is too old": {
			env:     []string{path(tooOld), "ENVTEST_INDEX=" + good.URL + "/index.yaml"},
			names:   []string{"kubectl"},
			want:    []string{"kubectl: v1.37.1 from setup-envtest"},
			version: map[string]string{"kubectl": "downloaded"},
		},
		"a wrong checksum is refused": {
			env:   []string{path(tooOld), "ENVTEST_INDEX=" + wrongSum.URL + "/index.yaml"},
			names: []string{"kubectl"},
			exit:  1,
			want:  []string{"refused what setup-envtest downloaded: ", "checksum mismatch", "To build from source instead: PREBUILT=never"},
		},
		"a closed index: source": {
			env:     []string{"ENVTEST_INDEX=" + closed.URL},
			names:   []string{"etcd"},
			want:    []string{"etcd: built from source (KUBEBUILDER_ASSETS is not set; setup-envtest cannot reach its index)"},
			version: map[string]string{"etcd": "etcd Version: 3."},
		},
		"an index that never answers: source": {
			env:     []string{"ENVTEST_INDEX=http://" + silent.Addr().String()},
			names:   []string{"etcd"},
			want:    []string{"etcd: built from source (KUBEBUILDER_ASSETS is not set; setup-envtest cannot reach its index)"},
			version: map[string]string{"etcd": "etcd Version: 3."},
		},
		"an index without this version: source": {
			env:     []string{"ENVTEST_INDEX=" + wrongVersion.URL + "/index.yaml"},
			names:   []string{"etcd"},
			want:    []string{"setup-envtest's index has no Kubernetes 1.37.x for this machine"},
			version: map[string]string{"etcd": "etcd Version: 3."},
		},
		"PREBUILT=never": {
			env:     []string{"PREBUILT=never", "KUBEBUILDER_ASSETS=" + assets, "ENVTEST_INDEX=" + good.URL + "/index.yaml"},
			names:   []string{"etcd"},
			want:    []string{"etcd: built from source (PREBUILT=never)"},
			version: map[string]string{"etcd": "etcd Version: 3."},
		},
		"unknown": {names: []string{"kubelet"}, exit: 2, want: []string{"unknown program kubelet"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := checkout(t)
			output, exit := get(t, root, test.env, test.names...)
			require.Equal(t, test.exit, exit, output)
			for _, want := range test.want {
				require.Contains(t, output, want)
			}
			for name, want := range test.version {
				require.Contains(t, says(t, root, name, "--version"), want)
			}
			if exit != 0 {
				require.NoFileExists(t, filepath.Join(root, "bin", "controlplane", test.names[0]))
				return
			}
			again, exit := get(t, root, test.env, test.names...)
			require.Zero(t, exit, again)
			require.NotContains(t, again, "building", "a second time nothing is built")
			require.Contains(t, again, test.want[0], "and the origin is shown again")
		})
	}
}

// TestProgramsAfterTheIndexIsGone: what was downloaded once is used without asking again, until PREBUILT=never.
func TestProgramsAfterTheIndexIsGone(t *testing.T) {
	server := index(t, "v1.37.1", true)
	root := checkout(t)
	output, exit := get(t, root, []string{"ENVTEST_INDEX=" + server.URL + "/index.yaml"}, "etcd")
	require.Zero(t, exit, output)
	server.Close()
	output, exit = get(t, root, []string{"ENVTEST_INDEX=" + server.URL + "/index.yaml"}, "etcd")
	require.Zero(t, exit, output)
	require.Contains(t, output, "etcd: v1.37.1 from setup-envtest")
	require.Contains(t, says(t, root, "etcd"), "downloaded")
	output, exit = get(t, root, []string{"PREBUILT=never"}, "etcd")
	require.Zero(t, exit, output)
	require.Contains(t, says(t, root, "etcd", "--version"), "etcd Version: 3.")
	require.False(t, strings.Contains(output, "setup-envtest"), output)
}
