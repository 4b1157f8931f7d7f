// Package node runs a Kubernetes cluster of one node on this machine, without containers: a real control plane and a real
// kube-proxy in a network namespace of their own, with Services, Deployments and Pods as in a cluster. What stands in for the
// kubelet, the scheduler and the network plugin is a small agent that runs a program where a Pod names an image. README.md
// says what it does and what it does not.
package node
