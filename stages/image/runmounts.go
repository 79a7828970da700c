package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/store"
	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

// mountSources finds what the bind mounts of a RUN show, as far as its key
// needs it.
func (r *stepRun) mountSources(ctx context.Context, mounts []plan.Mount) ([]*files, error) {
	sources := make([]*files, len(mounts))
	for i, m := range mounts {
		sources[i] = &files{close: func() {}, load: func(context.Context) error { return nil }}
		if m.Kind != plan.MountBind && m.Kind != plan.MountCache || m.From.Kind == plan.FromNothing {
			continue
		}
		switch m.From.Kind {
		case plan.FromContext:
			f := sources[i]
			tree, err := r.tree(ctx, m.From)
			if err != nil {
				return nil, err
			}
			selector := tree.selector
			if f.items, err = selector.Select(ctx, []string{escapePattern(m.Source)}); err != nil {
				return nil, fmt.Errorf("--mount: %w", err)
			}
			if err := tree.hash(ctx, r.execution, f.items); err != nil {
				return nil, err
			}
			f.tree, f.origin.Items = selector.Tree, f.items
		default:
			source, err := r.source(ctx, m.From)
			if err != nil {
				return nil, err
			}
			sources[i].origin.Chain = diffIDs(source.chain)
		}
	}
	return sources, nil
}

// escapePattern makes a pattern that means the name itself.
func escapePattern(name string) string {
	var escaped []byte
	for i := range len(name) {
		switch name[i] {
		case '*', '?', '[', '\\':
			escaped = append(escaped, '\\')
		}
		escaped = append(escaped, name[i])
	}
	return string(escaped)
}

// stepMounts are a RUN's mounts, ready.
type stepMounts struct {
	binds []sandbox.Mount
	env   []string
	// caches are those of the cache mounts.
	caches []*store.Cache
	// agent is set once there is an SSH agent.
	agent bool
	// undo lets go of them, last first.
	undo []func()
}

func (m *stepMounts) release() {
	for i := len(m.undo) - 1; i >= 0; i-- {
		m.undo[i]()
	}
}

// prepareMounts makes the mounts' sources. What it returns is to be released,
// also when it fails.
func (r *stepRun) prepareMounts(ctx context.Context, c *plan.Run, sources []*files) (*stepMounts, error) {
	mounts := &stepMounts{}
	if c.Script != nil {
		if err := r.script(mounts, c.Script); err != nil {
			return mounts, err
		}
	}
	for i := range c.Mounts {
		m := &c.Mounts[i]
		var err error
		switch m.Kind {
		case plan.MountCache:
			err = r.cacheMount(ctx, mounts, m, sources[i])
		case plan.MountTmpfs:
			mounts.binds = append(mounts.binds, sandbox.Mount{Target: m.Target, ReadOnly: m.ReadOnly, Memory: true, Size: m.Size})
		case plan.MountSSH:
			err = r.sshMount(ctx, mounts, m)
		case plan.MountSecret:
			err = r.secretMount(mounts, m)
		case plan.MountBind:
			err = r.bindMount(ctx, mounts, m, sources[i])
		}
		if err != nil {
			return mounts, fmt.Errorf("--mount=type=%s: %w", m.Kind, err)
		}
	}
	return mounts, nil
}

func (r *stepRun) temporary(mounts *stepMounts, parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, "mount-")
	if err != nil {
		return "", err
	}
	mounts.undo = append(mounts.undo, func() { _ = os.RemoveAll(dir) }) // the session's end removes it otherwise
	return dir, nil
}

func (r *stepRun) script(mounts *stepMounts, script *plan.InlineFile) error {
	dir, err := r.temporary(mounts, r.session.Dir())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, script.Name), []byte(script.Data), 0o755); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Join(dir, script.Name), 0o755)); err != nil {
		return err
	}
	mounts.binds = append(mounts.binds, sandbox.Mount{Source: dir, Target: plan.ScriptDirectory, ReadOnly: true})
	return nil
}

func (r *stepRun) cacheMount(ctx context.Context, mounts *stepMounts, m *plan.Mount, source *files) error {
	owner := store.CacheOwner{UID: int(m.UID), GID: int(m.GID), Mode: 0o755}
	if m.Mode != nil {
		owner.Mode = os.FileMode(*m.Mode).Perm()
	}
	id, below := m.CacheID, m.Source
	if space := r.request.Args["BUILDKIT_CACHE_MOUNT_NS"]; space != "" {
		id = space + "/" + id
	}
	if m.From.Kind != plan.FromNothing {
		// A cache that starts from something starts anew when that changes.
		k := newKeyer("cache from")
		k.text("path", m.Source)
		k.origin("from", source.origin)
		id, below = id+" from "+k.sum().Hex, "/"
		owner.Fill = func(dir string) error { return r.fillCache(ctx, dir, m, source) }
	}
	if err := r.fillMount(ctx, id, owner); err != nil {
		return err
	}
	cache, err := r.session.Cache(ctx, r.request.Scope, id, store.Sharing(m.Sharing), owner)
	if err != nil {
		return err
	}
	mounts.undo = append(mounts.undo, cache.Release)
	mounts.caches = append(mounts.caches, cache)
	if err := makeInside(cache.Path, below); err != nil {
		return err
	}
	// A command may have put links into the cache, or do so right now: they lead
	// nowhere outside it.
	mounts.binds = append(mounts.binds, sandbox.Mount{Source: below, Within: cache.Path, Target: m.Target, ReadOnly: m.ReadOnly})
	return nil
}

