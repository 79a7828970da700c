package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate-ci/tidegate/stages/image/emulation"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
)

// HostPlatform is the platform of this machine's images.
func HostPlatform() ocispec.Platform {
	p := platforms.Normalize(platforms.DefaultSpec())
	p.OS = "linux"
	return p
}

// build makes the images of all platforms at once. What they have in common is
// made once.
func (e *execution) build(ctx context.Context) ([]*Image, []plan.Warning, error) {
	plans, err := e.plan(ctx)
	if err != nil {
		return nil, nil, classify(err)
	}
	users := plan.Unite(plans)
	e.labels = labels(e.request.Platforms, users)
	if err := e.runnable(users); err != nil {
		return nil, nil, classify(err)
	}
	warnings := warningsOf(plans)
	for _, w := range warnings {
		e.emit(progress.Event{Kind: progress.Warning, Text: warningText(w), Position: w.Pos.String()})
	}
	if err := e.stages(ctx, users); err != nil {
		return nil, nil, classify(err)
	}
	var images []*Image
	for i, p := range plans {
		image, err := e.assemble(ctx, e.request.Platforms[i], p.Target)
		if err != nil {
			return nil, nil, err
		}
		images = append(images, image)
	}
	return images, warnings, e.saveKnown()
}

func (e *execution) planOptions(platform ocispec.Platform) plan.Options {
	return plan.Options{
		Args: e.request.Args, Target: e.request.Target, Platform: platform, BuildPlatform: HostPlatform(), Images: &e.images,
		Ignored: e.files.selector.Ignore.Hides, Contexts: e.files.named,
	}
}

// plan plans the target for each platform.
func (e *execution) plan(ctx context.Context) ([]*plan.Plan, error) {
	var all []plan.Options
	var references []plan.Reference
	for _, platform := range e.request.Platforms {
		options := e.planOptions(platform)
		found, err := e.document.References(options)
		if err != nil {
			return nil, err
		}
		all, references = append(all, options), append(references, found...)
	}
	if err := e.lookUp(ctx, references); err != nil {
		return nil, err
	}
	var plans []*plan.Plan
	for _, options := range all {
		p, err := e.document.Make(ctx, options)
		if err != nil {
			return nil, err
		}
		plans = append(plans, p)
	}
	return plans, nil
}

// labels name stages. With several platforms a name starts with the stage's own
// and, when not every platform uses the stage, those it is for.
func labels(all []ocispec.Platform, users map[*plan.Stage][]int) map[*plan.Stage]string {
	named := map[*plan.Stage]string{}
	for s, indexes := range users {
		if len(all) == 1 {
			named[s] = s.Label()
			continue
		}
		own := plan.FormatPlatform(s.Platform)
		var others []string
		for _, i := range indexes {
			if name := plan.FormatPlatform(all[i]); name != own || len(indexes) > 1 {
				others = append(others, name)
			}
		}
		if len(others) > 0 && len(indexes) < len(all) {
			own += "->" + strings.Join(others, ",")
		}
		named[s] = own + " " + s.Label()
	}
	return named
}

func (e *execution) label(s *plan.Stage) string {
	if label := e.labels[s]; label != "" {
		return label
	}
	return s.Label()
}

// runnable refuses commands that this machine cannot run, before anything is made.
func (e *execution) runnable(users map[*plan.Stage][]int) error {
	machine := e.Machine
	if machine == nil {
		machine = emulation.ThisMachine
	}
	var here emulation.Machine
	var failures []error
	for s := range users {
		first := slices.IndexFunc(s.Steps, func(step plan.Step) bool { return step.Run != nil })
		if first < 0 {
			continue
		}
		if here.Platform.OS == "" {
			var err error
			if here, err = machine(); err != nil {
				return err
			}
		}
		err := here.Check(s.Platform)
		var unsupported *emulation.UnsupportedError
		if errors.As(err, &unsupported) {
			step := s.Steps[first]
			err = &plan.Error{
				Pos: step.Pos, Err: fmt.Errorf("%s: %w", step.Text, err), Hint: unsupported.Remedy, Excerpt: e.document.Excerpt(step.Pos),
			}
		}
		failures = append(failures, err)
	}
	// Of several, always the same is told.
	slices.SortFunc(failures, func(a, b error) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}

// warningsOf are the findings of all plans, each once.
func warningsOf(plans []*plan.Plan) []plan.Warning {
	var all []plan.Warning
	for _, p := range plans {
		for _, w := range p.Warnings {
			if !slices.Contains(all, w) {
				all = append(all, w)
			}
		}
	}
	return all
}

// stages builds all stages of the plans at once; each waits for those it needs.
func (e *execution) stages(ctx context.Context, users map[*plan.Stage][]int) error {
	for s := range users {
		e.futures[s] = &future{done: make(chan struct{})}
	}
	group, ctx := errgroup.WithContext(ctx)
	for s := range users {
		f := e.futures[s]
		group.Go(func() error {
			defer close(f.done)
			f.result, f.err = e.stage(ctx, s)
			return f.err
		})
	}
	return group.Wait()
}

// told are the counts so far.
func (e *execution) told() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stats
}
