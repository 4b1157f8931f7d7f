package check

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/audit"
	"github.com/routesteward/routesteward/policy/audit/live"
	"github.com/routesteward/routesteward/policy/manifest"
)

// LiveCluster is a Cluster behind an API server. It only reads.
type LiveCluster struct{ live *live.Cluster }

// Connect returns the cluster of a kubeconfig's context; empty strings mean the usual file and the current context.
func Connect(kubeconfig, context string) (*LiveCluster, error) {
	cluster, err := live.Connect(kubeconfig, context)
	if err != nil {
		return nil, err
	}
	return &LiveCluster{cluster}, nil
}

// ReadFacts implements Cluster. Kinds that the cluster does not serve have no objects in it.
func (c *LiveCluster) ReadFacts(ctx context.Context, keep func(manifest.Object)) error {
	cluster, err := c.live.Read(ctx, live.Options{})
	if err != nil {
		return err
	}
	for _, object := range cluster.Objects() {
		if kind := kindOf(object); slices.ContainsFunc(allTypes, func(t manifest.Type) bool { return t.Kind == kind }) {
			keep(manifest.Object{Kind: kind, Item: -1, Object: object.(client.Object)})
		}
	}
	return nil
}

// The kinds that only a snapshot for an audit holds, and of which a check reads nothing.
const (
	service       policy.Kind = "Service"
	endpointSlice policy.Kind = "EndpointSlice"
	deployment    policy.Kind = "Deployment"
	configMap     policy.Kind = "ConfigMap"
	snapshot      policy.Kind = "Snapshot"
)

var snapshotTypes = append(manifest.Types(),
	manifest.Type{Group: corev1.GroupName, Versions: []string{"v1"}, Kind: service, New: func() policy.Object { return &corev1.Service{} }},
	manifest.Type{Group: corev1.GroupName, Versions: []string{"v1"}, Kind: configMap, New: func() policy.Object { return &corev1.ConfigMap{} }},
	manifest.Type{Group: discoveryv1.GroupName, Versions: []string{"v1"}, Kind: endpointSlice, New: func() policy.Object { return &discoveryv1.EndpointSlice{} }},
	manifest.Type{Group: appsv1.GroupName, Versions: []string{"v1"}, Kind: deployment, New: func() policy.Object { return &appsv1.Deployment{} }},
	manifest.Type{Group: snapshotVersion.Group, Versions: []string{snapshotVersion.Version}, Kind: snapshot, New: func() policy.Object { return &snapshotInfo{} }},
)

// snapshotVersion names the form of the document that says what a snapshot lacks.
var snapshotVersion = schema.GroupVersion{Group: "facts.routesteward.dev", Version: "v1"}

// snapshotInfo is the first document of a snapshot.
type snapshotInfo struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	// Source and Time are those of audit.Cluster.
	Source  string          `json:"source,omitempty"`
	Time    *metav1.Time    `json:"time,omitempty"`
	NotRead []audit.NotRead `json:"notRead,omitempty"`
}

// DeepCopyObject implements runtime.Object.
func (s *snapshotInfo) DeepCopyObject() runtime.Object {
	copied := *s
	copied.NotRead = slices.Clone(s.NotRead)
	return &copied
}

// kindOf is the kind of a typed object that a snapshot may hold.
func kindOf(object runtime.Object) policy.Kind {
	if route, ok := policy.RouteOf(object); ok {
		return route.Kind
	}
	switch object.(type) {
	case *corev1.Namespace:
		return manifest.Namespace
	case *gwv1.Gateway:
		return policy.Gateway
	case *gwv1.ReferenceGrant:
		return policy.ReferenceGrant
	case *corev1.Service:
		return service
	case *discoveryv1.EndpointSlice:
		return endpointSlice
	case *appsv1.Deployment:
		return deployment
	case *corev1.ConfigMap:
		return configMap
	}
	return ""
}

// versionOf is the API version under which a snapshot has a kind.
func versionOf(kind policy.Kind) string {
	switch kind {
	case manifest.Namespace, service, configMap:
		return "v1"
	case endpointSlice:
		return discoveryv1.SchemeGroupVersion.String()
	case deployment:
		return appsv1.SchemeGroupVersion.String()
	}
	return gwv1.GroupVersion.String()
}

