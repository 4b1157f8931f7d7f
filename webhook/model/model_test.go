// Package model holds the consent model against every short sequence of what people, routesteward and the cluster do, with the real
// webhook handlers, reconcilers and policy engine on an API server in memory. See README.md.
package model

import (
	"flag"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
)

var (
	deep         = flag.Bool("model.deep", false, "search as deep as takes minutes, not seconds")
	depthFlag    = flag.Int("model.depth", 0, "search to this depth in every scenario")
	only         = flag.String("model.scenario", "", "search only the scenario of this name")
	replayLabels = flag.String("model.replay", "", "make these actions of the scenario, separated by \"; \", and tell what happens")
)

// raced is true under the race detector, which makes everything ten times as slow.
var raced bool

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	debug.SetGCPercent(400) // what is searched stays, so there is little to collect
	os.Exit(m.Run())
}

func namespacedName(namespace, name string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: name}
}

// TestModel searches every scenario for a counterexample.
func TestModel(t *testing.T) {
	for _, sc := range scenarios() {
		if *only != "" && sc.name != *only {
			continue
		}
		t.Run(sc.name, func(t *testing.T) {
			depth := sc.depth
			if *deep {
				depth = sc.deep
			} else if raced {
				depth = min(depth, 2)
			}
			if *depthFlag > 0 {
				depth = *depthFlag
			}
			s := run(t, sc, depth, runtime.GOMAXPROCS(0))
			t.Log(s)
			require.Empty(t, s.violations, s.failure())
		})
	}
}

// TestReplay makes the actions that -model.replay names.
func TestReplay(t *testing.T) {
	if *replayLabels == "" {
		t.Skip("nothing to replay")
	}
	for _, sc := range scenarios() {
		if sc.name == *only {
			told, violations := replay(t, sc, strings.Split(*replayLabels, "; "))
			t.Log(strings.Join(told, "\n"))
			require.Empty(t, violations)
			return
		}
	}
	require.Fail(t, "no such scenario", *only)
}
