// Package manifest reads files of Kubernetes manifests, finds fields in them and edits them: files become documents, documents
// become objects, and a field has a line and a column.
package manifest
