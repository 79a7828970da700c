package attest

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Mode is how much provenance tells.
type Mode string

// The modes. Min leaves out what may be confidential: the values and names of
// build arguments and labels, the ids of secrets, the Dockerfile.
const (
	Min Mode = "min"
	Max Mode = "max"
)

// BuildType names the meaning of the build's parameters; the document is in
// this package. The parameters have BuildKit's names and places.
const BuildType = "https://github.com/tidegate-ci/tidegate/blob/main/stages/image/attest/provenance.md"

// BuilderID is who built, unless told otherwise.
const BuilderID = "https://github.com/tidegate-ci/tidegate"

// Build is what provenance tells of. Values of secrets have no place in it.
type Build struct {
	Mode Mode
	// BuilderID is a URI; empty means BuilderID.
	BuilderID string
	// Path and Source are the Dockerfile's: its name within the context, or of
	// the file alone, and content.
	Path   string
	Source []byte
	Target string
	Args   map[string]string
	Labels map[string]string
	// SecretIDs and SSHIDs were asked for.
	SecretIDs, SSHIDs []string
	// Network is set when a command could reach one.
	Network bool
	// Context is where the files came from when that was a URL.
	Context *Material
	// ContextURI is where the files came from when only the place is known.
	ContextURI string
	// Locals are the names of directories of this machine that files came from.
	Locals []string
	// VCS is what the local context says about its Git repository; not proved.
	VCS VCS
	// Materials are all images and downloads.
	Materials []Material
	// Platform is where the build ran.
	Platform ocispec.Platform
	// InvocationID, Started and Finished are left out when zero. They differ
	// from build to build, and with them the digest.
	InvocationID      string
	Started, Finished time.Time
}

// VCS is a commit of a repository.
type VCS struct{ Source, Revision string }

// Material is something that went into a build.
type Material struct {
	URI string
	// Digest is by algorithm, in hexadecimal digits.
	Digest map[string]string
}

// Provenance is a SLSA provenance predicate (https://slsa.dev/spec/v1.1/provenance)
// with the extension fields of BuildKit, by whose names others read it.
type Provenance struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition is what was asked for.
type BuildDefinition struct {
	BuildType            string               `json:"buildType"`
	ExternalParameters   ExternalParameters   `json:"externalParameters"`
	InternalParameters   InternalParameters   `json:"internalParameters"`
	ResolvedDependencies []ResourceDescriptor `json:"resolvedDependencies,omitempty"`
}

// ExternalParameters come from whoever asked.
type ExternalParameters struct {
	ConfigSource ConfigSource `json:"configSource"`
	Request      Parameters   `json:"request"`
}

// ConfigSource is where the Dockerfile is.
type ConfigSource struct {
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
	Path   string            `json:"path,omitempty"`
}

// Parameters are the request.
type Parameters struct {
	Frontend string            `json:"frontend"`
	Args     map[string]string `json:"args,omitempty"`
	Secrets  []ID              `json:"secrets,omitempty"`
	SSH      []ID              `json:"ssh,omitempty"`
	Locals   []Name            `json:"locals,omitempty"`
}

// ID is of a secret or an agent.
type ID struct {
	ID string `json:"id"`
}

// Name is of a directory.
type Name struct {
	Name string `json:"name"`
}

// InternalParameters come from the builder.
type InternalParameters struct {
	BuilderPlatform string `json:"builderPlatform"`
}

// ResourceDescriptor is a material.
type ResourceDescriptor struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest,omitempty"`
}

// RunDetails are about this build.
type RunDetails struct {
	Builder  Builder  `json:"builder"`
	Metadata Metadata `json:"metadata"`
}

// Builder is who built.
type Builder struct {
	ID string `json:"id"`
}

// Metadata is about the run.
type Metadata struct {
	InvocationID string           `json:"invocationId,omitempty"`
	StartedOn    *time.Time       `json:"startedOn,omitempty"`
	FinishedOn   *time.Time       `json:"finishedOn,omitempty"`
	BuildKit     BuildKitMetadata `json:"buildkit_metadata"`
	Hermetic     bool             `json:"buildkit_hermetic,omitempty"`
	Completeness Completeness     `json:"buildkit_completeness"`
}

// BuildKitMetadata is BuildKit's extension.
type BuildKitMetadata struct {
	VCS    map[string]string `json:"vcs,omitempty"`
	Source *Source           `json:"source,omitempty"`
}

// Source is the Dockerfile.
type Source struct {
	Infos []SourceInfo `json:"infos"`
}

// SourceInfo is one file.
type SourceInfo struct {
	Filename string `json:"filename"`
	Language string `json:"language"`
	Data     []byte `json:"data"`
}

