package source

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// localRefs is where fetched refs are kept, under a hash of their name: so a
// branch "a" that gave way to "a/b" leaves no file in its directory's place.
const localRefs = "refs/tidegate/"

// maxRefsSearched bounds the branches and tags that are fetched to find a commit.
const maxRefsSearched = 2000

func (c *Cache) fetch(ctx context.Context, m *mirror, repository event.Repository, ref, commit string) error {
	if ref == "" && commit == "" {
		return errors.New("neither a ref nor a commit is named")
	}
	if commit != "" && !plumbing.IsHash(commit) {
		return fmt.Errorf("%w: %q is not a full commit hash", ErrRefused, commit)
	}
	if ref != "" {
		if err := plumbing.ReferenceName(ref).Validate(); err != nil || !strings.HasPrefix(ref, "refs/") {
			return fmt.Errorf("%w: %q is not a full ref", ErrRefused, ref)
		}
	}
	if commit != "" && !m.suspect.Load() && m.has(commit) {
		return nil
	}
	return c.locked(ctx, m, func(ctx context.Context) error { return c.fetchAlone(ctx, m, repository, ref, commit) })
}

// locked calls do, within the time of one fetch, with the right to write.
func (c *Cache) locked(ctx context.Context, m *mirror, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.config.FetchTimeout, fmt.Errorf("no end after %s", c.config.FetchTimeout))
	defer cancel()
	unlock, err := m.lock(ctx)
	if err != nil {
		return withCause(ctx, err)
	}
	defer unlock()
	return do(ctx)
}

// fetchAlone is fetch with the lock held.
func (c *Cache) fetchAlone(ctx context.Context, m *mirror, repository event.Repository, ref, commit string) error {
	// Whoever had the lock may have brought it.
	if commit != "" && !m.suspect.Load() && m.has(commit) {
		return nil
	}
	if err := m.prepare(commit, c.config.MaxPacks); err != nil {
		return fmt.Errorf("prepare the mirror: %w", err)
	}
	if ref != "" {
		err := c.transfer(ctx, m, repository, ref)
		if err != nil && (commit == "" || !errors.Is(err, ErrNotFound)) {
			return err
		}
		if commit == "" || m.has(commit) {
			return nil
		}
	}
	return c.fetchByName(ctx, m, repository, commit)
}

// fetchByName brings a commit whose ref is not known, has moved on by force or
// is gone. Most forges give a commit by its name; from the others it comes with
// the branch or tag that leads to it.
func (c *Cache) fetchByName(ctx context.Context, m *mirror, repository event.Repository, commit string) error {
	err := c.transfer(ctx, m, repository, commit)
	// A local git-upload-pack says no by hanging up.
	hungUp := err != nil && m.url.Scheme == File && (strings.Contains(err.Error(), "broken pipe") || strings.Contains(err.Error(), "EOF"))
	if err != nil && !errors.Is(err, ErrNotFound) && !hungUp {
		return err
	}
	if m.has(commit) {
		return nil
	}
	refs, err := c.list(ctx, m, repository)
	if err != nil {
		return err
	}
	var names []string
	for _, kind := range []string{"refs/heads/", "refs/tags/"} {
		for _, ref := range refs {
			if ref.Type() == plumbing.HashReference && strings.HasPrefix(ref.Name().String(), kind) && len(names) < maxRefsSearched {
				names = append(names, ref.Name().String())
			}
		}
	}
	if len(names) > 0 {
		if err := c.transfer(ctx, m, repository, names...); err != nil {
			return err
		}
	}
	if !m.has(commit) {
		return fmt.Errorf("%w: no branch or tag leads to the commit any more (was it replaced by a forced push?)", ErrNotFound)
	}
	return nil
}

