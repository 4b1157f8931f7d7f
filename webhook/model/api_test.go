package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/webhook/cluster"
)

// kind is a kind of objects that the model has.
type kind uint8

const (
	aNamespace kind = iota
	aGateway
	aGrant
	aRoute
	kinds
)

func (k kind) String() string {
	return [...]string{"Namespace", "Gateway", "ReferenceGrant", "HTTPRoute"}[k]
}

type key struct {
	kind            kind
	namespace, name string
}

func (k key) String() string {
	if k.namespace == "" {
		return k.kind.String() + " " + k.name
	}
	return k.kind.String() + " " + k.namespace + "/" + k.name
}

func (k key) before(other key) int {
	if k.kind != other.kind {
		return int(k.kind) - int(other.kind)
	}
	if order := strings.Compare(k.namespace, other.namespace); order != 0 {
		return order
	}
	return strings.Compare(k.name, other.name)
}

// entry is one version of a stored object. It is never changed: states share entries.
type entry struct {
	key
	// stored is the object as the API server has it, cached as routesteward's caches hold it; neither is written to. Times,
	// which depend on the state's clock, are in neither.
	stored, cached client.Object
	uid, version   int
	// born is the tick at which the object was created, and its place among all that were created.
	born, place int
	// ours is true where routesteward created the object.
	ours bool
	// sourceUID is the UID that a relocated copy names.
	sourceUID string
	// content is a digest of everything else, meaning of what of it is more than words.
	content, meaning uint64
	indexes          map[string][]string
}

func (e *entry) labels() map[string]string { return e.stored.GetLabels() }

func (e *entry) terminating() bool { return e.stored.GetDeletionTimestamp() != nil }

func (e *entry) route() *gwv1.HTTPRoute { return e.stored.(*gwv1.HTTPRoute) }

func (e *entry) grant() *gwv1.ReferenceGrant { return e.stored.(*gwv1.ReferenceGrant) }

// snapshot is all objects at one moment, sorted by key. It is never changed.
type snapshot []*entry

func (s snapshot) search(k key) (int, bool) {
	return slices.BinarySearchFunc(s, k, func(e *entry, k key) int { return e.before(k) })
}

func (s snapshot) get(k key) *entry {
	if at, found := s.search(k); found {
		return s[at]
	}
	return nil
}

func (s snapshot) with(e *entry) snapshot {
	at, found := s.search(e.key)
	out := make(snapshot, 0, len(s)+1)
	out = append(append(out, s[:at]...), e)
	if found {
		at++
	}
	return append(out, s[at:]...)
}

func (s snapshot) without(k key) snapshot {
	at, found := s.search(k)
	if !found {
		return s
	}
	return append(slices.Clone(s[:at]), s[at+1:]...)
}

// mixed has the objects of one kind from another snapshot.
func (s snapshot) mixed(k kind, from snapshot) snapshot {
	var out snapshot
	for _, e := range s {
		if e.kind != k {
			out = append(out, e)
		}
	}
	for _, e := range from {
		if e.kind == k {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *entry) int { return a.before(b.key) })
	return out
}

// newEntry makes a version of an object that is to be stored. Only the identity of before, the version that it follows, is kept.
func (w *world) newEntry(k key, obj client.Object, before *entry) *entry {
	s := w.s
	s.next++
	e := &entry{key: k, stored: obj, version: s.next}
	if before != nil {
		e.uid, e.born, e.place, e.ours = before.uid, before.born, before.place, before.ours
	} else {
		e.uid, e.born, e.place, e.ours = s.next, s.clock, s.next, w.acting
	}
	obj.SetNamespace(k.namespace)
	obj.SetName(k.name)
	obj.SetUID(types.UID(fmt.Sprintf("uid-%d", e.uid)))
	obj.SetResourceVersion(fmt.Sprint(e.version))
	obj.SetCreationTimestamp(metav1.Time{})
	e.sourceUID = obj.GetAnnotations()[policy.SourceUIDAnnotation]
	e.content, e.meaning = digest(obj), digest(obj, policy.ConsentAnnotation)
	e.cached = obj.DeepCopyObject().(client.Object)
	if _, err := w.transforms[k.kind](e.cached); err != nil {
		panic(err)
	}
	for _, index := range w.indexes {
		if index.kind == k.kind {
			if e.indexes == nil {
				e.indexes = map[string][]string{}
			}
			e.indexes[index.field] = index.values(e.cached)
		}
	}
	return e
}

