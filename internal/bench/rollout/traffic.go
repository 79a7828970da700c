package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tidegate-ci/tidegate/internal/demo"
	"github.com/tidegate-ci/tidegate/internal/testserver"
	"github.com/tidegate-ci/tidegate/rollout"
)

// Load.
const (
	senders = 4
	pace    = 10 * time.Millisecond
)

// load sends requests until it is ended, and keeps how many failed and why.
type load struct {
	mu       sync.Mutex
	sent     int
	failures []string
	versions map[string]int
}

func (l *load) send(ctx context.Context, address string) {
	client := testserver.Client()
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		version, err := testserver.Ask(ctx, client, address)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		l.sent++
		if err != nil {
			const most = 20
			l.failures = append(l.failures, "")
			if len(l.failures) <= most {
				l.failures[len(l.failures)-1] = err.Error()
			}
		} else {
			l.versions[version]++
		}
		l.mu.Unlock()
	}
}

// trafficRow counts the requests that fail while versions come and go.
func trafficRow(ctx context.Context, b *bench) ([]result, error) {
	const pods = 3
	now := time.Duration(0)
	var found []result
	err := b.measured(ctx, []subject{&tidegate{}}, func(ctx context.Context, w *world, s subject) (err error) {
		t, ok := s.(*tidegate)
		if !ok {
			return errors.New("only Tidegate is measured here")
		}
		versions := []string{"", ""}
		for i := range versions {
			if versions[i], err = b.images.Push(ctx, fmt.Sprintf("VERSION=%d", i+1)); err != nil {
				return err
			}
		}
		a := app{name: shop, pods: pods, image: versions[0], bake: &now, graceful: true, canary: []int{34, 67}}
		if err := t.install(ctx, a); err != nil {
			return fmt.Errorf("installing: %w", err)
		}
		address, err := (&demo.Cluster{Client: b.kube}).ServiceURL(ctx, w.namespace, shop)
		if err != nil {
			return err
		}
		client := testserver.Client()
		for _, err := testserver.Ask(ctx, client, address); err != nil; _, err = testserver.Ask(ctx, client, address) {
			if err := linger(ctx, pace); err != nil {
				return err
			}
		}
		l := &load{versions: map[string]int{}}
		sending, stop := context.WithCancel(ctx)
		var group sync.WaitGroup
		for range senders {
			group.Go(func() { l.send(sending, address) })
		}
		a.image = versions[1]
		for i := range b.canaries {
			bounded, cancel := context.WithTimeout(ctx, installing)
			_, err = t.start(bounded, a)
			if err == nil {
				_, err = t.controller.Rollback(bounded, rollout.Target{App: shop, Namespace: w.namespace}, 0, "bench", nil)
			}
			cancel()
			if err != nil {
				err = fmt.Errorf("canary %d: %w", i+1, err)
				break
			}
		}
		stop()
		group.Wait()
		if err != nil {
			return err
		}
		if len(l.versions) < 2 {
			return fmt.Errorf("the load did not see both versions: %v", l.versions)
		}
		note := fmt.Sprintf("of %d, over %d canaries and %d rollbacks", l.sent, b.canaries, b.canaries)
		if len(l.failures) > 0 {
			note += "; first: " + l.failures[0]
		}
		found = append(found, result{Who: s.name(), Measure: "failed requests", Value: float64(len(l.failures)), Note: note}.aim(0, ""))
		return nil
	})
	return found, err
}
