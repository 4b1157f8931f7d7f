// Command licenses tells under which licences the modules are that are linked into a program. It prints a table, or with
// -texts the licences themselves, which must accompany the program. It exits with 1 when a module has no licence that it
// knows, or one that is not allowed.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// allowed are the licences that ask for no more than to be passed on; none of them is copyleft.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "Unlicense"}

// platforms are those that are released: each may link other modules.
var platforms = []string{"linux", "darwin", "windows"}

// licenseFile matches the names of files that hold a licence or what it asks to be passed on.
var licenseFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice)([-._].*)?$`)

// module is as `go list -json` tells it.
type module struct {
	Path, Version, Dir string
	Main               bool
	Replace            *module
}

// licensed is a module with the files that license it, by their path in the module.
type licensed struct {
	module
	files map[string][]byte
	ids   []string
}

func main() {
	flags := flag.NewFlagSet("licenses", flag.ExitOnError)
	texts := flags.Bool("texts", false, "print the licences themselves")
	_ = flags.Parse(os.Args[1:])
	if err := run(os.Stdout, *texts, flags.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, texts bool, packages []string) error {
	if len(packages) == 0 {
		packages = []string{"."}
	}
	modules, err := linked(packages)
	if err != nil {
		return err
	}
	var faults []error
	for _, m := range modules {
		faults = append(faults, m.judge())
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	if texts {
		return writeTexts(w, modules)
	}
	return writeTable(w, modules)
}

// linked are the modules of which packages are linked, the program's own left out, each with the licences in it that hold
// for these packages.
func linked(packages []string) ([]*licensed, error) {
	byPath := map[string]*licensed{}
	for _, goos := range platforms {
		cmd := exec.Command("go", append([]string{"list", "-deps", "-json=Dir,Module"}, packages...)...)
		cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cmd, err)
		}
		for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
			var p struct {
				Dir    string
				Module *module
			}
			if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
			if p.Module == nil || p.Module.Main {
				continue // the standard library, which is listed by hand, or ourselves
			}
			m := byPath[p.Module.Path]
			if m == nil {
				m = &licensed{module: *p.Module, files: map[string][]byte{}}
				byPath[p.Module.Path] = m
			}
			if err := m.collect(p.Dir); err != nil {
				return nil, err
			}
		}
	}
	standard, err := standardLibrary()
	if err != nil {
		return nil, err
	}
	modules := []*licensed{standard}
	for _, m := range byPath {
		modules = append(modules, m)
	}
	slices.SortFunc(modules, func(a, b *licensed) int { return strings.Compare(a.Path, b.Path) })
	return modules, nil
}

func standardLibrary() (*licensed, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, err
	}
	root := strings.TrimSpace(string(out))
	// Its version is that of the toolchain, which go.mod does not fix.
	m := &licensed{module: module{Path: "std (the Go standard library)", Dir: root}, files: map[string][]byte{}}
	return m, m.collect(root)
}

// collect reads the licences from a package's folder up to the module's: code that was taken over from elsewhere has its own.
func (m *licensed) collect(dir string) error {
	for {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			name, err := filepath.Rel(m.Dir, filepath.Join(dir, entry.Name()))
			if err != nil {
				return err
			}
			if m.files[name] != nil || !entry.Type().IsRegular() || !licenseFile.MatchString(entry.Name()) || filepath.Ext(name) == ".go" {
				continue
			}
			if m.files[name], err = os.ReadFile(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
		if dir == m.Dir || !strings.HasPrefix(dir, m.Dir) {
			return nil
		}
		dir = filepath.Dir(dir)
	}
}

// judge finds out the licences and reports those that are unknown or not allowed.
func (m *licensed) judge() error {
	for _, name := range m.names() {
		if strings.HasPrefix(strings.ToUpper(filepath.Base(name)), "NOTICE") {
			continue
		}
		found := licensecheck.Scan(m.files[name])
		// What is not covered is a copyright line or two, or it is a licence that nobody knows.
		if found.Percent < 70 {
			return fmt.Errorf("%s: no known licence in %s (%.0f%% of the text is known)", m, name, found.Percent)
		}
		for _, match := range found.Match {
			if match.IsURL {
				continue
			}
			if !slices.Contains(allowed, match.ID) {
				return fmt.Errorf("%s: the licence %s in %s is not allowed", m, match.ID, name)
			}
			if !slices.Contains(m.ids, match.ID) {
				m.ids = append(m.ids, match.ID)
			}
		}
	}
	if len(m.ids) == 0 {
		return fmt.Errorf("%s: no licence", m)
	}
	slices.Sort(m.ids)
	return nil
}

func (m *licensed) String() string {
	return strings.TrimSpace(m.Path + " " + m.Version)
}

func (m *licensed) names() []string {
	var names []string
	for name := range m.files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func writeTable(w io.Writer, modules []*licensed) error {
	var text strings.Builder
	text.WriteString("# Licences of what is linked into routewarden\n\nGenerated by `make generate`. routewarden itself is under the Apache License 2.0 (LICENSE). The texts accompany every release.\n\n" +
		"| Module | Version | Licence (SPDX) |\n|---|---|---|\n")
	for _, m := range modules {
		fmt.Fprintf(&text, "| %s | %s | %s |\n", m.Path, m.Version, strings.Join(m.ids, " AND "))
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func writeTexts(w io.Writer, modules []*licensed) error {
	rule := strings.Repeat("=", 80)
	for _, m := range modules {
		for _, name := range m.names() {
			if _, err := fmt.Fprintf(w, "%s\n%s: %s\n%s\n\n%s\n", rule, m, filepath.ToSlash(name), rule, bytes.TrimSpace(m.files[name])); err != nil {
				return err
			}
		}
	}
	return nil
}
