package check

import (
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/routesteward/routesteward/policy/settings"
)

// Settings are what a check is given by flag, environment or file. The zero value is valid; start from
// DefaultSettings.
type Settings struct {
	// Facts are paths of files and directories that together hold all there is in the cluster.
	Facts []string
	// Cluster reads the facts from a live cluster; Kubeconfig and Context say from which.
	Cluster             bool
	Kubeconfig, Context string
	// AsConsented, As and AsGroups state what is decided at admission otherwise.
	AsConsented []string
	As          string
	AsGroups    []string
	// DefaultNamespace is that of objects which name none.
	DefaultNamespace string
	Strict, Advice   bool
}

// DefaultSettings are those of a check that was given no flags.
func DefaultSettings() Settings {
	return Settings{DefaultNamespace: corev1.NamespaceDefault, Advice: true}
}

// AddFlags binds every field to a flag. The defaults are what s holds.
func (s *Settings) AddFlags(fs *pflag.FlagSet) {
	settings.ListVar(fs, &s.Facts, "facts",
		"`PATHS` of files or directories that hold all there is in the cluster, as `routesteward facts` writes it; without, what "+
			"the input does not hold is decided at admission")
	fs.BoolVar(&s.Cluster, "cluster", s.Cluster,
		"read the facts from the cluster of the current kubeconfig context; nothing is written")
	s.AddClusterFlags(fs)
	settings.ListVar(fs, &s.AsConsented, "as-consented",
		"`NAMESPACES` that consent to references, as if they were labeled routesteward.dev/grants=allow; a veto still counts")
	fs.StringVar(&s.As, "as", s.As,
		"`USER` who will apply the input; only --exempt-users asks")
	settings.ListVar(fs, &s.AsGroups, "as-group",
		"`GROUPS` of that user; only --exempt-groups asks")
	fs.StringVarP(&s.DefaultNamespace, "default-namespace", "n", s.DefaultNamespace,
		"`NAMESPACE` of objects that name none, as kubectl's --namespace")
	fs.BoolVar(&s.Strict, "strict", s.Strict,
		"fail also where something is decided only at admission")
	fs.BoolVar(&s.Advice, "advice", s.Advice,
		"look at ReferenceGrants that people wrote: those that permit nothing here, and those for a whole namespace where one "+
			"name would do. Advice never fails a check")
}

// AddClusterFlags binds the fields that say which cluster is read.
func (s *Settings) AddClusterFlags(fs *pflag.FlagSet) {
	settings.ClusterVar(fs, &s.Kubeconfig, &s.Context)
}

// Validate reports every fault at once; each error's field is the flag that carries the value.
func (s Settings) Validate() field.ErrorList {
	var errs field.ErrorList
	namespace := func(flag, name string) {
		for _, msg := range validation.IsDNS1123Label(name) {
			errs = append(errs, field.Invalid(field.NewPath(flag), name, msg))
		}
	}
	for _, name := range s.AsConsented {
		namespace("--as-consented", name)
	}
	if s.DefaultNamespace != "" {
		namespace("--default-namespace", s.DefaultNamespace)
	}
	return errs
}
