package check

import (
	"io"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/routewarden/routewarden/policy"
)

// StdinName is how the standard input is called in reports.
const StdinName = "<stdin>"

// File is one file of the input, or the standard input.
type File struct {
	// Name is the path as it was given or found.
	Name string
	open func() (io.ReadCloser, error)
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
}

// Object is one object of a Document.
type Object struct {
	Kind policy.Kind
	// Item is the number of the object in its List, -1 outside a List.
	Item int
	// Object is the typed object: *gwv1.HTTPRoute, *gwv1.GRPCRoute, *gwv1.Gateway, *gwv1.ReferenceGrant or
	// *corev1.Namespace. Its metadata.namespace is as written.
	Object client.Object
}
