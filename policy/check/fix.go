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
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	kjson "sigs.k8s.io/json"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/manifest"
)

// Fixes are the changes to the input that fix what a check found.
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
	// Name is the path as it was given or found, or manifest.StdinName.
	Name          string
	Before, After []byte
}

// Unfixed is an object that cannot be fixed here, and why.
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

// String is what is not fixed, on one line.
func (u Unfixed) String() string {
	return fmt.Sprintf("%s:%d: %s %s/%s is not fixed: %s", u.File, u.Line, u.Kind, u.Namespace, u.Name, u.Reason)
}

// Fix checks the input and says how to fix what was found: routes move to the system namespace with every namespace that
// was implied written down, and a ReferenceGrant is added for each cross-namespace reference that none is known to permit.
// Nothing is written.
func Fix(ctx context.Context, o Options) (Fixes, error) {
	in := manifest.Open(o.Files, o.Recursive, o.Stdin)
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
	// left has of each object the first manifest that is not fixed.
	left map[objectKey]Result
}

// openFile is a file whose documents are not all decided about, with the changes to it so far.
type openFile struct {
	name  string
	text  []byte
	edits []manifest.Edit
}

// draftedAtOnce is how many documents are drafted before the first of them is decided about.
const draftedAtOnce = 256

func (f *fixer) fix(ctx context.Context, c *checker, in *manifest.Input) error {
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
		if len(results[file.Name]) == 0 && file.Name != manifest.StdinName {
			continue
		}
		text, writable, err := file.Text()
		if err != nil {
			return err
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
			if file.Name != manifest.StdinName && !writable {
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
		if len(file.edits) > 0 || file.name == manifest.StdinName {
			f.fixes.Files = append(f.fixes.Files, FixedFile{file.name, file.text, manifest.Apply(file.text, file.edits)})
		}
	}
}

// survey finds the names that are taken in the system namespace, and what is attached to routes.
func (f *fixer) survey(c *checker) {
	slices.SortFunc(c.surveyed, func(a, b surveyed) int { return a.document.Compare(b.document) })
	for _, s := range c.surveyed {
		for _, key := range s.there {
			f.planner.places[key] = place{key: key, where: fmt.Sprintf("at %s:%d", s.document.File, s.document.Line)}
		}
		maps.Copy(f.planner.attached, s.attached)
	}
}

// survey keeps what a document has to do with the places of routes.
func (c *checker) survey(document manifest.Document) {
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
		s.document = document.WithoutText()
		c.mutex.Lock()
		defer c.mutex.Unlock()
		c.surveyed = append(c.surveyed, s)
	}
}

// surveyed is what one document has to do with the places of routes.
type surveyed struct {
	document manifest.Document
	// there are the routes that are written into the system namespace.
	there []objectKey
	// attached says which object is attached to a route.
	attached map[objectKey]string
}

func (s *surveyed) routes(system, defaultNamespace string) {
	var list named
	if kjson.UnmarshalCaseSensitivePreserveInts(s.document.JSON(), &list) != nil {
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

// named is what identifies an object, or those of a List.
type named struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
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
	if json.Unmarshal(s.document.JSON(), &list) != nil {
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

// draft is what fixes the objects of one document, as far as that does not depend on other documents.
type draft struct {
	file     *openFile
	document manifest.Document
	results  []Result
	// plans and reasons are as many as results. A reason says why an object cannot be fixed; unwritable says why what is
	// planned for it cannot be written.
	plans               []plan
	reasons, unwritable []string
	// editor has the fields of all plans written down, edits are what it returned for them, with faithful as the error. It is nil
	// without any plan.
	editor   *manifest.Editor
	edits    []manifest.Edit
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
	repairs := false
	for i, r := range d.results {
		d.plans[i], d.reasons[i] = f.planner.draft(r)
		repairs = repairs || d.plans[i].object != nil
	}
	if !repairs {
		return
	}
	var err error
	if d.editor, err = manifest.NewEditor(d.document.Raw); err != nil {
		d.reason = fmt.Sprintf("cannot be changed in place: %v", err)
		return
	}
	for i, r := range d.results {
		if fields := d.plans[i].fields; len(fields) > 1 && f.guessed(d.editor, r) {
			d.unwritable[i] = "it names no namespace, so which one its backends are in is not certain; give --default-namespace"
		} else if err := d.editor.SetFields(r.Item, fields); err != nil {
			d.unwritable[i] = err.Error()
		}
	}
	d.edits, d.faithful = d.editor.Edits()
}

// decide plans the changes to one document, after those to all before it.
func (f *fixer) decide(d *draft) []manifest.Edit {
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
		case r.evaluated != nil && len(r.evaluated.decision.Denied()) > 0:
			f.unfixed([]Result{r}, "no fix is known for it")
		}
		if reason == "" && len(change.missing) > 0 && f.strict {
			f.report(r, fmt.Sprintf("it is decided at admission whether %s", change.missing[0].Fact))
		}
	}
	if len(plans) == 0 {
		return nil
	}
	e, edits, err := d.editor, d.edits, d.faithful
	if again { // without what was drafted and is not done
		if e, err = manifest.NewEditor(d.document.Raw); err == nil {
			for i, r := range done {
				err = errors.Join(err, e.SetFields(r.Item, plans[i].fields))
			}
		}
		if err == nil {
			edits, err = e.Edits()
		}
	}
	var added []manifest.Edit
	if err == nil && len(grants) > 0 {
		added, err = e.AddGrants(d.document, d.file.text, grants)
	}
	if err != nil {
		for _, change := range slices.Backward(plans) {
			f.planner.undo(change)
		}
		f.unfixed(done, err.Error())
		return nil
	}
	edits = append(slices.Clone(edits), added...)
	for i := range edits {
		edits[i].Start += int(d.document.Offset)
		edits[i].End += int(d.document.Offset)
	}
	return edits
}

// guessed says whether the namespace of an object is neither written down nor stated.
func (f *fixer) guessed(e *manifest.Editor, r Result) bool {
	return r.Namespace == corev1.NamespaceDefault && !e.Has(r.Item, "metadata.namespace")
}

// Diff is what changes, as a unified diff for `patch -p1` or `git apply`.
func (f Fixes) Diff() string {
	var out strings.Builder
	for _, file := range f.Files {
		name := filepath.ToSlash(file.Name)
		if file.Name == manifest.StdinName {
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
		if file.Name == manifest.StdinName {
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
