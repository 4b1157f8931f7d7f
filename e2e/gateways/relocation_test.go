package gateways

import (
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/hack/gateways"
)

// servesWith starts routesteward with other flags for the rest of the test.
func (w *world) servesWith(t *testing.T, flags ...string) {
	t.Helper()
	restart := func(flags ...string) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*soon)
		defer cancel()
		require.NoError(t, w.server.Stop())
		require.NoError(t, w.serve(ctx, flags...))
	}
	t.Cleanup(func() { restart() })
	restart(flags...)
}

// A route beside its model, as people write it, works through its copy.
func TestRelocatedRoute(t *testing.T) {
	w := theWorld(t)
	w.servesWith(t, "--outside=rewrite")
	w.startPlugin(t, "")
	team := w.namespace(t, "team", "")
	model, pods := w.model(t, team, "llama-0")
	source := gateways.Route(team, model+"-router", model, client.ObjectKey{Name: model})
	relocated := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: source.Name}}
	ofSource, ofCopy := w.watches(t, source), w.watches(t, relocated)
	w.applies(t, source)

	require.Equal(t, pods[0].Name, w.answers(t, model, http.StatusOK).Header.Get(gateways.TargetPod))
	for _, controller := range controllers {
		ofCopy.of(t, controller, works)
		ofSource.of(t, mirrored+controller, works)
	}
	// AIBrix looks for the copy by its name.
	through, err := w.prompts(t.Context(), model)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, through.Status, through.Body)

	t.Run("a veto", func(t *testing.T) {
		w.consents(t, team, "deny")
		w.answers(t, model, http.StatusInternalServerError)
		w.consents(t, team, "")
		w.answers(t, model, http.StatusOK)
	})

	require.NoError(t, w.tenant.Delete(t.Context(), source))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		require.True(c, apierrors.IsNotFound(w.Client.Get(t.Context(), client.ObjectKeyFromObject(relocated), &gwv1.HTTPRoute{})))
	}, soon, tick)
	w.answers(t, model, http.StatusNotFound)
}
