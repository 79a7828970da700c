package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/go-git/go-billy/v5/osfs"
)

// The bounds of a checkout, submodules included.
const (
	maxTreeEntries = 2 << 20
	maxTreeBytes   = 16 << 30
	maxTreeDepth   = 512
	maxSubmodules  = 256
	maxNesting     = 10
	maxModulesFile = 1 << 20
	maxLinkTarget  = 4 << 10
)

// gitDir is what a repository keeps itself in.
const gitDir = ".git"

// Checkout writes the files of a commit into the directory dir, which is empty.
// With g.KeepGitDir set the repository is kept there too. Scratch is a
// directory for what is fetched; what is left there can be removed afterwards.
func (c *Client) Checkout(ctx context.Context, g *Git, commit, dir, scratch string) error {
	k := &checkout{client: c, scratch: scratch, left: maxTreeBytes}
	if err := k.repository(ctx, g, commit, dir, 0); err != nil {
		return fmt.Errorf("check out %s: %w", g, err)
	}
	return nil
}

// checkout is one Checkout, with what is left of its bounds.
type checkout struct {
	client  *Client
	scratch string
	entries int
	modules int
	left    int64
}

func (k *checkout) repository(ctx context.Context, g *Git, commit, dir string, nesting int) (err error) {
	keep := g.KeepGitDir != nil && *g.KeepGitDir
	place := filepath.Join(dir, gitDir)
	if !keep {
		if place, err = os.MkdirTemp(k.scratch, "git-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(place)) }()
	}
	storage, err := k.client.fetch(ctx, g, commit, place)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, storage.Close()) }()
	found, err := object.GetCommit(storage, plumbing.NewHash(commit))
	if err != nil {
		return err
	}
	tree, err := found.Tree()
	if err != nil {
		return err
	}
	if g.Directory != "" {
		if tree, err = tree.Tree(g.Directory); err != nil {
			return fmt.Errorf("there is no directory %q in commit %s", g.Directory, commit)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var links []submodule
	if err := k.tree(ctx, storage, root, tree, "", &links); err != nil {
		return err
	}
	if keep {
		if err := keepRepository(storage, g, commit, dir); err != nil {
			return err
		}
	}
	if g.Submodules != nil && !*g.Submodules || len(links) == 0 {
		return nil
	}
	whole, err := found.Tree()
	if err != nil {
		return err
	}
	return k.submodules(ctx, g, whole, links, dir, nesting)
}

// submodule is where a tree refers to a commit of another repository.
type submodule struct {
	path   string // below the directory checked out
	commit string
}

func (k *checkout) tree(ctx context.Context, storage *filesystem.Storage, root *os.Root, tree *object.Tree, at string, links *[]submodule) error {
	if strings.Count(at, "/") > maxTreeDepth {
		return errors.New("its directories are nested too deep")
	}
	for _, entry := range tree.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if k.entries++; k.entries > maxTreeEntries {
			return fmt.Errorf("it has more than %d files", maxTreeEntries)
		}
		if err := checkName(entry.Name); err != nil {
			return err
		}
		name := path.Join(at, entry.Name)
		switch entry.Mode {
		case filemode.Dir:
			below, err := object.GetTree(storage, entry.Hash)
			if err != nil {
				return fmt.Errorf("/%s: %w", name, err)
			}
			if err := root.Mkdir(name, 0o755); err != nil {
				return err
			}
			if err := k.tree(ctx, storage, root, below, name, links); err != nil {
				return err
			}
		case filemode.Submodule:
			if err := root.Mkdir(name, 0o755); err != nil {
				return err
			}
			*links = append(*links, submodule{name, entry.Hash.String()})
		case filemode.Symlink, filemode.Regular, filemode.Deprecated, filemode.Executable:
			if err := k.file(storage, root, entry, name); err != nil {
				return fmt.Errorf("/%s: %w", name, err)
			}
		default:
			return fmt.Errorf("/%s has the unknown mode %s", name, entry.Mode)
		}
	}
	return nil
}

// checkName refuses names that lead elsewhere, or that would make another
// program take the directory for a repository.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || strings.EqualFold(name, gitDir) {
		return fmt.Errorf("a tree has an entry named %q", name)
	}
	return nil
}

