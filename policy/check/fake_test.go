package check_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/check"
	"github.com/routesteward/routesteward/policy/manifest"
	"github.com/routesteward/routesteward/policy/policytest"
)

// fakeCluster is a Cluster that holds objects.
type fakeCluster []manifest.Object

func (f fakeCluster) ReadFacts(_ context.Context, keep func(manifest.Object)) error {
	for _, object := range f {
		keep(object)
	}
	return nil
}

// snapshot is the cluster as it is written into a file.
func (f fakeCluster) snapshot(t *testing.T, asJSON bool) string {
	t.Helper()
	cluster := &audit.Cluster{}
	for _, object := range f {
		require.True(t, cluster.Add(object.Object.DeepCopyObject()))
	}
	cluster.Complete()
	var text strings.Builder
	require.NoError(t, check.WriteSnapshot(&text, cluster, asJSON))
	return text.String()
}

// goldenCluster is what the cluster of a golden case holds that is a fact.
func goldenCluster(c policytest.Case) fakeCluster {
	var cluster fakeCluster
	for _, object := range c.Cluster {
		kind := policy.Kind(object.GetObjectKind().GroupVersionKind().Kind)
		if kind == manifest.Namespace || slices.Contains([]policy.Kind{policy.HTTPRoute, policy.GRPCRoute, policy.Gateway, policy.ReferenceGrant}, kind) {
			cluster = append(cluster, manifest.Object{Kind: kind, Item: -1, Object: object})
		}
	}
	return cluster
}
