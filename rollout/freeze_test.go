package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return when
}

func TestFrozen(t *testing.T) {
	weekend := Window{Cron: "0 16 * * 5", Duration: 64 * time.Hour, Zone: "Europe/Berlin", Reason: "weekend"}
	monday := Window{Cron: "0 8 * * 1", Duration: 2 * time.Hour, Zone: "Europe/Berlin", Reason: "Monday"}
	holidays := Window{From: at(t, "2026-12-20T00:00:00+01:00"), Until: at(t, "2027-01-03T00:00:00+01:00"), Reason: "holidays"}
	always := Window{Cron: "* * * * *", Duration: time.Minute, Reason: "never"}
	for name, c := range map[string]struct {
		windows []Window
		now     string
		until   string // empty: not frozen
		reason  string
	}{
		"before":             {[]Window{weekend}, "2026-11-27T15:59:59+01:00", "", ""},
		"as it begins":       {[]Window{weekend}, "2026-11-27T16:00:00+01:00", "2026-11-30T08:00:00+01:00", "weekend"},
		"within":             {[]Window{weekend}, "2026-11-29T12:00:00Z", "2026-11-30T07:00:00Z", "weekend"},
		"as it ends":         {[]Window{weekend}, "2026-11-30T08:00:00+01:00", "", ""},
		"in summer":          {[]Window{weekend}, "2026-07-03T14:30:00Z", "2026-07-06T06:00:00Z", "weekend"},
		"one after another":  {[]Window{monday, weekend}, "2026-11-29T12:00:00Z", "2026-11-30T10:00:00+01:00", "weekend"},
		"once":               {[]Window{holidays}, "2026-12-24T18:00:00Z", "2027-01-02T23:00:00Z", "holidays"},
		"once, over":         {[]Window{holidays}, "2027-01-02T23:00:00Z", "", ""},
		"no windows":         {nil, "2026-12-24T18:00:00Z", "", ""},
		"minutes are closed": {[]Window{always}, "2026-12-24T18:00:30Z", "2026-12-24T18:10:00Z", "never"}, // as far as is looked
	} {
		t.Run(name, func(t *testing.T) {
			until, reason, frozen := Frozen(c.windows, at(t, c.now))
			require.Equal(t, c.until != "", frozen)
			if frozen {
				require.True(t, until.Equal(at(t, c.until)), "%s", until)
				require.Equal(t, c.reason, reason)
			}
		})
	}
}

func TestWindowsThatMakeNoSense(t *testing.T) {
	day := time.Now()
	for says, w := range map[string]Window{
		"give cron and duration": {},
		"not both":               {Cron: "* * * * *", Duration: time.Hour, From: day},
		"duration 0s":            {Cron: "* * * * *"},
		"Mars/Base":              {Cron: "* * * * *", Duration: time.Hour, Zone: "Mars/Base"},
		"cron":                   {Cron: "61 * * * *", Duration: time.Hour},
		"five fields":            {Cron: "@every 1h", Duration: time.Hour},
		"until must be after":    {From: day, Until: day},
	} {
		require.ErrorContains(t, w.Check(), says)
		require.ErrorIs(t, checkWindows([]Window{w}), ErrInvalid)
	}
}

func TestAFreezeHoldsOnlyWhatHasNotBegun(t *testing.T) {
	now := at(t, "2026-11-28T12:00:00Z")
	record := liveIn(Pending)
	record.Current.Freeze = []Window{{Cron: "0 0 * * 6", Duration: 48 * time.Hour, Reason: "weekend"}}
	a := Decide(record, Observation{}, now)
	require.Equal(t, Wait, a.Kind)
	require.Contains(t, a.Why, "weekend")
	require.True(t, a.Until.Equal(at(t, "2026-11-30T00:00:00Z")))
	require.Equal(t, Advance, Decide(record, Observation{}, a.Until).Kind, "it ends by itself")

	for range 2 {
		record.Command = &Command{Kind: CommandOverride, By: "ann", Comment: "security fix"}
		require.NoError(t, record.obey(now))
		require.True(t, record.Reply.Accepted)
		require.Equal(t, "ann: security fix", record.Current.Override)
	}
	require.Equal(t, Applying, Decide(record, Observation{}, now).Move.To)

	record = liveIn(Canary)
	record.Current.Freeze = []Window{{Cron: "* * * * *", Duration: time.Hour}}
	require.NotContains(t, Decide(record, Observation{}, now).Why, "freeze", "what is under way goes on")
}
