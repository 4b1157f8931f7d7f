// Package unpark gives parked routes their parentRefs back: for people who leave --outside=rewrite, or uninstall routesteward.
package unpark

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
)

const (
	// pageSize is how many objects one request to the API server asks for.
	pageSize = 500
	// pollEvery is how often the copies are looked at while they are waited for.
	pollEvery = 250 * time.Millisecond
)

// Connect returns a client for a kubeconfig's context, and the namespace that the context names; empty strings mean the
// usual file and the current context. Warnings of the API server go to warnings.
func Connect(kubeconfig, context string, warnings io.Writer) (client.Client, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, "", err
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, "", err
	}
	config.UserAgent = "routesteward-unpark"
	config.WarningHandler = rest.NewWarningWriter(warnings, rest.WarningWriterOptions{Deduplicate: true})
	c, err := client.New(config, client.Options{})
	if err != nil {
		return nil, "", fmt.Errorf("cannot reach %s: %w", config.Host, err)
	}
	return c, namespace, nil
}

// Name names a route without its namespace.
type Name struct {
	Kind policy.Kind
	Name string
}

// ParseName reads KIND/NAME; kubectl's spellings of the kind are understood, and none means HTTPRoute.
func ParseName(text string) (Name, error) {
	kind, name, found := strings.Cut(text, "/")
	if !found {
		kind, name = string(policy.HTTPRoute), text
	}
	short := strings.TrimSuffix(strings.ToLower(kind), "."+gwv1.GroupName)
	for _, row := range policy.Routes() {
		if (short == strings.ToLower(string(row.Kind)) || short == row.Resource) && name != "" && !strings.Contains(name, "/") {
			return Name{row.Kind, name}, nil
		}
	}
	return Name{}, fmt.Errorf("%q names no route; want KIND/NAME, where KIND is one of %s", text, policy.KindNames())
}

// Options say which routes get their parentRefs back.
type Options struct {
	Policy *policy.Policy
	// Names are routes of Namespace. Where there are none, all parked routes of Namespace are meant, or of every namespace
	// where that is empty.
	Names     []Name
	Namespace string
	// DryRun asks the API server what would become of each route, and changes nothing.
	DryRun bool
	// DeleteCopies deletes the relocated copies, which routesteward does otherwise, where it runs.
	DeleteCopies bool
	// Timeout is how long the copies are waited for.
	Timeout time.Duration
}

// State is what became of a route or of its copy.
type State string

const (
	// Unparked: the route has its parentRefs back, or would have them after a dry run.
	Unparked State = "unparked"
	// NotParked: there was nothing to do.
	NotParked State = "not parked"
	// Refused: the route is parked as before; Problem and Fix say why and what to do.
	Refused State = "refused"
	// Failed: the API server could not be asked, or the user may not.
	Failed State = "failed"

	// Removed: the copy is gone, or would be after a dry run.
	Removed State = "removed"
	// Remains: the copy is still there, and serves requests.
	Remains State = "remains"
)

// Route is what became of a route.
type Route struct {
	Kind      policy.Kind `json:"kind"`
	Namespace string      `json:"namespace"`
	Name      string      `json:"name"`
	State     State       `json:"state"`
	// ParentRefs are those that it has back.
	ParentRefs []gwv1.ParentReference `json:"parentRefs,omitempty"`
	Problem    string                 `json:"problem,omitempty"`
	Fix        string                 `json:"fix,omitempty"`
}

// Copy is what became of a relocated copy.
type Copy struct {
	Kind      policy.Kind `json:"kind"`
	Namespace string      `json:"namespace"`
	Name      string      `json:"name"`
	// Source is the "namespace/name" of its source.
	Source string `json:"source"`
	State  State  `json:"state"`
	Fix    string `json:"fix,omitempty"`
}

// Report is what became of everything, in the order of kinds, namespaces and names.
type Report struct {
	DryRun bool    `json:"dryRun"`
	Routes []Route `json:"routes"`
	Copies []Copy  `json:"copies"`
}

// Complete reports whether nothing is left to do.
func (r Report) Complete() bool {
	return !slices.ContainsFunc(r.Routes, func(route Route) bool { return route.State == Refused || route.State == Failed }) &&
		!slices.ContainsFunc(r.Copies, func(c Copy) bool { return c.State == Remains })
}

// Failed reports whether the API server could not be asked about a route.
func (r Report) Failed() bool {
	return slices.ContainsFunc(r.Routes, func(route Route) bool { return route.State == Failed })
}

