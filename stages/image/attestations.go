package image

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

// Attest says what the result's index tells of its images. The zero value means
// nothing: then one image has no index.
type Attest struct {
	// Provenance is how much SLSA provenance tells; empty means that there is none.
	Provenance attest.Mode
	// SBOM attaches an SPDX list of the packages.
	SBOM bool
	// BuilderID is a URI; empty means attest.BuilderID.
	BuilderID string
	// InvocationID and Timestamps make the digest of every build another.
	InvocationID string
	Timestamps   bool
	// VCS is the commit that the local context is of, if that is known.
	VCS attest.VCS
}

// attest makes the attestation manifests of the images, in their order.
func (e *execution) attest(ctx context.Context, images []*Image) ([]Manifest, error) {
	var attached []Manifest
	for _, image := range images {
		statements, err := e.statements(ctx, image)
		if err != nil {
			return nil, err
		}
		if len(statements) == 0 {
			continue
		}
		made, err := attest.NewManifest(image.Digest, statements)
		if err != nil {
			return nil, err
		}
		m := Manifest{Descriptor: made.Descriptor, Raw: made.Raw}
		for _, blob := range made.Blobs {
			m.Blobs = append(m.Blobs, BytesBlob(blob.Data, blob.Descriptor.MediaType))
		}
		image.statements = statements
		attached = append(attached, m)
	}
	return attached, nil
}

func (e *execution) statements(ctx context.Context, image *Image) ([]attest.Statement, error) {
	wanted := e.request.Attest
	var statements []attest.Statement
	if wanted.SBOM {
		s, err := e.sbom(ctx, image)
		if err != nil {
			return nil, classify(err)
		}
		statements = append(statements, s)
	}
	if wanted.Provenance != "" {
		p, err := e.provenance(image)
		if err != nil {
			return nil, err
		}
		names, err := e.subjects(image.Platform)
		if err != nil {
			return nil, err
		}
		s, err := attest.NewStatement(names, image.Digest, attest.PredicateProvenance, p)
		if err != nil {
			return nil, err
		}
		statements = append(statements, s)
	}
	return statements, nil
}

// subjects are the image's names as package URLs.
func (e *execution) subjects(platform ocispec.Platform) ([]string, error) {
	var names []string
	for _, tag := range e.request.Tags {
		ref, err := e.Registry.Destination(tag)
		if err != nil {
			return nil, invalid(err)
		}
		names = append(names, attest.ImageURL(ref, platform))
	}
	return names, nil
}

func (e *execution) provenance(image *Image) (attest.Provenance, error) {
	wanted := e.request.Attest
	b := attest.Build{
		Mode: wanted.Provenance, BuilderID: wanted.BuilderID, InvocationID: wanted.InvocationID, VCS: wanted.VCS,
		Path: e.dockerfilePath(), Source: e.files.dockerfile, Target: e.request.Target,
		Args: e.withoutSecrets(e.request.Args), Labels: e.withoutSecrets(e.request.Labels), Platform: HostPlatform(),
	}
	if wanted.Timestamps {
		b.Started, b.Finished = e.started, e.now()
	}
	used := usedBy(image.target)
	b.SecretIDs, b.SSHIDs, b.Locals = used.secrets, used.agents, append(used.contexts, "dockerfile")
	if e.files.passing && e.request.Context != StandardInput {
		// Without a digest: it is named, and does not count as known.
		b.Path = filepath.ToSlash(filepath.Clean(e.dockerfilePath()))
		b.ContextURI = e.request.Context
	}
	e.mu.Lock()
	b.Materials = append(b.Materials, e.downloads...)
	e.mu.Unlock()
	for _, run := range used.runs {
		b.Network = b.Network || run.HostNetwork || (e.request.HostNetwork && !run.Offline)
	}
	for _, source := range used.images {
		material, err := e.images.material(source)
		if err != nil {
			return attest.Provenance{}, err
		}
		b.Materials = append(b.Materials, material)
	}
	return attest.NewProvenance(b)
}

// withoutSecrets leaves out what holds the value of a secret: someone passed it
// both ways.
func (e *execution) withoutSecrets(values map[string]string) map[string]string {
	kept := map[string]string{}
	for name, value := range values {
		for id, secret := range e.request.Secrets {
			if strings.HasPrefix(id, "TIDEGATE_") || id == "CI" {
				continue // what a stage knows of its event is no secret
			}
			if text := strings.TrimSpace(string(secret)); text != "" && strings.Contains(value, text) {
				value = "***"
			}
		}
		kept[name] = value
	}
	return kept
}

