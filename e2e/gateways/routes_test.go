package gateways

import (
	"context"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/hack/gateways"
)

var (
	notPermitted = conditions{"Accepted": "True/Accepted", "ResolvedRefs": "False/RefNotPermitted"}
)

func TestWithoutRoutesteward(t *testing.T) {
	w := theWorld(t)
	w.withoutRoutesteward(t)
	models := w.namespace(t, "models", "allow")
	model, _ := w.model(t, models, "llama-0")

	t.Run("a reference to another namespace is stored and answers 5xx until somebody writes a grant", func(t *testing.T) {
		crossing := route(model, models)
		history := w.watches(t, crossing)
		w.applies(t, crossing)
		for _, controller := range controllers {
			require.Equal(t, []conditions{notPermitted}, history.of(t, controller, notPermitted))
		}
		require.Equal(t, http.StatusInternalServerError, w.answers(t, model, http.StatusInternalServerError).Status)

		require.NoError(t, w.Client.Create(t.Context(), gateways.Grant(models, "by-hand", model)))
		for _, controller := range controllers {
			require.Equal(t, []conditions{notPermitted, works}, history.of(t, controller, works))
		}
		require.Equal(t, "llama-0", w.answers(t, model, http.StatusOK).Header.Get(gateways.TargetPod))
	})

	t.Run("a route beside its model is stored and never accepted", func(t *testing.T) {
		beside, _ := w.model(t, models, "beside-0")
		outside := gateways.Route(models, beside+"-router", beside, client.ObjectKey{Name: beside})
		history := w.watches(t, outside)
		w.applies(t, outside)
		history.refused(t)
		w.answers(t, beside, http.StatusNotFound)
	})
}

// The grant is stored before the route, so a gateway has no reason to say anything else. It watches the two apart, though,
// and on a busy machine the watch of the grants may be late: a few routes may need another try, which is never so
// without routesteward.
func TestFirstStatusIsThatOfARouteThatWorks(t *testing.T) {
	const wanted, tries = 5, 20
	w := theWorld(t)
	models := w.namespace(t, "models", "allow")
	perfect := 0
	for try := 0; perfect < wanted; try++ {
		require.Less(t, try, tries, "%d routes worked from the beginning", perfect)
		if w.worksFromTheBeginning(t, models) {
			perfect++
		}
	}
}

// worksFromTheBeginning makes a route and reports whether no gateway ever said, and no request was ever told, that it
// does not work.
func (w *world) worksFromTheBeginning(t *testing.T, models string) bool {
	t.Helper()
	model, _ := w.model(t, models, named("pod"))
	crossing := route(model, models)
	history := w.watches(t, crossing)

	asking, stop := context.WithCancel(t.Context())
	defer stop()
	seen := make(chan map[int]int, 1)
	go func() {
		statuses := map[int]int{}
		for asking.Err() == nil {
			if answer, err := w.ask(asking, model); err == nil {
				statuses[answer.Status]++
			}
		}
		seen <- statuses
	}()
	w.applies(t, crossing)
	w.answers(t, model, http.StatusOK)
	perfect := true
	for _, controller := range controllers {
		if said := history.of(t, controller, works); len(said) > 1 {
			t.Logf("%s said of %s: %v", controller, crossing.Name, said)
			perfect = false
		}
	}
	stop()
	for status, times := range <-seen {
		if status != http.StatusNotFound && status != http.StatusOK {
			t.Logf("%d requests to %s were answered with %d", times, crossing.Name, status)
			perfect = false
		}
	}

	var grants gwv1.ReferenceGrantList
	require.NoError(t, w.Client.List(t.Context(), &grants, client.InNamespace(models)))
	i := slices.IndexFunc(grants.Items, func(grant gwv1.ReferenceGrant) bool { return string(*grant.Spec.To[0].Name) == model })
	require.GreaterOrEqual(t, i, 0, "no grant for %s", model)
	// Both are in one etcd, which numbers its writes; creationTimestamps are set before admission.
	order, err := resourceversion.CompareResourceVersion(grants.Items[i].ResourceVersion, history.firstVersion())
	require.NoError(t, err)
	require.Negative(t, order, "the route was stored before its grant")
	return perfect
}

func TestRequestsReachEveryPodOfTheService(t *testing.T) {
	w := theWorld(t)
	models := w.namespace(t, "models", "allow")
	model, pods := w.model(t, models, "llama-0", "llama-1", "llama-2")
	w.applies(t, route(model, models))
	w.answers(t, model, http.StatusOK)
	reached := map[string]string{}
	for range 6 * len(pods) {
		answer, err := w.ask(t.Context(), model)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, answer.Status)
		reached[answer.Header.Get(gateways.TargetPod)] = answer.Header.Get(gateways.TargetPodIP)
	}
	for _, pod := range pods {
		require.Equal(t, pod.Address, reached[pod.Name])
	}
	require.Len(t, reached, len(pods))
}

