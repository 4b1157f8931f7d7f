package node

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/routewarden/routewarden/hack/netns"
)

const (
	podNetwork = "10.244.0.0/16"
	// gateway is the node's address in the Pods' network, that of the bridge.
	gateway = "10.244.0.1"
	bridge  = "pods"
)

// furnished is whether this process has the node's network already, from a cluster before.
var furnished bool

// furnish makes the node's network.
func furnish(ctx context.Context) error {
	if furnished {
		return nil
	}
	furnished = true
	if err := netns.Furnish(); err != nil {
		return err
	}
	// Named network namespaces are files in /run/netns. Ours shall not be seen outside, and not be left over.
	if err := mountTmpfs("/run"); err != nil {
		return fmt.Errorf("mount a /run of our own: %w", err)
	}
	for _, args := range []string{
		"addr add " + Address + "/32 dev lo",
		"link add " + bridge + " type bridge",
		"addr add " + gateway + "/16 dev " + bridge,
		"link set " + bridge + " up",
		// Services' addresses need some route, until kube-proxy's rules replace them by those of Pods.
		"route add default dev " + bridge + " src " + Address,
	} {
		if err := ip(ctx, args); err != nil {
			return err
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// plug makes a Pod's network namespace with that address.
func plug(ctx context.Context, namespace, device, address string) error {
	for _, args := range []string{
		"netns add " + namespace,
		"link add " + device + " type veth peer name eth0 netns " + namespace,
		"link set " + device + " master " + bridge + " up",
		"-n " + namespace + " link set lo up",
		"-n " + namespace + " addr add " + address + "/16 dev eth0",
		"-n " + namespace + " link set eth0 up",
		"-n " + namespace + " route add default via " + gateway,
	} {
		if err := ip(ctx, args); err != nil {
			return err
		}
	}
	return nil
}

// unplug removes it, and with it its device.
func unplug(ctx context.Context, namespace string) error { return ip(ctx, "netns del "+namespace) }

func ip(ctx context.Context, args string) error {
	out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}

var quotedAddress = regexp.MustCompile(`"(\d+\.\d+\.\d+\.\d+)"`)

// routed reads the addresses in the chains of a Service's ports, which kube-proxy names
// service-HASH-NAMESPACE/SERVICE/PROTOCOL/PORT.
func routed(ctx context.Context, service string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "nft", "-j", "list", "table", "ip", "kube-proxy").Output()
	if err != nil {
		return nil, fmt.Errorf("nft: %w", err)
	}
	var ruleset struct {
		Nftables []struct {
			Rule *struct {
				Chain string
				Expr  json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(out, &ruleset); err != nil {
		return nil, err
	}
	var addresses []string
	for _, object := range ruleset.Nftables {
		if object.Rule == nil || !strings.HasPrefix(object.Rule.Chain, "service-") || !strings.Contains(object.Rule.Chain, "-"+service+"/") {
			continue
		}
		for _, match := range quotedAddress.FindAllSubmatch(object.Rule.Expr, -1) {
			addresses = append(addresses, string(match[1]))
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), nil
}
