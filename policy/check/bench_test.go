package check_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/policytest"
)

// inside is a route that nothing is wrong with, of the size that AIBrix makes.
const inside = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: model-%d-router
  namespace: aibrix-system
  labels:
    model.aibrix.ai/name: model-%[1]d
spec:
  parentRefs:
  - group: gateway.networking.k8s.io
    kind: Gateway
    name: aibrix-eg
    namespace: aibrix-system
  rules:
  - matches:
    - path: {type: PathPrefix, value: /v1/completions}
      headers:
      - {type: Exact, name: model, value: model-%[1]d}
    - path: {type: PathPrefix, value: /v1/chat/completions}
      headers:
      - {type: Exact, name: model, value: model-%[1]d}
    backendRefs:
    - group: ""
      kind: Service
      name: model-%[1]d
      namespace: aibrix-system
      port: 8000
      weight: 1
    timeouts:
      request: 120s
`

// BenchmarkCheck checks documents in one file and in as many files, beside parsing them alone.
func BenchmarkCheck(b *testing.B) {
	const documents = 2000
	texts := make([]string, documents)
	many := map[string]string{}
	for i := range texts {
		texts[i] = fmt.Sprintf(inside, i)
		many[fmt.Sprintf("%04d.yaml", i)] = texts[i]
	}
	one := write(b, map[string]string{"in.yaml": strings.Join(texts, "---\n")})
	for _, input := range []struct{ name, dir string }{{"one file", one}, {"many files", write(b, many)}} {
		b.Run(input.name, func(b *testing.B) {
			for b.Loop() {
				report, err := check.Run(b.Context(), check.Options{Policy: defaultPolicy(b), Files: []string{input.dir}, Workers: 1})
				require.NoError(b, err)
				require.Equal(b, documents, report.Summary.Objects)
			}
			b.ReportMetric(float64(documents*b.N)/b.Elapsed().Seconds(), "documents/s")
		})
	}
	b.Run("parsing alone", func(b *testing.B) {
		for b.Loop() {
			text, err := os.ReadFile(filepath.Join(one, "in.yaml"))
			require.NoError(b, err)
			for document := range strings.SplitSeq(string(text), "---\n") {
				require.NoError(b, yaml.UnmarshalStrict([]byte(document), &gwv1.HTTPRoute{}))
			}
		}
		b.ReportMetric(float64(documents*b.N)/b.Elapsed().Seconds(), "documents/s")
	})
	b.Run("not ours", func(b *testing.B) {
		other := write(b, map[string]string{"in.yaml": strings.ReplaceAll(strings.Join(texts, "---\n"), "HTTPRoute", "TCPRoute")})
		for b.Loop() {
			_, err := check.Run(b.Context(), check.Options{Policy: defaultPolicy(b), Files: []string{other}, Workers: 1})
			require.NoError(b, err)
		}
		b.ReportMetric(float64(documents*b.N)/b.Elapsed().Seconds(), "documents/s")
	})
}

// outsideRoutes are so many routes of which each has to be fixed.
func outsideRoutes(documents int) string {
	var text strings.Builder
	for i := range documents {
		fmt.Fprintf(&text, "---\n"+strings.NewReplacer("aibrix-system\n  labels", "team-a\n  labels", "{type: PathPrefix, value: /v1/completions}", "{}",
			"{type: PathPrefix, value: /v1/chat/completions}", "{}", "headers:\n      - {type: Exact, name: model, value: model-%[1]d}", "headers: []").Replace(inside), i)
	}
	return text.String()
}

// TestAllocations bounds what a document allocates.
func TestAllocations(t *testing.T) {
	const documents = 20
	invalid := outsideRoutes(documents)
	options := func(text string) check.Options {
		return check.Options{Policy: defaultPolicy(t), Files: []string{write(t, map[string]string{"in.yaml": text})}, Workers: 1}
	}
	for name, tt := range map[string]struct {
		most    float64
		options check.Options
		run     func(check.Options) error
	}{
		"checked": {575, options(strings.ReplaceAll(invalid, "team-a", "aibrix-system")), func(o check.Options) error {
			report, err := check.Run(t.Context(), o)
			if len(report.Results) > 0 {
				t.Error(report.Results)
			}
			return err
		}},
		"refused": {950, options(invalid), func(o check.Options) error {
			report, err := check.Run(t.Context(), o)
			if len(report.Results) < documents {
				t.Error(report.Results)
			}
			return err
		}},
		"fixed": {2570, options(invalid), func(o check.Options) error {
			fixes, err := check.Fix(t.Context(), o)
			if len(fixes.Unfixed) > 0 || len(fixes.Files) != 1 {
				t.Error(fixes.Unfixed)
			}
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			perDocument := policytest.AllocationsPerRun(t, 20, func() {
				if err := tt.run(tt.options); err != nil {
					t.Error(err)
				}
			}) / documents
			require.LessOrEqual(t, perDocument, tt.most)
		})
	}
}

// BenchmarkFix fixes documents of which each needs it.
func BenchmarkFix(b *testing.B) {
	const documents = 2000
	dir := write(b, map[string]string{"in.yaml": outsideRoutes(documents)})
	for b.Loop() {
		fixes, err := check.Fix(b.Context(), check.Options{Policy: defaultPolicy(b), Files: []string{dir}, Workers: 1})
		require.NoError(b, err)
		require.Empty(b, fixes.Unfixed)
		require.Len(b, fixes.Files, 1)
	}
	b.ReportMetric(float64(documents*b.N)/b.Elapsed().Seconds(), "documents/s")
}