// Completeness says whether anything is missing.
type Completeness struct {
	Request              bool `json:"request"`
	ResolvedDependencies bool `json:"resolvedDependencies"`
}

// NewProvenance tells of a build.
func NewProvenance(b Build) (Provenance, error) {
	if b.Mode != Min && b.Mode != Max {
		return Provenance{}, fmt.Errorf("provenance mode %q: want min or max", b.Mode)
	}
	var p Provenance
	definition := &p.BuildDefinition
	definition.BuildType = BuildType
	definition.InternalParameters.BuilderPlatform = platformText(b.Platform)
	definition.ExternalParameters.ConfigSource.Path = b.Path
	definition.ExternalParameters.ConfigSource.URI = withoutCredentials(b.ContextURI)
	materials := slices.Clone(b.Materials)
	if b.Context != nil {
		definition.ExternalParameters.ConfigSource.URI = withoutCredentials(b.Context.URI)
		definition.ExternalParameters.ConfigSource.Digest = b.Context.Digest
		materials = append(materials, *b.Context)
	}
	definition.ResolvedDependencies = descriptors(materials)

	request := &definition.ExternalParameters.Request
	request.Frontend = "dockerfile.v0"
	for _, name := range sorted(b.Locals) {
		request.Locals = append(request.Locals, Name{name})
	}
	args := map[string]string{}
	if b.Target != "" {
		args["target"] = b.Target
	}
	if b.Mode == Max {
		for name, value := range b.Args {
			args["build-arg:"+name] = withoutCredentials(value)
		}
		for name, value := range b.Labels {
			args["label:"+name] = withoutCredentials(value)
		}
		request.Secrets, request.SSH = ids(b.SecretIDs), ids(b.SSHIDs)
	}
	if len(args) > 0 {
		request.Args = args
	}

	p.RunDetails.Builder.ID = cmp.Or(b.BuilderID, BuilderID)
	metadata := &p.RunDetails.Metadata
	metadata.InvocationID = b.InvocationID
	metadata.StartedOn, metadata.FinishedOn = timeOrNone(b.Started), timeOrNone(b.Finished)
	if b.Mode == Max && b.Source != nil {
		metadata.BuildKit.Source = &Source{Infos: []SourceInfo{{Filename: b.Path, Language: "Dockerfile", Data: b.Source}}}
	}
	metadata.BuildKit.VCS = b.VCS.fields()
	metadata.Completeness.Request = b.Mode == Max || len(b.Args)+len(b.Labels)+len(b.SecretIDs)+len(b.SSHIDs) == 0
	metadata.Completeness.ResolvedDependencies = len(b.Locals) == 0 && !b.Network
	metadata.Hermetic = metadata.Completeness.ResolvedDependencies
	return p, nil
}

func (v VCS) fields() map[string]string {
	fields := map[string]string{}
	if v.Source != "" {
		fields["source"] = withoutCredentials(v.Source)
	}
	if v.Revision != "" {
		fields["revision"] = v.Revision
	}
	if len(fields) == 0 {
		return nil
	}
	return fields
}

func descriptors(materials []Material) []ResourceDescriptor {
	var all []ResourceDescriptor
	for _, m := range materials {
		all = append(all, ResourceDescriptor{URI: withoutCredentials(m.URI), Digest: m.Digest})
	}
	order := func(a, b ResourceDescriptor) int {
		return cmp.Or(cmp.Compare(a.URI, b.URI), cmp.Compare(digestText(a.Digest), digestText(b.Digest)))
	}
	slices.SortFunc(all, order)
	return slices.CompactFunc(all, func(a, b ResourceDescriptor) bool { return order(a, b) == 0 })
}

func digestText(digest map[string]string) string {
	var parts []string
	for _, algorithm := range slices.Sorted(maps.Keys(digest)) {
		parts = append(parts, algorithm+":"+digest[algorithm])
	}
	return strings.Join(parts, " ")
}

func ids(names []string) []ID {
	var all []ID
	for _, name := range sorted(names) {
		all = append(all, ID{name})
	}
	return all
}

func sorted(names []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

func timeOrNone(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// withoutCredentials takes user and password out of a URL; other text stays.
func withoutCredentials(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		// What has the form of one but does not parse is not trusted to hold none.
		if scheme, rest, ok := strings.Cut(text, "://"); ok {
			if at := strings.LastIndex(rest, "@"); at >= 0 {
				return scheme + "://" + rest[at+1:]
			}
		}
		return text
	}
	if u.User == nil || u.Host == "" {
		return text
	}
	u.User = nil
	return u.String()
}

func platformText(p ocispec.Platform) string {
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text
}
