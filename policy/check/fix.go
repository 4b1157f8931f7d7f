package check

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/routesteward/routesteward/policy"
)

// Fixes are the changes to the input that mend what a check found.
type Fixes struct {
	// Files are those that change, and the standard input whether it does or not.
	Files []FixedFile
	// Unfixed are the objects that need a person, in the order of the input.
	Unfixed []Unfixed
	// Report is that of the input as it was.
	Report Report
}

// FixedFile is a file with its text before and after.
type FixedFile struct {
	// Name is the path as it was given or found, or StdinName.
	Name          string
	Before, After []byte
}

// Unfixed is an object that cannot be mended here, and why.
type Unfixed struct {
	File      string      `json:"file"`
	Line      int         `json:"line"`
	Kind      policy.Kind `json:"kind"`
	Namespace string      `json:"namespace"`
	Name      string      `json:"name"`
	Reason    string      `json:"reason"`
	// Fails says that the object makes the check fail.
	Fails bool `json:"fails"`
}

// String is what is not mended, on one line.
func (u Unfixed) String() string {
	return fmt.Sprintf("%s:%d: %s %s/%s is not fixed: %s", u.File, u.Line, u.Kind, u.Namespace, u.Name, u.Reason)
}

// Fix checks the input and says how to mend what was found: routes move to the system namespace with every namespace that
// was implied written down, and a ReferenceGrant is added for each cross-namespace reference that none is known to permit.
// Nothing is written.
func Fix(ctx context.Context, o Options) (Fixes, error) {
	in := OpenInput(o.Files, o.Recursive, o.Stdin)
	defer in.Close()
	c, err := run(ctx, o, in, true)
	if err != nil {
		return Fixes{}, err
	}
	stay := map[objectKey]Result{}
	for {
		f := fixer{
			planner: newPlanner(o.Policy, o.User, c.facts, stay), system: o.Policy.SystemNamespace, strict: o.Strict,
			fixes: Fixes{Report: c.report}, left: map[objectKey]Result{},
		}
		if err := f.fix(ctx, c, in); err != nil {
			return Fixes{}, err
		}
		// A route that is written twice moves with all its manifests or not at all: else the one that was left would make
		// the relocated copy of which the other one has the name. Each turn more of them stay, until all is as it should be.
		split := false
		for key := range f.planner.movedFrom() {
			_, stays := stay[key]
			if left, ok := f.left[key]; ok && !stays {
				stay[key], split = left, true
			}
		}
		if !split {
			f.fixes.Report.Results = slices.DeleteFunc(f.fixes.Report.Results, func(r Result) bool { return len(r.Findings) == 0 })
			return f.fixes, nil
		}
	}
}

type fixer struct {
	planner *planner
	system  string
	strict  bool
	fixes   Fixes
	// left has of each object the first manifest that is not mended.
	left map[objectKey]Result
}

// openFile is a file whose documents are not all decided about, with the changes to it so far.
type openFile struct {
	name  string
	text  []byte
	edits []edit
}

// draftedAtOnce is how many documents are drafted before the first of them is decided about.
const draftedAtOnce = 256

func (f *fixer) fix(ctx context.Context, c *checker, in *Input) error {
	// By file and document, in the order of the input.
	results := map[string]map[int][]Result{}
	for _, r := range c.report.Results {
		if results[r.File] == nil {
			results[r.File] = map[int][]Result{}
		}
		results[r.File][r.Document] = append(results[r.File][r.Document], r)
	}
	f.survey(c)
	var open []*openFile
	var drafts []*draft
	decideAll := func() {
		parallel(c.options.Workers, func(yield func(*draft)) {
			for _, d := range drafts {
				yield(d)
			}
		}, f.draft)
		for _, d := range drafts {
			d.file.edits = append(d.file.edits, f.decide(d)...)
		}
		drafts = drafts[:0]
	}
	for i, file := range in.Files {
		if len(results[file.Name]) == 0 && file.Name != StdinName {
			continue
		}
		text, err := os.ReadFile(file.path)
		if err != nil {
			return fmt.Errorf("%s: %s", file.Name, reason(err))
		}
		opened := &openFile{name: file.Name, text: text}
		open = append(open, opened)
		for document := range file.Documents(i) {
			if err := ctx.Err(); err != nil {
				return err
			}
			found := results[file.Name][document.Index]
			if len(found) == 0 || document.File == "" {
				continue
			}
			end := int(document.Offset) + len(document.Raw)
			if end > len(text) || !bytes.Equal(text[document.Offset:end], document.Raw) {
				return fmt.Errorf("%s: was changed while it was read", file.Name)
			}
			d := &draft{file: opened, document: document, results: found}
			if file.Name != StdinName && file.Name != file.path {
				d.reason = "the file can be read only once, so nothing can be written back"
			}
			if drafts = append(drafts, d); len(drafts) == draftedAtOnce {
				decideAll()
				f.close(open[:len(open)-1])
				open = open[len(open)-1:]
			}
		}
	}
	decideAll()
	f.close(open)
	return nil
}

