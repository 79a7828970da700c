// Package image builds container images from Dockerfiles without a daemon. A
// build has two passes: plan (package plan) turns the Dockerfile into layer
// recipes, and execute makes the layers that no cache has. Layers of COPY, ADD
// and WORKDIR are written without a root filesystem; one is mounted only for RUN.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidegate-ci/tidegate/stages/image/cache"
	"github.com/tidegate-ci/tidegate/stages/image/emulation"
	"github.com/tidegate-ci/tidegate/stages/image/ignore"
	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/policy"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/sign"
	"github.com/tidegate-ci/tidegate/stages/image/store"
	"github.com/tidegate-ci/tidegate/stages/sandbox"
	"github.com/tidegate-ci/tidegate/stages/sandbox/oci"
	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

// Runner runs the commands of RUN in a root filesystem. *oci.Runtime is one.
type Runner interface {
	Run(ctx context.Context, root string, command sandbox.Command, limits oci.Limits) error
}

// Builder builds images. It is safe for concurrent use.
type Builder struct {
	// Store keeps layers between builds.
	Store *store.Store
	// Registry is where base images come from and results go.
	Registry *registry.Client
	// Rootfs opens the store of unpacked layers and Runner finds what runs
	// commands in them. Both are called only when a build needs a root
	// filesystem, and must give the same every time.
	Rootfs func() (*rootfs.Store, error)
	Runner func(ctx context.Context) (Runner, error)
	// Machine tells which platforms' commands run here; nil means
	// emulation.ThisMachine. It is asked only for builds with a RUN.
	Machine func() (emulation.Machine, error)
	// Policy says which images builds may use; nil allows all. A request can
	// add its own, and take nothing back.
	Policy *policy.Policy
	// Limits bound each RUN.
	Limits oci.Limits
	// Parallel is how many RUN commands may run at once in one build; 0 means
	// DefaultParallel.
	Parallel int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// DefaultParallel bounds RUN commands at once: stages often wait for a network
// or a disk more than for a processor.
func DefaultParallel() int { return max(4, runtime.GOMAXPROCS(0)) }

// Request is one build.
type Request struct {
	// Context is where files are copied from: a directory, a Git repository
	// (see remote.ParseGit), the URL of an archive or a Dockerfile, or
	// StandardInput for what Input gives.
	Context string
	Input   io.Reader
	// Contexts are further contexts by name, as --build-context gives them: what
	// Context can be, or docker-image://REF, or oci-layout://DIR[:TAG|@DIGEST].
	Contexts map[string]string
	// SSH are agents by id, for RUN --mount=type=ssh; "default" also for Git.
	SSH Agents
	// Dockerfile is the file's path, as it is on this machine, or in the context
	// when that is not a directory here; empty means Dockerfile in the context. DockerfileData, when not nil, is its content instead.
	Dockerfile     string
	DockerfileData []byte
	Target         string
	Args           map[string]string
	// Platforms are what the image is for, an index of several; none means this machine's.
	Platforms []ocispec.Platform
	// Secrets give the content of secrets by id, for --mount=type=secret.
	Secrets map[string][]byte
	// Labels are set on top of the Dockerfile's.
	Labels      map[string]string
	Annotations Annotations
	// Tags are the names to push to; with Push unset they are only recorded.
	Tags []string
	Push bool
	// ByDigest pushes without tags.
	ByDigest bool
	// Outputs are where else the result goes. OutputStream is the standard
	// output, for those that go there.
	Outputs      []Output
	OutputStream io.Writer
	// NoCache makes every step anew, NoCacheStages those of some stages (by name
	// or index).
	NoCache       bool
	NoCacheStages []string
	// Codec compresses layers; empty means gzip.
	Codec layer.Codec
	// ForceCodec compresses the layers of base images anew with Codec.
	ForceCodec bool
	// Epoch is the time of every file and of the image, for reproducible
	// results; the zero value means 1970, as far as files go back.
	Epoch time.Time
	// Scope separates caches: builds with different scopes never use each
	// other's steps or cache mounts.
	Scope string
	// ReadScopes are scopes whose steps may be used too, except those that saw
	// secrets. Nothing is ever kept under them.
	ReadScopes []string
	// CacheFrom are caches of other machines to read, CacheTo those to write.
	CacheFrom, CacheTo []cache.Spec
	// Setup is what the containers of RUN are like.
	Setup sandbox.Setup
	// MemoryBytes bounds each RUN further than the builder's limits; 0 does not.
	MemoryBytes int64
	// Debug, if not nil, is called when a RUN failed, while its filesystem is still
	// there; the build fails with the RUN's error after it.
	Debug func(ctx context.Context, step FailedStep)
	// HostNetwork lets a RUN that does not say otherwise use the host's network.
	HostNetwork bool
	// Isolated refuses the host's network to every RUN, and private networks and
	// credentials to what the Dockerfile names: whose code it is may not
	// reach what listens on this machine.
	Isolated bool
	// Attest says what the result's index tells of its images.
	Attest Attest
	// Sign signs what is pushed; nil means that nothing is signed.
	Sign *sign.Key
	// Policy is what the images have to satisfy beside the builder's.
	Policy *policy.Policy
	// Progress is told what happens; nil is fine.
	Progress progress.Sink
	// OutputLines, if not nil, gets what RUN commands print, whole.
	Stdout, Stderr io.Writer
}

// Stats count what a build did.
type Stats struct {
	// Cached and Made are steps with a layer.
	Cached, Made int
	// BlobsUploaded, BlobsMounted and BlobsPresent are of the push.
	BlobsUploaded, BlobsMounted, BlobsPresent int64
	BytesUploaded                             int64
}

func (b *Builder) now() time.Time {
	if b.Now != nil {
		return b.Now()
	}
	return time.Now()
}

func (request Request) withDefaults() (Request, error) {
	if len(request.Platforms) == 0 {
		request.Platforms = []ocispec.Platform{HostPlatform()}
	}
	if err := request.prepare(); err != nil {
		return request, err
	}
	if request.Codec == "" {
		request.Codec = layer.Gzip
	}
	if request.Progress == nil {
		request.Progress = func(progress.Event) {}
	}
	if request.Epoch.IsZero() {
		request.Epoch = time.Unix(0, 0)
	}
	request.Epoch = request.Epoch.UTC().Truncate(time.Second)
	return request, nil
}

// Build builds an image and pushes it if asked to.
func (b *Builder) Build(ctx context.Context, request Request) (result *Result, err error) {
	if request, err = request.withDefaults(); err != nil {
		return nil, err
	}
	if request.Isolated {
		wary := *b
		wary.Registry = b.Registry.ForStrangers()
		b = &wary
	}
	request.Progress(progress.Event{Time: b.now(), Kind: progress.Begin, Version: progress.Version})
	// Before any work: a name that is wrong stays wrong.
	if _, err := destinations(b.Registry, request.Tags); err != nil {
		return nil, err
	}
	session, err := b.Store.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, session.End()) }()
	files, err := openContext(ctx, request, session.Dir())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	document, err := plan.Parse(files.dockerfileName, files.dockerfile)
	if err != nil {
		return nil, invalid(err)
	}

	return b.buildWithCaches(ctx, func(gone goneLayers) (_ *Result, err error) {
		e := newExecution(b, request, files, document, session)
		e.imported.gone = gone
		defer func() { err = errors.Join(err, e.tidying.Wait()) }()
		images, warnings, err := e.build(ctx)
		if err != nil {
			return nil, err
		}
		attached, err := e.attest(ctx, images)
		if err != nil {
			return nil, err
		}
		result, err := join(images, attached, request.Annotations)
		if err != nil {
			return nil, err
		}
		result.Stats, result.Warnings, result.unpacked = e.told(), warnings, e.unpacked
		if request.Push {
			if err := e.push(ctx, result); err != nil {
				return nil, err
			}
			if err := e.sign(ctx, result); err != nil {
				return nil, err
			}
		}
		if err := e.export(ctx, result); err != nil {
			return nil, err
		}
		return result, e.writeCaches(ctx, result)
	})
}

