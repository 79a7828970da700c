package main

import (
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/tidegate-ci/tidegate/stages/image"
)

// buildContextFlags say what a build takes beside its context.
type buildContextFlags struct{ contexts, ssh []string }

func (f *buildContextFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.contexts, "build-context", nil, "further context, NAME=DIR, NAME=URL, NAME=docker-image://REF or NAME=oci-layout://DIR[:TAG|@DIGEST]; stands for stages and images of that name; may be repeated")
	flags.StringArrayVar(&f.ssh, "ssh", nil, "SSH agent for RUN --mount=type=ssh and Git, ID (the agent of SSH_AUTH_SOCK) or ID=SOCKET or ID=KEYFILE; may be repeated")
}

func (f *buildContextFlags) add(r *image.Request, stdin io.Reader) error {
	if r.Context == image.StandardInput {
		if r.DockerfileData != nil {
			return usageErrorf("context and Dockerfile can't both be standard input")
		}
		r.Input = stdin
	}
	r.Contexts, r.SSH = map[string]string{}, image.Agents{}
	for _, text := range f.contexts {
		name, value, _ := strings.Cut(text, "=")
		if name == "" || value == "" || value == image.StandardInput {
			return usageErrorf("--build-context %q: want NAME=DIR, NAME=URL, NAME=docker-image://REF or NAME=oci-layout://DIR", text)
		}
		r.Contexts[name] = value
	}
	for _, text := range f.ssh {
		id, paths, err := image.ParseSSH(text)
		if err != nil {
			return usageErrorf("%w", err)
		}
		if r.SSH[id], err = image.OpenAgent(paths, os.Getenv("SSH_AUTH_SOCK")); err != nil {
			return usageErrorf("--ssh %s: %w", id, err)
		}
	}
	return nil
}
