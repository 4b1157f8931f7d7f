package policy

import (
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Scope says which routes are governed.
type Scope string

const (
	// ScopeGoverned governs routes with a parentRef to a Gateway in the system namespace.
	ScopeGoverned Scope = "governed"
	// ScopeAll governs every route outside the exempt namespaces, with or without parentRefs.
	ScopeAll Scope = "all"
)

// OutsideMode says what happens to a governed route outside the system namespace.
type OutsideMode string

const (
	// OutsideReject denies it.
	OutsideReject OutsideMode = "reject"
	// OutsideRewrite relocates it: the route is parked where it is, and a copy in the system namespace serves it.
	OutsideRewrite OutsideMode = "rewrite"
	// OutsideWarn admits it with an admission warning.
	OutsideWarn OutsideMode = "warn"
	// OutsideAllow admits it; the finding is only counted and logged.
	OutsideAllow OutsideMode = "allow"
)

// GrantsMode says what happens to a cross-namespace reference that no ReferenceGrant permits.
type GrantsMode string

const (
	// GrantsInject makes a managed grant where there is consent, and denies where there is none.
	GrantsInject GrantsMode = "inject"
	// GrantsRequire denies; people write their ReferenceGrants themselves.
	GrantsRequire GrantsMode = "require"
	// GrantsOff does not evaluate cross-namespace references.
	GrantsOff GrantsMode = "off"
)

// ConsentMode says what counts as the target namespace's consent.
type ConsentMode string

const (
	// ConsentRequester counts everything, a requester who could have written the grant included.
	ConsentRequester ConsentMode = "requester"
	// ConsentNamespace counts only what the target namespace itself says: its own grants and its label.
	ConsentNamespace ConsentMode = "namespace"
	// ConsentAny needs no consent (a veto still counts). Unsafe: any route author may reach any namespace.
	ConsentAny ConsentMode = "any"
)

// GrantScope says how much one managed grant permits.
type GrantScope string

const (
	// GrantScopeService makes one grant an edge, always with to.name.
	GrantScopeService GrantScope = "service"
	// GrantScopeNamespace makes one grant without to.name for each origin, target namespace and pair of kinds.
	GrantScopeNamespace GrantScope = "namespace"
)

// RelocatedName says which name a relocated copy gets.
type RelocatedName string

const (
	// RelocatedNameSame gives the copy the name of its source.
	RelocatedNameSame RelocatedName = "same"
	// RelocatedNameQualified gives it the name <namespace>.<name>, so that sources of different namespaces never meet.
	RelocatedNameQualified RelocatedName = "qualified"
)

// Config is the platform's policy. The zero value is not valid; start from DefaultConfig.
type Config struct {
	// SystemNamespace is where governed routes and their Gateways live.
	SystemNamespace string
	Scope           Scope
	// Kinds are the route kinds that are evaluated at all.
	Kinds        []Kind
	Outside      OutsideMode
	Grants       GrantsMode
	GrantConsent ConsentMode
	GrantScope   GrantScope
	// RelocatedName is how relocated copies are called; ReservedNames are patterns (path.Match) of names that none may have.
	RelocatedName RelocatedName
	ReservedNames []string
	// GatewayClasses are the classes whose Gateways must live in the system namespace; empty: Gateways are not evaluated.
	GatewayClasses []string
	// ExemptNamespaces, ExemptUsers and ExemptGroups name whose writes are never evaluated.
	ExemptNamespaces, ExemptUsers, ExemptGroups []string
	// Self is the user name under which routesteward itself writes; it is exempt. Empty: unknown.
	Self string
}

// DefaultConfig is the policy of a routesteward that was given no flags.
func DefaultConfig() Config {
	return Config{
		SystemNamespace: "aibrix-system",
		Scope:           ScopeGoverned,
		Kinds:           RouteKinds(),
		Outside:         OutsideReject,
		Grants:          GrantsInject,
		GrantConsent:    ConsentRequester,
		GrantScope:      GrantScopeService,
		RelocatedName:   RelocatedNameSame,
		ReservedNames:   []string{"aibrix-reserved-*"},
	}
}

// Validate reports every fault of the policy at once; each error's field is the flag that carries the value.
func (c Config) Validate() field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsDNS1123Label(c.SystemNamespace) {
		errs = append(errs, field.Invalid(field.NewPath("--system-namespace"), c.SystemNamespace, msg))
	}
	errs = append(errs, oneOf("--scope", c.Scope, ScopeGoverned, ScopeAll)...)
	errs = append(errs, oneOf("--outside", c.Outside, OutsideReject, OutsideRewrite, OutsideWarn, OutsideAllow)...)
	errs = append(errs, oneOf("--grants", c.Grants, GrantsInject, GrantsRequire, GrantsOff)...)
	errs = append(errs, oneOf("--grant-consent", c.GrantConsent, ConsentRequester, ConsentNamespace, ConsentAny)...)
	errs = append(errs, oneOf("--grant-scope", c.GrantScope, GrantScopeService, GrantScopeNamespace)...)
	errs = append(errs, oneOf("--relocated-name", c.RelocatedName, RelocatedNameSame, RelocatedNameQualified)...)
	for _, pattern := range c.ReservedNames {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			errs = append(errs, field.Invalid(field.NewPath("--reserved-names"), pattern, "want a name, in which * is any text and ? any character"))
		}
	}
	if len(c.Kinds) == 0 {
		errs = append(errs, field.Required(field.NewPath("--kinds"), "name at least one of "+KindNames()))
	}
	for i, kind := range c.Kinds {
		errs = append(errs, oneOf("--kinds", kind, RouteKinds()...)...)
		if slices.Contains(c.Kinds[:i], kind) {
			errs = append(errs, field.Duplicate(field.NewPath("--kinds"), kind))
		}
	}
	for _, namespace := range c.ExemptNamespaces {
		for _, msg := range validation.IsDNS1123Label(namespace) {
			errs = append(errs, field.Invalid(field.NewPath("--exempt-namespaces"), namespace, msg))
		}
		if namespace == c.SystemNamespace {
			errs = append(errs, field.Invalid(field.NewPath("--exempt-namespaces"), namespace,
				"is the system namespace; exempting it would switch off the evaluation of cross-namespace references (use --grants=off if that is meant)"))
		}
	}
	for _, class := range c.GatewayClasses {
		for _, msg := range validation.IsDNS1123Subdomain(class) {
			errs = append(errs, field.Invalid(field.NewPath("--gateway-classes"), class, msg))
		}
	}
	for flag, names := range map[string][]string{"--exempt-users": c.ExemptUsers, "--exempt-groups": c.ExemptGroups} {
		for _, name := range names {
			if name == "" {
				errs = append(errs, field.Invalid(field.NewPath(flag), name, "a name may not be empty"))
			} else if !utf8.ValidString(name) {
				// In a CEL literal its bytes would be read as characters, and so exempt somebody else.
				errs = append(errs, field.Invalid(field.NewPath(flag), name, "a name must be valid UTF-8"))
			}
		}
	}
	slices.SortStableFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	return errs
}

func oneOf[T ~string](flag string, value T, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(field.NewPath(flag), value, allowed)}
}

// Policy is a validated Config, ready to evaluate. It is immutable and safe for concurrent use.
type Policy struct {
	Config
	kinds            sets.Set[Kind]
	gatewayClasses   sets.Set[string]
	exemptNamespaces sets.Set[string]
	exemptUsers      sets.Set[string]
	exemptGroups     sets.Set[string]
}

// New returns the policy, or all faults of its configuration in one error.
func New(c Config) (*Policy, error) {
	if errs := c.Validate(); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	return &Policy{
		Config:           c,
		kinds:            sets.New(c.Kinds...),
		gatewayClasses:   sets.New(c.GatewayClasses...),
		exemptNamespaces: sets.New(c.ExemptNamespaces...),
		exemptUsers:      sets.New(c.ExemptUsers...),
		exemptGroups:     sets.New(c.ExemptGroups...),
	}, nil
}

// Evaluates reports whether objects of this kind are evaluated under this policy.
func (p *Policy) Evaluates(kind Kind) bool {
	switch kind {
	case Gateway:
		return len(p.gatewayClasses) > 0
	case ReferenceGrant:
		return true
	default:
		return p.kinds.Has(kind)
	}
}
