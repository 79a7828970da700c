package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/rollout/health"
)

var states = []State{Pending, Applying, Canary, Preview, Switched, Promoting, Rolling, Finishing, RollingBack, Withdrawing, Verified, RolledBack, Failed, Superseded}

func liveIn(state State) *Record {
	record := &Record{App: "shop", Revisions: 2, Verified: 1, Stable: 1}
	record.Current = &Rollout{Revision: 2, Digest: "d2", State: state, Base: 1, Strategy: Strategy{Kind: CanaryStrategy, Steps: []Step{{Weight: 10}, {Weight: 50}}}}
	switch state {
	case Canary:
		record.Current.Step = 1
	case Preview, Switched:
		record.Current.Strategy = Strategy{Kind: BlueGreenStrategy, BlueGreen: &BlueGreen{}}
		record.Current.Step, record.Current.StepReadyAt = 1, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return record
}

// Every command has an answer with a reason in every state, does what it says,
// and repeated gives no other result.
func TestEveryCommandInEveryState(t *testing.T) {
	after := map[CommandKind]map[State]State{
		CommandPromote: {Canary: Canary, Preview: Switched, Switched: Promoting},
		CommandAbort:   {Pending: RollingBack, Applying: RollingBack, Canary: RollingBack, Preview: RollingBack, Switched: RollingBack, Promoting: RollingBack, Rolling: RollingBack},
		CommandSupersede: {Pending: Withdrawing, Applying: Withdrawing, Canary: Withdrawing, Preview: Withdrawing, Switched: Withdrawing, Promoting: Withdrawing, Rolling: Withdrawing,
			RollingBack: Withdrawing},
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, kind := range []CommandKind{CommandPromote, CommandPause, CommandResume, CommandAbort, CommandSupersede, CommandRetry, CommandRestart, CommandForget, CommandApprove, CommandReject, CommandOverride} {
		for _, state := range states {
			t.Run(string(kind)+" in "+string(state), func(t *testing.T) {
				require.Contains(t, answers[kind], state)
				record := liveIn(state)
				record.Command = &Command{ID: "1", Kind: kind, By: "oncall", Revision: 2}
				require.NoError(t, record.obey(now))
				require.Nil(t, record.Command)
				require.NotEmpty(t, record.Reply.Message)
				want, ok := after[kind][state]
				if !ok {
					want = state
				}
				require.Equal(t, want, record.Current.State)
				if kind == CommandPause {
					require.Equal(t, record.Reply.Accepted, record.Current.Paused)
				}
				require.Equal(t, []Said{{ID: record.Reply.ID, Command: kind, By: "oncall", At: now, Accepted: record.Reply.Accepted, Message: record.Reply.Message}}, record.Current.Said)
				once := *record.Current
				record.Command = &Command{ID: "2", Kind: kind, By: "oncall", Revision: 2}
				require.NoError(t, record.obey(now))
				require.Len(t, record.Current.Said, 2)
				once.Said, record.Current.Said = nil, nil
				if kind != CommandPromote { // which passes one step more
					require.Equal(t, once, *record.Current, "repeats harmlessly")
				}
			})
		}
	}
}

// While the Services are being switched, there is nothing yet that a person
// could have seen to be good.
func TestPromoteWaitsForTheSwitch(t *testing.T) {
	record := liveIn(Switched)
	record.Current.StepReadyAt = time.Time{}
	record.Command = &Command{ID: "1", Kind: CommandPromote, Revision: 2}
	require.NoError(t, record.obey(time.Now()))
	require.False(t, record.Reply.Accepted)
	require.Equal(t, Switched, record.Current.State)
}

func TestCommandForAnotherRevisionIsRefused(t *testing.T) {
	record := liveIn(Canary)
	record.Command = &Command{ID: "1", Kind: CommandAbort, Revision: 1}
	require.NoError(t, record.obey(time.Now()))
	require.False(t, record.Reply.Accepted)
	require.Equal(t, Canary, record.Current.State)
}

func TestPromotionNeedsAPassedGate(t *testing.T) {
	now := time.Now()
	for _, from := range states {
		for to, asks := range transitions[from] {
			if asks != passedGate {
				continue
			}
			r := liveIn(from).Current
			require.Error(t, r.move(Move{To: to, Step: 2}, now), "%s → %s", from, to)
			require.Error(t, r.move(Move{To: to, Step: 2, Proof: &proof{gate: Gate{Passed: false}}}, now))
			require.NoError(t, r.move(Move{To: to, Step: 2, Proof: healthGate(1, "seen", now)}, now))
			require.Len(t, r.Gates, 1)
		}
	}
	for _, state := range states {
		require.Equal(t, state.Final(), len(transitions[state]) == 0, "%s", state)
	}
}

func TestCanarySize(t *testing.T) {
	for _, c := range []struct {
		weight int
		n      int32
		want   int32
	}{{20, 3, 1}, {80, 3, 3}, {50, 10, 5}, {1, 1000, 10}, {10, 0, 1}, {100, 7, 7}, {34, 3, 2}} {
		require.Equal(t, c.want, canarySize(c.weight, c.n), "%d %% of %d", c.weight, c.n)
	}
}

func TestAFailedCanaryIsNotPromotedByTime(t *testing.T) {
	record := liveIn(Canary)
	record.Current.Canaries = append(record.Current.Canaries, shopRef)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	record.Current.StateSince, record.Current.StepReadyAt = now.Add(-time.Hour), now.Add(-time.Hour)
	obs := Observation{
		Workloads: []Workload{{Ref: shopRef, Exists: true, Release: "d1", Replicas: 10}},
		Canaries:  []CanaryWorkload{{Stable: shopRef, Track: CanaryTrack, Release: "d2", Replicas: 1, Health: health.Verdict{Status: health.Failed, Reason: health.CrashLoop, Message: "1 of 1 new pods: crashed"}}},
	}
	a := Decide(record, obs, now)
	require.Equal(t, Advance, a.Kind)
	require.Equal(t, RollingBack, a.Move.To)
	require.Equal(t, health.CrashLoop, a.Move.Failure.Reason)
}

func TestRequestIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Request){
		"name":     func(r *Request) { r.App = "Shop!" },
		"weight":   func(r *Request) { r.Strategy = Strategy{Kind: CanaryStrategy, Steps: []Step{{Weight: 0}}} },
		"no steps": func(r *Request) { r.Strategy = Strategy{Kind: CanaryStrategy} },
		"strategy": func(r *Request) { r.Strategy = Strategy{Kind: "purple"} },
		"release":  func(r *Request) { r.Release = nil },
		"deadline": func(r *Request) { r.Deadline = -1 },
	} {
		r := Request{App: "shop", Namespace: "x"}
		change(&r)
		require.ErrorIs(t, r.check(), ErrInvalid, name)
	}
}

// Commands that begin a rollout of their own do nothing but where it ended.
func TestCommandsThatBeginARollout(t *testing.T) {
	for _, kind := range []CommandKind{CommandRetry, CommandRestart, CommandForget} {
		for _, state := range states {
			record := liveIn(state)
			_, done, err := idle(record, Command{Kind: kind})
			switch {
			case !state.Final():
				require.True(t, done, "%s in %s", kind, state)
				if kind != CommandRetry {
					require.ErrorIs(t, err, ErrRefused, "%s in %s", kind, state)
				}
			case kind == CommandRetry && state == Verified:
				require.True(t, done)
				require.NoError(t, err)
			default:
				require.False(t, done, "%s in %s", kind, state)
			}
		}
	}
	record := liveIn(Failed)
	record.Verified = 0
	_, _, err := idle(record, Command{Kind: CommandRestart})
	require.ErrorContains(t, err, "nothing is verified")
}

func TestARolloutRemembersBoundedCommands(t *testing.T) {
	record := liveIn(Rolling)
	for range 3 * maxSaid {
		record.Command = &Command{Kind: CommandPromote, By: "oncall"}
		require.NoError(t, record.obey(time.Now()))
	}
	require.Len(t, record.Current.Said, maxSaid)
}
