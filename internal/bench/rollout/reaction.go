package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// reactions gathers times from a change that was seen to the write that answers it.
type reactions struct {
	mu    sync.Mutex
	times []time.Duration
}

func (r *reactions) add(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.times = append(r.times, d)
}

// quantile is the smallest time that a share of all times do not exceed, in milliseconds.
func (r *reactions) quantile(share float64) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(r.times))
	return float64(sorted[min(int(share*float64(len(sorted))), len(sorted)-1)].Microseconds()) / 1000
}

func (r *reactions) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.times)
}

// reactionRow measures Tidegate's own part of healthy canaries on a real
// kubelet. The same under the load of hundreds of rollouts is in the row "many".
func reactionRow(ctx context.Context, b *bench) ([]result, error) {
	const target = 50 // milliseconds
	now := time.Duration(0)
	seen := &reactions{}
	err := b.measured(ctx, []subject{&tidegate{react: seen.add}}, func(ctx context.Context, _ *world, s subject) error {
		a := app{name: shop, pods: b.pods, canary: steady, bake: &now}
		for round := range b.rounds + 1 {
			var err error
			if a.image, err = b.images.Push(ctx, fmt.Sprintf("VERSION=%d", round+1)); err != nil {
				return err
			}
			bounded, cancel := context.WithTimeout(ctx, installing)
			if round == 0 {
				err = s.install(bounded, a)
			} else {
				u := s.update(bounded, a)
				if end := <-u.end; !end.good {
					err = fmt.Errorf("a healthy version was not kept: %s", end.why)
				}
				u.stop()
			}
			cancel()
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if seen.count() == 0 {
		return nil, errors.New("no write answered a change")
	}
	note := fmt.Sprintf("median %.2f ms of %d", seen.quantile(0.5), seen.count())
	return []result{result{Who: "tidegate", Measure: "reaction, p99", Unit: "ms", Value: seen.quantile(0.99), Note: note}.aim(target, "")}, nil
}
