package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/internal/demo"
)

const (
	// installing bounds how long a healthy version may take to serve.
	installing = 3 * time.Minute
	// cleanUp bounds how long a namespace's pods may take to go.
	cleanUp = 2 * time.Minute
	// steadyFor is how long the old version must serve alone before a failure
	// counts as over.
	steadyFor = 3 * time.Second
)

// failure is how a failing version went.
type failure struct {
	fewest int    // good pods at the worst moment
	end    ending // what the tool said; its zero value: nothing within the patience
	said   bool
}

// fails brings a failing version out and watches until the old one serves alone
// again, or patience is over.
func (b *bench) fails(ctx context.Context, w *world, s subject, a app, good, bad string) (failure, error) {
	a.image = good
	bounded, cancel := context.WithTimeout(ctx, installing)
	defer cancel()
	if err := s.install(bounded, a); err != nil {
		return failure{}, fmt.Errorf("installing: %w", err)
	}
	if err := w.pods.Wait(bounded, "the good version", func(counts map[string]demo.PodCount) bool { return counts[good].Ready == a.pods }); err != nil {
		return failure{}, err
	}
	w.pods.Guard(good)
	watched, over := context.WithTimeout(ctx, b.patience)
	defer over()
	a.image = bad
	u := s.update(watched, a)
	defer u.stop()
	var f failure
	for !f.said || f.end.good {
		select {
		case f.end = <-u.end:
			f.said = watched.Err() == nil
			if f.end.good {
				// It calls that done: what is left of the good pods shows itself.
				<-watched.Done()
			}
		case <-watched.Done():
		}
		if watched.Err() != nil {
			f.fewest = w.pods.Lowest(good)
			return f, ctx.Err()
		}
	}
	if err := w.pods.Wait(watched, "the old version alone", func(counts map[string]demo.PodCount) bool {
		return counts[bad].Present == 0 && counts[good].Ready == a.pods
	}); err == nil {
		settled := time.NewTimer(steadyFor)
		defer settled.Stop()
		select {
		case <-settled.C:
		case <-watched.Done():
		}
	}
	f.fewest = w.pods.Lowest(good)
	return f, ctx.Err()
}

// results of a failing version.
func (f failure) results(b *bench, who string) []result {
	pods := result{Who: who, Measure: "good pods, fewest", Unit: fmt.Sprintf("of %d", b.pods), Value: float64(f.fewest), Note: f.end.why}
	if who != "deployment" && who != "argo rollouts" {
		pods = pods.aim(float64(b.pods), "")
		pods.AtLeast = true
	}
	after := result{Who: who, Measure: "given up after", Unit: "s", Value: f.end.after.Seconds(), Note: f.end.why}
	switch {
	case !f.said:
		after.Value, after.Over, after.Note, pods.Note = b.patience.Seconds(), true, "not given up", "not given up"
	case f.end.good:
		after.Value, after.Over, after.Note = b.patience.Seconds(), true, fmt.Sprintf("called %s after %.1f s", f.end.why, f.end.after.Seconds())
		pods.Note = after.Note
	}
	return []result{pods, after}
}

// failing measures the subjects with a version that its environment makes fail.
func failing(ctx context.Context, b *bench, a app, env ...string) ([]result, error) {
	good, errGood := b.images.Push(ctx, "VERSION=1")
	bad, errBad := b.images.Push(ctx, append(env, "VERSION=2")...)
	if err := errors.Join(errGood, errBad); err != nil {
		return nil, err
	}
	var found []result
	err := b.measured(ctx, []subject{&plain{}, &argo{}, &tidegate{}, &tidegate{rolling: true}}, func(ctx context.Context, w *world, s subject) error {
		f, err := b.fails(ctx, w, s, a, good, bad)
		if err == nil {
			found = append(found, f.results(b, s.name())...)
		}
		return err
	})
	return found, err
}

func flapRow(ctx context.Context, b *bench) ([]result, error) {
	a := app{name: shop, pods: b.pods, canary: steady, deadline: 20 * time.Second}
	found, err := failing(ctx, b, a, "CRASH_AFTER=4s")
	for i := range found {
		if r := &found[i]; r.Measure == "given up after" && (r.Who == "tidegate" || r.Who == "tidegate, rolling") {
			*r = r.aim(a.deadline.Seconds(), "")
		}
	}
	return found, err
}

func crashRow(after time.Duration) func(context.Context, *bench) ([]result, error) {
	return func(ctx context.Context, b *bench) ([]result, error) {
		return failing(ctx, b, app{name: shop, pods: b.pods, canary: steady}, "CRASH_AFTER_READY="+after.String())
	}
}

// pullRow measures from the kubelet's first word that an image cannot be pulled
// until the old pods all serve and no new one is left.
func pullRow(ctx context.Context, b *bench) ([]result, error) {
	const target = 2 // seconds
	good, err := b.images.Push(ctx, "VERSION=1")
	if err != nil {
		return nil, err
	}
	bad := b.images.Missing()
	var found []result
	err = b.measured(ctx, []subject{&plain{}, &argo{}, &flagger{}, &tidegate{}, &tidegate{rolling: true}}, func(ctx context.Context, w *world, s subject) error {
		a := app{name: shop, pods: b.pods, canary: steady, image: good}
		bounded, cancel := context.WithTimeout(ctx, installing)
		defer cancel()
		if err := s.install(bounded, a); err != nil {
			return fmt.Errorf("installing: %w", err)
		}
		r := result{Who: s.name(), Measure: "first signal to old pods alone", Unit: "s"}
		w.pods.Guard(good)
		for range b.rounds {
			seconds, err := b.cannotPull(ctx, w, s, a, good, bad)
			if err != nil {
				return err
			}
			if seconds < 0 {
				r.Over, r.All = true, append(r.All, b.patience.Seconds())
				break // it does not go back by itself: there is no second round
			}
			r.All = append(r.All, seconds)
		}
		if r.Value = median(r.All); s.name() == "tidegate" || s.name() == "tidegate, rolling" {
			r = r.aim(target, "")
		}
		r.Note = fmt.Sprintf("%d of %d good pods at the worst moment", w.pods.Lowest(good), b.pods)
		found = append(found, r)
		return nil
	})
	return found, err
}

// cannotPull is one round; negative when it was not over within the patience.
func (b *bench) cannotPull(ctx context.Context, w *world, s subject, a app, good, bad string) (float64, error) {
	watched, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	a.image = bad
	u := s.update(watched, a)
	defer u.stop()
	if err := w.pods.WaitReason(watched, bad, "ErrImagePull", "ImagePullBackOff"); err != nil {
		return 0, err
	}
	signal := time.Now()
	err := w.pods.Wait(watched, "the old version alone", func(counts map[string]demo.PodCount) bool {
		return counts[bad].Present == 0 && counts[good].Ready >= a.pods
	})
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case err != nil:
		return -1, nil
	}
	seconds := time.Since(signal).Seconds()
	select { // until the tool is done too, so that the next round starts afresh
	case <-u.end:
	case <-watched.Done():
	}
	return seconds, nil
}
