package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/internal/demo"
)

func newDemoCommand() *cobra.Command {
	var options demo.Options
	var output string
	command := &cobra.Command{
		Use:   "demo",
		Short: "Play the whole story on this machine, with real parts",
		Long: `Demo starts a local Kubernetes (unless KUBECONFIG names a cluster of this machine)
and a tidegate server, creates a Git repository from examples/shop and tells one
story with signed webhooks, real containers and a steady stream of requests:

  v1 is tested, built, pushed and deployed; v2 goes out as a canary and is
  promoted; v3 passes its tests, turns ready and crashes, and is rolled back by
  itself; then a manual rollback brings v1 back. No request may fail.

It needs root, and is easiest started with "make demo". It ends with an error if
any part of the story did not happen.`,
		Example: "  make demo\n  KEEP=1 make demo\n  tidegate demo -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usageErrorf("unknown output format %q: use text or json", output)
			}
			options.Out = cmd.OutOrStdout()
			if output == "json" {
				options.Out = cmd.ErrOrStderr()
			}
			if err := prepareDemo(&options); err != nil {
				return err
			}
			report, err := demo.Play(cmd.Context(), options)
			if output == "json" {
				return firstError(err, writeJSON(cmd.OutOrStdout(), report))
			}
			if err == nil {
				fmt.Fprintf(options.Out, "\nThe whole story happened in %.0f s.\n", report.Seconds)
			}
			return err
		},
	}
	flags := command.Flags()
	flags.BoolVar(&options.Keep, "keep", os.Getenv("KEEP") != "", "leave everything running and say how to look around")
	flags.StringVar(&options.Example, "example", "examples/shop", "folder of the example")
	flags.StringVar(&options.Kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "a cluster on this machine; empty starts one")
	flags.StringVar(&options.ClusterBinary, "cluster-binary", "", "tidegate-cluster (default: beside this binary)")
	flags.StringVarP(&output, "output", "o", "text", "text, or json: the timeline goes to standard error, a report to standard output")
	return command
}

// prepareDemo finds what the story needs, and says what is missing.
func prepareDemo(options *demo.Options) (err error) {
	if os.Geteuid() != 0 {
		return usageErrorf("the demo needs root: it runs containers (try: sudo make demo)")
	}
	if options.Binary, err = os.Executable(); err != nil {
		return fmt.Errorf("find this binary: %w", err)
	}
	if options.Example, err = filepath.Abs(options.Example); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(options.Example, ".tidegate.yaml")); err != nil {
		return usageErrorf("the example is not in %s: run the demo in a clone of Tidegate, or name the folder with --example", options.Example)
	}
	if options.ClusterBinary == "" {
		options.ClusterBinary = filepath.Join(filepath.Dir(options.Binary), "tidegate-cluster")
	}
	if options.Kubeconfig == "" {
		if _, err := os.Stat(options.ClusterBinary); err != nil {
			return usageErrorf("there is no cluster: KUBECONFIG is not set and %s does not exist; `make demo` builds it", options.ClusterBinary)
		}
	}
	options.Dir, err = os.MkdirTemp("", "tidegate-demo-")
	return err
}

func writeJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
