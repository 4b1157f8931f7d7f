package check

import (
	"fmt"
	"io"
	"strings"

	"github.com/jstemmer/go-junit-report/v2/junit"

	"github.com/routesteward/routesteward/policy"
)

// writeJUnit makes a suite of each file that there is something to say about, and a test of each such object.
func (r Report) writeJUnit(w io.Writer) error {
	suites := junit.Testsuites{Name: "routesteward"}
	var files []string
	byFile := map[string]*junit.Testsuite{}
	suite := func(file string) *junit.Testsuite {
		if byFile[file] == nil {
			byFile[file] = &junit.Testsuite{Name: file, ID: len(files), File: file, Time: "0"}
			files = append(files, file)
		}
		return byFile[file]
	}
	for _, p := range r.Problems {
		suite(p.File).AddTestcase(junit.Testcase{
			Name: "is readable", Classname: p.File,
			Error: &junit.Result{Message: policy.Printable(p.Message), Type: "error", Data: policy.Printable(p.String())},
		})
	}
	others := r.Summary.Objects
	for _, result := range r.Results {
		if result.Findings[0].State == StateFixed {
			continue // the object may be gone too
		}
		others--
		var failures, notes []string
		message := ""
		for _, f := range result.Findings {
			text := fmt.Sprintf("%s:%d:%d: %s: %s", f.File, f.Line, f.Column, f.Severity, f.explained())
			if !f.Fails {
				notes = append(notes, text)
				continue
			}
			if failures = append(failures, text); message == "" {
				message = f.Message
			}
		}
		test := junit.Testcase{Name: policy.Printable(fmt.Sprintf("%s %s/%s", result.Kind, result.Namespace, result.Name)), Classname: result.File}
		if len(failures) > 0 {
			test.Failure = &junit.Result{Message: message, Type: result.Verdict, Data: strings.Join(failures, "\n")}
		}
		if len(notes) > 0 {
			test.SystemOut = &junit.Output{Data: strings.Join(notes, "\n")}
		}
		suite(result.File).AddTestcase(test)
	}
	// Some servers take a report without tests for a run that broke.
	rest := junit.Testsuite{Name: "routesteward", ID: len(files), Time: "0"}
	rest.AddTestcase(junit.Testcase{
		Name: plural(others, "object", "objects") + " without a finding", Classname: "routesteward",
	})
	for _, file := range files {
		suites.AddSuite(*byFile[file])
	}
	suites.AddSuite(rest)
	return suites.WriteXML(w)
}
