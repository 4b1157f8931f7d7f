// Package settings binds the policy to command-line flags and resolves every setting from its layers: flags, then
// environment variables, then a file, then defaults. Each value knows its source and what it shadows.
package settings

import (
	"encoding/csv"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/routesteward/routesteward/policy"
)

// ConfigFlag names the flag that carries the path of the configuration file.
const ConfigFlag = "config"

// AddFlags binds --config and every field of cfg to flags. The defaults are what cfg holds.
func AddFlags(fs *pflag.FlagSet, cfg *policy.Config) {
	fs.String(ConfigFlag, "",
		"`FILE` with settings: a YAML map of flag names (without dashes) to values, lists as YAML lists. "+
			"Unknown and duplicate keys are errors. Flags and environment variables override it")
	fs.StringVar(&cfg.SystemNamespace, "system-namespace", cfg.SystemNamespace,
		"`NAMESPACE` of the shared Gateways, where the routes on them must live")
	EnumVar(fs, &cfg.Scope, "scope",
		"which routes are governed: those with a parentRef to a Gateway in the system namespace (governed), "+
			"or every route outside the exempt namespaces (all)",
		policy.ScopeGoverned, policy.ScopeAll)
	ListVar(fs, &cfg.Kinds, "kinds",
		"route `KINDS` that are evaluated: "+policy.KindNames())
	EnumVar(fs, &cfg.Outside, "outside",
		"what happens to a governed route outside the system namespace: reject denies it, rewrite relocates it (it is kept where "+
			"it is, and a copy in the system namespace serves it), warn admits it with a warning, allow admits it and only counts and logs",
		policy.OutsideReject, policy.OutsideRewrite, policy.OutsideWarn, policy.OutsideAllow)
	EnumVar(fs, &cfg.Grants, "grants",
		"what happens to a cross-namespace reference that no ReferenceGrant permits: inject makes the grant where the target "+
			"namespace consents and denies elsewhere, require denies, off does not look",
		policy.GrantsInject, policy.GrantsRequire, policy.GrantsOff)
	EnumVar(fs, &cfg.GrantConsent, "grant-consent",
		"what counts as the target namespace's consent: its own ReferenceGrants and its label routesteward.dev/grants=allow "+
			"(namespace), also a requester who may create ReferenceGrants there (requester), or nothing is needed (any). "+
			"UNSAFE: with any, whoever may write a route can reach every Service in every namespace without a veto label",
		policy.ConsentRequester, policy.ConsentNamespace, policy.ConsentAny)
	EnumVar(fs, &cfg.GrantScope, "grant-scope",
		"how much one managed ReferenceGrant permits: one named object (service), or every object of its kind in the target "+
			"namespace (namespace; for very large clusters)",
		policy.GrantScopeService, policy.GrantScopeNamespace)
	EnumVar(fs, &cfg.RelocatedName, "relocated-name",
		"name of a relocated route's copy: that of the route (same; AIBrix looks for MODEL-router), or NAMESPACE.NAME (qualified; "+
			"routes of different namespaces never compete for a name)",
		policy.RelocatedNameSame, policy.RelocatedNameQualified)
	ListVar(fs, &cfg.ReservedNames, "reserved-names",
		"`PATTERNS` of names that no relocated copy may have, with * for any text")
	ListVar(fs, &cfg.GatewayClasses, "gateway-classes",
		"`CLASSES` whose Gateways must live in the system namespace; empty: Gateways are not evaluated")
	ListVar(fs, &cfg.ExemptNamespaces, "exempt-namespaces",
		"`NAMESPACES` whose routes are never evaluated")
	ListVar(fs, &cfg.ExemptUsers, "exempt-users",
		"`USERS` whose writes are never evaluated")
	ListVar(fs, &cfg.ExemptGroups, "exempt-groups",
		"`GROUPS` whose members' writes are never evaluated")
}

// EnumVar adds a flag whose help lists its allowed values; the default is what target holds. Any text is accepted:
// evaluating it is the part of the owner's Validate, so that a wrong value reads the same from every source.
func EnumVar[T ~string](fs *pflag.FlagSet, target *T, name, usage string, allowed ...T) {
	fs.Var(&enum[T]{target, allowed}, name, usage)
}

