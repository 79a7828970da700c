package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// trailing is how long requests are still counted after a tool called an update done.
const trailing = 2 * time.Second

// healthyRow measures how long a healthy version takes, and what it asks of the
// API server.
func healthyRow(ctx context.Context, b *bench) ([]result, error) {
	now := time.Duration(0)
	var found []result
	err := b.measured(ctx, []subject{&plain{}, &argo{}, &flagger{}, &tidegate{}, &tidegate{rolling: true}}, func(ctx context.Context, w *world, s subject) error {
		a := app{name: shop, pods: b.pods, canary: steady, bake: &now}
		seconds := result{Who: s.name(), Measure: "time", Unit: "s"}
		asked := result{Who: s.name(), Measure: "requests"}
		for round := range b.rounds + 1 {
			var err error
			if a.image, err = b.images.Push(ctx, fmt.Sprintf("VERSION=%d", round+1)); err != nil {
				return err
			}
			bounded, cancel := context.WithTimeout(ctx, installing)
			if round == 0 {
				err = s.install(bounded, a)
				cancel()
				if err != nil {
					return fmt.Errorf("installing: %w", err)
				}
				if err := linger(ctx, trailing); err != nil {
					return err
				}
				continue
			}
			before := w.proxy.requests()
			u := s.update(bounded, a)
			end := <-u.end
			u.stop()
			cancel()
			if !end.good {
				return fmt.Errorf("a healthy version was not kept: %s", end.why)
			}
			if err := linger(ctx, trailing); err != nil {
				return err
			}
			made := w.proxy.requests().minus(before)
			seconds.All = append(seconds.All, end.after.Seconds())
			asked.All = append(asked.All, float64(made.total()))
			asked.Note = made.String()
		}
		seconds.Value, asked.Value = median(seconds.All), median(asked.All)
		if s.name() == "tidegate" {
			seconds, asked = seconds.aim(1.1, "deployment"), asked.aim(1, "argo rollouts")
		}
		found = append(found, seconds)
		if s.name() != "deployment" { // which asks for nothing but the patch
			found = append(found, asked)
		}
		return nil
	})
	return found, err
}

// linger waits.
func linger(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), context.Cause(ctx))
	}
}
