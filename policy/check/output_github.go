package check

import (
	"bufio"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/routesteward/routesteward/policy/manifest"
)

var githubCommands = map[level]string{levelNote: "notice", levelWarning: "warning", levelError: "error"}

// What would end a workflow command's message, or one of its properties.
var (
	githubMessage  = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	githubProperty = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
)

func (r Report) writeGitHub(to io.Writer) error {
	w := bufio.NewWriter(to)
	annotate := func(command, file string, line, column int, title, message string) {
		fmt.Fprintf(w, "::%s ", command)
		if file != manifest.StdinName {
			fmt.Fprintf(w, "file=%s,", githubProperty.Replace(filepath.ToSlash(filepath.Clean(file))))
			if line > 0 {
				fmt.Fprintf(w, "line=%d,col=%d,", line, max(column, 1))
			}
		}
		fmt.Fprintf(w, "title=%s::%s\n", githubProperty.Replace(title), githubMessage.Replace(message))
	}
	for _, p := range r.Problems {
		annotate("error", p.File, p.Line, p.Column, "not checked", p.Message)
	}
	for f := range r.Findings() {
		if f.State == StateFixed {
			continue // there is no line to put it on
		}
		annotate(githubCommands[f.level()], f.File, f.Line, f.Column, f.Rule, f.explained())
	}
	return w.Flush()
}