// close makes the changes to files whose documents are all decided about.
func (f *fixer) close(files []*openFile) {
	for _, file := range files {
		if len(file.edits) > 0 || file.name == StdinName {
			f.fixes.Files = append(f.fixes.Files, FixedFile{file.name, file.text, apply(file.text, file.edits)})
		}
	}
}

// survey finds the names that are taken in the system namespace, and what is attached to routes.
func (f *fixer) survey(c *checker) {
	slices.SortFunc(c.surveyed, func(a, b surveyed) int { return a.document.compare(b.document) })
	for _, s := range c.surveyed {
		for _, key := range s.there {
			f.planner.places[key] = place{key: key, where: fmt.Sprintf("at %s:%d", s.document.File, s.document.Line)}
		}
		maps.Copy(f.planner.attached, s.attached)
	}
}

// survey keeps what a document has to do with the places of routes.
func (c *checker) survey(document Document) {
	s := surveyed{document: document}
	if bytes.Contains(document.Raw, []byte("targetRef")) {
		s.targets(c.options.DefaultNamespace)
	}
	// A document that does not name the system namespace can only be in it by default.
	system := c.options.Policy.SystemNamespace
	if bytes.Contains(document.Raw, []byte(system)) || c.options.DefaultNamespace == system {
		s.routes(system, c.options.DefaultNamespace)
	}
	if len(s.there) > 0 || len(s.attached) > 0 {
		s.document.Raw, s.document.text = nil, nil
		c.mutex.Lock()
		defer c.mutex.Unlock()
		c.surveyed = append(c.surveyed, s)
	}
}

// surveyed is what one document has to do with the places of routes.
type surveyed struct {
	document Document
	// there are the routes that are written into the system namespace.
	there []objectKey
	// attached says which object is attached to a route.
	attached map[objectKey]string
}

func (s *surveyed) routes(system, defaultNamespace string) {
	var list named
	if kjson.UnmarshalCaseSensitivePreserveInts(s.document.text, &list) != nil {
		return // reported already
	}
	for _, object := range append(list.Items, list) {
		group, _, _ := strings.Cut(object.APIVersion, "/")
		key := objectKey{policy.Kind(object.Kind), cmp.Or(object.Metadata.Namespace, defaultNamespace), object.Metadata.Name}
		if group == gwv1.GroupName && key.namespace == system && slices.Contains(policy.RouteKinds(), key.kind) {
			s.there = append(s.there, key)
		}
	}
}

// named is what tells an object, or those of a List, from others.
type named struct {
	typeMeta `json:",inline"`
	Metadata struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
	Items []named `json:"items"`
}

// attachment is what all policies have in common that attach to an object of their own namespace.
type attachment struct {
	Kind     string
	Metadata struct{ Namespace, Name string }
	Spec     struct {
		TargetRef  target
		TargetRefs []target
	}
	Items []attachment
}

type target struct{ Kind, Name string }

func (s *surveyed) targets(defaultNamespace string) {
	var list attachment
	if json.Unmarshal(s.document.text, &list) != nil {
		return // reported already where it is in scope
	}
	s.attached = map[objectKey]string{}
	for _, object := range append(list.Items, list) {
		for _, target := range append(object.Spec.TargetRefs, object.Spec.TargetRef) {
			key := objectKey{policy.Kind(target.Kind), cmp.Or(object.Metadata.Namespace, defaultNamespace), target.Name}
			s.attached[key] = fmt.Sprintf("%s %s at %s:%d", object.Kind, object.Metadata.Name, s.document.File, s.document.Line)
		}
	}
}

// unfixed says why objects are left as they are.
func (f *fixer) unfixed(results []Result, reason string) {
	for _, r := range results {
		if _, ok := f.left[r.key()]; !ok {
			f.left[r.key()] = r
		}
		f.report(r, reason)
	}
}

func (f *fixer) report(r Result, reason string) {
	f.fixes.Unfixed = append(f.fixes.Unfixed, Unfixed{r.File, r.Line, r.Kind, r.Namespace, r.Name, reason, fails(r)})
}

func fails(r Result) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Fails })
}

