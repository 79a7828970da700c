package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/rollout/health"
)

func TestHeld(t *testing.T) {
	until, deadline := at2026.Add(time.Minute), at2026.Add(2*time.Minute)
	workload := func(status health.Status, release string) Workload {
		return Workload{Ref: shopRef, Exists: true, Release: release, Health: health.Verdict{Status: status, Message: "as told"}}
	}
	ready := workload(health.Ready, "d")
	rechecked := workload(health.Progressing, "d")
	rechecked.Health.Recheck = at2026.Add(5 * time.Second)
	for name, test := range map[string]struct {
		now  time.Duration
		w    Workload
		next time.Duration // from at2026; 0: it is over
		err  error
	}{
		"all is well":          {0, ready, time.Minute, nil},
		"to its end":           {time.Minute, ready, 0, nil},
		"a blip":               {30 * time.Second, workload(health.Degraded, "d"), time.Minute, nil},
		"looked at again":      {0, rechecked, 5 * time.Second, nil},
		"a blip at its end":    {time.Minute, workload(health.Progressing, "d"), 2 * time.Minute, nil},
		"never well again":     {2 * time.Minute, workload(health.Progressing, "d"), 0, ErrFailed},
		"it fails":             {time.Second, workload(health.Failed, "d"), 0, ErrFailed},
		"it fails at its end":  {time.Minute, workload(health.Failed, "d"), 0, ErrFailed},
		"somebody replaced it": {time.Second, workload(health.Ready, "other"), 0, ErrSuperseded},
		"it is gone":           {time.Second, Workload{Ref: shopRef}, 0, ErrFailed},
	} {
		t.Run(name, func(t *testing.T) {
			next, err := judgeHeld(Observation{Workloads: []Workload{ready, test.w}}, "d", until, deadline, at2026.Add(test.now))
			require.ErrorIs(t, err, test.err)
			if test.next == 0 {
				require.Zero(t, next)
				return
			}
			require.Equal(t, at2026.Add(test.next), next)
		})
	}
}
