package check

import (
	"io"

	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"

	"github.com/routesteward/routesteward/policy"
)

// The words of SARIF for a level, and for a finding's state against a baseline.
var (
	sarifLevels = map[level]string{levelNote: "note", levelWarning: "warning", levelError: "error"}
	sarifStates = map[string]string{StateIntroduced: "new", StateUnchanged: "unchanged", StateFixed: "absent"}
)

// fingerprintName is under which name SARIF has the Fingerprint; the number changes with the way it is made.
const fingerprintName = "routesteward/v1"

func (r Report) writeSARIF(w io.Writer, version string) error {
	log := NewSARIF(version)
	for _, rule := range policy.Rules() {
		log.AddRule(rule.ID, rule.Summary, rule.Rationale+"\n\n"+rule.Remediation)
	}
	for _, advice := range Advices() {
		log.AddRule(advice.ID, advice.Summary, advice.Rationale)
	}
	for f := range r.Findings() {
		result := log.AddResult(f.Rule, sarifLevels[f.level()], f.explained(), f.Fingerprint, uri(f.File), f.Line, f.Column)
		if state, ok := sarifStates[f.State]; ok {
			result.WithBaselineState(state)
		}
	}
	for _, p := range r.Problems {
		log.AddProblem(p.Message, uri(p.File), p.Line, p.Column)
	}
	return log.Write(w)
}

// SARIF is one run of routesteward in SARIF 2.1.0, for code scanning. Start from NewSARIF.
type SARIF struct {
	run        *sarif.Run
	invocation *sarif.Invocation
	failed     bool
}

// NewSARIF begins a run of a version of the program; empty: unknown.
func NewSARIF(version string) *SARIF {
	run := sarif.NewRunWithInformationURI("routesteward", "https://github.com/routesteward/routesteward")
	if version != "" {
		run.Tool.Driver.WithVersion(version)
	}
	// Columns are counted as people count characters, not as UTF-16 has them.
	run.WithColumnKind("unicodeCodePoints")
	return &SARIF{run: run, invocation: sarif.NewInvocation()}
}

// AddRule adds a rule; those of results come before them.
func (s *SARIF) AddRule(id, summary, help string) {
	s.run.AddRule(id).
		WithShortDescription(sarif.NewMultiformatMessageString().WithText(summary)).
		WithHelp(sarif.NewMultiformatMessageString().WithText(help))
}

// AddResult adds a finding of level error, warning or note. The place is a relative or absolute URI; line 0 is all of it.
func (s *SARIF) AddResult(rule, level, message, fingerprint, place string, line, column int) *sarif.Result {
	result := sarif.NewRuleResult(rule).
		WithRuleIndex(s.run.GetRuleIndex(rule)).
		WithLevel(level).
		WithMessage(sarif.NewTextMessage(message)).
		WithLocations([]*sarif.Location{sarifLocation(place, line, column)}).
		WithPartialFingerprints(map[string]string{fingerprintName: fingerprint})
	s.run.AddResult(result)
	return result
}

// AddProblem adds something that could not be looked at, so that the run counts as failed; the place may be empty.
func (s *SARIF) AddProblem(message, place string, line, column int) {
	s.failed = true
	notification := sarif.NewNotification().WithLevel("error").WithMessage(sarif.NewTextMessage(message))
	if place != "" {
		notification.WithLocations([]*sarif.Location{sarifLocation(place, line, column)})
	}
	s.invocation.AddToolExecutionNotification(notification)
}

// Write writes the log.
func (s *SARIF) Write(w io.Writer) error {
	s.run.AddInvocation(s.invocation.WithExecutionSuccessful(!s.failed))
	log := sarif.NewReport()
	log.AddRun(s.run)
	return log.PrettyWrite(w)
}

func sarifLocation(place string, line, column int) *sarif.Location {
	physical := sarif.NewPhysicalLocation().WithArtifactLocation(sarif.NewArtifactLocation().WithURI(place))
	if line > 0 {
		physical.WithRegion(sarif.NewRegion().WithStartLine(line).WithStartColumn(max(column, 1)))
	}
	return sarif.NewLocationWithPhysicalLocation(physical)
}
