// Command xds asks Envoy Gateway, as one of its proxies would, for the configuration that it would
// give to an Envoy, and prints on stdout what matters here: where each route goes.
//
//	xds ADDRESS CLUSTER DIR    CLUSTER names the Gateway, NAMESPACE/NAME; DIR has ca.crt, tls.crt and tls.key
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const timeout = 5 * time.Second

// configuration is what is printed.
type configuration struct {
	// Routes by name.
	Routes map[string]route `json:"routes"`
	// Endpoints has the addresses of each cluster, HOST:PORT.
	Endpoints map[string][]string `json:"endpoints"`
}

// route either answers by itself or leads to clusters.
type route struct {
	DirectResponse uint32   `json:"directResponse,omitempty"`
	Clusters       []string `json:"clusters,omitempty"`
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: xds ADDRESS CLUSTER DIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "xds:", err)
		os.Exit(2)
	}
}

func run(address, cluster, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	transport, err := clientTLS(dir)
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(transport))
	if err != nil {
		return err
	}
	defer connection.Close()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(connection).StreamAggregatedResources(ctx)
	if err != nil {
		return err
	}

	// The snapshot that answers is chosen by the node's cluster.
	node := &corev3.Node{Id: fmt.Sprintf("xds-%d", os.Getpid()), Cluster: cluster}
	ask := func(kind proto.Message, each func(*anypb.Any) error) error {
		resource, err := anypb.New(kind)
		if err != nil {
			return err
		}
		if err := stream.Send(&discoveryv3.DiscoveryRequest{Node: node, TypeUrl: resource.TypeUrl}); err != nil {
			return err
		}
		for {
			response, err := stream.Recv()
			if err != nil {
				return fmt.Errorf("asked for %s: %w", resource.TypeUrl, err)
			}
			if response.TypeUrl != resource.TypeUrl {
				continue // news about what was asked before
			}
			for _, resource := range response.Resources {
				if err := each(resource); err != nil {
					return err
				}
			}
			return nil
		}
	}

	// What there is nothing of is not answered: clusters are asked for where a route leads to one, and
	// endpoints where a cluster has them elsewhere. Routes there are, if only none for the listener.
	c := configuration{Routes: map[string]route{}, Endpoints: map[string][]string{}}
	clusters, discovered := 0, 0
	err = ask(&routev3.RouteConfiguration{}, func(resource *anypb.Any) error {
		var table routev3.RouteConfiguration
		if err := resource.UnmarshalTo(&table); err != nil {
			return err
		}
		for _, host := range table.VirtualHosts {
			for _, r := range host.Routes {
				c.Routes[r.Name] = destination(r)
				clusters += len(c.Routes[r.Name].Clusters)
			}
		}
		return nil
	})
	if err == nil && clusters > 0 {
		err = ask(&clusterv3.Cluster{}, func(resource *anypb.Any) error {
			var cluster clusterv3.Cluster
			if err := resource.UnmarshalTo(&cluster); err != nil {
				return err
			}
			if cluster.GetType() == clusterv3.Cluster_EDS {
				discovered++
			}
			c.assign(cluster.LoadAssignment)
			return nil
		})
	}
	if err == nil && discovered > 0 {
		err = ask(&endpointv3.ClusterLoadAssignment{}, func(resource *anypb.Any) error {
			var assignment endpointv3.ClusterLoadAssignment
			if err := resource.UnmarshalTo(&assignment); err != nil {
				return err
			}
			c.assign(&assignment)
			return nil
		})
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c)
}

func (c *configuration) assign(a *endpointv3.ClusterLoadAssignment) {
	for _, locality := range a.GetEndpoints() {
		for _, endpoint := range locality.LbEndpoints {
			socket := endpoint.GetEndpoint().GetAddress().GetSocketAddress()
			c.Endpoints[a.ClusterName] = append(c.Endpoints[a.ClusterName], fmt.Sprintf("%s:%d", socket.GetAddress(), socket.GetPortValue()))
		}
	}
}

func destination(r *routev3.Route) route {
	out := route{DirectResponse: r.GetDirectResponse().GetStatus()}
	if name := r.GetRoute().GetCluster(); name != "" {
		out.Clusters = append(out.Clusters, name)
	}
	for _, weighted := range r.GetRoute().GetWeightedClusters().GetClusters() {
		out.Clusters = append(out.Clusters, weighted.Name)
	}
	return out
}

// clientTLS authenticates as a proxy, and the server as Envoy Gateway.
func clientTLS(dir string) (credentials.TransportCredentials, error) {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in ca.crt")
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{certificate},
		RootCAs:      authorities,
		ServerName:   "envoy-gateway",
	}), nil
}