// Run gives the routes their parentRefs back and waits until their copies are gone. What became of single routes is in the
// Report; an error means that the rest could not be looked at.
func Run(ctx context.Context, c client.Client, o Options) (Report, error) {
	r := runner{client: c, options: o, report: Report{DryRun: o.DryRun, Routes: []Route{}, Copies: []Copy{}}}
	// Before anything changes, as routesteward may be faster than a look afterwards.
	copies, unseen := r.copies(ctx)
	if err := r.unparkAll(ctx); err != nil {
		return r.report, err
	}
	if unseen == nil {
		unseen = r.removeCopies(ctx, copies)
	}
	if unseen != nil {
		return r.report, fmt.Errorf("what became of the relocated copies is not known: %w", unseen)
	}
	return r.report, nil
}

type runner struct {
	client  client.Client
	options Options
	report  Report
}

// version is the API version in which the cluster serves a kind; false: it does not.
func (r *runner) version(kind policy.Kind) (schema.GroupVersionKind, bool, error) {
	mapping, err := r.client.RESTMapper().RESTMapping(schema.GroupKind{Group: gwv1.GroupName, Kind: string(kind)})
	if meta.IsNoMatchError(err) {
		return schema.GroupVersionKind{}, false, nil
	}
	if err != nil {
		return schema.GroupVersionKind{}, false, fmt.Errorf("cannot ask the cluster which version of %s it serves: %w", kind, err)
	}
	return mapping.GroupVersionKind, true, nil
}

// list calls keep with every route of a kind.
func (r *runner) list(ctx context.Context, kind policy.Kind, keep func(*unstructured.Unstructured), options ...client.ListOption) error {
	version, served, err := r.version(kind)
	if err != nil || !served {
		return err
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(version.GroupVersion().WithKind(version.Kind + "List"))
	for more := true; more; more = list.GetContinue() != "" {
		paged := append(slices.Clip(options), client.Limit(pageSize), client.Continue(list.GetContinue()))
		if err := r.client.List(ctx, list, paged...); err != nil {
			return fmt.Errorf("cannot list %ss: %w", kind, err)
		}
		for i := range list.Items {
			keep(&list.Items[i])
		}
	}
	return nil
}

func (r *runner) unparkAll(ctx context.Context) error {
	if len(r.options.Names) > 0 {
		for _, name := range r.options.Names {
			r.unpark(ctx, Route{Kind: name.Kind, Namespace: r.options.Namespace, Name: name.Name})
		}
		return ctx.Err()
	}
	for _, kind := range policy.RouteKinds() {
		var parked []Route
		err := r.list(ctx, kind, func(object *unstructured.Unstructured) {
			if r.isParked(object) {
				parked = append(parked, Route{Kind: kind, Namespace: object.GetNamespace(), Name: object.GetName()})
			}
		}, client.InNamespace(r.options.Namespace))
		if err != nil {
			return err
		}
		slices.SortFunc(parked, func(a, b Route) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		})
		for _, route := range parked {
			r.unpark(ctx, route)
		}
	}
	return ctx.Err()
}

func (r *runner) isParked(object *unstructured.Unstructured) bool {
	_, parked := object.GetAnnotations()[policy.ParkedAnnotation]
	return parked && object.GetNamespace() != r.options.Policy.SystemNamespace
}

// howToLeave is what to do before unparking where routes are still relocated.
const howToLeave = "set --outside=reject (or warn) for routesteward first; or, to uninstall it, " +
	"kubectl delete mutatingwebhookconfiguration,validatingwebhookconfiguration routesteward"

// unpark gives one route its parentRefs back and notes what became of it.
func (r *runner) unpark(ctx context.Context, route Route) {
	var unparkable error
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		route.State, route.ParentRefs = NotParked, nil
		version, served, err := r.version(route.Kind)
		if err != nil {
			return err
		}
		if !served {
			return fmt.Errorf("the cluster serves no %ss", route.Kind)
		}
		object := &unstructured.Unstructured{}
		object.SetGroupVersionKind(version)
		if err := r.client.Get(ctx, client.ObjectKey{Namespace: route.Namespace, Name: route.Name}, object); err != nil {
			return err
		}
		if !r.isParked(object) {
			return nil
		}
		if unparkable = r.options.Policy.Unpark(object); unparkable != nil {
			return nil
		}
		route.State, route.ParentRefs = Unparked, parentRefs(object)
		var options []client.UpdateOption
		if r.options.DryRun {
			options = append(options, client.DryRunAll)
		}
		if err := r.client.Update(ctx, object, options...); err != nil {
			return err
		}
		if r.isParked(object) {
			route.State, route.Problem, route.Fix = Refused, "it was parked again at once, as routes are relocated here (--outside=rewrite)", howToLeave
		}
		return nil
	})
	switch {
	case unparkable != nil:
		route.State, route.Problem, route.Fix = Refused, unparkable.Error(), fmt.Sprintf(
			"write its parentRefs into spec.parentRefs and remove the annotation: kubectl edit %s -n %s %s", strings.ToLower(string(route.Kind)), route.Namespace, route.Name)
	case refusedByPolicy(err):
		route.State, route.Problem, route.Fix = Refused, err.Error(), howToLeave
	case err != nil:
		route.State, route.Problem = Failed, err.Error()
	}
	if route.State != Unparked {
		route.ParentRefs = nil
	}
	r.report.Routes = append(r.report.Routes, route)
}

