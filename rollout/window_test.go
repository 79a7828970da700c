package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRollbackWindow(t *testing.T) {
	day := 24 * time.Hour
	revision := func(number int, digest string, state State, ago time.Duration) Rollout {
		return Rollout{Revision: number, Digest: digest, State: state, Finished: at2026.Add(-ago), Strategy: Strategy{Kind: RollingStrategy}}
	}
	current := revision(7, "f", Verified, 0)
	record := &Record{Revisions: 7, Verified: 7, Stable: 7, Current: &current, History: []Rollout{
		current, revision(6, "e", RolledBack, day), revision(5, "d", Verified, 2*day), revision(4, "f", Verified, 3*day), // 7 went back to 4
		revision(3, "c", Verified, 10*day), revision(2, "b", Verified, 20*day), revision(1, "a", Verified, 40*day),
	}}
	for name, test := range map[string]struct {
		window *RollbackWindow
		to     int
		says   string
	}{
		"no window":                    {nil, 1, ""},
		"one without bounds":           {&RollbackWindow{}, 1, ""},
		"the last one":                 {&RollbackWindow{Revisions: 1}, 5, ""},
		"the one before":               {&RollbackWindow{Revisions: 1}, 3, "revision 3 is 2 releases back, and 1 are allowed here"},
		"failures are no step":         {&RollbackWindow{Revisions: 2}, 3, ""},
		"nor is the same release":      {&RollbackWindow{Revisions: 3}, 2, ""},
		"too far":                      {&RollbackWindow{Revisions: 3}, 1, "4 releases back"},
		"young enough":                 {&RollbackWindow{Age: 30 * day}, 2, ""},
		"too old":                      {&RollbackWindow{Age: 30 * day}, 1, "was verified 960h0m0s ago, and 720h0m0s is allowed"},
		"both":                         {&RollbackWindow{Revisions: 9, Age: 5 * day}, 3, "240h0m0s ago"},
		"what serves":                  {&RollbackWindow{Revisions: 1, Age: time.Second}, 7, ""},
		"what serves, as it was first": {&RollbackWindow{Revisions: 1}, 4, ""},
	} {
		t.Run(name, func(t *testing.T) {
			record.Window = test.window
			for _, forced := range []bool{false, true} {
				goal, note, err := record.rollbackTarget(test.to, forced, at2026)
				if test.says == "" || forced {
					require.NoError(t, err)
					require.Equal(t, test.to, goal.Revision)
					require.Equal(t, test.says != "", note != "", "that it was forced is written down")
					continue
				}
				require.ErrorIs(t, err, ErrRefused)
				require.ErrorContains(t, err, test.says)
				require.ErrorContains(t, err, "--force")
			}
		})
	}
	record.Window = &RollbackWindow{Age: time.Hour}
	_, _, err := record.rollbackTarget(0, false, at2026)
	require.ErrorContains(t, err, "revision 5 was verified 48h0m0s ago", "without a number, too")
	require.ErrorIs(t, (&RollbackWindow{Age: -1}).check(), ErrInvalid)
}

func TestPathTellsHowLongEachStateTook(t *testing.T) {
	record := liveIn(Canary)
	record.Current.Started = at2026
	require.NoError(t, record.advance(Move{To: RollingBack, Ending: EndedByAbort}, at2026.Add(time.Second)))
	require.NoError(t, record.advance(Move{To: RolledBack}, at2026.Add(3*time.Second)))
	require.Equal(t, []Passage{{State: RollingBack, At: at2026.Add(time.Second)}, {State: RolledBack, At: at2026.Add(3 * time.Second)}}, record.Current.Path)
}
