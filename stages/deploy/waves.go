package deploy

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/waves"
)

// OutputRevisions are the release's numbers where an environment has several
// clusters, such as "eu=7,us=5".
const OutputRevisions = "revisions"

// waves deploys to the clusters of an environment, wave after wave.
func (k *Kind) waves(ctx context.Context, attempt pipeline.Attempt, places []place, requests []rollout.Request) (pipeline.Outputs, error) {
	environment := attempt.Stage.Deploy.Environment
	plan := k.options.Environments[environment].Waves
	clusters := make([]waves.Cluster, len(places))
	for i, at := range places {
		clusters[i] = waves.Cluster{Name: at.cluster, Controller: at.controller, Request: requests[i]}
	}
	if len(plan.Waves) == 0 {
		for _, at := range places {
			plan.Waves = append(plan.Waves, []string{at.cluster})
		}
	}
	attempt.Progress(fmt.Sprintf("deploying %s to %d clusters of %s in %d waves", requests[0].App, len(places), environment, len(plan.Waves)))
	see := func(p waves.Progress) { report(attempt, p.Cluster, p.Progress) }
	result, err := waves.Run(ctx, plan, clusters, see)
	if err != nil && ctx.Err() != nil && takenBack(ctx) {
		return nil, giveUp(ctx, attempt, plan, clusters, see)
	}
	if err != nil {
		for _, at := range places {
			if ended, ok := result[at.cluster]; ok && ended.Failure != nil {
				k.explain(attempt, ended)
			}
		}
		return nil, failure(err)
	}
	revisions := make([]string, len(places))
	for i, at := range places {
		revisions[i] = at.cluster + "=" + strconv.Itoa(result[at.cluster].Revision)
	}
	attempt.Progress(fmt.Sprintf("verified in all %d clusters: %s", len(places), strings.Join(revisions, ", ")))
	return pipeline.Outputs{OutputRevision: strconv.Itoa(result[places[0].cluster].Revision), OutputRelease: requests[0].Release.Digest,
		OutputRevisions: strings.Join(revisions, ",")}, nil
}

// giveUp takes the releases of a cancelled run back in all clusters. The run's
// context has ended, so that this has a bounded one of its own.
func giveUp(ctx context.Context, attempt pipeline.Attempt, plan waves.Plan, clusters []waves.Cluster, see func(waves.Progress)) error {
	cause := pipeline.CauseOf(context.Cause(ctx))
	if cause == pipeline.CauseInfrastructure {
		cause = pipeline.CauseCancelled
	}
	fresh, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	attempt.Progress("cancelled: taking the release back in all clusters")
	_, err := waves.GiveUp(fresh, plan, clusters, "the run was cancelled", see)
	if fresh.Err() != nil {
		return pipeline.Fail(cause, "cancelled, and taking the release back did not end in %s: %w", abortTimeout, err)
	}
	return pipeline.Fail(cause, "cancelled: %w", err)
}
