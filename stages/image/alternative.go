package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/buildkit"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

// imageVariable tells a command what to push.
const imageVariable = "TIDEGATE_IMAGE"

// alternative has another builder make and push the stage's image.
func (k *Kind) alternative(ctx context.Context, attempt pipeline.Attempt) (pipeline.Outputs, error) {
	spec := attempt.Stage.Build
	fail := func(cause pipeline.Cause, format string, args ...any) (pipeline.Outputs, error) {
		return nil, pipeline.Fail(cause, "%s: stage %s: %w", attempt.Stage.Pos, attempt.Stage.ID, fmt.Errorf(format, args...))
	}
	if attempt.Event.Trust != event.Own {
		return fail(pipeline.CauseRefused, "build.with: code of a fork reaches no other builder: it pushes, and runs outside of this one's isolation")
	}
	if k.Builder.Policy != nil {
		return fail(pipeline.CauseRefused, "build.with: the image policy %s can't be held against another builder: build without it", k.Builder.Policy.Name)
	}
	if len(spec.Annotations) > 0 {
		return fail(pipeline.CauseInvalid, "build.with: another builder is given no annotations: build without it, or set labels")
	}
	if spec.Cache != nil {
		return fail(pipeline.CauseInvalid, "build.with: another builder keeps its own cache: remove build.cache")
	}
	var images []name.Reference
	for _, text := range pushNames(spec, attempt.Event) {
		image, err := k.Builder.Registry.Destination(text)
		if err != nil {
			return fail(pipeline.CauseInvalid, "build.push: %w", err)
		}
		images = append(images, image)
	}
	image := images[0]
	key, err := signingKey(attempt)
	if err != nil {
		return fail(pipeline.CauseInvalid, "build.sign: %w", err)
	}
	var digest v1.Hash
	if spec.With.Command != "" {
		digest, err = k.command(ctx, attempt, image)
	} else {
		digest, err = k.buildkit(ctx, attempt, images)
	}
	if err != nil {
		return nil, err
	}
	built := image.Context().Digest(digest.String())
	// What is handed on must be there: the next stage deploys it.
	if _, err := k.Builder.Registry.Artifact(ctx, built); registry.NotFound(err) {
		return fail(pipeline.CauseFailed, "the builder left the digest %s, and %s has no such image", digest, image.Context())
	} else if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		attempt.Progress("the registry could not be asked whether it has the image: " + firstLine(err))
	}
	if key != nil {
		if _, err := sign.Sign(ctx, k.Builder.Registry, built, key, nil); err != nil {
			return nil, classify(fmt.Errorf("the image was pushed and is not signed: %w", err))
		}
	}
	return pipeline.Outputs{
		pipeline.OutputName: repositoryOf(spec.Push), pipeline.OutputDigest: digest.String(), pipeline.OutputImage: built.Name(),
	}, nil
}

// command runs a script that builds and pushes, as a run stage would.
func (k *Kind) command(ctx context.Context, attempt pipeline.Attempt, image name.Reference) (v1.Hash, error) {
	if k.Scripts == nil {
		return v1.Hash{}, pipeline.Fail(pipeline.CauseInvalid, "%s: stage %s: no commands can be run here", attempt.Stage.Pos, attempt.Stage.ID)
	}
	with := attempt.Stage.Build.With
	script := attempt
	script.Stage.Run = &pipeline.RunSpec{Command: with.Command, Image: with.Image, Network: with.Network}
	script.Stage.Build = nil
	script.Stage.Env = maps.Clone(attempt.Stage.Env)
	if script.Stage.Env == nil {
		script.Stage.Env = map[string]string{}
	}
	script.Stage.Env[imageVariable] = image.Name()
	script.Env = withoutNames(attempt.Env, signingSecrets(attempt.Stage.Build))
	outputs, err := k.Scripts.Run(ctx, script)
	if err != nil {
		return v1.Hash{}, err
	}
	digest, err := digestOutput(outputs, image.Context())
	if err != nil {
		return v1.Hash{}, pipeline.Fail(pipeline.CauseFailed, "%s: stage %s: build.with.command: %w", attempt.Stage.Pos, attempt.Stage.ID, err)
	}
	return digest, nil
}

// digestOutput is the digest that a command left: as digest=sha256:…, or within
// image=REPOSITORY@sha256:….
func digestOutput(outputs pipeline.Outputs, repository name.Repository) (v1.Hash, error) {
	text, ok := outputs[pipeline.OutputDigest]
	if !ok {
		full, ok := outputs[pipeline.OutputImage]
		if !ok {
			return v1.Hash{}, errors.New("the command succeeded and left no digest: write digest=sha256:… into the file $TIDEGATE_OUTPUT")
		}
		ref, err := name.NewDigest(full, name.WithDefaultRegistry(repository.RegistryStr()))
		if err != nil {
			return v1.Hash{}, fmt.Errorf("image=%s is no image by digest: %w", printable(full), err)
		}
		if ref.Context().Name() != repository.Name() {
			return v1.Hash{}, fmt.Errorf("the command left an image of %s, and build.push says %s", ref.Context(), repository)
		}
		text = ref.DigestStr()
	}
	digest, err := v1.NewHash(strings.TrimSpace(text))
	if err != nil || digest.Algorithm != "sha256" {
		return v1.Hash{}, fmt.Errorf("digest=%s is no digest: want sha256: and 64 hexadecimal digits", printable(text))
	}
	return digest, nil
}

