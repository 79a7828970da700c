package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

// predicateTypes are short names, as cosign has them.
var predicateTypes = map[string]string{
	"slsaprovenance1": attest.PredicateProvenance, "slsaprovenance": attest.PredicateProvenance,
	"provenance": attest.PredicateProvenance, "spdxjson": attest.PredicateSPDX, "spdx": attest.PredicateSPDX, "sbom": attest.PredicateSPDX,
}

func newImageVerifyCommand() *cobra.Command {
	var f imageRegistryFlags
	var keys []string
	var attestation string
	command := &cobra.Command{
		Use:   "verify IMAGE",
		Short: "Verify an image's signature or attestation",
		Long: `Verify that an image in a registry is signed by a key, or that a statement
about it is, and print the image by its digest, or the statements. Signatures
of cosign 2 and bundles of cosign 3 are found. Exits with 3 if it is not signed.`,
		Example: `  tidegate image verify --key cosign.pub registry.example.com/shop:1.2
  tidegate image verify --key cosign.pub --attestation provenance registry.example.com/shop:1.2`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var public []*sign.PublicKey
			for _, source := range keys {
				key, err := loadPublicKey("--key", source)
				if err != nil {
					return err
				}
				public = append(public, key)
			}
			client, image, err := f.image(cmd, args[0])
			if err != nil {
				return err
			}
			if attestation == "" {
				if _, err := sign.Verify(cmd.Context(), client, image, public); err != nil {
					return refusedUnsigned(err)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), image)
				return err
			}
			predicate := attestation
			if full, ok := predicateTypes[attestation]; ok {
				predicate = full
			}
			statements, err := sign.VerifyAttestations(cmd.Context(), client, image, public, predicate)
			if err != nil {
				return refusedUnsigned(err)
			}
			encoder := json.NewEncoder(cmd.OutOrStdout())
			for _, s := range statements {
				if err := encoder.Encode(s); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f.register(command.Flags())
	command.Flags().StringArrayVar(&keys, "key", nil, "public key, a FILE or env://NAME; may be repeated: any of them will do")
	command.Flags().StringVar(&attestation, "attestation", "", "verify a statement of this type in place of the signature: provenance, sbom or a predicate type's URI")
	_ = command.MarkFlagRequired("key") // the flag exists
	return command
}

func refusedUnsigned(err error) error {
	var unsigned *sign.NotSignedError
	if errors.As(err, &unsigned) {
		return &exitError{code: exitRefused, err: err}
	}
	return err
}