// transfer fetches refs or commits in one go.
func (c *Cache) transfer(ctx context.Context, m *mirror, repository event.Repository, what ...string) error {
	storage, err := m.open()
	if err != nil {
		return err
	}
	defer func() { _ = storage.Close() }()
	by, err := c.connect(ctx, m, repository)
	if err != nil {
		return err
	}
	defer by.close()
	specs := make([]config.RefSpec, len(what))
	for i, name := range what {
		sum := sha256.Sum256([]byte(name))
		specs[i] = config.RefSpec("+" + name + ":" + localRefs + hex.EncodeToString(sum[:16]))
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	limited := &limitedStorage{Storage: storage, left: c.config.MaxPackBytes, limit: c.config.MaxPackBytes, stop: stop}
	err = m.remote(limited).FetchContext(ctx, &git.FetchOptions{
		RefSpecs: specs, Depth: c.config.Depth, Tags: git.NoTags, Force: true, Auth: by.auth, ProxyOptions: by.tunnel.Proxy(),
	})
	if limited.failed != nil {
		return limited.failed
	}
	return by.translate(ctx, err)
}

// list asks the forge for its refs.
func (c *Cache) list(ctx context.Context, m *mirror, repository event.Repository) ([]*plumbing.Reference, error) {
	by, err := c.connect(ctx, m, repository)
	if err != nil {
		return nil, err
	}
	defer by.close()
	refs, err := m.remote(nil).ListContext(ctx, &git.ListOptions{Auth: by.auth, ProxyOptions: by.tunnel.Proxy()})
	return refs, by.translate(ctx, err)
}

func (m *mirror) remote(storage storage.Storer) *git.Remote {
	return git.NewRemote(storage, &config.RemoteConfig{Name: "origin", URLs: []string{m.url.String()}})
}

// Head returns the commit at the tip of a branch, as the forge says now; of the
// default branch when none is named.
func (c *Cache) Head(ctx context.Context, repository event.Repository, branch string) (string, error) {
	m, err := c.mirror(repository)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.config.FetchTimeout, fmt.Errorf("no end after %s", c.config.FetchTimeout))
	defer cancel()
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("read the head of %s in %s: %w", cmp.Or(branch, "the default branch"), repository.FullName, err)
	}
	refs, err := c.list(ctx, m, repository)
	if err != nil {
		return fail(err)
	}
	want := plumbing.HEAD
	if branch != "" {
		want = plumbing.NewBranchReferenceName(branch)
	}
	byName := make(map[plumbing.ReferenceName]*plumbing.Reference, len(refs))
	for _, ref := range refs {
		byName[ref.Name()] = ref
	}
	ref := byName[want]
	if ref != nil && ref.Type() == plumbing.SymbolicReference {
		ref = byName[ref.Target()]
	}
	if ref == nil || ref.Type() != plumbing.HashReference {
		return fail(ErrNotFound)
	}
	return ref.Hash().String(), nil
}

// withCause says why a context ended.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// limitedStorage takes packs up to a size. A pack that cannot be written ends
// the transfer by its context: were the error returned to go-git, it would wait
// for a local git-upload-pack that itself waits for someone to read.
type limitedStorage struct {
	*filesystem.Storage
	left, limit int64
	stop        context.CancelFunc
	failed      error
}

var _ storer.PackfileWriter = (*limitedStorage)(nil)

func (s *limitedStorage) PackfileWriter() (io.WriteCloser, error) {
	w, err := s.Storage.PackfileWriter()
	if err != nil {
		s.fail(err)
		return nil, err
	}
	return &limitedWriter{WriteCloser: w, storage: s}, nil
}

func (s *limitedStorage) fail(err error) {
	if s.failed == nil {
		s.failed = err
		s.stop()
	}
}

type limitedWriter struct {
	io.WriteCloser
	storage *limitedStorage
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.storage.left -= int64(len(p)); w.storage.left < 0 {
		w.storage.fail(fmt.Errorf("%w: the fetch is larger than %d bytes", ErrTooLarge, w.storage.limit))
	}
	if w.storage.failed == nil {
		if _, err := w.WriteCloser.Write(p); err != nil {
			w.storage.fail(fmt.Errorf("write the mirror: %w", err))
		}
	}
	return len(p), nil
}
