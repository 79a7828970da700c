package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
	"github.com/tidegate-ci/tidegate/triggers/inbox/sqlite"
)

func put(t testing.TB, store inbox.Store, id, repository, ref string) {
	t.Helper()
	stored, err := store.Put(ctx, event.Event{ID: id, Repository: event.Repository{FullName: repository}, Ref: ref, ReceivedAt: time.Now()})
	require.NoError(t, err)
	require.True(t, stored)
}

// run processes until until returns true, then stops and waits.
func run(t testing.TB, p inbox.Processor, until <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	select {
	case <-until:
	case <-ctx.Done():
		t.Error("the events were not all handled")
	}
	cancel()
	require.NoError(t, <-ended)
}

func TestProcessKeepsOrderWithinARef(t *testing.T) {
	store := openStore(t, sqlite.Options{})
	for i := range 10 {
		put(t, store, fmt.Sprintf("a%d", i), "octo/shop", "refs/heads/main")
		put(t, store, fmt.Sprintf("b%d", i), "octo/shop", "refs/heads/other")
	}
	var (
		mu    sync.Mutex
		order = map[string][]string{}
		fails = map[string]int{"a3": 2, "b0": 1}
		left  = 20
		done  = make(chan struct{})
	)
	run(t, inbox.Processor{
		Store: store, FirstDelay: time.Millisecond, MaxDelay: 2 * time.Millisecond,
		Handle: func(_ context.Context, ev event.Event) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			if fails[ev.ID] > 0 {
				fails[ev.ID]--
				return "", errors.New("the forge is away")
			}
			order[ev.Ref] = append(order[ev.Ref], ev.ID)
			if left--; left == 0 {
				close(done)
			}
			return "run of " + ev.ID, nil
		},
	}, done)
	for prefix, ref := range map[string]string{"a": "refs/heads/main", "b": "refs/heads/other"} {
		var want []string
		for i := range 10 {
			want = append(want, fmt.Sprintf("%s%d", prefix, i))
		}
		require.Equal(t, want, order[ref])
	}
	record, err := store.Get(ctx, "a3")
	require.NoError(t, err)
	require.Equal(t, inbox.Done, record.Status)
	require.Equal(t, 2, record.Attempts)
	require.Equal(t, "run of a3", record.Note)
}

func TestGivenUpAndRedelivered(t *testing.T) {
	store := openStore(t, sqlite.Options{})
	put(t, store, "poison", "octo/shop", "refs/heads/main")
	put(t, store, "panics", "octo/shop", "refs/heads/other")
	put(t, store, "after", "octo/shop", "refs/heads/main")
	done := make(chan struct{})
	handle := func(_ context.Context, ev event.Event) (string, error) {
		switch ev.ID {
		case "poison":
			return "", inbox.Permanent(errors.New("no such thing"))
		case "panics":
			panic("oops")
		}
		return "", nil
	}
	wait := func() {
		// Polls the durable state; the processor runs meanwhile.
		defer close(done)
		for _, id := range []string{"poison", "panics", "after"} {
			assert.Eventually(t, func() bool {
				record, err := store.Get(ctx, id)
				return err != nil || record.Status != inbox.Pending
			}, time.Minute, time.Millisecond)
		}
	}
	go wait()
	run(t, inbox.Processor{Store: store, Handle: handle, MaxAttempts: 3, FirstDelay: time.Millisecond}, done)

	poison, err := store.Get(ctx, "poison")
	require.NoError(t, err)
	require.Equal(t, inbox.Dead, poison.Status)
	require.Equal(t, "no such thing", poison.Note)
	panics, err := store.Get(ctx, "panics")
	require.NoError(t, err)
	require.Equal(t, inbox.Dead, panics.Status)
	require.Contains(t, panics.Note, "panicked: oops")
	after, err := store.Get(ctx, "after")
	require.NoError(t, err)
	require.Equal(t, inbox.Done, after.Status)

	require.NoError(t, store.Redeliver(ctx, "poison", time.Now()))
	require.ErrorContains(t, store.Redeliver(ctx, "poison", time.Now()), "pending already")
	require.ErrorIs(t, store.Redeliver(ctx, "nobody", time.Now()), inbox.ErrNotFound)
	again := make(chan struct{})
	run(t, inbox.Processor{Store: store, Handle: func(context.Context, event.Event) (string, error) {
		close(again)
		return "second time", nil
	}}, again)
	poison, err = store.Get(ctx, "poison")
	require.NoError(t, err)
	require.Equal(t, inbox.Done, poison.Status)
}

func TestStopLeavesEventsPending(t *testing.T) {
	store := openStore(t, sqlite.Options{})
	put(t, store, "slow", "octo/shop", "refs/heads/main")
	started := make(chan struct{})
	run(t, inbox.Processor{Store: store, Handle: func(ctx context.Context, _ event.Event) (string, error) {
		close(started)
		<-ctx.Done()
		return "", ctx.Err()
	}}, started)
	record, err := store.Get(ctx, "slow")
	require.NoError(t, err)
	require.Equal(t, inbox.Pending, record.Status)
	require.Zero(t, record.Attempts)
}

func TestDecide(t *testing.T) {
	failed := errors.New("failed")
	for _, c := range []struct {
		err     error
		attempt int
		want    inbox.Outcome
	}{
		{failed, 1, inbox.Outcome{Delay: time.Second}},
		{failed, 3, inbox.Outcome{Delay: 4 * time.Second}},
		{failed, 9, inbox.Outcome{Delay: time.Minute}},
		{failed, 10, inbox.Outcome{GiveUp: true}},
		{fmt.Errorf("wrapped: %w", inbox.Permanent(failed)), 1, inbox.Outcome{GiveUp: true}},
	} {
		require.Equal(t, c.want, inbox.Decide(c.err, c.attempt, 10, time.Second, time.Minute))
	}
}
