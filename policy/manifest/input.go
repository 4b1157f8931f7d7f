package manifest

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"
)

// StdinName is the name of the standard input in reports.
const StdinName = "<stdin>"

// maxDocument bounds one document, in bytes, and so the memory of a check. The API server
// takes 3 MiB in one request; only a List of very many objects comes near.
const maxDocument = 32 << 20

// extensions are those of the files that are read in a directory.
var extensions = []string{".yaml", ".yml", ".json"}

// File is one file of the input, or the standard input.
type File struct {
	// Name is the path as it was given or found.
	Name string
	// path is where the bytes are: Name, or a temporary copy of what can be read only once.
	path string
}

// Document is one YAML document or JSON value of a file.
type Document struct {
	File string
	// Index counts the file's documents from 0, empty ones not.
	Index int
	// Offset is where Raw begins in the file, in bytes; Line the line (from 1) of its first byte. The separator line is no
	// part of Raw unless something else stands on it.
	Offset int64
	Line   int
	// Raw are the file's own bytes.
	Raw []byte

	// Source is the number of the file in the input.
	Source int
	// IsJSON is true where Raw is one JSON value.
	IsJSON bool

	// column (from 1) of the first byte of Raw; more than 1 only for JSON values that share a line.
	column int
	// text is the document as JSON, once parse has converted it. duplicates is the error of a document with duplicate keys.
	text       []byte
	duplicates error
}

// Compare says which of two documents comes first in the input.
func (d Document) Compare(other Document) int {
	return cmp.Or(cmp.Compare(d.Source, other.Source), cmp.Compare(d.Index, other.Index))
}

// WithoutText is the document as a place in the input, in little memory.
func (d Document) WithoutText() Document {
	d.Raw, d.text, d.duplicates = nil, nil, nil
	return d
}

// problem is one at the document's beginning.
func (d Document) problem(format string, args ...any) Problem {
	return Problem{File: d.File, Line: d.Line, Column: max(d.column, 1), Message: fmt.Sprintf(format, args...)}
}

// Problem is something that could not be read or understood.
type Problem struct {
	File string `json:"file"`
	// Line and Column are from 1, in characters; 0 where the problem is the file's.
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

// String is the problem as compilers write theirs: file:line:column: message.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, max(p.Column, 1), p.Message)
}

// Input is a set of files, opened for reading them more than once. Close it.
type Input struct {
	Files []File
	// Problems are those of finding the files.
	Problems []Problem

	seen      map[string]bool
	temporary []string
}

// Open finds the files that paths name: files as they are, directories with their *.yaml, *.yml and *.json, "-" the
// standard input, which is copied to a temporary file. A name that leads nowhere is a Problem of the Input.
func Open(paths []string, recursive bool, stdin io.Reader) *Input {
	in := &Input{seen: map[string]bool{}}
	for _, path := range paths {
		if path == "-" {
			in.spool(StdinName, stdin)
			continue
		}
		in.add(path, recursive)
	}
	return in
}

// Close removes what Open has copied.
func (in *Input) Close() error {
	var errs []error
	for _, path := range in.temporary {
		errs = append(errs, os.Remove(path))
	}
	in.temporary = nil
	return errors.Join(errs...)
}

func (in *Input) fail(name string, err error) {
	in.Problems = append(in.Problems, Problem{File: name, Message: Reason(err)})
}

// Reason is the error without the path that a Problem names already.
func Reason(err error) string {
	if errors.Is(err, syscall.ELOOP) {
		return "cannot be read: symbolic links lead in a circle"
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return "cannot be read: " + err.Error()
}

func (in *Input) add(path string, recursive bool) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		in.fail(path, err)
	case info.IsDir():
		found, before := len(in.Files)+len(in.Problems), in.seen[identity(path)+"/*"]
		folders := in.walk(path, recursive, nil)
		if !before && found == len(in.Files)+len(in.Problems) {
			hint := ""
			if folders && !recursive {
				hint = "; its folders are read with --recursive"
			}
			in.Problems = append(in.Problems, Problem{File: path, Message: "holds no .yaml, .yml or .json file" + hint})
		}
	case !info.Mode().IsRegular():
		file, err := os.Open(path)
		if err != nil {
			in.fail(path, err)
			return
		}
		in.spool(path, file)
		file.Close()
	default:
		in.addFile(path)
	}
}

func (in *Input) addFile(path string) {
	if id := identity(path); !in.seen[id] {
		in.seen[id] = true
		in.Files = append(in.Files, File{Name: path, path: path})
	}
}

// identity is the same for all names of a file, hard links excepted.
func identity(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	return path
}

