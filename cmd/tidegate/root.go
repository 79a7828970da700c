package main

import (
	"github.com/spf13/cobra"
)

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "tidegate",
		Short: "CI/CD in one binary: webhooks to healthy releases",
		Long: `Tidegate turns a git push into a healthy release in Kubernetes, and a bad push
into a rollback. The same binary runs a pipeline on a laptop and as a server.`,
		Example: `  tidegate lint                          check .tidegate.yaml
  tidegate run                           run the pipeline here
  tidegate serve --config server.yaml    run it for every push`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate(versionText())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageErrorf("%w", err)
	})
	root.AddCommand(
		newRunCommand(),
		newLintCommand(),
		newGraphCommand(),
		newSchemaCommand(),
		newBuildCommand(),
		newCacheCommand(),
		newImageCommand(),
		newServeCommand(),
		newRunsCommand(),
		newRolloutCommand(),
		newTokensCommand(),
		newDemoCommand(),
		newVersionCommand(),
	)
	return root
}
