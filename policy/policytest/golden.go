// Package policytest loads the golden cases of policy/testdata/cases, makes random policies, requests and clusters, and bounds
// allocations. A golden case is one folder, grouped by the rule that it is about. Every tier of tests runs them: the engine, the command line, and the real API server.
//
// A case consists of
//
//	route.yaml    the object that is written (any evaluated kind)
//	cluster.yaml  optional: what the cluster holds; a stored object of the same kind and name makes the write an update
//	policy.yaml   optional: the policy, as a file for --config
//	want.yaml     the decision
package policytest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
)

// User and Group are who writes the object of every case. GrantWriter is the ClusterRole that a RoleBinding in
// cluster.yaml gives to User where the requester may create ReferenceGrants.
const (
	User        = "jane"
	Group       = "devs"
	GrantWriter = "referencegrant-writer"
)

// Case is one golden case.
type Case struct {
	// Name is "<rule>/<case>"; Dir the case's folder.
	Name, Rule, Dir string
	Config          policy.Config
	Request         policy.Request
	// Object is the object of route.yaml.
	Object client.Object
	// Cluster holds the objects of cluster.yaml, in the file's order.
	Cluster []client.Object
	Want    Want
}

// Want is the expected decision, in the words that people read.
type Want struct {
	Verdict string `json:"verdict"`
	// Findings as "severity rule field", those of severity audit included.
	Findings []string `json:"findings,omitempty"`
	// Denial is the message of the refusal.
	Denial string `json:"denial,omitempty"`
	// Warnings of an admitted write, those about grants included.
	Warnings []string `json:"warnings,omitempty"`
	// Grants as "namespace/name (created|exists): consent".
	Grants []string `json:"grants,omitempty"`
}

// WantOf is a decision in the form of want.yaml.
func WantOf(d policy.Decision, req policy.Request) Want {
	want := Want{Verdict: d.Verdict(), Denial: d.Denial(req)}
	for _, f := range d.Findings {
		want.Findings = append(want.Findings, fmt.Sprintf("%s %s %s", f.Severity, f.Rule, f.Field))
	}
	want.Warnings = d.Warnings(false)
	for _, g := range d.Grants {
		state := "created"
		if g.Exists {
			state = "exists"
		}
		want.Grants = append(want.Grants, fmt.Sprintf("%s/%s (%s): %s", g.Edge.Namespace, g.Name, state, g.Consent))
	}
	return want
}

// WriteWant replaces the case's want.yaml.
func (c Case) WriteWant(w Want) error {
	data, err := yaml.Marshal(w)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Dir, "want.yaml"), data, 0o644)
}

// Load reads all cases below root. A file that is missing or belongs to no case, and anything that does not decode
// strictly, is an error.
func Load(root string) ([]Case, error) {
	var cases []Case
	var errs []error
	ruleDirs, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	for _, ruleDir := range ruleDirs {
		if !slices.ContainsFunc(policy.Rules(), func(r policy.Rule) bool { return r.ID == ruleDir.Name() }) {
			errs = append(errs, fmt.Errorf("%s: no rule has this id", filepath.Join(root, ruleDir.Name())))
			continue
		}
		caseDirs, err := os.ReadDir(filepath.Join(root, ruleDir.Name()))
		if err != nil {
			return nil, err
		}
		for _, caseDir := range caseDirs {
			c, err := load(filepath.Join(root, ruleDir.Name(), caseDir.Name()))
			if err != nil {
				errs = append(errs, err)
				continue
			}
			c.Rule, c.Name = ruleDir.Name(), ruleDir.Name()+"/"+caseDir.Name()
			cases = append(cases, c)
		}
	}
	sort.Slice(cases, func(i, j int) bool { return cases[i].Name < cases[j].Name })
	return cases, errors.Join(errs...)
}

func load(dir string) (Case, error) {
	c := Case{Dir: dir, Config: policy.DefaultConfig()}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return c, err
	}
	files := map[string][]byte{"route.yaml": nil, "cluster.yaml": nil, "policy.yaml": nil, "want.yaml": nil}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if _, ok := files[entry.Name()]; !ok || entry.IsDir() {
			return c, fmt.Errorf("%s: does not belong to a golden case", path)
		}
		if files[entry.Name()], err = os.ReadFile(path); err != nil {
			return c, err
		}
	}
	objects, err := Decode(files["route.yaml"])
	if err == nil && len(objects) != 1 {
		err = fmt.Errorf("must hold one object, found %d", len(objects))
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, "route.yaml"), err)
	}
	if c.Cluster, err = Decode(files["cluster.yaml"]); err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, "cluster.yaml"), err)
	}
	if err := readPolicy(files["policy.yaml"], &c.Config); err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, "policy.yaml"), err)
	}
	if err := yaml.UnmarshalStrict(files["want.yaml"], &c.Want); err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, "want.yaml"), err)
	}
	c.Object = objects[0]
	c.Request = policy.Request{
		Operation: policy.Create,
		Kind:      policy.Kind(c.Object.GetObjectKind().GroupVersionKind().Kind),
		Namespace: c.Object.GetNamespace(),
		User:      policy.User{Name: User, Groups: []string{Group, "system:authenticated"}},
		Object:    c.Object,
	}
	for _, stored := range c.Cluster {
		if sameObject(stored, c.Object) {
			c.Request.Operation, c.Request.OldObject = policy.Update, stored
		}
	}
	return c, nil
}