// walk adds the files of a directory and says whether it has folders. above are the identities of the directories that
// led here: a link to one of them would lead in a circle.
func (in *Input) walk(dir string, recursive bool, above []string) (folders bool) {
	id := identity(dir)
	if slices.Contains(above, id) {
		in.Problems = append(in.Problems, Problem{File: dir, Message: "symbolic links lead in a circle, back to " + id})
		return false
	}
	if in.seen[id+"/*"] {
		return false
	}
	in.seen[id+"/*"] = true
	entries, err := os.ReadDir(dir)
	if err != nil {
		in.fail(dir, err)
		return false
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		mode := entry.Type()
		if mode&fs.ModeSymlink != 0 {
			info, err := os.Stat(path)
			if err != nil {
				// What a broken link with another ending was meant to be is out of scope.
				if wanted(path) || errors.Is(err, syscall.ELOOP) {
					in.fail(path, err)
				}
				continue
			}
			mode = info.Mode()
		}
		switch {
		case mode.IsDir():
			// .git and the like hold nothing that anybody applies.
			if strings.HasPrefix(entry.Name(), ".") {
				continue
			}
			folders = true
			if recursive {
				in.walk(path, true, append(slices.Clip(above), id))
			}
		case mode.IsRegular() && wanted(path):
			if entry.Type()&fs.ModeSymlink == 0 {
				// Cheaper than to ask for the identity of each of ten thousand files.
				if id := filepath.Join(id, entry.Name()); !in.seen[id] {
					in.seen[id] = true
					in.Files = append(in.Files, File{Name: path, path: path})
				}
				continue
			}
			in.addFile(path)
		}
	}
	return folders
}

func wanted(path string) bool {
	return slices.Contains(extensions, strings.ToLower(filepath.Ext(path)))
}

// spool copies what can be read only once.
func (in *Input) spool(name string, from io.Reader) {
	if from == nil || in.seen[name] {
		return
	}
	in.seen[name] = true
	file, err := os.CreateTemp("", "routesteward-check-*")
	if err != nil {
		in.fail(name, err)
		return
	}
	in.temporary = append(in.temporary, file.Name())
	size, err := io.Copy(file, from)
	if err = errors.Join(err, file.Close()); err != nil {
		in.fail(name, err)
		return
	}
	// The program before the pipe may have failed: then silence would pass for "all is well".
	if size == 0 {
		in.Problems = append(in.Problems, Problem{File: name, Message: "is empty, nothing was checked"})
		return
	}
	in.Files = append(in.Files, File{Name: name, path: file.Name()})
}

// Text is all of the file, which can be written back only if it is not the copy of something that can be read only once.
func (f File) Text() (text []byte, writable bool, err error) {
	if text, err = os.ReadFile(f.path); err != nil {
		return nil, false, fmt.Errorf("%s: %s", f.Name, Reason(err))
	}
	return text, f.Name == f.path, nil
}

// readers are kept from file to file.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 64<<10) }}

// Documents yields the documents of a file that are not empty, each with memory of its own, or a Problem in their place.
// source is the number of the file in its input.
func (f File) Documents(source int) iter.Seq2[Document, *Problem] {
	return func(yield func(Document, *Problem) bool) {
		file, err := os.Open(f.path)
		if err != nil {
			yield(Document{}, &Problem{File: f.Name, Message: Reason(err)})
			return
		}
		defer file.Close()
		reader := readers.Get().(*bufio.Reader)
		defer readers.Put(reader)
		reader.Reset(file)
		s := splitter{name: f.Name, source: source, reader: reader, yield: yield, line: 1}
		if err := s.run(); err != nil {
			yield(Document{}, &Problem{File: f.Name, Message: Reason(err)})
		}
	}
}

// splitter cuts a file at the lines that separate YAML documents.
type splitter struct {
	name   string
	source int
	reader *bufio.Reader
	yield  func(Document, *Problem) bool

	index  int
	offset int64
	line   int

	// Of the document that is being read.
	raw        bytes.Buffer
	start      int64
	startLine  int
	content    bool // something but comments and blank lines
	directives bool
	tooLarge   bool
}

var (
	utf8Mark  = []byte("\xef\xbb\xbf")
	separator = []byte("---")
	end       = []byte("...")
)

// errStop ends the reading because nobody wants more.
var errStop = errors.New("stop")

