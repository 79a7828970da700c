package schedule

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
	"github.com/tidegate-ci/tidegate/triggers/inbox/sqlite"
)

var (
	ctx  = context.Background()
	shop = event.Repository{FullName: "octo/shop", DefaultBranch: "main", CloneURL: "https://example.com/octo/shop"}
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ cron, zone, wrong string }{
		{"0 3 * * *", "", ""},
		{"*/15 9-17 * * MON-FRI", "Europe/Berlin", ""},
		{"@daily", "", "five fields"},
		{"@every 1s", "", "five fields"},
		{"TZ=UTC 0 3 * * *", "", "five fields"},
		{"CRON_TZ=0 0 3 * * *", "", "five fields"},
		{"0 3 * *", "", "expected exactly 5 fields"},
		{"61 * * * *", "", "above maximum"},
		{"", "", "cron expression"},
		{"0 3 * * *", "Mars/Olympus", "IANA"},
		{"0 3 * * *", "Local", "IANA"},
		{"0 3 * * *", "../../etc/passwd", "IANA"},
		{strings.Repeat("1,", 500), "", "five fields"},
	} {
		_, err := Parse(c.cron, c.zone)
		if c.wrong == "" {
			require.NoError(t, err, c.cron)
		} else {
			require.ErrorContains(t, err, c.wrong, c.cron)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("0 3 * * *", "Europe/Berlin")
	f.Add("*/5,1-3 * ? JAN-MAR sun", "UTC")
	f.Fuzz(func(t *testing.T, cron, zone string) {
		s, err := Parse(cron, zone)
		if err != nil {
			return
		}
		now := time.Date(2026, 3, 29, 0, 0, 0, 0, time.UTC)
		if next := s.Next(now); !next.IsZero() && !next.After(now) {
			t.Errorf("%q goes back", cron)
		}
	})
}

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func TestDue(t *testing.T) {
	for _, c := range []struct{ name, cron, zone, last, now, want string }{
		{"not yet", "0 3 * * *", "", "2026-11-06T03:00:00Z", "2026-11-07T02:59:59Z", ""},
		{"on time", "0 3 * * *", "", "2026-11-06T03:00:00Z", "2026-11-07T03:00:00Z", "2026-11-07T03:00:00Z"},
		{"missed while down", "0 3 * * *", "", "2026-11-06T03:00:00Z", "2026-11-07T09:00:00Z", "2026-11-07T03:00:00Z"},
		{"many missed: the newest", "*/10 * * * *", "", "2026-11-01T03:00:00Z", "2026-11-07T09:05:00Z", "2026-11-07T09:00:00Z"},
		{"too long ago", "0 3 * * MON", "", "2026-11-02T02:00:00Z", "2026-11-04T09:00:00Z", ""},
		{"zone", "0 3 * * *", "Europe/Berlin", "2026-11-06T03:00:00Z", "2026-11-07T02:30:00Z", "2026-11-07T02:00:00Z"},
		{"clock set back", "0 3 * * *", "", "2026-11-07T03:00:00Z", "2026-11-06T12:00:00Z", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Parse(c.cron, c.zone)
			require.NoError(t, err)
			planned := Due(s, at(c.last), at(c.now))
			if c.want == "" {
				require.True(t, planned.IsZero(), planned)
				return
			}
			require.True(t, planned.Equal(at(c.want)), planned)
		})
	}
}

// However the clock is looked at, each planned time fires at most once, and the
// newest that has come has fired.
func TestDueProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		expression := rapid.SampledFrom([]string{"* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *"}).Draw(t, "cron")
		s, err := Parse(expression, "Europe/Berlin")
		require.NoError(t, err)
		now := at("2026-03-28T12:00:00Z")
		last := now
		fired := map[int64]bool{}
		for range rapid.IntRange(1, 30).Draw(t, "looks") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Hour)).Draw(t, "step")))
			planned := Due(s, last, now)
			if planned.IsZero() {
				continue
			}
			require.False(t, fired[planned.Unix()])
			require.False(t, planned.After(now))
			require.True(t, s.Next(planned).After(now))
			fired[planned.Unix()] = true
			last = planned
		}
	})
}

// memory is an Inbox and a Memory.
type memory struct {
	events []event.Event
	ids    map[string]bool
	fired  map[string]time.Time
	broken atomic.Bool
}

func newMemory() *memory { return &memory{ids: map[string]bool{}, fired: map[string]time.Time{}} }

func (m *memory) Put(_ context.Context, ev event.Event) (bool, error) {
	if m.broken.Load() {
		return false, errors.New("disk full")
	}
	if m.ids[ev.ID] {
		return false, nil
	}
	m.ids[ev.ID] = true
	m.events = append(m.events, ev)
	return true, nil
}

