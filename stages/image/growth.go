package image

import (
	"context"
	"errors"
	"time"

	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// What a command writes goes past this program. It is measured while the
// command runs, so that a command that fills the disk is stopped soon after the
// cap, and once more at its end, before anything is kept.
const (
	// growthPause lies between two measurements; growthShare is the part of the
	// time that they may take.
	growthPause = 2 * time.Second
	growthShare = 20
)

// growth is what a command's root filesystem and cache mounts take.
type growth struct {
	session *store.Session
	upper   string
	caches  []*store.Cache
	taken   int64 // for upper
}

// charge takes room for what was written by now.
func (g *growth) charge(ctx context.Context) error {
	now, err := store.DiskUse(ctx, g.upper)
	if err != nil {
		return err
	}
	if now > g.taken {
		if err := g.session.Take(now - g.taken); err != nil {
			return err
		}
		g.taken = now
	}
	for _, c := range g.caches {
		if err := c.Charge(ctx); err != nil {
			return err
		}
	}
	return nil
}

// during runs a command, and ends it when what it writes finds no room.
func (g *growth) during(ctx context.Context, now func() time.Time, command func(context.Context) error) error {
	running, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		pause := growthPause
		for {
			timer := time.NewTimer(pause)
			select {
			case <-running.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
			start := now()
			if err := g.charge(running); err != nil && running.Err() == nil {
				cancel(err)
				return
			}
			pause = max(growthPause, growthShare*now().Sub(start))
		}
	}()
	err := command(running)
	var full *store.FullError
	stopped := errors.As(context.Cause(running), &full)
	cancel(nil)
	<-watched
	if stopped && ctx.Err() == nil {
		return full
	}
	if err != nil {
		return err
	}
	return g.charge(ctx)
}

// end gives back what is thrown away; kept says that it became a layer.
func (g *growth) end(kept bool) error {
	taken := g.taken
	g.taken = 0
	if kept {
		return g.session.Kept(taken)
	}
	g.session.Give(taken)
	return nil
}