// buildContext is what a build reads from outside.
type buildContext struct {
	*sourceTree
	contexts *contextSet
	// named are the further contexts as a plan needs them.
	named          map[string]plan.NamedContext
	dockerfile     []byte
	dockerfileName string
}

func (c *buildContext) Close() error { return errors.Join(c.sourceTree.Close(), c.contexts.Close()) }

// DefaultDockerfile is read when a request names none.
const DefaultDockerfile = "Dockerfile"

func openContext(ctx context.Context, request Request, scratch string) (*buildContext, error) {
	c := &buildContext{contexts: newContextSet(request, scratch)}
	var err error
	var dockerfile []byte
	if c.named, err = c.contexts.planned(); err != nil {
		return nil, errors.Join(invalid(err), c.contexts.Close())
	}
	if c.sourceTree, dockerfile, err = c.contexts.open(ctx, request.Context); err != nil {
		return nil, errors.Join(classify(invalid(fmt.Errorf("build context: %w", err))), c.contexts.Close())
	}
	c.selector.Where = "the build context"
	if dockerfile != nil && request.DockerfileData == nil {
		request.Dockerfile, request.DockerfileData = DefaultDockerfile, dockerfile
	}
	if c.passing {
		err = c.readInside(request)
	} else {
		err = c.readDockerfile(request, c.selector.Tree.Dir)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// readInside reads the Dockerfile and ignore file of a context that is not a
// directory of this machine.
func (c *buildContext) readInside(request Request) error {
	c.dockerfileName, c.dockerfile = request.Dockerfile, request.DockerfileData
	if c.dockerfileName == "" {
		c.dockerfileName = DefaultDockerfile
	}
	if c.dockerfile == nil {
		file, err := treeReader(c.selector.Tree, new(bool))(c.dockerfileName)
		if err != nil {
			return invalid(fmt.Errorf("there is no Dockerfile %s in the build context: %w", c.dockerfileName, err))
		}
		c.dockerfile, err = io.ReadAll(io.LimitReader(file, plan.MaxDockerfile+1))
		if err = errors.Join(err, file.Close()); err != nil {
			return invalid(fmt.Errorf("read %s of the build context: %w", c.dockerfileName, err))
		}
	}
	var err error
	if c.selector.Ignore, err = ignore.Open(c.dockerfileName, treeReader(c.selector.Tree, &c.ignoring)); err != nil {
		return invalid(err)
	}
	return nil
}

func (c *buildContext) readDockerfile(request Request, dir string) error {
	name := request.Dockerfile
	if name == "" {
		name = filepath.Join(dir, DefaultDockerfile)
	}
	c.dockerfileName = displayName(name)
	c.dockerfile = request.DockerfileData
	if c.dockerfile == nil {
		data, err := readDockerfile(name)
		if err != nil {
			return invalid(err)
		}
		c.dockerfile = data
	}
	var err error
	if c.selector.Ignore, c.ignoring, err = openIgnore(c.selector.Tree, dir, name); err != nil {
		return invalid(err)
	}
	return nil
}

// displayName is how messages call a file: relative where that is shorter.
func displayName(name string) string {
	if wd, err := os.Getwd(); err == nil {
		if relative, err := filepath.Rel(wd, name); err == nil && len(relative) < len(name) {
			return relative
		}
	}
	return name
}

func readDockerfile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no Dockerfile at %s: name it with -f, or give the directory that has it as the context", displayName(name))
	}
	if err != nil {
		return nil, fmt.Errorf("read Dockerfile: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, plan.MaxDockerfile+1))
	if err != nil {
		return nil, fmt.Errorf("read Dockerfile %s: %w", name, err)
	}
	return data, nil
}
