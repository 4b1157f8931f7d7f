package registration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// Certificates are the authorities behind the serving certificates; certs.Source implements it.
type Certificates interface {
	// CABundle returns what a caBundle should hold that holds existing now.
	CABundle(existing []byte) []byte
	// Observe receives the caBundle of every webhook in the configurations, again whenever they change.
	Observe(caBundles ...[]byte)
	// Changed delivers a value when CABundle may return something new.
	Changed() <-chan struct{}
}

// ByObject limits a manager's cache to the configurations called name. The manager needs it (cache.Options.ByObject):
// RBAC grants list and watch by resourceNames, which cover requests with this field selector only.
func ByObject(name string) map[client.Object]cache.ByObject {
	managed := cache.ByObject{Field: fields.OneTermEqualSelector("metadata.name", name)}
	return map[client.Object]cache.ByObject{
		&admissionv1.ValidatingWebhookConfiguration{}: managed,
		&admissionv1.MutatingWebhookConfiguration{}:   managed,
	}
}

// SetupWithManager adds the reconciler. Configurations are only ever updated, never created or deleted: deleting one is
// how people take routesteward out of the way.
//
// Every replica watches, since each must know when its authority is trusted, but only the elected one writes: during a
// rolling upgrade, replicas with different flags would otherwise undo each other's rules without end.
func SetupWithManager(mgr ctrl.Manager, o Options, certificates Certificates) error {
	r := newReconciler(mgr.GetClient(), o, certificates, mgr.Elected())
	b := ctrl.NewControllerManagedBy(mgr).
		Named("registration").
		WithOptions(controller.Options{NeedLeaderElection: new(false)}).
		For(&admissionv1.ValidatingWebhookConfiguration{}).
		WatchesRawSource(source.Func(r.triggers))
	b.Watches(&admissionv1.MutatingWebhookConfiguration{}, &handler.EnqueueRequestForObject{})
	return b.Complete(r)
}

// injectAnnotations begin the annotations from which cert-manager's cainjector takes what to inject.
const injectAnnotations = "cert-manager.io/inject-"

type reconciler struct {
	client         client.Client
	key            client.ObjectKey
	certificates   Certificates
	elected        <-chan struct{}
	configurations []keeper
}

// keeper is a configuration of either kind.
type keeper interface {
	// read returns the caBundle of every webhook, none when the configuration does not exist.
	read(context.Context, client.Client, client.ObjectKey) ([][]byte, error)
	// write makes what read has found as desired.
	write(context.Context, client.Client, Certificates) error
	// report passes the result of a write to Options.InStep.
	report(error)
}

func newReconciler(c client.Client, o Options, certificates Certificates, elected <-chan struct{}) *reconciler {
	validating, mutating := &admissionv1.ValidatingWebhookConfiguration{}, &admissionv1.MutatingWebhookConfiguration{}
	configurations := []keeper{
		&configuration[admissionv1.ValidatingWebhook]{
			kind:         "ValidatingWebhookConfiguration",
			inStep:       o.InStep,
			object:       validating,
			webhooks:     &validating.Webhooks,
			injected:     o.Injected,
			name:         func(w *admissionv1.ValidatingWebhook) string { return w.Name },
			clientConfig: func(w *admissionv1.ValidatingWebhook) *admissionv1.WebhookClientConfig { return &w.ClientConfig },
			desired:      func(caBundle []byte) []admissionv1.ValidatingWebhook { return DesiredValidating(o, caBundle) },
		},
		&configuration[admissionv1.MutatingWebhook]{
			kind:         "MutatingWebhookConfiguration",
			inStep:       o.InStep,
			object:       mutating,
			webhooks:     &mutating.Webhooks,
			injected:     o.Injected,
			name:         func(w *admissionv1.MutatingWebhook) string { return w.Name },
			clientConfig: func(w *admissionv1.MutatingWebhook) *admissionv1.WebhookClientConfig { return &w.ClientConfig },
			desired:      func(caBundle []byte) []admissionv1.MutatingWebhook { return DesiredMutating(o, caBundle) },
			// Without it nothing is missed where nothing is relocated.
			dispensable: len(o.Mutating) == 0,
		},
	}
	return &reconciler{
		client:         c,
		key:            client.ObjectKey{Name: o.Name},
		certificates:   certificates,
		elected:        elected,
		configurations: configurations,
	}
}

// triggers asks for a first look, which no event brings about when the configuration does not exist, and for another one
// after an election and after a change of authorities.
func (r *reconciler) triggers(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	go func() {
		elected := r.elected
		for {
			queue.Add(reconcile.Request{NamespacedName: r.key})
			select {
			case <-ctx.Done():
				return
			case <-elected:
				elected = nil
			case <-r.certificates.Changed():
			}
		}
	}()
	return nil
}

