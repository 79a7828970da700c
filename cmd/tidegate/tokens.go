package main

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/internal/settings"
)

// newTokensCommand works on a server's data directory, so it is for whoever
// administers the machine; the running server sees changes at once.
func newTokensCommand() *cobra.Command {
	var data string
	command := &cobra.Command{
		Use:   "tokens",
		Short: "Say who may use a server's API, and as whom",
		Long: `Tokens works on the data directory of a server on this machine. A running server
sees changes at once.

Roles: read (see runs), operate (also start, cancel, rerun, approve), admin.
Approvals go by a token's user and groups.`,
		Example: `  tidegate tokens create alice-laptop --user alice --role operate
  tidegate tokens list`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	command.PersistentFlags().StringVar(&data, "data", cmp.Or(os.Getenv("TIDEGATE_DATA"), settings.Default().Data), "data directory of the server")
	open := func() (*api.Tokens, error) {
		return api.OpenTokens(filepath.Join(data, "tokens.json"), rand.Reader, time.Now)
	}
	command.AddCommand(newTokensCreateCommand(open), newTokensListCommand(open), newTokensRevokeCommand(open))
	return command
}

func newTokensCreateCommand(open func() (*api.Tokens, error)) *cobra.Command {
	token := api.Token{}
	var role string
	var expires time.Duration
	command := &cobra.Command{
		Use:     "create NAME",
		Short:   "Make a token and print its secret, this once",
		Example: "  tidegate tokens create alice-laptop --user alice --group ops --role operate\n  tidegate tokens create dashboard --role read --expires 720h",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tokens, err := open()
			if err != nil {
				return err
			}
			token.Name, token.Role = args[0], api.Role(role)
			token.User = cmp.Or(token.User, token.Name)
			if expires > 0 {
				token.Expires = time.Now().Add(expires).UTC()
			}
			secret, err := tokens.Create(token)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), secret)
			return err
		},
	}
	flags := command.Flags()
	flags.StringVar(&token.User, "user", "", "who uses it (default: NAME)")
	flags.StringArrayVar(&token.Groups, "group", nil, "a group of that user; may repeat")
	flags.StringVar(&role, "role", string(api.RoleOperate), "read, operate or admin")
	flags.DurationVar(&expires, "expires", 0, "how long it is valid (default: for ever)")
	return command
}

func newTokensListCommand(open func() (*api.Tokens, error)) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:     "list",
		Short:   "List the tokens, without their secrets",
		Example: "  tidegate tokens list\n  tidegate tokens list -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			tokens, err := open()
			if err != nil {
				return err
			}
			list, err := tokens.List()
			if err != nil {
				return err
			}
			if output != "table" {
				return printDocument(cmd.OutOrStdout(), output, list)
			}
			rows := [][]string{{"NAME", "USER", "GROUPS", "ROLE", "CREATED", "EXPIRES"}}
			for _, t := range list {
				expires := "never"
				if !t.Expires.IsZero() {
					expires = t.Expires.Format(time.DateTime)
				}
				rows = append(rows, []string{t.Name, t.User, strings.Join(t.Groups, ","), string(t.Role), t.Created.Format(time.DateTime), expires})
			}
			for _, line := range tableLines(0, rows) {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			return nil
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return command
}

func newTokensRevokeCommand(open func() (*api.Tokens, error)) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke NAME",
		Short:   "Remove a token; the next request with it is refused",
		Example: "  tidegate tokens revoke alice-laptop",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			tokens, err := open()
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			list, err := tokens.List()
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			var names []string
			for _, t := range list {
				names = append(names, t.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			tokens, err := open()
			if err != nil {
				return err
			}
			return tokens.Revoke(args[0])
		},
	}
}
