package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	securejoin "github.com/cyphar/filepath-securejoin"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/stages/image/buildkit"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// Kind is the stage kind `build`.
type Kind struct {
	Builder *Builder
	// Scripts runs the commands that build in Tidegate's place: the stage kind
	// `run`. Nil refuses them.
	Scripts pipeline.Kind
	// BuildKit hands builds to a buildkitd.
	BuildKit buildkit.Client
	// BuilderID names the builder in provenance; empty means attest.BuilderID.
	BuilderID string
}

var _ pipeline.Kind = (*Kind)(nil)

// Takeover says that an attempt goes on: what it had made is found by content.
func (k *Kind) Takeover() pipeline.Takeover { return pipeline.TakeoverContinue }

// Run builds the stage's image and pushes it.
func (k *Kind) Run(ctx context.Context, attempt pipeline.Attempt) (pipeline.Outputs, error) {
	if spec := attempt.Stage.Build; spec != nil && spec.With != nil {
		return k.alternative(ctx, attempt)
	}
	request, err := requestOf(attempt)
	if err != nil {
		return nil, err
	}
	request.Attest.BuilderID = k.BuilderID
	lines := progress.Plain(attempt.Stdout)
	defer lines.Close()
	request.Progress = func(e progress.Event) {
		lines.Event(e)
		if e.Kind == progress.Start {
			attempt.Progress(progress.Line(e))
		}
	}
	result, err := k.Builder.Build(ctx, request)
	if err != nil {
		return nil, err
	}
	outputs := pipeline.Outputs{
		pipeline.OutputName:   repositoryOf(attempt.Stage.Build.Push),
		pipeline.OutputDigest: result.Digest.String(),
	}
	if request.Push {
		outputs[pipeline.OutputImage] = result.Pushed[0]
	} else {
		attempt.Progress("built and not pushed: images of forks stay out of the registry")
	}
	return outputs, nil
}

// repositoryOf is an image's name as written, without tag.
func repositoryOf(name string) string {
	if !registry.HasTag(name) {
		return name
	}
	name, _, _ = strings.Cut(name, "@")
	slash := strings.LastIndex(name, "/")
	if colon := strings.LastIndex(name, ":"); colon > slash {
		return name[:colon]
	}
	return name
}

func requestOf(attempt pipeline.Attempt) (Request, error) {
	spec := attempt.Stage.Build
	fail := func(format string, args ...any) (Request, error) {
		return Request{}, pipeline.Fail(pipeline.CauseInvalid, "%s: stage %s: %w", attempt.Stage.Pos, attempt.Stage.ID, fmt.Errorf(format, args...))
	}
	if spec == nil {
		return fail("it has no build section")
	}
	if spec.Push == "" {
		return fail("build.push is empty: say which repository the image goes to")
	}
	// A fork could push over an image that trusted runs build on.
	trusted := attempt.Event.Trust == event.Own
	r := Request{
		Target: spec.Target, Args: spec.Args, NoCache: spec.NoCache, Push: trusted, Isolated: !trusted, Tags: pushNames(spec, attempt.Event), Labels: spec.Labels,
		Scope: scopeOf(attempt.Event), Secrets: map[string][]byte{},
	}
	setCaches(&r, spec.Cache, attempt.Event)
	var err error
	if r.Platforms, err = plan.ParsePlatforms(spec.Platforms); err != nil {
		return fail("build.platforms: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(spec.Annotations)) {
		annotations, err := ParseAnnotation(key + "=" + spec.Annotations[key])
		if err != nil {
			return fail("build.annotations: %w", err)
		}
		r.Annotations = append(r.Annotations, annotations...)
	}
	if r.Context, err = below(attempt.Workspace, attempt.Workspace, spec.Context); err != nil {
		return fail("build.context: %w", err)
	}
	if r.Dockerfile, err = dockerfileOf(attempt.Workspace, r.Context, spec.Dockerfile); err != nil {
		return fail("build.dockerfile: %w", err)
	}
	// A secret is there for a RUN that asks for it, by its name. A run of a fork
	// has none.
	for name, value := range attempt.Env {
		r.Secrets[name] = []byte(value)
	}
	for name, value := range attempt.Stage.Env {
		r.Secrets[name] = []byte(value)
	}
	if err := named(&r, attempt, trusted); err != nil {
		return fail("%w", err)
	}
	if text := attempt.Stage.Env["SOURCE_DATE_EPOCH"]; text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds < 0 {
			return fail("SOURCE_DATE_EPOCH=%q: want seconds since 1970", text)
		}
		r.Epoch = time.Unix(seconds, 0)
	}
	if err := supply(attempt, &r); err != nil {
		return fail("%w", err)
	}
	return r, nil
}

