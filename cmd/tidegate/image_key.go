package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

func newImageGenerateKeyCommand() *cobra.Command {
	var prefix string
	command := &cobra.Command{
		Use:   "generate-key",
		Short: "Make a pair of keys to sign images with",
		Long: `Make a pair of keys to sign images with: ECDSA P-256, the private one encrypted
with a password (COSIGN_PASSWORD, or asked for), in the files that cosign
generate-key-pair makes. Existing files are never overwritten.`,
		Example: `  tidegate image generate-key                       cosign.key and cosign.pub
  tidegate image generate-key --output release      release.key and release.pub`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			password, err := newPassword(cmd)
			if err != nil {
				return err
			}
			private, public, err := sign.Generate(password)
			if err != nil {
				return fmt.Errorf("make keys: %w", err)
			}
			if err := writeNew(prefix+".key", private, 0o600); err != nil {
				return err
			}
			if err := writeNew(prefix+".pub", public, 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s.key\n%s.pub\n", prefix, prefix)
			return err
		},
	}
	command.Flags().StringVarP(&prefix, "output", "o", "cosign", "begin of the files' names")
	return command
}

func newPassword(cmd *cobra.Command) ([]byte, error) {
	if password := keyPassword(); password != nil {
		return password, nil
	}
	terminal, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(terminal.Fd())) {
		return nil, usageErrorf("there is no terminal to ask for a password on: set %s (it may be empty)", passwordVariable)
	}
	ask := func(prompt string) ([]byte, error) {
		fmt.Fprint(cmd.ErrOrStderr(), prompt)
		password, err := term.ReadPassword(int(terminal.Fd()))
		fmt.Fprintln(cmd.ErrOrStderr())
		return password, err
	}
	first, err := ask("Password for the private key: ")
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	second, err := ask("The same again: ")
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	if !bytes.Equal(first, second) {
		return nil, usageErrorf("the two passwords differ")
	}
	return first, nil
}

func writeNew(path string, data []byte, mode os.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return usageErrorf("%s exists: a key is never overwritten; name others with --output", path)
	}
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	_, err = io.Copy(file, bytes.NewReader(data))
	return errors.Join(err, file.Close())
}
