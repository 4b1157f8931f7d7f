package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/hack/gateways"
)

func TestLineOfGateways(t *testing.T) {
	results := []firstRequest{
		{served: 30 * time.Millisecond, resolved: 3 * time.Millisecond},
		{served: 10 * time.Millisecond, resolved: time.Millisecond, failing: 7 * time.Millisecond,
			refused: map[gwv1.GatewayController]bool{gateways.TraefikController: true}},
		{served: 20 * time.Millisecond, resolved: 2 * time.Millisecond},
	}
	require.Equal(t, []string{"routewarden", "20 ms", "30 ms", "30 ms", "1 of 3", "7 ms", "2 ms", "0 of 3", "1 of 3"}, line(atAdmission, results))
	require.Equal(t, "–", line(atAdmission, results[:1])[5], "none was failing")
}
