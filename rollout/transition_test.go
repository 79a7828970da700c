package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"
)

// Whatever happens in whatever order, each receiver hears every transition
// since it was named, once and in order, as long as no more wait than fit.
func TestOutbox(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		record := &Record{App: "shop", Current: &Rollout{Revision: 1, State: Pending, Strategy: Strategy{Kind: RollingStrategy}}}
		all := []string{"chat", "audit", "forge"}
		heard := map[string]int64{}
		var now []string
		for range rapid.IntRange(1, 200).Draw(t, "actions") {
			switch rapid.IntRange(0, 5).Draw(t, "action") {
			case 0:
				names := slices.DeleteFunc(slices.Clone(all), func(string) bool { return rapid.Bool().Draw(t, "leaves") })
				before := record.Outbox
				record.subscribe(names, func() string { return "id" })
				if !record.subscribed(names) {
					t.Fatal("not subscribed to what was subscribed to")
				}
				for _, name := range names {
					if !slices.Contains(now, name) || before == nil {
						heard[name] = record.Outbox.Sequence // what came before is not its business
					}
				}
				now = names
			case 1, 2, 3:
				for range rapid.SampledFrom([]int{1, 1, 2, MaxOutbox}).Draw(t, "moves") {
					record.note(Pending, time.Time{})
				}
			default:
				if len(now) == 0 {
					continue
				}
				name := rapid.SampledFrom(now).Draw(t, "receiver")
				untold := slices.Clone(record.Outbox.untold(name))
				for _, transition := range untold[:rapid.IntRange(0, len(untold)).Draw(t, "told")] {
					lost := transition.Sequence - heard[name] - 1
					if lost < 0 || lost > 0 && record.Outbox.Sequence-heard[name] <= MaxOutbox {
						t.Fatalf("%s hears %d after %d", name, transition.Sequence, heard[name])
					}
					heard[name] = transition.Sequence
					if !record.Outbox.mark(name, transition.Sequence) || record.Outbox.mark(name, transition.Sequence) {
						t.Fatal("news once, and once only")
					}
				}
			}
			if record.Outbox == nil {
				continue
			}
			if len(record.Outbox.Transitions) > MaxOutbox {
				t.Fatalf("%d wait", len(record.Outbox.Transitions))
			}
			all := true
			for _, name := range now {
				all = all && heard[name] == record.Outbox.Sequence
			}
			if all && len(record.Outbox.Transitions) > 0 {
				t.Fatal("everybody was told everything, and it is still kept")
			}
		}
	})
}

func TestEveryMoveIsNoted(t *testing.T) {
	record := liveIn(Canary)
	record.subscribe([]string{"chat"}, func() string { return "id" })
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	failure := &Failure{Reason: "CrashLoop", Message: "it crashes"}
	require.NoError(t, record.advance(Move{To: RollingBack, Ending: EndedByFailure, Failure: failure}, now))
	require.NoError(t, record.advance(Move{To: RolledBack}, now))
	require.Error(t, record.advance(Move{To: Verified}, now), "no such way")
	require.Equal(t, []Transition{
		{Sequence: 1, Revision: 2, From: Canary, To: RollingBack, At: now, Text: "revision 2 is being rolled back: it crashes", Reason: "CrashLoop"},
		{Sequence: 2, Revision: 2, From: RollingBack, To: RolledBack, At: now, Text: "revision 2 was rolled back to revision 1: it crashes", Reason: "CrashLoop"},
	}, record.Outbox.Transitions)
	n := record.notification(record.Outbox.Transitions[1])
	require.Equal(t, "id-2", n.ID)
	require.Equal(t, "id-r2", n.Rollout)
	require.Equal(t, failure, n.Failure)
	require.Equal(t, EndedByFailure, n.Ending)
	require.Equal(t, 1, n.Base)
}

// fakeReceiver hears what it is told, and fails as the test wants.
type fakeReceiver struct {
	name string
	fail func(n Notification, try int) error

	mu    sync.Mutex
	tries map[int64]int
	heard []int64
}

func (f *fakeReceiver) Name() string { return f.name }

func (f *fakeReceiver) Tell(_ context.Context, n Notification) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tries == nil {
		f.tries = map[int64]int{}
	}
	f.tries[n.Sequence]++
	if f.fail != nil {
		if err := f.fail(n, f.tries[n.Sequence]); err != nil {
			return err
		}
	}
	f.heard = append(f.heard, n.Sequence)
	return nil
}

// A receiver that is away holds up no other, and hears all of it in order when
// it is back; what it can never take is left out.
func TestCouriers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		well := &fakeReceiver{name: "well"}
		away := &fakeReceiver{name: "away", fail: func(n Notification, try int) error {
			switch {
			case n.Sequence == 2:
				return fmt.Errorf("%w: no such place", ErrUndeliverable)
			case try < 4:
				return errors.New("away")
			}
			return nil
		}}
		receivers := []Receiver{well, away}
		record := liveIn(Canary)
		record.subscribe(namesOf(receivers), func() string { return "id" })
		c := newCouriers(receivers, record, time.Now, zap.NewNop())
		defer c.stop()
		start := time.Now()
		for range 3 {
			record.note(Canary, time.Now())
			for _, one := range c.all {
				one.offer(record)
				one.offer(record) // again is no matter
			}
		}
		synctest.Wait()
		require.Equal(t, []int64{1, 2, 3}, well.heard)
		require.Empty(t, away.heard)
		c.collect(record)
		require.Equal(t, map[string]int64{"well": 3, "away": 0}, record.Outbox.Told)
		require.Len(t, record.Outbox.Transitions, 3)

		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		c.flush(ctx)
		require.Equal(t, []int64{1, 3}, away.heard)
		require.Equal(t, 14*time.Second, time.Since(start), "1, 2 and 4 s for each of the two")
		c.collect(record)
		require.Empty(t, record.Outbox.Transitions)
	})
}

// What is recorded as untold is told by the next process, and what is too old by nobody.
func TestCouriersGoOnWhereAnotherStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		receiver := &fakeReceiver{name: "chat"}
		record := liveIn(Canary)
		record.subscribe([]string{"chat"}, func() string { return "id" })
		record.note(Canary, time.Now())
		record.note(Canary, time.Now())
		record.Outbox.mark("chat", 1)
		time.Sleep(MaxOutboxAge) //nolint:forbidigo // the bubble's clock
		record.note(Canary, time.Now())
		c := newCouriers([]Receiver{receiver}, record, time.Now, zap.NewNop())
		defer c.stop()
		c.all[0].offer(record)
		synctest.Wait()
		require.Equal(t, []int64{3}, receiver.heard)
		c.collect(record)
		require.Empty(t, record.Outbox.Transitions)
	})
}
