package check

import (
	"iter"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/manifest"
)

// SchemaVersion names the form of a Report in JSON. Fields are only ever added under one name.
const SchemaVersion = "routesteward.dev/check/v1"

// Severity says what a finding does, here and at admission.
type Severity string

const (
	// SeverityDeny refuses the write; the check fails.
	SeverityDeny Severity = "deny"
	// SeverityUnknown is decided at admission, because a fact is not known here; the check fails with --strict.
	SeverityUnknown Severity = "unknown"
	// SeverityWarn admits the write with an admission warning.
	SeverityWarn Severity = "warn"
	// SeverityAudit admits the write silently; at admission the finding is only counted and logged.
	SeverityAudit Severity = "audit"
	// SeverityAdvice is no rule of admission: something that is worth a look in a ReferenceGrant that people wrote.
	SeverityAdvice Severity = "advice"
	// SeverityRelocation reports a route that routesteward serves by a copy in the system namespace when the write is admitted.
	SeverityRelocation Severity = "relocation"
	// SeverityGrant reports a ReferenceGrant that routesteward makes when the write is admitted.
	SeverityGrant Severity = "grant"
)

// Report is what a check found. Its JSON is the output json and the file for --baseline.
type Report struct {
	// SchemaVersion is the constant of that name.
	SchemaVersion string  `json:"schemaVersion"`
	Summary       Summary `json:"summary"`
	// Results are the evaluated objects that there is something to say about, in the order of the input.
	Results []Result `json:"results"`
	// Problems are what could not be read or understood, in the order of the input; the exit code is 2 when there is one.
	Problems []Problem `json:"problems"`
}

// Summary counts what was read and found.
type Summary struct {
	Files int `json:"files"`
	// Documents counts the YAML documents and JSON values that are not empty, Objects those that were evaluated.
	Documents int `json:"documents"`
	Objects   int `json:"objects"`
	// Findings by severity; those that are not there were not found.
	Findings map[Severity]int `json:"findings"`
	// Failed says that the check fails (exit code 1), because one of its findings does.
	Failed bool `json:"failed"`
}

// Result is one evaluated object with what was found.
type Result struct {
	// File is the path as it was given or found, "<stdin>" for the standard input; Line and Column (from 1, in characters)
	// are where the object begins.
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`

	Kind policy.Kind `json:"kind"`
	// Namespace is where the object would be written; Name ends in "*" where the server generates the rest.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Operation is UPDATE where the facts hold the same object, otherwise CREATE.
	Operation policy.Operation `json:"operation"`
	// Verdict is deny, warn, audit, allow or undecided, as the engine says it.
	Verdict string `json:"verdict"`
	// Denial is the message with which admission refuses the write, Warnings are its warnings in a dry run.
	Denial   string    `json:"denial,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
	Findings []Finding `json:"findings"`

	// Document and Item say which object of the file it is: the Index of its Document and, in a List, the number of the
	// item from 0; -1 outside a List.
	Document int `json:"document"`
	Item     int `json:"item"`

	// evaluated is kept for the fixer; nil otherwise, and for advice.
	evaluated *evaluated
}

// evaluated is the typed object of a Result, with what admission would change in it first and decide about it then.
type evaluated struct {
	object   client.Object
	mutation policy.Mutation
	decision policy.Decision
}

// Finding is one thing found at one field.
type Finding struct {
	File string `json:"file"`
	// Line and Column of the field, or of what comes nearest where the field is not written; from 1, in characters.
	Line   int `json:"line"`
	Column int `json:"column"`

	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	// Field, Value, Problem and Fix are those of policy.Finding.
	Field   string `json:"field"`
	Value   string `json:"value"`
	Problem string `json:"problem"`
	Fix     string `json:"fix,omitempty"`
	// Message is the finding on one line, in the words of admission.
	Message string `json:"message"`
	// Fingerprint is the same as long as the object, rule, severity, field and value are, wherever they stand in whichever
	// file.
	Fingerprint string `json:"fingerprint"`
	// Fails says that the finding makes the check fail: one of severity deny, or with --strict unknown, unless the baseline
	// has it already.
	Fails bool `json:"fails"`
	// State is introduced, unchanged or fixed against a baseline; empty without one.
	State string `json:"state,omitempty"`

	// text is the line of the file that the finding is on.
	text string
}

// Problem is something that could not be read or understood.
type Problem = manifest.Problem

// count brings the Summary's findings in step with the results.
func (r *Report) count() {
	r.Summary.Findings, r.Summary.Failed = map[Severity]int{}, false
	for finding := range r.Findings() {
		r.Summary.Findings[finding.Severity]++
		r.Summary.Failed = r.Summary.Failed || finding.Fails
	}
}

// Findings are those of all results, in their order.
func (r Report) Findings() iter.Seq[Finding] {
	return func(yield func(Finding) bool) {
		for i := range r.Results {
			for _, finding := range r.Results[i].Findings {
				if !yield(finding) {
					return
				}
			}
		}
	}
}
