package policy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/routesteward/routesteward"

// maxPackages bounds the packages of others: it keeps the time bounded in which the program compiles from empty caches.
const maxPackages = 908

// goPackage is what `go list -json` reports about a package. Imports and Deps are those of the program, not of its tests.
type goPackage struct {
	ImportPath    string
	Standard      bool
	Imports, Deps []string
}

// packages are all packages of the module and whatever they depend on.
func packages(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Standard,Imports,Deps", module+"/...")
	out, err := cmd.Output()
	require.NoError(t, err)
	all := map[string]goPackage{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else {
			require.NoError(t, err)
		}
		all[p.ImportPath] = p
	}
}

func within(importPath string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool {
		return importPath == folder || strings.HasPrefix(importPath, folder+"/")
	})
}

func TestImportDirection(t *testing.T) {
	all := packages(t)
	require.Contains(t, all, module+"/policy")

	// The engine and what binds it to flags stay free of clients, servers and loggers.
	for folder, allowed := range map[string][]string{
		"/policy":           {"k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/gateway-api"},
		"/policy/settings":  {"k8s.io/apimachinery", "github.com/spf13/pflag", "go.yaml.in/yaml", "sigs.k8s.io/yaml", module + "/policy"},
		"/policy/routing":   {"k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/gateway-api", module + "/policy"},
		"/policy/audit":     {"k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/gateway-api", module + "/policy"},
		"/policy/manifest":  {"k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/gateway-api", "sigs.k8s.io/json", "sigs.k8s.io/yaml", "go.yaml.in/yaml", module + "/policy"},
		"/policy/reference": {"github.com/spf13/pflag", module + "/policy", module + "/policy/settings"},
	} {
		for _, imported := range all[module+folder].Imports {
			require.True(t, all[imported].Standard || within(imported, allowed...), "%s imports %s", folder, imported)
		}
	}

	// The engine has no I/O, clock, randomness or flags of its own.
	for _, imported := range all[module+"/policy"].Imports {
		require.False(t, within(imported, "os", "net", "io", "context", "time", "log", "flag", "math/rand", "syscall"), "the engine imports %s", imported)
	}

	// Directly or not; "" is the program.
	for folder, forbidden := range map[string][]string{
		"/policy":          {module + "/webhook"},
		"/policy/check":    {module + "/webhook"},
		"/policy/manifest": {module + "/webhook", module + "/policy/check", module + "/policy/audit", "k8s.io/client-go"},
		"/webhook":         {module + "/policy/check", module + "/policy/audit/output", module + "/policy/audit/html"},
		"": {
			module + "/policy/policytest", module + "/hack", "github.com/stretchr/testify",
			// What an API server is made of, for nothing that a client needs.
			"k8s.io/apiserver", "google.golang.org/grpc", "go.opentelemetry.io/otel/sdk", "go.opentelemetry.io/otel/exporters", "github.com/google/cel-go",
			// A template looks methods up by their names: the linker would keep them all, 18 MB.
			"html/template",
		},
	} {
		for path, p := range all {
			if path != module+folder && (folder == "" || !within(path, module+folder)) {
				continue
			}
			for _, dependency := range p.Deps {
				require.False(t, within(dependency, forbidden...), "%s depends on %s", path, dependency)
			}
		}
	}
	foreign := slices.DeleteFunc(slices.Clone(all[module].Deps), func(path string) bool { return within(path, module) })
	require.LessOrEqual(t, len(foreign), maxPackages, "packages in the program: does a new import bring more than it is worth?")
}
