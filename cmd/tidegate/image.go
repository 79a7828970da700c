package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

func newImageCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "image",
		Short: "Sign images in a registry and verify them",
		Long: `Sign images in a registry and verify them, with keys, as cosign does: what one
signs the other verifies.`,
		Example: `  tidegate image generate-key
  tidegate image sign --key cosign.key registry.example.com/shop:1.2
  tidegate image verify --key cosign.pub registry.example.com/shop:1.2`,
	}
	command.AddCommand(newImageSignCommand(), newImageVerifyCommand(), newImageGenerateKeyCommand())
	return command
}

// imageRegistryFlags say how the registry is reached.
type imageRegistryFlags struct {
	registry string
	insecure []string
}

func (f *imageRegistryFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.registry, "registry", os.Getenv("TIDEGATE_REGISTRY"), "registry host for names that have none (TIDEGATE_REGISTRY)")
	flags.StringArrayVar(&f.insecure, "insecure-registry", listFrom("TIDEGATE_INSECURE_REGISTRIES"), "registry host to reach without TLS; loopback needs none; may be repeated")
}

// image finds what a name means now.
func (f *imageRegistryFlags) image(cmd *cobra.Command, text string) (*registry.Client, name.Digest, error) {
	client := registry.New(registry.Options{Default: f.registry, Insecure: f.insecure})
	ref, err := client.Destination(text)
	if err != nil {
		return nil, name.Digest{}, usageErrorf("%w", err)
	}
	found, err := client.Artifact(cmd.Context(), ref)
	if err != nil {
		return nil, name.Digest{}, err
	}
	return client, ref.Context().Digest(found.Digest.String()), nil
}

// envScheme begins the name of an environment variable where a file could be named.
const envScheme = "env://"

// readKey reads a key from a file or, as env://NAME, from the environment.
func readKey(flag, source string) ([]byte, error) {
	if variable, ok := strings.CutPrefix(source, envScheme); ok {
		value := os.Getenv(variable)
		if value == "" {
			return nil, usageErrorf("%s: the environment has no %s", flag, variable)
		}
		return []byte(value), nil
	}
	file, err := os.Open(source)
	if err != nil {
		return nil, usageErrorf("%s: %w", flag, err)
	}
	data, err := io.ReadAll(io.LimitReader(file, sign.MaxKey+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return data, nil
}

// passwordVariable is where cosign takes a key's password from.
const passwordVariable = "COSIGN_PASSWORD"

// keyPassword is nil when there is none.
func keyPassword() []byte {
	if password, ok := os.LookupEnv(passwordVariable); ok {
		return []byte(password)
	}
	return nil
}

func loadSigningKey(flag, source string) (*sign.Key, error) {
	pem, err := readKey(flag, source)
	if err != nil {
		return nil, err
	}
	key, err := sign.LoadKey(pem, keyPassword())
	clear(pem)
	if err != nil {
		return nil, usageErrorf("%s: %w", flag, err)
	}
	return key, nil
}

// loadPublicKey takes a public key, or the public half of a private one.
func loadPublicKey(flag, source string) (*sign.PublicKey, error) {
	pem, err := readKey(flag, source)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(pem, []byte("PRIVATE KEY-----")) {
		key, err := sign.LoadKey(pem, keyPassword())
		if err != nil {
			return nil, usageErrorf("%s: %w", flag, err)
		}
		return key.Public(), nil
	}
	key, err := sign.LoadPublicKey(pem)
	if err != nil {
		return nil, usageErrorf("%s: %w", flag, err)
	}
	return key, nil
}
