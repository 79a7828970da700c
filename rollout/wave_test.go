package rollout

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// wavesAround are a custom resource that comes before the Deployment of planned
// and a workload that comes after it.
const wavesAround = `---
apiVersion: example.com/v1
kind: Database
metadata: {name: db, annotations: {tidegate.dev/wave: "-1"}}
spec: {size: 3}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: front, annotations: {tidegate.dev/after: deployment/shop}}
spec:
  selector: {matchLabels: {app: front}}
  template:
    metadata: {labels: {app: front}}
    spec: {containers: [{name: front, image: "r/front@sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"}]}
`

func TestArrangeWaves(t *testing.T) {
	base := releaseOf(t, planned)
	front := strings.Replace(wavesAround, "cccc", "dddd", 1)
	both := releaseOf(t, planned+wavesAround)
	canary := Strategy{Kind: CanaryStrategy, Steps: []Step{{Weight: 10}}}
	names := func(refs []manifest.Ref) (found []string) {
		for _, ref := range refs {
			found = append(found, ref.Name)
		}
		return found
	}

	r := &Rollout{Strategy: Strategy{Kind: RollingStrategy}}
	notes, err := r.arrange(both, base, false)
	require.NoError(t, err)
	require.Empty(t, notes)
	require.Len(t, r.Waves, 3)
	require.Equal(t, []string{"db"}, names(r.Waves[0]))
	require.Equal(t, []string{"shop"}, names(r.Waves[1]))
	require.Equal(t, []string{"front"}, names(r.Waves[2]))

	r = &Rollout{Strategy: canary}
	_, err = r.arrange(releaseOf(t, plannedNext+wavesAround), both, false)
	require.NoError(t, err)
	require.Equal(t, 1, r.CanaryWave)
	require.Equal(t, []string{"shop"}, names(r.Canaries))

	r = &Rollout{Strategy: canary}
	notes, err = r.arrange(releaseOf(t, plannedNext+front), both, false)
	require.NoError(t, err)
	require.Equal(t, 2, r.CanaryWave, "the last wave with a workload that changes")
	require.Equal(t, []string{"front"}, names(r.Canaries))
	require.Equal(t, []string{"Deployment/shop changes in a wave before that of the canary: it is updated by rolling, with its gate"}, notes)

	_, err = (&Rollout{Strategy: Strategy{Kind: BlueGreenStrategy, BlueGreen: &BlueGreen{}}}).arrangeWaves(releaseOf(t, plannedNext+wavesAround), both)
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "3 waves")

	r = &Rollout{}
	_, err = r.arrange(base, nil, false)
	require.NoError(t, err)
	require.Nil(t, r.Waves)
	require.Empty(t, r.waveText())
	require.True(t, r.lastWave())
}

func TestWhatIsWrittenWithAWave(t *testing.T) {
	release := releaseOf(t, planned+wavesAround)
	r := &Rollout{State: Applying}
	_, err := r.arrangeWaves(release, nil)
	require.NoError(t, err)
	written := func(index waveIndex) (waves [][]string) {
		for r.Wave = range r.Waves {
			var names []string
			for _, ref := range release.Refs() {
				if index.due(r, ref) {
					names = append(names, ref.Kind)
				}
			}
			waves = append(waves, names)
		}
		return waves
	}
	forward := [][]string{{"Secret", "ConfigMap", "Database"}, {"Service", "Deployment"}, {"Deployment"}}
	require.Equal(t, forward, sorted(written(indexWaves(release, false))))
	r.reverseWaves()
	require.Equal(t, "front", r.Waves[0][0].Name)
	require.Equal(t, [][]string{{"Secret", "ConfigMap", "Deployment"}, {"Service", "Deployment"}, {"Database"}}, sorted(written(indexWaves(release, true))), "what pods need comes first all the same")

	index := indexWaves(release, false)
	r.State, r.Wave = RollingBack, 2
	require.False(t, index.restored(r, r.Waves[1][0]))
	require.True(t, index.restored(r, manifest.Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: "x", Name: "any"}))
	require.True(t, index.restored(r, manifest.Ref{APIVersion: "v1", Kind: "Service", Namespace: "x", Name: "gone"}), "what the release does not have goes back first")
}

// sorted puts ConfigMaps behind Secrets, whose order is that of the files.
func sorted(waves [][]string) [][]string {
	for _, wave := range waves {
		for i := 1; i < len(wave); i++ {
			if wave[i] == "Secret" && wave[i-1] == "ConfigMap" {
				wave[i], wave[i-1] = wave[i-1], wave[i]
			}
		}
	}
	return waves
}
