package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh/agent"

	"github.com/tidegate-ci/tidegate/stages/image/ignore"
	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/remote"
)

// StandardInput as a request's Context means what Input gives.
const StandardInput = "-"

// The prefixes of named contexts that are images.
const (
	imagePrefix  = "docker-image://"
	layoutPrefix = "oci-layout://"
)

// sourceTree is a tree of files that a build copies from: the build context or
// a named one.
type sourceTree struct {
	selector layer.Selector
	// ignoring is set when an ignore file leaves something out.
	ignoring bool
	// passing is set for a tree that is gone after the build: nothing of it is
	// remembered.
	passing bool
	known   knownFiles
}

func (t *sourceTree) Close() error { return t.selector.Tree.Close() }

// contextSet opens the contexts of a build.
type contextSet struct {
	request Request
	remote  *remote.Client
	// scratch is a directory for what is fetched. It outlives the set.
	scratch string

	mu    sync.Mutex
	trees map[string]*sourceTree
	// layouts are the OCI layouts opened.
	layouts []*registry.Layout
}

func newContextSet(request Request, scratch string) *contextSet {
	options := remote.Options{
		Secret: func(id string) ([]byte, bool) { value, ok := request.Secrets[id]; return value, ok },
	}
	if request.Isolated {
		options.Allow = remote.Public
	} else if ssh, ok := request.SSH[defaultAgent]; ok {
		options.Agent = ssh
	}
	return &contextSet{request: request, scratch: scratch, remote: remote.New(options), trees: map[string]*sourceTree{}}
}

// defaultAgent is the SSH agent that Git over SSH uses.
const defaultAgent = "default"

// Agents are SSH agents by id.
type Agents map[string]agent.Agent

func (s *contextSet) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remote.Close()
	var all error
	for _, tree := range s.trees {
		all = errors.Join(all, tree.Close())
	}
	for _, layout := range s.layouts {
		all = errors.Join(all, layout.Close())
	}
	return all
}

// opened are the named trees that the build has used.
func (s *contextSet) opened() []*sourceTree {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.trees))
}

// layout opens the OCI layout behind a named context.
func (s *contextSet) layout(name string) (*registry.Layout, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	layout, which, err := registry.OpenLayout(strings.TrimPrefix(s.location(name), layoutPrefix))
	if err != nil {
		return nil, "", fmt.Errorf("build context %s: %w", name, err)
	}
	s.layouts = append(s.layouts, layout)
	return layout, which, nil
}

// planned are the named contexts as a plan needs them.
func (s *contextSet) planned() (map[string]plan.NamedContext, error) {
	all := map[string]plan.NamedContext{}
	for name, text := range s.request.Contexts {
		normal, err := plan.ContextName(name)
		if err != nil {
			return nil, fmt.Errorf("build context %q: not a usable name: %w", name, err)
		}
		var named plan.NamedContext
		if image, ok := strings.CutPrefix(text, imagePrefix); ok {
			if image == "" {
				return nil, fmt.Errorf("build context %s=%s: the image's name is missing", name, text)
			}
			named.Image = image
		}
		named.Layout = strings.HasPrefix(text, layoutPrefix)
		if s.request.Isolated && named.Layout {
			return nil, fmt.Errorf("build context %s=%s: layouts of this machine are refused to code from a fork", name, remote.Redacted(text))
		}
		all[normal] = named
	}
	return all, nil
}

// location is what a named context was given as.
func (s *contextSet) location(name string) string {
	for given, text := range s.request.Contexts {
		if normal, err := plan.ContextName(given); err == nil && normal == name {
			return text
		}
	}
	return ""
}

// tree opens a named context that is a tree of files.
func (s *contextSet) tree(ctx context.Context, name string) (*sourceTree, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if tree := s.trees[name]; tree != nil {
		return tree, nil
	}
	tree, dockerfile, err := s.open(ctx, s.location(name))
	if err == nil && dockerfile != nil {
		err = errors.Join(errors.New("what the URL gives is no archive"), tree.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("build context %s: %w", name, err)
	}
	tree.selector.Where = "the build context " + name
	matcher, err := ignore.Open("", treeReader(tree.selector.Tree, &tree.ignoring))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("build context %s: %w", name, err), tree.Close())
	}
	tree.selector.Ignore = matcher
	s.trees[name] = tree
	return tree, nil
}

