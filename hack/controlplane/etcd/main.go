// Command etcd is the stock etcd server; its own main is a module of its own
// that cannot be required, so this one calls the same entry point.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
