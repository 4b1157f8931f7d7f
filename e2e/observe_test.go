package e2e

import (
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// metric reads one series of the server's /metrics; an absent one is -1.
func (w *world) metric(t require.TestingT, series string) float64 {
	response, err := http.Get(w.server.MetricsURL)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	for line := range strings.Lines(string(body)) {
		if value, found := strings.CutPrefix(line, series+" "); found {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			require.NoError(t, err)
			return v
		}
	}
	return -1
}

func (w *world) metricBecomes(t *testing.T, series string, condition func(float64) bool) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		v := w.metric(t, series)
		assert.True(c, condition(v), "%s is %v", series, v)
	}, soon, tick)
}

// auditBecomes waits for an audit event of the user with all these parts.
func (w *world) auditBecomes(t *testing.T, user string, parts ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
		data, err := os.ReadFile(w.AuditLog())
		require.NoError(t, err)
	lines:
		for line := range strings.Lines(string(data)) {
			if !strings.Contains(line, `"username":"`+user+`"`) {
				continue
			}
			for _, part := range parts {
				if !strings.Contains(line, part) {
					continue lines
				}
			}
			return true
		}
		return false
	}, soon, tick, "no audit event of %s with %v", user, parts)
}
