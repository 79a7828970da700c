package cli

import "github.com/spf13/cobra"

func newDown(state *string) *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster and remove everything it put on this machine",
		Long: `Stop the cluster and remove everything it put on this machine: processes, pods,
mounts, the bridge, packet filter rules, and its state. It also works on what is
left of a cluster that was killed. Packages and kernel settings stay.`,
		Example: `  tidegate-cluster down
  tidegate-cluster down --keep   # a later up goes on with the same objects`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := open(cmd, *state)
			if err != nil {
				return err
			}
			if err := c.Validate(); err != nil {
				return usage(err)
			}
			return c.Down(cmd.Context(), keep)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the state: objects, certificates, images")
	return cmd
}
