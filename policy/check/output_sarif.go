package check

import (
	"io"

	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"

	"github.com/routewarden/routewarden/policy"
)

// The words of SARIF for a level, and for a finding's state against a baseline.
var (
	sarifLevels = map[level]string{levelNote: "note", levelWarning: "warning", levelError: "error"}
	sarifStates = map[string]string{StateIntroduced: "new", StateUnchanged: "unchanged", StateFixed: "absent"}
)

// fingerprintName is under which name SARIF has the Fingerprint; the number changes with the way it is made.
const fingerprintName = "routewarden/v1"

func (r Report) writeSARIF(w io.Writer, version string) error {
	log := sarif.NewReport()
	run := sarif.NewRunWithInformationURI("routewarden", "https://github.com/routewarden/routewarden")
	if version != "" {
		run.Tool.Driver.WithVersion(version)
	}
	// Columns are counted as people count characters, not as UTF-16 has them.
	run.WithColumnKind("unicodeCodePoints")
	for _, rule := range policy.Rules() {
		addSARIFRule(run, rule.ID, rule.Summary, rule.Rationale+"\n\n"+rule.Remediation)
	}
	for _, advice := range Advices() {
		addSARIFRule(run, advice.ID, advice.Summary, advice.Rationale)
	}
	for f := range r.Findings() {
		result := sarif.NewRuleResult(f.Rule).
			WithRuleIndex(run.GetRuleIndex(f.Rule)).
			WithLevel(sarifLevels[f.level()]).
			WithMessage(sarif.NewTextMessage(f.explained())).
			WithLocations([]*sarif.Location{sarifLocation(f.File, f.Line, f.Column)}).
			WithPartialFingerprints(map[string]string{fingerprintName: f.Fingerprint})
		if state, ok := sarifStates[f.State]; ok {
			result.WithBaselineState(state)
		}
		run.AddResult(result)
	}
	invocation := sarif.NewInvocation().WithExecutionSuccessful(len(r.Problems) == 0)
	for _, p := range r.Problems {
		invocation.AddToolExecutionNotification(sarif.NewNotification().
			WithLevel("error").
			WithMessage(sarif.NewTextMessage(p.Message)).
			WithLocations([]*sarif.Location{sarifLocation(p.File, p.Line, p.Column)}))
	}
	run.AddInvocation(invocation)
	log.AddRun(run)
	return log.PrettyWrite(w)
}

func addSARIFRule(run *sarif.Run, id, summary, help string) {
	run.AddRule(id).
		WithShortDescription(sarif.NewMultiformatMessageString().WithText(summary)).
		WithHelp(sarif.NewMultiformatMessageString().WithText(help))
}

func sarifLocation(file string, line, column int) *sarif.Location {
	physical := sarif.NewPhysicalLocation().WithArtifactLocation(sarif.NewArtifactLocation().WithURI(uri(file)))
	if line > 0 {
		physical.WithRegion(sarif.NewRegion().WithStartLine(line).WithStartColumn(max(column, 1)))
	}
	return sarif.NewLocationWithPhysicalLocation(physical)
}
