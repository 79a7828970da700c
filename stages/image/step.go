package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/stages/image/ignore"
	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
)

// stepRun is one step being carried out.
type stepRun struct {
	*execution
	stage   *plan.Stage
	step    *plan.Step
	id      string
	chain   []chainLink
	setting setting
	// tail are the last lines a command printed.
	tail tail
	hint string
	// key is the step's, without scope; from is where its layer is when it was
	// found in another machine's cache.
	key  v1.Hash
	from layerSource
	// locked are the keys that only this step may work on.
	locked []*sharedKey
}

func (r *stepRun) layer(ctx context.Context) (made layer.Layer, cached bool, err error) {
	switch {
	case r.step.Copy != nil:
		return r.copy(ctx, r.step.Copy)
	case r.step.Run != nil:
		return r.run(ctx, r.step.Run)
	case r.step.Directory != nil:
		return r.directory(ctx, r.step.Directory)
	}
	return layer.Layer{}, false, errors.New("the step has no recipe")
}

// explain adds where in the Dockerfile the failure is. Failures of what carries
// the build are told as they are, with the place.
func (r *stepRun) explain(err error) error {
	return &StepError{
		Pos: r.step.Pos, Instruction: r.step.Text, Excerpt: r.document.Excerpt(r.step.Pos),
		Output: r.tail.last(), Hint: r.hint, Err: err,
	}
}

func (r *stepRun) directory(ctx context.Context, d *plan.Directory) (layer.Layer, bool, error) {
	key := directoryKey(r.setting, d)
	if made, ok, err := r.cached(ctx, key, false); err != nil || ok {
		return made, ok, err
	}
	view, err := r.view(ctx, r.chain)
	if err != nil {
		return layer.Layer{}, false, err
	}
	p := &layer.Placement{View: view}
	if d.User != "" {
		if p.UID, p.GID, err = view.Owner(d.User); err != nil {
			return layer.Layer{}, false, err
		}
	}
	create, err := p.MakeDirectory(d.Path)
	if err != nil {
		return layer.Layer{}, false, err
	}
	var entries []*layer.Entry
	if create {
		entries = p.Entries()
	}
	return r.build(ctx, key, entries)
}

// build makes the layer of entries and records it.
func (r *stepRun) build(ctx context.Context, key v1.Hash, entries []*layer.Entry) (layer.Layer, bool, error) {
	made, table, err := layer.Build(ctx, r.session, r.request.Codec, r.request.Epoch, entries, r.moved(entries))
	if err != nil {
		return layer.Layer{}, false, err
	}
	if !made.Empty {
		if err := r.keepTable(made.DiffID, table); err != nil {
			return layer.Layer{}, false, err
		}
	}
	return made, false, r.keep(key, made)
}

func (r *stepRun) moved(entries []*layer.Entry) func(int64) {
	var total, done, told int64
	for i := range entries {
		total += entries[i].Size
	}
	return func(n int64) {
		if done += n; done-told >= movedEvery {
			told = done
			r.emit(progress.Event{Kind: progress.Moved, Step: r.id, Bytes: done, Total: total})
		}
	}
}

// numericOwner tells whether --chown can be understood without the image's
// accounts.
func numericOwner(text string) bool {
	return strings.Trim(text, "0123456789:") == ""
}

// owner turns --chown into numbers.
func owner(view layer.View, text string) (*[2]int, error) {
	if text == "" {
		return nil, nil
	}
	uid, gid, err := view.Owner(text)
	if err != nil {
		return nil, fmt.Errorf("--chown=%s: %w", text, err)
	}
	return &[2]int{uid, gid}, nil
}

