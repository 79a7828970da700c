package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/cluster"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/render"
)

func newComponent(state *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "component",
		Short: "Stop and start single components, to see what their failure does",
		Example: `  tidegate-cluster component stop kube-apiserver
  tidegate-cluster component start kube-apiserver
  tidegate-cluster component restart kubelet`,
		Args: cobra.NoArgs,
	}
	var timeout time.Duration
	one := func(use, short string, do func(context.Context, *cluster.Cluster, string) error) *cobra.Command {
		return &cobra.Command{
			Use:       use + " COMPONENT",
			Short:     short,
			Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
			ValidArgs: render.Processes(),
			RunE: func(cmd *cobra.Command, args []string) error {
				c, _, err := open(cmd, *state)
				if err != nil {
					return err
				}
				return do(cmd.Context(), c, args[0])
			},
		}
	}
	start := one("start", "Start a component and wait until it is healthy", func(ctx context.Context, c *cluster.Cluster, name string) error {
		return c.StartComponent(ctx, name, timeout)
	})
	restart := one("restart", "Stop a component and start it again", func(ctx context.Context, c *cluster.Cluster, name string) error {
		return c.RestartComponent(ctx, name, timeout)
	})
	for _, c := range []*cobra.Command{start, restart} {
		c.Flags().DurationVar(&timeout, "timeout", defaultTimeout, "how long the start may take")
	}
	cmd.AddCommand(start, restart, one("stop", "Stop a component, as if it had failed", func(ctx context.Context, c *cluster.Cluster, name string) error {
		return c.StopComponent(ctx, name)
	}))
	return cmd
}
