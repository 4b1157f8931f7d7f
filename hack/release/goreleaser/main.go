// Command goreleaser reads a configuration of goreleaser's as goreleaser itself does, strictly, and prints the platforms that
// it builds for, one GOOS/GOARCH a line. It exits with 1 where goreleaser would not take the file.
package main

import (
	"fmt"
	"os"

	"github.com/goreleaser/goreleaser/v2/pkg/config"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: goreleaser FILE")
		os.Exit(2)
	}
	project, err := config.Load(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "goreleaser:", err)
		os.Exit(1)
	}
	for _, build := range project.Builds {
		for _, goos := range build.Goos {
			for _, goarch := range build.Goarch {
				fmt.Println(goos + "/" + goarch)
			}
		}
	}
}
