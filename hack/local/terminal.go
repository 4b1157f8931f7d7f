package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// terminal prints for people; in color only where somebody sees it.
type terminal struct {
	io.Writer
	color bool
}

func newTerminal(file *os.File) *terminal {
	info, err := file.Stat()
	tty := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &terminal{file, tty && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (t *terminal) printf(format string, args ...any) { fmt.Fprintf(t, format, args...) }

func (t *terminal) bold(text string) string  { return t.paint("1", text) }
func (t *terminal) faint(text string) string { return t.paint("2", text) }
func (t *terminal) green(text string) string { return t.paint("32", text) }
func (t *terminal) red(text string) string   { return t.paint("31", text) }

func (t *terminal) paint(code, text string) string {
	if !t.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// indent puts two spaces before each line that is not empty.
func indent(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			out.WriteString("  ")
		}
		out.WriteString(line)
	}
	return out.String()
}
