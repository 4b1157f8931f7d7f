package simulation_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/routewarden/routewarden/hack/bench/simulation"
)

func mean(latencies []time.Duration) time.Duration {
	var sum time.Duration
	for _, l := range latencies {
		sum += l
	}
	return sum / time.Duration(len(latencies))
}

// Queueing theory knows the mean time in the system of one queue with Poisson arrivals and exponential service:
// 1/(mu-lambda) for one server, and by Erlang's C formula for several.
func TestOneQueueIsAsTheoryHasIt(t *testing.T) {
	for name, test := range map[string]struct {
		servers int
		rate    float64
		want    time.Duration
	}{
		"one server, half busy":        {1, 500, 2 * time.Millisecond},
		"one server, four fifths busy": {1, 800, 5 * time.Millisecond},
		// With rho = 0.75 and c = 2: C = 9/14, and the wait is C/(2*1000-1500) s.
		"two servers, three quarters busy": {2, 1500, time.Millisecond + time.Second*9/14/500},
		"nobody waits":                     {0, 5000, time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			station := &simulation.Station{Servers: test.servers}
			out := simulation.Run(simulation.Load{
				Steps: []simulation.Step{{At: []*simulation.Station{station}, Mean: time.Millisecond}},
				Rate:  test.rate, Requests: 100_000, Seed: 1,
			})
			require.Len(t, out.Latencies, 90_000)
			require.InEpsilon(t, test.want, mean(out.Latencies), 0.05)
			require.InEpsilon(t, test.rate, out.PerSecond, 0.02)
			if test.servers > 0 {
				require.InEpsilon(t, test.rate/1000/float64(test.servers), out.Busy[station], 0.02)
			} else {
				require.NotContains(t, out.Busy, station)
			}
		})
	}
}

// The slowest station bounds a closed system, and its clients wait for each other (Little's law).
func TestClosedSystem(t *testing.T) {
	slow, fast := &simulation.Station{Servers: 1}, &simulation.Station{Servers: 4}
	out := simulation.Run(simulation.Load{
		Steps: []simulation.Step{
			{At: []*simulation.Station{fast}, Mean: time.Millisecond},
			{At: []*simulation.Station{slow}, Mean: 2 * time.Millisecond},
		},
		Clients: 16, Requests: 100_000, Seed: 1,
	})
	require.InEpsilon(t, 500, out.PerSecond, 0.03)
	require.InEpsilon(t, 32*time.Millisecond, mean(out.Latencies), 0.03)
	require.Greater(t, out.Busy[slow], 0.97)
}

// Several Pods share the load.
func TestStationsAreChosenAtRandom(t *testing.T) {
	pods := []*simulation.Station{{Servers: 1}, {Servers: 1}}
	out := simulation.Run(simulation.Load{
		Steps: []simulation.Step{{At: pods, Mean: time.Millisecond}}, Rate: 1000, Requests: 100_000, Seed: 1,
	})
	require.InEpsilon(t, 0.5, out.Busy[pods[0]], 0.05)
	require.InEpsilon(t, 0.5, out.Busy[pods[1]], 0.05)
}

func TestTheSameSeedHasTheSameOutcome(t *testing.T) {
	run := func(seed uint64) simulation.Outcome {
		return simulation.Run(simulation.Load{
			Steps: []simulation.Step{{At: []*simulation.Station{{Servers: 1}}, Mean: time.Millisecond}},
			Rate:  900, Requests: 1000, Seed: seed,
		})
	}
	require.Equal(t, run(1).Latencies, run(1).Latencies)
	require.NotEqual(t, run(1).Latencies, run(2).Latencies)
}
