package unpark

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/routesteward/routesteward/policy"
)

// FuzzManifests unparks anything that manifests may hold: a second time there is nothing left to unpark, and a
// document without a parked route is left as it is.
func FuzzManifests(f *testing.F) {
	const parked = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: llama\n  namespace: team-a\n  annotations:\n" +
		"    routesteward.dev/parked-parent-refs: '[{\"name\":\"aibrix-eg\",\"namespace\":\"aibrix-system\"}]'\nspec:\n  parentRefs:\n  - name: mine\n"
	for _, text := range []string{
		parked, parked + "---\n" + parked, "a: b\n---\n" + parked, strings.Replace(parked, "HTTPRoute", "GRPCRoute", 1), strings.Replace(parked, "name: mine", "7", 1),
		strings.Replace(parked, "team-a", "aibrix-system", 1), strings.Replace(parked, "[{", "[{{", 1), "{\"kind\": \"List\", \"items\": [1, null, {}]}",
		"kind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(parked), "\n", "\n  ") + "\n", "# routesteward.dev/parked-parent-refs\na: &a [*a]\n",
		"routesteward.dev/parked-parent-refs: x\nmetadata: []\n", "---\n---\n", "a: 1\r\n---\r\nb: 2",
	} {
		f.Add([]byte(text))
	}
	p := newPolicy(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		var once, twice bytes.Buffer
		count, err := Manifests(p, bytes.NewReader(text), &once)
		if err != nil {
			return
		}
		if !bytes.Contains(text, []byte(policy.ParkedAnnotation)) {
			require.Zero(t, count)
		}
		again, err := Manifests(p, bytes.NewReader(once.Bytes()), &twice)
		require.NoError(t, err, "%s", once.Bytes())
		require.Zero(t, again, "%s", once.Bytes())
	})
}