func (k *checkout) file(storage *filesystem.Storage, root *os.Root, entry object.TreeEntry, name string) error {
	blob, err := object.GetBlob(storage, entry.Hash)
	if err != nil {
		return err
	}
	if k.left -= blob.Size; k.left < 0 {
		return fmt.Errorf("the files have more than %d bytes", int64(maxTreeBytes))
	}
	content, err := blob.Reader()
	if err != nil {
		return err
	}
	defer content.Close()
	if entry.Mode == filemode.Symlink {
		target, err := io.ReadAll(io.LimitReader(content, maxLinkTarget+1))
		if err != nil {
			return err
		}
		if len(target) > maxLinkTarget {
			return errors.New("the link's target is too long")
		}
		// A link may lead anywhere: whoever reads the tree stays inside it.
		return root.Symlink(string(target), name)
	}
	mode := os.FileMode(0o644)
	if entry.Mode == filemode.Executable {
		mode = 0o755
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	n, err := io.Copy(file, io.LimitReader(content, blob.Size))
	if err == nil && n != blob.Size {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(err, file.Chmod(mode), file.Close())
}

// keepRepository makes of what was fetched a repository that git commands work in.
func keepRepository(storage *filesystem.Storage, g *Git, commit, dir string) error {
	head := plumbing.NewHashReference(plumbing.HEAD, plumbing.NewHash(commit))
	if err := storage.SetReference(head); err != nil {
		return err
	}
	kept := config.NewConfig()
	kept.Remotes["origin"] = &config.RemoteConfig{Name: "origin", URLs: []string{WithoutPassword(g.Remote)}}
	if err := storage.SetConfig(kept); err != nil {
		return err
	}
	if g.Directory != "" {
		return nil // its files are not where the index has them
	}
	repository, err := git.Open(storage, osfs.New(dir, osfs.WithBoundOS()))
	if err != nil {
		return err
	}
	worktree, err := repository.Worktree()
	if err != nil {
		return err
	}
	return worktree.Reset(&git.ResetOptions{Mode: git.MixedReset, Commit: plumbing.NewHash(commit)})
}

// submodules brings the repositories that links refer to, each into its
// directory. Their URLs are the repository's word: they go through the same
// checks as a Dockerfile's.
func (k *checkout) submodules(ctx context.Context, g *Git, whole *object.Tree, links []submodule, dir string, nesting int) error {
	if nesting >= maxNesting {
		return fmt.Errorf("submodules are nested more than %d deep", maxNesting)
	}
	file, err := whole.File(".gitmodules")
	if err != nil {
		return nil //nolint:nilerr // like git, which then knows no submodule
	}
	if file.Size > maxModulesFile {
		return errors.New(".gitmodules is too large")
	}
	text, err := file.Contents()
	if err != nil {
		return err
	}
	modules := config.NewModules()
	if err := modules.Unmarshal([]byte(text)); err != nil {
		return fmt.Errorf("read .gitmodules: %w", err)
	}
	byPath := map[string]string{}
	for _, module := range modules.Submodules {
		byPath[path.Clean(module.Path)] = module.URL
	}
	for _, link := range links {
		location, ok := byPath[path.Join(g.Directory, link.path)]
		if !ok {
			continue
		}
		if k.modules++; k.modules > maxSubmodules {
			return fmt.Errorf("it has more than %d submodules", maxSubmodules)
		}
		module, err := submoduleOf(g, location)
		if err != nil {
			return fmt.Errorf("submodule %s: %w", link.path, err)
		}
		if err := k.repository(ctx, module, link.commit, filepath.Join(dir, filepath.FromSlash(link.path)), nesting+1); err != nil {
			return fmt.Errorf("submodule %s: %w", link.path, err)
		}
	}
	return nil
}

// submoduleOf reads a submodule's URL, which may be relative to its repository's.
func submoduleOf(g *Git, location string) (*Git, error) {
	if strings.HasPrefix(location, "./") || strings.HasPrefix(location, "../") {
		base, prefix := g.Remote, ""
		if i := strings.Index(base, "://"); i >= 0 {
			slash := strings.Index(base[i+3:], "/")
			if slash < 0 {
				return nil, errors.New("its URL is relative, and the repository's has no path")
			}
			prefix, base = base[:i+3+slash], base[i+3+slash:]
		} else if colon := strings.Index(base, ":"); colon >= 0 {
			prefix, base = base[:colon+1], "/"+base[colon+1:]
		}
		joined := path.Join(base, location)
		if strings.HasSuffix(prefix, ":") {
			joined = strings.TrimPrefix(joined, "/")
		}
		location = prefix + joined
	}
	suffixed := gitSuffix(location)
	module, is, err := ParseGit(suffixed)
	if err != nil {
		return nil, err
	}
	if !is {
		return nil, fmt.Errorf("its URL %q is not one of https, http, ssh or git", Redacted(location))
	}
	if module.Host == g.Host && module.User == "" && module.Scheme == g.Scheme {
		module.User = g.User
	}
	if suffixed != location {
		module.Remote = location
	}
	module.Ref, module.Commit, module.Directory = "", "", ""
	return module, module.check()
}

// gitSuffix makes an HTTP URL read as Git's: a submodule is always that.
func gitSuffix(location string) string {
	if (strings.HasPrefix(location, "http://") || strings.HasPrefix(location, "https://")) && !strings.HasSuffix(location, ".git") && !strings.ContainsAny(location, "?#") {
		return location + ".git"
	}
	return location
}
