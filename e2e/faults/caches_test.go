package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routewarden/routewarden/policy"
)

// caches is what happens between routewarden and the API server.
func caches() []fault {
	proxied := settings{proxied: true}
	return []fault{
		{name: "caches stale while consent changes", settings: proxied, kinds: fickle, do: stale},
		{name: "429 to half of all writes", settings: proxied, do: storm(http.StatusTooManyRequests)},
		{name: "409 to half of all writes", settings: proxied, do: storm(http.StatusConflict)},
	}
}

// fickle are routes to namespaces that change their minds.
func fickle(*world) []*kind {
	kinds := []*kind{
		newKind("refers to where consent is withdrawn", system, wanted, 0, legal),
		newKind("refers to where consent is given", system, welcoming, 0, illegal),
		newKind("refers to where consent becomes a veto", system, vetoing, 0, legal),
		newKind("refers to where a grant is deleted", system, revocation, 0, legal),
	}
	for _, k := range kinds {
		k.fickle = true
		k.losable = k.backend == vetoing || k.backend == revocation
	}
	return kinds
}

func unmarshal(content []byte, into any) error { return json.Unmarshal(content, into) }

// revoked is the grant that its owner deletes.
func revoked() *gwv1.ReferenceGrant {
	grant := policy.Edge{Origin: system, FromKind: policy.HTTPRoute, FromNamespace: system, Namespace: revocation, Kind: "Service"}.Grant("")
	grant.Name, grant.Labels, grant.Annotations = "revoked", nil, nil
	return grant
}

// stale holds back what watches tell while consent is given and taken.
func stale(ctx context.Context, s *scene) error {
	for _, b := range s.backs {
		b.Hold()
	}
	defer func() {
		for _, b := range s.backs {
			b.Release()
		}
	}()
	for _, k := range s.kinds {
		if k.fickle {
			k.become(influx)
		}
	}
	grant := revoked()
	for _, change := range []func() error{
		func() error { return s.label(ctx, wanted, "") },
		func() error { return s.label(ctx, welcoming, "allow") },
		func() error { return s.label(ctx, vetoing, "deny") },
		func() error { return s.admin.Delete(ctx, grant) },
	} {
		if err := change(); err != nil {
			return err
		}
	}
	held := staleness()
	// Whoever relies on a grant within half of the grace has it, however far caches are behind until then.
	err := pause(ctx, held)
	s.hit("watches held back for %.1f s while 4 namespaces changed their minds", held.Seconds())
	for _, b := range s.backs {
		b.Release()
	}
	if err != nil {
		return err
	}
	decided := map[string]legality{wanted: illegal, welcoming: legal, vetoing: illegal, revocation: illegal}
	probes := s.traffic.kinds
	if err := eventually(ctx, func() error {
		for _, k := range probes {
			want, changed := decided[k.backend]
			if !changed {
				continue
			}
			a := s.traffic.create(ctx, k, s.traffic.next())
			if (a.err == nil) != (want == legal) {
				return fmt.Errorf("a route that %s: %w", k.name, orAdmitted(a.err))
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, k := range probes {
		if want, changed := decided[k.backend]; changed {
			k.become(want)
		}
	}
	return nil
}

// staleness is less than half of the grace: see --grant-grace.
func staleness() time.Duration { return grace()/2 - pick(500*time.Millisecond, time.Second) }

// storm has a proxy answer half of routewarden's writes with a status.
func storm(code int) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		var refusedWrites, passed atomic.Int64
		asked := func(r *http.Request) *metav1.Status {
			if r.Method == http.MethodGet || strings.HasSuffix(r.URL.Path, "/selfsubjectreviews") {
				return nil
			}
			if rand.IntN(2) == 0 {
				passed.Add(1)
				return nil
			}
			refusedWrites.Add(1)
			status := &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code)}
			if code == http.StatusTooManyRequests {
				status.Reason, status.Message = metav1.StatusReasonTooManyRequests, "too many requests, please try again later"
				status.Details = &metav1.StatusDetails{RetryAfterSeconds: 1}
			} else {
				status.Reason, status.Message = metav1.StatusReasonConflict, "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again"
			}
			return status
		}
		for _, b := range s.backs {
			b.Hook(asked, nil)
		}
		err := pause(ctx, pick(4*time.Second, 30*time.Second))
		for _, b := range s.backs {
			b.Hook(nil, nil)
		}
		s.hit("%d of %d writes of routewarden answered %d", refusedWrites.Load(), refusedWrites.Load()+passed.Load(), code)
		return err
	}
}