// digest is of everything in an object but what identifies it and its versions, when conditions began, and some annotations.
func digest(obj client.Object, without ...string) uint64 {
	annotations := maps.Clone(obj.GetAnnotations())
	for _, name := range append(without, policy.SourceUIDAnnotation) {
		delete(annotations, name)
	}
	content := []any{obj.GetLabels(), annotations, obj.GetDeletionTimestamp() != nil}
	switch o := obj.(type) {
	case *gwv1.HTTPRoute:
		parents := o.DeepCopy().Status.Parents
		for i := range parents {
			for j := range parents[i].Conditions {
				condition := &parents[i].Conditions[j]
				condition.LastTransitionTime, condition.ObservedGeneration = metav1.Time{}, 0
			}
		}
		content = append(content, o.Spec, parents)
	case *gwv1.ReferenceGrant:
		content = append(content, o.Spec)
	}
	body, err := json.Marshal(content)
	if err != nil {
		panic(err)
	}
	hash := fnv.New64a()
	hash.Write(body)
	return hash.Sum64()
}

func kindOf(obj client.Object) (kind, bool) {
	switch o := obj.(type) {
	case *gwv1.ReferenceGrant:
		return aGrant, true
	case *gwv1.HTTPRoute:
		return aRoute, true
	case *unstructured.Unstructured:
		return aRoute, o.GetKind() == "HTTPRoute"
	case *metav1.PartialObjectMetadata:
		switch o.Kind {
		case "Namespace":
			return aNamespace, true
		case "Gateway":
			return aGateway, true
		}
	}
	return 0, false
}

func notFound(k key) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: strings.ToLower(k.kind.String()) + "s"}, k.name)
}

// created is when an object was created, as seen from now: by ticks, and within one in the order of creation.
func (w *world) created(e *entry) metav1.Time {
	return metav1.NewTime(time.Now().Add(-time.Duration(w.s.clock-e.born)*tick - tick/8 + time.Duration(e.place)*time.Second))
}

// read copies a version of an object; the copy shares memory with it.
func (w *world) read(e *entry, from, into client.Object) error {
	switch o := into.(type) {
	case *gwv1.ReferenceGrant:
		*o = *from.(*gwv1.ReferenceGrant)
	case *gwv1.HTTPRoute:
		*o = *from.(*gwv1.HTTPRoute)
	case *metav1.PartialObjectMetadata:
		*o = *from.(*metav1.PartialObjectMetadata)
	default:
		return fmt.Errorf("%T is not served", into)
	}
	into.SetCreationTimestamp(w.created(e))
	return nil
}

// server is the API server as routesteward calls it, with its rights.
type server struct {
	client.Client
	w *world
}

// Get reads past the caches.
func (s *server) Get(_ context.Context, name client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	kind, served := kindOf(obj)
	if !served {
		return notFound(key{name: name.Name}) // such as v1beta1, which is read to wait for watches
	}
	s.w.called("reads " + key{kind, name.Namespace, name.Name}.String())
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	e := s.w.s.objects.get(key{kind, name.Namespace, name.Name})
	if e == nil {
		return notFound(key{kind, name.Namespace, name.Name})
	}
	if out, ok := obj.(*unstructured.Unstructured); ok {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(e.stored)
		if err != nil {
			return err
		}
		gvk := out.GroupVersionKind()
		out.Object = content
		out.SetGroupVersionKind(gvk)
		out.SetCreationTimestamp(s.w.created(e))
		return nil
	}
	return s.w.read(e, e.stored, obj)
}

// typed is what is to be stored, independent of the caller's object.
func typed(obj client.Object) (client.Object, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		route := &gwv1.HTTPRoute{}
		return route, runtime.DefaultUnstructuredConverter.FromUnstructured(u.DeepCopy().Object, route)
	}
	return obj.DeepCopyObject().(client.Object), nil
}

// written returns to the caller the identity of what it wrote.
func written(obj client.Object, e *entry) {
	obj.SetUID(e.stored.GetUID())
	obj.SetResourceVersion(e.stored.GetResourceVersion())
	obj.SetGeneration(e.stored.GetGeneration())
}

