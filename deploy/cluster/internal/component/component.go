// Package component runs the Kubernetes components and etcd that are compiled
// into this binary. It is the only package that imports Kubernetes itself:
// everything else builds in seconds.
package component

import (
	"context"
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const etcd = "etcd"

var kubernetes = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllers.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kube-proxy":              proxy.NewProxyCommand,
	// The kubelet installs its signal handler itself; a second one panics.
	"kubelet": func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
}

// Known reports whether name is a component that Run can run.
func Known(name string) bool {
	_, ok := kubernetes[name]
	return ok || name == etcd
}

// Run runs the component named by args[0] with the flags that follow until it
// ends, and returns its exit code. The caller has asked Known before.
func Run(args []string) int {
	if args[0] == etcd {
		etcdmain.Main(args)
		return 0
	}
	// The components read os.Args, as they do in their own binaries.
	os.Args = args
	return cli.Run(kubernetes[args[0]]())
}