func TestRevokedConsent(t *testing.T) {
	w := theWorld(t)

	t.Run("by a veto", func(t *testing.T) {
		models := w.namespace(t, "models", "allow")
		model, _ := w.model(t, models, "llama-0")
		crossing := route(model, models)
		history := w.watches(t, crossing)
		w.applies(t, crossing)
		w.answers(t, model, http.StatusOK)
		for _, controller := range controllers {
			history.of(t, controller, works)
		}

		w.consents(t, models, "deny")
		w.answers(t, model, http.StatusInternalServerError)
		for _, controller := range controllers {
			history.of(t, controller, notPermitted)
		}

		w.consents(t, models, "allow")
		w.answers(t, model, http.StatusOK)
		for _, controller := range controllers {
			history.of(t, controller, works)
		}
	})

	t.Run("by deleting the grant", func(t *testing.T) {
		models := w.namespace(t, "models", "allow")
		model, _ := w.model(t, models, "llama-0")
		w.applies(t, route(model, models))
		w.answers(t, model, http.StatusOK)

		// Where consent stands the grant comes back; without, it is the record of the consent.
		w.consents(t, models, "")
		w.consentIsGone(t, models)
		grants := w.grants(t, t.Context(), models)
		require.Len(t, grants, 1)
		require.NoError(t, w.Client.Delete(t.Context(), &gwv1.ReferenceGrant{ObjectMeta: metav1.ObjectMeta{Namespace: models, Name: grants[0]}}))
		w.answers(t, model, http.StatusInternalServerError)
		require.Empty(t, w.grants(t, t.Context(), models))
	})
}

// consentIsGone waits until routesteward knows that a namespace consents to nothing any more.
func (w *world) consentIsGone(t *testing.T, namespace string) {
	t.Helper()
	probe := gateways.Route(system, named("probe"), "probe", client.ObjectKey{Namespace: namespace, Name: "unheard-of"})
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		err := w.tenant.Create(t.Context(), probe.DeepCopy(), client.DryRunAll)
		require.ErrorContains(c, err, "cross-namespace-reference")
	}, soon, tick)
}

func TestRouteOutsideIsRefused(t *testing.T) {
	w := theWorld(t)
	team := w.namespace(t, "team", "allow")
	model, _ := w.model(t, team, "llama-0")
	outside := gateways.Route(team, model+"-router", model, client.ObjectKey{Name: model})
	err := w.tenant.Create(t.Context(), outside.DeepCopy())
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, `takes routes from namespace "aibrix-system" only, and this route is in "`+team+`"`)
	require.True(t, apierrors.IsNotFound(w.Client.Get(t.Context(), client.ObjectKeyFromObject(outside), outside)))

	// What the message says to do works.
	w.applies(t, route(model, team))
	require.Equal(t, "llama-0", w.answers(t, model, http.StatusOK).Header.Get(gateways.TargetPod))
}

// What Envoy would be told. Its data plane is not to be had here, so this stands for its requests.
func TestEnvoyGatewayTellsItsProxies(t *testing.T) {
	w := theWorld(t)
	models := w.namespace(t, "models", "")
	model, pods := w.model(t, models, "llama-0", "llama-1")
	w.breaks(t, route(model, models))

	told := func(c require.TestingT) (gateways.XDSRoute, []string) {
		xds, err := w.XDS(t.Context())
		require.NoError(c, err)
		name := "httproute/" + system + "/" + model + "-router/rule/0"
		for known, route := range xds.Routes {
			if len(known) >= len(name) && known[:len(name)] == name {
				var endpoints []string
				for _, cluster := range route.Clusters {
					endpoints = append(endpoints, xds.Endpoints[cluster]...)
				}
				return route, endpoints
			}
		}
		require.Fail(c, "no such route", "%s in %v", name, xds.Routes)
		return gateways.XDSRoute{}, nil
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		route, _ := told(c)
		require.Equal(c, gateways.XDSRoute{DirectResponse: http.StatusInternalServerError}, route)
	}, soon, tick)

	w.consents(t, models, "allow")
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		route, endpoints := told(c)
		require.Zero(c, route.DirectResponse)
		require.ElementsMatch(c, []string{pods[0].Address, pods[1].Address}, endpoints)
	}, soon, tick)
}
