package registration

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

var rules = []admissionv1.RuleWithOperations{{
	Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
	Rule:       admissionv1.Rule{APIGroups: []string{"gateway.networking.k8s.io"}, APIVersions: []string{"v1"}, Resources: []string{"httproutes"}},
}}

var options = Options{
	Name:    "routesteward",
	Service: types.NamespacedName{Namespace: "routesteward-system", Name: "routesteward"},
	Validating: []Entry{{
		Name:            "routes.routesteward.dev",
		Path:            "/validate",
		Rules:           rules,
		MatchConditions: []admissionv1.MatchCondition{{Name: "true", Expression: "true"}},
	}},
}

func TestDesired(t *testing.T) {
	all := []admissionv1.RuleWithOperations{*rules[0].DeepCopy()}
	all[0].Scope = new(admissionv1.AllScopes)
	service := admissionv1.ValidatingWebhook{
		Name: "routes.routesteward.dev",
		ClientConfig: admissionv1.WebhookClientConfig{
			Service: &admissionv1.ServiceReference{
				Namespace: "routesteward-system", Name: "routesteward", Path: new("/validate"), Port: new(int32(443)),
			},
			CABundle: []byte("ca"),
		},
		Rules:                   all,
		MatchConditions:         []admissionv1.MatchCondition{{Name: "true", Expression: "true"}},
		FailurePolicy:           new(admissionv1.Fail),
		MatchPolicy:             new(admissionv1.Equivalent),
		NamespaceSelector:       &metav1.LabelSelector{},
		ObjectSelector:          &metav1.LabelSelector{},
		SideEffects:             new(admissionv1.SideEffectClassNoneOnDryRun),
		TimeoutSeconds:          new(int32(10)),
		AdmissionReviewVersions: []string{"v1"},
	}
	require.Equal(t, []admissionv1.ValidatingWebhook{service}, DesiredValidating(options, []byte("ca")))
	DesiredValidating(options, nil)[0].Rules[0].Resources[0] = "changed"
	DesiredValidating(options, nil)[0].MatchConditions[0].Name = "changed"
	require.Equal(t, []admissionv1.ValidatingWebhook{service}, DesiredValidating(options, []byte("ca")), "the caller's options stay as they are")
	require.Nil(t, rules[0].Scope)
	require.Empty(t, DesiredMutating(options, nil))

	outside := options
	outside.URL = "https://127.0.0.1:9443/"
	outside.Validating = []Entry{{Name: "gateways.routesteward.dev", Path: "/validate", TimeoutSeconds: 3}}
	outside.Mutating = []Entry{{Name: "routes.routesteward.dev", Path: "/mutate"}}
	validating := DesiredValidating(outside, nil)[0]
	require.Equal(t, admissionv1.WebhookClientConfig{URL: new("https://127.0.0.1:9443/validate")}, validating.ClientConfig)
	require.Equal(t, new(int32(3)), validating.TimeoutSeconds)
	mutating := DesiredMutating(outside, []byte("ca"))[0]
	require.Equal(t, admissionv1.WebhookClientConfig{URL: new("https://127.0.0.1:9443/mutate"), CABundle: []byte("ca")}, mutating.ClientConfig)
	require.Equal(t, admissionv1.Ignore, *mutating.FailurePolicy)
	require.Equal(t, admissionv1.SideEffectClassNone, *mutating.SideEffects)
}

func TestMissingConfigurationIsToldOnceAndNotCreated(t *testing.T) {
	for name, o := range map[string]Options{"validating": options, "both": withMutating()} {
		t.Run(name, func(t *testing.T) {
			certificates := &fakeCertificates{bundle: []byte("ca")}
			c := fake.NewClientBuilder().Build()
			r := newReconciler(c, o, certificates, won())
			var lines []string
			ctx := ctrl.LoggerInto(t.Context(), funcr.New(func(_, line string) { lines = append(lines, line) }, funcr.Options{}))
			for range 3 {
				_, err := r.Reconcile(ctx, reconcile.Request{})
				require.NoError(t, err)
			}
			require.Len(t, lines, map[string]int{"validating": 1, "both": 2}[name])
			require.Equal(t, [][][]byte{nil, nil, nil}, certificates.observed)
			var found admissionv1.ValidatingWebhookConfigurationList
			require.NoError(t, c.List(ctx, &found))
			require.Empty(t, found.Items)

			created := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: o.Name}}
			require.NoError(t, c.Create(ctx, created))
			_, err := r.Reconcile(ctx, reconcile.Request{})
			require.NoError(t, err)
			require.NoError(t, c.Get(ctx, client.ObjectKeyFromObject(created), created))
			require.True(t, equal(DesiredValidating(o, []byte("ca")), created.Webhooks))
		})
	}
}

