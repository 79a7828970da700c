// Command tidegate-cluster is a real one-node Kubernetes for development and
// tests: etcd and every Kubernetes component in one binary, and the commands
// that bring them up, look at them and take them down. See README.md.
package main

import (
	"os"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/cli"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/component"
)

func main() {
	// A component is started as `tidegate-cluster kube-apiserver --flags…`: its
	// flags are its own, so it is recognised before any of ours are parsed.
	if len(os.Args) > 1 && component.Known(os.Args[1]) {
		os.Exit(component.Run(os.Args[1:]))
	}
	os.Exit(cli.Run(os.Args[1:]))
}