// fillCache copies what a fresh cache starts with.
func (r *stepRun) fillCache(ctx context.Context, dir string, m *plan.Mount, source *files) (err error) {
	items, tree := source.items, source.tree
	if m.From.Kind != plan.FromContext {
		from, err := r.source(ctx, m.From)
		if err != nil {
			return err
		}
		snapshot, err := r.mount(ctx, from.chain)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, snapshot.Close()) }()
		if tree, err = layer.OpenTree(snapshot.Root, true); err != nil {
			return err
		}
		defer tree.Close()
		selector := layer.Selector{Tree: tree, Where: sourceName(m.From)}
		if items, err = selector.Select(ctx, []string{escapePattern(m.Source)}); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for i := range items {
		item := &items[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if item.Top && item.Target == "" {
			continue
		}
		err := copyOut(root, tree, item)
		if err == nil && (tree.KeepOwner || m.UID != 0 || m.GID != 0) {
			uid, gid := item.UID, item.GID
			if m.UID != 0 || m.GID != 0 {
				uid, gid = int(m.UID), int(m.GID)
			}
			err = root.Lchown(filepath.FromSlash(item.Target), uid, gid)
		}
		if err != nil {
			return fmt.Errorf("copy %q into the cache: %w", item.Path, err)
		}
	}
	return nil
}

// makeInside makes the directory name below dir unless something is there.
func makeInside(dir, name string) error {
	tree, err := layer.OpenTree(dir, true)
	if err != nil {
		return err
	}
	defer tree.Close()
	if _, err := tree.Resolve(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.MkdirAll(path.Clean(name)[1:], 0o755)
}

// memory is where the sockets of agents are while a command may reach them.
const memory = "/dev/shm"

func (r *stepRun) secretMount(mounts *stepMounts, m *plan.Mount) error {
	value, ok := r.request.Secrets[m.SecretID]
	if !ok {
		if m.Required {
			return fmt.Errorf("the secret %q was not given: pass it with --secret id=%s,src=FILE", m.SecretID, m.SecretID)
		}
		return nil
	}
	if m.SecretEnv != "" {
		mounts.env = append(mounts.env, m.SecretEnv+"="+string(value))
	}
	if m.Target == "" {
		return nil
	}
	mounts.binds = append(mounts.binds, sandbox.Mount{Target: m.Target, ReadOnly: true, Content: &sandbox.Content{
		Data: value, UID: int(m.UID), GID: int(m.GID), Mode: os.FileMode(*m.Mode).Perm(),
	}})
	return nil
}

func (r *stepRun) bindMount(ctx context.Context, mounts *stepMounts, m *plan.Mount, source *files) error {
	if m.From.Kind == plan.FromContext {
		return r.contextMount(ctx, mounts, m, source)
	}
	from, err := r.source(ctx, m.From)
	if err != nil {
		return err
	}
	// What the command writes goes to a layer nobody keeps.
	snapshot, err := r.mount(ctx, from.chain)
	if err != nil {
		return err
	}
	mounts.undo = append(mounts.undo, func() { _ = snapshot.Close() }) // the store's next user cleans up what is left
	tree, err := layer.OpenTree(snapshot.Root, true)
	if err != nil {
		return err
	}
	defer tree.Close()
	if _, err := tree.Resolve(m.Source); errors.Is(err, os.ErrNotExist) {
		return &layer.NotFoundError{Source: m.Source, Where: sourceName(m.From)}
	}
	mounts.binds = append(mounts.binds, sandbox.Mount{Source: m.Source, Within: snapshot.Root, Target: m.Target, ReadOnly: m.ReadOnly})
	return nil
}

// contextMount shows a copy of context files, so that ignored ones stay hidden,
// links cannot lead out, and nothing the command writes comes back.
func (r *stepRun) contextMount(ctx context.Context, mounts *stepMounts, m *plan.Mount, source *files) error {
	dir, err := r.temporary(mounts, r.session.Dir())
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	at := dir
	var taken int64
	mounts.undo = append(mounts.undo, func() { r.session.Give(taken) })
	for i := range source.items {
		item := &source.items[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if item.Top && item.Target == "" {
			continue
		}
		if item.Top {
			at = filepath.Join(dir, item.Target)
		}
		if err := r.session.Take(item.Size); err != nil {
			return err
		}
		taken += item.Size
		if err := copyOut(root, source.tree, item); err != nil {
			return fmt.Errorf("show %q: %w", item.Path, err)
		}
	}
	mounts.binds = append(mounts.binds, sandbox.Mount{Source: at, Target: m.Target, ReadOnly: m.ReadOnly})
	return nil
}

func copyOut(root *os.Root, tree *layer.Tree, item *layer.Item) error {
	name := filepath.FromSlash(item.Target)
	mode := os.FileMode(item.Mode).Perm()
	switch {
	case item.Directory():
		if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return root.Chmod(name, mode|0o700)
	case item.Link != "":
		return root.Symlink(item.Link, name)
	case !item.Regular():
		return nil
	}
	from, err := tree.Open(item.Path)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(to, io.LimitReader(from, item.Size))
	if err == nil && n != item.Size {
		err = layer.ErrChanged
	}
	return errors.Join(err, to.Chmod(mode), to.Close())
}