func TestBothConfigurations(t *testing.T) {
	o := withMutating()
	named := metav1.ObjectMeta{Name: o.Name, Labels: map[string]string{"theirs": "stays"}}
	validating := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: named, Webhooks: DesiredValidating(o, []byte("first"))}
	mutating := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: named, Webhooks: DesiredMutating(o, []byte("second"))}
	mutating.Webhooks[0].ReinvocationPolicy = new(admissionv1.NeverReinvocationPolicy)
	c := fake.NewClientBuilder().WithObjects(validating, mutating).Build()
	certificates := &fakeCertificates{bundle: []byte("ca")}

	follower := newReconciler(c, o, certificates, nil)
	_, err := follower.Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)
	_, err = newReconciler(c, o, certificates, won()).Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)
	_, err = follower.Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)

	key := client.ObjectKey{Name: o.Name}
	require.NoError(t, c.Get(t.Context(), key, validating))
	require.True(t, equal(DesiredValidating(o, []byte("ca")), validating.Webhooks))
	require.NoError(t, c.Get(t.Context(), key, mutating))
	require.True(t, equal(DesiredMutating(o, []byte("ca")), mutating.Webhooks))
	require.Equal(t, "stays", mutating.Labels["theirs"])
	found, written := [][]byte{[]byte("first"), []byte("second")}, [][]byte{[]byte("ca"), []byte("ca")}
	require.Equal(t, [][][]byte{found, found, written}, certificates.observed, "a follower observes and writes nothing")
	require.Equal(t, []string{"first", "second"}, certificates.existing)

	version := validating.ResourceVersion
	_, err = newReconciler(c, o, certificates, won()).Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)
	require.NoError(t, c.Get(t.Context(), key, validating))
	require.Equal(t, version, validating.ResourceVersion, "the next leader finds nothing to do")
}

// TestInjected keeps everything in step but the caBundles, which are cainjector's.
func TestInjected(t *testing.T) {
	o := withMutating()
	o.Injected = true
	o.Validating = append(o.Validating, Entry{Name: "gateways.routesteward.dev", Path: "/validate", Rules: rules})
	annotated := metav1.ObjectMeta{Name: o.Name, Annotations: map[string]string{"cert-manager.io/inject-ca-from": "a/b"}}
	validating := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: annotated, Webhooks: DesiredValidating(o, []byte("first"))}
	validating.Webhooks[0].FailurePolicy = new(admissionv1.Ignore)
	validating.Webhooks[1].ClientConfig.CABundle = []byte("second")
	mutating := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: o.Name}}
	c := fake.NewClientBuilder().WithObjects(validating, mutating).Build()
	certificates := &fakeCertificates{bundle: []byte("ours")}
	r := newReconciler(c, o, certificates, won())
	var lines []string
	ctx := ctrl.LoggerInto(t.Context(), funcr.New(func(_, line string) { lines = append(lines, line) }, funcr.Options{}))
	key := client.ObjectKey{Name: o.Name}
	reconciled := func() []admissionv1.ValidatingWebhook {
		for range 2 {
			_, err := r.Reconcile(ctx, reconcile.Request{})
			require.NoError(t, err)
		}
		require.NoError(t, c.Get(ctx, key, validating))
		require.NoError(t, c.Get(ctx, key, mutating))
		return validating.Webhooks
	}

	want := DesiredValidating(o, []byte("first"))
	want[1].ClientConfig.CABundle = []byte("second")
	require.True(t, equal(want, reconciled()))
	require.True(t, equal(DesiredMutating(o, nil), mutating.Webhooks), "no caBundle to begin with")
	require.Empty(t, certificates.existing)

	version := validating.ResourceVersion
	reconciled()
	require.Equal(t, version, validating.ResourceVersion, "nothing to do")

	validating.Webhooks = validating.Webhooks[1:]
	require.NoError(t, c.Update(ctx, validating))
	require.True(t, equal(DesiredValidating(o, []byte("second")), reconciled()), "a new webhook begins with its neighbor's")

	const unannotated = "nobody keeps the webhook configuration's caBundle"
	told := func() (n int) {
		for _, line := range lines {
			if strings.Contains(line, unannotated) {
				n++
			}
		}
		return n
	}
	require.Equal(t, 1, told(), "the mutating one has no annotation")
	require.Contains(t, strings.Join(lines, "\n"), `"kind"="MutatingWebhookConfiguration"`)
	validating.Annotations = nil
	require.NoError(t, c.Update(ctx, validating))
	reconciled()
	require.Equal(t, 2, told())
	validating.Annotations = map[string]string{"cert-manager.io/inject-ca-from-secret": "a/b"}
	require.NoError(t, c.Update(ctx, validating))
	reconciled()
	validating.Annotations = nil
	require.NoError(t, c.Update(ctx, validating))
	reconciled()
	require.Equal(t, 3, told(), "told again when it is gone again")
}

func TestConflictIsTriedAgain(t *testing.T) {
	conflicts := 1
	c := clientWithUpdate(func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
		if conflicts > 0 {
			conflicts--
			return apierrors.NewConflict(schema.GroupResource{}, o.GetName(), nil)
		}
		return c.Update(ctx, o, opts...)
	})
	r := newReconciler(c, options, &fakeCertificates{bundle: []byte("ca")}, won())
	result, err := r.Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)
	require.Equal(t, time.Second, result.RequeueAfter)
	result, err = r.Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)
	require.Zero(t, result)
}