// refusedByPolicy says whether routesteward's own admission refuses a route that has its parentRefs: it does where routes
// should be relocated and are not.
func refusedByPolicy(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "[route-outside-system-namespace]")
}

func parentRefs(object *unstructured.Unstructured) []gwv1.ParentReference {
	var route struct {
		Spec gwv1.CommonRouteSpec `json:"spec"`
	}
	// Unpark has decoded it.
	_ = runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &route)
	return route.Spec.ParentRefs
}

// removeCopies waits for the copies of all routes that are not parked any more, and deletes them where that is asked for.
func (r *runner) removeCopies(ctx context.Context, before []unstructured.Unstructured) error {
	needed := func(object unstructured.Unstructured) bool { return !r.isDone(&object) }
	before = slices.DeleteFunc(before, needed)
	var left []unstructured.Unstructured
	if !r.options.DryRun && len(before) > 0 {
		// Requests have the whole context: one that the end of the wait cuts off would look like a failure.
		err := wait.PollUntilContextTimeout(ctx, pollEvery, r.options.Timeout, true, func(context.Context) (bool, error) {
			var err error
			if left, err = r.copies(ctx); err != nil {
				return false, err
			}
			left = slices.DeleteFunc(left, needed)
			for i := range left {
				if r.options.DeleteCopies {
					if err := r.delete(ctx, &left[i]); err != nil {
						return false, err
					}
				}
			}
			return len(left) == 0, nil
		})
		if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return err
		}
	}
	for i := range before {
		c := copyOf(&before[i])
		if slices.ContainsFunc(left, func(other unstructured.Unstructured) bool { return other.GetUID() == before[i].GetUID() }) {
			c.State, c.Fix = Remains, fmt.Sprintf("kubectl delete %s -n %s %s", strings.ToLower(string(c.Kind)), c.Namespace, c.Name)
		}
		r.report.Copies = append(r.report.Copies, c)
	}
	return nil
}

func copyOf(object *unstructured.Unstructured) Copy {
	return Copy{
		Kind: policy.Kind(object.GetKind()), Namespace: object.GetNamespace(), Name: object.GetName(),
		Source: object.GetAnnotations()[policy.SourceAnnotation], State: Removed,
	}
}

// copies are the relocated copies of the namespace, or of all.
func (r *runner) copies(ctx context.Context) ([]unstructured.Unstructured, error) {
	var found []unstructured.Unstructured
	for _, kind := range policy.RouteKinds() {
		if len(r.options.Names) > 0 && !slices.ContainsFunc(r.options.Names, func(name Name) bool { return name.Kind == kind }) {
			continue
		}
		labels := client.MatchingLabels{policy.ManagedByLabel: policy.ManagedBy}
		if r.options.Namespace != "" {
			labels[policy.OriginLabel] = r.options.Namespace
		}
		err := r.list(ctx, kind, func(object *unstructured.Unstructured) {
			found = append(found, *object)
		}, client.InNamespace(r.options.Policy.SystemNamespace), labels)
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// isDone says whether a copy is of a route that was asked for, and is not parked any more.
func (r *runner) isDone(relocated *unstructured.Unstructured) bool {
	kind := policy.Kind(relocated.GetKind())
	namespace, name, found := strings.Cut(relocated.GetAnnotations()[policy.SourceAnnotation], "/")
	if !found || r.options.Namespace != "" && namespace != r.options.Namespace {
		return false
	}
	i := slices.IndexFunc(r.report.Routes, func(route Route) bool {
		return route.Kind == kind && route.Namespace == namespace && route.Name == name
	})
	if i < 0 { // of all routes, those that are not in the report are not parked, or not there
		return len(r.options.Names) == 0
	}
	return r.report.Routes[i].State == Unparked || r.report.Routes[i].State == NotParked
}

// delete deletes a copy, unless it was changed or is gone.
func (r *runner) delete(ctx context.Context, object *unstructured.Unstructured) error {
	uid, version := object.GetUID(), object.GetResourceVersion()
	err := r.client.Delete(ctx, object, client.Preconditions(metav1.Preconditions{UID: &uid, ResourceVersion: &version}))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // the next look shows it
	}
	return err
}
