package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/webhook/webhooktest"
)

// separator is between documents.
const separator = "---\n"

// checkInput is what is checked and, for comparison, only parsed.
type checkInput struct {
	title, kind string
	// files are how many the documents are in, and repair is of how many documents --fix has to move one.
	files, repair int
}

// write makes the input in an empty folder.
func (c checkInput) write(folder string, documents int) error {
	if err := errors.Join(os.RemoveAll(folder), os.MkdirAll(folder, 0o755)); err != nil {
		return err
	}
	// A route as AIBrix writes them.
	route := webhooktest.Route()
	route.Kind, route.ObjectMeta = c.kind, metav1.ObjectMeta{Name: route.Name, Namespace: "NAMESPACE", Labels: route.Labels}
	text, err := yaml.Marshal(route)
	if err != nil {
		return err
	}
	template, _, _ := strings.Cut(string(text), "status:") // which nobody writes
	texts := make([]string, documents)
	for i := range texts {
		namespace := systemNamespace
		if c.repair > 0 && i%c.repair == 0 {
			namespace = "team-a"
		}
		texts[i] = strings.NewReplacer("model-1", fmt.Sprintf("model-%d", i), "NAMESPACE", namespace).Replace(template)
	}
	file := 0
	for part := range slices.Chunk(texts, documents/c.files) {
		file++
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%06d.yaml", file)), []byte(strings.Join(part, separator)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// check compares `routesteward check` with parsing the same YAML.
func check(ctx context.Context, o options) (_ []table, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	t := table{head: []string{"Documents", "Input", "", "Documents/s", "Time of floor", "Range", "CPU s", "MiB at most"}}
	for _, input := range []checkInput{
		{"routes in one file", "HTTPRoute", 1, 0},
		{"routes in as many files", "HTTPRoute", o.n, 0},
		{"another kind in one file", "Widget", 1, 0},
		{"routes in one file, one of a hundred to be fixed", "HTTPRoute", 1, 100},
		{"routes in one file, all to be fixed", "HTTPRoute", 1, 1},
	} {
		progress("%s", input.title)
		contenders := [][]string{{"parsing alone", self, "parse", dir}, {"check", o.binary, "check", "-f", dir}}
		if input.repair > 0 {
			contenders = append(contenders, []string{"check --fix", o.binary, "check", "--fix", "-f", dir})
		}
		all := make([][]ran, len(contenders))
		for range o.rounds {
			if err := input.write(dir, o.n); err != nil {
				return nil, err
			}
			for i, c := range contenders {
				one, err := runProcess(ctx, c[1], c[2:]...)
				if err != nil {
					return nil, err
				}
				all[i] = append(all[i], one)
			}
		}
		for i, c := range contenders {
			wall := func(r ran) float64 { return r.wall.Seconds() }
			times := ratios(all[i], all[0], wall)
			t.row(o.n, input.title, c[0], int(float64(o.n)/medianOf(all[i], wall)), percent(median(times)), spread(times),
				medianOf(all[i], func(r ran) float64 { return r.cpu.Seconds() }), mebibytes(int64(medianOf(all[i], func(r ran) float64 { return float64(r.peak) }))))
		}
	}
	return []table{t}, nil
}

// parseOnly is the floor: it reads a folder's files, cuts them into documents and decodes each.
func parseOnly(folder string) error {
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for document := range bytes.SplitSeq(text, []byte(separator)) {
			group.Go(func() error { return yaml.UnmarshalStrict(document, &gwv1.HTTPRoute{}) })
		}
	}
	return group.Wait()
}