func (m *memory) Fired(_ context.Context, key string) (time.Time, bool, error) {
	at, ok := m.fired[key]
	return at, ok, nil
}

func (m *memory) SetFired(_ context.Context, _, key string, at time.Time) error {
	m.fired[key] = at
	return nil
}

func (m *memory) Keep(_ context.Context, _ string, keys []string) error {
	maps.DeleteFunc(m.fired, func(key string, _ time.Time) bool { return !slices.Contains(keys, key) })
	return nil
}

// nightly is at 03:00; synctest begins at midnight, 2000-01-01 UTC.
var nightly = Schedule{Pipeline: ".tidegate.yaml", Cron: "0 3 * * *"}

func TestRunFiresOnTimeOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		live := func(d time.Duration, schedules ...Schedule) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			s := New(m, m, nil, nil)
			require.NoError(t, s.Set(ctx, shop, schedules))
			require.NoError(t, s.Run(ctx))
		}
		live(72*time.Hour+time.Minute, nightly)
		require.Len(t, m.events, 3)
		require.Equal(t, "schedule:octo/shop|.tidegate.yaml|0 3 * * *|UTC:2000-01-01T03:00:00Z", m.events[0].ID)
		require.Equal(t, event.Event{
			ID: m.events[0].ID, Forge: "schedule", Kind: event.Schedule, Repository: shop, Ref: "refs/heads/main", Branch: "main",
			Actor: "schedule", Trust: event.Own, Schedule: "0 3 * * *", ReceivedAt: at("2000-01-01T03:00:00Z"),
		}, m.events[0])

		live(time.Hour, nightly) // a restart before the next time: nothing
		require.Len(t, m.events, 3)
		time.Sleep(50 * time.Hour) //nolint:forbidigo // the bubble's clock: down over two nights: the newer is made up for, once
		live(time.Minute, nightly)
		live(time.Minute, nightly)
		require.Len(t, m.events, 4)
		require.Contains(t, m.events[3].ID, "2000-01-06T03:00:00Z")

		live(time.Minute) // taken out of the file
		require.Empty(t, m.fired)
	})
}

func TestStoreThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		ctx, cancel := context.WithCancel(t.Context())
		s := New(m, m, nil, nil)
		require.NoError(t, s.Set(ctx, shop, []Schedule{nightly}))
		m.broken.Store(true)
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(4 * time.Hour) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		require.Empty(t, m.events)
		m.broken.Store(false)
		time.Sleep(retryDelay) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		require.Len(t, m.events, 1)
		cancel()
		require.NoError(t, <-ended)
	})
}

func TestSetRefusesAsAWhole(t *testing.T) {
	m := newMemory()
	s := New(m, m, nil, nil)
	require.NoError(t, s.Set(ctx, shop, []Schedule{nightly}))
	require.ErrorContains(t, s.Set(ctx, shop, []Schedule{{Pipeline: "x", Cron: "nonsense"}}), "x: cron expression")
	require.Len(t, s.Next("octo/shop"), 1)
	require.ErrorContains(t, s.Set(ctx, event.Repository{FullName: "octo/new"}, []Schedule{nightly}), "default branch")
	require.Error(t, s.Set(ctx, shop, make([]Schedule, maxSchedules+1)))
}

// The real store takes the events and remembers, over a restart.
func TestWithTheInbox(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox.db")
	now := at("2026-11-06T02:00:00Z")
	clock := func() time.Time { return now }
	for _, c := range []struct {
		now    string
		events int
	}{{"2026-11-06T02:00:00Z", 0}, {"2026-11-06T05:00:00Z", 1}, {"2026-11-06T06:00:00Z", 1}, {"2026-11-07T06:00:00Z", 2}} {
		now = at(c.now)
		store, err := sqlite.Open(ctx, path, sqlite.Options{})
		require.NoError(t, err)
		s := New(store, store, clock, nil)
		require.NoError(t, s.Set(ctx, shop, []Schedule{nightly}))
		s.fireDue(ctx)
		list, err := store.List(ctx, inbox.Filter{})
		require.NoError(t, err)
		require.Len(t, list, c.events)
		require.NoError(t, store.Close())
	}
	// Taken out of the file and put back a day later, it is new.
	for i, schedules := range [][]Schedule{nil, {nightly}} {
		now = at("2026-11-07T06:00:00Z").Add(time.Duration(i) * 24 * time.Hour)
		store, err := sqlite.Open(ctx, path, sqlite.Options{})
		require.NoError(t, err)
		s := New(store, store, clock, nil)
		require.NoError(t, s.Set(ctx, shop, schedules))
		s.fireDue(ctx)
		list, err := store.List(ctx, inbox.Filter{})
		require.NoError(t, err)
		require.Len(t, list, 2)
		require.NoError(t, store.Close())
	}
}
