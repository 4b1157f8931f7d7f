package check

import (
	"cmp"
	"context"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/routesteward/routesteward/policy"
	"github.com/routesteward/routesteward/policy/manifest"
)

// Options are what Run checks, against what.
type Options struct {
	// Files are paths of files and directories; "-" is Stdin.
	Files     []string
	Recursive bool
	Stdin     io.Reader

	Policy *policy.Policy
	// Facts are paths of files and directories that together hold all there is in the cluster. Cluster reads the same from
	// a live one; what both hold, the files say. Without either, what the input does not hold is unknown.
	Facts   []string
	Cluster Cluster
	// User asks for the write. Access says whether he may create ReferenceGrants in a namespace; it is called by several
	// goroutines at once. Nil: unknown.
	User   policy.User
	Access func(namespace string) policy.Answer
	// AsConsented are namespaces that consent, whatever is known of them; a veto still counts.
	AsConsented []string
	// DefaultNamespace is that of objects which name none; empty: default.
	DefaultNamespace string
	// Strict makes what is decided at admission a failure. Advice looks at ReferenceGrants that people wrote.
	Strict, Advice bool

	// Workers is how many documents are evaluated at once; 0: as many as there are processors.
	Workers int
	// Progress is called, as documents are read and then evaluated, with how many were; it may be nil.
	Progress func(read, evaluated int)
}

// Cluster reads the facts of a live cluster.
type Cluster interface {
	// ReadFacts calls keep for every object that is a fact: Namespaces, Gateways, ReferenceGrants and routes.
	ReadFacts(ctx context.Context, keep func(manifest.Object)) error
}

// allTypes are what a manifest may hold of Gateway API, and Namespaces; factTypes those of them that are facts, whatever the policy.
var (
	allTypes  = manifest.Types()
	factTypes = slices.DeleteFunc(manifest.Types(), func(t manifest.Type) bool { return slices.Contains(policy.RouteKinds(), t.Kind) })
)

// cacheSize is how many bytes of documents are kept for the second pass; a larger input is read and parsed twice.
const cacheSize = 32 << 20

// Run checks the input. An error means that nothing could be checked; what is wrong with single files is in the Report.
// The input is gone through twice: first for the facts in it, then to evaluate its objects by them. Memory grows with the
// facts and the findings, not with the number of documents.
func Run(ctx context.Context, o Options) (Report, error) {
	in := manifest.Open(o.Files, o.Recursive, o.Stdin)
	defer in.Close()
	c, err := run(ctx, o, in, false)
	if err != nil {
		return Report{}, err
	}
	return c.report, nil
}

