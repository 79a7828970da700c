// Package buildkit hands builds to a buildkitd, through its own client program
// buildctl, in the version that fits the daemon, and keeps the protocol's
// library out of a binary of which few use it.
package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Daemon is where a buildkitd listens.
type Daemon struct {
	// Address is tcp://HOST:PORT or unix://PATH.
	Address string
	// CA, Cert and Key are PEM; empty means none.
	CA, Cert, Key []byte
	ServerName    string
}

// Request is one build.
type Request struct {
	// Context and Dockerfile are paths on this machine.
	Context, Dockerfile string
	Target              string
	Args, Labels        map[string]string
	// Secrets are by id. They reach buildctl in its environment.
	Secrets   map[string][]byte
	Platforms []string
	NoCache   bool
	// Provenance is min, max or empty, for none.
	Provenance string
	SBOM       bool
	// Images are the names to push to, at least one.
	Images []name.Reference
	// Stdout and Stderr get what buildctl prints.
	Stdout, Stderr io.Writer
}

// ErrNoClient says that the machine has no buildctl.
var ErrNoClient = errors.New("with: buildkit needs the program buildctl on the PATH of this machine: install BuildKit's client, or build without it")

// Client runs buildctl.
type Client struct {
	// Program is its path; empty means that of the PATH.
	Program string
}

// Bounds of what is read and how long an ending program may take.
const (
	maxMetadata = 4 << 20
	waitDelay   = 10 * time.Second
)

// Build builds on the daemon, which pushes the image, and gives its digest.
func (c Client) Build(ctx context.Context, daemon Daemon, request Request) (digest v1.Hash, err error) {
	program := c.Program
	if program == "" {
		if program, err = exec.LookPath("buildctl"); err != nil {
			return v1.Hash{}, ErrNoClient
		}
	}
	dir, err := os.MkdirTemp("", "tidegate-buildctl-")
	if err != nil {
		return v1.Hash{}, fmt.Errorf("hand the build to buildkitd: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	connect, err := daemon.arguments(dir)
	if err != nil {
		return v1.Hash{}, err
	}
	metadata := filepath.Join(dir, "metadata.json")
	arguments, secrets := request.arguments(metadata)
	command := exec.CommandContext(ctx, program, append(connect, arguments...)...)
	command.Stdout, command.Stderr, command.WaitDelay = request.Stdout, request.Stderr, waitDelay
	command.Env = append(secrets, inherited()...)
	if err := command.Run(); err != nil {
		if ctx.Err() != nil {
			return v1.Hash{}, ctx.Err()
		}
		return v1.Hash{}, fmt.Errorf("buildctl at %s: %w", daemon.Address, err)
	}
	return readDigest(metadata)
}

// inherited is what buildctl needs of this process's environment.
func inherited() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "DOCKER_CONFIG"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (d Daemon) arguments(dir string) ([]string, error) {
	arguments := []string{"--addr", d.Address}
	for _, file := range []struct {
		flag, name string
		data       []byte
	}{{"--tlscacert", "ca.pem", d.CA}, {"--tlscert", "cert.pem", d.Cert}, {"--tlskey", "key.pem", d.Key}} {
		if len(file.data) == 0 {
			continue
		}
		path := filepath.Join(dir, file.name)
		if err := os.WriteFile(path, file.data, 0o600); err != nil {
			return nil, fmt.Errorf("hand the build to buildkitd: %w", err)
		}
		arguments = append(arguments, file.flag, path)
	}
	if d.ServerName != "" {
		arguments = append(arguments, "--tlsservername", d.ServerName)
	}
	return arguments, nil
}

// arguments are buildctl's, and the variables of its environment that hold secrets.
func (r Request) arguments(metadata string) (arguments, secrets []string) {
	arguments = []string{
		"build", "--progress", "plain", "--frontend", "dockerfile.v0", "--metadata-file", metadata,
		"--local", "context=" + r.Context, "--local", "dockerfile=" + filepath.Dir(r.Dockerfile),
		"--opt", "filename=" + filepath.Base(r.Dockerfile),
	}
	option := func(name, value string) { arguments = append(arguments, "--opt", name+"="+value) }
	if r.Target != "" {
		option("target", r.Target)
	}
	if len(r.Platforms) > 0 {
		option("platform", strings.Join(r.Platforms, ","))
	}
	if r.Provenance != "" {
		option("attest:provenance", "mode="+r.Provenance)
	}
	if r.SBOM {
		option("attest:sbom", "")
	}
	if r.NoCache {
		arguments = append(arguments, "--no-cache")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Args)) {
		option("build-arg:"+name, r.Args[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
		option("label:"+name, r.Labels[name])
	}
	for i, id := range slices.Sorted(maps.Keys(r.Secrets)) {
		variable := "TIDEGATE_SECRET_" + strconv.Itoa(i)
		secrets = append(secrets, variable+"="+string(r.Secrets[id]))
		arguments = append(arguments, "--secret", "id="+id+",env="+variable)
	}
	// A field with commas is quoted: the value is a line of CSV.
	var names []string
	insecure := false
	for _, image := range r.Images {
		names = append(names, image.Name())
		insecure = insecure || image.Context().Scheme() == "http"
	}
	output := `type=image,"name=` + strings.Join(names, ",") + `",push=true,oci-mediatypes=true`
	if insecure {
		output += ",registry.insecure=true"
	}
	return append(arguments, "--output", output), secrets
}

func readDigest(path string) (v1.Hash, error) {
	file, err := os.Open(path)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("buildctl left no metadata: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxMetadata))
	if err != nil {
		return v1.Hash{}, fmt.Errorf("read buildctl's metadata: %w", err)
	}
	var metadata struct {
		Digest string `json:"containerimage.digest"`
	}
	if err := json.Unmarshal(data, &metadata); err != nil {
		return v1.Hash{}, fmt.Errorf("read buildctl's metadata: %w", err)
	}
	digest, err := v1.NewHash(metadata.Digest)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("buildctl's metadata have no digest: %w", err)
	}
	return digest, nil
}
