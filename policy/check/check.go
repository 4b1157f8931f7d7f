package check

import (
	"context"
	"io"

	"github.com/routewarden/routewarden/policy"
)

// Options are what Run checks, against what.
type Options struct {
	// Files are paths of files and directories; "-" is Stdin.
	Files     []string
	Recursive bool
	Stdin     io.Reader

	Policy *policy.Policy
	// Facts are paths of files and directories that together hold all there is in the cluster. Cluster reads the same from
	// a live one. Without either, what the input does not hold is unknown.
	Facts   []string
	Cluster Cluster
	// User asks for the write; Access says whether he may create ReferenceGrants in a namespace (nil: unknown).
	User   policy.User
	Access func(ctx context.Context, namespace string) (policy.Answer, error)
	// AsConsented are namespaces that consent, whatever is known of them; a veto still counts.
	AsConsented []string
	// DefaultNamespace is that of objects which name none.
	DefaultNamespace string
	// Strict makes what is decided at admission a failure. Advice looks at ReferenceGrants that people wrote.
	Strict, Advice bool

	// Workers is how many documents are judged at once; 0: as many as there are processors.
	Workers int
	// Progress is told now and then, from one goroutine at a time, how many documents were read; nil: nobody.
	Progress func(documents int)
}

// Cluster reads the facts of a live cluster.
type Cluster interface {
	// ReadFacts calls keep for every object that is a fact.
	ReadFacts(ctx context.Context, keep func(Object)) error
}

// Run checks the input. An error means that nothing could be checked; what is wrong with single files is in the Report.
func Run(ctx context.Context, o Options) (Report, error) {
	return Report{SchemaVersion: SchemaVersion}, ctx.Err()
}