func run(ctx context.Context, o Options, in *manifest.Input, fixes bool) (*checker, error) {
	c := &checker{options: o, facts: newFacts(o), fixes: fixes}
	if c.options.DefaultNamespace == "" {
		c.options.DefaultNamespace = corev1.NamespaceDefault
	}
	if c.options.Workers <= 0 {
		c.options.Workers = runtime.GOMAXPROCS(0)
	}
	problems, err := c.facts.readSnapshot(ctx, o)
	if err != nil {
		return nil, err
	}
	c.report = Report{SchemaVersion: SchemaVersion, Summary: Summary{Files: len(in.Files)}, Problems: append(problems, in.Problems...)}

	c.collect(ctx, in)
	c.evaluateAll(ctx, in)
	if o.Advice {
		c.advise()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.finish()
	return c, nil
}

// checker is the state of one Run.
type checker struct {
	options Options
	facts   *facts
	// fixes makes results of all routes that are relocated, and a survey.
	fixes bool
	// advised are the ReferenceGrants that people wrote, by namespace.
	advised map[string][]*advisedGrant

	mutex   sync.Mutex // guards what follows, and advisedGrants, while workers run
	report  Report
	ordered []orderedResult
	// relevant has for each file whether it may hold an object of the types. cache holds the documents that may, parsed, as long as
	// their size is within bounds.
	relevant []bool
	cache    []manifest.Document
	size     int
	surveyed []surveyed
}

// orderedResult is a result with its place in the input.
type orderedResult struct {
	source int
	Result
}

// placed is an object of the input with its place.
type placed struct {
	manifest.Object
	document manifest.Document
}

// collect is the first pass: it parses every document, and keeps the facts of the input.
func (c *checker) collect(ctx context.Context, in *manifest.Input) {
	types := factTypes
	if c.options.Policy.Outside == policy.OutsideRewrite { // a route has a name that no relocated one can have then
		types = allTypes
	}
	var found []placed
	c.relevant = make([]bool, len(in.Files))
	parallel(c.options.Workers, func(yield func(manifest.Document)) {
		for i, file := range in.Files {
			for document, problem := range file.Documents(i) {
				if ctx.Err() != nil {
					return
				}
				if problem != nil {
					c.problems(*problem)
					continue
				}
				c.report.Summary.Documents++
				c.progress(c.report.Summary.Documents, 0)
				yield(document)
			}
		}
	}, func(document manifest.Document) {
		c.problems(document.Parse(allTypes)...)
		if document.JSON() == nil {
			return
		}
		if c.fixes {
			c.survey(document)
		}
		objects, _ := document.Objects(types, true) // the second pass reports the problems
		c.mutex.Lock()
		defer c.mutex.Unlock()
		c.relevant[document.Source] = true
		if c.size += len(document.Raw) + len(document.JSON()); c.size <= cacheSize {
			c.cache = append(c.cache, document)
		} else {
			c.cache = nil
		}
		for _, object := range objects {
			c.place(object)
			if c.request(object).Operation == policy.Create {
				policy.SetBackends(object.Object, nil) // leaves what says where the route belongs
			}
			where := document.WithoutText()
			if object.Kind == policy.ReferenceGrant && c.options.Advice {
				where.Raw = document.Raw
			}
			found = append(found, placed{object, where})
		}
	})
	// Of two manifests of one object the last one stays, whichever worker was faster.
	slices.SortFunc(found, func(a, b placed) int {
		return cmp.Or(a.document.Compare(b.document), cmp.Compare(a.Item, b.Item))
	})
	for _, object := range found {
		c.facts.keep(object.Object)
	}
	for _, object := range found {
		if slices.Contains(policy.RouteKinds(), object.Kind) {
			if err := c.facts.claim(c.options.Policy, c.request(object.Object)); err != nil {
				c.problems(object.document.Problem(object.Item, "", "%v", err))
			}
		}
	}
	if c.options.Advice {
		c.prepareAdvice(found)
	}
}

// place puts an object into the namespace in which it would be written.
func (c *checker) place(object manifest.Object) {
	if object.Kind != manifest.Namespace && object.GetNamespace() == "" {
		object.SetNamespace(c.options.DefaultNamespace)
	}
}

// evaluateAll is the second pass.
func (c *checker) evaluateAll(ctx context.Context, in *manifest.Input) {
	evaluated := 0
	parallel(c.options.Workers, func(yield func(manifest.Document)) {
		next := func(document manifest.Document) {
			yield(document)
			evaluated++
			c.progress(c.report.Summary.Documents, evaluated)
		}
		for _, document := range c.cache {
			if ctx.Err() != nil {
				return
			}
			next(document)
		}
		for i, file := range in.Files {
			if c.size <= cacheSize || !c.relevant[i] {
				continue
			}
			for document, problem := range file.Documents(i) {
				if ctx.Err() != nil {
					return
				}
				if problem == nil {
					next(document)
				}
			}
		}
	}, func(document manifest.Document) {
		if len(document.Parse(allTypes)) > 0 {
			return // the first pass has reported what cannot be read
		}
		objects, problems := document.Objects(allTypes, true)
		c.problems(problems...)
		var where *manifest.Locator
		count := 0
		for _, object := range objects {
			if object.Kind == manifest.Namespace {
				continue
			}
			count++
			c.place(object)
			mutation, decision, err := c.evaluate(object)
			if err != nil {
				c.problems(document.Problem(object.Item, "", "%v", err))
				continue
			}
			if len(decision.Findings) == 0 && len(decision.Missing) == 0 && len(decision.Warnings(true)) == 0 &&
				(decision.Relocated == nil || !c.fixes) {
				continue
			}
			if where == nil {
				where = document.Locate()
			}
			result := c.result(where, object, decision, mutation)
			c.mutex.Lock()
			c.ordered = append(c.ordered, orderedResult{document.Source, result})
			c.mutex.Unlock()
		}
		c.mutex.Lock()
		c.report.Summary.Objects += count
		c.mutex.Unlock()
	})
}

// evaluate decides about the write of an object.
func (c *checker) evaluate(object manifest.Object) (policy.Mutation, policy.Decision, error) {
	request := c.request(object)
	m, decision, err := c.options.Policy.Admit(request, asked{c.facts, request})
	if route, ok := policy.RouteOf(m.Request.Object); ok {
		c.countUses(route)
	}
	return m, decision, err
}

// request is the write of an object.
func (c *checker) request(object manifest.Object) policy.Request {
	request := policy.Request{
		Operation: policy.Create, Kind: object.Kind, Namespace: object.GetNamespace(), User: c.options.User, Object: object.Object,
	}
	if stored := c.facts.stored[objectKey{object.Kind, object.GetNamespace(), object.GetName()}]; stored != nil && object.GetName() != "" {
		request.Operation, request.OldObject = policy.Update, stored
		// Applying a manifest does not bring back what is being deleted.
		object.SetDeletionTimestamp(stored.GetDeletionTimestamp())
	} else if there := c.facts.claimedCopy(c.options.Policy, object); there != nil {
		request.Operation, request.OldObject = policy.Update, there
	}
	return request
}

func (c *checker) progress(read, evaluated int) {
	if c.options.Progress != nil {
		c.options.Progress(read, evaluated)
	}
}

// parallel calls work, in as many goroutines as there are workers, for everything that produce yields.
func parallel[T any](workers int, produce func(yield func(T)), work func(T)) {
	items := make(chan T, 4*workers)
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for item := range items {
				work(item)
			}
		})
	}
	produce(func(item T) { items <- item })
	close(items)
	running.Wait()
}