func (r *reconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	var caBundles [][]byte
	for _, c := range r.configurations {
		found, err := c.read(ctx, r.client, r.key)
		if err != nil {
			return reconcile.Result{}, err
		}
		caBundles = append(caBundles, found...)
	}
	r.certificates.Observe(caBundles...)

	select {
	case <-r.elected:
	default:
		return reconcile.Result{}, nil
	}
	var errs []error
	for _, c := range r.configurations {
		err := c.write(ctx, r.client, r.certificates)
		c.report(err)
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if apierrors.IsConflict(err) {
		// The cache lags behind somebody else's write, whose event will bring us back here; this is for good measure.
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	return reconcile.Result{}, err
}

// configuration keeps one webhook configuration, whose webhooks are of type W.
type configuration[W any] struct {
	kind string
	// object is what read found last, webhooks points into it.
	object       client.Object
	webhooks     *[]W
	name         func(*W) string
	clientConfig func(*W) *admissionv1.WebhookClientConfig
	desired      func(caBundle []byte) []W
	// injected is Options.Injected; unannotated is true while nothing asks cainjector to.
	injected, unannotated bool
	inStep                func(kind string, inStep bool)

	// dispensable is true where nothing is amiss when the configuration does not exist.
	dispensable bool
	missing     bool
	// wrote is what was last sent to the API server, stored what it made of it.
	wrote, stored []W
}

func (c *configuration[W]) read(ctx context.Context, reader client.Client, key client.ObjectKey) ([][]byte, error) {
	err := reader.Get(ctx, key, c.object)
	if apierrors.IsNotFound(err) {
		if !c.missing && !c.dispensable {
			ctrl.LoggerFrom(ctx).Info("there is no webhook configuration: nothing is checked until somebody creates it", "kind", c.kind, "name", key.Name)
		}
		c.missing = true
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %q: %w", c.kind, key.Name, err)
	}
	c.missing = false
	if c.injected {
		unannotated := len(*c.webhooks) > 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(c.object.GetAnnotations())), func(key string) bool {
			return strings.HasPrefix(key, injectAnnotations)
		})
		if unannotated && !c.unannotated {
			ctrl.LoggerFrom(ctx).Error(nil, "nobody keeps the webhook configuration's caBundle: it lacks the annotation cert-manager.io/inject-ca-from, which names the Certificate for cert-manager's cainjector",
				"kind", c.kind, "name", key.Name)
		}
		c.unannotated = unannotated
	}
	return c.caBundles(), nil
}

func (c *configuration[W]) write(ctx context.Context, writer client.Client, certificates Certificates) error {
	if c.missing {
		return nil
	}
	caBundle := c.caBundle(certificates)
	want := c.withBundles(caBundle)
	if equality.Semantic.DeepEqual(*c.webhooks, want) {
		return nil
	}
	// Some platforms add to every webhook configuration at admission, a namespaceSelector for instance. To insist would be
	// an endless exchange of writes.
	if equality.Semantic.DeepEqual(c.wrote, want) && equality.Semantic.DeepEqual(c.stored, *c.webhooks) {
		return nil
	}
	*c.webhooks = c.withBundles(caBundle)
	err := writer.Update(ctx, c.object)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update %s %q: %w", c.kind, c.object.GetName(), err)
	}
	c.wrote, c.stored = want, *c.webhooks
	ctrl.LoggerFrom(ctx).Info("updated the webhook configuration", "kind", c.kind, "name", c.object.GetName(),
		"changedByAdmission", !equality.Semantic.DeepEqual(c.wrote, c.stored))
	return nil
}

// caBundle returns what the caBundle of a webhook of that name should hold. Where others inject it, a webhook that is new
// begins with the one of its neighbors, so that it can be called before they have come round.
func (c *configuration[W]) caBundle(certificates Certificates) func(name string) []byte {
	existing := c.caBundles()
	if !c.injected {
		caBundle := certificates.CABundle(bytes.Join(existing, []byte("\n")))
		return func(string) []byte { return caBundle }
	}
	var neighbors []byte
	named := map[string][]byte{}
	for i := range *c.webhooks {
		named[c.name(&(*c.webhooks)[i])] = existing[i]
		if len(neighbors) == 0 {
			neighbors = existing[i]
		}
	}
	return func(name string) []byte {
		if caBundle, exists := named[name]; exists {
			return caBundle
		}
		return neighbors
	}
}

// withBundles returns the desired webhooks, each with its caBundle.
func (c *configuration[W]) withBundles(caBundle func(name string) []byte) []W {
	webhooks := c.desired(nil)
	for i := range webhooks {
		c.clientConfig(&webhooks[i]).CABundle = caBundle(c.name(&webhooks[i]))
	}
	return webhooks
}

func (c *configuration[W]) report(err error) {
	if c.inStep != nil {
		c.inStep(c.kind, err == nil && !c.unannotated && (!c.missing || c.dispensable))
	}
}

func (c *configuration[W]) caBundles() [][]byte {
	var caBundles [][]byte
	for i := range *c.webhooks {
		caBundles = append(caBundles, c.clientConfig(&(*c.webhooks)[i]).CABundle)
	}
	return caBundles
}