// named adds the stage's contexts, secrets and keys.
func named(r *Request, attempt pipeline.Attempt, trusted bool) error {
	spec := attempt.Stage.Build
	r.Contexts, r.SSH = map[string]string{}, Agents{}
	for name, text := range spec.Contexts {
		if !strings.Contains(text, "://") && !strings.HasPrefix(text, "git@") {
			dir, err := below(attempt.Workspace, attempt.Workspace, text)
			if err != nil {
				return fmt.Errorf("build.contexts.%s: %w", name, err)
			}
			text = dir
		}
		if strings.HasPrefix(text, layoutPrefix) {
			return fmt.Errorf("build.contexts.%s: layouts of the server are refused", name)
		}
		r.Contexts[name] = text
	}
	for id, variable := range spec.Secrets {
		value, ok := r.Secrets[variable]
		if !ok && trusted {
			return fmt.Errorf("build.secrets.%s: the stage has no variable %s", id, variable)
		}
		if ok {
			r.Secrets[id] = value
		}
	}
	for id, variable := range spec.SSH {
		if !trusted {
			continue // a fork signs with nobody's key
		}
		value, ok := r.Secrets[variable]
		if !ok {
			return fmt.Errorf("build.ssh.%s: the stage has no variable %s", id, variable)
		}
		keys, err := KeyAgent(value)
		if err != nil {
			return fmt.Errorf("build.ssh.%s: %s: %w", id, variable, err)
		}
		r.SSH[id] = keys
	}
	return nil
}

// below joins a path of the pipeline file to a directory of the checkout. Links
// that lead out of the checkout lead to nothing.
func below(workspace, dir, name string) (string, error) {
	if filepath.IsAbs(name) {
		return "", fmt.Errorf("%q is absolute: it must be relative to the checkout", name)
	}
	relative, err := filepath.Rel(workspace, filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	if relative == ".." || strings.HasPrefix(relative, ".."+string(filepath.Separator)) {
		return "", fmt.Errorf("%q leads out of the checkout", name)
	}
	return securejoin.SecureJoin(workspace, relative)
}

// dockerfileOf finds the Dockerfile a stage names: in the context, or else from
// the root of the checkout.
func dockerfileOf(workspace, dir, name string) (string, error) {
	if name == "" {
		name = DefaultDockerfile
		return below(workspace, dir, name)
	}
	inContext, err := below(workspace, dir, name)
	if err == nil {
		if _, err := os.Stat(inContext); err == nil {
			return inContext, nil
		}
	}
	inCheckout, rootErr := below(workspace, workspace, name)
	if rootErr != nil {
		return "", errors.Join(err, rootErr)
	}
	if _, statErr := os.Stat(inCheckout); statErr != nil && err == nil {
		return inContext, nil // its absence is told with the likelier path
	}
	return inCheckout, nil
}

// shortCommit is how much of a commit's hash makes a tag.
const shortCommit = 12

// pushNames are the names an image goes to: the repository with each tag that
// the stage names, or else with the commit's, so that the image can be found, or
// without one when the commit is not known.
func pushNames(spec *pipeline.BuildSpec, e event.Event) []string {
	var names []string
	if registry.HasTag(spec.Push) {
		names = append(names, spec.Push)
	}
	for _, tag := range spec.Tags {
		if name := repositoryOf(spec.Push) + ":" + tag; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	switch {
	case len(names) > 0:
		return names
	case len(e.Commit) < shortCommit:
		return []string{spec.Push}
	}
	return []string{spec.Push + ":" + e.Commit[:shortCommit]}
}

// ownScope is that of a repository's trusted builds.
func ownScope(e event.Event) string { return "own " + e.Forge + " " + e.Repository.FullName }

// scopeOf separates caches: those of forks never feed others, those of
// repositories not each other.
func scopeOf(e event.Event) string {
	if e.Trust == event.Own {
		return ownScope(e)
	}
	number := "none"
	if e.PullRequest != nil {
		number = strconv.Itoa(e.PullRequest.Number)
	}
	return forkScope + e.Forge + " " + e.Repository.FullName + " " + number
}
