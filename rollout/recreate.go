package rollout

import (
	"fmt"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// recreatePlan refuses what cannot be recreated and says what the strategy costs.
func recreatePlan(release, base *manifest.Release) (note string, err error) {
	if base == nil {
		return "", nil // nothing runs that could be away for a while
	}
	for _, kind := range []string{"StatefulSet", "DaemonSet"} {
		if refs := changed(release, base, kind); len(refs) > 0 {
			return "", fmt.Errorf("%w: %s changes, and its controller replaces pods one after the other, so that versions run side by side; use strategy rolling for this release", ErrInvalid, refs[0])
		}
	}
	if len(changed(release, base, "Deployment")) == 0 {
		return "", nil
	}
	return "recreate has an outage: nothing serves from the end of the old pods until the first new one is ready", nil
}
