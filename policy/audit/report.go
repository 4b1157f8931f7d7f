package audit

import (
	"time"

	"github.com/routesteward/routesteward/policy"
)

// SchemaVersion names the form of a Report in JSON. Fields are only ever added under one name.
const SchemaVersion = "routesteward.dev/audit/v1"

// Severity says how bad a finding is.
type Severity string

const (
	// SeverityError: requests fail, or will as soon as somebody makes them; the audit fails.
	SeverityError Severity = "error"
	// SeverityWarning: it works today by luck, for some callers only, or permits more than anybody needs; the audit fails
	// with --strict.
	SeverityWarning Severity = "warning"
	// SeverityInfo is worth knowing when something else does not work.
	SeverityInfo Severity = "info"
)

// State is the worst of what is known about an object or an edge.
type State string

// The states, from best to worst. The zero value is not valid.
const (
	StateOK      State = "ok"
	StateUnknown State = "unknown"
	StateWarning State = "warning"
	StateBroken  State = "broken"
)

// Ref names one object of the cluster.
type Ref struct {
	// Group is empty for the core group and for Gateway API's own kinds.
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Report is what an audit knows and found. Its JSON is the output json. Everything is in a stable order: by kind, namespace
// and name where not said otherwise.
type Report struct {
	// SchemaVersion is the constant of that name.
	SchemaVersion string `json:"schemaVersion"`
	// Source says in words where the facts come from; Time is when they were read, absent for a snapshot without one.
	Source string     `json:"source"`
	Time   *time.Time `json:"time,omitempty"`
	// SystemNamespace is where governed routes belong.
	SystemNamespace string  `json:"systemNamespace"`
	Summary         Summary `json:"summary"`

	// Namespaces, Gateways, Backends and Grants are those that the audited routes have to do with, and Gateways all of the
	// system namespace.
	Namespaces []Namespace `json:"namespaces"`
	Gateways   []*Gateway  `json:"gateways"`
	Routes     []*Route    `json:"routes"`
	Backends   []*Backend  `json:"backends"`
	Grants     []*Grant    `json:"grants"`
	// Edges lead from routes to listeners and backends, from grants to the backends that they open, and from parked sources
	// to their copies.
	Edges []Edge `json:"edges"`

	// Plugin is AIBrix's gateway plugin; absent where there is none or it is not known.
	Plugin *Plugin `json:"plugin,omitempty"`
	// Models are those that a route of AIBrix's form serves.
	Models []Model `json:"models"`

	// Findings are ordered by severity, then as Checks are, then by object.
	Findings []Finding `json:"findings"`
	// NotKnown says in whole sentences what could not be read, and so was not looked at.
	NotKnown []string `json:"notKnown"`
}

// newReport is a report without objects. Its lists are empty rather than nil, which would be null in JSON.
func newReport(p *policy.Policy, c *Cluster) Report {
	r := Report{
		SchemaVersion: SchemaVersion, Source: c.Source, SystemNamespace: p.SystemNamespace,
		Namespaces: []Namespace{}, Gateways: []*Gateway{}, Routes: []*Route{}, Backends: []*Backend{}, Grants: []*Grant{}, Edges: []Edge{},
		Models: []Model{}, Findings: []Finding{}, NotKnown: []string{},
	}
	if !c.Time.IsZero() {
		r.Time = &c.Time
	}
	return r
}

// Summary counts what was looked at and found.
type Summary struct {
	// Routes are those that were audited, Seen all that were read.
	Routes int `json:"routes"`
	Seen   int `json:"seen"`
	// Healthy are the audited routes without an error or warning.
	Healthy int `json:"healthy"`
	// Findings by severity; those that are not there were not found.
	Findings map[Severity]int `json:"findings"`
}

// Namespace is one namespace on the map.
type Namespace struct {
	Name   string        `json:"name"`
	Exists policy.Answer `json:"exists"`
	// Grants is the value of the label routesteward.dev/grants.
	Grants string `json:"grants,omitempty"`
	State  State  `json:"state"`
}

// Gateway is a Gateway with its listeners.
type Gateway struct {
	Ref
	Class string `json:"class,omitempty"`
	// Exists is false where routes refer to a Gateway that is not there.
	Exists    bool       `json:"exists"`
	Listeners []Listener `json:"listeners"`
	State     State      `json:"state"`
}

// Listener is one listener of a Gateway.
type Listener struct {
	Name     string `json:"name"`
	Port     int32  `json:"port"`
	Protocol string `json:"protocol"`
	Hostname string `json:"hostname,omitempty"`
	// AllowedNamespaces says in words which namespaces' routes it accepts.
	AllowedNamespaces string `json:"allowedNamespaces"`
	// Routes counts the audited routes that it accepts by its spec.
	Routes int `json:"routes"`
}

// Role is what relocation has made of a route.
type Role string

const (
	// RoleRoute was not relocated.
	RoleRoute Role = "route"
	// RoleSource is parked: its copy serves for it.
	RoleSource Role = "source"
	// RoleCopy is the relocated copy of a source.
	RoleCopy Role = "copy"
)

// Route is one audited route.
type Route struct {
	Ref
	// Origin is the namespace whose people wrote it; another than its own for a relocated copy.
	Origin string `json:"origin"`
	Role   Role   `json:"role"`
	// Governed is "yes", or "misdirected" where it is governed only because a parentRef names no namespace.
	Governed  string   `json:"governed"`
	Hostnames []string `json:"hostnames,omitempty"`
	// Model is the model that AIBrix serves by it, or empty.
	Model string `json:"model,omitempty"`
	// Parents are its parentRefs to Gateways in their order; for a parked source those that were parked.
	Parents []Parent `json:"parents"`
	// References are the backends that it names, each place once, in the order of its fields.
	References []Reference `json:"references"`
	State      State       `json:"state"`
}

// Parent is one parentRef to a Gateway.
type Parent struct {
	// Field is the path of the parentRef, Gateway what it means.
	Field       string `json:"field"`
	Gateway     Ref    `json:"gateway"`
	SectionName string `json:"sectionName,omitempty"`
	Port        int32  `json:"port,omitempty"`
	// Listeners has the Gateway's listeners that the parentRef selects, and whether each accepts the route.
	Listeners []Acceptance `json:"listeners"`
	// Status is what gateway controllers wrote about this parentRef; empty where none did.
	Status []ParentStatus `json:"status"`
	State  State          `json:"state"`
}

// Acceptance is whether a listener accepts the route, by its spec.
type Acceptance struct {
	Listener string        `json:"listener"`
	Accepted policy.Answer `json:"accepted"`
	// Reason is Gateway API's word for why not, Words the same for people.
	Reason string `json:"reason,omitempty"`
	Words  string `json:"words,omitempty"`
}

// ParentStatus is an entry of status.parents.
type ParentStatus struct {
	Controller string      `json:"controller"`
	Conditions []Condition `json:"conditions"`
}

// Condition is a condition of a route's status.
type Condition struct {
	Type   string `json:"type"`
	Status string `json:"status"`
	Reason string `json:"reason"`
	// Message is what the controller wrote, Words what it means.
	Message string `json:"message,omitempty"`
	Words   string `json:"words,omitempty"`
	// Stale says that the condition is about an older generation of the route.
	Stale bool `json:"stale,omitempty"`
}

// Reference is one place in a route that names a backend.
type Reference struct {
	Field   string `json:"field"`
	Backend Ref    `json:"backend"`
	// Port is 0 where none is named.
	Port  int32 `json:"port,omitempty"`
	Cross bool  `json:"cross"`
	// Outcome is how the policy decides about a cross-namespace reference: permitted, recorded, grantable, refused, vetoed or
	// undecided. Grants name the ReferenceGrants that permit it, Consent is why it may be.
	Outcome string   `json:"outcome,omitempty"`
	Grants  []string `json:"grants,omitempty"`
	Consent string   `json:"consent,omitempty"`
	// Withheld is true in a relocated copy that does not refer to the backend, for want of consent to its origin.
	Withheld bool  `json:"withheld,omitempty"`
	State    State `json:"state"`
}

// Backend is an object that routes refer to.
type Backend struct {
	Ref
	// Where Exists is unknown, or the backend is no Service, nothing below is known.
	Exists policy.Answer `json:"exists"`
	// Ready and NotReady count endpoints.
	Ready    int `json:"ready"`
	NotReady int `json:"notReady"`
	// Note says in words why something is not known.
	Note  string `json:"note,omitempty"`
	State State  `json:"state"`
}

// Owner is who wrote a ReferenceGrant.
type Owner string

// The owners.
const (
	OwnerSelf   Owner = "routesteward"
	OwnerAIBrix Owner = "aibrix"
	OwnerOther  Owner = "other"
)

// Grant is one ReferenceGrant.
type Grant struct {
	Ref
	Owner Owner `json:"owner"`
	// Permits says in words what it permits, one line for each pair of from and to.
	Permits []string `json:"permits"`
	// Uses counts the references of routes, audited or not, that it permits.
	Uses  int   `json:"uses"`
	State State `json:"state"`
}

// EdgeKind says what an Edge means.
type EdgeKind string

const (
	// EdgeAttaches leads from a route to a listener of a Gateway, or to the Gateway where no listener is selected.
	EdgeAttaches EdgeKind = "attaches"
	// EdgeRefers leads from a route to a backend.
	EdgeRefers EdgeKind = "refers"
	// EdgePermits leads from a grant to a backend that a route needs it for.
	EdgePermits EdgeKind = "permits"
	// EdgeCopies leads from a parked source to its copy.
	EdgeCopies EdgeKind = "copies"
)

// Edge leads from one object to another. There is one for each pair and kind (and listener).
type Edge struct {
	Kind EdgeKind `json:"kind"`
	From Ref      `json:"from"`
	To   Ref      `json:"to"`
	// Listener is the listener of EdgeAttaches.
	Listener string `json:"listener,omitempty"`
	State    State  `json:"state"`
	// Words say why it is not ok.
	Words string `json:"words,omitempty"`
}

// Plugin is AIBrix's gateway plugin, as its Deployment says.
type Plugin struct {
	Ref
	// Container is that whose environment was read.
	Container string     `json:"container"`
	Variables []Variable `json:"variables"`
	// Algorithm is the routing algorithm of requests that name none; empty: none, and such requests go through their
	// HTTPRoute. AlgorithmKnown is false where the value comes from somewhere that was not read.
	Algorithm      string `json:"algorithm,omitempty"`
	AlgorithmKnown bool   `json:"algorithmKnown"`
}

// Variable is an environment variable that changes routing.
type Variable struct {
	Name string `json:"name"`
	// Value is empty where Known is false.
	Value string `json:"value,omitempty"`
	Known bool   `json:"known"`
	// Set is false where the plugin's default counts, which Value then is.
	Set bool `json:"set"`
	// Source is where the value comes from, such as "env", "configMapKeyRef aibrix-system/gateway ROUTING_ALGORITHM" or
	// "default".
	Source string `json:"source"`
	// Meaning says in words what it does.
	Meaning string `json:"meaning"`
}

// Model is a model that AIBrix serves by a route.
type Model struct {
	Name  string `json:"name"`
	Route Ref    `json:"route"`
	// Depends is "all" where every request that names no routing algorithm goes through the HTTPRoute, "named" where
	// every request bypasses it unless it asks otherwise, and "unknown" where the plugin is not known.
	Depends string `json:"depends"`
	// Affected says in words whom a broken route affects.
	Affected string `json:"affected"`
	State    State  `json:"state"`
}

// Finding is one thing that is wrong or worth knowing.
type Finding struct {
	// Check is the id of the check that found it.
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	Object   Ref      `json:"object"`
	// Field is the path of the field in the object, Value what it contains, as people name it.
	Field string `json:"field"`
	Value string `json:"value,omitempty"`
	// Problem says what is wrong, Next what to do, Command the next command to run; it only reads, or it is the fix.
	Problem string `json:"problem"`
	Next    string `json:"next"`
	Command string `json:"command,omitempty"`
	// Related are other objects that it is about.
	Related []Ref `json:"related,omitempty"`
	// Message is all of it on one line.
	Message string `json:"message"`
	// Fingerprint is the same as long as check, object, field and value are.
	Fingerprint string `json:"fingerprint"`
	// Fails says that the finding makes the audit fail.
	Fails bool `json:"fails"`
}

// String names the object as people do: HTTPRoute team-a/llama-router.
func (r Ref) String() string {
	kind := r.Kind
	if r.Group != "" {
		kind += "." + r.Group
	}
	if r.Namespace == "" {
		return kind + " " + r.Name
	}
	return kind + " " + r.Namespace + "/" + r.Name
}

func refOfRoute(r policy.Route) Ref { return refOf(r.Kind, r.Namespace, r.Meta.Name) }

// refOf names a Gateway API object.
func refOf(kind policy.Kind, namespace, name string) Ref {
	return Ref{Kind: string(kind), Namespace: namespace, Name: name}
}
