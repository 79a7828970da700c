package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func entering() *Record {
	record := liveIn(Pending)
	record.Current.Entry = entryGate(&ApprovalGate{From: []string{"ops"}, Message: "wave 2 of 3"}, time.Hour)
	record.Current.StateSince = at2026
	record.Current.Started = at2026
	return record
}

var at2026 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestNothingBeginsBeforeItIsLetIn(t *testing.T) {
	record := entering()
	a := Decide(record, Observation{}, at2026)
	require.Equal(t, Wait, a.Kind)
	require.True(t, a.Held)
	require.Equal(t, at2026.Add(time.Hour), a.Until)
	require.Contains(t, a.Why, "approval entry: waits for ops: wave 2 of 3")

	record.Command = &Command{Kind: CommandApprove, By: "eve"}
	require.NoError(t, record.obey(at2026))
	require.False(t, record.Reply.Accepted)
	require.Contains(t, record.Reply.Message, "eve may not decide")
	require.Equal(t, Wait, Decide(record, Observation{}, at2026).Kind)

	for range 2 { // repeats harmlessly
		record.Command = &Command{Kind: CommandApprove, By: "ann", Groups: []string{"ops"}}
		require.NoError(t, record.obey(at2026))
		require.True(t, record.Reply.Accepted, record.Reply.Message)
	}
	a = Decide(record, Observation{}, at2026)
	require.Equal(t, Applying, a.Move.To)
	require.NoError(t, record.advance(*a.Move, at2026))
	require.Equal(t, []Gate{{Kind: "approval entry", Passed: true, Evidence: "approved by ann", By: "ann", At: at2026}}, record.Current.Gates)
	record.Command = &Command{Kind: CommandReject, By: "ops"}
	require.NoError(t, record.obey(at2026))
	require.False(t, record.Reply.Accepted, "it has begun")
}

func TestWhatIsNotLetInChangesNothing(t *testing.T) {
	record := entering()
	record.Command = &Command{Kind: CommandReject, By: "ops", Comment: "not today"}
	require.NoError(t, record.obey(at2026))
	a := Decide(record, Observation{}, at2026)
	require.NoError(t, record.advance(*a.Move, at2026))
	require.Equal(t, Failed, record.Current.State)
	require.Equal(t, GateFailed, record.Current.Failure.Reason)
	require.Contains(t, record.Current.Failure.Message, "not today")
	require.Equal(t, 1, record.Stable, "nothing was written")

	record = entering()
	a = Decide(record, Observation{}, at2026.Add(time.Hour))
	require.NoError(t, record.advance(*a.Move, at2026.Add(time.Hour)))
	require.Equal(t, GateInconclusive, record.Current.Failure.Reason)
}

func TestAnEntryHoldsNoHookBack(t *testing.T) {
	record := entering()
	record.Current.Hooks = []Hook{{Name: "migrate", Phase: BeforeHook}}
	require.Equal(t, Wait, Decide(record, Observation{}, at2026).Kind, "not even its hooks begin")
	record.Command = &Command{Kind: CommandApprove, By: "ops"}
	require.NoError(t, record.obey(at2026))
	require.Equal(t, BeginHook, Decide(record, Observation{}, at2026).Kind)
}