func TestErrors(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "routesteward", nil)
	c := clientWithUpdate(func(context.Context, client.WithWatch, client.Object, ...client.UpdateOption) error { return forbidden })
	certificates := &fakeCertificates{bundle: []byte("ca")}
	_, err := newReconciler(c, options, certificates, won()).Reconcile(t.Context(), reconcile.Request{})
	require.ErrorIs(t, err, forbidden)
	require.ErrorContains(t, err, `update ValidatingWebhookConfiguration "routesteward": `)

	c = clientWithUpdate(func(_ context.Context, _ client.WithWatch, o client.Object, _ ...client.UpdateOption) error {
		return apierrors.NewNotFound(schema.GroupResource{}, o.GetName())
	})
	_, err = newReconciler(c, options, certificates, won()).Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err, "deleted in between")
}

// Azure's admissions enforcer does this, for one.
func TestAdmissionThatInsistsIsLeftInPeace(t *testing.T) {
	updates := 0
	c := clientWithUpdate(func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
		updates++
		o.(*admissionv1.ValidatingWebhookConfiguration).Webhooks[0].NamespaceSelector.MatchLabels = map[string]string{"insisted": "on"}
		return c.Update(ctx, o, opts...)
	})
	certificates := &fakeCertificates{bundle: []byte("ca")}
	r := newReconciler(c, options, certificates, won())
	reconcileTwice := func() {
		for range 2 {
			_, err := r.Reconcile(t.Context(), reconcile.Request{})
			require.NoError(t, err)
		}
	}
	reconcileTwice()
	require.Equal(t, 1, updates)

	certificates.bundle = []byte("another")
	reconcileTwice()
	require.Equal(t, 2, updates, "our own changes still get through")

	edited := &admissionv1.ValidatingWebhookConfiguration{}
	require.NoError(t, c.Get(t.Context(), client.ObjectKey{Name: options.Name}, edited))
	edited.Webhooks[0].FailurePolicy = new(admissionv1.Ignore)
	require.NoError(t, c.Update(t.Context(), edited))
	updates = 0
	reconcileTwice()
	require.Equal(t, 1, updates, "edits are still repaired")
}

func TestTriggers(t *testing.T) {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	elected, certificates := make(chan struct{}), &fakeCertificates{changed: make(chan struct{})}
	r := newReconciler(nil, options, certificates, elected)
	require.NoError(t, r.triggers(t.Context(), queue))
	triggered := func() {
		request, _ := queue.Get()
		require.Equal(t, "routesteward", request.Name)
		queue.Done(request)
	}
	triggered()
	close(elected)
	triggered()
	certificates.changed <- struct{}{}
	triggered()
}

func clientWithUpdate(update func(context.Context, client.WithWatch, client.Object, ...client.UpdateOption) error) client.Client {
	return fake.NewClientBuilder().
		WithObjects(&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: options.Name}}).
		WithInterceptorFuncs(interceptor.Funcs{Update: update}).
		Build()
}

func withMutating() Options {
	o := options
	o.Mutating = []Entry{{Name: "routes.routesteward.dev", Path: "/mutate", Rules: rules}}
	return o
}

// won is an election that is over.
func won() <-chan struct{} {
	elected := make(chan struct{})
	close(elected)
	return elected
}

func equal(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }

// fakeCertificates always want the same bundle and remember what they were told.
type fakeCertificates struct {
	bundle   []byte
	existing []string
	observed [][][]byte
	changed  chan struct{}
}

func (f *fakeCertificates) CABundle(existing []byte) []byte {
	f.existing = append(f.existing, string(existing))
	return f.bundle
}
func (f *fakeCertificates) Observe(caBundles ...[]byte) { f.observed = append(f.observed, caBundles) }
func (f *fakeCertificates) Changed() <-chan struct{}    { return f.changed }

func TestInStepIsTold(t *testing.T) {
	shown := map[string]bool{}
	o := withMutating()
	o.InStep = func(kind string, inStep bool) { shown[kind] = inStep }
	c := fake.NewClientBuilder().WithObjects(&admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: o.Name}}).Build()
	follower := newReconciler(c, o, &fakeCertificates{bundle: []byte("ca")}, nil)
	_, err := follower.Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)
	require.Empty(t, shown, "only the elected replica keeps the registration")

	_, err = newReconciler(c, o, &fakeCertificates{bundle: []byte("ca")}, won()).Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"ValidatingWebhookConfiguration": false, "MutatingWebhookConfiguration": true}, shown)

	// Without Mutating entries nothing is missed where there is no MutatingWebhookConfiguration.
	o.Mutating = nil
	_, err = newReconciler(fake.NewClientBuilder().Build(), o, &fakeCertificates{bundle: []byte("ca")}, won()).Reconcile(t.Context(), reconcile.Request{})
	require.NoError(t, err)
	require.True(t, shown["MutatingWebhookConfiguration"])
}
