package deploy

import (
	"context"
	"errors"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
)

// running is an attempt that runs in this process, and where.
type running struct {
	places  []place
	targets []rollout.Target
	runID   string
}

// enter notes a running attempt until the function that it returns is called.
func (k *Kind) enter(attempt pipeline.Attempt, places []place) func() {
	r := &running{places: places}
	for _, at := range places {
		var goal rollout.Target
		goal, r.runID = target(attempt, at.namespace)
		r.targets = append(r.targets, goal)
	}
	key := attempt.RunID + "/" + attempt.Stage.ID
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running[key] = r
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.running[key] == r {
			delete(k.running, key)
		}
	}
}

// Answer gives a person's answer to the approvals that the rollout of a running
// stage waits for, in every cluster where it does. Whether they are asked is the
// rollout's to say: an error of pipeline.CauseRefused carries its reason.
func (k *Kind) Answer(ctx context.Context, run, stage string, decision pipeline.Decision) error {
	k.mu.Lock()
	r := k.running[run+"/"+stage]
	k.mu.Unlock()
	if r == nil {
		return pipeline.Fail(pipeline.CauseRefused, "stage %q of run %s does not run here now: its rollout waits for nobody", stage, run)
	}
	answered, last := false, "nothing has begun yet"
	for i, at := range r.places {
		record, _, err := at.controller.Status(ctx, r.targets[i])
		if errors.Is(err, rollout.ErrNotFound) {
			continue
		}
		if err != nil {
			return failure(err)
		}
		mine := record.ByRun(r.runID)
		if mine == nil || !record.Live() || mine.Revision != record.Current.Revision {
			continue
		}
		if last = mine.Sentence(); len(mine.OpenApprovals()) == 0 {
			continue
		}
		give := at.controller.Approve
		if !decision.Approved {
			give = at.controller.Reject
		}
		if _, err := give(ctx, r.targets[i], decision.By, "", decision.Comment, nil); err != nil {
			return failure(err)
		}
		answered = true
	}
	if !answered {
		return pipeline.Fail(pipeline.CauseRefused, "the rollout of stage %q waits for nobody's approval now: %s", stage, last)
	}
	return nil
}