// Enumerated is what the Value of a flag with a fixed set of values implements.
type Enumerated interface{ Values() []string }

type enum[T ~string] struct {
	target  *T
	allowed []T
}

func (e *enum[T]) Set(text string) error { *e.target = T(text); return nil }
func (e *enum[T]) String() string        { return string(*e.target) }
func (e *enum[T]) Type() string          { return "string" }
func (e *enum[T]) Values() []string      { return convert[string](e.allowed) }

// ListVar adds a flag that takes comma-separated values (CSV quoting keeps a comma inside a value) and may be repeated.
func ListVar[T ~string](fs *pflag.FlagSet, target *[]T, name, usage string) {
	fs.Var(&list[T]{target: target}, name, usage)
}

const listType = "list"

type list[T ~string] struct {
	target *[]T
	set    bool // the first Set replaces the default, the next ones append
}

func (l *list[T]) Set(text string) error {
	values, err := splitList(text)
	if err != nil {
		return err
	}
	if l.set {
		values = append(convert[string](*l.target), values...)
	}
	l.replace(values)
	return nil
}

func (l *list[T]) replace(values []string) { *l.target, l.set = convert[T](values), true }
func (l *list[T]) values() []string        { return append([]string{}, convert[string](*l.target)...) }
func (l *list[T]) String() string          { return joinList(convert[string](*l.target)) }
func (l *list[T]) Type() string            { return listType }

func splitList(text string) ([]string, error) {
	reader := csv.NewReader(strings.NewReader(text))
	reader.TrimLeadingSpace = true
	values, err := reader.Read()
	if err != nil && err != io.EOF {
		return nil, err
	}
	if _, err := reader.Read(); err != io.EOF {
		return nil, errors.New("more than one line")
	}
	for i := range values {
		values[i] = strings.TrimSpace(values[i])
	}
	return values, nil
}

func joinList(values []string) string {
	var text strings.Builder
	writer := csv.NewWriter(&text)
	_ = writer.Write(values) // a strings.Builder does not fail
	writer.Flush()
	return strings.TrimSuffix(text.String(), "\n")
}

func convert[To, From ~string](values []From) []To {
	var converted []To
	for _, value := range values {
		converted = append(converted, To(value))
	}
	return converted
}

// Tolerate makes the flags of fs accept what they cannot parse, so that Resolve can report it together with every
// other fault. Call it once, after the last flag was added and before fs is parsed.
func Tolerate(fs *pflag.FlagSet) {
	fs.VisitAll(func(flag *pflag.Flag) { flag.Value = &tolerant{Value: flag.Value} })
}

type tolerant struct {
	pflag.Value
	text string
	err  error
}

func (t *tolerant) Set(text string) error {
	if err := t.Value.Set(text); err != nil {
		t.text, t.err = text, err
	}
	return nil
}

func unwrap(value pflag.Value) pflag.Value {
	if t, ok := value.(*tolerant); ok {
		return t.Value
	}
	return value
}

// Values lists the allowed values of a flag; nil: anything its type can hold.
func Values(flag *pflag.Flag) []string {
	if e, ok := unwrap(flag.Value).(Enumerated); ok {
		return e.Values()
	}
	return nil
}

// Names lists the flags of fs in the order in which they were added if fs does not sort them.
func Names(fs *pflag.FlagSet) []string {
	var names []string
	fs.VisitAll(func(flag *pflag.Flag) { names = append(names, flag.Name) })
	return slices.Clip(names)
}

// shortDuration is d without the zero units that Duration.String appends: 30m, not 30m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// ClusterVar adds the flags that say which cluster is read.
func ClusterVar(fs *pflag.FlagSet, kubeconfig, context *string) {
	fs.StringVar(kubeconfig, "kubeconfig", *kubeconfig,
		"`FILE` that says where the API server is and who to be; empty: what KUBECONFIG names, else ~/.kube/config, else the Pod's service account")
	fs.StringVar(context, "context", *context,
		"`NAME` of the kubeconfig's context; empty: the current one")
}
