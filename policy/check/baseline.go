package check

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/routesteward/routesteward/policy/manifest"
)

// How a finding stands against a baseline.
const (
	// StateIntroduced: the baseline does not have it.
	StateIntroduced = "introduced"
	// StateUnchanged: the baseline has it too, on whichever line of whichever file. It does not fail the check.
	StateUnchanged = "unchanged"
	// StateFixed: only the baseline has it. Its file and line are the baseline's.
	StateFixed = "fixed"
)

// ReadBaseline reads an earlier Report from a file that the output json has written.
func ReadBaseline(path string) (Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Report{}, fmt.Errorf("baseline %s: %s", path, manifest.Reason(err))
	}
	var baseline Report
	if err := json.Unmarshal(text, &baseline); err != nil {
		return Report{}, fmt.Errorf("baseline %s: is no output of `routesteward check -o json`: %w", path, err)
	}
	if baseline.SchemaVersion != SchemaVersion {
		return Report{}, fmt.Errorf("baseline %s: has schemaVersion %q, want %q: write it again with `routesteward check -o json`",
			path, baseline.SchemaVersion, SchemaVersion)
	}
	return baseline, nil
}

// Compare says of every finding how it stands against an earlier report, and adds those that were fixed since, as
// results of their own at the end. Only introduced findings fail the check.
func (r *Report) Compare(baseline Report) {
	// A manifest that stands in two files has the same findings twice.
	before := map[string]int{}
	for finding := range baseline.Findings() {
		if finding.State != StateFixed {
			before[finding.Fingerprint]++
		}
	}
	for i := range r.Results {
		for j := range r.Results[i].Findings {
			finding := &r.Results[i].Findings[j]
			if before[finding.Fingerprint] == 0 {
				finding.State = StateIntroduced
				continue
			}
			before[finding.Fingerprint]--
			finding.State, finding.Fails = StateUnchanged, false
		}
	}
	r.count()
	for _, result := range baseline.Results {
		var fixed []Finding
		for _, finding := range result.Findings {
			if finding.State == StateFixed || before[finding.Fingerprint] == 0 {
				continue
			}
			before[finding.Fingerprint]--
			finding.State, finding.Fails, finding.Fix = StateFixed, false, ""
			fixed = append(fixed, finding)
		}
		if len(fixed) > 0 {
			result.Findings, result.Denial, result.Warnings = fixed, "", nil
			r.Results = append(r.Results, result)
		}
	}
}
