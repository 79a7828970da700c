package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/cluster"
)

func newStatus(state *string) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show every component and the node; exit 1 if not all is well",
		Example: `  tidegate-cluster status
  tidegate-cluster status -o json | jq -r '.components[] | select(.state != "healthy").log'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usage(fmt.Errorf("-o %s: needs table or json", output))
			}
			c, _, err := open(cmd, *state)
			if err != nil {
				return err
			}
			status := c.Status(cmd.Context())
			if output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				err = encoder.Encode(status)
			} else {
				err = writeStatus(cmd.OutOrStdout(), status, time.Now())
			}
			if err != nil {
				return fmt.Errorf("write status: %w", err)
			}
			if !status.Healthy {
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func writeStatus(w io.Writer, s cluster.Status, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "COMPONENT\tSTATE\tPID\tAGE\tPROBLEM")
	for _, c := range s.Components {
		pid, age := "-", "-"
		if c.PID != 0 {
			pid = fmt.Sprint(c.PID)
			age = now.Sub(*c.Started).Round(time.Second).String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", c.Name, c.State, pid, age, c.Problem)
	}
	fmt.Fprintln(table)
	node := "ready"
	if !s.Node.Ready {
		node = "not ready"
	}
	fmt.Fprintf(table, "node\t%s\t%s\t%s\t%s\n", s.Node.Name, node, s.Node.Runtime, s.Node.Problem)
	fmt.Fprintf(table, "server\t%s\t%s\t\t\n", s.Server, s.Version)
	fmt.Fprintf(table, "state\t%s\t\t\t\n", s.StateDir)
	return table.Flush()
}
