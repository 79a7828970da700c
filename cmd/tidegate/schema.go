package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/pipeline"
)

func newSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of pipeline files",
		Long: `Print the JSON Schema (draft 2020-12) of pipeline files. Editors use it for
completion and checking. "tidegate lint" checks more: graphs and expressions.`,
		Example: `  tidegate schema > tidegate.schema.json
  # then, as the first line of .tidegate.yaml, for editors with a YAML language server:
  # yaml-language-server: $schema=./tidegate.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			schema, err := pipeline.JSONSchema()
			if err != nil {
				return err
			}
			if _, err := cmd.OutOrStdout().Write(schema); err != nil {
				return fmt.Errorf("writing the schema: %w", err)
			}
			return nil
		},
	}
}
