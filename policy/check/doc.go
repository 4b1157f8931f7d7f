// Package check evaluates manifests as admission would, without a cluster: policy/manifest reads objects from files, some of them are
// facts, and policy.Evaluate decides about the rest, in the same words.
package check