// draft is what mends the objects of one document, as far as that does not depend on other documents.
type draft struct {
	file     *openFile
	document Document
	results  []Result
	// plans and reasons are as many as results. A reason says why an object cannot be mended; unwritable says why what is
	// planned for it cannot be written.
	plans               []plan
	reasons, unwritable []string
	// editor has the fields of all plans written down, and faithful is its verdict on them. It is nil without any.
	editor   *editor
	faithful error
	// reason says why nothing in the document can be changed.
	reason string
}

// draft is called for many documents at once.
func (f *fixer) draft(d *draft) {
	if d.reason != "" {
		return
	}
	d.plans, d.reasons, d.unwritable = make([]plan, len(d.results)), make([]string, len(d.results)), make([]string, len(d.results))
	mends := false
	for i, r := range d.results {
		d.plans[i], d.reasons[i] = f.planner.draft(r)
		mends = mends || d.plans[i].object != nil
	}
	if !mends {
		return
	}
	var err error
	if d.editor, err = newEditor(d.document.Raw); err != nil {
		d.reason = fmt.Sprintf("cannot be changed in place: %v", err)
		return
	}
	for i, r := range d.results {
		if fields := d.plans[i].fields; len(fields) > 1 && f.guessed(d.editor, r) {
			d.unwritable[i] = "it names no namespace, so which one its backends are in is not certain; give --default-namespace"
		} else if err := d.editor.setFields(r.Item, fields); err != nil {
			d.unwritable[i] = err.Error()
		}
	}
	if len(d.editor.edits) > 0 {
		_, d.faithful = d.editor.result()
	}
}

// decide plans the changes to one document, after those to all before it.
func (f *fixer) decide(d *draft) []edit {
	if d.reason != "" {
		f.unfixed(d.results, d.reason)
		return nil
	}
	var done []Result
	var plans []plan
	var grants []*gwv1.ReferenceGrant
	again := false
	for i, r := range d.results {
		change, reason := d.plans[i], d.reasons[i]
		if reason == "" {
			change, reason = f.planner.settle(r, change)
		}
		if reason == "" && d.unwritable[i] != "" {
			f.planner.undo(change)
			change, reason = plan{}, d.unwritable[i]
		}
		switch {
		case reason != "":
			f.unfixed([]Result{r}, reason)
			again = again || len(d.plans[i].fields) > 0
		case len(change.fields)+len(change.grants) > 0:
			done, plans, grants = append(done, r), append(plans, change), append(grants, change.grants...)
		case r.judged != nil && len(r.judged.decision.Denied()) > 0:
			f.unfixed([]Result{r}, "no fix is known for it")
		}
		if reason == "" && len(change.missing) > 0 && f.strict {
			f.report(r, fmt.Sprintf("it is decided at admission whether %s", change.missing[0].Fact))
		}
	}
	if len(plans) == 0 {
		return nil
	}
	e, err := d.editor, d.faithful
	if again { // without what was drafted and is not done
		if e, err = newEditor(d.document.Raw); err == nil {
			for i, r := range done {
				err = errors.Join(err, e.setFields(r.Item, plans[i].fields))
			}
		}
		if err == nil && len(e.edits) > 0 {
			_, err = e.result()
		}
	}
	var added []edit
	if err == nil && len(grants) > 0 {
		added, err = e.addGrants(d.document, d.file.text, grants)
	}
	if err != nil {
		for _, change := range slices.Backward(plans) {
			f.planner.undo(change)
		}
		f.unfixed(done, err.Error())
		return nil
	}
	edits := append(slices.Clone(e.edits), added...)
	for i := range edits {
		edits[i].start += int(d.document.Offset)
		edits[i].end += int(d.document.Offset)
	}
	return edits
}

// guessed says whether the namespace of an object is neither written down nor stated.
func (f *fixer) guessed(e *editor, r Result) bool {
	_, err := lookup(e.root, inItem(r.Item, "metadata.namespace"))
	return err != nil && r.Namespace == corev1.NamespaceDefault
}

// setFields gives fields of an item of a List, or of the whole document (-1), their values: all of them or none.
func (e *editor) setFields(item int, fields map[string]any) error {
	edits, before := len(e.edits), len(e.fields)
	for _, path := range slices.Sorted(maps.Keys(fields)) {
		if err := e.set(inItem(item, path), fields[path]); err != nil {
			e.edits, e.fields = e.edits[:edits], e.fields[:before]
			return err
		}
	}
	return nil
}

// inItem is a path within an item of a List, or within the whole document (-1).
func inItem(item int, path string) []string {
	steps := parsePath(path)
	if item >= 0 {
		steps = append([]string{"items", strconv.Itoa(item)}, steps...)
	}
	return steps
}