func (s *splitter) run() error {
	head, err := s.reader.Peek(8 << 10)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.HasPrefix(head, utf8Mark):
		s.offset += int64(len(utf8Mark))
		_, _ = s.reader.Discard(len(utf8Mark))
	case bytes.HasPrefix(head, []byte("\xff\xfe")), bytes.HasPrefix(head, []byte("\xfe\xff")):
		s.yield(Document{}, &Problem{File: s.name, Message: "is UTF-16, which kubectl does not read either; save it as UTF-8"})
		return nil
	case bytes.IndexByte(head, 0) >= 0:
		s.yield(Document{}, &Problem{File: s.name, Message: "is binary, not YAML or JSON"})
		return nil
	}
	s.begin()
	begins := true
	for {
		line, err := s.reader.ReadSlice('\n')
		complete := err == nil || errors.Is(err, io.EOF)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if begins && s.boundary(line) {
			if err := s.finish(); err != nil {
				return ignoreStop(err)
			}
			// What stands behind --- on its line belongs to the document that it begins.
			rest := bytes.TrimSpace(line[len(separator):])
			if bytes.HasPrefix(line, end) || len(rest) == 0 {
				s.pass(line)
				s.begin()
			} else {
				s.begin()
				s.take(line, rest[0] != '#')
			}
		} else if len(line) > 0 {
			s.take(line, s.content || significant(line))
		}
		if errors.Is(err, io.EOF) {
			return ignoreStop(s.finish())
		}
		begins = complete
	}
}

func ignoreStop(err error) error {
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// boundary says whether a line separates documents: --- or ... and then nothing or white space.
func (s *splitter) boundary(line []byte) bool {
	if !bytes.HasPrefix(line, separator) && !bytes.HasPrefix(line, end) {
		return false
	}
	if len(line) > len(separator) && !bytes.ContainsAny(line[len(separator):len(separator)+1], " \t\r\n") {
		return false
	}
	// The --- after %YAML belongs to the document of both.
	return !s.directives || s.content
}

// significant says whether a line is more than a comment or blank.
func significant(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) > 0 && line[0] != '#' && line[0] != '%'
}

func (s *splitter) begin() {
	s.raw.Reset()
	s.start, s.startLine = s.offset, s.line
	s.content, s.directives, s.tooLarge = false, false, false
}

// pass moves on behind bytes of the file.
func (s *splitter) pass(line []byte) {
	s.offset += int64(len(line))
	if bytes.HasSuffix(line, []byte("\n")) {
		s.line++
	}
}

func (s *splitter) take(line []byte, content bool) {
	if !s.content && len(line) > 0 && line[0] == '%' {
		s.directives = true
	}
	s.content = s.content || content
	if !s.tooLarge {
		s.raw.Write(line)
	}
	if s.raw.Len() > maxDocument {
		s.tooLarge, s.raw = true, bytes.Buffer{}
	}
	s.pass(line)
}

// finish yields what was read since begin.
func (s *splitter) finish() error {
	if !s.content {
		return nil
	}
	d := Document{File: s.name, Index: s.index, Offset: s.start, Line: s.startLine, column: 1, Source: s.source}
	if s.tooLarge {
		s.index++
		problem := d.problem("a document of more than %d MiB is not read; split it", maxDocument>>20)
		return s.emit(Document{}, &problem)
	}
	d.Raw = bytes.Clone(s.raw.Bytes())
	values := jsonValues(d)
	if values == nil {
		values = []Document{d}
	}
	for _, value := range values {
		value.Index = s.index
		s.index++
		if err := s.emit(value, nil); err != nil {
			return err
		}
	}
	return nil
}

func (s *splitter) emit(d Document, p *Problem) error {
	if !s.yield(d, p) {
		return errStop
	}
	return nil
}

// jsonValues are the JSON values that a document consists of; nil where it is none, as YAML in flow style.
func jsonValues(d Document) []Document {
	if trimmed := bytes.TrimLeft(d.Raw, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' || !utf8.Valid(d.Raw) {
		return nil // encoding/json would replace bytes that are no characters
	}
	var values []Document
	decoder := json.NewDecoder(bytes.NewReader(d.Raw))
	for {
		var value json.RawMessage
		if err := decoder.Decode(&value); errors.Is(err, io.EOF) {
			return values
		} else if err != nil {
			return nil
		}
		after := decoder.InputOffset()
		begin := after - int64(len(value))
		next := d
		next.IsJSON, next.Raw, next.Offset = true, d.Raw[begin:after], d.Offset+begin
		next.Line += bytes.Count(d.Raw[:begin], []byte("\n"))
		next.column = 1 + len([]rune(string(d.Raw[bytes.LastIndexByte(d.Raw[:begin], '\n')+1:begin])))
		values = append(values, next)
	}
}
