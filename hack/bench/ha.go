package main

import (
	"context"
	"errors"

	"github.com/routesteward/routesteward/hack/localcluster"
	"github.com/routesteward/routesteward/hack/node"
	"github.com/routesteward/routesteward/hack/node/ha"
)

// highAvailability counts what becomes of routes that are created while parts of the cluster fail.
func highAvailability(ctx context.Context, o options) (_ []table, err error) {
	crds, err := localcluster.GatewayAPI(ctx, "standard")
	if err != nil {
		return nil, err
	}
	if inside, err := isolated(node.Prepare); !inside {
		return nil, err
	}
	cluster, err := node.Start(ctx, node.Options{
		Program:  func(string) (string, error) { return o.binary, nil },
		CRDs:     []string{crds},
		Progress: func(line string) { progress("  %s", line) },
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	if err := errors.Join(cluster.Namespace(ctx, systemNamespace, nil), cluster.Install(ctx)); err != nil {
		return nil, err
	}
	var results []*ha.Result
	err = ha.Run(ctx, cluster, ha.Options{Rate: o.n, Events: ha.Events(), Tell: func(r *ha.Result) {
		progress("%s", r.Words())
		results = append(results, r)
	}})
	t := table{}
	t.head, t.rows = ha.Table(results)
	return []table{t}, err
}