func (c *checker) problems(problems ...Problem) {
	if len(problems) > 0 {
		c.mutex.Lock()
		defer c.mutex.Unlock()
		c.report.Problems = append(c.report.Problems, problems...)
	}
}

// finish brings everything into the order of the input and counts it.
func (c *checker) finish() {
	slices.SortStableFunc(c.ordered, func(a, b orderedResult) int {
		return cmp.Or(cmp.Compare(a.source, b.source), cmp.Compare(a.Document, b.Document), cmp.Compare(a.Item, b.Item))
	})
	r := &c.report
	r.Results = make([]Result, 0, len(c.ordered))
	for _, result := range c.ordered {
		if last := len(r.Results) - 1; last >= 0 && r.Results[last].same(result.Result) {
			r.Results[last].Findings = append(r.Results[last].Findings, result.Findings...)
			continue
		}
		r.Results = append(r.Results, result.Result)
	}
	if r.Problems == nil {
		r.Problems = []Problem{}
	}
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	r.count()
}

// same says whether two results are about the same object of the input.
func (r Result) same(other Result) bool {
	return r.File == other.File && r.Document == other.Document && r.Item == other.Item
}

// key names the object of a result in a cluster.
func (r Result) key() objectKey { return objectKey{r.Kind, r.Namespace, r.Name} }

// foreignGrant is an object as a ReferenceGrant that people wrote, or nil.
func foreignGrant(o manifest.Object) *gwv1.ReferenceGrant {
	grant, ok := o.Object.(*gwv1.ReferenceGrant)
	if !ok || policy.IsManaged(grant) {
		return nil
	}
	return grant
}
