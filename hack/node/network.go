package node

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/routesteward/routesteward/hack/netns"
)

const (
	podNetwork = "10.244.0.0/16"
	// gateway is the node's address in the Pods' network, that of the bridge.
	gateway = "10.244.0.1"
	bridge  = "pods"
	// apiServer is the address of the Service "kubernetes", which localcluster has in its certificate.
	apiServer = "10.96.0.1"
)

// makeNetwork makes the node's network.
func makeNetwork(ctx context.Context) error {
	if err := netns.Furnish(); err != nil {
		return err
	}
	// Named network namespaces are files in /run/netns. Nobody outside sees these, and none is left over.
	if err := mountTmpfs("/run"); err != nil {
		return fmt.Errorf("mount a separate /run: %w", err)
	}
	if err := ip(ctx,
		"addr add "+Address+"/32 dev lo",
		"link add "+bridge+" type bridge",
		"addr add "+gateway+"/16 dev "+bridge,
		"link set "+bridge+" up",
		// Services' addresses need some route, until kube-proxy's rules replace them with those of Pods.
		"route add default dev "+bridge+" src "+Address,
	); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// plug makes a Pod's network namespace with that address. `ip netns del` removes it with its device.
func plug(ctx context.Context, network, address string) error {
	return ip(ctx,
		"netns add "+network,
		"link add "+network+" type veth peer name eth0 netns "+network,
		"link set "+network+" master "+bridge+" up",
		"-n "+network+" link set lo up",
		"-n "+network+" addr add "+address+"/16 dev eth0",
		"-n "+network+" link set eth0 up",
		"-n "+network+" route add default via "+gateway,
	)
}

func ip(ctx context.Context, commands ...string) error {
	for _, args := range commands {
		if out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	return nil
}

var address = regexp.MustCompile(`\d+\.\d+\.\d+\.\d+`)

// Routed are the addresses of Pods to which the kernel sends new connections to a Service, NAMESPACE/NAME, by the rules that
// kube-proxy has written.
func (c *Cluster) Routed(ctx context.Context, service string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "nft", "list", "table", "ip", "kube-proxy").Output()
	if err != nil {
		return nil, fmt.Errorf("nft: %w", err)
	}
	// kube-proxy's name for the chain of a Service's port is service-HASH-NAMESPACE/NAME/PROTOCOL/PORT.
	name := regexp.MustCompile(`chain "?service-\w+-` + regexp.QuoteMeta(service) + `/`)
	var addresses []string
	for chain := range strings.SplitSeq(string(out), "\n\t}\n") {
		if name.MatchString(chain) {
			_, targets, _ := strings.Cut(chain, " dnat ")
			addresses = append(addresses, address.FindAllString(targets, -1)...)
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), nil
}
