package deploy

import (
	"context"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// leftoverRetry is how long a cluster that can't be watched is left alone.
const leftoverRetry = time.Minute

// TellLeftovers tells the receivers of every environment what processes that
// are gone left untold, until ctx ends.
func (k *Kind) TellLeftovers(ctx context.Context) error {
	var watching errgroup.Group
	for _, environment := range slices.Sorted(maps.Keys(k.options.Environments)) {
		e := k.options.Environments[environment]
		for _, c := range e.clusters() {
			if k.options.Receivers == nil || len(k.options.Receivers(environment, c.Name)) == 0 {
				continue
			}
			watching.Go(func() error { k.tellLeftovers(ctx, environment, e, c); return nil })
		}
	}
	return watching.Wait()
}

func (k *Kind) tellLeftovers(ctx context.Context, environment string, e Environment, c Cluster) {
	for ctx.Err() == nil {
		at, err := k.place(environment, e, c)
		if err == nil {
			err = at.controller.TellLeftovers(ctx, at.namespace)
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		k.options.Log.Warn("notifications that are left are not looked for", zap.String("environment", environment), zap.String("cluster", c.Name), zap.Error(err))
		timer := time.NewTimer(leftoverRetry)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}