func (r *stepRun) copy(ctx context.Context, c *plan.Copy) (layer.Layer, bool, error) {
	from, err := r.open(ctx, c)
	if err != nil {
		return layer.Layer{}, false, err
	}
	defer func() { from.close() }()
	below, view := r.setting, layer.View(nil)
	if c.Link && numericOwner(c.Chown) {
		below.Chain = nil
	}
	key := copyKey(below, c, from.origin)
	if made, ok, err := r.cached(ctx, key, false); err != nil || ok {
		return made, ok, err
	}
	if err := from.load(ctx); err != nil {
		return layer.Layer{}, false, err
	}
	if !c.Link || !numericOwner(c.Chown) {
		if view, err = r.view(ctx, r.chain); err != nil {
			return layer.Layer{}, false, err
		}
	}
	to := layer.Destination{Path: c.Dest, Directory: c.DestIsDirectory}
	if to.Owner, err = owner(view, c.Chown); err != nil {
		return layer.Layer{}, false, err
	}
	if c.Chmod != "" {
		to.Mode = func(mode uint32, directory bool) uint32 { return plan.ApplyMode(c.Chmod, mode, directory) }
	}
	if c.Link {
		view = nil
	}
	p := &layer.Placement{View: view}
	defer p.Close()
	if to.Owner != nil {
		p.UID, p.GID = to.Owner[0], to.Owner[1]
	}
	items := from.items
	if c.Unpack {
		if items, err = r.unpack(p, to, from); err != nil {
			return layer.Layer{}, false, err
		}
	}
	if err := p.Files(to, from.tree, items); err != nil {
		return layer.Layer{}, false, err
	}
	if err := r.placeRemotes(ctx, p, to, from); err != nil {
		return layer.Layer{}, false, err
	}
	for _, file := range c.Inline {
		if err := p.Inline(to, file.Name, []byte(file.Data)); err != nil {
			return layer.Layer{}, false, err
		}
	}
	// A tree of many files is not held in two forms longer than it takes.
	from.items, from.origin.Items = nil, nil
	made, cached, err := r.build(ctx, key, p.Entries())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ELOOP) {
		err = fmt.Errorf("%w: %w", layer.ErrChanged, err)
	}
	return made, cached, err
}

// tree is the context a source means.
func (e *execution) tree(ctx context.Context, from plan.Source) (*sourceTree, error) {
	if from.Context == "" {
		return e.files.sourceTree, nil
	}
	return e.files.contexts.tree(ctx, from.Context)
}

// files are what a COPY or ADD takes.
type files struct {
	origin origin
	tree   *layer.Tree
	items  []layer.Item
	// load makes tree and items available, when the key alone did not suffice.
	load  func(ctx context.Context) error
	close func()
	// remotes are what an ADD takes from elsewhere.
	remotes []remoteFile
	exclude *ignore.Matcher
}

// open finds a step's files, and reads them as far as the key needs.
func (r *stepRun) open(ctx context.Context, c *plan.Copy) (*files, error) {
	f := &files{close: func() {}, load: func(context.Context) error { return nil }}
	exclude, err := ignore.New("--exclude", c.Exclude)
	if err != nil {
		return nil, err
	}
	f.exclude = exclude
	if c.From.Kind == plan.FromContext {
		tree, err := r.tree(ctx, c.From)
		if err != nil {
			return nil, err
		}
		selector := tree.selector
		selector.Exclude, selector.Parents = exclude, c.Parents
		if f.items, err = selector.Select(ctx, c.Sources); err != nil {
			return nil, err
		}
		if err := tree.hash(ctx, r.execution, f.items); err != nil {
			return nil, err
		}
		f.tree = selector.Tree
		f.origin.Items = f.items
		r.remarkEmpty(c, f.items)
		return f, r.lookUpRemotes(ctx, c, f)
	}
	source, err := r.source(ctx, c.From)
	if err != nil {
		return nil, err
	}
	f.origin.Chain = diffIDs(source.chain)
	f.load = func(ctx context.Context) error {
		mounted, err := r.mount(ctx, source.chain)
		if err != nil {
			return err
		}
		tree, err := layer.OpenTree(mounted.Root, true)
		if err != nil {
			return errors.Join(err, mounted.Close())
		}
		f.close = func() {
			_ = tree.Close()    // only read from
			_ = mounted.Close() // the store's next user cleans up what is left
		}
		f.tree = tree
		selector := layer.Selector{Tree: tree, Exclude: exclude, Parents: c.Parents, Where: sourceName(c.From)}
		f.items, err = selector.Select(ctx, c.Sources)
		r.remarkEmpty(c, f.items)
		return err
	}
	return f, nil
}

func sourceName(s plan.Source) string {
	switch s.Kind {
	case plan.FromStage:
		return "stage " + s.Stage.Label()
	case plan.FromImage:
		return "image " + s.Reference
	case plan.FromContext:
		return "the build context " + s.Context
	}
	return "scratch"
}

// remarkEmpty warns of patterns that match nothing.
func (r *stepRun) remarkEmpty(c *plan.Copy, items []layer.Item) {
	if len(items) == 0 && len(c.Sources) > 0 {
		r.emit(progress.Event{
			Kind: progress.Warning, Step: r.id, Position: r.step.Pos.String(),
			Text: "nothing matches " + strings.Join(c.Sources, " ") + ": nothing is copied",
		})
	}
}
