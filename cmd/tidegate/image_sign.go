package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

func newImageSignCommand() *cobra.Command {
	var f imageRegistryFlags
	var key string
	var annotations []string
	command := &cobra.Command{
		Use:   "sign IMAGE",
		Short: "Sign an image in a registry",
		Long: `Sign what an image's name means now: its index, or its manifest if it has no
index. The signature lies beside the image, under the tag sha256-….sig, where
cosign looks for it. Signing again with the same key changes nothing.`,
		Example: `  tidegate image sign --key cosign.key registry.example.com/shop:1.2
  COSIGN_PASSWORD=… tidegate image sign --key env://SIGNING_KEY registry.example.com/shop@sha256:…`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			private, err := loadSigningKey("--key", key)
			if err != nil {
				return err
			}
			with := map[string]string{}
			for _, pair := range annotations {
				name, value, ok := strings.Cut(pair, "=")
				if !ok || name == "" {
					return usageErrorf("--annotation %q: want NAME=VALUE", pair)
				}
				with[name] = value
			}
			client, image, err := f.image(cmd, args[0])
			if err != nil {
				return err
			}
			if _, err := sign.Sign(cmd.Context(), client, image, private, with); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), image)
			return err
		},
	}
	f.register(command.Flags())
	command.Flags().StringVar(&key, "key", "", "private key, a FILE or env://NAME; COSIGN_PASSWORD opens it")
	command.Flags().StringArrayVarP(&annotations, "annotation", "a", nil, "what the signature also says, NAME=VALUE; may be repeated")
	_ = command.MarkFlagRequired("key") // the flag exists
	return command
}