// WriteSnapshot writes a cluster as a file for --facts: YAML documents, or with asJSON one object a line. What it holds is
// what an audit reads of each object: nothing else of a cluster ends up in a file.
func WriteSnapshot(w io.Writer, cluster *audit.Cluster, asJSON bool) error {
	buffered := bufio.NewWriter(w)
	write := func(value map[string]any) error {
		text, err := json.Marshal(value)
		if err == nil && !asJSON {
			text, err = yaml.JSONToYAML(text)
		}
		if err != nil {
			return err
		}
		if !asJSON {
			_, _ = buffered.WriteString("---\n") // Flush returns the error
		}
		_, _ = buffered.Write(text)
		if asJSON {
			_ = buffered.WriteByte('\n')
		}
		return nil
	}
	info := map[string]any{"apiVersion": snapshotVersion.String(), "kind": string(snapshot), "metadata": map[string]any{"name": "snapshot"}}
	if cluster.Source != "" {
		info["source"] = cluster.Source
	}
	if !cluster.Time.IsZero() {
		info["time"] = cluster.Time.UTC().Format(time.RFC3339)
	}
	if len(cluster.NotRead) > 0 {
		info["notRead"] = cluster.NotRead
	}
	if err := write(info); err != nil {
		return err
	}
	for _, object := range cluster.Objects() {
		value, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			return err
		}
		kind := kindOf(object)
		// An empty selector of a listener means every namespace; of these kinds nothing empty means anything.
		prune(value, kind == service || kind == endpointSlice || kind == deployment || kind == manifest.Namespace)
		for _, part := range []string{"spec", "status"} {
			if fields, ok := value[part].(map[string]any); ok && len(fields) == 0 {
				delete(value, part)
			}
		}
		value["apiVersion"], value["kind"] = versionOf(kind), string(kind)
		if err := write(value); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

// prune takes out what is null, and with empties what is empty.
func prune(value map[string]any, empties bool) {
	for key, field := range value {
		switch f := field.(type) {
		case nil:
			delete(value, key)
		case map[string]any:
			if prune(f, empties); empties && len(f) == 0 {
				delete(value, key)
			}
		case []any:
			for _, item := range f {
				if m, ok := item.(map[string]any); ok {
					prune(m, empties)
				}
			}
		}
	}
}

// ReadSnapshot reads files and directories that together hold all there is in a cluster: what WriteSnapshot wrote, or the
// objects as kubectl prints them. Problems are what could not be read or understood.
func ReadSnapshot(ctx context.Context, paths []string) (*audit.Cluster, []Problem, error) {
	in := manifest.Open(paths, true, nil)
	problems := in.Problems
	cluster := &audit.Cluster{Source: "snapshot"}
	described := false
	for i, file := range in.Files {
		for document, problem := range file.Documents(i) {
			switch {
			case ctx.Err() != nil:
				return nil, nil, errors.Join(ctx.Err(), in.Close())
			case problem != nil:
				problems = append(problems, *problem)
			default:
				objects, wrong := document.Objects(snapshotTypes, false)
				problems = append(problems, wrong...)
				for _, object := range objects {
					if info, ok := object.Object.(*snapshotInfo); ok {
						described = true
						if info.Source != "" {
							cluster.Source = "snapshot of " + info.Source
						}
						if info.Time != nil {
							cluster.Time = info.Time.UTC()
						}
						cluster.NotRead = append(cluster.NotRead, info.NotRead...)
						continue
					}
					cluster.Add(object.Object)
				}
			}
		}
	}
	if !described {
		cluster.NotRead = append(cluster.NotRead, absent(cluster)...)
	}
	cluster.Complete()
	return cluster, problems, in.Close()
}

// absent is what files that do not say so cannot be taken to be all of.
func absent(cluster *audit.Cluster) []audit.NotRead {
	var missing []audit.NotRead
	for _, optional := range []struct {
		resource string
		count    int
	}{
		{"services", len(cluster.Services)}, {"endpointslices", len(cluster.EndpointSlices)}, {"deployments", len(cluster.Deployments)},
	} {
		if optional.count == 0 {
			missing = append(missing, audit.NotRead{Resource: optional.resource, Reason: "the files hold none"})
		}
	}
	return missing
}
