package cli

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/cluster"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// defaultTimeout is generous: an idle machine needs a few seconds.
const defaultTimeout = 2 * time.Minute

func newUp(state *string) *cobra.Command {
	var noInstall bool
	options := cluster.UpOptions{}
	var flags settingFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the cluster up and wait until it is ready",
		Long: `Bring the cluster up and wait until its node is ready. A healthy cluster is left
alone; what a killed one left behind is cleaned up first. Settings are remembered
with the state. The last line on standard output is the kubeconfig's path.`,
		Example: `  export KUBECONFIG=$(tidegate-cluster up)
  tidegate-cluster up --state /tmp/c --api-port 7443
  tidegate-cluster up --fresh`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := open(cmd, *state)
			if err != nil {
				return err
			}
			flags.apply(cmd.Flags(), &c.Settings)
			if err := c.Validate(); err != nil {
				return usage(err)
			}
			options.Install = !noInstall
			if err := c.Up(cmd.Context(), options); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), c.Kubeconfig())
			return nil
		},
	}
	flags.register(cmd.Flags())
	cmd.Flags().BoolVar(&options.Fresh, "fresh", false, "discard the state that an earlier cluster left")
	cmd.Flags().BoolVar(&noInstall, "no-install", false, "do not install missing Debian packages")
	cmd.Flags().DurationVar(&options.Timeout, "timeout", defaultTimeout, "how long the start may take, without installations")
	return cmd
}

// settingFlags are the flags that set settings. One that is not given leaves
// what was recorded.
type settingFlags struct {
	values settings.Settings
}

func (f *settingFlags) register(flags *pflag.FlagSet) {
	f.values = settings.Default("")
	v := &f.values
	flags.StringVar(&v.Node, "node", v.Node, "name of the node")
	flags.StringVar(&v.Bridge, "bridge", v.Bridge, "network device that pods hang on")
	flags.TextVar(&v.PodCIDR, "pod-cidr", v.PodCIDR, "IPv4 network of pods")
	flags.TextVar(&v.ServiceCIDR, "service-cidr", v.ServiceCIDR, "IPv4 network of Services")
	flags.IntVar(&v.APIPort, "api-port", v.APIPort, "port of the API server")
	flags.IntVar(&v.EtcdPort, "etcd-port", v.EtcdPort, "client port of etcd; the next one is its peer port")
	flags.IntVar(&v.KubeletPort, "kubelet-port", v.KubeletPort, "port of the kubelet")
}

func (f *settingFlags) apply(flags *pflag.FlagSet, s *settings.Settings) {
	take(flags, "node", &s.Node, f.values.Node)
	take(flags, "bridge", &s.Bridge, f.values.Bridge)
	take[netip.Prefix](flags, "pod-cidr", &s.PodCIDR, f.values.PodCIDR)
	take(flags, "service-cidr", &s.ServiceCIDR, f.values.ServiceCIDR)
	take(flags, "api-port", &s.APIPort, f.values.APIPort)
	take(flags, "etcd-port", &s.EtcdPort, f.values.EtcdPort)
	take(flags, "kubelet-port", &s.KubeletPort, f.values.KubeletPort)
}

func take[T any](flags *pflag.FlagSet, name string, to *T, value T) {
	if flags.Changed(name) {
		*to = value
	}
}
