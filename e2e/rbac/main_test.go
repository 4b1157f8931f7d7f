// Package rbac shows that routesteward may do what it does and nothing more: on a real API server, as its own service account,
// with the roles that manifests/install.yaml gives it.
package rbac

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/e2e/build"
	"github.com/routesteward/routesteward/hack/localcluster"
)

const (
	namespace = "routesteward-system"
	system    = "aibrix-system"
	self      = "system:serviceaccount:routesteward-system:routesteward"
	soon      = 30 * time.Second
	tick      = 50 * time.Millisecond
)

// world is a control plane in which routesteward is installed.
type world struct {
	*localcluster.Cluster
	client.Client
	binary string
	server *localcluster.Server
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{}
	var err error
	w.binary, err = build.Program("")
	require.NoError(t, err)
	w.Cluster, err = localcluster.Start(t.Context(), localcluster.Options{Audit: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Cluster.Stop()) })
	scheme := runtime.NewScheme()
	require.NoError(t, clientgoscheme.AddToScheme(scheme))
	require.NoError(t, gwv1.Install(scheme))
	w.Client, err = client.New(w.Config, client.Options{Scheme: scheme})
	require.NoError(t, err)
	require.NoError(t, w.MustKubectl(t.Context(), "create", "namespace", system))
	require.NoError(t, w.Install(t.Context()))
	return w
}

// serveOptions start routesteward so that everything that it does is done soon.
func (w *world) serveOptions(name string) localcluster.ServeOptions {
	return localcluster.ServeOptions{Name: name, Binary: w.binary, Flags: []string{"--outside=rewrite", "--grant-grace=1s", "--scan-interval=1s"}}
}

func (w *world) serve(t *testing.T) {
	t.Helper()
	var err error
	w.server, err = w.Serve(t.Context(), w.serveOptions("routesteward"))
	require.NoError(t, err)
	t.Cleanup(func() { w.stop(t) })
	_, err = w.WaitIntercepted(t.Context())
	require.NoError(t, err)
}

// permission is one verb on one resource, as a role grants it.
type permission struct {
	// role is ClusterRole or the namespace of the Role.
	role, group, resource, verb string
	// names are the only ones that it is for; none: all.
	names []string
}

func (p permission) String() string {
	s := fmt.Sprintf("%s: %s %s", p.role, p.verb, p.resource)
	if p.group != "" {
		s += "." + p.group
	}
	if len(p.names) > 0 {
		s += " " + strings.Join(p.names, ",")
	}
	return s
}

func (p permission) rule() rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{p.group}, Resources: []string{p.resource}, Verbs: []string{p.verb}, ResourceNames: p.names}
}

// roles are those that install.yaml makes, by the namespace of the Role; "" is the ClusterRole.
func (w *world) roles(t *testing.T) map[string]client.Object {
	t.Helper()
	clusterRole := &rbacv1.ClusterRole{}
	require.NoError(t, w.Get(context.Background(), client.ObjectKey{Name: "routesteward"}, clusterRole))
	roles := map[string]client.Object{"": clusterRole}
	var list rbacv1.RoleList
	require.NoError(t, w.List(context.Background(), &list, client.MatchingLabels{"app.kubernetes.io/name": "routesteward"}))
	for i := range list.Items {
		roles[list.Items[i].Namespace] = &list.Items[i]
	}
	return roles
}

func rules(role client.Object) *[]rbacv1.PolicyRule {
	if clusterRole, ok := role.(*rbacv1.ClusterRole); ok {
		return &clusterRole.Rules
	}
	return &role.(*rbacv1.Role).Rules
}

// expand is what a rule grants, one by one.
func expand(role string, rule rbacv1.PolicyRule) []permission {
	var all []permission
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				all = append(all, permission{role, group, resource, verb, rule.ResourceNames})
			}
		}
	}
	return all
}

// permissions are all that the roles grant.
func (w *world) permissions(t *testing.T) []permission {
	t.Helper()
	var all []permission
	for role, object := range w.roles(t) {
		for _, rule := range *rules(object) {
			require.Empty(t, rule.NonResourceURLs)
			for _, p := range expand(role, rule) {
				require.NotContains(t, []string{p.group, p.resource, p.verb}, "*", "name what is needed")
				all = append(all, p)
			}
		}
	}
	slices.SortFunc(all, func(a, b permission) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// request is what of an audit event is about permissions.
type request struct {
	Verb, RequestURI string
	ObjectRef        *struct{ APIGroup, Resource, Subresource, Namespace, Name string }
	User             struct{ Username string }
	ResponseStatus   struct{ Code int }
	Annotations      map[string]string
}

func (r request) String() string {
	return fmt.Sprintf("%s %s (%d)", r.Verb, r.RequestURI, r.ResponseStatus.Code)
}

// granted reports whether the permission is one for the request.
func (p permission) granted(r request) bool {
	if r.ObjectRef == nil || r.Verb != p.verb || r.ObjectRef.APIGroup != p.group || p.role != "" && p.role != r.ObjectRef.Namespace {
		return false
	}
	resource := r.ObjectRef.Resource
	if r.ObjectRef.Subresource != "" {
		resource += "/" + r.ObjectRef.Subresource
	}
	return resource == p.resource && (len(p.names) == 0 || slices.Contains(p.names, r.ObjectRef.Name))
}

// requests are what routesteward has asked of the API server after the first skip bytes of the audit log.
func (w *world) requests(t require.TestingT, skip int64) []request {
	file, err := os.Open(w.AuditLog())
	require.NoError(t, err)
	defer file.Close()
	_, err = file.Seek(skip, 0)
	require.NoError(t, err)
	var all []request
	reader := bufio.NewReader(file)
	for {
		line, err := reader.ReadBytes('\n')
		if err != nil {
			return all // what is not a whole line yet is another time's
		}
		if !bytes.Contains(line, []byte(self)) {
			continue
		}
		var r request
		require.NoError(t, json.Unmarshal(line, &r))
		if r.User.Username == self {
			all = append(all, r)
		}
	}
}

func (w *world) auditSize(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(w.AuditLog())
	require.NoError(t, err)
	return info.Size()
}

func (w *world) kubectl(ctx context.Context, stdin string, args ...string) error {
	out, errOut, exit := w.Kubectl(ctx, w.Kubeconfig, stdin, args...)
	if exit != 0 {
		return fmt.Errorf("kubectl %s: %s%s", strings.Join(args, " "), out, errOut)
	}
	return nil
}
