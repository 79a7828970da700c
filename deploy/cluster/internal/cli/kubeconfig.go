package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func newKubeconfig(state *string) *cobra.Command {
	var path bool
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the administrator's kubeconfig",
		Example: `  tidegate-cluster kubeconfig > ~/.kube/config
  export KUBECONFIG=$(tidegate-cluster kubeconfig --path)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, found, err := open(cmd, *state)
			if err != nil {
				return err
			}
			if !found {
				return fmt.Errorf("no cluster in %s: bring one up by `tidegate-cluster up`, or name its folder by --state", c.StateDir)
			}
			if path {
				fmt.Fprintln(cmd.OutOrStdout(), c.Kubeconfig())
				return nil
			}
			data, err := os.ReadFile(c.Kubeconfig())
			if err != nil {
				return fmt.Errorf("read kubeconfig: %w", err)
			}
			_, err = cmd.OutOrStdout().Write(data)
			return err
		},
	}
	cmd.Flags().BoolVar(&path, "path", false, "print the file's path instead of its content")
	return cmd
}