// dockerfilePath is the Dockerfile's name within the context, or its own name:
// nothing of where it lies on this machine.
func (e *execution) dockerfilePath() string {
	name := e.request.Dockerfile
	if name == "" {
		return DefaultDockerfile
	}
	if absolute, err := filepath.Abs(name); err == nil && !e.files.passing {
		if resolved, err := filepath.EvalSymlinks(filepath.Dir(absolute)); err == nil {
			within, err := filepath.Rel(e.files.selector.Tree.Dir, filepath.Join(resolved, filepath.Base(absolute)))
			if err == nil && filepath.IsLocal(within) {
				return filepath.ToSlash(within)
			}
		}
	}
	return filepath.Base(name)
}

// used is what a target and the stages it needs take from outside.
type used struct {
	// contexts are by name; that of the build is "context".
	contexts []string
	images   []plan.Source
	secrets  []string
	agents   []string
	runs     []*plan.Run
}

func usedBy(target *plan.Stage) used {
	var u used
	seen := map[*plan.Stage]bool{}
	var visit func(s *plan.Stage)
	add := func(s plan.Source) {
		switch s.Kind {
		case plan.FromContext:
			u.contexts = append(u.contexts, cmp.Or(s.Context, "context"))
		case plan.FromImage:
			u.images = append(u.images, s)
		case plan.FromStage:
			visit(s.Stage)
		}
	}
	visit = func(s *plan.Stage) {
		if s == nil || seen[s] {
			return
		}
		seen[s] = true
		add(s.Base)
		for i := range s.Steps {
			step := &s.Steps[i]
			if step.Copy != nil && len(step.Copy.Sources) > 0 {
				add(step.Copy.From)
			}
			if step.Run == nil {
				continue
			}
			u.runs = append(u.runs, step.Run)
			for _, m := range step.Run.Mounts {
				switch m.Kind {
				case plan.MountBind:
					add(m.From)
				case plan.MountSecret:
					u.secrets = append(u.secrets, m.SecretID)
				case plan.MountSSH:
					u.agents = append(u.agents, m.AgentID)
				}
			}
		}
	}
	visit(target)
	return u
}

// material is an image as provenance names it: by the name in the Dockerfile and
// the digest that it meant.
func (s *imageSet) material(source plan.Source) (attest.Material, error) {
	found, ok := s.resolved.known(source.ImageReference().Key())
	if !ok {
		return attest.Material{}, fmt.Errorf("image %s was used and never resolved", source.Reference)
	}
	digest := found.Digest
	if found.Index.Hex != "" {
		digest = found.Index
	}
	m := attest.Material{Digest: map[string]string{digest.Algorithm: digest.Hex}}
	if source.Context != "" {
		m.URI = "pkg:oci/" + url.PathEscape(source.Context) // a layout of this machine
		return m, nil
	}
	ref, err := s.execution.Registry.Source(source.Reference)
	if err != nil {
		return attest.Material{}, err
	}
	m.URI = attest.ImageURL(ref, source.Platform)
	return m, nil
}

// downloaded keeps what an ADD took from elsewhere, for provenance.
func (e *execution) downloaded(m attest.Material) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.downloads = append(e.downloads, m)
}

// known gives a value that was computed before.
func (m *onceMap[K, V]) known(key K) (value V, ok bool) {
	m.mu.Lock()
	entry := m.entries[key]
	m.mu.Unlock()
	if entry == nil {
		return value, false
	}
	entry.mu.Lock()
	defer entry.mu.Unlock()
	return entry.value, entry.done
}

// sign signs what was pushed: what its name means, and the statements about it.
func (e *execution) sign(ctx context.Context, result *Result) error {
	key := e.request.Sign
	if key == nil {
		return nil
	}
	for _, repository := range result.repositories {
		image := repository.Digest(result.Digest.String())
		id := "sign " + repository.Name()
		start := e.now()
		e.emit(progress.Event{Kind: progress.Start, Step: id, Text: "sign " + image.String()})
		made, err := sign.Sign(ctx, e.Registry, image, key, nil)
		if err == nil {
			err = e.signStatements(ctx, result, image, key)
		}
		if err != nil {
			e.emit(stepFailed(id, err, e.now().Sub(start)))
			return classify(fmt.Errorf("the image was pushed and is not signed: %w", err))
		}
		text := "with key " + key.Public().ID()
		if !made {
			text = "signed before " + text
		}
		e.emit(progress.Event{Kind: progress.Done, Step: id, Duration: e.now().Sub(start), Text: text})
	}
	return nil
}

// signStatements signs what the index says of its images, as said of the index:
// that is what a name means and what is verified.
func (e *execution) signStatements(ctx context.Context, result *Result, image name.Digest, key *sign.Key) error {
	var all []attest.Statement
	for _, built := range result.Images {
		for _, s := range built.statements {
			about := s
			about.Subject = nil
			for _, subject := range s.Subject {
				subject.Digest = map[string]string{result.Digest.Algorithm: result.Digest.Hex}
				about.Subject = append(about.Subject, subject)
			}
			all = append(all, about)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return sign.Attest(ctx, e.Registry, image, key, all)
}