// addGrants writes ReferenceGrants in front of the document, or into it where the whole file is one JSON value. In front,
// because `kubectl apply` goes from top to bottom, and a route may be refused as long as its grant is not there.
func (e *editor) addGrants(d Document, text []byte, grants []*gwv1.ReferenceGrant) ([]edit, error) {
	br := newline(text)
	var out strings.Builder
	if !d.json {
		if directive.Match(d.Raw) {
			return nil, errors.New("no ReferenceGrant can be put in front of a document with a YAML directive (%)")
		}
		for _, grant := range grants {
			text := strings.ReplaceAll(grantYAML(grant), "\n", br)
			if bytes.HasPrefix(d.Raw, separator) {
				out.WriteString("---" + br + text)
			} else {
				out.WriteString(text + "---" + br)
			}
		}
		return []edit{{0, 0, out.String()}}, nil
	}
	if !json.Valid(bytes.TrimPrefix(text, byteOrderMark)) { // one of several values
		between := br
		if bytes.HasPrefix(text, separator) || bytes.Contains(text, []byte("\n---")) {
			between = br + "---" + br
		}
		for _, grant := range grants {
			out.WriteString(grantJSON(grant, "", br) + between)
		}
		return []edit{{0, 0, out.String()}}, nil
	}
	items, err := lookup(e.root, []string{"items"})
	if err != nil {
		out.WriteString(`{"apiVersion": "v1", "kind": "List", "items": [` + br)
		for _, grant := range grants {
			out.WriteString(grantJSON(grant, "", br) + "," + br)
		}
		return []edit{{0, 0, out.String()}, {len(d.Raw), len(d.Raw), br + "]}"}}, nil
	}
	kind, err := lookup(e.root, []string{"kind"})
	if err != nil {
		return nil, fmt.Errorf("kind: %w", err)
	}
	if kind.Value != "List" {
		return nil, fmt.Errorf("its ReferenceGrant cannot be put into a %s; make that a List", kind.Value)
	}
	first := e.offset(items.Content[0])
	indent := string(d.Raw[:first])
	indent = indent[strings.LastIndexAny(indent, "\r\n")+1:]
	for _, grant := range grants {
		if strings.Trim(indent, " \t") == "" {
			out.WriteString(grantJSON(grant, indent, br) + "," + br + indent)
		} else {
			out.WriteString(grantJSON(grant, "", "") + ", ")
		}
	}
	return []edit{{first, first, out.String()}}, nil
}

// directive matches the lines that begin with a percent sign in front of a document.
var directive = regexp.MustCompile(`\A(\s*#.*\n|\s*\n)*%`)

func grantYAML(grant *gwv1.ReferenceGrant) string {
	text, err := yaml.Marshal(grant)
	if err != nil {
		panic(err) // it holds nothing but texts
	}
	return string(text)
}

// grantJSON is a ReferenceGrant as JSON, on one line where br is empty.
func grantJSON(grant *gwv1.ReferenceGrant, indent, br string) string {
	text, err := json.MarshalIndent(grant, indent, "  ")
	if br == "" {
		text, err = json.Marshal(grant)
	}
	if err != nil {
		panic(err) // it holds nothing but texts
	}
	return strings.ReplaceAll(string(text), "\n", br)
}

// Diff is what changes, as a unified diff for `patch -p1` or `git apply`.
func (f Fixes) Diff() string {
	var out strings.Builder
	for _, file := range f.Files {
		name := filepath.ToSlash(file.Name)
		if file.Name == StdinName {
			name = "stdin"
		}
		name = strings.TrimPrefix(strings.TrimPrefix(name, "./"), "/")
		out.WriteString(udiff.Unified("a/"+name, "b/"+name, string(file.Before), string(file.After)))
	}
	return out.String()
}

// Write replaces the files that change, each at once: it has the old text or the new one, whatever happens. The standard
// input goes to stdout, changed or not. Files that cannot be written do not keep the others from it.
func (f Fixes) Write(stdout io.Writer) error {
	var errs []error
	for _, file := range f.Files {
		var err error
		if file.Name == StdinName {
			_, err = stdout.Write(file.After)
		} else {
			err = file.write()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: cannot be written: %w", file.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (f FixedFile) write() (err error) {
	path, err := filepath.EvalSymlinks(f.Name)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(temporary.Name())))
		}
	}()
	_, err = temporary.Write(f.After)
	if err == nil {
		err = temporary.Sync() // or a crash may leave an empty file
	}
	if err = errors.Join(err, temporary.Close()); err != nil {
		return err
	}
	if err := os.Chmod(temporary.Name(), info.Mode().Perm()); err != nil {
		return err
	}
	now, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, f.Before) {
		return errors.New("somebody changed it meanwhile")
	}
	return os.Rename(temporary.Name(), path)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