func (s *server) Create(_ context.Context, obj client.Object, _ ...client.CreateOption) error {
	kind, served := kindOf(obj)
	if !served {
		return fmt.Errorf("%T is not served", obj)
	}
	s.w.called("creates " + key{kind, obj.GetNamespace(), obj.GetName()}.String())
	stored, err := typed(obj)
	if err != nil {
		return err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	e, err := s.w.create(stored)
	if err == nil {
		written(obj, e)
	}
	return err
}

func (s *server) Update(_ context.Context, obj client.Object, _ ...client.UpdateOption) error {
	kind, served := kindOf(obj)
	if !served {
		return fmt.Errorf("%T is not served", obj)
	}
	s.w.called("updates " + key{kind, obj.GetNamespace(), obj.GetName()}.String())
	desired, err := typed(obj)
	if err != nil {
		return err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	e, err := s.w.update(desired, obj.GetResourceVersion())
	if err == nil {
		written(obj, e)
	}
	return err
}

func (s *server) Delete(_ context.Context, obj client.Object, options ...client.DeleteOption) error {
	kind, served := kindOf(obj)
	if !served {
		return fmt.Errorf("%T is not served", obj)
	}
	k := key{kind, obj.GetNamespace(), obj.GetName()}
	s.w.called("deletes " + k.String())
	var o client.DeleteOptions
	o.ApplyOptions(options)
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.w.delete(k, o.Preconditions)
}

func (s *server) Status() client.SubResourceWriter { return &statusWriter{w: s.w} }

type statusWriter struct {
	client.SubResourceWriter
	w *world
}

func (s *statusWriter) Update(_ context.Context, obj client.Object, _ ...client.SubResourceUpdateOption) error {
	k := key{aRoute, obj.GetNamespace(), obj.GetName()}
	s.w.called("updates the status of " + k.String())
	desired, err := typed(obj)
	if err != nil {
		return err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	before := s.w.s.objects.get(k)
	switch {
	case before == nil:
		return notFound(k)
	case obj.GetResourceVersion() != fmt.Sprint(before.version):
		return apierrors.NewConflict(schema.GroupResource{}, k.name, errors.New("changed"))
	}
	after := before.route().DeepCopy()
	after.Status = desired.(*gwv1.HTTPRoute).Status
	s.w.judgeStatus(before, after)
	s.w.store(s.w.newEntry(k, after, before))
	return nil
}

// The writes below are those of anybody; the world's acting says whether it is routesteward.

func (w *world) create(obj client.Object) (*entry, error) {
	kind, _ := kindOf(obj)
	k := key{kind, obj.GetNamespace(), obj.GetName()}
	if k.kind != aNamespace {
		namespace := w.s.objects.get(key{aNamespace, "", k.namespace})
		if namespace == nil {
			return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, k.namespace)
		}
		if namespace.terminating() {
			err := apierrors.NewForbidden(schema.GroupResource{}, k.name, errors.New("its namespace is being terminated"))
			err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
			return nil, err
		}
	}
	if w.s.objects.get(k) != nil {
		return nil, apierrors.NewAlreadyExists(schema.GroupResource{}, k.name)
	}
	obj.SetGeneration(1)
	e := w.newEntry(k, obj, nil)
	w.judgeCreate(e)
	w.store(e)
	return e, nil
}

func (w *world) update(obj client.Object, version string) (*entry, error) {
	kind, _ := kindOf(obj)
	k := key{kind, obj.GetNamespace(), obj.GetName()}
	before := w.s.objects.get(k)
	switch {
	case before == nil:
		return nil, notFound(k)
	case version != "" && version != fmt.Sprint(before.version):
		return nil, apierrors.NewConflict(schema.GroupResource{}, k.name, errors.New("changed"))
	}
	obj.SetGeneration(before.stored.GetGeneration())
	same := maps.Equal(obj.GetLabels(), before.labels()) && maps.Equal(obj.GetAnnotations(), before.stored.GetAnnotations())
	switch o := obj.(type) {
	case *gwv1.HTTPRoute:
		o.Status = before.route().Status
		if !equality.Semantic.DeepEqual(o.Spec, before.route().Spec) {
			same = false
			obj.SetGeneration(obj.GetGeneration() + 1)
		}
	case *gwv1.ReferenceGrant:
		if !equality.Semantic.DeepEqual(o.Spec, before.grant().Spec) {
			same = false
			obj.SetGeneration(obj.GetGeneration() + 1)
		}
	}
	if same {
		return before, nil
	}
	e := w.newEntry(k, obj, before)
	w.judgeChange("changes", before)
	w.store(e)
	return e, nil
}

func (w *world) delete(k key, preconditions *metav1.Preconditions) error {
	before := w.s.objects.get(k)
	if before == nil {
		return notFound(k)
	}
	if p := preconditions; p != nil && !w.fault.deletesBlindly {
		if p.UID != nil && string(*p.UID) != string(before.stored.GetUID()) || p.ResourceVersion != nil && *p.ResourceVersion != fmt.Sprint(before.version) {
			return apierrors.NewConflict(schema.GroupResource{}, k.name, errors.New("the precondition does not match"))
		}
	}
	w.judgeChange("deletes", before)
	w.s.objects = w.s.objects.without(k)
	w.changes = append(w.changes, change{before, nil})
	return nil
}

func (w *world) store(e *entry) {
	before := w.s.objects.get(e.key)
	w.s.objects = w.s.objects.with(e)
	w.changes = append(w.changes, change{before, e})
}

// change is of one object: before is nil where it was created, after where it was deleted.
type change struct{ before, after *entry }

// caches are those of the replica that acts; which objects they show is the world's business. They have the transforms and
// indexes of the real ones.
type caches struct {
	cache.Cache
	w *world
}

type index struct {
	kind   kind
	field  string
	values client.IndexerFunc
}

func (c *caches) GetInformer(context.Context, client.Object, ...cache.InformerGetOption) (cache.Informer, error) {
	return nil, nil
}

func (c *caches) IndexField(_ context.Context, obj client.Object, field string, values client.IndexerFunc) error {
	kind, served := kindOf(obj)
	if !served {
		return fmt.Errorf("%T is not served", obj)
	}
	c.w.indexes = append(c.w.indexes, index{kind, field, values})
	return nil
}

func (c *caches) Get(_ context.Context, name client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	kind, served := kindOf(obj)
	if !served {
		return fmt.Errorf("%T is not cached", obj)
	}
	e := c.w.shown.get(key{kind, name.Namespace, name.Name})
	if e == nil {
		if c.w.fault.mistaken(c.w, name, obj) {
			return nil
		}
		return notFound(key{kind, name.Namespace, name.Name})
	}
	if err := c.w.read(e, e.cached, obj); err != nil {
		return err
	}
	c.w.fault.relabel(c.w, obj)
	return nil
}

func (c *caches) List(_ context.Context, list client.ObjectList, options ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(options)
	if o.FieldSelector == nil {
		return fmt.Errorf("%T is listed without an index", list)
	}
	requirement := o.FieldSelector.Requirements()[0]
	of := aRoute
	if _, ok := list.(*gwv1.ReferenceGrantList); ok {
		of = aGrant
	}
	var limit int64 = 1000
	if o.Limit > 0 {
		limit = o.Limit
	}
	for _, e := range c.w.shown {
		if e.kind != of || limit == 0 || o.Namespace != "" && e.namespace != o.Namespace || !slices.Contains(e.indexes[requirement.Field], requirement.Value) {
			continue
		}
		limit--
		switch l := list.(type) {
		case *gwv1.HTTPRouteList:
			l.Items = append(l.Items, gwv1.HTTPRoute{})
			if err := c.w.read(e, e.cached, &l.Items[len(l.Items)-1]); err != nil {
				return err
			}
		case *gwv1.ReferenceGrantList:
			l.Items = append(l.Items, gwv1.ReferenceGrant{})
			if err := c.w.read(e, e.cached, &l.Items[len(l.Items)-1]); err != nil {
				return err
			}
			c.w.fault.widen(&l.Items[len(l.Items)-1])
		default:
			return fmt.Errorf("%T is not cached", list)
		}
	}
	return nil
}

// transformsOf are what the real caches trim objects with, by kind.
func transformsOf(served cluster.Served) map[kind]func(any) (any, error) {
	transforms := map[kind]func(any) (any, error){}
	for obj, by := range cluster.CacheOptions(served) {
		if kind, ok := kindOf(obj); ok {
			transforms[kind] = func(in any) (any, error) { return by.Transform(in) }
		}
	}
	return transforms
}
