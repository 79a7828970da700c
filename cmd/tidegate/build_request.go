package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
)

// buildRequestFlags say what to build.
type buildRequestFlags struct {
	file, target, network    string
	args, secrets, platforms []string
	noCache                  bool
}

func (f *buildRequestFlags) register(flags *pflag.FlagSet) {
	flags.StringVarP(&f.file, "file", "f", "", "the Dockerfile (default CONTEXT/Dockerfile); - reads it from standard input")
	flags.StringVar(&f.target, "target", "", "build this stage and what it needs (default the last stage)")
	flags.StringArrayVar(&f.args, "build-arg", nil, "value of an ARG, NAME=VALUE; NAME alone takes it from the environment; may be repeated")
	flags.StringArrayVar(&f.secrets, "secret", nil, "secret for RUN --mount=type=secret, id=ID,src=FILE or id=ID,env=NAME; may be repeated")
	flags.BoolVar(&f.noCache, "no-cache", false, "make every step anew")
	flags.StringSliceVar(&f.platforms, "platform", nil, "what the image is for, such as linux/amd64,linux/arm64 (default this machine's)")
	flags.StringVar(&f.network, "network", "none", "network of RUN steps that do not choose: none or host")
}

func (f *buildFlags) request(cmd *cobra.Command, dir string) (image.Request, error) {
	r := image.Request{
		Context: dir, Dockerfile: f.file, Target: f.target, NoCache: f.noCache, Args: map[string]string{},
		Secrets: map[string][]byte{}, Scope: localScope,
	}
	if f.file == "-" {
		data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), plan.MaxDockerfile+1))
		if err != nil {
			return r, fmt.Errorf("read Dockerfile from standard input: %w", err)
		}
		r.Dockerfile, r.DockerfileData = "Dockerfile", data
	}
	switch f.network {
	case "none", "default":
	case "host":
		r.HostNetwork = true
	default:
		return r, usageErrorf("--network %s: use none or host", f.network)
	}
	var err error
	if r.Platforms, err = plan.ParsePlatforms(f.platforms); err != nil {
		return r, usageErrorf("--platform: %w", err)
	}
	for _, pair := range f.args {
		name, value, given := strings.Cut(pair, "=")
		if name == "" {
			return r, usageErrorf("--build-arg %q: want NAME=VALUE", pair)
		}
		if !given {
			if value, given = os.LookupEnv(name); !given {
				continue // as if it had not been named
			}
		}
		r.Args[name] = value
	}
	if err := readSecrets(f.secrets, r.Secrets); err != nil {
		return r, err
	}
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if given, ok := r.Args["SOURCE_DATE_EPOCH"]; ok {
		epoch = given
	}
	if epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil || seconds < 0 {
			return r, usageErrorf("SOURCE_DATE_EPOCH=%q: want seconds since 1970", epoch)
		}
		r.Epoch = time.Unix(seconds, 0)
	}
	return r, nil
}

// maxSecret bounds a secret, in bytes.
const maxSecret = 1 << 20

func readSecrets(texts []string, into map[string][]byte) error {
	for _, text := range texts {
		fields, err := parseFields("--secret", text, "id", "src", "source", "env", "type")
		if err != nil {
			return err
		}
		id, source, variable := fields["id"], fields["src"]+fields["source"], fields["env"]
		switch {
		case id == "":
			return usageErrorf("--secret %s: want id=ID,src=FILE or id=ID,env=NAME", text)
		case source == "" && variable == "":
			variable = id // as docker does: a variable of that name, or else a file
			if _, ok := os.LookupEnv(id); !ok {
				source, variable = id, ""
			}
		}
		if source == "" {
			value, ok := os.LookupEnv(variable)
			if !ok {
				return usageErrorf("--secret id=%s: the environment has no %s", id, variable)
			}
			into[id] = []byte(value)
			continue
		}
		file, err := os.Open(source)
		if err != nil {
			return usageErrorf("--secret id=%s: %w", id, err)
		}
		value, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("--secret id=%s: %w", id, err)
		}
		if len(value) > maxSecret {
			return usageErrorf("--secret id=%s: larger than %d bytes", id, maxSecret)
		}
		into[id] = value
	}
	return nil
}

// parseFields reads "key=value,key=value" with known keys.
func parseFields(flag, text string, known ...string) (map[string]string, error) {
	fields := map[string]string{}
	for _, field := range strings.Split(text, ",") {
		key, value, ok := strings.Cut(field, "=")
		found := false
		for _, k := range known {
			found = found || k == key
		}
		if !ok || !found {
			return nil, usageErrorf("%s %s: %q is not one of %s", flag, text, field, strings.Join(known, "=, ")+"=")
		}
		fields[key] = value
	}
	return fields, nil
}
