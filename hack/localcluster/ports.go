package localcluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
)

// FreePorts returns n different TCP ports of 127.0.0.1 that nobody listens on now. They are below
// the range from which the kernel picks ports by itself, so that an outgoing connection cannot take
// one between this call and its use, and above those that Envoy Gateway insists on (18000 to 19001).
func FreePorts(n int) ([]int, error) {
	const low, high = 20000, 30000
	var ports []int
	for range 1000 {
		if len(ports) == n {
			return ports, nil
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", low+rand.IntN(high-low)))
		if err != nil {
			continue
		}
		defer listener.Close() // held until all are found, so that they differ
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return nil, fmt.Errorf("no %d free TCP ports between %d and %d on 127.0.0.1", n, low, high)
}

// withFreePorts calls start with free ports, again with others when somebody else was faster.
func withFreePorts(n int, start func(ports []int) error) error {
	for attempt := 1; ; attempt++ {
		ports, err := FreePorts(n)
		if err != nil {
			return err
		}
		err = start(ports)
		if err == nil || attempt == 5 || !strings.Contains(err.Error(), "address already in use") {
			return err
		}
	}
}