// open opens a context: a directory, a Git repository, or what a URL or standard
// input gives. When that is no archive it is a Dockerfile, for an empty context.
func (s *contextSet) open(ctx context.Context, location string) (*sourceTree, []byte, error) {
	if location == StandardInput {
		return s.stream(ctx, s.request.Input)
	}
	g, isGit, err := remote.ParseGit(location)
	if isGit && err != nil {
		return nil, nil, err
	}
	if strings.HasPrefix(location, "github.com/") {
		if _, err := os.Stat(location); err != nil {
			// A short form that is a path as well; the path would win.
			if g, isGit, err = remote.ParseGit(githubURL(location)); err != nil {
				return nil, nil, err
			}
		}
	}
	switch {
	case isGit:
		tree, err := s.git(ctx, g)
		return tree, nil, err
	case remote.IsHTTP(location):
		return s.download(ctx, location)
	}
	tree, err := openDirectory(location)
	return tree, nil, err
}

func githubURL(location string) string {
	path, rest, _ := strings.Cut(location, "#")
	path = "https://" + strings.TrimSuffix(path, "/")
	if !strings.HasSuffix(path, ".git") {
		path += ".git"
	}
	if rest != "" {
		path += "#" + rest
	}
	return path
}

func (s *contextSet) passing(prefix string) (string, error) {
	dir, err := os.MkdirTemp(s.scratch, prefix)
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

func openPassing(dir string) (*sourceTree, error) {
	tree, err := layer.OpenTree(dir, false)
	if err != nil {
		return nil, err
	}
	return &sourceTree{selector: layer.Selector{Tree: tree}, passing: true}, nil
}

func (s *contextSet) git(ctx context.Context, g *remote.Git) (*sourceTree, error) {
	if s.request.Args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"] != "" && g.KeepGitDir == nil {
		keep := s.request.Args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"] == "1" || strings.EqualFold(s.request.Args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"], "true")
		g.KeepGitDir = &keep
	}
	commit, err := s.remote.Resolve(ctx, g)
	if err != nil {
		return nil, err
	}
	dir, err := s.passing("git-")
	if err != nil {
		return nil, err
	}
	if err := s.remote.Checkout(ctx, g, commit, dir, s.scratch); err != nil {
		return nil, err
	}
	return openPassing(dir)
}

func (s *contextSet) download(ctx context.Context, location string) (*sourceTree, []byte, error) {
	file, err := os.CreateTemp(s.scratch, "context-")
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		_ = file.Close() // only read from since it was written
		_ = os.Remove(file.Name())
	}()
	if _, err := s.remote.Get(ctx, location, remote.Validators{}, file); err != nil {
		return nil, nil, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, nil, err
	}
	return s.stream(ctx, file)
}

// headSize is how much of a stream tells what it is, in bytes.
const headSize = 1 << 10

func (s *contextSet) stream(ctx context.Context, from io.Reader) (*sourceTree, []byte, error) {
	if from == nil {
		from = http.NoBody
	}
	buffered := bufio.NewReaderSize(from, headSize)
	head, _ := buffered.Peek(headSize) // a short stream is all there
	dir, err := s.passing("context-")
	if err != nil {
		return nil, nil, err
	}
	var dockerfile []byte
	if layer.IsPacked(head) {
		err = layer.Unpack(ctx, buffered, dir)
	} else {
		dockerfile, err = io.ReadAll(io.LimitReader(buffered, plan.MaxDockerfile+1))
		if err == nil && len(bytes.TrimSpace(dockerfile)) == 0 {
			err = errors.New("it is empty: want a tar archive or a Dockerfile")
		}
	}
	if err != nil {
		return nil, nil, err
	}
	tree, err := openPassing(dir)
	return tree, dockerfile, err
}

// openDirectory opens a directory of this machine. It stays the same directory
// even if a link on the way is changed.
func openDirectory(dir string) (*sourceTree, error) {
	if dir == "" {
		dir = "."
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", dir)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	tree, err := layer.OpenTree(dir, false)
	if err != nil {
		return nil, err
	}
	return &sourceTree{selector: layer.Selector{Tree: tree}}, nil
}

// treeReader opens ignore files of a tree, and notes that there is one.
func treeReader(tree *layer.Tree, opened *bool) func(name string) (io.ReadCloser, error) {
	return func(name string) (io.ReadCloser, error) {
		resolved, err := tree.Resolve(name)
		if err != nil {
			return nil, err
		}
		file, err := tree.Open(resolved)
		if err == nil {
			*opened = true
		}
		return file, err
	}
}