func sameObject(a, b client.Object) bool {
	return a.GetObjectKind().GroupVersionKind().GroupKind() == b.GetObjectKind().GroupVersionKind().GroupKind() &&
		a.GetNamespace() == b.GetNamespace() && a.GetName() == b.GetName() && a.GetName() != ""
}

// Facts are what the cluster of the case says, all of it known.
func (c Case) Facts() policy.Snapshot {
	facts := policy.Snapshot{
		Namespaces: map[string]policy.NamespaceFacts{},
		Gateways:   map[string]bool{},
		Grants:     map[string][]*gwv1.ReferenceGrant{},
		Writers:    map[string]bool{},
	}
	var routes []policy.Route
	for _, obj := range c.Cluster {
		switch o := obj.(type) {
		case *corev1.Namespace:
			facts.Namespaces[o.Name] = policy.NamespaceFacts{
				Exists: policy.Yes, Terminating: o.DeletionTimestamp != nil, Grants: o.Labels[policy.GrantsLabel],
			}
		case *gwv1.Gateway:
			facts.Gateways[o.Namespace+"/"+o.Name] = true
		case *gwv1.ReferenceGrant:
			facts.Grants[o.Namespace] = append(facts.Grants[o.Namespace], o)
		case *rbacv1.RoleBinding:
			facts.Writers[o.Namespace] = true
		default:
			if route, ok := policy.RouteOf(obj); ok {
				routes = append(routes, route)
			}
		}
	}
	if p, err := policy.New(c.Config); err == nil {
		facts.Holder = p.Holders(routes)
	}
	return facts
}

// readPolicy reads the flags that --config files name.
func readPolicy(data []byte, c *policy.Config) error {
	file := struct {
		SystemNamespace  *string               `json:"system-namespace"`
		Scope            *policy.Scope         `json:"scope"`
		Kinds            *[]policy.Kind        `json:"kinds"`
		Outside          *policy.OutsideMode   `json:"outside"`
		Grants           *policy.GrantsMode    `json:"grants"`
		GrantConsent     *policy.ConsentMode   `json:"grant-consent"`
		GrantScope       *policy.GrantScope    `json:"grant-scope"`
		RelocatedName    *policy.RelocatedName `json:"relocated-name"`
		ReservedNames    *[]string             `json:"reserved-names"`
		GatewayClasses   *[]string             `json:"gateway-classes"`
		ExemptNamespaces *[]string             `json:"exempt-namespaces"`
		ExemptUsers      *[]string             `json:"exempt-users"`
		ExemptGroups     *[]string             `json:"exempt-groups"`
	}{
		&c.SystemNamespace, &c.Scope, &c.Kinds, &c.Outside, &c.Grants, &c.GrantConsent, &c.GrantScope,
		&c.RelocatedName, &c.ReservedNames,
		&c.GatewayClasses, &c.ExemptNamespaces, &c.ExemptUsers, &c.ExemptGroups,
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return err
	}
	return c.Validate().ToAggregate()
}

// Scheme knows every kind that a golden case may hold, and v1beta1 of Gateway API as v1's JSON.
func Scheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(scheme))
	utilruntime.Must(rbacv1.AddToScheme(scheme))
	utilruntime.Must(gwv1.Install(scheme))
	return scheme
}

// Decode reads YAML documents strictly.
func Decode(data []byte) ([]client.Object, error) {
	decoder := serializer.NewCodecFactory(Scheme(), serializer.EnableStrict).UniversalDeserializer()
	reader := yamlutil.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	var objects []client.Object
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return objects, err
		}
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		obj, gvk, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			return objects, err
		}
		object, ok := obj.(client.Object)
		if !ok {
			return objects, fmt.Errorf("%s is not a single object", gvk)
		}
		object.GetObjectKind().SetGroupVersionKind(*gvk)
		objects = append(objects, object)
	}
}
