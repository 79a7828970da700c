package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
)

func TestADeadlineStandsStillWhileItIsPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := pipeline.Fail(pipeline.CauseTimeout, "timed out after 1m")
		ctx, d, stop := withDeadline(t.Context(), time.Minute, why)
		defer stop()
		time.Sleep(40 * time.Second) //nolint:forbidigo // the bubble's clock
		for range 2 {                // said again is no matter
			d.pause(true)
		}
		time.Sleep(24 * time.Hour) //nolint:forbidigo // the bubble's clock
		require.NoError(t, ctx.Err())
		d.pause(false)
		d.pause(false)
		time.Sleep(19 * time.Second) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		require.NoError(t, ctx.Err())
		time.Sleep(2 * time.Second) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		require.Equal(t, why, context.Cause(ctx))

		ctx, d, stop = withDeadline(t.Context(), time.Second, why)
		d.pause(true)
		stop()
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		require.Equal(t, context.Canceled, context.Cause(ctx), "no timeout after its end")
	})
}
