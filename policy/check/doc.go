// Package check judges manifests as admission would, without a cluster: files become documents, documents become objects
// and facts, and policy.Evaluate says the rest, in the same words.
package check