func printable(text string) string {
	const most = 100
	if len(text) > most {
		text = text[:most] + "…"
	}
	return fmt.Sprintf("%q", text)
}

// buildkit hands the build to a buildkitd.
func (k *Kind) buildkit(ctx context.Context, attempt pipeline.Attempt, images []name.Reference) (v1.Hash, error) {
	spec := attempt.Stage.Build
	request, err := requestOf(attempt)
	if err != nil {
		return v1.Hash{}, err
	}
	if spec.BuildKit == nil {
		return v1.Hash{}, pipeline.Fail(pipeline.CauseInvalid, "%s: stage %s: with: buildkit needs the key buildkit beside it", attempt.Stage.Pos, attempt.Stage.ID)
	}
	daemon := buildkit.Daemon{Address: spec.BuildKit.Address, ServerName: spec.BuildKit.ServerName}
	for _, secret := range []struct {
		name string
		into *[]byte
	}{{spec.BuildKit.CA, &daemon.CA}, {spec.BuildKit.Cert, &daemon.Cert}, {spec.BuildKit.Key, &daemon.Key}} {
		if secret.name == "" {
			continue
		}
		value, ok := attempt.Env[secret.name]
		if !ok {
			return v1.Hash{}, pipeline.Fail(pipeline.CauseInvalid, "%s: stage %s: build.buildkit: there is no secret %s", attempt.Stage.Pos, attempt.Stage.ID, secret.name)
		}
		*secret.into = []byte(value)
	}
	digest, err := k.BuildKit.Build(ctx, daemon, buildkit.Request{
		Context: request.Context, Dockerfile: request.Dockerfile, Target: request.Target, Args: request.Args, Secrets: request.Secrets,
		Platforms: spec.Platforms, NoCache: request.NoCache, Provenance: spec.Provenance, SBOM: spec.SBOM, Labels: spec.Labels, Images: images,
		Stdout: attempt.Stdout, Stderr: attempt.Stderr,
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, buildkit.ErrNoClient) {
		return v1.Hash{}, pipeline.Fail(pipeline.CauseFailed, "%s: stage %s: %w", attempt.Stage.Pos, attempt.Stage.ID, err)
	}
	return digest, err
}

// supply adds to a request what the stage says of attestations and signing.
func supply(attempt pipeline.Attempt, r *Request) error {
	spec := attempt.Stage.Build
	r.Attest.Provenance, r.Attest.SBOM = attest.Mode(spec.Provenance), spec.SBOM
	r.Attest.VCS = attest.VCS{Source: attempt.Event.Repository.CloneURL, Revision: attempt.Event.Commit}
	for _, name := range signingSecrets(spec) {
		delete(r.Secrets, name)
	}
	if !r.Push {
		return nil // nothing of a fork is signed
	}
	key, err := signingKey(attempt)
	if err != nil {
		return fmt.Errorf("build.sign: %w", err)
	}
	r.Sign = key
	return nil
}

// signingSecrets are the names of secrets that no RUN and no command of the
// build may see.
func signingSecrets(spec *pipeline.BuildSpec) []string {
	var names []string
	add := func(all ...string) {
		for _, name := range all {
			if name != "" {
				names = append(names, name)
			}
		}
	}
	if spec.Sign != nil {
		add(spec.Sign.Key, spec.Sign.Password)
	}
	if spec.BuildKit != nil {
		add(spec.BuildKit.CA, spec.BuildKit.Cert, spec.BuildKit.Key)
	}
	return names
}

func withoutNames(env map[string]string, names []string) map[string]string {
	kept := maps.Clone(env)
	for _, name := range names {
		delete(kept, name)
	}
	return kept
}

// signingKey is the stage's, nil if it signs nothing. Only the run's secrets are
// looked at: a key in the pipeline file would be no secret.
func signingKey(attempt pipeline.Attempt) (*sign.Key, error) {
	spec := attempt.Stage.Build.Sign
	if spec == nil {
		return nil, nil
	}
	pem, ok := attempt.Env[spec.Key]
	if !ok {
		return nil, fmt.Errorf("there is no secret %s: give it to the repository in the server's settings", spec.Key)
	}
	var password []byte
	if spec.Password != "" {
		value, ok := attempt.Env[spec.Password]
		if !ok {
			return nil, fmt.Errorf("there is no secret %s: give it to the repository in the server's settings", spec.Password)
		}
		password = []byte(value)
	}
	return sign.LoadKey([]byte(pem), password)
}
