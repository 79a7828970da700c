// Package plan turns a Dockerfile into a graph of layer recipes and image
// configurations. It is pure: files are never read and nothing is run; the only
// outside knowledge is the configuration of base images, asked for through
// Images.
package plan

import (
	"context"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what a base image's configuration says.
type Image struct {
	// Digest identifies the manifest the configuration came from.
	Digest string
	Config dockerspec.DockerOCIImage
}

// Images gives the configuration of images a Dockerfile names.
type Images interface {
	Config(ctx context.Context, reference Reference) (Image, error)
}

// Options say what to plan.
type Options struct {
	// Args are the values of --build-arg.
	Args map[string]string
	// Target is a stage's name or index; empty means the last stage.
	Target string
	// Platform is what the image is for, BuildPlatform where the build runs.
	Platform, BuildPlatform ocispec.Platform
	Images                  Images
	// Contexts are the named contexts (--build-context) by their normalized
	// name: they stand for stages and images of that name.
	Contexts map[string]NamedContext
	// Ignored tells whether the ignore file leaves a source of COPY out of the
	// build context; nil means that nothing is. Only checks ask for it.
	Ignored func(source string) bool
}

// Plan is what has to be done to build the target. Stages the target does not
// need are not in it.
type Plan struct {
	// Stages are in the order of the file. Every stage comes after those it needs.
	Stages []*Stage
	// Target is the stage whose image is the result.
	Target *Stage
	// Warnings are findings that do not stop a build.
	Warnings []Warning
	// Syntax is the value of `# syntax=`; it is reported, never executed.
	Syntax string
}

// Warning is a build check's finding.
type Warning struct {
	Pos Position
	// Rule names the check; empty for a warning that is none's.
	Rule    string
	Message string
	// Description says what the rule wants in general, URL where more stands.
	Description string
	URL         string
}

// SourceKind says where files come from.
type SourceKind string

// The kinds of Source. FromNothing is an empty tree.
const (
	FromContext SourceKind = "context"
	FromStage   SourceKind = "stage"
	FromImage   SourceKind = "image"
	FromNothing SourceKind = "nothing"
)

// Source names a tree of files.
type Source struct {
	Kind SourceKind
	// Stage is set for FromStage.
	Stage *Stage
	// Reference and Platform are set for FromImage.
	Reference string
	Platform  ocispec.Platform
	// Context is the named context that is meant; empty for the build context
	// and for images that are none of a context's.
	Context string
}

// ImageReference is what a FromImage source names.
func (s Source) ImageReference() Reference {
	return Reference{Name: s.Reference, Platform: s.Platform, Context: s.Context}
}

// Stage is one FROM and what follows it.
type Stage struct {
	// Index counts the stages of the file from 0.
	Index int
	// Name is the one given with AS, empty if none.
	Name     string
	Base     Source
	Platform ocispec.Platform
	Pos      Position
	Steps    []Step
	// Config is the image's configuration after the last step, without its
	// root filesystem and creation time. The history of the base is included;
	// every history entry without EmptyLayer stands for one layer of the base or
	// one step with a recipe (which gives no layer if it changes nothing).
	Config dockerspec.DockerOCIImage
}

// Label names the stage for people.
func (s *Stage) Label() string {
	if s.Name != "" {
		return s.Name
	}
	return "stage-" + itoa(s.Index)
}

// Step is an instruction that makes a layer. Exactly one of Copy, Run and
// Directory is set.
type Step struct {
	Pos Position
	// Text is the instruction as written, heredocs cut off, for progress.
	Text string
	// Number counts all instructions of the stage from 1, Of is how many there are.
	Number, Of int
	// History is the index in Stage.Config.History of the entry for this step.
	History int

	Copy      *Copy
	Run       *Run
	Directory *Directory
}

// Copy is a COPY or ADD of local files.
type Copy struct {
	From    Source
	Sources []string
	// Inline are files whose content stands in the Dockerfile.
	Inline []InlineFile
	// Dest is absolute and clean. DestIsDirectory is set when it was written
	// with a trailing slash or there are several sources.
	Dest            string
	DestIsDirectory bool
	Chown, Chmod    string
	Exclude         []string
	Parents         bool
	// Unpack makes local archives into trees.
	Unpack bool
	// Remotes are what an ADD takes from elsewhere; they are placed after Sources.
	Remotes []Remote
	// Link places files as if nothing lay below: links of lower layers are not
	// followed, and the layer is the same above anything.
	Link bool
}

// Remote is a file or tree that an ADD fetches.
type Remote struct {
	// Location is an HTTP URL, or a Git location when Git is set.
	Location string
	Git      bool
	// Checksum is the content's digest, or the beginning of the Git commit;
	// empty if any will do.
	Checksum string
	// KeepGitDir keeps .git; nil leaves it to the location.
	KeepGitDir *bool
	// Unpack makes an archive into a tree.
	Unpack bool
}

// InlineFile is a heredoc used as a file.
type InlineFile struct {
	Name string
	Data string
}

// Run is a RUN.
type Run struct {
	Args []string
	// Env is what the command sees, in order of definition, "NAME=value".
	Env []string
	// Unkeyed are further variables that decide nothing about the result: the
	// predefined proxy arguments.
	Unkeyed     []string
	Dir         string
	User        string
	HostNetwork bool
	// Offline is set by --network=none.
	Offline bool
	Mounts  []Mount
	// Script is a heredoc with its own interpreter, to be shown read-only as
	// an executable at ScriptDirectory/Name; nil if there is none.
	Script *InlineFile
}

// ScriptDirectory is where Run.Script is visible while the command runs.
const ScriptDirectory = "/.heredoc"

// MountKind is the type of a RUN --mount.
type MountKind string

// The mount types that are supported.
const (
	MountBind   MountKind = "bind"
	MountCache  MountKind = "cache"
	MountTmpfs  MountKind = "tmpfs"
	MountSecret MountKind = "secret"
	MountSSH    MountKind = "ssh"
)

// Mount is a RUN --mount.
type Mount struct {
	Kind     MountKind
	From     Source
	Source   string // path within From
	Target   string // absolute
	ReadOnly bool
	Size     int64 // of a tmpfs in bytes, 0 means the sandbox's default
	// CacheID and Sharing (shared, private or locked) are for caches.
	CacheID string
	Sharing string
	// SecretID names a secret; SecretEnv is the variable that holds it, empty
	// when only a file was asked for. Target is empty when only a variable was.
	SecretID  string
	SecretEnv string
	Required  bool
	// AgentID names the SSH agent of a MountSSH.
	AgentID  string
	Mode     *uint64
	UID, GID uint64
}

// Directory is the directory a WORKDIR makes when it does not exist.
type Directory struct {
	Path string
	// User owns the directories made.
	User string
}
