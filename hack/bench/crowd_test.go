package main

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const storedRoute = `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"creationTimestamp":"2026-11-23T12:00:00Z","generation":1,` +
	`"name":"crowd-0000000-router","namespace":"aibrix-system","resourceVersion":"10","uid":"11111111-2222-3333-4444-1010aaaaaaaa"},` +
	`"spec":{"rules":[{"backendRefs":[{"group":"","kind":"Service","name":"crowd-0000000","namespace":"shared","port":8000,"weight":1}]}]}}`

func newTestCrowd(t *testing.T, routes int) (*crowd, string) {
	t.Helper()
	c := &crowd{routes: routes, changes: make(chan int)}
	for _, template := range []*template{&c.local, &c.crossing} {
		var err error
		*template, err = newTemplate([]byte(storedRoute))
		require.NoError(t, err)
	}
	c.pass = http.NotFoundHandler()
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	return c, server.URL + crowdPath
}

func TestCrowdIsListedInPages(t *testing.T) {
	_, url := newTestCrowd(t, 25)
	seen := map[string]bool{}
	token := ""
	for pages := 1; ; pages++ {
		answer, err := http.Get(url + "?limit=10&continue=" + token)
		require.NoError(t, err)
		var list gwv1.HTTPRouteList
		require.NoError(t, json.NewDecoder(answer.Body).Decode(&list))
		require.NoError(t, answer.Body.Close())
		for _, route := range list.Items {
			require.Equal(t, route.Name, string(route.Spec.Rules[0].BackendRefs[0].Name)+"-router")
			require.Equal(t, "1000000000", route.ResourceVersion)
			seen[route.Name+string(route.UID)] = true
		}
		if token = list.Continue; token == "" {
			require.Equal(t, 3, pages)
			break
		}
	}
	require.Len(t, seen, 25)
}

func TestCrowdIsWatched(t *testing.T) {
	c, url := newTestCrowd(t, 7)
	answer, err := http.Get(url + "?watch=true&sendInitialEvents=true")
	require.NoError(t, err)
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	next := func() (kind string, route gwv1.HTTPRoute) {
		require.True(t, lines.Scan(), lines.Err())
		var event struct {
			Type   string
			Object gwv1.HTTPRoute
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &event))
		return event.Type, event.Object
	}
	names := map[string]bool{}
	for range 7 {
		kind, route := next()
		require.Equal(t, "ADDED", kind)
		names[route.Name] = true
	}
	require.Len(t, names, 7)
	kind, bookmark := next()
	require.Equal(t, "BOOKMARK", kind)
	require.Equal(t, "true", bookmark.Annotations["k8s.io/initial-events-end"])

	c.changes <- 2
	for i := range 2 {
		kind, route := next()
		require.Equal(t, "MODIFIED", kind)
		require.EqualValues(t, crowdVersion+i+1, route.Generation)
		require.True(t, names[route.Name])
	}
}

func TestCrowdPassesOnWhatItDoesNotKnow(t *testing.T) {
	_, url := newTestCrowd(t, 1)
	answer, err := http.Post(url, "application/json", nil)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusNotFound, answer.StatusCode)
}
